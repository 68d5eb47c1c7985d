"""Augmentations that fit stained cells (no hue, saturation or luma).

Images are (N, C, H, W) float32, square, -1 (dark) to 1. Each image draws its own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gandl.gan._ranks import rand, randn


def dihedral(images: Tensor, rng: torch.Generator) -> Tensor:
    """Flip and turn each image by one of the eight symmetries of the square."""
    coins = rand((3, len(images), 1, 1, 1), rng, images.device, dim=1)
    images = torch.where(coins[0] < 0.5, images.flip(3), images)
    images = torch.where(coins[1] < 0.5, images.flip(2), images)
    return torch.where(coins[2] < 0.5, images.transpose(2, 3), images)


def adaptive_augment(images: Tensor, p: float | Tensor, rng: torch.Generator) -> Tensor:
    """Augment real and generated images alike, each operation with probability ``p``.

    The operations of adaptive discriminator augmentation (Karras et al. 2020, arXiv
    2006.06676) that hold for stains: flip, quarter turns, integer shift by up to an
    eighth, slight scaling, and brightness and contrast of each channel. Any number of
    channels; differentiable by the images.
    """
    if not isinstance(p, Tensor) and p == 0:
        return images
    n, n_channels, size, _ = images.shape
    device = images.device

    def uniform(*shape: int) -> Tensor:
        return rand(shape, rng, device)

    def normal(*shape: int) -> Tensor:
        return randn(shape, rng, device)

    def with_probability(values: Tensor, neutral: float) -> Tensor:
        chosen = uniform(n, *[1] * (values.ndim - 1)) < p
        return torch.where(chosen, values, torch.full_like(values, neutral))

    quarter = with_probability((uniform(n) * 4).floor(), 0) * (math.pi / 2)
    flip = with_probability(torch.where(uniform(n) < 0.5, -1.0, 1.0), 1)
    scale = with_probability((0.1 * normal(n)).exp(), 1)
    pixels = ((2 * uniform(n, 2) - 1) * size / 8).round()
    shift = with_probability(pixels * 2 / size, 0)
    images = _warp(images, quarter, flip, scale, shift)

    gain = with_probability((0.2 * normal(n, n_channels, 1, 1)).exp(), 1)
    offset = with_probability(0.1 * normal(n, n_channels, 1, 1), 0)
    return (images + 1) * gain + offset - 1


def random_view(
    images: Tensor, rng: torch.Generator, size: int | None = None
) -> Tensor:
    """One of the two views of each image that the contrastive loss compares.

    Three quarters of the image's height and width (it costs half as much) unless
    ``size`` says else, under any rotation, flip, scale (log-sd 0.15), shift (10 %), and
    for each channel gamma (log-sd 0.2), gain (log-sd 0.25) and a little noise: what a
    cell is, is not changed by any of them.
    """
    n, n_channels = images.shape[:2]
    device = images.device
    geometry = rand((4, n), rng, device, dim=1)
    normal = randn((3, n, n_channels, 1, 1), rng, device, dim=1)
    images = _warp(
        images,
        angle=2 * math.pi * geometry[0],
        flip=torch.where(geometry[1] < 0.5, -1.0, 1.0),
        scale=(0.15 * normal[2, :, 0, 0, 0]).exp(),
        shift=0.2 * (2 * geometry[2:].T - 1),
        size=size or 3 * images.shape[2] // 4,
    )
    intensity = ((images + 1) / 2).clamp(min=1e-4)
    intensity = intensity ** (0.2 * normal[0]).exp() * (0.25 * normal[1]).exp()
    noise = randn(images.shape, rng, device)
    return 2 * intensity - 1 + 0.04 * noise


def _warp(
    images: Tensor,
    angle: Tensor,
    flip: Tensor,
    scale: Tensor,
    shift: Tensor,
    size: int | None = None,
) -> Tensor:
    """Rotate (radians), flip, scale and shift (N, 2; the image spans -1 to 1).

    ``size`` is the height and width of the part cut out, by default the whole.
    """
    size = size or images.shape[2]
    zoom = size / images.shape[2] / scale
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [
        torch.stack([cos * flip, -sin * flip, shift[:, 0]], dim=1),
        torch.stack([sin, cos, shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(
        torch.stack(rows, dim=1), [*images.shape[:2], size, size], align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
