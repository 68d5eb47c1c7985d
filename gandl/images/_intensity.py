"""Intensity ranges of images, and scaling to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# On a dark background most pixels, often nine in ten, are background: any low
# percentile finds its floor, and 0.1 ignores the dead pixels that the minimum
# would follow. The signal sits in the few brightest per cent, so that the usual
# 99th percentile cuts into ordinary nuclei, while the maximum is set by one hot
# pixel or one speck of debris: 99.9 lies above the first and below the second.
LOW, HIGH = 0.1, 99.9

# Percentiles of this many evenly spaced images, and of this many of their pixels
# in each channel, leave thousands of pixels above the highest percentile.
MAX_IMAGES = 512
_MAX_PIXELS = 2**22


def percentile_range(
    images: Any, *, low: float = LOW, high: float = HIGH, max_images: int = MAX_IMAGES
) -> np.ndarray:
    """Compute the intensity range of each channel over many images.

    The range of a channel spans two percentiles of the pixels of evenly spaced
    images, pooled. Images are read one at a time, and above four million pixels
    a channel only evenly spaced pixels are kept, so that memory stays bounded.

    Parameters
    ----------
    images : array-like, memmap or ImageCollection of shape (n, C, H, W)
        The images, of any real number type.
    low, high : float, default=0.1, 99.9
        The percentiles, with ``0 <= low < high <= 100``.
    max_images : int, default=512
        How many images are looked at.

    Returns
    -------
    ndarray of shape (C, 2), float64
        The low and the high intensity of each channel, in units of the images.

    Raises
    ------
    ValueError
        If there is no image, a percentile is out of bounds, or an image that was
        looked at contains NaN or infinity; the message names its row.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.images import percentile_range
    >>> images = np.arange(200, dtype="uint8").reshape(2, 1, 10, 10)
    >>> percentile_range(images, low=0, high=100)
    array([[  0., 199.]])
    """
    images = check_images(images)
    rows = spaced(np.arange(len(images)), max_images)
    return range_of_rows(images, rows, low=low, high=high)


def image_range(
    batch: Any,
    low: float = LOW,
    high: float = HIGH,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Compute the intensity range of each channel of each image.

    Parameters
    ----------
    batch : array-like of shape (n, C, H, W)
        The images, of any real number type.
    low, high : float, default=0.1, 99.9
        The percentiles, with ``0 <= low < high <= 100``.
    rows : sequence of int of length n, default=None
        What error messages call the images; their place in the batch by default.

    Returns
    -------
    ndarray of shape (n, C, 2), float64
        The low and the high intensity of each channel of each image, in units of
        the images.

    Raises
    ------
    ValueError
        If a percentile is out of bounds or an image contains NaN or infinity; the
        message names its row.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.images import image_range
    >>> images = np.arange(200, dtype="uint8").reshape(2, 1, 10, 10)
    >>> image_range(images, 0, 100)[:, 0]
    array([[  0.,  99.],
           [100., 199.]])
    """
    batch = check_images(batch)
    _check_percentiles(low, high)
    ranges = np.empty((*batch.shape[:2], 2))
    for row in range(len(batch)):
        image = check_finite(batch[row], row if rows is None else rows[row])
        pixels = image.reshape(len(image), -1).astype(np.float64)
        ranges[row] = np.percentile(pixels, [low, high], axis=1).T
    return ranges


