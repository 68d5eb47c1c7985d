"""The loop around the training step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from gandl._interrupts import Interrupt
from gandl._monitor import EVERY, Monitor
from gandl._progress import LossRecorder, TrainingProgress
from gandl._tensors import to_arrays, to_tensors, upload
from gandl._warnings import warn
from gandl.gan import Trainer

if TYPE_CHECKING:
    from gandl._checkpoints import Checkpoints

_REPEATED = 2  # dropped steps are more than chance
_WATCHED = 16  # steps between two looks at what was dropped, which wait for the device


@dataclass
class Position:
    """Where a training is: the seed of its batches, and what was done of it so far.

    ``fraction`` is of its budget; above 1 where minutes ended within a step.
    """

    seed: int
    steps: int = 0
    minutes: float = 0.0
    fraction: float = 0.0

    def measure(self, n_steps: int, max_minutes: float) -> None:
        """Set ``fraction``, of a budget of so many steps and minutes."""
        of_steps = self.steps / n_steps if n_steps else math.inf
        self.fraction = max(of_steps, self.minutes / max_minutes)


def train(
    trainer: Trainer,
    batches: Iterator[np.ndarray],
    *,
    n_steps: int,
    max_minutes: float,
    recorder: LossRecorder,
    progress: TrainingProgress,
    interrupt: Interrupt,
    position: Position,
    guard: Guard,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Take ``n_steps``, or as many as fit into ``max_minutes``, or until interrupted.

    ``position`` says where to begin, and is kept up to date. Ranks that train together
    take the same steps: what clock, signals and callbacks say to one of them goes for
    all.
    """
    ranks = trainer.ranks
    start = time.perf_counter() - 60 * position.minutes
    while position.steps < n_steps and position.fraction < 1:
        batch = upload(torch.from_numpy(next(batches)), trainer.device)
        recorder.add(trainer.step(batch))
        position.steps += 1
        minutes = (time.perf_counter() - start) / 60
        position.minutes, heard = ranks.largest(minutes, interrupt.signal or 0)
        interrupt.hear(int(heard))
        position.measure(n_steps, max_minutes)
        fraction = min(1.0, position.fraction)
        stop, tick = bool(heard), recorder.tick
        if recorder.is_due(fraction):
            if monitor and recorder.tick // EVERY > tick // EVERY:
                recorder.add(monitor.measure())
            losses = recorder.record(trainer.n_images)
            if monitor and fraction >= 0.5 and ranks.rank == 0:
                monitor.warn(recorder.rows)
            asked = progress.update(
                fraction, trainer.n_images, losses, trainer.augment_p
            )
            stop |= bool(ranks.largest(asked)[0])
        ended = fraction == 1
        if not ended:
            guard.look(position.steps, recorder.tick)
        if ended or stop:
            guard.end()
        # A checkpoint of what is not sound would be of no use.
        is_due = checkpoints is not None and (ended or stop or checkpoints.is_due())
        if checkpoints and is_due and trainer.is_finite():
            state = {
                "trainer": trainer.state(),
                "recorder": recorder.state(),
                "guard": guard.state(),
                "position": dataclasses.asdict(position),
            }
            checkpoints.save(trainer.n_steps, state)
        if stop:
            return


_RATES = {"contrast": "contrast_learning_rate"}  # of an optimiser


class Guard:
    """Takes a training back, once, that meets numbers which are not finite.

    The trainer drops each such step by itself. Where one is not enough, weights and
    moments return to where all was well, at half the learning rate; then it is an
    error.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.tick, self.n_seen, self.last = trainer, 0, 0, 0
        self.good = to_arrays(trainer.state())

    def state(self) -> dict[str, Any]:
        """Return all that later looks depend on."""
        names = ("good", "tick", "n_seen", "last")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.good = to_arrays(state["good"])
        self.tick, self.n_seen = state["tick"], state["n_seen"]
        self.last = state["last"]

    def look(self, n_steps: int, tick: int) -> None:
        """Watch, if it is time to; where training ends, `end` tells instead."""
        if n_steps % _WATCHED == 0:
            self.watch(tick)

    def watch(self, tick: int) -> None:
        """Look at the steps since the last time; remembers a good state a tick."""
        trainer = self.trainer
        n, names = trainer.dropped()
        finite = trainer.is_finite() if n or tick != self.tick else True
        if n == self.n_seen and finite:
            # R1 has many steps between its own: until the next, it is not forgotten.
            period = trainer.config.r1_interval * trainer.config.adversarial_interval
            n_since = trainer.n_steps - self.last
            if "discriminator" not in names or n_since >= period:
                trainer.forget_dropped()
                self.n_seen = 0
            if tick != self.tick:
                self.tick, self.good = tick, to_arrays(trainer.state())
            return
        self.n_seen, self.last = n, trainer.n_steps
        if finite and n < _REPEATED:
            return
        seen, remedy = self._words()
        if trainer.learning_rate_factor < 1:
            raise FloatingPointError(
                f"Training has diverged: {seen}, at half the learning rate. {remedy}"
            )
        self._take_back()
        self._warn(
            f"{seen}: networks are as they were before, and go on at half the "
            f"learning rate. {remedy}"
        )

    def end(self) -> None:
        """Look at weights and steps when no other step follows."""
        seen, remedy = self._words()
        if not self.trainer.is_finite():
            raise FloatingPointError(f"Training has diverged: {seen}. {remedy}")
        if self.trainer.dropped()[0] >= _REPEATED:
            self._warn(f"{seen}: these steps, the last ones, were dropped. {remedy}")

    def _words(self) -> tuple[str, str]:
        n, names = self.trainer.dropped()
        what = f"in {n} steps (of {', '.join(names)})" if n else "in the weights"
        rates = {_RATES.get(name, "learning_rate") for name in names or ["generator"]}
        return (
            f"{self.trainer.n_images} images into training, numbers were not finite "
            f"{what}",
            f"Lower {' and '.join(sorted(rates))}, or set precision='float32'.",
        )

    def _take_back(self) -> None:
        trainer = self.trainer
        n_steps, n_images = trainer.n_steps, trainer.n_images
        trainer.load_state(to_tensors(self.good))
        trainer.n_steps, trainer.n_images = n_steps, n_images
        trainer.forget_dropped()
        trainer.learning_rate_factor, self.n_seen = 0.5, 0

    def _warn(self, text: str) -> None:
        if self.trainer.ranks.rank == 0:
            warn(text, ConvergenceWarning)
