"""The discriminator and its embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gandl.gan import Discriminator
from gandl.gan._discriminator import with_detail
from gandl.gan._layers import minibatch_stddev
from gandl.gan._operators import downsample_edge, upsample_edge


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**options):
    shape = {"n_channels": 2, "size": 32, "channel_base": 256, "channel_max": 16}
    return Discriminator(seeded(), **{**shape, **options})


@pytest.fixture
def images():
    return torch.randn(8, 2, 32, 32, generator=seeded(1))


@pytest.mark.parametrize(("size", "n_channels"), [(32, 1), (64, 5), (128, 3)])
def test_one_logit_an_image(size, n_channels):
    network = make(size=size, n_channels=n_channels)
    assert network(torch.zeros(4, n_channels, size, size)).shape == (4,)


def test_blocks_halve_the_size_down_to_four(images):
    maps = make().trunk(images)
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 16), (16, 8, 8), (16, 4, 4)]


def test_trunk_is_channels_last_for_one_channel_too():
    network = make(n_channels=1, size=64)
    for x in network.trunk(torch.zeros(2, 1, 64, 64)):
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_detail_is_the_difference_of_a_pyramid_s_levels():
    images = torch.rand(2, 3, 32, 16)
    halved = downsample_edge(images)
    quartered = downsample_edge(halved)
    fine, coarse = upsample_edge(halved), upsample_edge(upsample_edge(quartered))
    expected = torch.cat([images, 8 * (images - fine), 4 * (fine - coarse)], dim=1)
    np.testing.assert_allclose(with_detail(images), expected, atol=1e-5)


def test_detail_is_what_halving_the_size_loses():
    even = torch.full((1, 2, 32, 32), 0.7)
    np.testing.assert_allclose(with_detail(even)[:, 2:], 0, atol=1e-5)
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 1, 16, 16)
    inner = with_detail(checks)[0, :, 8:-8, 8:-8]
    # The filter removes the finest pattern wholly: all of it is in the first band.
    np.testing.assert_allclose(inner[1], 8 * checks[0, 0, 8:-8, 8:-8], atol=1e-5)
    np.testing.assert_allclose(inner[2], 0, atol=1e-5)


def test_each_band_of_detail_is_as_strong_as_is_asked(images):
    rng = torch.Generator().manual_seed(0)
    strength = torch.rand(len(images), 2, 1, 1, generator=rng)
    plain, changed = with_detail(images), with_detail(images, strength)
    image, finest, next_finest = plain.chunk(3, dim=1)
    expected = [image, finest * strength[:, :1], next_finest * strength[:, 1:]]
    assert torch.equal(changed, torch.cat(expected, dim=1))


def test_detail_makes_fine_structure_count(images):
    coarse = F.interpolate(images[:, :, ::8, ::8], scale_factor=8, mode="bilinear")
    fine = coarse + 0.05 * images
    plain, detailed = (make(detail=detail) for detail in (False, True))
    assert detailed.from_image.weight.shape[1] == 3 * plain.from_image.weight.shape[1]

    def change(network):
        first, second = (network.embed(x, "pooled") for x in (coarse, fine))
        return ((first - second).norm() / first.norm()).item()

    assert change(detailed) > 3 * change(plain)


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("features", ["pooled", "central", "penultimate", 16, 4])
def test_embedding_of_an_image_is_its_own(images, features, detail):
    network = make(detail=detail).eval()
    together = network.embed(images, features).detach()
    alone = torch.cat([network.embed(image[None], features) for image in images])
    np.testing.assert_allclose(alone.detach(), together, atol=1e-5)
    widths = network.block_widths
    length = {"penultimate": widths[4], 16: 2 * widths[16], 4: 2 * widths[4]}
    assert together.shape == (8, length.get(features, 2 * sum(widths.values())))


def test_logit_depends_on_the_batch_and_embedding_does_not(images):
    network = make()
    others = torch.cat([images[:1], images[:1], images[:1], images[:1]])
    with torch.no_grad():  # at first, the statistic weighs little
        network.conv.weight[:, -1] *= 100
    assert (network(images)[0] - network(others)[0]).abs() > 1e-3
    first, alike = (network.embed(x, "penultimate")[0] for x in (images, others))
    np.testing.assert_allclose(first.detach(), alike.detach(), atol=1e-5)


def test_pooled_is_mean_and_deviation_of_every_block(images):
    network = make()
    expected = []
    for x in network.trunk(images):
        x = x.detach().numpy()
        expected += [x.mean(axis=(2, 3)), x.std(axis=(2, 3))]
    np.testing.assert_allclose(
        network.embed(images, "pooled").detach(),
        np.concatenate(expected, axis=1),
        atol=1e-5,
    )


def test_central_is_weighted_by_a_gaussian_about_the_centre(images):
    network = make()
    expected = []
    for x in network.trunk(images):
        x, n = x.detach().numpy().astype(np.float64), x.shape[2]
        rows, columns = (np.indices((n, n)) - (n - 1) / 2) / n
        weights = np.exp(-(rows**2 + columns**2) / (2 * 0.2**2))
        weights /= weights.sum()
        mean = (x * weights).sum(axis=(2, 3))
        square = (x**2 * weights).sum(axis=(2, 3))
        expected += [mean, np.sqrt(square - mean**2)]
    np.testing.assert_allclose(
        network.embed(images, "central").detach(),
        np.concatenate(expected, axis=1),
        atol=1e-5,
    )


def test_central_sees_less_of_the_border_than_of_the_centre(images):
    network = make()

    def change(features, rows):
        other = images.clone()
        other[:, :, rows] += 0.5
        first, second = (network.embed(x, features) for x in (images, other))
        return (first - second).norm().item()

    def share(features):  # of what changes with four rows of pixels
        return change(features, slice(4)) / change(features, slice(14, 18))

    assert share("central") < 0.5 * share("pooled")


def test_penultimate_uses_the_mean_of_the_statistic(images):
    network = make()
    before = network.embed(images, "penultimate").detach()
    x = network.trunk(images)[-1]
    network.track_stddev(x, 0)
    network.track_stddev(3 * x, 1)
    expected = 2 * minibatch_stddev(x).mean().item()
    assert network.mean_stddev.item() == pytest.approx(expected, rel=1e-4)
    assert not torch.allclose(before, network.embed(images, "penultimate"))


def test_without_the_statistic_logits_are_independent_too(images):
    network = make(stddev_group=0)
    alone = torch.stack([network(image[None])[0] for image in images])
    np.testing.assert_allclose(alone.detach(), network(images).detach(), atol=1e-5)


def test_bfloat16_gives_float32_embeddings_near_those_of_float32(images):
    network = make()
    exact = network.embed(images, "pooled")
    network.dtype = torch.bfloat16
    embedding = network.embed(images, "pooled")
    assert embedding.dtype == torch.float32
    assert 0 < (embedding - exact).abs().max() < 0.05 * exact.abs().max()
