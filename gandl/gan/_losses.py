"""What the two networks are asked: adversarial losses, penalties, contrast.

Pure functions of logits, images and features; each returns a scalar tensor.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gandl.gan._layers import at_least_float32, follow
from gandl.gan._ranks import ALONE, Ranks, randn

LOSSES = ("logistic", "wgan-gp", "r3gan")


def discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Adversarial loss of the discriminator from logits (N,) of real and fake.

    "logistic": non-saturating (Goodfellow et al. 2014); "wgan-gp": Wasserstein with
    the drift term of Karras et al. 2018; "r3gan": relativistic (Huang et al. 2024).
    """
    if loss == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if loss == "wgan-gp":
        return fake.mean() - real.mean() + 1e-3 * real.square().mean()
    return F.softplus(fake - real).mean()


def generator_loss(loss: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Adversarial loss of the generator; "r3gan" needs the real logits too."""
    if loss == "logistic":
        return F.softplus(-fake).mean()
    if loss == "wgan-gp":
        return -fake.mean()
    assert real is not None
    return F.softplus(real - fake).mean()


def squared_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm (N,) of each logit's gradient by its image, differentiable.

    gamma / 2 times its mean over real images is the R1 penalty, over generated ones
    R2 (Mescheder et al. 2018).
    """
    (grad,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return at_least_float32(grad).square().sum(dim=(1, 2, 3))


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared distance of the gradient's norm from 1 (Gulrajani et al. 2017)."""
    return ((squared_gradient(logits, images) + 1e-12).sqrt() - 1).square().mean()


def path_length_penalty(
    images: Tensor,
    ws: Tensor,
    mean_length: Tensor,
    rng: torch.Generator,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """Path-length penalty and the updated running mean length.

    (|J^T y| - a)^2 for the Jacobian J of images by styles, y ~ N(0, 1) over pixels
    divided by sqrt(H * W), and a the running mean (decay 0.01) of |J^T y|; Karras
    et al. 2020, section 3.2.
    """
    height, width = images.shape[2:]
    noise = randn(images.shape, rng, images.device)
    product = (images * noise).sum() / math.sqrt(height * width)
    (grad,) = torch.autograd.grad(product, ws, create_graph=True)
    lengths = grad.square().sum(dim=2).mean(dim=1).sqrt()
    mean_length = mean_length.clone()
    mean_of_batch = lengths.detach().mean()
    ranks.mean_([mean_of_batch])
    follow(mean_length, mean_of_batch, 0.01)
    return (lengths - mean_length).square().mean(), mean_length


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """NT-Xent: each view is to find its partner among all (Chen et al. 2020).

    ``first`` and ``second`` (N, d) are projections of two views of the same N images.
    """
    z = F.normalize(at_least_float32(torch.cat([first, second])), dim=1)
    similarity = z @ z.T / temperature
    n = len(first)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity.masked_fill(itself, -math.inf), partner)


def decorrelation_penalty(z: Tensor) -> Tensor:
    """Sum of the squared correlations of each feature of z (N, d) with the others.

    Averaged over features. Redundancy reduction (Zbontar et al. 2021) within one set of
    projections, as in VICReg (Bardes et al. 2022), whatever their scale.
    """
    z = at_least_float32(z)
    z = (z - z.mean(dim=0)) / (z.var(dim=0) + 1e-4).sqrt()
    correlation = z.T @ z / (len(z) - 1)
    others = correlation - torch.diag(correlation.diag())
    return others.square().sum() / z.shape[1]
