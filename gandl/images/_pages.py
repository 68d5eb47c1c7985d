"""Images whose planes are pages of TIFF files, one or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tifffile

from gandl.images._ome_tiff import OmeImage
from gandl.images._planes import Planes, project
from gandl.images._readers import check_promise, unreadable
from gandl.images._sources import Reader, Source, check_unchanged, common_folder, stamp
from gandl.images._state import Packed
from gandl.images._tiff_checks import check_extent

_MAX_OPEN = 32  # files of one image at a time


@dataclass(frozen=True)
class PageSource(Packed):
    folder: str  # the common beginning of all paths
    names: np.ndarray  # (files,)
    sizes: np.ndarray  # (files,) in bytes
    mtimes: np.ndarray  # (files,) in nanoseconds
    file_of: np.ndarray  # (n, C, T, Z), -1 where an image has fewer planes than others
    offsets: np.ndarray  # (n, C, T, Z) where in the file the page is described
    size: tuple[int, int]
    page_dtype: np.dtype
    planes: Planes
    byte_limit: int

    @classmethod
    def from_images(
        cls, images: Sequence[OmeImage], planes: Planes, byte_limit: int
    ) -> PageSource:
        """Take note of where all pages are; all images are like the first."""
        first = images[0]
        for image in images:
            check_promised(image, byte_limit)
        paths = sorted({path for image in images for path in image.files.flat})
        numbers = {path: k for k, path in enumerate(paths)}
        shape = np.max([image.files.shape for image in images], axis=0)
        file_of = np.full((len(images), *shape), -1, dtype=np.int32)
        offsets = np.zeros((len(images), *shape), dtype=np.int64)
        for k, image in enumerate(images):
            c, t, z = image.files.shape
            files = [numbers[path] for path in image.files.flat]
            file_of[k, :c, :t, :z] = np.reshape(files, (c, t, z))
            offsets[k, :c, :t, :z] = image.offsets
        folder = common_folder(paths)
        stamps = np.array([stamp(path) for path in paths], dtype=np.int64)
        return cls(
            folder,
            np.array([path[len(folder) :] for path in paths], dtype=object),
            stamps[:, 0],
            stamps[:, 1],
            file_of,
            offsets,
            first.size,
            first.dtype,
            planes,
            byte_limit,
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (*self.file_of.shape[:2], *self.size)

    @property
    def dtype(self) -> np.dtype:
        return self.planes.projected_dtype(self.page_dtype)

    def file_sizes(self) -> np.ndarray:
        files = self.file_of.reshape(len(self.file_of), -1)
        return np.where(files >= 0, self.sizes[files], 0)

    def reader(self, channels: list[int]) -> Reader:
        return lambda row: self._read(row, channels)

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        used, rows = np.unique(rows, return_inverse=True)
        if len(used) == len(self.file_of):
            return self, rows
        file_of = self.file_of[used]
        files, numbers = np.unique(file_of[file_of >= 0], return_inverse=True)
        file_of[file_of >= 0] = numbers
        source = replace(
            self,
            names=self.names[files],
            sizes=self.sizes[files],
            mtimes=self.mtimes[files],
            file_of=file_of,
            offsets=self.offsets[used],
        )
        return source, rows

    def _read(self, row: int, channels: list[int]) -> np.ndarray:
        image = np.empty((len(channels), *self.size), self.dtype)
        with _Files(self) as files:
            for place, channel in enumerate(channels):
                image[place] = project(
                    self._moments(files, row, channel), self.planes.t
                )
        return image

    def _moments(self, files: _Files, row: int, channel: int) -> Iterator[np.ndarray]:
        for here, at in zip(
            self.file_of[row, channel], self.offsets[row, channel], strict=True
        ):
            there = here >= 0
            if there.any():
                pages = map(files.page, here[there].tolist(), at[there].tolist())
                yield project(pages, self.planes.z)


def check_promised(image: OmeImage, byte_limit: int) -> None:
    n_pixels = image.files.shape[0] * image.size[0] * image.size[1]
    try:
        check_promise(n_pixels * image.dtype.itemsize, byte_limit)
    except ValueError as exc:
        raise unreadable(image.path, exc) from exc


class _Files:
    """Files of an image, each opened once and closed together."""

    def __init__(self, source: PageSource) -> None:
        self.source = source
        self.opened: dict[int, Any] = {}
        self.stack = ExitStack()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def page(self, number: int, offset: int) -> np.ndarray:
        source = self.source
        path = source.folder + source.names[number]
        if number not in self.opened:
            check_unchanged(path, int(source.sizes[number]), int(source.mtimes[number]))
        try:
            return self._page(self._open(number, path), offset)
        # The libraries answer a damaged file with errors of any type.
        except Exception as exc:
            raise unreadable(path, exc) from exc

    def _open(self, number: int, path: str) -> Any:
        if number not in self.opened:
            if len(self.opened) == _MAX_OPEN:
                self.stack.close()
                self.opened.clear()
            self.opened[number] = self.stack.enter_context(tifffile.TiffFile(path))
        return self.opened[number]

    def _page(self, tif: Any, offset: int) -> np.ndarray:
        tif.filehandle.seek(offset)
        page = tifffile.TiffPage(tif, index=0)
        size, dtype = self.source.size, self.source.page_dtype
        if page.shape != size or page.dtype != dtype:
            raise ValueError(
                f"a page has shape {page.shape} and type {page.dtype}, the "
                f"collection's first {size} and {dtype}"
            )
        check_extent(tif, [page])
        pixels = page.asarray(maxworkers=1)
        return pixels.astype(dtype, copy=False)
