"""Whether the adversarial game is sound: collapse and overfitting, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from gandl._warnings import warn
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
        self.told: set[str] = set()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return what is to be watched.

        "diversity": mean distance of two generated images, in units of that of two
        real ones. "sign": mean sign of the logits of images trained on. "overfitting":
        where logits of unseen images lie between those of images trained on, 0, and
        generated ones, 1; NaN where these do not differ (r_t and r_v of Karras et al.
        2020, arXiv 2006.06676).
        """
        trainer, n = self.trainer, len(self.unseen)
        rng = torch.Generator(trainer.device).manual_seed(0)
        generated = trainer.average(n, rng).clamp(-1, 1)
        logits = [
            trainer.discriminator(x).float().flatten()
            for x in (self.seen, self.unseen, generated)
        ]
        seen, unseen, fake = (float(x.mean()) for x in logits)
        error = float(((logits[0].var() + logits[2].var()) / n).sqrt())
        told = seen - fake > 2 * error
        return {
            "diversity": float(_distance(generated) / self.real_distance),
            "sign": float(logits[0].sign().mean()),
            "overfitting": (seen - unseen) / (seen - fake) if told else math.nan,
        }

    def warn(self, measured: Mapping[str, Sequence[float]]) -> None:
        """Tell, in plain words and once, what is wrong by the last measurements."""
        # Of other points of the curve, neither was measured.
        last = [
            pair
            for pair in zip(
                measured.get("diversity", ()),
                measured.get("overfitting", ()),
                strict=False,
            )
            if math.isfinite(pair[0])
        ][-3:]
        if len(last) < 3:
            return
        # NaN, which is beyond nothing, if one of them is.
        diversity, overfitting = (sum(values) / 3 for values in zip(*last, strict=True))
        if diversity < _COLLAPSED:
            self._tell(
                "diversity",
                f"Generated images hardly differ: their mean distance is "
                f"{diversity:.2f} of that of real ones, which is called mode collapse. "
                "Do not take them for samples of the real ones. A lower learning_rate "
                "or a higher r1_gamma may help.",
            )
        if overfitting > _OVERFITTED:
            self._tell(
                "overfitting",
                "The discriminator tells images that it was trained on from such as "
                f"it was not, by {overfitting:.0%} of what it tells real from "
                "generated ones by: it knows them by heart. Train on more images or "
                'for a shorter time, or with augment="adaptive".',
            )

    def _tell(self, name: str, text: str) -> None:
        if name not in self.told:
            self.told.add(name)
            warn(text, ConvergenceWarning)


def _distance(images: Tensor) -> Tensor:
    """Mean distance of two images, not of one to itself."""
    flat = images.float().flatten(1)
    return torch.pdist(flat).mean()
