"""The same code on a CUDA device: ``pytest -m gpu``."""

import pickle

import numpy as np
import pytest
import torch

from gandl import GANDLFeaturizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 4096, (24, 3, 40, 40), dtype="uint16")


def tiny(**options):
    network = {"channel_base": 256, "channel_max": 8, "latent_dim": 8}
    budget = {"max_kimg": 0.064, "batch_size": 8, "random_state": 0}
    return GANDLFeaturizer(**{**network, **budget, "device": "cuda", **options})


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_fitted_on_a_gpu_embeds_on_a_cpu(images, preset, precision):
    fitted = tiny(preset=preset, precision=precision).fit(images)
    there = fitted.transform(images)
    moved = pickle.loads(pickle.dumps(fitted)).set_params(device="cpu")
    here = moved.transform(images)
    scale = np.abs(here).max()
    tolerance = 0.05 if precision == "bfloat16" else 1e-3
    np.testing.assert_allclose(there, here, atol=tolerance * scale)
    assert np.isfinite(moved.generate(2)).all()


def test_training_continues_on_another_device(images):
    featurizer = tiny().partial_fit(images)
    for device in ("cpu", "cuda", "cuda"):
        featurizer.set_params(device=device).partial_fit(images)
    assert featurizer.n_images_seen_ == 4 * 24
    assert np.isfinite(featurizer.transform(images)).all()
