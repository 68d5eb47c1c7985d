"""Uneven illumination: fields that the pixels of an image are divided by.

A field is 1 on average, or whatever a file says, and is divided out when an image is
read. The result is floating point, so that nothing is rounded or clipped: a pixel in a
dark corner may come out brighter than the type of the file could say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.polynomial.legendre import legvander
from scipy.io import loadmat, whosmat

from gandl.images._intensity import check_finite
from gandl.images._readers import read_image
from gandl.images._sources import Reader, Source, check_unchanged, stamp
from gandl.images._state import Packed

# A logarithm of up to this degree follows the fall-off of a lens and an uneven lamp.
# Sampled on a grid that is finer than it, yet so coarse that cells average out.
_DEGREE = 4
_GRID = 16
_DARKEST = 0.1
# Files of fields that a reader keeps: those of the channels of a plate or two.
_KEPT = 16

_REMEDY = "Mend or restore it, or pass illumination=False."

Look = Callable[[int, int], "np.ndarray | None"]


class Fields(Protocol):
    """One field for each group of images and channel, (H, W), or None."""

    def look(self, shape: tuple[int, int]) -> Look: ...

    def take(self, groups: np.ndarray) -> Fields: ...


@dataclass(frozen=True)
class SmoothFields:
    coefficients: np.ndarray  # (groups, C, degree + 1, degree + 1) of the logarithm

    def look(self, shape: tuple[int, int]) -> Look:
        rows, columns = (_basis(np.arange(n), n).astype(np.float32) for n in shape)
        coefficients = self.coefficients.astype(np.float32)

        def field(group: int, channel: int) -> np.ndarray:
            return np.exp(rows @ coefficients[group, channel] @ columns.T)

        return field

    def take(self, groups: np.ndarray) -> SmoothFields:
        return SmoothFields(self.coefficients[groups])


@dataclass(frozen=True)
class FieldFiles(Packed):
    paths: np.ndarray  # (groups, C), "" where there is none
    sizes: np.ndarray
    mtimes: np.ndarray

    @classmethod
    def from_paths(cls, paths: np.ndarray) -> FieldFiles:
        stamps = [stamp(path) if path else (0, 0) for path in paths.ravel()]
        sizes, mtimes = np.array(stamps, dtype=np.int64).T
        return cls(paths, sizes.reshape(paths.shape), mtimes.reshape(paths.shape))

    def look(self, shape: tuple[int, int]) -> Look:
        # Of the reader that asks, so that it is in no pickle.
        read = lru_cache(_KEPT)(read_field)

        def field(group: int, channel: int) -> np.ndarray | None:
            path = self.paths[group, channel]
            if not path:
                return None
            check_unchanged(
                path, int(self.sizes[group, channel]), int(self.mtimes[group, channel])
            )
            return read(path, shape)

        return field

    def take(self, groups: np.ndarray) -> FieldFiles:
        return FieldFiles(self.paths[groups], self.sizes[groups], self.mtimes[groups])


def read_field(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Read an illumination function as CellProfiler writes it: .npy, .mat or image."""
    field = _open_field(path, shape)
    if not (field.min() > 0 and field.max() < np.inf):  # NaN is neither
        raise ValueError(
            f"The illumination function {path!r} has values that are not above zero "
            f"and finite: images cannot be divided by it. {_REMEDY}"
        )
    return field


def _open_field(path: str, shape: tuple[int, int]) -> np.ndarray:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".npy", ".mat"):
        field = read_image(path)[0]
    else:
        try:
            # Mapped: its shape is known without reading it.
            field = (
                np.load(path, mmap_mode="r", allow_pickle=False)
                if suffix == ".npy"
                else _mat_image(path, shape)
            )
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"Cannot read the illumination function {path!r}: {error}. {_REMEDY}"
            ) from error
    if field.shape != shape or field.dtype.kind not in "uif":
        raise ValueError(
            f"The illumination function {path!r} has the shape {field.shape} and type "
            f"{field.dtype}, where numbers of {shape} are needed, as images have. "
            f"{_REMEDY}"
        )
    return field


