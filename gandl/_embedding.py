"""The trained discriminator over many images, tile by tile."""

from __future__ import annotations

import numpy as np
import torch

from gandl._batches import load_scaled, pad_to, read_ahead, tiles
from gandl.gan import Discriminator
from gandl.images import ImageCollection

# One batch size for every call: a row's bits do not depend on how many come with it.
BATCH = 32


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

    chunks = np.array_split(np.arange(len(images)), -(-len(images) // BATCH))
    embedded = []
    with torch.inference_mode():
        for batch, n_tiles in read_ahead(load, chunks):
            parts = [
                network.embed(_filled(part).to(device), features)[: len(part)]
                for part in torch.from_numpy(batch).split(BATCH)
            ]
            per_tile = torch.cat(parts).cpu()
            embedded.append(per_tile.unflatten(0, (-1, n_tiles)).mean(dim=1))
    return torch.cat(embedded).numpy()


def _filled(batch: torch.Tensor) -> torch.Tensor:
    missing = BATCH - len(batch)
    return torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
