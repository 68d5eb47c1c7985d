"""Whether the adversarial game is sound: collapse and overfitting, measured."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from gandl.gan import Trainer

# As many images of each kind are looked at.
N_WATCHED = 32
EVERY = 10  # hundredths of a training
# Beyond these it is told.
_COLLAPSED = 0.3
_OVERFITTED = 0.8


class Monitor:
    """Measures generated images, and what the discriminator makes of unseen ones.

    Parameters
    ----------
    trainer : Trainer
        Whose networks are measured; nothing of it changes.
    seen, unseen : Tensor of shape (n, C, size, size)
        Real images that are trained on, and such as are not; as many of each.
    """

    def __init__(self, trainer: Trainer, seen: Tensor, unseen: Tensor) -> None:
        self.trainer, self.seen, self.unseen = trainer, seen, unseen
        self.real_distance = _distance(unseen)
        self.last: dict[str, float] = {}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return what is to be watched.

        "diversity": mean distance of two generated images, in units of that of two
        real ones. "overfitting": where logits of unseen images lie between those of
        images trained on, 0, and generated ones, 1 (r_v of Karras et al. 2020,
        arXiv 2006.06676); not finite where the discriminator tells neither.
        """
        trainer, n = self.trainer, len(self.unseen)
        rng = torch.Generator(trainer.device).manual_seed(0)
        generated = trainer.average(n, rng).clamp(-1, 1)
        seen, unseen, fake = (
            trainer.discriminator(x).mean() for x in (self.seen, self.unseen, generated)
        )
        self.last = {
            "diversity": float(_distance(generated) / self.real_distance),
            "overfitting": float((seen - unseen) / (seen - fake)),
        }
        return self.last

    def warn(self) -> None:
        """Tell, in plain words, what is wrong at the end of training."""
        last = self.last
        if last and last["diversity"] < _COLLAPSED:
            _warn(
                f"Generated images hardly differ: their mean distance is "
                f"{last['diversity']:.2f} of that of real ones, which is called mode "
                "collapse. Do not take them for samples of the real ones. A lower "
                "learning_rate or a higher r1_gamma may help."
            )
        if last and last["overfitting"] > _OVERFITTED:
            _warn(
                "The discriminator tells images that it was trained on from such as "
                f"it was not, by {last['overfitting']:.0%} of what it tells real from "
                "generated ones by: it knows them by heart. Train on more images or "
                'for a shorter time, or with augment="adaptive".'
            )


def _distance(images: Tensor) -> Tensor:
    """Mean distance of two images, not of one to itself."""
    flat = images.float().flatten(1)
    return torch.pdist(flat).mean()


def _warn(text: str) -> None:
    warnings.warn(text, ConvergenceWarning, stacklevel=3)