def _mat_image(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The variable that CellProfiler writes images as into a file of MATLAB."""
    try:
        # Its shape before its pixels: little of a file may promise much.
        held = {name: of for name, of, _ in whosmat(path)}.get("Image")
        if held == shape:
            return np.asarray(loadmat(path, variable_names="Image")["Image"])
    # The library answers a damaged file with errors of any type.
    except Exception as error:
        raise ValueError(f"it is no file of MATLAB, or damaged ({error})") from None
    raise ValueError(f'its variable "Image" has the shape {held}, not {shape}')


@dataclass(frozen=True)
class CorrectedSource:
    source: Source
    fields: Fields
    group_of: np.ndarray  # (n,) of each row of the source, -1: of no group

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(self.source.dtype, np.float32)

    def reader(self, channels: list[int]) -> Reader:
        read = self.source.reader(channels)
        look = self.fields.look(self.shape[2:])

        def corrected(row: int) -> np.ndarray:
            image = read(row).astype(self.dtype)
            for pixels, channel in zip(image, channels, strict=True):
                field = look(int(self.group_of[row]), channel)
                if field is not None:
                    np.divide(pixels, field, out=pixels, casting="same_kind")
            return image

        return corrected

    def file_sizes(self) -> np.ndarray | None:
        return self.source.file_sizes()

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        source, places = self.source.restrict(rows)
        used, groups = np.unique(self.group_of[rows], return_inverse=True)
        group_of = np.full(source.shape[0], -1, np.int32)
        group_of[places] = groups
        return CorrectedSource(source, self.fields.take(used), group_of), places


def illumination_groups(source: Source) -> np.ndarray | None:
    """Which rows of a source (n,) are divided by the same fields, if any are."""
    while not isinstance(source, CorrectedSource):
        inner = getattr(source, "source", None)  # of channels that are mapped
        if inner is None:
            return None
        source = inner
    return source.group_of


def with_functions(source: Source, paths: np.ndarray) -> Source:
    """Divide each image by the functions in files, (n, C), "" where there is none."""
    rows = [tuple(row) for row in paths]
    groups = {row: group for group, row in enumerate(dict.fromkeys(rows))}
    unique = np.array([list(row) for row in groups], dtype=object)
    group_of = np.array([groups[row] for row in rows], dtype=np.int32)
    for path in dict.fromkeys(unique.ravel()):
        if path and not os.path.isfile(path):
            raise FileNotFoundError(
                f"There is no illumination function {path!r}. {_REMEDY}"
            )
        if path:
            _open_field(path, source.shape[2:])
    return CorrectedSource(source, FieldFiles.from_paths(unique), group_of)


def with_estimate(
    source: Source,
    channels: list[int],
    group_of: np.ndarray,
    used: list[np.ndarray],
    names: np.ndarray,
) -> Source:
    """Divide each image by a smooth field, estimated from some images of its group.

    The logarithm of a field is a polynomial of a degree up to 4, fitted to the median
    over images of the brightness of 16 x 16 blocks, each relative to its image's mean.

    ``group_of`` and ``names`` are the groups of the source's rows, and what errors
    call them; ``used`` are the rows to read of each group.
    """
    n_channels, *shape = source.shape[1:]
    coefficients = np.zeros((len(used), n_channels, _DEGREE + 1, _DEGREE + 1))
    read = source.reader(channels)
    edges = [np.linspace(0, n, min(_GRID, n) + 1).astype(int) for n in shape]
    for group, rows in enumerate(used):
        blocks = np.stack(
            [
                _block_means(check_finite(read(row), int(names[row])), edges)
                for row in rows.tolist()
            ]
        )
        for place, channel in enumerate(channels):
            coefficients[group, channel] = _field(blocks[:, place], edges)
    return CorrectedSource(source, SmoothFields(coefficients), group_of)


def _block_means(image: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    rows, columns = edges
    sums = np.add.reduceat(image, rows[:-1], axis=1, dtype=np.float64)
    sums = np.add.reduceat(sums, columns[:-1], axis=2)
    return sums / np.outer(np.diff(rows), np.diff(columns))


def _usual_blocks(blocks: np.ndarray) -> np.ndarray:
    """Brightness of blocks over images, (images, rows, columns), 1 on average."""
    means = blocks.mean(axis=(1, 2), keepdims=True)
    # Relative to the image, so that one with few cells says as much as one with many.
    relative = blocks / np.where(means > 0, means, 1.0)
    usual = np.median(relative, axis=0)
    if (usual < relative.mean(axis=0) / 2).any():
        # Cells on black: a block without any says nothing of the light.
        usual = blocks.mean(axis=0)
    mean = usual.mean()
    return np.maximum(usual / mean, _DARKEST) if mean > 0 else np.ones_like(usual)


def _field(blocks: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """Coefficients of a field, from blocks of shape (images, rows, columns)."""
    shape = [int(edge[-1]) for edge in edges]
    centres = [(edge[:-1] + edge[1:] - 1) / 2 for edge in edges]
    y, x = (_basis(c, n) for c, n in zip(centres, shape, strict=True))
    design = np.einsum("ri,cj->rcij", y, x)
    degree = 0
    if len(blocks) > 1:
        # That by which one half of the images tells the other: even light is left.
        halves = [np.log(_usual_blocks(half)) for half in (blocks[::2], blocks[1::2])]
        errors = [
            sum(
                np.square(np.tensordot(design, _fit(design, a, degree)) - b).sum()
                for a, b in (halves, halves[::-1])
            )
            for degree in range(_DEGREE + 1)
        ]
        degree = int(np.argmin(errors))
    fitted = _fit(design, np.log(_usual_blocks(blocks)), degree)
    y, x = (_basis(np.arange(n), n) for n in shape)
    fitted[0, 0] -= np.log(np.exp(y @ fitted @ x.T).mean())
    return fitted


def _fit(design: np.ndarray, values: np.ndarray, degree: int) -> np.ndarray:
    degrees = np.arange(_DEGREE + 1)
    terms = np.add.outer(degrees, degrees) <= degree
    fitted = np.zeros(terms.shape)
    columns = design[:, :, terms].reshape(values.size, -1)
    fitted[terms] = np.linalg.lstsq(columns, values.ravel())[0]
    return fitted


def _basis(positions: np.ndarray, length: int) -> np.ndarray:
    """Legendre polynomials at some pixels of a side, (positions, degree + 1)."""
    return legvander((2 * positions + 1) / length - 1, _DEGREE)
