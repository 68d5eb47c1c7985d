"""StyleGAN2 in plain PyTorch, with a discriminator that also learns by contrast."""

from gandl.gan._config import GANConfig
from gandl.gan._discriminator import Discriminator
from gandl.gan._generator import Generator
from gandl.gan._training import Trainer

__all__ = ["Discriminator", "GANConfig", "Generator", "Trainer"]
