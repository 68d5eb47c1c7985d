"""Images whose channels are sums of another collection's, computed as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gandl.images._collection import ImageCollection
from gandl.images._layouts import channel_names
from gandl.images._sources import Reader, Source


# The view whose channel i is ``weights[i] @ channels + offsets[i]``, in float32.
def map_channels(
    images: ImageCollection,
    names: Sequence[str],
    weights: np.ndarray,  # (C of the view, C of the images), none negative
    offsets: np.ndarray,  # (C of the view,)
) -> ImageCollection:
    ranges = images._group_ranges
    if ranges is not None:
        ranges = np.einsum("ij,gjk->gik", weights, ranges) + offsets[:, None]
    return images._replace(
        _source=MappedSource(images._source, tuple(images._picks), weights, offsets),
        _channels=channel_names(names, len(names)),
        _picks=list(range(len(names))),
        _group_ranges=ranges,
    )


# Which channels of images are of nothing, on purpose.
def filled_channels(images: ImageCollection) -> np.ndarray:
    source = images._source
    if not isinstance(source, MappedSource):
        return np.zeros(images.shape[1], dtype=bool)
    return np.array([not source.weights[k].any() for k in images._picks])


@dataclass(frozen=True)
class MappedSource:
    source: Source
    picks: tuple[int, ...]  # places in the source of what the weights are of
    weights: np.ndarray
    offsets: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        n, _, height, width = self.source.shape
        return n, len(self.weights), height, width

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def reader(self, channels: list[int]) -> Reader:
        weights, offsets = self.weights[channels], self.offsets[channels]
        used = np.flatnonzero(weights.any(axis=0))
        size = self.source.shape[2:]
        read = self.source.reader([self.picks[k] for k in used]) if len(used) else None

        def mapped(row: int) -> np.ndarray:
            image = np.empty((len(weights), *size), np.float32)
            parts = np.empty((0, *size)) if read is None else read(row)
            # Not a product of matrices: 0 times NaN would spoil other channels.
            for i, offset in enumerate(offsets):
                image[i] = offset + sum(
                    weight * part.astype(np.float64)
                    for weight, part in zip(weights[i, used], parts, strict=True)
                    if weight
                )
            return image

        return mapped

    def file_sizes(self) -> np.ndarray | None:
        return self.source.file_sizes()

    def restrict(self, rows: np.ndarray) -> tuple[Source, np.ndarray]:
        source, rows = self.source.restrict(rows)
        return replace(self, source=source), rows
