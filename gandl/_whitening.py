"""Embeddings whitened by what augmentation changes, since that is no biology."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from gandl._embedding import take
from gandl.gan import Discriminator
from gandl.gan._augment import random_view
from gandl.gan._discriminator import pool

Affine = tuple[np.ndarray, np.ndarray]

# Beyond 1,000 crops the covariance of 960 features hardly changes any more.
_N_CROPS = 3072
_CROPS_OF_AN_IMAGE = 4  # at most, where there are few images
# What is added to the covariance of views, in units of the features' variance. From
# 0.03 to 0.3 it made little difference (docs/tried.md).
_RIDGE = 0.1


def n_crops_of(n_images: int) -> int:
    """How many crops to measure on."""
    return min(_N_CROPS, _CROPS_OF_AN_IMAGE * n_images)


def learn_whitening(
    network: Discriminator,
    batches: Iterable[torch.Tensor],
    n_crops: int,
    rng: torch.Generator,
) -> dict[str, Affine]:
    """Mean and matrix, float32, for each choice of features that is whitened."""

    def embed(crops: torch.Tensor) -> torch.Tensor:
        maps = network.trunk(crops)
        return torch.cat([pool(x, way) for way in (False, True) for x in maps], dim=1)

    pooled, central = np.split(embed_views(embed, batches, n_crops, rng), 2, axis=2)
    mean, deviation, covariance = view_statistics(pooled)
    affine = {
        "pooled": whitening(mean, deviation, covariance),
        "central": whitening(*view_statistics(central)),
    }
    start = 0
    for height, width in network.block_widths.items():
        part = slice(start, start + 2 * width)
        affine[str(height)] = whitening(
            mean[part], deviation[part], covariance[part, part]
        )
        start += 2 * width
    return affine


def embed_views(
    embed: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    n_crops: int,
    rng: torch.Generator,
    size: int | None = None,
) -> np.ndarray:
    """Embeddings (n_crops, 3, d) of crops and of two views, ``size`` high, of each."""

    def crop_and_views(crops: torch.Tensor) -> torch.Tensor:
        views = [random_view(crops, rng, size), random_view(crops, rng, size)]
        return torch.stack([embed(crops), *map(embed, views)], dim=1)

    return take(crop_and_views, batches, n_crops)


def view_statistics(
    embedded: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation (d,) of crops' embeddings, and covariance (d, d) of views.

    The last is that of two augmented views of one crop about their mean, in units of
    the deviations, averaged over crops: within-class covariance, each image a class
    (Hatch et al. 2006).
    """
    embedded = embedded.astype(np.float64)
    scaler = StandardScaler().fit(embedded[:, 0])
    change = (embedded[:, 1] - embedded[:, 2]) / scaler.scale_
    return scaler.mean_, scaler.scale_, change.T @ change / (2 * len(change))


def whitening(
    mean: np.ndarray, deviation: np.ndarray, covariance: np.ndarray
) -> Affine:
    """Mean to subtract, and matrix (d, d) to multiply centred embeddings with.

    The inverse root of the covariance of views, the one that is symmetric: among all
    that whiten, it turns the features least.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / np.sqrt(values.clip(min=0) + _RIDGE)) @ vectors.T
    matrix = root / deviation[:, None]
    return mean.astype(np.float32), matrix.astype(np.float32)
