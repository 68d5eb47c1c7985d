"""The trained networks over many images: embedding, tile by tile, and drawing."""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch

from gandl._batches import (
    READERS,
    load_scaled,
    n_readers,
    n_tiles_of,
    pad_to,
    read_ahead,
    reading_order,
    regrouped,
    tiles,
)
from gandl._tensors import upload
from gandl.gan import Discriminator, Generator
from gandl.images import ImageCollection

# Images or tiles at once, unless they are large. For images of one shape, the same in
# every call: a row's bits do not depend on how many come with it.
BATCH = 32
_DRAWING = 1  # tells the stream of random numbers from others of the same seed
_TILE_PIXELS = BATCH * 128**2
# Unless one image is larger: what goes through the network at a time, what a thread
# reads at a time, and what is read ahead.
_CHUNK_BYTES, _PIECE_BYTES, _AHEAD_BYTES = 2**25, 2**24, 2**27
# A GPU is through with a batch of a processor before the next operations are launched:
# so many times as many tiles at once there, from so many times as many bytes.
_GPU_TILES, _GPU_CHUNKS = 16, 8


def embed(
    network: Discriminator,
    images: ImageCollection,
    intensity_range: np.ndarray | None,
    *,
    features: str | int,
    size: int,
    device: str,
    n_views: int = 1,
    whitening: tuple[np.ndarray, np.ndarray] | None = None,
    look: Callable[[np.ndarray], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> np.ndarray:
    """Embed images (n, C, H, W) by the mean over their views: (n, d), float32.

    Views are an image's tiles and, where these are fewer than ``n_views``, their flips
    and turns. ``whitening`` is a mean to subtract and a matrix to multiply with.
    ``look`` is shown the images as they are, some at a time.
    """
    n_images, n_tiles = at_once(images, size, device)
    affine = whitening and [torch.from_numpy(np.array(a)).to(device) for a in whitening]
    loaded = _cut(images, intensity_range, size, n_images, look)
    embedded = []
    own_types = torch.autocast(torch.device(device).type, enabled=False)
    with torch.inference_mode(), own_types, closing(loaded):
        for batch in regrouped(loaded, n_images):
            tiles_each = batch.shape[1]
            n_turns = min(8, -(-n_views // tiles_each))
            parts = []
            for part in torch.from_numpy(batch).flatten(0, 1).split(n_tiles):
                filled = upload(_filled(part, n_tiles), device)
                views = [network.embed(t, features) for t in turned(filled, n_turns)]
                parts.append(torch.stack(views).mean(dim=0)[: len(part)])
            per_image = torch.cat(parts).unflatten(0, (-1, tiles_each)).mean(dim=1)
            if affine:
                mean, matrix = affine
                # Row by row: in a product of matrices, bits depend on a row's place.
                per_image = torch.stack([row @ matrix for row in per_image - mean])
            embedded.append(per_image)
            # Those before: a GPU is not waited for while the next are read.
            embedded[-2:-1] = [rows.cpu() for rows in embedded[-2:-1]]
            if progress and len(images) > n_images:
                n = min(len(embedded) * n_images, len(images))
                progress(n / len(images), f"{n:,} of {len(images):,} images embedded")
    return torch.cat([rows.cpu() for rows in embedded]).numpy()


def _cut(
    images: ImageCollection,
    intensity_range: np.ndarray | None,
    size: int,
    n: int,
    look: Callable[[np.ndarray], None] | None = None,
) -> abc.Generator[np.ndarray]:
    """Read ahead and cut to tiles: (k, tiles, C, size, size), k some of n images."""

    def load(rows: np.ndarray) -> np.ndarray:
        scaled = load_scaled(images, rows, intensity_range, look)
        return np.stack([tiles(image, size) for image in pad_to(scaled, size)])

    most = _images_in(_AHEAD_BYTES, images)
    pieces = reading_order(images, min(n, _images_in(_PIECE_BYTES, images)), most)
    n_threads = n_readers(images)
    # The bytes are those of the least number of readers.
    n_ahead = max(1, most * max(1, n_threads // READERS[0]) // max(map(len, pieces)))
    return read_ahead(load, pieces, n_threads, min(n_ahead, 2 * n_threads))


def at_once(images: ImageCollection, size: int, device: str) -> tuple[int, int]:
    """How many images, and how many of their tiles, the network sees at once."""
    most, n_tiles = _images_in(_CHUNK_BYTES, images), tiles_at_once(size)
    if torch.device(device).type == "cpu":
        return min(BATCH, most), n_tiles
    each = n_tiles_of(images.shape[2:], size)
    most = min(BATCH * _GPU_TILES, most * _GPU_CHUNKS)
    # In a number that kernels like.
    n_tiles = min(n_tiles * _GPU_TILES, 2 ** ((most * each).bit_length() - 1))

    def tiles_of_an_image(n: int) -> float:  # with those that fill the last batch up
        return -(-n * each // n_tiles) * n_tiles / n

    return min(range(most, 0, -1), key=tiles_of_an_image), n_tiles


def _images_in(n_bytes: int, images: ImageCollection) -> int:
    return max(1, n_bytes // (4 * math.prod(images.shape[1:])))


def tiles_at_once(size: int) -> int:
    """How many tiles of a size fit into a batch."""
    return max(1, min(BATCH, _TILE_PIXELS // size**2))


def take(
    function: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    n: int,
) -> np.ndarray:
    """What a function makes of the first n images of batches (k, C, size, size)."""
    made: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            made.append(function(batch).cpu())
            if sum(map(len, made)) >= n:
                break
    return torch.cat(made)[:n].numpy()


def draw(
    network: Generator, n: int, seed: int, *, truncation: float = 1.0
) -> Iterator[torch.Tensor]:
    """Draw n images from -1 to 1 in batches, on the network's device."""
    device = network.constant.device
    # A stream of its own: seeded as the training was, latents would repeat the draws
    # of the mapping network's weights, and images come out glaring.
    own = int(np.random.SeedSequence([seed, _DRAWING]).generate_state(1)[0])
    rng = torch.Generator(device).manual_seed(own)
    for start in range(0, n, BATCH):
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            images = network(min(BATCH, n - start), rng, truncation=truncation)
        yield images.clamp(-1, 1)


def turned(images: torch.Tensor, n: int) -> Iterator[torch.Tensor]:
    """The first n of the eight flips and turns of square images (N, C, H, W).

    In an order in which the first two, and the first four, are spread evenly.
    """
    for k in range(n):
        flipped, turns = images.flip(3) if k >= 4 else images, (0, 2, 1, 3)[k % 4]
        # Not turned by nothing, which would copy every batch of a single view.
        yield torch.rot90(flipped, turns, dims=(2, 3)) if turns else flipped


def _filled(batch: torch.Tensor, n: int) -> torch.Tensor:
    missing = n - len(batch)
    return torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
