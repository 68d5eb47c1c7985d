"""Whitening by what augmentation changes."""

import numpy as np
import pytest
import torch
from scipy.linalg import inv, sqrtm
from scipy.spatial.distance import cdist
from sklearn.base import clone

from gandl import GANDLFeaturizer
from gandl._whitening import view_statistics, whitening
from gandl.gan._augment import random_view


def batches(n=4):
    rng = np.random.default_rng(0)
    while True:
        yield torch.from_numpy(rng.uniform(-1, 1, (n, 2, 16, 16)).astype(np.float32))


def means_and_deviations(x):
    return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


@pytest.fixture(scope="module")
def statistics():
    rng = torch.Generator().manual_seed(0)
    return view_statistics(means_and_deviations, batches(), 200, rng)


def test_matrix_is_the_inverse_root_of_the_covariance_of_views(statistics):
    mean, deviation, covariance = statistics
    centre, matrix = whitening(*statistics)
    expected = inv(sqrtm(covariance + 0.1 * np.eye(4))).real / deviation[:, None]
    np.testing.assert_allclose(matrix, expected, rtol=1e-5)
    np.testing.assert_allclose(centre, mean, rtol=1e-6)


def test_statistics_are_those_of_crops_and_of_fresh_views(statistics):
    mean, deviation, covariance = statistics
    source = batches()
    crops = torch.cat([next(source) for _ in range(50)])
    embedded = means_and_deviations(crops).numpy()
    np.testing.assert_allclose(mean, embedded.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(deviation, embedded.std(axis=0), rtol=1e-3)
    # Other draws of the views give the same covariance, but for chance.
    again = view_statistics(
        means_and_deviations, batches(), 2000, torch.Generator().manual_seed(1)
    )
    np.testing.assert_allclose(
        np.diag(covariance) * deviation**2, np.diag(again[2]) * again[1] ** 2, rtol=0.4
    )


def test_views_of_an_image_find_each_other():
    """Images differ in contrast, views of one in brightness: that is to count less."""
    rng = np.random.default_rng(0)
    contrast = rng.uniform(0.2, 0.6, (200, 1, 1, 1))
    light = 0.5 + contrast * rng.uniform(-0.5, 0.5, (200, 1, 32, 32))
    images = torch.from_numpy((2 * light - 1).astype(np.float32))

    def embed(x):
        light = ((x + 1) / 2).flatten(1)
        brightness = light.mean(dim=1, keepdim=True)
        return torch.cat([brightness, light.std(dim=1, keepdim=True)], dim=1)

    draws = torch.Generator().manual_seed(0)
    statistics = view_statistics(embed, [images], 200, draws, size=32)
    mean, matrix = whitening(*statistics)
    views = [embed(random_view(images, draws, 32)).numpy() - mean for _ in range(2)]

    def rank_of_partner(matrix):
        first, second = (view @ matrix for view in views)
        distances = cdist(first, second)
        return (distances < np.diag(distances)[:, None]).sum(axis=1).mean()

    standardised = np.diag(1 / statistics[1])
    assert rank_of_partner(matrix) < 0.8 * rank_of_partner(standardised)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 4096, size=(12, 2, 32, 32), dtype="uint16")


@pytest.fixture(scope="module")
def fitted(images):
    return GANDLFeaturizer(
        max_kimg=0.016, batch_size=8, channel_max=8, latent_dim=8, random_state=0
    ).fit(images)


@pytest.mark.parametrize("features", ["pooled", 16, 8, 4])
def test_embedding_is_whitened_after_views_are_averaged(images, fitted, features):
    raw = with_parameters(fitted, features=features, whiten=False).transform(images)
    mean, matrix = fitted.whitening_[str(features)]
    white = with_parameters(fitted, features=features).transform(images)
    np.testing.assert_allclose(white, (raw - mean) @ matrix, atol=1e-4)
    assert white.dtype == np.float32
    assert not np.allclose(white, raw)


def test_penultimate_layer_and_the_paper_are_left_as_they_are(images, fitted):
    ours = with_parameters(fitted, features="penultimate")
    plain = with_parameters(ours, whiten=False)
    assert np.array_equal(ours.transform(images), plain.transform(images))
    paper = GANDLFeaturizer(preset="paper", max_kimg=0, channel_max=8, latent_dim=8)
    assert paper.fit(images).whitening_ == {}


def test_whitening_that_was_not_measured_is_asked_for_clearly(images, fitted):
    other = clone(fitted).set_params(whiten=False, max_kimg=0).fit(images)
    with pytest.raises(ValueError, match="fitted with whiten=False"):
        other.set_params(whiten=True).transform(images)


def with_parameters(fitted, **parameters):
    other = clone(fitted).set_params(**parameters)
    other.__dict__ |= {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    return other
