"""The training step of `stylegan2-pytorch` (Phil Wang, MIT), for `textbook.py`.

Its dependencies ask for other versions of PyTorch, so it is installed beside them,

    pip install --no-deps --target build/peers stylegan2-pytorch kornia kornia_rs einops

and of what it imports, the parts that read files and draw reports are left out. It asks
for CUDA, which neither its networks nor its losses need.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

from gandl.gan import GANConfig

FOLDER = Path(__file__).parents[1] / "build" / "peers"
INTERVALS = {"gradient penalty": 4, "path length": 32}  # its own
_UNUSED = ("aim", "fire", "torchvision", "vector_quantize_pytorch")


def load() -> Any:
    """Import its module; ImportError, with what to do, where that cannot be."""
    without = {name: MagicMock() for name in _UNUSED}
    with (
        patch.object(sys, "path", [*sys.path, str(FOLDER)]),
        patch.dict(sys.modules, without),
        patch("torch.cuda.is_available", lambda: True),
    ):
        try:
            from stylegan2_pytorch import stylegan2_pytorch
        except ImportError as error:
            how = " ".join(__doc__.splitlines()[4].split())
            raise ImportError(f"no stylegan2-pytorch ({error}): {how}") from error
    return stylegan2_pytorch


class Trainer:
    """Its networks, as wide as gandl's at each size, and its losses and intervals."""

    def __init__(self, config: GANConfig, device: str) -> None:
        self.package, self.config, self.n_steps = load(), config, 0
        if config.n_channels != 3:
            raise ImportError("stylegan2-pytorch takes three channels")
        self.device, self.mean_length = device, None
        width, most = config.channel_base // config.size, config.channel_max
        package, size = self.package, config.size
        latent_dim, depth = config.latent_dim, config.n_mapping_layers
        self.mapping = package.StyleVectorizer(latent_dim, depth).to(device)
        self.generator = package.Generator(
            size, latent_dim, network_capacity=width // 2, fmap_max=most
        ).to(device)
        self.discriminator = package.Discriminator(
            size, network_capacity=width // 4, fmap_max=most
        ).to(device)
        parameters = [*self.mapping.parameters(), *self.generator.parameters()]
        self.optimizers = {
            "generator": torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.9)),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9)
            ),
        }

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        latents = torch.randn((n, self.config.latent_dim), device=self.device)
        ws = self.mapping(latents)[:, None].expand(-1, self.generator.num_layers, -1)
        noise = torch.rand((n, self.config.size, self.config.size, 1))
        return self.generator(ws, noise.to(self.device)), ws

    def step(self, real: Tensor) -> None:
        package, discriminator, n = self.package, self.discriminator, len(real)
        penalised = self.n_steps % INTERVALS["gradient penalty"] == 0
        self.optimizers["discriminator"].zero_grad()
        fake = self.draw(n)[0].detach().requires_grad_(penalised)
        real = real.clone().requires_grad_(penalised)
        (fake_logits, _), (real_logits, _) = discriminator(fake), discriminator(real)
        loss = package.hinge_loss(fake_logits, real_logits)
        if penalised:
            loss = loss + package.gradient_penalty(real, real_logits)
            loss = loss + package.gradient_penalty(fake, fake_logits)
        loss.backward()
        self.optimizers["discriminator"].step()

        self.optimizers["generator"].zero_grad()
        fake, ws = self.draw(n)
        loss = package.gen_hinge_loss(discriminator(fake)[0], None)
        if self.n_steps % INTERVALS["path length"] == 0:
            lengths = package.calc_pl_lengths(ws, fake)
            mean = lengths.detach().mean()
            if self.mean_length is None or not math.isfinite(self.mean_length):
                self.mean_length = float(mean)
            loss = loss + ((lengths - self.mean_length) ** 2).mean()
            self.mean_length += 0.01 * (float(mean) - self.mean_length)
        loss.backward()
        self.optimizers["generator"].step()
        self.n_steps += 1
