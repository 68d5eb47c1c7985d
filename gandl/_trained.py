"""What the networks of a fitted featurizer are used for."""

from __future__ import annotations

import os
from contextlib import closing
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.utils import check_random_state

from gandl._batches import training_batches
from gandl._diagnostics import frechet_distance
from gandl._embedding import BATCH, draw, embed, take
from gandl._inputs import (
    Brightness,
    as_collection,
    compare_illumination,
    row_intensity,
)
from gandl._presets import check_features
from gandl._progress import progress_line
from gandl._tensors import activation_dtype, to_tensors
from gandl._warnings import warn
from gandl._whitening import Affine
from gandl.gan import Discriminator, Generator
from gandl.gan._training import under
from gandl.images import ImageCollection

Network = TypeVar("Network", Discriminator, Generator)

_N_SCORED = 4096  # images, at most, behind a Fréchet distance


def device_of(featurizer: Any) -> str:
    """Where to compute."""
    if featurizer.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device={featurizer.device!r}, but PyTorch sees no CUDA device: install a "
            'build of PyTorch for CUDA, or use device="auto".'
        )
    if featurizer.device not in ("auto", "cuda"):
        return featurizer.device
    if not torch.cuda.is_available():
        return "cpu"
    # Processes that torchrun starts on a machine take one each.
    local_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if local_rank is None:
        return "cuda"
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}"


def discriminator_of(featurizer: Any) -> Discriminator:
    """Build the trained discriminator."""
    return _loaded(featurizer, featurizer.config_.discriminator(torch.Generator()))


def generator_of(featurizer: Any) -> Generator:
    """Build the trained generator, if there is one."""
    if not featurizer.config_.adversarial_batch:
        raise ValueError(
            "adversarial_batch=0 has trained no generator: fit with a larger one."
        )
    return _loaded(featurizer, featurizer.config_.generator(torch.Generator()))


def _loaded(featurizer: Any, network: Network) -> Network:
    """Load weights into a network for inference, on the device to use."""
    device, name = device_of(featurizer), type(network).__name__.lower()
    network.load_state_dict(to_tensors(under(name, featurizer.weights_)))
    network.requires_grad_(False).to(device)
    network.dtype = activation_dtype(featurizer.precision, device)
    return network


def whitening_of(featurizer: Any) -> Affine | None:
    """What the chosen features are whitened by, if they are."""
    features = featurizer._resolve("features")
    if not featurizer._resolve("whiten") or features == "penultimate":
        return None
    if str(features) not in featurizer.whitening_:
        how = "by an earlier version" if featurizer.whitening_ else "with whiten=False"
        raise ValueError(
            f"whiten=True, but this featurizer was fitted {how} and has not measured "
            f"what to whiten features={features!r} by: fit it again."
        )
    return featurizer.whitening_[str(features)]


def embedded(featurizer: Any, X: Any) -> np.ndarray:
    """Embed images, and warn of what fit has not seen the like of."""
    images = as_collection(featurizer, X, reset=False)
    if text := compare_illumination(featurizer, images):
        warn(text)
    embeddings, text = embedded_and_told(featurizer, images)
    if text:
        warn(text)
    return embeddings


def embedded_and_told(
    featurizer: Any, images: ImageCollection
) -> tuple[np.ndarray, str]:
    """Embed images; also returned is what to warn of their brightness."""
    check_features(featurizer, images.shape[1:])
    brightness = Brightness(featurizer, images)
    with closing(progress_line(featurizer.verbose)) as line:
        embeddings = embed(
            discriminator_of(featurizer),
            images,
            row_intensity(featurizer, images),
            features=featurizer._resolve("features"),
            size=featurizer.config_.size,
            device=device_of(featurizer),
            n_views=featurizer._resolve("n_views"),
            whitening=whitening_of(featurizer),
            # Other ranges are of the images themselves.
            look=brightness.look if featurizer.intensity == "dataset" else None,
            progress=line,
        )
    return embeddings, brightness.told()


def generated(featurizer: Any, n: int, seed: int, *, truncation: float) -> np.ndarray:
    """Draw n images, in the units of those seen in ``fit`` if it learned them."""
    network = generator_of(featurizer)
    batches = draw(network, n, seed, truncation=truncation)
    scaled = (np.concatenate([batch.cpu() for batch in batches]) + 1) / 2
    if featurizer.intensity_range_ is None:
        return scaled
    low, high = np.moveaxis(featurizer.intensity_range_, -1, 0)[:, :, None, None]
    return (scaled * (high - low) + low).astype(np.float32)


def distance_to_generated(featurizer: Any, X: Any) -> float:
    """Fréchet distance between crops of X and as many generated images."""
    images = as_collection(featurizer, X, reset=False)
    check_features(featurizer, images.shape[1:])
    features = featurizer._resolve("features")
    generator, discriminator = generator_of(featurizer), discriminator_of(featurizer)
    n = min(len(images), _N_SCORED)
    # Of an instance or None, the same all the same: a score is not to move by itself.
    state = featurizer.random_state
    fixed = state if isinstance(state, Integral) else 0
    seed = int(check_random_state(fixed).randint(2**31 - 1))
    batches = training_batches(
        images,
        row_intensity(featurizer, images),
        size=featurizer.config_.size,
        batch_size=min(BATCH, n),
        seed=[seed],
    )
    device = device_of(featurizer)

    def look(crops: torch.Tensor) -> torch.Tensor:
        return discriminator.embed(crops.to(device), features)

    own_types = torch.autocast(torch.device(device).type, enabled=False)
    with closing(batches), own_types:
        real = take(look, map(torch.from_numpy, batches), n)
        drawn = take(look, draw(generator, n, seed), n)
    return frechet_distance(real, drawn)
