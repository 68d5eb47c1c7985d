"""Augmentations: what they may do to an image, and what not."""

import itertools
import math

import numpy as np
import pytest
import torch

from gandl.gan._augment import _warp, adaptive_augment, dihedral, random_view


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(64, 3, 16, 16, generator=seeded()) * 2 - 1


def test_dihedral_gives_all_eight_symmetries_and_nothing_else(images):
    one = images[:1].repeat(200, 1, 1, 1)
    symmetries = [
        np.rot90(flipped, k, axes=(1, 2))
        for flipped, k in itertools.product(
            (one[0].numpy(), one[0].numpy()[:, :, ::-1]), range(4)
        )
    ]
    counts = np.zeros(8)
    for result in dihedral(one, seeded(1)).numpy():
        matches = [np.array_equal(result, symmetry) for symmetry in symmetries]
        assert sum(matches) == 1
        counts += matches
    assert counts.min() > 10


def test_probability_zero_changes_nothing(images):
    assert adaptive_augment(images, 0.0, seeded()) is images


def test_probability_is_that_of_a_change(images):
    many = images.repeat(8, 1, 1, 1)
    changed = (adaptive_augment(many, 0.1, seeded(1)) - many).abs().amax((1, 2, 3))
    # Six operations; two of them draw the neutral element one time in four or two.
    expected = 1 - 0.9**4 * (1 - 0.1 * 3 / 4) * (1 - 0.1 / 2)
    assert (changed > 1e-3).float().mean().item() == pytest.approx(expected, abs=0.06)


def test_quarter_turn_and_whole_pixel_shift_are_exact(images):
    n = len(images)
    zero, one = torch.zeros(n), torch.ones(n)
    turned = _warp(images, torch.full((n,), torch.pi / 2), one, one, torch.zeros(n, 2))
    exact = [images.rot90(k, dims=(2, 3)) for k in (1, 3)]
    assert min((turned - e).abs().max() for e in exact) < 1e-5
    shifted = _warp(
        images, zero, one, one, torch.tensor([[2 * 3 / 16, 0.0]]).repeat(n, 1)
    )
    np.testing.assert_allclose(shifted[..., :-3], images[..., 3:], atol=1e-5)


def test_stains_are_not_mixed():
    images = torch.full((32, 3, 16, 16), -1.0)
    images[:, 1, 4:12, 4:12] = 1.0
    for result in (
        adaptive_augment(images, 1.0, seeded()),
        random_view(images, seeded()),
    ):
        dark = result[:, [0, 2]]
        assert dark.std(dim=(2, 3)).max() < 0.1
        assert result[:, 1].std(dim=(1, 2)).min() > 0.3


def test_each_channel_draws_its_own_intensity():
    images = torch.zeros(16, 2, 16, 16)
    means = adaptive_augment(images, 1.0, seeded()).mean(dim=(2, 3))
    assert (means[:, 0] - means[:, 1]).abs().mean() > 0.05


def test_two_views_differ_and_stay_near_the_range(images):
    first, second = random_view(images, seeded(1)), random_view(images, seeded(2))
    assert (first - second).abs().mean() > 0.1
    assert first.min() > -1.5
    assert first.isfinite().all()


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_gradients_reach_the_images(images, p):
    x = images.clone().requires_grad_()
    adaptive_augment(x, p, seeded()).square().sum().backward()
    assert (x.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_same_seed_same_bits(images):
    for augment in (
        lambda rng: dihedral(images, rng),
        lambda rng: adaptive_augment(images, 0.5, rng),
        lambda rng: random_view(images, rng),
    ):
        assert torch.equal(augment(seeded(3)), augment(seeded(3)))
        assert not torch.equal(augment(seeded(3)), augment(seeded(4)))


def test_one_channel_and_many():
    for n_channels in (1, 6):
        images = torch.zeros(4, n_channels, 32, 32)
        assert adaptive_augment(images, 1.0, seeded()).shape == images.shape
        assert random_view(images, seeded()).shape == (4, n_channels, 24, 24)


def test_brightness_of_a_dark_background_is_moved_by_offsets_alone():
    """Gain is about -1, which is dark; of log-sd 0.2, offsets of sd 0.1."""
    dark = torch.full((4000, 1, 4, 4), -1.0)
    moved = adaptive_augment(dark, 1.0, seeded())[:, 0, 0, 0] + 1
    assert moved.std().item() == pytest.approx(0.1, rel=0.1)
    bright = adaptive_augment(torch.ones(4000, 1, 4, 4), 1.0, seeded())[:, 0, 0, 0] + 1
    gain = (bright.clamp(min=0.1) / 2).log()
    assert gain.std().item() == pytest.approx(math.hypot(0.2, 0.05), rel=0.1)


def test_all_four_turns_are_as_likely():
    images = torch.full((2000, 1, 16, 16), -1.0)
    images[..., 2:6] = 1.0  # a stripe from top to bottom, at the left
    turned = adaptive_augment(images, 1.0, seeded())[:, 0]
    lying = turned.mean(dim=2).std(dim=1) > turned.mean(dim=1).std(dim=1)
    assert lying.float().mean().item() == pytest.approx(0.5, abs=0.05)
