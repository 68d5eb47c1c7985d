"""The loop around the training step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from gandl._progress import LossRecorder, TrainingProgress
from gandl.gan import Trainer

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


def train(
    trainer: Trainer,
    batches: Iterator[np.ndarray],
    *,
    n_steps: int,
    max_minutes: float,
    schedule: str,
    recorder: LossRecorder,
    progress: TrainingProgress,
) -> None:
    """Take ``n_steps``, or as many as fit into ``max_minutes``.

    ``schedule`` is that of `learning_rate_scale`.
    """
    start, fraction = time.perf_counter(), 0.0
    for step in range(n_steps):
        scale = learning_rate_scale(schedule, trainer.n_steps, fraction)
        batch = torch.from_numpy(next(batches)).to(trainer.device)
        recorder.add(trainer.step(batch, scale))
        minutes = (time.perf_counter() - start) / 60
        fraction = min(1.0, max((step + 1) / n_steps, minutes / max_minutes))
        if recorder.is_due(fraction):
            losses = recorder.record(trainer.n_images)
            _check_finite(losses, trainer.n_images)
            stop = progress.update(
                fraction, trainer.n_images, losses, trainer.augment_p
            )
            if stop or fraction >= 1:
                return


def _check_finite(losses: dict[str, float], n_images: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The {name} loss is {value} after {n_images} images: training has "
                "diverged. Lower learning_rate or contrast_learning_rate, or set "
                'precision="float32".'
            )
