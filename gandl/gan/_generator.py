"""The generator of StyleGAN2: mapping network and skip synthesis network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gandl.gan._layers import (
    ACTIVATION_GAIN,
    EqualLinear,
    ModulatedConv2d,
    at_least_float32,
    channels_at,
    follow,
    leaky_relu,
    leaky_relu_,
    resolutions,
)
from gandl.gan._operators import upsample_edge
from gandl.gan._ranks import rand, randn


class Mapping(nn.Module):
    """Latent z to style w, each (N, latent_dim)."""

    def __init__(self, rng: torch.Generator, latent_dim: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(rng, latent_dim, latent_dim, lr_multiplier=0.01)
            for _ in range(n_layers)
        )
        self.register_buffer("mean_style", torch.zeros(latent_dim))
        self.mean_style: Tensor

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w

    @torch.no_grad()
    def track(self, w: Tensor, step: int) -> None:
        """Follow the mean style (decay 0.995; a plain mean over the first steps)."""
        weight = max(1 / (step + 1), 0.005)
        follow(self.mean_style, w.detach().mean(dim=0), weight)


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU."""

    def __init__(
        self,
        rng: torch.Generator,
        n_in: int,
        n_out: int,
        latent_dim: int,
        *,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(rng, n_in, n_out, 3, latent_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator) -> Tensor:
        x, scale = self.conv.unscaled(x, w)
        assert scale is not None
        noise = randn((len(x), 1, *x.shape[2:]), rng, x.device)
        noise = noise * (self.noise_strength * ACTIVATION_GAIN)
        scale = (scale * ACTIVATION_GAIN).to(x.dtype)[:, :, None, None]
        bias = (self.bias * ACTIVATION_GAIN).to(x.dtype)[:, None, None]
        x = torch.addcmul(bias, x, scale).add_(noise.to(x.dtype))
        return leaky_relu_(x)


class ToImage(nn.Module):
    """Features to stains: modulated 1x1 convolution without demodulation."""

    def __init__(
        self, rng: torch.Generator, n_in: int, n_channels: int, latent_dim: int
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(
            rng, n_in, n_channels, 1, latent_dim, demodulate=False
        )
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return at_least_float32(self.conv(x, w)) + self.bias[None, :, None, None]


class Generator(nn.Module):
    """StyleGAN2's generator: latents (N, latent_dim) to images (N, C, size, size).

    Images scale from -1 (dark) to 1, which no layer enforces.

    Parameters
    ----------
    rng : torch.Generator
        Draws the initial weights.
    n_channels : int
        Channels (stains) of the images.
    size : int
        Height and width of the images in pixels, a power of two.
    latent_dim : int
        Length of latents and styles.
    n_mapping_layers : int
        Fully connected layers of the mapping network.
    channel_base, channel_max : int
        Feature maps at a resolution: ``channel_base / resolution``, at most
        ``channel_max``.
    latent_start : bool, default=False
        Whether what the first layer sees is the learned constant alone, as StyleGAN2
        has it, or that plus a linear function of the first style.

    Examples
    --------
    >>> import torch
    >>> from gandl.gan import Generator
    >>> rng = torch.Generator().manual_seed(0)
    >>> generator = Generator(
    ...     rng,
    ...     n_channels=3,
    ...     size=16,
    ...     latent_dim=8,
    ...     n_mapping_layers=2,
    ...     channel_base=64,
    ...     channel_max=8,
    ... )
    >>> generator(2, rng).shape
    torch.Size([2, 3, 16, 16])
    >>> ws = generator.styles(2, rng, mixing=0.9)
    >>> ws.shape
    torch.Size([2, 6, 8])
    >>> generator.synthesize(ws, rng).dtype
    torch.float32
    """

    def __init__(
        self,
        rng: torch.Generator,
        *,
        n_channels: int,
        size: int,
        latent_dim: int,
        n_mapping_layers: int,
        channel_base: int,
        channel_max: int,
        latent_start: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.dtype = torch.float32
        self.mapping = Mapping(rng, latent_dim, n_mapping_layers)
        self.convs = nn.ModuleList()
        self.to_images = nn.ModuleList()
        width = channels_at(4, channel_base, channel_max)
        self.constant = nn.Parameter(torch.randn((1, width, 4, 4), generator=rng))
        self.start = EqualLinear(rng, latent_dim, width * 16) if latent_start else None
        for resolution in resolutions(size):
            n_in, width = width, channels_at(resolution, channel_base, channel_max)
            if resolution > 4:
                self.convs.append(StyledConv(rng, n_in, width, latent_dim, up=True))
            self.convs.append(StyledConv(rng, width, width, latent_dim))
            self.to_images.append(ToImage(rng, width, n_channels, latent_dim))

    @property
    def n_styles(self) -> int:
        """Number of styles that the synthesis network takes."""
        return len(self.convs) + 1

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw latents from N(0, 1).

        Parameters
        ----------
        n : int
            How many.
        rng : torch.Generator
            Draws them, on the device of the weights.

        Returns
        -------
        Tensor of shape (n, latent_dim), float32
            The latents.
        """
        device = self.constant.device
        return randn((n, self.latent_dim), rng, device)

    def styles(
        self,
        n: int,
        rng: torch.Generator,
        *,
        mixing: float = 0.0,
        step: int | None = None,
    ) -> Tensor:
        """Draw a style for each layer of each image.

        Parameters
        ----------
        n : int
            Number of images.
        rng : torch.Generator
            Draws latents and mixing, on the device of the weights.
        mixing : float, default=0.0
            Probability that an image takes the styles after a random layer from a
            second latent (style mixing).
        step : int, default=None
            Number of the training step; with it, the mean style is updated.

        Returns
        -------
        Tensor of shape (n, n_styles, latent_dim), float32
            The styles.
        """
        w = self.mapping(self.latents(n, rng))
        if step is not None:
            self.mapping.track(w, step)
        ws = w[:, None].expand(-1, self.n_styles, -1)
        if mixing == 0:
            return ws
        other = self.mapping(self.latents(n, rng))[:, None]
        draws = rand((2, n, 1, 1), rng, w.device, dim=1)
        cut = 1 + (draws[0] * (self.n_styles - 1)).floor()
        layer = torch.arange(self.n_styles, device=w.device)[None, :, None]
        return torch.where((layer >= cut) & (draws[1] < mixing), other, ws)

    def synthesize(self, ws: Tensor, rng: torch.Generator) -> Tensor:
        """Make images from styles.

        Parameters
        ----------
        ws : Tensor of shape (N, n_styles, latent_dim), float32
            The styles.
        rng : torch.Generator
            Draws the noise, on the device of the weights.

        Returns
        -------
        Tensor of shape (N, C, size, size), float32
            Images of about -1 to 1, not clipped.
        """
        x = self.constant.expand(len(ws), -1, -1, -1)
        if self.start is not None:
            x = x + self.start(ws[:, 0]).reshape(x.shape)
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x = self.convs[0](x, ws[:, 0], rng)
        image = self.to_images[0](x, ws[:, 1])
        for k, to_image in enumerate(self.to_images[1:]):
            layer = 2 * k + 1
            x = self.convs[layer](x, ws[:, layer], rng)
            x = self.convs[layer + 1](x, ws[:, layer + 1], rng)
            image = upsample_edge(image) + to_image(x, ws[:, layer + 2])
        return image

    def forward(
        self, n: int, rng: torch.Generator, *, truncation: float = 1.0
    ) -> Tensor:
        """Draw images.

        Parameters
        ----------
        n : int
            How many.
        rng : torch.Generator
            Draws latents and noise, on the device of the weights.
        truncation : float, default=1.0
            Below 1, styles are pulled to their mean: more typical, less varied.

        Returns
        -------
        Tensor of shape (n, C, size, size), float32
            Images of about -1 to 1, not clipped.
        """
        ws = self.styles(n, rng)
        ws = self.mapping.mean_style.lerp(ws, truncation)
        return self.synthesize(ws, rng)
