"""The loop around the training step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gandl._interrupts import Interrupt
from gandl._progress import LossRecorder, TrainingProgress
from gandl.gan import Trainer

if TYPE_CHECKING:
    from gandl._checkpoints import Checkpoints

# Steps in which the learning rate rises: under contrast, the first are the roughest.
WARM_UP = 30


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
    checkpoints: Checkpoints | None = None,
) -> None:
    """Take ``n_steps``, or as many as fit into ``max_minutes``, or until interrupted.

    ``schedule`` is that of `learning_rate_scale`; ``position`` says where to begin,
    and is kept up to date.
    """
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
        if recorder.is_due(position.fraction):
            losses = recorder.record(trainer.n_images)
            _check_finite(losses, trainer.n_images)
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


def _check_finite(losses: dict[str, float], n_images: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The {name} loss is {value} after {n_images} images: training has "
                "diverged. Lower learning_rate or contrast_learning_rate, or set "
                'precision="float32".'
            )
