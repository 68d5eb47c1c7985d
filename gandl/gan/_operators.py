"""Resampling with the filter [1, 3, 3, 1] (Karras et al. 2020, arXiv 1912.04958).

Each operator is an autograd Function whose backward is its adjoint, itself such a
Function. Penalties differentiate twice, and the double backward of a depthwise
convolution loops over its channels on the CPU; the adjoint written out does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache
def _kernel(
    taps: tuple[int, ...], gain: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # Kept: making it anew would wait for a copy to the device at every use.
    filter_1d = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    kernel = torch.outer(filter_1d, filter_1d) * gain
    return kernel.to(device=device, dtype=dtype)


def _depthwise(
    x: Tensor, taps: tuple[int, ...], stride: int, padding: int, gain: float = 1.0
) -> Tensor:
    kernel = _kernel(taps, gain, x.device, x.dtype).expand(x.shape[1], 1, -1, -1)
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


class _Blur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        return _depthwise(x, (1, 3, 3, 1), stride=1, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Symmetric filter: the adjoint is the same filter with the other padding.
        return _Blur.apply(grads[0], 3 - ctx.padding), None


class _Downsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return _depthwise(x, (1, 3, 3, 1), stride=2, padding=1, gain=gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Upsample.apply(grads[0], ctx.gain / 4), None


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        # [1, 3, 3, 1] = [1, 1] * [1, 2, 1]; [1, 1] after zero-insertion doubles pixels.
        doubled = F.interpolate(x, scale_factor=2, mode="nearest")
        return _depthwise(doubled, (1, 2, 1), stride=1, padding=1, gain=gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Downsample.apply(grads[0], ctx.gain * 4), None


def blur(x: Tensor, padding: int) -> Tensor:
    """Filter ``x`` (N, C, H, W) by [1, 3, 3, 1]; the size grows by 2 * padding - 3."""
    return _Blur.apply(x, padding)


def downsample(x: Tensor) -> Tensor:
    """Halve height and width of ``x`` (N, C, H, W) through [1, 3, 3, 1]."""
    return _Downsample.apply(x, 1.0)


def upsample(x: Tensor) -> Tensor:
    """Double height and width of ``x`` (N, C, H, W) through [1, 3, 3, 1]."""
    return _Upsample.apply(x, 1.0)


def upsample_edge(x: Tensor) -> Tensor:
    """Upsample ``x``; what lies beyond the border is taken to go on as at its edge."""
    return upsample(F.pad(x, (1, 1, 1, 1), mode="replicate"))[:, :, 2:-2, 2:-2]


def downsample_edge(x: Tensor) -> Tensor:
    """Downsample ``x``; what lies beyond the border goes on as at its edge."""
    return downsample(F.pad(x, (2, 2, 2, 2), mode="replicate"))[:, :, 1:-1, 1:-1]
