"""Images of any size to batches of the training size, scaled to [-1, 1]."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from joblib import cpu_count

from gandl.images import ImageCollection, image_range, scale_intensity

T = TypeVar("T")

# Collections up to this size are read once and kept while training.
_CACHE_BYTES = 2**30
_READ_BYTES = 2**25  # of whole images in memory, while crops are cut from them
# Threads that read files ahead, at least and at most: on two cores as well some decode
# while others wait for the disk.
READERS = 4, 16
_ORDER, _CROPS = 0, 1  # streams of random numbers of one seed


def load_scaled(
    images: ImageCollection,
    rows: np.ndarray,
    intensity_range: np.ndarray | None,
    look: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Read ``rows`` and scale them to [-1, 1], float32 (k, C, H, W).

    ``intensity_range`` is (C, 2) for all, (n, C, 2) for each row, or None for each
    image's own. ``look`` is shown the images before.
    """
    batch = images.load_batch(rows)
    if look:
        look(batch)
    return scale_intensity(batch, _ranges(batch, rows, intensity_range), rows=rows)


def _ranges(
    batch: np.ndarray, rows: np.ndarray, intensity_range: np.ndarray | None
) -> np.ndarray:
    if intensity_range is None:
        return image_range(batch, rows=rows)
    return intensity_range if intensity_range.ndim == 2 else intensity_range[rows]


