"""Images that are arrays in Zarr stores, read chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gandl.images._ome_zarr import ZarrImage, chunk_keys, open_array
from gandl.images._planes import Planes, project
from gandl.images._readers import REMEDY, check_promise, unreadable
from gandl.images._sources import Reader, Source, common_folder, restricted
from gandl.images._state import Packed

_METADATA = ("zarr.json", ".zarray")


@dataclass(frozen=True)
class ZarrSource(Packed):
    folder: str  # the common beginning of all paths
    names: np.ndarray  # (n,) paths of arrays
    places: np.ndarray  # (n, C) of the channels in the arrays
    sizes: np.ndarray  # (n, C) bytes of the chunks that a channel needs
    mtimes: np.ndarray  # (n, C) nanoseconds, of the latest of them
    axes: str
    size: tuple[int, int]
    array_dtype: np.dtype
    planes: Planes
    byte_limit: int
    fill_missing: bool

    @classmethod
    def from_images(
        cls,
        images: Sequence[ZarrImage],
        planes: Planes,
        byte_limit: int,
        fill_missing: bool,
    ) -> ZarrSource:
        """Take note of sizes and times of all chunks; all images are like the first."""
        first = images[0]
        paths = [image.path for image in images]
        n_channels = len(first.channels)
        folder = common_folder(paths)
        source = cls(
            folder,
            np.array([path[len(folder) :] for path in paths], dtype=object),
            np.array([image.places for image in images], dtype=np.int64),
            np.zeros((len(images), n_channels), np.int64),
            np.zeros((len(images), n_channels), np.int64),
            first.axes,
            first.size,
            first.dtype,
            planes,
            byte_limit,
            fill_missing,
        )
        for row, path in enumerate(paths):
            array = open_array(path)
            source._check_promise(path, array)
            for c in range(n_channels):
                stamped = source._stamp(path, array, source.places[row, c])
                source.sizes[row, c], source.mtimes[row, c] = stamped
        return source

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (*self.sizes.shape, *self.size)

    @property
    def dtype(self) -> np.dtype:
        return self.planes.projected_dtype(self.array_dtype)

    def file_sizes(self) -> np.ndarray:
        return self.sizes

    def reader(self, channels: list[int]) -> Reader:
        return lambda row: self._read(row, channels)

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        return restricted(self, rows, "names", "places", "sizes", "mtimes")

    def _check_promise(self, path: str, array: Any) -> None:
        chunk = int(np.prod(array.shards or array.chunks, dtype=object))
        image = self.sizes.shape[1] * self.size[0] * self.size[1]
        try:
            check_promise(max(chunk, image) * array.dtype.itemsize, self.byte_limit)
        except ValueError as exc:
            raise unreadable(path, exc) from exc

    # Along each axis, what is needed of an array for one channel.
    def _at(self, array: Any, channel: int) -> list[range]:
        length = dict(zip(self.axes, array.shape, strict=True))
        at = {axis: range(n) for axis, n in length.items()}
        for axis in "tz":
            at[axis] = self.planes.indices(axis, length.get(axis, 1))
        at["c"] = range(channel, channel + 1)
        return [at[axis] for axis in self.axes]

    # Bytes and latest time of the files that hold a channel.
    def _stamp(self, path: str, array: Any, channel: int) -> tuple[int, int]:
        files = [os.path.join(path, name) for name in _METADATA]
        statuses = [os.stat(file) for file in files if os.path.exists(file)]
        try:
            at = self._at(array, channel)
        except ValueError:  # of another shape than it was
            return -1, -1
        for key, _ in chunk_keys(array, at):
            try:
                statuses.append(os.stat(os.path.join(path, *key.split("/"))))
            except FileNotFoundError as exc:
                if not self.fill_missing:
                    raise FileNotFoundError(
                        f"{path!r} has no chunk {key!r}. Restore it, leave the image "
                        "out, or pass fill_missing=True if chunks of one value were "
                        "left out on purpose, as the format allows."
                    ) from exc
            except OSError as exc:
                raise unreadable(path, exc) from exc
        return (
            sum(status.st_size for status in statuses),
            max(status.st_mtime_ns for status in statuses),
        )

    def _read(self, row: int, channels: list[int]) -> np.ndarray:
        path = self.folder + self.names[row]
        array = open_array(path)
        for c in channels:
            now = self._stamp(path, array, self.places[row, c])
            if now != (self.sizes[row, c], self.mtimes[row, c]):
                raise ValueError(
                    f"{path!r} has changed since the collection was made. Make the "
                    "collection again to use the new store."
                )
        # Channels that share chunks are read together, each chunk once.
        sizes = dict(zip(self.axes, array.shards or array.chunks, strict=True))
        apart = sizes.get("c", 1) == 1
        image = np.empty((len(channels), *self.size), self.dtype)
        inside = self.places[row, channels].tolist()
        for group in [[c] for c in inside] if apart else [inside]:
            at = [inside.index(c) for c in group]
            image[at] = self._channels(path, array, group, sizes.get("z", 1))
        return image

    def _channels(
        self, path: str, array: Any, channels: list[int], n_z: int
    ) -> np.ndarray:
        length = dict(zip(self.axes, array.shape, strict=True))
        times, depths = (self.planes.indices(a, length.get(a, 1)) for a in "tz")
        first, last = min(channels), max(channels)

        def moment(t: int) -> Iterator[np.ndarray]:
            # As many planes at a time as a chunk has.
            start = depths.start
            while start < depths.stop:
                stop = min(depths.stop, (start // n_z + 1) * n_z)
                at = {"t": t, "c": slice(first, last + 1), "z": slice(start, stop)}
                part = self._part(path, array, at)
                yield from part[:, [c - first for c in channels]]
                start = stop

        moments = (project(moment(t), self.planes.z) for t in times)
        return project(moments, self.planes.t)

    # A part of the array as (Z, C, H, W).
    def _part(self, path: str, array: Any, at: dict[str, Any]) -> np.ndarray:
        key = tuple(at.get(axis, slice(None)) for axis in self.axes)
        try:
            part = np.asarray(array[key])
        # The libraries answer a damaged chunk with errors of any type.
        except Exception as exc:
            raise self._culprit(path, array, at, exc) from exc
        left = [axis for axis in self.axes if axis != "t"]
        for axis in "zc":
            if axis not in left:
                part, left = part[None], [axis, *left]
        return part.transpose([left.index(axis) for axis in "zcyx"])

    def _culprit(
        self, path: str, array: Any, at: dict[str, Any], error: Exception
    ) -> ValueError:
        needed = [
            range(array.shape[k])[at.get(axis, slice(None))]
            for k, axis in enumerate(self.axes)
        ]
        needed = [range(n, n + 1) if isinstance(n, int) else n for n in needed]
        for key, part in chunk_keys(array, needed):
            try:
                array[part]
            except Exception as exc:
                reason = str(exc).rstrip(".") or type(exc).__name__
                return ValueError(
                    f"Cannot read {path!r}: chunk {key!r} is broken: {reason}. {REMEDY}"
                )
        return unreadable(path, error)
