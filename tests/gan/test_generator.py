"""The generator: shapes, styles, mixing."""

import numpy as np
import pytest
import torch

from gandl.gan import Generator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**options):
    shape = {"n_channels": 2, "size": 32, "latent_dim": 8, "n_mapping_layers": 3}
    widths = {"channel_base": 256, "channel_max": 8}
    return Generator(seeded(), **{**shape, **widths, **options})


@pytest.mark.parametrize(("size", "n_channels"), [(32, 1), (64, 5), (128, 3)])
def test_images_have_the_asked_shape(size, n_channels):
    network = make(size=size, n_channels=n_channels)
    images = network(2, seeded())
    assert images.shape == (2, n_channels, size, size)
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def test_structure_of_the_paper():
    network = make(size=64, latent_dim=16)
    assert len(network.mapping.layers) == 3
    assert network.constant.shape == (1, 8, 4, 4)
    assert network.n_styles == 2 * 6 - 2  # 2 log2(size) - 2
    assert all(layer.noise_strength == 0 for layer in network.convs)
    assert not any(layer.conv.demodulate for layer in network.to_images)
    assert all(layer.conv.demodulate for layer in network.convs)
    assert [layer.conv.up for layer in network.convs] == [False] + [True, False] * 4


def test_mapping_normalises_latents():
    network = make()
    z = torch.randn(4, 8, generator=seeded())
    np.testing.assert_allclose(
        network.mapping(z).detach(), network.mapping(7 * z).detach(), rtol=1e-4
    )


def test_styles_without_mixing_are_one_per_image():
    ws = make().styles(6, seeded())
    assert (ws == ws[:, :1]).all()


def test_style_mixing_crosses_two_latents_once():
    ws = make().styles(200, seeded(), mixing=0.9)
    changes = (ws[:, 1:] != ws[:, :-1]).any(dim=2).sum(dim=1)
    assert changes.max() == 1
    assert (changes == 1).float().mean() == pytest.approx(0.9, abs=0.07)


def test_noise_matters_once_its_strength_is_learned():
    network = make()
    ws = network.styles(2, seeded())
    assert torch.equal(
        network.synthesize(ws, seeded(1)), network.synthesize(ws, seeded(2))
    )
    with torch.no_grad():
        network.convs[-1].noise_strength.fill_(1)
    first, second = (network.synthesize(ws, seeded(s)) for s in (1, 2))
    assert (first - second).abs().mean() > 0.01


@pytest.mark.parametrize("latent_start", [False, True])
def test_a_latent_start_makes_layouts_differ_without_any_modulation(latent_start):
    network = make(latent_start=latent_start)
    for layer in [*network.convs, *network.to_images]:
        torch.nn.init.zeros_(layer.conv.style.weight)
    first, second = network(2, seeded(1))
    assert torch.equal(first, second) is not latent_start


def test_truncation_pulls_to_the_mean_style():
    network = make()
    first = network.mapping(network.latents(64, seeded(1))).mean(dim=0)
    for step in range(3):
        network.styles(64, seeded(1), step=step)
    np.testing.assert_allclose(network.mapping.mean_style, first.detach(), rtol=1e-4)
    spread = [network(16, seeded(2), truncation=t).std(dim=0).mean() for t in (1, 0)]
    assert spread[1] < 1e-5 < spread[0]


def test_bfloat16_gives_float32_images_near_those_of_float32():
    network = make()
    exact = network(4, seeded(1))
    network.dtype = torch.bfloat16
    images = network(4, seeded(1))
    assert images.dtype == torch.float32
    assert 0 < (images - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_latent_start_is_added_to_the_constant():
    shape = {"n_channels": 1, "size": 8, "latent_dim": 8, "n_mapping_layers": 1}
    network = Generator(
        seeded(), **shape, channel_base=32, channel_max=8, latent_start=True
    )
    ws = network.styles(2, seeded())
    before = network.synthesize(ws, seeded())
    with torch.no_grad():
        network.constant.mul_(-1)
    assert not torch.allclose(before, network.synthesize(ws, seeded()))
