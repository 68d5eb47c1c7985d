"""What users hand to an image estimator, made an ImageCollection."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import validate_data

from gandl._tables import as_pandas, usual_name
from gandl._warnings import warn
from gandl.images import ImageCollection
from gandl.images._illumination import illumination_groups
from gandl.images._intensity import (
    HIGH,
    LOW,
    MAX_IMAGES,
    check_finite,
    pixels_of_rows,
    range_of_pixels,
    spaced,
)
from gandl.images._mapped import filled_channels
from gandl.images._sources import ArraySource

# Arrays with channels last are told by these: no image is so narrow.
_MANY_CHANNELS, _FEW_PIXELS = 16, 8
_SUFFIX = re.compile(r"\.[a-zA-Z]\w*$")  # of a path, which no number has
# Other units are told by these: a part of the range that fit learned, a share of pixels
# above it, and in how many images.
_DARK, _CLIPPED, _MANY_IMAGES = 1 / 8, 0.1, 16
# Plates of another exposure: how many times as bright, and beyond how many standard
# errors of either plate's.
_OTHER_EXPOSURE, _CHANCE = 2.0, 2.5


def as_collection(estimator: Any, X: Any, *, reset: bool) -> ImageCollection:
    """Check X and make it a collection, without copying or casting arrays whole.

    Sets ``n_channels_in_`` and ``image_shape_in_`` on the estimator if ``reset``,
    otherwise holds X against them.
    """
    images = _collect(estimator, X, reset=reset)
    _refuse_channels_last(images.shape)
    if len(images) == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={images.shape}) while a minimum of "
            f"1 is required by {type(estimator).__name__}."
        )
    if reset:
        estimator.image_shape_in_ = tuple(int(k) for k in images.shape[1:])
        estimator.n_channels_in_ = estimator.image_shape_in_[0]
        estimator.channels_in_ = images.channels
        _refuse_nan(images)
    else:
        _check_channels(estimator, images)
        if hasattr(estimator, "config_"):
            _check_size(estimator, images)
    return images


def _refuse_channels_last(shape: tuple[int, ...]) -> None:
    if shape[1] >= _MANY_CHANNELS > _FEW_PIXELS >= shape[3]:
        raise ValueError(
            f"Images of shape {tuple(shape[1:])} would have {shape[1]} channels "
            f"and be {shape[3]} pixels wide. Axes are (n, channels, height, width): "
            "if channels come last, pass np.moveaxis(X, -1, 1)."
        )


def _refuse_nan(images: ImageCollection) -> None:
    """Tell now what training would come upon in hours; files are read but then."""
    is_array = isinstance(images._source, ArraySource) and images._offsets is None
    if is_array and images.dtype.kind == "f":  # tiles may leave such pixels out
        for row in range(len(images)):
            check_finite(images[row], row)


def _collect(estimator: Any, X: Any, *, reset: bool) -> ImageCollection:
    if isinstance(X, str | PathLike):
        raise ValueError(
            f"X is a path, {str(X)!r}. ImageCollection.from_folder(path, pattern) "
            "reads a folder, ImageCollection.from_table a table of paths."
        )
    is_list = isinstance(X, list | tuple) or getattr(X, "ndim", 0) == 1
    if is_list and isinstance(first := next(iter(X), None), str | PathLike):
        raise ValueError(
            f"X has paths, such as {str(first)!r}: pass a table of them, "
            'pd.DataFrame({"path": X}), or make an ImageCollection.'
        )
    X = with_files(X)
    if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]) == 3:
        X = [np.asarray(image) for image in X]
        other = next((k for k, image in enumerate(X) if image.shape != X[0].shape), 0)
        if other:
            raise ValueError(
                f"Image {other} has shape {X[other].shape}, and the first "
                f"{X[0].shape}: all are to have one."
            )
        X = np.stack(X)
    if has_flat_rows(X):
        _refuse_text(X)
        return _from_rows(estimator, X, reset=reset)
    if reset:  # as scikit-learn has it, only flat rows have features
        estimator.__dict__.pop("n_features_in_", None)
        estimator.__dict__.pop("feature_names_in_", None)
    if isinstance(X, ImageCollection):
        return X
    if X.ndim != 4:
        raise ValueError(
            f"Expected images of shape (n, channels, height, width), 4 dimensions, "
            f"got {X.ndim} dimensions: shape {tuple(X.shape)}. Images of one channel "
            "are X[:, None], a single image is X[None]."
        )
    return ImageCollection.from_array(X)


def with_files(X: Any) -> Any:
    """A table of paths as the collection that knows its files; other X as it is."""
    table = X
    with suppress(ImportError):  # polars goes by pyarrow
        table = as_pandas(X)
    if isinstance(table, pd.DataFrame) and _holds_paths(table):
        path = "path" if "path" in table else list(table.columns)
        return ImageCollection.from_table(table, path=path)
    return X


def has_flat_rows(X: Any) -> bool:
    """Whether each image is a row of numbers, without channels, height and width."""
    if isinstance(X, pd.DataFrame):
        return not _holds_paths(X)
    if isinstance(X, list | tuple):
        return not (len(X) and np.ndim(X[0]) == 3)
    return getattr(X, "ndim", 2) <= 2


def _refuse_text(X: Any) -> None:
    """Tell of a column of paths by another name, which is no number of a flat row."""
    if not isinstance(X, pd.DataFrame):
        return
    for name in X:
        value = next(iter(X[name]), None)
        if isinstance(value, str) and _SUFFIX.search(value):
            raise ValueError(
                f"X has text such as {value!r} in the column {name!r}. If these are "
                f"paths, pass ImageCollection.from_table(X, path={name!r}); flat rows "
                "are numbers alone."
            )


def _holds_paths(table: pd.DataFrame) -> bool:
    return "path" in table or (
        table.shape[1] > 0
        and all(
            isinstance(value, str | PathLike)
            for column in table
            for value in table[column].iloc[:1]
        )
    )


def _from_rows(estimator: Any, X: Any, *, reset: bool) -> ImageCollection:
    X = validate_data(estimator, X, reset=reset)
    shape = estimator.image_shape
    if shape is None and not reset and not hasattr(estimator, "n_features_in_"):
        shape = estimator.image_shape_in_
    if shape is None:
        side = math.ceil(math.sqrt(X.shape[1]))
        X = np.pad(X, [(0, 0), (0, side**2 - X.shape[1])])
        shape = (1, side, side)
    if len(shape) != 3 or math.prod(shape) != X.shape[1]:
        raise ValueError(
            f"image_shape={tuple(shape)} is to give channels, height and width whose "
            f"product is the length of a row, {X.shape[1]}."
        )
    return ImageCollection.from_array(X.reshape(-1, *shape))


def _check_channels(estimator: Any, images: ImageCollection) -> None:
    n_channels, expected = images.shape[1], estimator.n_channels_in_
    if n_channels != expected:
        raise ValueError(
            f"X has {n_channels} channels, but {type(estimator).__name__} was fitted "
            f"on images of {expected} channels: {list(estimator.channels_in_)}. Axes "
            "are (n, channels, height, width); X.with_channels chooses channels of a "
            "collection, --channels on the command line."
        )
    names = estimator.channels_in_
    if images.channels != names and not (unnamed(images.channels) or unnamed(names)):
        raise ValueError(
            f"X has the channels {images.channels}, but {type(estimator).__name__} was "
            f"fitted on {names}: bring them into that order with X.with_channels (on "
            "the command line, --channels). If the same stains have other names, make "
            "the collection with the fitted ones."
        )


def _check_size(estimator: Any, images: ImageCollection) -> None:
    extent, fitted = images.shape[2:], estimator.image_shape_in_[1:]
    smallest = [min(size, estimator.config_.size) for size in fitted]
    if extent[0] < smallest[0] or extent[1] < smallest[1]:
        raise ValueError(
            f"X has images of {extent[0]} x {extent[1]} pixels, but "
            f"{type(estimator).__name__} was fitted on images of {fitted[0]} x "
            f"{fitted[1]} and embeds tiles of {smallest[0]} x {smallest[1]}: images "
            "are to be at least that large."
        )


def is_corrected(images: ImageCollection) -> bool | None:
    """Whether pixels are divided by an illumination; None: who made them knows."""
    source = images._source
    if illumination_groups(source) is not None:
        return True
    return None if source.file_sizes() is None else False


def compare_illumination(estimator: Any, images: ImageCollection) -> str:
    """What to tell of images whose light is divided out where that of fit's was not."""
    fitted = getattr(estimator, "illumination_corrected_", None)
    if fitted is None or is_corrected(images) in (fitted, None):
        return ""
    kinds = ["as they are in their files", "corrected for illumination"]
    return (
        f"X has images {kinds[not fitted]}, and {type(estimator).__name__} was fitted "
        f"on images {kinds[fitted]}: embeddings are not comparable, unless the files "
        "were corrected before. See X.with_illumination, on the command line "
        "--illumination."
    )


