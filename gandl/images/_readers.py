"""One image file -> one array (C, H, W)."""

from __future__ import annotations

import os
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from gandl._extras import needed
from gandl._warnings import warn
from gandl.images._channel_order import Names
from gandl.images._planes import PlaneError, Planes, project
from gandl.images._tiff_checks import (
    check_announced,
    check_directories,
    check_extent,
    check_held,
    other_files,
)

# A header or a view that asks for more memory than this is refused.
BYTE_LIMIT = 4 * 2**30

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_ALPHA = ((1,), (2,))  # of the last extra sample
_PNG_ALPHA = b"\4\6"  # types of colour
REMEDY = (
    "Restore or convert the file, or leave it out of the collection, as "
    'on_error="skip" (--on-error skip) does.'
)
INSTALL = 'pip install "gandl[io]"'


def read_image(
    path: str | os.PathLike[str], *, byte_limit: int = BYTE_LIMIT
) -> np.ndarray:
    """Read one image file into an array of shape (C, H, W).

    TIFF is read with tifffile, every other format (PNG, JPEG, BMP, ...) with
    Pillow. Values are returned as stored: nothing is rescaled, and 16 bits stay
    16 bits. The one exception is an image of palette indices that Pillow opens,
    whose colours are looked up.

    Parameters
    ----------
    path : str or path-like
        The file. A 2-D image gives one channel; samples (RGB), channels, planes
        or plain pages of a stack become the channels of a 3-D one.
    byte_limit : int, default=4 GiB
        A file whose header promises more bytes than this is refused before any
        memory is taken.

    Returns
    -------
    ndarray of shape (C, H, W)
        The pixels, in the number type of the file and native byte order.

    Raises
    ------
    OSError
        If there is no such file, or it may not be read.
    ValueError
        If the file is truncated or otherwise unreadable, has more than three
        axes longer than one, is not numeric, or exceeds ``byte_limit``. The
        message names the file.
    ImportError
        If reading the format needs a package that is not installed.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> import tifffile
    >>> from gandl.images import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "image.tif")
    ...     tifffile.imwrite(path, np.zeros((8, 10), "uint16"))
    ...     image = read_image(path)
    >>> image.shape, image.dtype
    ((1, 8, 10), dtype('uint16'))
    """
    return read_planes(path, None, byte_limit)[0]


def read_planes(
    path: str | os.PathLike[str], planes: Planes | None, byte_limit: int
) -> tuple[np.ndarray, Names]:
    """Read an image file (C, H, W), and of its stacks the planes asked for.

    None takes the one axis of a stack, whatever it is, for channels. Returned beside
    the image are the names that an OME-TIFF file gives several channels; empty, if not
    all have one of their own.
    """
    path = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            head = file.read(26)
    except OSError as exc:
        raise named(exc, path) from exc
    is_tiff = head[:4] in _TIFF_MAGIC or path.lower().endswith((".tif", ".tiff"))
    try:
        if not head:
            raise ValueError("it is empty")
        if is_tiff and head[:4] not in _TIFF_MAGIC:
            raise ValueError(f"it is no TIFF file, and begins with {head[:8]!r}")
        if head[:8] == _PNG_MAGIC:
            _check_chunks(path)
        if is_tiff:
            array, axes, names = _read_tiff(path, byte_limit, planes)
            image = _as_channels_first(array, axes)
            return image, names if len(names) == len(image) > 1 else ()
        if planes is not None:
            planes.indices("z", 1)
            planes.indices("t", 1)
        if head[:8] == _PNG_MAGIC and head[24:25] == b"\x10" and head[25:26] != b"\0":
            array, axes = _read_deep_png(path, head, byte_limit)
        else:
            array, axes = _read_pillow(path, byte_limit)
        return _as_channels_first(array, axes), ()
    except ImportError:
        raise
    except PlaneError as exc:
        raise ValueError(f"{path!r} {exc}") from exc
    # The libraries answer a damaged file with errors of any type.
    except Exception as exc:
        raise unreadable(path, exc) from exc


def unreadable(path: str, error: Exception) -> ValueError:
    """What a library said of a file, with the file and what to do in the message."""
    remedy = REMEDY
    if "imagecodecs" in str(error):
        remedy = f"Install the codecs: {INSTALL}."
    reason = str(error).rstrip(".") or type(error).__name__
    return ValueError(f"Cannot read {path!r}: {reason}. {remedy}")


