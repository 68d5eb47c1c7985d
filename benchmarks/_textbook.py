"""StyleGAN2 as it stands in the papers, for `textbook.py` to measure gandl against.

Karras et al. 2019 (arXiv 1812.04948) and 2020 (arXiv 1912.04958), written as one would
from reading them: each sample's own weights in a grouped convolution, filters as
depthwise convolutions of zero-inserted images, everything in float32 and NCHW,
differentiated by autograd. Parameters have gandl's names, so that weights carry over;
of gandl's own it has neither contrast, nor detail, nor the latent in the first layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandl.gan import GANConfig
from gandl.gan._layers import block_widths, channels_at, resolutions


def lowpass(x: Tensor, *, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Filter (N, C, H, W) by [1, 3, 3, 1], without padding."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device)
    kernel = torch.outer(taps, taps) * (gain / taps.sum() ** 2)
    kernel = kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, groups=x.shape[1])


def downsample(x: Tensor) -> Tensor:
    return lowpass(F.pad(x, (1, 1, 1, 1)), stride=2)


def upsample(x: Tensor) -> Tensor:
    n, c, height, width = x.shape
    spread = F.pad(x.reshape(n, c, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    spread = spread.reshape(n, c, 2 * height, 2 * width)
    return lowpass(F.pad(spread, (2, 1, 2, 1)), gain=4.0)


def upsample_edge(x: Tensor) -> Tensor:
    return upsample(F.pad(x, (1, 1, 1, 1), mode="replicate"))[:, :, 2:-2, 2:-2]


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def smooth(x: Tensor) -> Tensor:
    return lowpass(F.pad(x, (1, 1, 1, 1)))


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool,
    up: bool,
    smooth: Callable[[Tensor], Tensor] = smooth,
) -> Tensor:
    """Convolve each sample by weights of its own, all in one grouped convolution.

    ``smooth`` is the filter after a convolution that doubles the size.
    """
    n, n_in, height, width = x.shape
    n_out, kernel = weight.shape[0], weight.shape[-1]
    weights = weight[None] * style[:, None, :, None, None]
    if demodulate:
        power = weights.square().sum(dim=(2, 3, 4), keepdim=True)
        weights = weights * torch.rsqrt(power + 1e-8)
    x, weights = x.reshape(1, n * n_in, height, width), weights.to(x.dtype)
    if up:
        weights = 4 * weights.transpose(1, 2)
        weights = weights.reshape(n * n_in, n_out, kernel, kernel)
        x = F.conv_transpose2d(x, weights, stride=2, groups=n)
        return smooth(x.reshape(n, n_out, *x.shape[2:]))
    weights = weights.reshape(n * n_out, n_in, kernel, kernel)
    x = F.conv2d(x, weights, padding=kernel // 2, groups=n)
    return x.reshape(n, n_out, height, width)


class Linear(nn.Module):
    def __init__(self, n_in: int, n_out: int, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.gain, self.multiplier = multiplier / math.sqrt(n_in), multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.multiplier)


class Conv(nn.Module):
    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        bias: bool = True,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        self.gain, self.down = 1 / math.sqrt(n_in * kernel**2), down

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if self.down:
            return F.conv2d(lowpass(F.pad(x, (2, 2, 2, 2))), weight, self.bias, 2)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)


class ModulatedConv(nn.Module):
    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        latent_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel))
        self.style = Linear(latent_dim, n_in)
        self.gain = 1 / math.sqrt(n_in * kernel**2)
        self.how = {"demodulate": demodulate, "up": up}

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight * self.gain
        return modulated_convolution(x, weight, self.style(w), **self.how)


class StyledConv(nn.Module):
    def __init__(self, n_in: int, n_out: int, latent_dim: int, *, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, 3, latent_dim, up=up)
        self.noise_strength = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator) -> Tensor:
        x = self.conv(x, w)
        shape = (len(x), 1, *x.shape[2:])
        noise = torch.randn(shape, generator=rng, device=x.device)
        x = x + noise * self.noise_strength
        return leaky_relu(x + self.bias[:, None, None])


class ToImage(nn.Module):
    def __init__(self, n_in: int, n_channels: int, latent_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_channels, 1, latent_dim, demodulate=False)
        self.bias = nn.Parameter(torch.empty(n_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w) + self.bias[:, None, None]


class Mapping(nn.Module):
    def __init__(self, latent_dim: int, n_layers: int) -> None:
        super().__init__()
        layers = [Linear(latent_dim, latent_dim, 0.01) for _ in range(n_layers)]
        self.layers = nn.ModuleList(layers)
        self.register_buffer("mean_style", torch.zeros(latent_dim))

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w


class Generator(nn.Module):
    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.latent_dim, self.mixing = config.latent_dim, config.style_mixing
        self.mapping = Mapping(config.latent_dim, config.n_mapping_layers)
        self.convs, self.to_images = nn.ModuleList(), nn.ModuleList()
        base, most = config.channel_base, config.channel_max
        width = channels_at(4, base, most)
        self.constant = nn.Parameter(torch.empty(1, width, 4, 4))
        for resolution in resolutions(config.size):
            n_in, width = width, channels_at(resolution, base, most)
            for n_before, up in [(n_in, True), (width, False)][resolution == 4 :]:
                conv = StyledConv(n_before, width, config.latent_dim, up=up)
                self.convs.append(conv)
            to_image = ToImage(width, config.n_channels, config.latent_dim)
            self.to_images.append(to_image)

    def styles(self, n: int, rng: torch.Generator) -> Tensor:
        """Styles (n, layers, latent_dim), some mixed of two latents."""
        device, n_layers = self.constant.device, len(self.convs) + 1
        z = torch.randn((2, n, self.latent_dim), generator=rng, device=device)
        first, second = (self.mapping(latents)[:, None] for latents in z)
        draws = torch.rand((2, n, 1, 1), generator=rng, device=device)
        cut = 1 + (draws[0] * (n_layers - 1)).floor()
        layer = torch.arange(n_layers, device=device)[None, :, None]
        return torch.where((layer >= cut) & (draws[1] < self.mixing), second, first)

    def synthesize(self, ws: Tensor, rng: torch.Generator) -> Tensor:
        x = self.constant.expand(len(ws), -1, -1, -1)
        x = self.convs[0](x, ws[:, 0], rng)
        image = self.to_images[0](x, ws[:, 1])
        for k, to_image in enumerate(self.to_images[1:]):
            layer = 2 * k + 1
            x = self.convs[layer](x, ws[:, layer], rng)
            x = self.convs[layer + 1](x, ws[:, layer + 1], rng)
            image = upsample_edge(image) + to_image(x, ws[:, layer + 2])
        return image


class ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = Conv(n_in, n_in, 3)
        self.down = Conv(n_in, n_out, 3, down=True)
        self.skip = Conv(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(downsample(x))
        x = leaky_relu(self.down(leaky_relu(self.conv(x))))
        return (x + skip) / math.sqrt(2)


class Discriminator(nn.Module):
    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        base, most = config.channel_base, config.channel_max
        width = channels_at(config.size, base, most)
        self.from_image = Conv(config.n_channels, width, 1)
        self.blocks = nn.ModuleList()
        for n_out in block_widths(config.size, base, most).values():
            self.blocks.append(ResidualBlock(width, n_out))
            width = n_out
        self.conv = Conv(width + 1, width, 3)
        self.dense = Linear(width * 16, width)
        self.logit = Linear(width, 1)
        self.register_buffer("mean_stddev", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        x = leaky_relu(self.from_image(images))
        for block in self.blocks:
            x = block(x)
        groups = x.reshape(-1, 4, *x.shape[1:])
        deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
        deviation = deviation.repeat_interleave(4)[:, None, None, None]
        x = torch.cat([x, deviation.expand(-1, 1, 4, 4)], dim=1)
        x = leaky_relu(self.dense(leaky_relu(self.conv(x)).flatten(1)))
        return self.logit(x)[:, 0]

    def embed(self, images: Tensor) -> Tensor:
        """Mean and standard deviation over positions of every block's output."""
        x, pooled = leaky_relu(self.from_image(images)), []
        for block in self.blocks:
            x = block(x)
            pooled += [x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)]
        return torch.cat(pooled, dim=1)


