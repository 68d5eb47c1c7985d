"""Losses against their formulas; penalties against finite differences."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from gandl.gan import Discriminator, Generator
from gandl.gan._losses import (
    contrastive_loss,
    decorrelation_penalty,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    path_length_penalty,
    squared_gradient,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


REAL, FAKE = torch.tensor([1.5, -0.5]), torch.tensor([0.2, -2.0])


def softplus(x):
    return math.log1p(math.exp(x))


def test_logistic():
    expected = (softplus(-1.5) + softplus(0.5) + softplus(0.2) + softplus(-2)) / 2
    assert discriminator_loss("logistic", REAL, FAKE).item() == pytest.approx(expected)
    expected = (softplus(-0.2) + softplus(2)) / 2
    assert generator_loss("logistic", FAKE).item() == pytest.approx(expected)


def test_wasserstein():
    drift = 1e-3 * (1.5**2 + 0.5**2) / 2
    assert discriminator_loss("wgan-gp", REAL, FAKE).item() == pytest.approx(
        -0.9 - 0.5 + drift
    )
    assert generator_loss("wgan-gp", FAKE).item() == pytest.approx(0.9)


def test_relativistic():
    expected = (softplus(0.2 - 1.5) + softplus(-2 + 0.5)) / 2
    assert discriminator_loss("r3gan", REAL, FAKE).item() == pytest.approx(expected)
    expected = (softplus(1.5 - 0.2) + softplus(-0.5 + 2)) / 2
    assert generator_loss("r3gan", FAKE, REAL).item() == pytest.approx(expected)


def test_contrastive_loss_equals_naive_loop():
    first = torch.randn(3, 4, generator=seeded(1))
    second = torch.randn(3, 4, generator=seeded(2))
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(6):
        others = [math.exp(z[i] @ z[j] / 0.2) for j in range(6) if j != i]
        losses.append(-math.log(math.exp(z[i] @ z[(i + 3) % 6] / 0.2) / sum(others)))
    loss = contrastive_loss(first, second, temperature=0.2)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_contrastive_loss_is_small_only_for_partners():
    z = torch.eye(8)
    assert contrastive_loss(z, z) < 0.1
    assert contrastive_loss(z, z.roll(1, 0)) > 3


def test_decorrelation_penalty_equals_naive_loop():
    z = torch.randn(12, 5, generator=seeded()) * torch.tensor([1, 20, 3, 0.5, 7])
    z[:, 3] += z[:, 0]
    total = 0.0
    for i, j in product(range(5), range(5)):
        total += np.corrcoef(z[:, i], z[:, j])[0, 1] ** 2 if i != j else 0
    penalty = decorrelation_penalty(z).item()
    assert penalty == pytest.approx(total / 5, rel=1e-3)
    assert decorrelation_penalty(100 * z).item() == pytest.approx(penalty, rel=1e-2)


def test_decorrelation_penalty_is_small_only_for_features_of_their_own():
    own = torch.tensor(hadamard(8), dtype=torch.float32)[:, 1:]
    assert decorrelation_penalty(own) == pytest.approx(0, abs=1e-6)
    same = own[:, :1].expand(-1, 7)
    assert decorrelation_penalty(same) == pytest.approx(6, rel=1e-3)
    assert decorrelation_penalty(torch.zeros(4, 7)) == 0


@pytest.fixture
def network():
    return Discriminator(
        seeded(), n_channels=2, size=8, channel_base=32, channel_max=8
    ).double()


def finite_difference_gradient(function, x, eps=1e-5):
    """Derivative of a scalar function by every entry of x, one at a time."""
    grad = torch.zeros_like(x)
    for k in range(x.numel()):
        step = torch.zeros_like(x).view(-1)
        step[k] = eps
        step = step.view_as(x)
        grad.view(-1)[k] = (function(x + step) - function(x - step)) / (2 * eps)
    return grad


def test_r1_equals_finite_differences(network):
    network.dtype = torch.float64
    images = torch.randn(1, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        grad = finite_difference_gradient(lambda x: network(x).sum(), images)
    penalty = squared_gradient(network(images.requires_grad_()), images)
    assert penalty.item() == pytest.approx(grad.square().sum().item(), rel=1e-4)


def test_r1_reaches_the_weights(network):
    """The penalty's own gradient, a second derivative, against finite differences."""
    network.dtype = torch.float64
    images = torch.randn(2, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    weight = network.blocks[0].down.weight

    def penalty():
        x = images.clone().requires_grad_()
        return squared_gradient(network(x), x).mean()

    penalty().backward()
    expected = weight.grad.clone()
    direction = torch.randn(weight.shape, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        weight += 1e-5 * direction
    above = penalty().item()
    with torch.no_grad():
        weight -= 2e-5 * direction
    below = penalty().item()
    derivative = (above - below) / 2e-5
    assert derivative == pytest.approx((expected * direction).sum().item(), rel=1e-3)


def test_gradient_penalty_is_distance_of_norm_from_one(network):
    network.dtype = torch.float64
    images = torch.randn(2, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    images.requires_grad_()
    norms = squared_gradient(network(images), images).sqrt()
    expected = (norms - 1).square().mean().item()
    assert gradient_penalty(network(images), images).item() == pytest.approx(expected)


def test_path_length_equals_finite_differences():
    generator = Generator(
        seeded(),
        n_channels=2,
        size=32,
        latent_dim=3,
        n_mapping_layers=1,
        channel_base=128,
        channel_max=4,
    ).double()
    generator.dtype = torch.float64
    ws = torch.randn(1, generator.n_styles, 3, generator=seeded(1), dtype=torch.float64)

    def synthesize(ws):
        return generator.synthesize(ws, seeded(2))

    noise = torch.randn(1, 2, 32, 32, generator=seeded(3))  # as the penalty draws it
    with torch.no_grad():
        grad = finite_difference_gradient(
            lambda w: (synthesize(w) * noise).sum() / 32, ws
        )
    length = grad.square().sum(dim=2).mean().sqrt().item()
    ws.requires_grad_()
    start = torch.tensor(0.5, dtype=torch.float64)
    penalty, mean = path_length_penalty(synthesize(ws), ws, start, seeded(3))
    expected_mean = 0.5 + 0.01 * (length - 0.5)
    assert mean.item() == pytest.approx(expected_mean, rel=1e-5)
    assert penalty.item() == pytest.approx((length - expected_mean) ** 2, rel=1e-4)
    penalty.backward()
    assert generator.convs[2].conv.weight.grad.abs().sum() > 0
