"""Pictures of what a compound does, from the negative to the positive control."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from gandl.images import ImageCollection
from gandl.plotting import MontageDisplay
from gandl.plotting._montage import N_COLOURS
from gandl.report._html import picture, wide

_N_RANGE = 32  # control images that set the brightness of all montages
# Height and width that are shown of larger images: of a whole field in a column of the
# page, a cell would be a few pixels.
_LARGEST = 256


class Montages:
    """Montages of images, of which each row has one.

    Parameters
    ----------
    images : ImageCollection of n images
        The images, of which the first six channels are shown.
    of_control : dict of str to ndarray of int
        Rows of the negative, then of the positive controls, by their names.
    on : ndarray of shape (n,)
        On-perturbation of each row.
    dose : ndarray of shape (n,)
        Concentration of each row.
    batch : Series of length n or None
        The batch of each row, numbered from 0.
    unit : str
        Of the concentrations.
    pixel_size : float or None
        In micrometres; None: that of the metadata, if it is one.
    """

    def __init__(
        self,
        images: ImageCollection,
        of_control: dict[str, np.ndarray],
        on: np.ndarray,
        dose: np.ndarray,
        batch: pd.Series | None,
        *,
        unit: str,
        pixel_size: float | None,
    ) -> None:
        self.images = images.with_channels(images.channels[:N_COLOURS])
        self.of_control, self.on, self.dose = of_control, on, dose
        self.batch, self.unit = batch, unit
        self.pixel_size = pixel_size or _pixel_size(images)

    @property
    def shown(self) -> str:
        """What part of images is shown, as a sentence; empty if it is all."""
        height, width = (min(length, _LARGEST) for length in self.images.shape[2:])
        if (height, width) == self.images.shape[2:]:
            return ""
        return f" Shown are the {width} x {height} pixels in the middle of each."

    def of_compound(self, name: str, rows: np.ndarray) -> str:
        """The negative control, the doses from the highest, the positive control."""
        chosen, titles = [], []
        negative, positive = self.of_control
        for title, candidates in (
            (negative, self.of_control[negative]),
            *(
                (f"{dose:g} {self.unit}", rows[self.dose[rows] == dose])
                for dose in np.unique(self.dose[rows])[::-1]
            ),
            (positive, self.of_control[positive]),
        ):
            # Of the compound's own plate, where there is one: plates differ.
            if self.batch is not None:
                own = self.batch[candidates] == self.batch[rows[0]]
                candidates = candidates[own.to_numpy()] if own.any() else candidates
            chosen.append(_most_typical(candidates, self.on))
            titles.append(title)
        display = MontageDisplay.from_images(
            np.stack([_middle(self.images[row]) for row in chosen]),
            channels=self.images.channels,
            titles=titles,
            ranges=self._brightness,
            pixel_size=self.pixel_size,
            n_columns=len(chosen),
        )
        return wide(
            picture(
                display.figure_,
                f"{name}: images from {negative} over falling doses to {positive}",
            )
        )

    @cached_property
    def _brightness(self) -> np.ndarray:
        """One range a stain for all montages, from controls of both kinds."""
        both = np.concatenate(
            [
                rows[:: max(1, 2 * len(rows) // _N_RANGE)]
                for rows in self.of_control.values()
            ]
        )
        pixels = np.stack([self.images[int(row)] for row in both])
        return np.percentile(pixels, [0.5, 99.8], axis=(0, 2, 3)).T


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle of an image (C, H, W), where it is large."""
    for axis in (1, 2):
        surplus = max(0, image.shape[axis] - _LARGEST)
        kept = slice(surplus // 2, image.shape[axis] - (surplus + 1) // 2)
        image = image[:, kept] if axis == 1 else image[..., kept]
    return image


def _pixel_size(images: ImageCollection) -> float | None:
    """That of all images, by their metadata, if it is one."""
    if "pixel_size" not in images.metadata:
        return None
    sizes = pd.to_numeric(images.metadata["pixel_size"], errors="coerce").unique()
    return float(sizes[0]) if len(sizes) == 1 and sizes[0] > 0 else None


def _most_typical(rows: np.ndarray, on: np.ndarray) -> int:
    """The row whose on-perturbation is the median: the lower of the two."""
    order = np.argsort(on[rows], kind="stable")
    return int(rows[order[(len(rows) - 1) // 2]])
