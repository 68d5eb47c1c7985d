"""The loop around the training step."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from gandl._interrupts import Interrupt
from gandl._monitor import EVERY, Monitor
from gandl._progress import LossRecorder, TrainingProgress
from gandl._tensors import to_arrays, to_tensors
from gandl.gan import Trainer

if TYPE_CHECKING:
    from gandl._checkpoints import Checkpoints

# Steps in which the learning rate rises: under contrast, the first are the roughest.
WARM_UP = 30
_WATCHED = 16  # steps between two looks at what was dropped, which wait for the device


def learning_rate_scale(schedule: str, step: int, fraction: float) -> float:
    """Factor of the learning rate at a step, after a fraction of the training.

    "constant"; "warm-up": rises over the first steps; "cosine": and then falls to 0 by
    half a cosine.
    """
    if schedule == "constant":
        return 1.0
    rise = min(1.0, (step + 1) / WARM_UP)
    return (
        rise if schedule == "warm-up" else rise * (1 + math.cos(math.pi * fraction)) / 2
    )


@dataclass
class Position:
    """Where a training is: the seed of its batches, and what was done of it so far."""

    seed: int
    steps: int = 0
    minutes: float = 0.0
    fraction: float = 0.0


def train(
    trainer: Trainer,
    batches: Iterator[np.ndarray],
    *,
    n_steps: int,
    max_minutes: float,
    schedule: str,
    recorder: LossRecorder,
    progress: TrainingProgress,
    interrupt: Interrupt,
    position: Position,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Take ``n_steps``, or as many as fit into ``max_minutes``, or until interrupted.

    ``schedule`` is that of `learning_rate_scale`; ``position`` says where to begin,
    and is kept up to date.
    """
    guard = Guard(trainer)
    start = time.perf_counter() - 60 * position.minutes
    while position.steps < n_steps and position.fraction < 1:
        scale = learning_rate_scale(schedule, trainer.n_steps, position.fraction)
        batch = torch.from_numpy(next(batches)).to(trainer.device)
        recorder.add(trainer.step(batch, scale))
        position.steps += 1
        position.minutes = (time.perf_counter() - start) / 60
        position.fraction = min(
            1.0, max(position.steps / n_steps, position.minutes / max_minutes)
        )
        stop = bool(interrupt)
        if position.steps % _WATCHED == 0 or position.fraction >= 1:
            guard.watch(recorder.tick)
        if recorder.is_due(position.fraction):
            if monitor and recorder.tick % EVERY == 0:
                recorder.add(monitor.measure())
            losses = recorder.record(trainer.n_images)
            stop |= progress.update(
                position.fraction, trainer.n_images, losses, trainer.augment_p
            )
        if checkpoints and (stop or position.fraction >= 1 or checkpoints.is_due()):
            state = {
                "trainer": trainer.state(),
                "recorder": recorder.state(),
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
        self.trainer, self.tick = trainer, 0
        self.good = to_arrays(trainer.state())

    def watch(self, tick: int) -> None:
        """Look at the steps since the last time; remembers a good state a tick."""
        trainer = self.trainer
        dropped = trainer.dropped()
        if not dropped and tick != self.tick:
            self.tick, self.good = tick, to_arrays(trainer.state())
        if sum(dropped.values()) < 2:
            return
        counts = ", ".join(f"{name}: {count}" for name, count in dropped.items())
        seen = (
            f"{trainer.n_images} images into training, loss or gradients were not "
            f"finite in several steps in a short time ({counts})"
        )
        rates = {_RATES.get(name, "learning_rate") for name in dropped}
        remedy = f"Lower {' and '.join(sorted(rates))}, or set precision='float32'."
        if trainer.learning_rate_factor < 1:
            raise FloatingPointError(
                f"Training has diverged: {seen}, at half the learning rate too. "
                f"{remedy}"
            )
        n_steps, n_images = trainer.n_steps, trainer.n_images
        trainer.load_state(to_tensors(self.good))
        trainer.n_steps, trainer.n_images = n_steps, n_images
        trainer.learning_rate_factor = 0.5
        warnings.warn(
            f"{seen}: networks are as they were before, and go on at half the learning "
            f"rate. {remedy}",
            ConvergenceWarning,
            stacklevel=2,
        )
