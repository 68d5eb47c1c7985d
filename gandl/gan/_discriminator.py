"""The discriminator of StyleGAN2 and the embeddings taken from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from gandl.gan._layers import (
    ACTIVATION_GAIN,
    EqualConv2d,
    EqualLinear,
    at_least_float32,
    block_widths,
    channels_at,
    follow,
    leaky_relu,
    leaky_relu_,
    minibatch_stddev,
)
from gandl.gan._operators import downsample, downsample_edge, upsample_edge

# In micrographs amplitude falls with spatial frequency: the finest band has a tenth of
# an image's standard deviation, the next a sixth. A gradient penalty, and weights of
# one size, then keep the discriminator from seeing anything but large shapes.
BAND_GAINS = (8.0, 4.0)
# Of the Gaussian that weighs positions in "central", in heights of a map.
CENTRAL_DEVIATION = 0.2


def with_detail(images: Tensor, strength: Tensor | None = None) -> Tensor:
    """Append the finest bands of a Laplacian pyramid, amplified, as channels.

    (N, C, H, W) becomes (N, 3 * C, H, W); each band is an image less what remains of it
    after halving its size (Burt and Adelson 1983). They are multiplied with
    ``strength`` (N, 2, 1, 1), the finest with its first column, if given.
    """
    seen, finer, coarse = [images], images, images
    for level, gain in enumerate(BAND_GAINS, start=1):
        coarse = _resized(coarse, downsample_edge, 1)
        coarser = _resized(coarse, upsample_edge, level)
        band = gain * (finer - coarser)
        if strength is not None:
            band = band * strength[:, level - 1 : level]
        seen.append(band)
        finer = coarser
    return torch.cat(seen, dim=1)


def _resized(
    images: Tensor, resample: Callable[[Tensor], Tensor], n_times: int
) -> Tensor:
    """Halve or double the size so often.

    As products with a matrix for either side: of so few channels the filters would take
    longer than the next layer. One product an image, since in a larger one the bits of
    an image depend on its place.
    """
    left, right = (
        _resampling(resample, n_times, n, images.device, images.dtype).expand(
            images.shape[:2].numel(), -1, -1
        )
        for n in images.shape[2:]
    )
    resized = torch.bmm(torch.bmm(left, images.flatten(0, 1)), right.mT)
    return resized.view(*images.shape[:2], *resized.shape[1:])


@lru_cache
def _resampling(
    resample: Callable[[Tensor], Tensor],
    n_times: int,
    n: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    # Kept for training too, which cannot use what was made in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        steps = torch.eye(n)[:, None, :, None].expand(-1, -1, -1, 2)
        for _ in range(n_times):
            steps = resample(steps)
        return steps[:, 0, :, 0].T.contiguous().to(device, dtype)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second halving the size, beside a 1x1 skip."""

    def __init__(self, rng: torch.Generator, n_in: int, n_out: int) -> None:
        super().__init__()
        half = math.sqrt(0.5)  # of the sum's variance is each way's
        self.conv = EqualConv2d(rng, n_in, n_in, 3, gain=ACTIVATION_GAIN)
        self.down = EqualConv2d(
            rng, n_in, n_out, 3, down=True, gain=ACTIVATION_GAIN * half
        )
        self.skip = EqualConv2d(rng, n_in, n_out, 1, bias=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(downsample(x))
        x = leaky_relu_(self.down(leaky_relu_(self.conv(x))))
        return skip.add_(x)


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator: images (N, C, size, size) to logits (N,).

    Parameters
    ----------
    rng : torch.Generator
        Draws the initial weights.
    n_channels : int
        Channels (stains) of the images.
    size : int
        Height and width of the images in pixels, a power of two.
    channel_base, channel_max : int
        Feature maps at a resolution: ``channel_base / resolution``, at most
        ``channel_max``.
    stddev_group : int
        Images in a group of the minibatch standard deviation; 0 leaves it out.
    detail : bool, default=False
        Whether the first layer sees beside each channel its two finest bands of detail,
        amplified.

    Examples
    --------
    >>> import torch
    >>> from gandl.gan import Discriminator
    >>> rng = torch.Generator().manual_seed(0)
    >>> discriminator = Discriminator(
    ...     rng, n_channels=3, size=16, channel_base=64, channel_max=8
    ... )
    >>> images = 2 * torch.rand((4, 3, 16, 16), generator=rng) - 1
    >>> discriminator(images).shape
    torch.Size([4])
    >>> discriminator.block_widths
    {8: 8, 4: 8}
    >>> discriminator.embed(images, "pooled").shape
    torch.Size([4, 32])
    """

    def __init__(
        self,
        rng: torch.Generator,
        *,
        n_channels: int,
        size: int,
        channel_base: int,
        channel_max: int,
        stddev_group: int = 4,
        detail: bool = False,
    ) -> None:
        super().__init__()
        self.detail = detail
        self.dtype = torch.float32
        self.stddev_group = stddev_group
        self.block_widths = block_widths(size, channel_base, channel_max)
        width = channels_at(size, channel_base, channel_max)
        n_seen = n_channels * (1 + detail * len(BAND_GAINS))
        self.from_image = EqualConv2d(rng, n_seen, width, 1, gain=ACTIVATION_GAIN)
        self.blocks = nn.ModuleList()
        for n_out in self.block_widths.values():
            self.blocks.append(ResidualBlock(rng, width, n_out))
            width = n_out
        n_last = width + (stddev_group > 0)
        self.conv = EqualConv2d(rng, n_last, width, 3, gain=ACTIVATION_GAIN)
        self.dense = EqualLinear(rng, width * 16, width)
        self.logit = EqualLinear(rng, width, 1)
        # What an image alone is embedded with: the statistic's mean over training.
        self.register_buffer("mean_stddev", torch.zeros(()))
        self.mean_stddev: Tensor

    def trunk(
        self,
        images: Tensor,
        n_blocks: int | None = None,
        *,
        strength: Tensor | None = None,
    ) -> list[Tensor]:
        """Compute the output of each of the first blocks.

        Parameters
        ----------
        images : Tensor of shape (N, C, size, size)
            Images in [-1, 1].
        n_blocks : int, default=None
            How many blocks; None: all.
        strength : Tensor of shape (N, 2, 1, 1), default=None
            What each band of detail is multiplied with, the finest first; None: 1.

        Returns
        -------
        list of Tensor of shape (N, width, H, W)
            The outputs, in the type of activations; ``block_widths`` has H and width.
        """
        x = with_detail(images, strength) if self.detail else images
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        # One channel is contiguous in every format: without this, all of D is NCHW.
        # Before the activation, whose backward is slow where formats differ.
        x = self.from_image(x).contiguous(memory_format=torch.channels_last)
        x = leaky_relu_(x)
        outputs = []
        for block in self.blocks[:n_blocks]:
            x = block(x)
            outputs.append(x)
        return outputs

    def penultimate(self, x: Tensor, stddev: Tensor | None) -> Tensor:
        """Compute the features before the logit.

        Parameters
        ----------
        x : Tensor of shape (N, width, 4, 4)
            Output of the last block.
        stddev : Tensor of shape (N, 1, 1, 1) or None
            The minibatch statistic; None if ``stddev_group`` is 0.

        Returns
        -------
        Tensor of shape (N, width), float32
            The features.
        """
        if stddev is not None:
            plane = stddev.to(x.dtype).expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, plane], dim=1)
        x = leaky_relu_(self.conv(x))
        return at_least_float32(leaky_relu(self.dense(x.flatten(1))))

    def head(self, x: Tensor) -> Tensor:
        """Compute logits from the output of the last block.

        Parameters
        ----------
        x : Tensor of shape (N, width, 4, 4)
            Output of the last block.

        Returns
        -------
        Tensor of shape (N,), float32
            The logits.
        """
        stddev = minibatch_stddev(x, self.stddev_group) if self.stddev_group else None
        return self.logit(self.penultimate(x, stddev))[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, large for images that look real.

        Parameters
        ----------
        images : Tensor of shape (N, C, size, size)
            Images in [-1, 1].

        Returns
        -------
        Tensor of shape (N,), float32
            The logits.
        """
        return self.head(self.trunk(images)[-1])

    @torch.no_grad()
    def track_stddev(self, x: Tensor, step: int) -> None:
        """Follow the mean minibatch statistic of real images in training.

        Parameters
        ----------
        x : Tensor of shape (N, width, 4, 4)
            Output of the last block for real images.
        step : int
            Number of the training step: decay 0.99, a plain mean over the first.
        """
        if self.stddev_group:
            batch_mean = minibatch_stddev(x, self.stddev_group).mean()
            follow(self.mean_stddev, batch_mean, max(1 / (step + 1), 0.01))

    def embed(self, images: Tensor, features: str | int) -> Tensor:
        """Embed images, each as a function of itself alone.

        Parameters
        ----------
        images : Tensor of shape (N, C, size, size)
            Images in [-1, 1].
        features : {"pooled", "central", "penultimate"} or int
            "pooled": mean and standard deviation over positions of every block's
            output, concatenated; "central": the same, positions weighted by a Gaussian
            about the centre; an int: as "pooled", of the block whose output has that
            height in pixels; "penultimate": the layer before the logit.

        Returns
        -------
        Tensor of shape (N, d), float32
            The embeddings.
        """
        if features in ("pooled", "central"):
            central = features == "central"
            return torch.cat([pool(x, central) for x in self.trunk(images)], dim=1)
        if features == "penultimate":
            x = self.trunk(images)[-1]
            stddev = None
            if self.stddev_group:
                stddev = self.mean_stddev.expand(len(x), 1, 1, 1)
            return self.penultimate(x, stddev)
        n_blocks = list(self.block_widths).index(int(features)) + 1
        return pool(self.trunk(images, n_blocks)[-1])


def pool(x: Tensor, central: bool = False) -> Tensor:
    """Mean and standard deviation (N, 2 * width) over positions of maps.

    Weighted about the centre if ``central``; maps are then square.
    """
    x = at_least_float32(x)
    if central:
        weights = _position_weights(x.shape[2], x.device).to(x.dtype)
        mean = (x * weights).sum(dim=(2, 3), keepdim=True)
        variance = (x - mean).square_().mul_(weights).sum(dim=(2, 3))
    else:
        mean = x.mean(dim=(2, 3), keepdim=True)
        # Not by std, which is ten times slower over positions of channels_last maps.
        variance = (x - mean).square_().mean(dim=(2, 3))
    return torch.cat([mean[:, :, 0, 0], variance.sqrt()], dim=1)


@lru_cache
def _position_weights(n: int, device: torch.device) -> Tensor:
    """Weights (n, n), of sum 1, of a square map's positions in "central"."""
    with torch.inference_mode(False), torch.no_grad():
        places = (torch.arange(n) + 0.5) / n - 0.5
        weights = (-0.5 * (places / CENTRAL_DEVIATION).square()).exp()
        weights = weights / weights.sum()
        return torch.outer(weights, weights).to(device)
