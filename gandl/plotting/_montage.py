"""MontageDisplay: images side by side, stains as colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gandl.images import ImageCollection
from gandl.images._intensity import check_finite
from gandl.plotting._style import in_legend, new_grid, plain, shortened

# Added up in a pixel; the first three are told apart by any two kinds of cones.
_COLOURS = (
    (0.0, 1.0, 1.0),  # cyan
    (1.0, 0.0, 1.0),  # magenta
    (1.0, 1.0, 0.0),  # yellow
    (1.0, 1.0, 1.0),  # white
    (0.0, 0.45, 0.7),  # blue
    (0.84, 0.37, 0.0),  # vermilion
)
N_COLOURS = len(_COLOURS)
_LENGTHS = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]


class MontageDisplay:
    """Images side by side, each stain a colour, one brightness scale for all.

    Made by `from_images`.

    Parameters
    ----------
    images : ndarray of shape (n, C, H, W)
        The images.
    channels : sequence of str
        Names of the stains.
    ranges : ndarray of shape (C, 2) or (n, C, 2)
        What is black and what is brightest in each stain, of all images or of each.
    titles : sequence of str, default=None
        A title for each image.
    pixel_size : float, default=None
        Micrometres a pixel, for a scale bar.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One an image.
    figure_ : matplotlib Figure
        Their figure.

    See Also
    --------
    gandl.images.percentile_range : Ranges of a whole collection.

    Examples
    --------
    >>> from gandl.datasets import make_screen
    >>> from gandl.plotting import MontageDisplay
    >>> images, _ = make_screen(n_compounds=1, n_controls=2, random_state=0)
    >>> display = MontageDisplay.from_images(images[:4], pixel_size=0.65)
    >>> len(display.axes_)
    4
    """

    def __init__(
        self,
        *,
        images: np.ndarray,
        channels: Sequence[str],
        ranges: np.ndarray,
        titles: Sequence[str] | None = None,
        pixel_size: float | None = None,
    ) -> None:
        self.images = images
        self.channels = channels
        self.ranges = ranges
        self.titles = titles
        self.pixel_size = pixel_size

    @classmethod
    def from_images(
        cls,
        images: Any,
        *,
        titles: Sequence[str] | None = None,
        channels: Sequence[str] | None = None,
        ranges: Any = None,
        pixel_size: float | None = None,
        n_columns: int | None = None,
        ax: Any = None,
    ) -> MontageDisplay:
        """Draw images.

        Parameters
        ----------
        images : ImageCollection or array-like of shape (n, C, H, W)
            The images, up to six stains; all are loaded.
        titles : sequence of str of length n, default=None
            A title for each image.
        channels : sequence of str of length C, default=None
            Names of the stains; None: the collection's.
        ranges : array-like of shape (C, 2) or (n, C, 2), default=None
            What is black and what is brightest in each stain, of all images or of each;
            None: the collection's ``intensity_range``, as of its plate, or, where it
            has none, percentiles 0.5 and 99.8 of the images shown.
        pixel_size : float, default=None
            Micrometres a pixel, for a scale bar.
        n_columns : int, default=None
            Images in a row of a new figure; None: about a square.
        ax : array-like of n matplotlib Axes, default=None
            Where to draw, one an image; None: a new figure.

        Returns
        -------
        MontageDisplay
            Drawn.

        Raises
        ------
        ValueError
            If there is no image, there are more than six stains, or lengths differ.
        """
        if channels is None:
            channels = (
                images.channels
                if isinstance(images, ImageCollection)
                else [f"channel_{c}" for c in range(np.shape(images)[1])]
            )
        pixels = np.asarray(images)
        if pixels.ndim != 4 or not len(pixels):
            raise ValueError(f"images have shape {pixels.shape}, not (n, C, H, W).")
        for k, image in enumerate(pixels):
            check_finite(image, k)
        n, n_channels = pixels.shape[:2]
        if n_channels > N_COLOURS:
            raise ValueError(
                f"There are {n_channels} stains and {N_COLOURS} colours: choose "
                "some, images.with_channels([...])."
            )
        if len(channels) != n_channels:
            raise ValueError(f"{n_channels} stains, but {len(channels)} channels.")
        if titles is not None and len(titles) != n:
            raise ValueError(f"{n} images, but {len(titles)} titles.")
        if ranges is None and isinstance(images, ImageCollection):
            ranges = images.intensity_range
        if ranges is None:
            axes = (0, 2, 3)
            numbers = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
            ranges = np.percentile(numbers, [0.5, 99.8], axis=axes).T
        ranges = np.asarray(ranges, dtype=np.float64)
        if ranges.shape not in ((n_channels, 2), (n, n_channels, 2)):
            raise ValueError(
                f"ranges have shape {ranges.shape}, neither (C, 2) nor (n, C, 2)."
            )
        display = cls(
            images=pixels,
            channels=channels,
            ranges=ranges,
            titles=None if titles is None else list(titles),  # by place, not by index
            pixel_size=pixel_size,
        )
        return display.plot(n_columns=n_columns, ax=ax)

    def plot(self, *, n_columns: int | None = None, ax: Any = None) -> MontageDisplay:
        """Draw.

        Parameters
        ----------
        n_columns : int, default=None
            Images in a row of a new figure; None: about a square.
        ax : array-like of n matplotlib Axes, default=None
            Where to draw, one an image; None: a new figure.

        Returns
        -------
        MontageDisplay
            Itself.
        """
        n, height, width = len(self.images), *self.images.shape[2:]
        n_columns = n_columns or math.ceil(math.sqrt(n))
        n_rows = math.ceil(n / n_columns)
        tile = 1.6
        figsize = (tile * n_columns, tile * n_rows * height / width + 0.4)
        self.figure_, self.axes_ = new_grid(ax, n, n_columns, figsize=figsize)
        for k, (at, image) in enumerate(zip(self.axes_, self._coloured(), strict=True)):
            at.axis("off")
            at.imshow(image, interpolation="antialiased")
            if self.titles is not None:
                at.set_title(plain(shortened(self.titles[k])), fontsize="small")
        if self.pixel_size:
            _draw_scale_bar(self.axes_[-1], width, self.pixel_size)
        self._draw_legend(new=ax is None)
        return self

    def _coloured(self) -> np.ndarray:
        """Images (n, H, W, 3) from 0 to 1."""
        low, high = np.moveaxis(self.ranges, -1, 0)[..., None, None]
        scaled = (self.images - low) / np.where(high > low, high - low, 1)
        return np.clip(np.einsum("nchw,cd->nhwd", scaled.clip(0, 1), self._rgb()), 0, 1)

    def _rgb(self) -> np.ndarray:
        if len(self.channels) == 1:
            return np.ones((1, 3))
        colours = np.array(_COLOURS[: len(self.channels)])
        # Of more than three, all of them together would be white too often.
        return colours * min(1, 2 / colours.sum(axis=0).max())

    def _draw_legend(self, new: bool) -> None:
        from matplotlib.patches import Patch

        if len(self.channels) == 1:
            return
        patches = [
            Patch(facecolor=colour, edgecolor="0.5", label=in_legend(shortened(name)))
            for colour, name in zip(self._rgb(), self.channels, strict=True)
        ]
        style = {"handles": patches, "frameon": False, "fontsize": "small"}
        if new:
            room = max(1, int(self.figure_.get_figwidth() / 1.3))  # inches a name
            n_columns = min(room, len(patches))
            style |= {"loc": "outside lower center", "ncols": n_columns}
            self.figure_.legend(**style)
        else:  # of a figure that holds other things too
            self.axes_[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), **style)


def _draw_scale_bar(ax: Any, width: int, pixel_size: float) -> None:
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    most = width * pixel_size / 3
    length = max((at for at in _LENGTHS if at <= most), default=_LENGTHS[0])
    bar = AnchoredSizeBar(
        ax.transData,
        length / pixel_size,
        f"{length:g} µm",
        "lower right",
        pad=0.3,
        color="white",
        frameon=False,
        size_vertical=width / 50,
        fontproperties=FontProperties(size=7),
    )
    ax.add_artist(bar)