def scale_intensity(
    batch: Any, intensity_range: Any, *, rows: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Scale images linearly to [-1, 1], channel by channel.

    The low end of a channel's range maps to -1, the high end to 1, and what lies
    outside is clipped. A channel whose range is empty (``high <= low``) is -1
    everywhere.

    Parameters
    ----------
    batch : array-like of shape (n, C, H, W)
        The images, of any real number type.
    intensity_range : array-like of shape (C, 2) or (n, C, 2)
        The low and the high intensity of each channel, for all images or for each,
        in units of the images.
    rows : sequence of int of length n, default=None
        What error messages call the images; their place in the batch by default.

    Returns
    -------
    ndarray of shape (n, C, H, W), float32
        The scaled images, without unit.

    Raises
    ------
    ValueError
        If the shape of the range does not fit the images, the range is not
        finite, or an image contains NaN or infinity; the message names its row.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.images import scale_intensity
    >>> images = np.array([0, 100, 150, 200], "uint16").reshape(1, 1, 2, 2)
    >>> scale_intensity(images, [[100, 200]])
    array([[[[-1., -1.],
             [ 0.,  1.]]]], dtype=float32)
    """
    batch = check_images(batch)
    ranges = _check_ranges(intensity_range, batch.shape[:2])
    names: Iterable[int] = range(len(batch)) if rows is None else rows
    scaled = np.empty(batch.shape, np.float32)
    # One image at a time: double precision for a whole batch would cost four
    # times the memory of the result.
    for i, name in zip(range(len(batch)), names, strict=True):
        low, high = ranges[i].T[:, :, None, None]
        empty = high <= low
        values = np.clip(check_finite(batch[i], name).astype(np.float64), low, high)
        values -= low
        values /= np.where(empty, 1.0, high - low)
        scaled[i] = np.where(empty, -1.0, 2.0 * values - 1.0)
    return scaled


def check_images(images: Any) -> Any:
    if not isinstance(getattr(images, "dtype", None), np.dtype):  # a tensor's is not
        images = np.asarray(images)
    if len(images.shape) != 4:
        raise ValueError(
            "Expected images of shape (n, C, H, W), got an array of shape "
            f"{tuple(images.shape)}. Images of one channel: images[:, None]."
        )
    if images.dtype.kind not in "buif":
        raise ValueError(f"Expected images of real numbers, got dtype {images.dtype}.")
    return images


def spaced(rows: np.ndarray, max_images: int) -> np.ndarray:
    if max_images < 1:
        raise ValueError(f"max_images must be at least 1, got {max_images}.")
    if len(rows) <= max_images:
        return rows
    return rows[np.arange(max_images) * (len(rows) - 1) // max(max_images - 1, 1)]


def range_of_rows(
    images: Any, rows: np.ndarray, *, low: float, high: float
) -> np.ndarray:
    _check_percentiles(low, high)
    return range_of_pixels(pixels_of_rows(images, rows), low=low, high=high)


def pixels_of_rows(images: Any, rows: np.ndarray) -> np.ndarray:
    """Evenly spaced pixels (C, rows, n) of images, four million a channel at most."""
    if not len(rows):
        raise ValueError("No images to take an intensity range from.")
    n_channels, height, width = images.shape[1:]
    step = max(1, math.ceil(len(rows) * height * width / _MAX_PIXELS))
    # A step that shares a factor with the width would visit few columns only.
    while math.gcd(step, width) > 1:
        step += 1
    n_kept = len(range(0, height * width, step))
    sample = np.empty((n_channels, len(rows), n_kept), images.dtype)
    for k, row in enumerate(rows):
        image = check_finite(images[int(row)], int(row))
        sample[:, k] = image.reshape(n_channels, -1)[:, ::step]
    return sample


def range_of_pixels(sample: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """Range (C, 2) of pixels (C, rows, n)."""
    # Channel by channel in double precision: half floats would overflow.
    return np.stack([np.percentile(x.astype(np.float64), [low, high]) for x in sample])


def _check_percentiles(low: float, high: float) -> None:
    if not 0 <= low < high <= 100:
        raise ValueError(
            f"Percentiles must satisfy 0 <= low < high <= 100, got {low=} and {high=}."
        )


def _check_ranges(intensity_range: Any, shape: tuple[int, int]) -> np.ndarray:
    ranges = np.asarray(intensity_range, dtype=np.float64)
    if ranges.shape not in ((shape[1], 2), (*shape, 2)):
        raise ValueError(
            f"intensity_range must have the shape {(shape[1], 2)} or {(*shape, 2)} "
            f"for {shape[0]} images of {shape[1]} channels, got {ranges.shape}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        width = ranges[..., 1] - ranges[..., 0]
    if not np.isfinite(width).all():
        raise ValueError("intensity_range must be finite.")
    return np.broadcast_to(ranges, (*shape, 2))


def check_finite(image: Any, row: int) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype.kind != "f" or np.isfinite(image).all():
        return image
    found = "NaN" if np.isnan(image).any() else "infinity"
    bad = ~np.isfinite(image).all(axis=(1, 2))
    raise ValueError(
        f"Input X contains {found}: image {row}, channel {int(np.argmax(bad))}. "
        "Replace such pixels or leave the image out."
    )
