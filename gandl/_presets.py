"""What a preset means, and the networks and constants that follow from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from gandl._batches import n_tiles_of
from gandl.gan import GANConfig
from gandl.gan._losses import LOSSES
from gandl.images import ImageCollection

# What a preset gives to each parameter that is left at None. "paper": the paper, and
# StyleGAN2's constants where the paper is silent. "default": what a laptop can train.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "features": "pooled",
        "n_views": 8,
        "whiten": True,
        "loss": "logistic",
        "contrast_learning_rate": 0.02,
        "max_kimg": 40.0,
        "batch_size": 32,
        "adversarial_batch": None,  # half of the batch, sixteen at the least
        "adversarial_interval": 4,  # the game costs three times what contrast does
        "learning_rate": 0.006,
        "r1_gamma": 0.5,
        "path_length_weight": 0.0,
        "style_mixing": 0.5,
        "augment": "adaptive",
        "augment_kimg": 200.0,
        "latent_dim": 256,
        "n_mapping_layers": 3,
        "channel_base": None,  # 16 maps at the size of the crops
        "channel_max": 256,
        "generator_width": 2,  # more shapes, at a fifth of a step
        "latent_start": True,  # cells of many shapes from the first minutes on
        "detail": True,
        "ema_kimg": 2.0,
        "warm_up": 30,  # under contrast, the first steps are the roughest
        "average_discriminator": True,
    },
    "paper": {
        "features": "penultimate",
        "n_views": 1,
        "whiten": False,
        "loss": "logistic",
        "contrast_learning_rate": 0.0,
        "max_kimg": 25_000.0,
        "batch_size": 32,
        "adversarial_batch": 32,
        "adversarial_interval": 1,
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
        "generator_width": 1,
        "latent_start": False,
        "detail": False,
        "ema_kimg": 10.0,
        "warm_up": 0,
        "average_discriminator": False,
    },
}


_POSITIVE = Interval(Real, 0, None, closed="neither")
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_COUNT = Interval(Integral, 1, None, closed="left")

# What each parameter of the featurizer may be.
CONSTRAINTS: dict[str, list] = {
    "preset": [StrOptions(set(PRESETS))],
    "features": [StrOptions({"pooled", "central", "penultimate"}), _COUNT, None],
    "n_views": [Interval(Integral, 1, 8, closed="both"), None],
    "whiten": ["boolean", None],
    "image_size": [Interval(Integral, 32, 1024, closed="both"), None],
    "image_shape": [tuple, list, None],
    "intensity": [StrOptions({"dataset", "image", "plate"})],
    "loss": [StrOptions(set(LOSSES)), None],
    "contrast_learning_rate": [_NOT_NEGATIVE, None],
    "adversarial_batch": [Interval(Integral, 0, None, closed="left"), None],
    "max_kimg": [_NOT_NEGATIVE, None],
    "max_minutes": [_POSITIVE, None],
    "checkpoint_dir": [str, os.PathLike, None],
    "memory": [str, HasMethods(["cache"]), None],
    "batch_size": [_COUNT, None],
    "learning_rate": [_POSITIVE, None],
    "r1_gamma": [_NOT_NEGATIVE, StrOptions({"auto"}), None],
    "path_length_weight": [_NOT_NEGATIVE, None],
    "style_mixing": [Interval(Real, 0, 1, closed="both"), None],
    "augment": [
        Interval(Real, 0, 1, closed="both"),
        StrOptions({"adaptive"}),
        None,
    ],
    "latent_dim": [_COUNT, None],
    "n_mapping_layers": [_COUNT, None],
    "channel_base": [_COUNT, StrOptions({"auto"}), None],
    "channel_max": [_COUNT, None],
    "precision": [StrOptions({"auto", "float32", "bfloat16"})],
    "device": [str],
    "random_state": ["random_state"],
    "verbose": ["boolean"],
}

# Those that training does not depend on.
UNTRAINED = {
    *("features", "n_views", "whiten"),
    *("checkpoint_dir", "memory", "device", "verbose"),
}


def make_config(parameter: Callable[[str], Any], images: ImageCollection) -> GANConfig:
    """Networks and constants for images; ``parameter`` looks a parameter up by name."""
    size = _training_size(parameter("image_size"), images)
    batch_size = min(parameter("batch_size"), len(images))
    # Of whole batches, which later images may fill.
    in_game = _game_size(parameter, parameter("batch_size"))
    gamma, augment = parameter("r1_gamma"), parameter("augment")
    base = parameter("channel_base")
    if base is None:  # the stains and their detail pass through the first maps
        base = 16 * max(size, 64)
    elif base == "auto":
        base = 32_768 if size > 256 else 16_384
    if augment == "adaptive" and parameter("loss") != "logistic":
        # Only the logistic loss has logits whose zero means undecided.
        augment = 0.0
    same = (
        "latent_dim",
        "n_mapping_layers",
        "channel_max",
        "generator_width",
        "latent_start",
        "detail",
        "loss",
        "contrast_learning_rate",
        "path_length_weight",
        "style_mixing",
        "augment_kimg",
        "learning_rate",
        "warm_up",
        "ema_kimg",
        "average_discriminator",
    )
    # Without contrast, the steps between would teach nothing.
    interval = parameter("adversarial_interval")
    interval = interval if parameter("contrast_learning_rate") else 1
    return GANConfig(
        n_channels=images.shape[1],
        size=size,
        channel_base=base,
        adversarial_batch=in_game,
        adversarial_interval=interval,
        r1_gamma=(
            0.0002 * size**2 / (min(in_game, batch_size) or batch_size)
            if gamma == "auto"
            else gamma
        ),
        augment=None if augment == "adaptive" else float(augment),
        **{name: parameter(name) for name in same},
    )


def _game_size(parameter: Callable[[str], Any], batch_size: int) -> int:
    """How many images of a batch play the adversarial game."""
    n = parameter("adversarial_batch")
    if n is None:
        n = max(16, batch_size // 2)
    n = min(n, batch_size)
    learns = parameter("max_kimg") != 0
    if not parameter("contrast_learning_rate"):
        if n == 0 and learns:
            raise ValueError(
                "contrast_learning_rate=0 and adversarial_batch=0 leave nothing to "
                "learn by: set one of them above 0."
            )
        # Those outside the game would be seen by nobody.
        return batch_size if n else 0
    if batch_size < 2 and learns:
        raise ValueError(
            f"batch_size={batch_size}, but contrast tells the images of a batch apart: "
            "it is to be at least 2."
        )
    return n


def _training_size(size: int | None, images: ImageCollection) -> int:
    if size is None:
        smaller = min(images.shape[2:])
        return 64 if smaller >= 64 else 32
    if size & (size - 1):
        raise ValueError(f"image_size is to be a power of two, got {size}.")
    return int(size)


def check_features(featurizer: Any, image_shape: Sequence[int]) -> None:
    """Refuse an embedding that its networks do not have of images (C, H, W)."""
    features, config = featurizer._resolve("features"), featurizer.config_
    blocks, (height, width) = config.block_widths, image_shape[1:]
    if features == "penultimate" and not config.adversarial_batch:
        raise ValueError(
            'features="penultimate" belongs to the adversarial game, which '
            'adversarial_batch=0 leaves out: choose "pooled", "central" or a block.'
        )
    if features == "central" and n_tiles_of((height, width), config.size) > 1:
        raise ValueError(
            f'features="central" looks about the centre of a crop, but images of '
            f"{height} x {width} pixels are embedded by tiles of {config.size}: fit "
            "with image_size set to the power of two above, or on smaller crops, or "
            'choose "pooled".'
        )
    if not isinstance(features, str) and features not in blocks:
        raise ValueError(
            f"features={features} is no block of a discriminator of {config.size} "
            f"pixels: its blocks are {sorted(blocks)} pixels high."
        )


def embedding_length(featurizer: Any) -> int:
    """Length of the embedding that a fitted featurizer gives."""
    check_features(featurizer, featurizer.image_shape_in_)
    features, widths = featurizer._resolve("features"), featurizer.config_.block_widths
    if features in ("pooled", "central"):
        return 2 * sum(widths.values())
    return widths[4] if features == "penultimate" else 2 * widths[int(features)]