def unnamed(channels: tuple[str, ...]) -> bool:
    """Whether channels have no names but those that they are given by default."""
    return channels == tuple(f"channel_{k}" for k in range(len(channels)))


def learn_intensity(estimator: Any, images: ImageCollection) -> np.ndarray | None:
    """Range (C, 2) of each channel over the images, if the estimator asks for it."""
    if estimator.intensity != "dataset":
        return None
    rows = spaced(np.arange(len(images)), MAX_IMAGES)
    pixels = pixels_of_rows(images, rows)
    ranges = range_of_pixels(pixels, low=LOW, high=HIGH)
    empty = {
        name: low
        for name, (low, high) in zip(images.channels, ranges, strict=True)
        if low == high
    }
    if empty:
        values = ", ".join(f"{name} {low:g}" for name, low in empty.items())
        warn(
            "Channels of which next to all pixels have one value: "
            f"{values}. Nothing is learned from them."
        )
    plate = {usual_name(name): name for name in images.metadata}.get("plate")
    if plate is not None:
        plates = images.metadata[plate].to_numpy()[rows]
        if text := _compare_plates(images.channels, pixels, plates):
            warn(text)
    return ranges


def _compare_plates(
    channels: tuple[str, ...], pixels: np.ndarray, plates: np.ndarray
) -> str:
    """What to tell of plates of another brightness, by pixels (C, rows, n)."""
    found = []
    for name, of_images in zip(channels, pixels, strict=True):
        low, high = np.percentile(of_images.astype(np.float64), [LOW, HIGH], axis=1)
        spread = high - low
        if not spread.max() > 0:
            continue
        log = pd.Series(np.log(np.maximum(spread, 1e-3 * spread.max())))
        of_each = log.groupby(plates)
        median, n = of_each.median(), of_each.size()
        if n.max() < 2:
            continue
        # As images of a plate vary, so does the median of a few.
        size = of_each.transform("size")
        within = (log - of_each.transform("median")) * np.sqrt(size / (size - 1))
        deviation = max(1.4826 * within[size > 1].abs().median(), 0.1)
        error = 1.25 * deviation / np.sqrt(n)
        at_most, at_least = median + _CHANCE * error, median - _CHANCE * error
        if at_least.max() - at_most.min() > math.log(_OTHER_EXPOSURE):
            ends = [
                f"{float(f'{math.exp(median.iloc[k]):.3g}'):g} ({median.index[k]})"
                for k in (int(at_most.argmin()), int(at_least.argmax()))
            ]
            found.append(f"{name} {' to '.join(ends)}")
    if not found:
        return ""
    return (
        "Plates differ in brightness, by the range of a plate's median image: "
        f"{', '.join(found)}. Where that is exposure and not what was done to the "
        'cells, take intensity="plate" with X.with_intensity_range(by="plate"), on the '
        "command line --intensity plate; a plate of next to no range may be empty."
    )


