"""The trained discriminator over many images, tile by tile."""

from __future__ import annotations

import math

import numpy as np
import torch

from gandl._batches import load_scaled, pad_to, read_ahead, tiles
from gandl.gan import Discriminator
from gandl.images import ImageCollection

# Images or tiles at once, unless they are large. For images of one shape, the same in
# every call: a row's bits do not depend on how many come with it.
BATCH = 32
_TILE_PIXELS = BATCH * 128**2
_CHUNK_BYTES = 2**27


def embed(
    network: Discriminator,
    images: ImageCollection,
    intensity_range: np.ndarray | None,
    *,
    features: str | int,
    size: int,
    device: str,
) -> np.ndarray:
    """Embed images (n, C, H, W) by the mean over their tiles: (n, d), float32."""

    def load(rows: np.ndarray) -> tuple[np.ndarray, int]:
        scaled = pad_to(load_scaled(images, rows, intensity_range), size)
        cut = [tiles(image, size) for image in scaled]
        return np.concatenate(cut), len(cut[0])

    n_tiles = max(1, min(BATCH, _TILE_PIXELS // size**2))
    image_bytes = 4 * math.prod(images.shape[1:])
    n_images = max(1, min(BATCH, _CHUNK_BYTES // image_bytes))
    rows = np.arange(len(images))
    chunks = [rows[k : k + n_images] for k in range(0, len(rows), n_images)]
    embedded = []
    with torch.inference_mode():
        for batch, tiles_each in read_ahead(load, chunks):
            parts = [
                network.embed(_filled(part, n_tiles).to(device), features)[: len(part)]
                for part in torch.from_numpy(batch).split(n_tiles)
            ]
            per_tile = torch.cat(parts).cpu()
            embedded.append(per_tile.unflatten(0, (-1, tiles_each)).mean(dim=1))
    return torch.cat(embedded).numpy()


def _filled(batch: torch.Tensor, n: int) -> torch.Tensor:
    missing = n - len(batch)
    return torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
