"""Where the pixels of a collection lie: in memory, in a mapped file, in image files.

A source is immutable. ``reader(channels)`` gives a function from a row to an array
(C, H, W); ``restrict(rows)`` leaves out what the rows do not need, so that the
pickle and the hash of a view depend on the view alone.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gandl.images._channel_order import Names, arranged, names_of_first
from gandl.images._planes import Planes, project
from gandl.images._readers import REMEDY, named, read_planes
from gandl.images._state import Packed

Reader = Callable[[int], np.ndarray]


class Source(Protocol):
    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def reader(self, channels: list[int]) -> Reader: ...

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]: ...

    # Bytes of the files of each row (n, ...); None where pixels lie at hand.
    def file_sizes(self) -> np.ndarray | None: ...


def array_source(images: np.ndarray) -> Source:
    backing = _backing_memmap(images)
    if backing is None or images.size == 0:
        return ArraySource(images)
    return MemmapSource.from_memmap(images, backing)


@dataclass(frozen=True)
class ArraySource:
    array: np.ndarray

    def __post_init__(self) -> None:
        # joblib hashes classes and strides: a plain array with the strides that a
        # pickle round trip gives.
        array = np.asarray(self.array)
        if array.flags.c_contiguous:
            array = array.reshape(-1).reshape(array.shape)
        object.__setattr__(self, "array", array)

    # NumPy unpickles in native byte order: pickle, and hash, in it as well.
    def __reduce__(self) -> tuple[Any, ...]:
        array = np.ascontiguousarray(self.array, dtype=self.dtype)
        return ArraySource, (self.array if array is self.array else array,)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype.newbyteorder("=")

    def reader(self, channels: list[int]) -> Reader:
        return lambda row: self.array[row][channels]

    def file_sizes(self) -> None:
        return None

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        return restricted(self, rows, "array")


@dataclass(frozen=True)
class MemmapSource:
    path: str
    size: int
    mtime: int
    offset: int  # of the first byte in the file
    length: int  # bytes from the first to the last
    start: int  # of the first pixel, from the first byte
    shape: tuple[int, int, int, int]
    strides: tuple[int, ...]
    dtype_code: str

    @classmethod
    def from_memmap(cls, images: np.ndarray, backing: np.memmap) -> MemmapSource:
        if backing.mode != "r":
            backing.flush()
        path = os.path.abspath(os.fsdecode(backing.filename))  # type: ignore[arg-type]
        low, high = np.lib.array_utils.byte_bounds(images)
        mapped = np.lib.array_utils.byte_bounds(backing)[0]
        first_pixel = images.__array_interface__["data"][0]
        return cls(
            path,
            *stamp(path),
            offset=backing.offset + low - mapped,
            length=high - low,
            start=first_pixel - low,
            shape=images.shape,
            strides=images.strides,
            dtype_code=images.dtype.str,
        )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.dtype_code).newbyteorder("=")

    def reader(self, channels: list[int]) -> Reader:
        check_unchanged(self.path, self.size, self.mtime)
        raw = np.memmap(self.path, np.uint8, "r", self.offset, self.length)
        array: np.ndarray = np.ndarray(
            self.shape, self.dtype_code, raw, self.start, self.strides
        )
        return lambda row: array[row][channels]

    def file_sizes(self) -> None:
        return None

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        return self, rows


def _backing_memmap(array: Any) -> np.memmap | None:
    while array is not None:
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            # What was written to a copy-on-write map is in memory only; joblib's own
            # files, of large arrays handed to workers, are gone when these end.
            name = array.filename
            is_file = name is not None and array.mode != "c"
            is_lasting = "joblib_memmapping_folder" not in str(name)
            return array if is_file and is_lasting else None
        array = getattr(array, "base", None)
    return None


@dataclass(frozen=True)
class FileSource(Packed):
    folder: str  # the common beginning of all paths
    names: np.ndarray  # (n, K, T, Z), K of one file for all channels or one for each
    sizes: np.ndarray  # in bytes, shape of names
    mtimes: np.ndarray  # in nanoseconds, shape of names
    image_shape: tuple[int, int, int]
    file_dtype: np.dtype
    byte_limit: int
    inside: Planes  # of the planes in a file
    among: Planes  # of the files of an image
    told: Names  # what the first file calls its channels, in the order wanted
    asked: Names  # what the user calls them instead

    # Opens the first file; of all others takes note of size and time. Paths are
    # (n, K), or (n, K, T, Z) where an image's time points or planes are files.
    @classmethod
    def from_paths(
        cls,
        paths: np.ndarray,
        byte_limit: int,
        inside: Planes,
        among: Planes,
        channels: Names | None,
    ) -> FileSource:
        paths = paths.reshape(*paths.shape[:2], *(paths.shape[2:] or (1, 1)))
        flat = paths.ravel().tolist()
        stamps = np.array([stamp(path) for path in flat], dtype=np.int64)
        folder = common_folder(flat)
        names = np.array([path[len(folder) :] for path in flat], dtype=object)
        first, own = read_planes(flat[0], inside, byte_limit)
        n_channels = paths.shape[1] if paths.shape[1] > 1 else first.shape[0]
        if paths.shape[1] > 1 and first.shape[0] != 1:
            raise ValueError(
                f"{flat[0]!r} holds {first.shape[0]} channels, where one file a "
                "channel was announced. For files that hold all channels, name one "
                "column of paths, or a pattern without {channel}."
            )
        return cls(
            folder,
            names.reshape(paths.shape),
            stamps[:, 0].reshape(paths.shape),
            stamps[:, 1].reshape(paths.shape),
            (n_channels, *first.shape[1:]),
            first.dtype,
            byte_limit,
            inside,
            among,
            *names_of_first(flat[0], own, channels or ()),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.names), *self.image_shape)

    @property
    def dtype(self) -> np.dtype:
        return self.among.projected_dtype(self.file_dtype)

    def reader(self, channels: list[int]) -> Reader:
        if self.names.shape[1] == 1:
            return lambda row: self._read(row, 0)[channels]
        return lambda row: np.concatenate([self._read(row, c) for c in channels])

    def file_sizes(self) -> np.ndarray:
        return self.sizes

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        return restricted(self, rows, "names", "sizes", "mtimes")

    def _read(self, row: int, column: int) -> np.ndarray:
        n_times, n_depths = self.names.shape[2:]

        def moment(t: int) -> np.ndarray:
            depths = (self._read_file(row, column, t, z) for z in range(n_depths))
            return project(depths, self.among.z)

        return project(map(moment, range(n_times)), self.among.t)

    def _read_file(self, *place: int) -> np.ndarray:
        path = self.folder + self.names[place]
        check_unchanged(path, int(self.sizes[place]), int(self.mtimes[place]))
        image, own = read_planes(path, self.inside, self.byte_limit)
        n_channels = self.image_shape[0] if self.names.shape[1] == 1 else 1
        expected = (n_channels, *self.image_shape[1:])
        if image.shape != expected or image.dtype != self.file_dtype:
            raise ValueError(
                f"{path!r} holds an image of shape {image.shape} and type "
                f"{image.dtype}, where the collection's first file announces shape "
                f"{expected} and type {self.file_dtype}. Crop it where its "
                f"size differs; if it is the first that is odd, leave that one out. "
                f"{REMEDY}"
            )
        in_order = arranged(image, own, self.told, self.asked)
        if in_order is None:
            raise ValueError(
                f"{path!r} holds channels that it calls {list(own)}, where the "
                f"collection's first file has {list(self.told)}. If all files have one "
                f"order, name channels by `channels`, as no file does. {REMEDY}"
            )
        return in_order


def restricted(source: Any, rows: np.ndarray, *of_rows: str) -> tuple[Any, np.ndarray]:
    """The source of these rows alone, and where they are in it, by its arrays."""
    used, rows = np.unique(rows, return_inverse=True)
    if len(used) == source.shape[0]:
        return source, rows
    return replace(source, **{n: getattr(source, n)[used] for n in of_rows}), rows


def common_folder(paths: list[str]) -> str:
    # What the first and the last in order begin with, all between begin with.
    try:
        return os.path.commonpath([min(paths), max(paths)])
    except ValueError:  # on different drives
        return ""


def stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as exc:
        raise named(exc, path) from exc
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: str, size: int, mtime: int) -> None:
    if stamp(path) != (size, mtime):
        raise ValueError(
            f"{path!r} has changed since the collection was made. Make the collection "
            "again to use the new file."
        )