class Trainer:
    """The game of both networks, a pass at a time, with StyleGAN2's lazy penalties."""

    def __init__(self, config: GANConfig, device: str) -> None:
        self.config, self.n_steps = config, 0
        self.generator = Generator(config).to(device)
        self.discriminator = Discriminator(config).to(device)
        self.rng = torch.Generator(device).manual_seed(0)
        self.mean_length = torch.zeros((), device=device)
        intervals = config.path_length_interval, config.r1_interval
        networks = self.generator, self.discriminator
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(),
                lr=config.learning_rate * k / (k + 1),
                betas=(0.0, 0.99 ** (k / (k + 1))),
            )
            for network, k in zip(networks, intervals, strict=True)
        ]

    def load(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Take the weights of gandl's networks."""
        self.generator.load_state_dict(generator.state_dict())
        self.discriminator.load_state_dict(discriminator.state_dict())
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def descend(self, k: int, loss: Tensor) -> None:
        self.optimizers[k].zero_grad()
        loss.backward()
        self.optimizers[k].step()

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        ws = self.generator.styles(n, self.rng)
        return self.generator.synthesize(ws, self.rng), ws

    def step(self, real: Tensor) -> None:
        config, n = self.config, len(real)
        with torch.no_grad():
            fake, _ = self.draw(n)
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        self.descend(
            1, F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        )
        if self.n_steps % config.r1_interval == 0:
            self.descend(1, config.r1_interval * self.r1(real))
        self.discriminator.requires_grad_(False)
        fake, _ = self.draw(n)
        self.descend(0, F.softplus(-self.discriminator(fake)).mean())
        self.discriminator.requires_grad_(True)
        if self.n_steps % config.path_length_interval == 0:
            weight = config.path_length_weight * config.path_length_interval
            self.descend(0, weight * self.path_length(*self.draw(n // 2)))
        with torch.no_grad():
            pairs = zip(
                self.average.parameters(), self.generator.parameters(), strict=True
            )
            for average, new in pairs:
                average.lerp_(new, 1 - 0.5 ** (n / (1000 * config.ema_kimg)))
        self.n_steps += 1

    def r1(self, real: Tensor) -> Tensor:
        real = real.detach().requires_grad_()
        logits = self.discriminator(real).sum()
        (gradient,) = torch.autograd.grad(logits, real, create_graph=True)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        return self.config.r1_gamma / 2 * penalty

    def path_length(self, images: Tensor, ws: Tensor) -> Tensor:
        shape, (height, width) = images.shape, images.shape[2:]
        noise = torch.randn(shape, generator=self.rng, device=images.device)
        product = (images * noise).sum() / math.sqrt(height * width)
        (gradient,) = torch.autograd.grad(product, ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        self.mean_length = self.mean_length.lerp(lengths.detach().mean(), 0.01)
        return (lengths - self.mean_length).square().mean()
