"""Progress of a fit: one line on the terminal, and scikit-learn's callbacks.

The callback interface of scikit-learn is still experimental: all that touches it is
here.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
from sklearn.callback import with_callbacks as with_callbacks

N_TICKS = 100


class LossRecorder:
    """Averages losses over hundredths of a training, waiting for the device only then.

    Parameters
    ----------
    earlier : dict of str to ndarray
        The curve to continue.
    """

    def __init__(self, earlier: dict[str, np.ndarray]) -> None:
        self.rows = {name: list(values) for name, values in earlier.items()}
        self.waiting: list[dict[str, Any]] = []
        self.tick = 0

    def add(self, losses: dict[str, Any]) -> None:
        """Take the losses of a step, as tensors."""
        self.waiting.append(losses)

    def is_due(self, fraction: float) -> bool:
        """Whether another hundredth is done."""
        if int(fraction * N_TICKS) == self.tick:
            return False
        self.tick = int(fraction * N_TICKS)
        return True

    def record(self, n_images: int) -> dict[str, float]:
        """Close a point of the curve at ``n_images``; returns its mean losses."""
        names = sorted({name for losses in self.waiting for name in losses})
        means = {
            name: _mean([float(k[name]) for k in self.waiting if name in k])
            for name in names
        }
        self.waiting.clear()
        length = len(self.rows.get("n_images", []))
        for name, value in {"n_images": n_images, **means}.items():
            values = self.rows.setdefault(name, [])
            values += [np.nan] * (length - len(values))
            values.append(value)
        return means

    def state(self) -> dict[str, Any]:
        """Return all that later points depend on."""
        waiting = [{k: float(v) for k, v in losses.items()} for losses in self.waiting]
        return {"rows": self.rows, "waiting": waiting}

    def load_state(self, state: dict[str, Any], fraction: float) -> None:
        """Continue from what `state` returned, at this fraction of the training."""
        self.rows, self.waiting = state["rows"], state["waiting"]
        self.tick = int(fraction * N_TICKS)

    def curve(self) -> dict[str, np.ndarray]:
        """Return the points so far, one array a loss; NaN where it was not measured."""
        length = len(self.rows.get("n_images", []))
        return {
            name: np.array(values + [np.nan] * (length - len(values)))
            for name, values in self.rows.items()
        }


def _mean(losses: list[float]) -> float:
    """Mean of those that are finite: steps of others were dropped."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return float(np.mean(finite)) if finite else math.nan


class TrainingProgress:
    """Tells callbacks and the terminal how far a fit is.

    Parameters
    ----------
    estimator : estimator with CallbackSupportMixin
        The estimator in its fit.
    context : CallbackContext or None
        What ``estimator._init_callback_context(max_subtasks=N_TICKS)`` returned.
    verbose : bool
        Whether to print a line.
    """

    def __init__(self, estimator: Any, context: Any, *, verbose: bool) -> None:
        self.estimator, self.context = estimator, context
        self.line = progress_line(verbose)
        self.start = time.perf_counter()
        self.n_before = getattr(estimator, "n_images_seen_", 0)
        self.fraction_before = 0.0
        self.n_ticks = 0
        self.losses: dict[str, float] = {}

    def update(
        self, fraction: float, n_images: int, losses: dict[str, float], augment_p: float
    ) -> bool:
        """Tell that ``fraction`` is done; returns whether a callback asks to stop."""
        seconds = time.perf_counter() - self.start
        speed = (n_images - self.n_before) / max(seconds, 1e-9)
        left = seconds * (1 - fraction) / max(fraction - self.fraction_before, 1e-9)
        self.losses |= losses  # not every step has all of them
        self.line(fraction, _text(n_images, speed, left, self.losses, augment_p))
        stop = False
        while self.n_ticks < int(fraction * N_TICKS):
            self.n_ticks += 1
            if self.context is not None:
                task = self.context.subcontext(task_name="images")
                task.call_on_fit_task_begin(estimator=self.estimator)
                stop |= task.call_on_fit_task_end(estimator=self.estimator)
        return stop

    def close(self) -> None:
        """End the line."""
        self.line.close()


def _text(
    n_images: int,
    speed: float,
    seconds_left: float,
    losses: dict[str, float],
    augment_p: float,
) -> str:
    # Short enough for a terminal of 80 columns.
    shown = {"contrast": "contrast", "discriminator": "D", "generator": "G"}
    parts = [
        f"{n_images:,} images",
        f"{speed:.0f}/s",
        f"{seconds_left / 60:.1f} min left",
        *(f"{shown[name]} {losses[name]:.2f}" for name in shown if name in losses),
        f"augment {augment_p:.2f}",
    ]
    return " ".join(parts)


class _Silent:
    def __call__(self, fraction: float, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Plain:
    """A printed line every tenth of the way, for logs and without rich."""

    def __init__(self) -> None:
        self.printed = 0

    def __call__(self, fraction: float, text: str) -> None:
        if int(fraction * 10) > self.printed:
            self.printed = int(fraction * 10)
            with suppress(OSError):  # of a log whose disk is full: training goes on
                print(f"{fraction:4.0%} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Rich:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        line = TextColumn("{task.percentage:>3.0f}% {task.fields[text]}")
        self.progress = Progress(
            line, BarColumn(bar_width=10), console=Console(stderr=True)
        )
        self.task = self.progress.add_task("fit", total=1.0, text="")
        self.progress.start()

    def __call__(self, fraction: float, text: str) -> None:
        self.progress.update(self.task, completed=fraction, text=text)

    def close(self) -> None:
        self.progress.stop()


def progress_line(verbose: bool) -> Any:
    """What takes a fraction and a text, and is closed at the end."""
    if not verbose:
        return _Silent()
    if not sys.stderr.isatty():
        return _Plain()
    try:
        return _Rich()
    except ImportError:
        return _Plain()