def named(error: OSError, path: str) -> OSError:
    """The same error, with the file and what to do in its message."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f"No such image file: {path!r}. Restore the file, mend its path (relative "
            "paths are joined to `root`), or leave its row out of the collection."
        )
    return type(error)(f"Cannot read {path!r}: {error.strerror}. {REMEDY}")


def check_promise(n_bytes: int, byte_limit: int) -> None:
    if n_bytes > byte_limit:
        raise ValueError(
            f"its header promises {n_bytes / 2**30:.4g} GiB of pixels, more than "
            f"byte_limit ({byte_limit / 2**30:.4g} GiB)"
        )


# Axes are returned by name, one letter each, beside the pixels, and names of channels.
def _read_tiff(
    path: str, byte_limit: int, planes: Planes | None, is_ome: bool | None = None
) -> tuple[np.ndarray, str, Names]:
    check_directories(path)
    with tifffile.TiffFile(path, is_ome=is_ome) as tif:
        names = _channel_names(check_announced(tif)) if tif.is_ome else ()
        n_pages = sum(len(series.pages) for series in tif.series)
        if tif.is_ome and n_pages > len(tif.pages):
            # The header describes other files too: this file's own pages alone.
            return _read_tiff(path, byte_limit, planes, is_ome=False)
        if len(tif.series) != 1:
            shapes = ", ".join(str(series.shape) for series in tif.series)
            raise ValueError(
                f"it holds {len(tif.series)} image series, of shapes ({shapes}), "
                f"where one is expected{' (see from_ome_tiff)' if tif.is_ome else ''}"
            )
        series = tif.series[0]
        n_bytes = int(np.prod(series.shape, dtype=object)) * series.dtype.itemsize
        check_promise(n_bytes, byte_limit)
        check_extent(tif, series.pages)
        if series.dataoffset is not None:
            check_held(tif, series.dataoffset + n_bytes)
        if planes is not None:
            return *_read_chosen(tif, series, planes), names
        # Reading many files at once is the caller's choice, not each file's.
        return tif.asarray(series=0, maxworkers=1), series.axes, names


def _read_chosen(tif: Any, series: Any, planes: Planes) -> tuple[np.ndarray, str]:
    axes, shape = _named_axes(series.axes, series.shape, planes), series.shape
    n = {axis: shape[axes.index(axis)] if axis in axes else 1 for axis in "TZ"}
    times, depths = planes.indices("t", n["T"]), planes.indices("z", n["Z"])
    rest = "".join(axis for axis in axes if axis not in "TZ")
    if max(n.values()) == 1 and rest == axes:
        return tif.asarray(series=0, maxworkers=1), axes
    page = series.keyframe.shape
    n_outer = len(shape) - len(page)
    # One page a plane, as nearly always: only the pages needed are read.
    by_page = (
        shape[n_outer:] == page
        and len(series.pages) == np.prod(shape[:n_outer], dtype=int)
        and not set("TZ") & set(axes[n_outer:])
    )
    if by_page:
        numbers = np.arange(len(series.pages)).reshape(shape[:n_outer])
    else:
        whole = tif.asarray(series=0, maxworkers=1)

    def plane(t: int, z: int) -> np.ndarray:
        at = tuple({"T": t, "Z": z}.get(axis, slice(None)) for axis in axes)
        if not by_page:
            return whole[at]
        pages = np.asarray(numbers[at[:n_outer]])
        pixels = tif.asarray(key=pages.ravel().tolist(), series=0, maxworkers=1)
        return pixels.reshape(*pages.shape, *page)

    def moment(t: int) -> np.ndarray:
        return project((plane(t, z) for z in depths), planes.z)

    return project(map(moment, times), planes.t), rest


def tell_doubtful(path: str) -> None:
    """Warn of a file whose channels nobody has named, and which may be none."""
    n, is_alpha = 1, False
    if path.lower().endswith((".tif", ".tiff")):
        with tifffile.TiffFile(path) as tif:
            axes = zip(tif.series[0].axes, tif.series[0].shape, strict=True)
            n = max((n for axis, n in axes if axis in "QI"), default=1)
            is_alpha = tif.series[0].keyframe.extrasamples[-1:] in _TIFF_ALPHA
    else:
        with open(path, "rb") as file:
            head = file.read(26)
        is_alpha = head[:8] == _PNG_MAGIC and head[25] in _PNG_ALPHA
    if n > 1:
        warn(
            f"{path!r} does not say what its {n} pages are: they are taken for "
            "channels. Name these by `channels`; where pages are planes or time "
            "points, choose by `z` or `t`."
        )
    if is_alpha:
        warn(
            f"{path!r} calls its last channel alpha, which is how opaque a picture is: "
            "it is taken for a channel like the others. If it is a stain, name all by "
            "`channels`; if not, leave it out by X.with_channels, or save the files "
            "without it."
        )


def _channel_names(root: ElementTree.Element | None) -> Names:
    """What OME-XML calls the channels of its one image, if each has a name."""
    if root is None or any(other_files("", root)):
        return ()  # which of the pages are whose is not to be known here
    described = list(root.iterfind("{*}Image"))
    if len(described) != 1:
        return ()
    found = [one.get("Name") for one in described[0].iterfind("{*}Pixels/{*}Channel")]
    names = tuple(name for name in found if name)
    return names if len({*names}) == len(found) else ()


# Pages without a name are planes where planes are asked for and none have the name.
def _named_axes(axes: str, shape: tuple[int, ...], planes: Planes) -> str:
    asked = [axis for axis in "zt" if getattr(planes, axis) is not None]
    unnamed = [k for k, a in enumerate(axes) if a in "QI" and shape[k] > 1]
    named = set("ZT") & {a for a, n in zip(axes, shape, strict=True) if n > 1}
    if len(asked) == 2 and unnamed and not named:
        raise PlaneError(
            f"holds {shape[unnamed[0]]} pages without names, which can be planes or "
            "time points: pass z for the first or t for the second, not both."
        )
    if len(asked) != 1 or len(unnamed) != 1 or asked[0].upper() in named:
        return axes
    name = asked[0].upper()
    axes = axes.replace(name, "Q")  # an axis of one plane
    return axes[: unnamed[0]] + name + axes[unnamed[0] + 1 :]


# Pillow takes as much memory as a broken chunk says it is long.
def _check_chunks(path: str) -> None:
    with open(path, "rb") as file:
        n_held = file.seek(0, os.SEEK_END)
        place = len(_PNG_MAGIC)
        while place < n_held:
            file.seek(place)
            length = int.from_bytes(file.read(4), "big")
            place += length + 12
            if file.read(4) == b"IEND":
                return
            if place > n_held:
                raise ValueError(
                    f"the file is truncated: it holds {n_held} of at least {place} "
                    "bytes"
                )


def _read_pillow(path: str, byte_limit: int) -> tuple[np.ndarray, str]:
    with needed(f"Reading {path!r} needs Pillow. Install it: {INSTALL}."):
        from PIL import Image
    with Image.open(path) as picture:
        n_frames = getattr(picture, "n_frames", 1)
        if n_frames > 1:
            raise ValueError(f"it holds {n_frames} frames, not one image")
        mode = picture.mode
        n_bytes_a_value = 4 if mode in ("I", "F") else 2 if mode[:4] == "I;16" else 1
        n_values = picture.width * picture.height * len(picture.getbands())
        check_promise(n_values * n_bytes_a_value, byte_limit)
        array = np.asarray(picture.convert("RGB") if mode in ("P", "PA") else picture)
        # Pillow before version 11 widens 16-bit grey PNG to 32 bits.
        if mode == "I" and picture.format == "PNG":
            array = array.astype(np.uint16)
    return array, "YXS"[: array.ndim]


# Pillow drops the low byte of colour PNGs with 16 bits a channel.
def _read_deep_png(path: str, head: bytes, byte_limit: int) -> tuple[np.ndarray, str]:
    kind = f"{path!r}, a colour PNG of 16 bits a channel,"
    with needed(f"Reading {kind} needs imagecodecs. Install it: {INSTALL}."):
        from imagecodecs import png_decode
    width, height = (int.from_bytes(head[k : k + 4], "big") for k in (16, 20))
    check_promise(width * height * 8, byte_limit)
    with open(path, "rb") as file:
        array = png_decode(file.read())
    return array, "YXS"[: array.ndim]


def _as_channels_first(array: np.ndarray, axes: str) -> np.ndarray:
    if array.dtype.kind not in "buif":
        raise ValueError(f"its values are of type {array.dtype}, not real numbers")
    if "Y" not in axes or "X" not in axes or array.size == 0:
        raise ValueError(f"axes {axes!r} of shape {array.shape} make no image")
    outer = [
        axis
        for axis, length in zip(axes, array.shape, strict=True)
        if axis not in "YX" and length > 1
    ]
    if len(outer) > 1:
        raise ValueError(
            f"axes {axes!r} of shape {array.shape} are more than a channel, a row and "
            "a column axis"
        )
    array = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (-2, -1))
    array = array.reshape(-1, *array.shape[-2:])
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
