"""The same code on a CUDA device: ``pytest -m gpu``."""

import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from gandl import GANDLFeaturizer
from gandl._tensors import upload
from gandl.gan import GANConfig, Trainer

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


NETWORK = {"n_channels": 3, "size": 32, "latent_dim": 16, "channel_max": 16}
NETWORK |= {"channel_base": 512, "adversarial_batch": 8, "detail": True}
EVERY = {"r1_interval": 4, "path_length_interval": 2}  # often, not to wait for them


def _drawn_here(draw):
    def drawn(shape, *, generator, device):
        return draw(shape, generator=generator).to(device)

    return drawn


@contextmanager
def drawn_on_the_cpu(monkeypatch, *trainers):
    """Let trainers on any device draw the same numbers."""
    for trainer in trainers:
        trainer.rng = torch.Generator().manual_seed(0)
    with monkeypatch.context() as patch:
        for name in ("rand", "randn"):
            patch.setattr(torch, name, _drawn_here(getattr(torch, name)))
        yield


@pytest.mark.parametrize("loss", ["logistic", "wgan-gp", "r3gan"])
def test_a_step_is_that_of_the_cpu(monkeypatch, loss):
    config = GANConfig(**NETWORK, **EVERY, loss=loss, augment=0.5)
    devices = ("cpu", "cuda")
    here, there = (Trainer(config, 0, device=device) for device in devices)
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, drawn_on_the_cpu(monkeypatch, here, there):
        for _ in range(3):
            expected, losses = here.step(images), there.step(images.to("cuda"))
            assert losses.keys() == expected.keys()
            for name in losses:
                seen = losses[name].cpu()
                torch.testing.assert_close(seen, expected[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", ["logistic", "wgan-gp", "r3gan"])
def test_nobody_waits_inside_a_step(loss, dtype):
    config = GANConfig(**NETWORK, **EVERY, loss=loss)
    trainer = Trainer(config, 0, device="cuda", dtype=dtype)
    images = [torch.rand(8, 3, 32, 32) for _ in range(16)]
    for real in images:  # all kinds of steps; what is kept is made
        trainer.step(upload(real, "cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer.step(upload(real, "cuda")) for real in images]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for step in losses for loss in step.values())


def test_uploaded_batches_are_what_they_were():
    batches = [torch.rand(8, 3, 32, 32) for _ in range(8)]
    there = [upload(batch, "cuda") for batch in batches]
    for batch, copy in zip(batches, there, strict=True):
        assert torch.equal(batch, copy.cpu())