class Brightness:
    """Tells of images that leave little of the range that fit learned.

    By the pixels of all images at once, channel by channel: of those in fit one in a
    thousand at most lies above the range, and no fewer above an eighth of it.
    """

    def __init__(self, estimator: Any, images: ImageCollection) -> None:
        self.estimator, self.filled = estimator, filled_channels(images)
        # Of some images each: how many, the shares of each channel's pixels above the
        # range and above an eighth of it, and the ends. Threads only append.
        self.seen: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

    def look(self, batch: np.ndarray) -> None:
        """Count pixels of images (k, C, H, W) as they are in their files."""
        pixels = batch[:, :, ::2, ::2]  # enough to tell by
        low, high = np.moveaxis(self.estimator.intensity_range_, -1, 0)[..., None, None]
        above = (pixels > high).mean(axis=(0, 2, 3))
        bright = (pixels > low + _DARK * (high - low)).mean(axis=(0, 2, 3))
        ends = np.stack([pixels.min(axis=(0, 2, 3)), pixels.max(axis=(0, 2, 3))])
        self.seen.append((len(pixels), above, bright, ends))

    def told(self) -> str:
        """What there is to tell, of many images at least."""
        n = [k for k, *_ in self.seen]
        if sum(n) < _MANY_IMAGES:
            return ""
        above, bright = (
            np.average([shares[k] for shares in self.seen], axis=0, weights=n)
            for k in (1, 2)
        )
        low, high = self.estimator.intensity_range_.T
        used = low < high
        names = np.array(self.estimator.channels_in_)
        ends = np.array([of_some[3] for of_some in self.seen])
        empty = used & ~self.filled & (ends[:, 0].min(axis=0) == ends[:, 1].max(axis=0))
        if used.any() and (bright[used] < 1e-3).all():
            what = "next to no pixel reaches an eighth of"
        elif (many := used & (above > _CLIPPED)).any():
            shares = ", ".join(
                f"{share:.0%} of {name}"
                for name, share in zip(names[many], above[many], strict=True)
            )
            what = f"many pixels ({shares}) lie above"
        elif empty.any():
            return (
                f"Of {sum(n)} images, all pixels of {', '.join(names[empty])} have one "
                "value. If that stain is missing, embeddings are not comparable with "
                "those of fit's images: embed both by a model of the other stains."
            )
        else:
            return ""
        ranges = ", ".join(
            f"{name} {a:g} to {b:g}"
            for name, a, b in zip(names, low, high, strict=True)
        )
        return (
            f"Of {sum(n)} images, {what} the intensity range that fit learned "
            f"({ranges}): little is seen of them. If they are in other units (bits, 0 "
            "to 1), bring them to those of fit; if exposures differ, fit with "
            'intensity="plate" or "image".'
        )


def row_intensity(estimator: Any, images: ImageCollection) -> np.ndarray | None:
    """Ranges to scale images by: (C, 2), (n, C, 2), or None for each image's own."""
    of_all = estimator.intensity == "dataset"
    if of_all != (estimator.intensity_range_ is not None):
        raise ValueError(
            f'intensity is "{estimator.intensity}", and this estimator was fitted with '
            "another: fit it again."
        )
    if of_all:
        return estimator.intensity_range_
    if estimator.intensity == "image":
        return None
    if images.intensity_range is None:
        raise ValueError(
            'intensity="plate" takes the range of each plate from the collection, '
            "and X carries none: pass X.with_intensity_range(by='plate')."
        )
    return images.intensity_range