def pad_to(images: np.ndarray, size: int) -> np.ndarray:
    """Surround (k, C, H, W) by darkness (-1) where H or W is below ``size``."""
    missing = [max(0, size - extent) for extent in images.shape[2:]]
    if not any(missing):
        return images
    margins = [(m // 2, m - m // 2) for m in missing]
    return np.pad(images, [(0, 0), (0, 0), *margins], constant_values=-1.0)


def tile_starts(extent: int, size: int) -> np.ndarray:
    """First pixels of evenly spaced tiles that cover ``extent``.

    Up to an eighth of a tile is left out at either border rather than embedding a
    whole row of tiles for it.
    """
    n_tiles = max(1, -(-(extent - size // 4) // size))
    margin = max(0, extent - n_tiles * size) // 2
    step = size if n_tiles * size <= extent else (extent - size) / (n_tiles - 1)
    return margin + (np.arange(n_tiles) * step).round().astype(int)


def n_tiles_of(extents: Sequence[int], size: int) -> int:
    """How many tiles an image of a height and width is cut into, padded if smaller."""
    return math.prod(len(tile_starts(max(n, size), size)) for n in extents)


def tiles(image: np.ndarray, size: int) -> np.ndarray:
    """Tiles (k, C, size, size) of one image (C, H, W), at least ``size`` each way."""
    return np.stack(
        [
            image[:, top : top + size, left : left + size]
            for top in tile_starts(image.shape[1], size)
            for left in tile_starts(image.shape[2], size)
        ]
    )


def _random_corners(
    n: int, extent: tuple[int, ...], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Top and left (n, 2) of crops of n images of some height and width."""
    tops, lefts = (rng.integers(0, e - min(size, e) + 1, n) for e in extent)
    return np.stack([tops, lefts], axis=1)


def _crops_at(corners: np.ndarray, images: np.ndarray, size: int) -> np.ndarray:
    n, n_channels, *extent = images.shape
    height, width = (min(size, e) for e in extent)
    crops = np.empty((n, n_channels, height, width), dtype=images.dtype)
    for crop, image, (top, left) in zip(crops, images, corners, strict=True):
        crop[:] = image[:, top : top + height, left : left + width]
    return crops


def shuffled_rows(
    n_rows: int, batch_size: int, seed: Sequence[int], first: int = 0
) -> Iterator[np.ndarray]:
    """Row numbers of batch ``first`` and all later ones: each row once in every pass.

    A batch depends on its number alone, not on those drawn before.
    """
    passes: dict[int, np.ndarray] = {}
    for step in itertools.count(first):
        start = step * batch_size
        needed = range(start // n_rows, (start + batch_size - 1) // n_rows + 1)
        passes = {
            k: passes[k]
            if k in passes
            else np.random.default_rng([*seed, _ORDER, k]).permutation(n_rows)
            for k in needed
        }
        # Cut first: a pass over a million rows is not to be copied for every batch.
        ends = ((start - k * n_rows, start + batch_size - k * n_rows) for k in passes)
        cuts = [slice(max(0, begin), end) for begin, end in ends]
        yield np.concatenate(
            [order[cut] for order, cut in zip(passes.values(), cuts, strict=True)]
        )


def training_batches(
    images: ImageCollection,
    intensity_range: np.ndarray | None,
    *,
    size: int,
    batch_size: int,
    seed: Sequence[int],
    first: int = 0,
    rows: np.ndarray | None = None,
    share: np.ndarray | None = None,
) -> Generator[np.ndarray]:
    """Endless shuffled batches (batch_size, C, size, size), float32, in [-1, 1].

    A batch, its crops too, depends on its number alone, so that training continues
    at any; ``first`` is where to begin. ``rows`` are those to draw from, all if None.
    ``share`` are the places in a batch to read, the others being read elsewhere.
    """
    if images.nbytes <= _CACHE_BYTES and n_readers(images) > 1:
        pixels = images.load_batch(slice(None), n_jobs=n_readers(images))
        images = ImageCollection.from_array(pixels)

    among = np.arange(len(images)) if rows is None else rows
    share = np.arange(batch_size) if share is None else share
    n_read = max(1, _READ_BYTES // max(1, images.nbytes // len(images)))

    def load(item: tuple[int, np.ndarray]) -> np.ndarray:
        step, places = item
        rng = np.random.default_rng([*seed, _CROPS, step])
        # Drawn for all of the batch, whoever reads it.
        pieces = np.split(places, range(n_read, batch_size, n_read))
        extent = images.shape[2:]
        drawn = [_random_corners(len(piece), extent, size, rng) for piece in pieces]
        corners = np.concatenate(drawn)[share]
        chosen = among[places[share]]
        parts = []
        # Of large images, which are read whole, a few at a time.
        for start in range(0, len(chosen), n_read):
            some = chosen[start : start + n_read]
            batch = images.load_batch(some)
            ranges = _ranges(batch, some, intensity_range)
            crops = _crops_at(corners[start : start + n_read], batch, size)
            parts.append(scale_intensity(crops, ranges, rows=some))
        return pad_to(np.concatenate(parts), size)

    order = shuffled_rows(len(among), batch_size, seed, first)
    n_threads = n_readers(images)
    return read_ahead(load, enumerate(order, first), n_threads, n_threads)


def n_readers(images: ImageCollection) -> int:
    """How many threads read ahead: one a core where there are files to decode."""
    if images._source.file_sizes() is None:
        return 1
    if multiprocessing.parent_process() is not None:  # others have cores, too
        return READERS[0]
    n_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's, on this machine
    return int(np.clip(cpu_count() // n_ranks, *READERS))


def reading_order(images: ImageCollection, n: int, most: int) -> list[np.ndarray]:
    """Row numbers that are read at a time: ``n``, or all tiles of an image, up to most.

    Tiles side by side that are cut from one image are read together: its file once.
    """
    rows = np.arange(len(images))
    if images._offsets is None:
        return np.split(rows, range(n, len(rows), n))
    of_one_image = np.split(rows, np.flatnonzero(np.diff(images._rows)) + 1)
    return [
        p
        for tiles in of_one_image
        for p in np.split(tiles, range(most, len(tiles), most))
    ]


def regrouped(parts: Iterable[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Put arrays together, and yield n of their items at a time, less at the end."""
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        while sum(map(len, held)) >= n:
            whole = np.concatenate(held) if len(held) > 1 else held[0]
            held = [whole[n:]] if len(whole) > n else []
            yield whole[:n]
            del whole
    if held:
        yield np.concatenate(held)


def read_ahead(
    function: Callable[[Any], T],
    items: Iterable[Any],
    n_threads: int = 1,
    n_ahead: int = 1,
) -> Generator[T]:
    """Map ``function`` over ``items`` in order, some items ahead, in threads."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(n_threads) as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > n_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
