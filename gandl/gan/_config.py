"""Shape of the networks, and constants of their training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gandl.gan._discriminator import Discriminator
from gandl.gan._generator import Generator
from gandl.gan._layers import block_widths
from gandl.gan._ranks import GROUP


@dataclass(frozen=True)
class GANConfig:
    """Shape of the networks and constants of the training step.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    size : int
        Height and width of the images in pixels, a power of two.
    latent_dim : int, default=256
        Length of latents and styles.
    n_mapping_layers : int, default=3
        Layers of the mapping network.
    channel_base : int, default=1024
        Feature maps at a resolution are ``channel_base / resolution``.
    channel_max : int, default=256
        The most feature maps.
    generator_width : int, default=1
        Factor of ``channel_base`` in the generator.
    latent_start : bool, default=False
        Whether the generator's first layer sees the latent, beside the constant.
    detail : bool, default=False
        Whether the discriminator also sees the fine detail of images, amplified; in
        contrast, each band of each view at a random strength.
    loss : {"logistic", "wgan-gp", "r3gan"}, default="logistic"
        The adversarial loss.
    adversarial_batch : int, default=32
        Real images, and as many generated ones, in the adversarial game of a step; 0
        leaves the game and the generator's training out.
    adversarial_interval : int, default=1
        Steps from one of the game to the next; other intervals count those alone.
    contrast_learning_rate : float, default=0.02
        Adam's for the contrastive loss and the penalty on correlated projections, which
        have moments of their own; 0 leaves both out.
    r1_gamma : float, default=0.1
        Weight of the R1 penalty; with "r3gan" of R1 and R2, taken every step.
    r1_interval : int, default=16
        Steps between two R1 penalties.
    path_length_weight : float, default=2.0
        Weight of the path-length penalty.
    path_length_interval : int, default=4
        Steps between two path-length penalties.
    style_mixing : float, default=0.9
        Probability of style mixing.
    augment : float or None, default=None
        Probability of augmentation in the game; None adapts it.
    augment_kimg : float, default=500.0
        Thousand images of the game in which adaptation can go from 0 to 1.
    learning_rate : float, default=0.002
        Adam's for the adversarial game, both networks.
    warm_up : int, default=0
        Steps over which all learning rates rise; then they stay.
    ema_kimg : float, default=10.0
        Half-life of the generator's average, in thousand images at a batch of 32 and
        an interval of 1; at most a twentieth of the images seen.
    average_discriminator : bool, default=False
        Whether what is kept of the discriminator is an average too, whose half-life is
        a fiftieth of the images seen.

    See Also
    --------
    Trainer : What trains by it.

    Examples
    --------
    >>> from gandl.gan import GANConfig
    >>> GANConfig(n_channels=5, size=64).block_widths
    {32: 32, 16: 64, 8: 128, 4: 256}
    """

    n_channels: int
    size: int
    latent_dim: int = 256
    n_mapping_layers: int = 3
    channel_base: int = 1024
    channel_max: int = 256
    generator_width: int = 1
    latent_start: bool = False
    detail: bool = False
    loss: str = "logistic"
    adversarial_batch: int = 32
    adversarial_interval: int = 1
    contrast_learning_rate: float = 0.02
    r1_gamma: float = 0.1
    r1_interval: int = 16
    path_length_weight: float = 2.0
    path_length_interval: int = 4
    style_mixing: float = 0.9
    augment: float | None = None
    augment_kimg: float = 500.0
    learning_rate: float = 0.002
    warm_up: int = 0
    ema_kimg: float = 10.0
    average_discriminator: bool = False

    @property
    def block_widths(self) -> dict[int, int]:
        """Height of each discriminator block's output, and its feature maps."""
        return block_widths(self.size, self.channel_base, self.channel_max)

    def generator(self, rng: torch.Generator) -> Generator:
        """Build the generator.

        Parameters
        ----------
        rng : torch.Generator
            Draws the weights, on the CPU.

        Returns
        -------
        Generator
            The network, on the CPU.
        """
        return Generator(
            rng,
            n_channels=self.n_channels,
            size=self.size,
            latent_dim=self.latent_dim,
            n_mapping_layers=self.n_mapping_layers,
            channel_base=self.generator_width * self.channel_base,
            channel_max=self.channel_max,
            latent_start=self.latent_start,
        )

    def discriminator(self, rng: torch.Generator) -> Discriminator:
        """Build the discriminator.

        Parameters
        ----------
        rng : torch.Generator
            Draws the weights, on the CPU.

        Returns
        -------
        Discriminator
            The network, on the CPU.
        """
        return Discriminator(
            rng,
            n_channels=self.n_channels,
            size=self.size,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            stddev_group=0 if self.loss == "r3gan" else GROUP,
            detail=self.detail,
        )
