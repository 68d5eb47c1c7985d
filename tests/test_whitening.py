"""Whitening by what augmentation changes."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import inv, sqrtm
from scipy.spatial.distance import cdist
from sklearn.base import clone

import gandl._embedding
from gandl import GANDLFeaturizer, ImageCollection
from gandl._embedding import embed
from gandl._whitening import (
    embed_views,
    learn_whitening,
    view_statistics,
    whitening,
)
from gandl.gan import Discriminator
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
    return view_statistics(embed_views(means_and_deviations, batches(), 200, rng))


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
    rng = torch.Generator().manual_seed(1)
    again = view_statistics(embed_views(means_and_deviations, batches(), 2000, rng))
    np.testing.assert_allclose(
        np.diag(covariance) * deviation**2, np.diag(again[2]) * again[1] ** 2, rtol=0.4
    )


def test_covariance_is_half_that_of_differences(statistics):
    """Of views that are drawn here as they are drawn there."""
    _, deviation, covariance = statistics
    rng, source = torch.Generator().manual_seed(0), batches()
    pairs = []
    for _ in range(50):
        crops = next(source)
        views = [random_view(crops, rng), random_view(crops, rng)]
        pairs.append(torch.stack([means_and_deviations(v) for v in views]))
    first, second = torch.cat(pairs, dim=1).double().numpy() / deviation
    middle = (first + second) / 2
    within = ((first - middle).T @ (first - middle)) * 2 / len(first)
    np.testing.assert_allclose(covariance, within, rtol=1e-3, atol=1e-6)


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
    statistics = view_statistics(embed_views(embed, [images], 200, draws, 32))
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


@pytest.mark.parametrize("features", ["pooled", "central", 16, 8, 4])
def test_embedding_is_whitened_after_views_are_averaged(images, fitted, features):
    raw = with_parameters(fitted, features=features, whiten=False).transform(images)
    mean, matrix = fitted.whitening_[str(features)]
    white = with_parameters(fitted, features=features).transform(images)
    np.testing.assert_allclose(white, (raw - mean) @ matrix, atol=1e-4)
    assert white.dtype == np.float32
    assert not np.allclose(white, raw)


def test_a_block_is_whitened_by_its_own_part(images, fitted):
    """Of features of unlike width, so that no part can stand for another."""
    wide = clone(fitted).set_params(channel_base=128, channel_max=64, max_kimg=0)
    wide.fit(images)
    assert wide.config_.block_widths == {16: 8, 8: 16, 4: 32}
    pooled, start = wide.whitening_["pooled"][0], 0
    for features, width in ((16, 8), (8, 16), (4, 32)):
        mean, matrix = wide.whitening_[str(features)]
        assert matrix.shape == (2 * width, 2 * width)
        np.testing.assert_array_equal(mean, pooled[start : start + 2 * width])
        raw = with_parameters(wide, features=features, whiten=False).transform(images)
        np.testing.assert_allclose(mean, raw.mean(axis=0), atol=0.2 * raw.std())
        start += 2 * width


def test_a_few_images_do_not_replace_what_many_have_told(images, fitted):
    few = pickle.loads(pickle.dumps(fitted)).partial_fit(images[:1])
    np.testing.assert_array_equal(
        few.whitening_["pooled"][1], fitted.whitening_["pooled"][1]
    )
    many = few.partial_fit(np.concatenate([images, images]))
    assert not np.array_equal(
        many.whitening_["pooled"][1], fitted.whitening_["pooled"][1]
    )


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("n_images", [5, 7, 32])
def test_whitened_rows_do_not_depend_on_their_place(n_images, monkeypatch):
    """Products of matrices may: with five rows of 960, say, on two threads."""
    rng = np.random.default_rng(0)
    pixels = rng.random((n_images, 1, 32, 32), dtype=np.float32)
    monkeypatch.setattr(gandl._embedding, "_CHUNK_BYTES", n_images * 4 * 32 * 32)
    affine = tuple(rng.normal(size=s).astype(np.float32) for s in (960, (960, 960)))

    def embedded(pixels):
        return embed(
            SimpleNamespace(embed=lambda x, _: x.flatten(1)[:, :960]),
            ImageCollection.from_array(pixels),
            np.array([[0.0, 1.0]]),
            features="",
            size=32,
            device="cpu",
            whitening=affine,
        )

    forward = embedded(pixels)
    assert np.array_equal(embedded(pixels[::-1])[::-1], forward)
    assert np.array_equal(embedded(pixels[-1:])[0], forward[-1])


def test_penultimate_layer_and_the_paper_are_left_as_they_are(images, fitted):
    ours = with_parameters(fitted, features="penultimate")
    plain = with_parameters(ours, whiten=False)
    assert np.array_equal(ours.transform(images), plain.transform(images))
    paper = GANDLFeaturizer(preset="paper", max_kimg=0, channel_max=8, latent_dim=8)
    assert paper.fit(images).whitening_ == {}


def test_whitening_follows_a_training_by_few_images_at_a_time():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (40, 1, 32, 32), dtype="uint8")
    network = {"channel_max": 32, "latent_dim": 8, "batch_size": 8}
    online = GANDLFeaturizer(**network, random_state=0)
    means = []
    for start in range(0, 24, 8):  # 32 crops, and features longer than that
        online.partial_fit(X[start : start + 8])
        means.append(online.whitening_["pooled"][0])
    assert len(means[0]) > 32
    assert not np.allclose(means[0], means[1])
    assert not np.allclose(means[1], means[2])
    # What more images told stays.
    online.partial_fit(X[:4])
    np.testing.assert_array_equal(online.whitening_["pooled"][0], means[2])


def test_whitening_that_was_not_measured_is_asked_for_clearly(images, fitted):
    other = clone(fitted).set_params(whiten=False, max_kimg=0).fit(images)
    with pytest.raises(ValueError, match="fitted with whiten=False"):
        other.set_params(whiten=True).transform(images)
    older = pickle.loads(pickle.dumps(fitted)).set_params(features="central")
    del older.whitening_["central"]
    with pytest.raises(ValueError, match=r"an earlier version .*'central'"):
        older.transform(images)


@pytest.mark.parametrize("features", ["pooled", "central", 8, 4])
def test_each_choice_of_features_is_whitened_by_its_own_views(features):
    shape = {"n_channels": 2, "size": 16, "channel_base": 128, "channel_max": 16}
    network = Discriminator(torch.Generator().manual_seed(0), **shape)

    def rng():
        return torch.Generator().manual_seed(1)

    mean, matrix = learn_whitening(network, batches(), 40, rng())[str(features)]
    views = embed_views(lambda x: network.embed(x, features), batches(), 40, rng())
    expected = whitening(*view_statistics(views))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(matrix, expected[1], rtol=1e-3, atol=1e-3)


def with_parameters(fitted, **parameters):
    other = clone(fitted).set_params(**parameters)
    other.__dict__ |= {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    return other
