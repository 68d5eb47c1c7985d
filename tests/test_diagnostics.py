"""Label-free scores, against naive forms."""

import numpy as np
import pytest
import sklearn
from scipy.linalg import sqrtm
from sklearn.base import clone
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, GroupKFold

from gandl import GANDLFeaturizer
from gandl._diagnostics import frechet_distance, mean_average_precision


def clouds(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def test_mean_average_precision_is_that_of_each_row_against_all_others():
    x = clouds(300, 5)
    groups = np.random.default_rng(0).integers(0, 40, 300)
    groups[7] = 99  # alone
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    expected = []
    for row in range(300):
        others = np.arange(300) != row
        relevant = groups[others] == groups[row]
        if relevant.any():
            expected.append(average_precision_score(relevant, (z @ z[row])[others]))
    assert mean_average_precision(x, groups) == pytest.approx(np.mean(expected))


def test_mean_average_precision_of_replicates():
    x = clouds(40, 3)
    near = np.repeat(x, 3, axis=0) + 1e-6 * clouds(120, 3, seed=1)
    assert mean_average_precision(near, np.repeat(np.arange(40), 3)) == 1
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 3))
    assert mean_average_precision(near, shuffled) < 0.2


def test_images_without_a_group_are_no_replicates():
    x = np.vstack([np.repeat(clouds(20, 3), 2, axis=0), clouds(20, 3, seed=1)])
    groups = [*np.repeat(np.arange(20), 2).astype(str), *[None, np.nan] * 10]
    assert mean_average_precision(x, groups) == 1


def test_replicates_need_two_images():
    with pytest.raises(ValueError, match="No group has two images"):
        mean_average_precision(clouds(4, 2), ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        mean_average_precision(clouds(4, 2), ["a", "a", "b"])


@pytest.mark.parametrize(("n", "d"), [(200, 4), (10, 30)])
def test_frechet_distance_is_the_closed_form(n, d):
    real, generated = clouds(n, d), clouds(n, d, seed=1)
    mean, deviation = real.mean(axis=0), real.std(axis=0)
    a, b = (real - mean) / deviation, (generated - mean) / deviation
    first, second = np.cov(a.T), np.cov(b.T)
    root = sqrtm(sqrtm(first) @ second @ sqrtm(first)).real
    expected = np.trace(first + second - 2 * root)
    expected += ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    assert frechet_distance(real, generated) == pytest.approx(expected / d, rel=1e-4)


def test_frechet_distance_of_equals_is_zero():
    x = clouds(50, 6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two images at least"):
        frechet_distance(x[:1], x)


def tiny(**options):
    network = {"channel_base": 256, "channel_max": 8, "latent_dim": 8}
    budget = {"max_kimg": 0.016, "batch_size": 8, "random_state": 0}
    return GANDLFeaturizer(**{**network, **budget, **options})


@pytest.fixture(scope="module")
def images():
    """Three textures, 16 images each, larger than the training crops."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 1000, size=(48, 1, 40, 40))
    images[16:32] = images[16:32].cumsum(axis=3) // 16
    images[32:] = images[32:].cumsum(axis=2) // 16
    return images.astype("uint16")


KINDS = np.repeat(["noise", "rows", "columns"], 16)


def test_score_without_groups_is_the_distance_of_generated_images(images):
    fitted = tiny(image_size=32, n_views=1, whiten=False).fit(images)
    score = fitted.score(images)
    assert fitted.score(images) == score
    # Of images as large as the crops, the crops are the images.
    small = images[:, :, :32, :32]
    fake = fitted.generate(len(small), random_state=0)
    expected = frechet_distance(fitted.transform(small), fitted.transform(fake))
    assert fitted.score(small) == pytest.approx(-expected, rel=1e-3)
    assert score != fitted.score(small)


def test_one_group_is_told_from_none():
    with pytest.raises(ValueError, match="All images are of one group"):
        mean_average_precision(np.eye(4), ["a"] * 4)


@pytest.mark.parametrize("state", [None, np.random.RandomState(0)])
def test_a_score_does_not_move_by_itself(images, state):
    featurizer = tiny(random_state=state).fit(images)
    assert featurizer.score(images) == featurizer.score(images)


def test_score_with_groups_is_replicate_agreement(images):
    fitted = tiny(image_size=32).fit(images)
    assert fitted.score(images, groups=KINDS) == mean_average_precision(
        fitted.transform(images), KINDS
    )
    assert fitted.score(images, groups=KINDS) > fitted.score(
        images, groups=np.random.default_rng(0).permutation(KINDS)
    )


def test_contrast_alone_is_scored_by_groups_only(images):
    fitted = tiny(adversarial_batch=0).fit(images)
    assert fitted.score(images, groups=KINDS) > 0
    with pytest.raises(ValueError, match="has trained no generator"):
        fitted.score(images)


def test_model_selection_without_labels(images):
    search = GridSearchCV(tiny(), {"features": ["pooled", 4]}, cv=3)
    search.fit(images)
    assert (search.cv_results_["mean_test_score"] < 0).all()


def test_model_selection_by_replicates(images):
    plates = np.tile(["P1", "P2"], 24)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = tiny().set_score_request(groups="treatment")
        cv = GroupKFold(2)
        search = GridSearchCV(estimator, {"features": ["pooled", 4]}, cv=cv)
        search.fit(images, groups=plates, treatment=KINDS)
    held_out = plates == "P2"
    expected = clone(search.best_estimator_).set_params(features="pooled")
    fold = next(
        k
        for k, (_, test) in enumerate(cv.split(plates, groups=plates))
        if plates[test[0]] == "P2"
    )
    expected.fit(images[~held_out])
    assert search.cv_results_[f"split{fold}_test_score"][0] == expected.score(
        images[held_out], groups=KINDS[held_out]
    )


def test_groups_of_two_columns_are_refused_before_embedding(monkeypatch):
    images = np.random.default_rng(0).random((4, 1, 32, 32), dtype=np.float32)
    model = GANDLFeaturizer(max_kimg=0, latent_dim=8, channel_max=8).fit(images)
    monkeypatch.setattr("gandl.featurizer.embedded", lambda *_: pytest.fail("late"))
    with pytest.raises(ValueError, match=r"groups has shape \(4, 2\), X has 4 rows"):
        model.score(images, groups=np.zeros((4, 2)))
