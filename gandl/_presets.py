"""What a preset means, and the networks and constants that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gandl.gan import GANConfig
from gandl.images import ImageCollection

# What a preset gives to each parameter that is left at None. "paper": the paper, and
# StyleGAN2's constants where the paper is silent. "default": what a laptop can train.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "features": "pooled",
        "loss": "logistic",
        "contrast_learning_rate": 0.02,
        "max_kimg": 40.0,
        "batch_size": 32,
        "adversarial_batch": 16,
        "learning_rate": 0.01,
        "r1_gamma": 0.5,
        "path_length_weight": 0.0,
        "style_mixing": 0.5,
        "augment": "adaptive",
        "augment_kimg": 50.0,
        "latent_dim": 256,
        "n_mapping_layers": 3,
        "channel_base": 1024,
        "channel_max": 256,
        "noise": False,  # speckle, for as long as the generator has not tamed it
        "detail": True,
        "ema_kimg": 2.0,
        "schedule": "cosine",
    },
    "paper": {
        "features": "penultimate",
        "loss": "logistic",
        "contrast_learning_rate": 0.0,
        "max_kimg": 25_000.0,
        "batch_size": 32,
        "adversarial_batch": 32,
        "learning_rate": 0.002,
        "r1_gamma": "auto",
        "path_length_weight": 2.0,
        "style_mixing": 0.9,
        "augment": 0.0,
        "augment_kimg": 500.0,
        "latent_dim": 512,
        "n_mapping_layers": 3,
        "channel_base": "auto",
        "channel_max": 512,
        "noise": True,
        "detail": False,
        "ema_kimg": 10.0,
        "schedule": "constant",
    },
}


def make_config(parameter: Callable[[str], Any], images: ImageCollection) -> GANConfig:
    """Networks and constants for images; ``parameter`` looks a parameter up by name."""
    size = _training_size(parameter("image_size"), images)
    batch_size = min(parameter("batch_size"), len(images))
    gamma, augment = parameter("r1_gamma"), parameter("augment")
    base = parameter("channel_base")
    if augment == "adaptive" and parameter("loss") != "logistic":
        # Only the logistic loss has logits whose zero means undecided.
        augment = 0.0
    same = (
        "latent_dim",
        "n_mapping_layers",
        "channel_max",
        "noise",
        "detail",
        "loss",
        "contrast_learning_rate",
        "path_length_weight",
        "style_mixing",
        "augment_kimg",
        "learning_rate",
        "ema_kimg",
    )
    return GANConfig(
        n_channels=images.shape[1],
        size=size,
        channel_base=(32_768 if size > 256 else 16_384) if base == "auto" else base,
        adversarial_batch=min(parameter("adversarial_batch"), batch_size),
        r1_gamma=0.0002 * size**2 / batch_size if gamma == "auto" else gamma,
        augment=None if augment == "adaptive" else float(augment),
        **{name: parameter(name) for name in same},
    )


def _training_size(size: int | None, images: ImageCollection) -> int:
    if size is None:
        smaller = min(images.shape[2:])
        return 64 if smaller >= 64 else 32
    if size & (size - 1):
        raise ValueError(f"image_size is to be a power of two, got {size}.")
    return int(size)
