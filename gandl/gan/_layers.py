"""Layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958).

Weights are float32 parameters drawn from N(0, 1) and scaled at run time (equalised
learning rate); each layer casts them to its input's type, which sets the precision.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandl.gan._operators import blur

ACTIVATION_GAIN = math.sqrt(2)


def channels_at(resolution: int, base: int, maximum: int) -> int:
    """Feature maps at a resolution: ``base / resolution``, at most ``maximum``."""
    return max(1, min(base // resolution, maximum))


def resolutions(size: int) -> list[int]:
    """Powers of two from 4 to ``size``."""
    return [2**k for k in range(2, size.bit_length())]


def block_widths(size: int, base: int, maximum: int) -> dict[int, int]:
    """Height of each discriminator block's output, and its feature maps, in order."""
    return {
        resolution: channels_at(resolution, base, maximum)
        for resolution in reversed(resolutions(size // 2))
    }


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 with the gain sqrt(2) that keeps the variance."""
    return F.leaky_relu(x, 0.2) * ACTIVATION_GAIN


def leaky_relu_(x: Tensor) -> Tensor:
    """Leaky ReLU in place, of maps to which the layer before has given the gain.

    A positive factor may stand before it as well; after it, it is a pass over the maps.
    """
    return F.leaky_relu(x, 0.2, inplace=True)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision, leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def follow(average: Tensor, value: Tensor, weight: float) -> None:
    """Move a running average towards a value, unless that is not finite."""
    average.lerp_(torch.where(value.isfinite(), value, average), weight)


def _randn(rng: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=rng))


class EqualLinear(nn.Module):
    """Fully connected layer with equalised learning rate."""

    def __init__(
        self,
        rng: torch.Generator,
        n_in: int,
        n_out: int,
        *,
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(_randn(rng, n_out, n_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((n_out,), bias / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(n_in)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        return F.linear(x, weight, (self.bias * self.bias_gain).to(x.dtype))


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate; ``down`` halves height and width.

    ``gain`` is a factor of the output, bias and all.
    """

    def __init__(
        self,
        rng: torch.Generator,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        bias: bool = True,
        down: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = _randn(rng, n_out, n_in, kernel, kernel)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.weight_gain = gain / math.sqrt(n_in * kernel**2)
        self.bias_gain = gain
        self.kernel, self.down = kernel, down

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        if self.down:
            return F.conv2d(blur(x, padding=2), weight, bias, stride=2)
        return F.conv2d(x, weight, bias, padding=self.kernel // 2)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style.

    The style scales the input and the demodulation the output: the same product as
    weights of each sample's own, without a grouped convolution.
    """

    def __init__(
        self,
        rng: torch.Generator,
        n_in: int,
        n_out: int,
        kernel: int,
        latent_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.weight = _randn(rng, n_out, n_in, kernel, kernel)
        self.style = EqualLinear(rng, latent_dim, n_in, bias=1.0)
        self.gain = 1 / math.sqrt(n_in * kernel**2)
        self.kernel, self.demodulate, self.up = kernel, demodulate, up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x, scale = self.unscaled(x, w)
        return x if scale is None else x * scale.to(x.dtype)[:, :, None, None]

    def unscaled(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolve; what demodulation scales the output by (N, n_out) is returned."""
        style = self.style(w)  # (N, n_in), float32
        weight = self.weight * self.gain
        x = x * style.to(x.dtype)[:, :, None, None]
        x = self._convolve(x, weight.to(x.dtype))
        if not self.demodulate:
            return x, None
        power = weight.square().sum(dim=(2, 3))  # (n_out, n_in)
        return x, torch.rsqrt(style.square() @ power.T + 1e-8)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.up:
            weight = weight.transpose(0, 1) * 4  # zero-insertion thins by 4
            weight = weight.contiguous(memory_format=torch.channels_last)
            return blur(F.conv_transpose2d(x, weight, stride=2), padding=1)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, padding=self.kernel // 2)


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """One value an image: the standard deviation over its group of neighbours.

    ``x`` is (N, C, H, W); consecutive images form a group, of the largest size up to
    ``group`` that divides N. Returns (N, 1, 1, 1), at least float32.
    """
    group = max(g for g in range(1, group + 1) if len(x) % g == 0)
    grouped = at_least_float32(x).reshape(-1, group, *x.shape[1:])
    # Not by var, which is slow over the first of two dimensions.
    variance = (grouped - grouped.mean(dim=1, keepdim=True)).square().mean(dim=1)
    deviation = (variance + 1e-8).sqrt()
    per_group = deviation.mean(dim=(1, 2, 3))
    return per_group.repeat_interleave(group)[:, None, None, None]
