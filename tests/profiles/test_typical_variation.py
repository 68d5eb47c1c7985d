"""Controls have unit covariance afterwards, and batches agree."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.profiles import TypicalVariationNormalizer


@parametrize_with_checks(
    [
        TypicalVariationNormalizer(),
        TypicalVariationNormalizer(n_components=1, shrinkage=0),
    ]
)
def test_sklearn(estimator, check):
    check(estimator)


def controls(n, d, seed=0):
    """Correlated rows of very different scale."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, d))
        @ rng.normal(size=(d, d))
        * 10.0 ** rng.integers(-3, 4, size=d)
    )


@pytest.mark.parametrize(("n", "d"), [(200, 5), (30, 30), (20, 100)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 10])
@pytest.mark.parametrize("n_batches", [1, 2, 4])
def test_covariance_of_controls_is_the_identity(n, d, shrinkage, n_batches):
    batch = np.arange(n) % n_batches
    tvn = TypicalVariationNormalizer(shrinkage=shrinkage)
    X = tvn.fit_transform(controls(n, d), batch=batch)
    assert X.shape == (n, min(d, n - n_batches))
    np.testing.assert_allclose(np.cov(X.T), np.eye(X.shape[1]), atol=1e-7)
    for name in range(n_batches):
        np.testing.assert_allclose(X[batch == name].mean(axis=0), 0, atol=1e-7)


def test_without_shrinkage_each_batch_has_the_identity():
    batch = np.arange(120) % 3
    tvn = TypicalVariationNormalizer(shrinkage=0)
    X = tvn.fit_transform(controls(120, 6), batch=batch)
    for name in range(3):
        covariance = np.cov(X[batch == name].T)
        np.testing.assert_allclose(covariance, 119 / 117 * np.eye(6), atol=1e-8)


def test_shift_and_scale_of_a_batch_are_undone():
    rng = np.random.default_rng(1)
    X = controls(40, 8)
    distorted = X * rng.uniform(0.5, 2, size=8) + rng.normal(size=8) * 100
    both, batch = np.vstack([X, distorted]), np.repeat(["P1", "P2"], 40)
    transformed = TypicalVariationNormalizer().fit_transform(both, batch=batch)
    np.testing.assert_allclose(transformed[:40], transformed[40:], atol=1e-7)


def test_correlations_of_a_batch_are_aligned():
    """A batch whose controls spread along a direction of their own loses it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    batch = np.repeat([0, 1], 300)
    X[300:] += 3 * rng.normal(size=(300, 1)) * np.array([1, 1, 1, 1])

    def disagreement(shrinkage):
        tvn = TypicalVariationNormalizer(shrinkage=shrinkage)
        Y = tvn.fit_transform(X, batch=batch)
        return np.abs(np.cov(Y[:300].T) - np.cov(Y[300:].T)).max()

    assert disagreement(0.5) < 0.6 * disagreement(1e6)
    assert disagreement(0) < 1e-8


def test_variation_of_controls_no_longer_hides_a_compound():
    """Nearest profile fails where controls vary much; whitened, it finds it."""
    rng = np.random.default_rng(0)
    spread = np.array([30.0] * 3 + [1.0] * 17)
    names = np.array(["DMSO"] * 100 + ["a"] * 10 + ["b"] * 10)
    X = rng.normal(size=(120, 20)) * spread
    X[100:110, 3:8] += 3
    X[110:, 8:13] += 3

    def accuracy(X):
        treated, label = X[100:], names[100:]
        distance = np.linalg.norm(treated[:, None] - treated[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        return (label[distance.argmin(axis=1)] == label).mean()

    tvn = TypicalVariationNormalizer(control="DMSO")
    assert accuracy(X) < 0.8
    assert accuracy(tvn.fit_transform(X, names)) > 0.9


def test_only_controls_are_learned_from():
    X, batch = controls(60, 5), np.repeat(["P1", "P2"], 30)
    y = np.where(np.arange(60) % 3, "DMSO", "drug")
    tvn = TypicalVariationNormalizer(control="DMSO").fit(X, y, batch=batch)
    chosen = y == "DMSO"
    alone = TypicalVariationNormalizer().fit(X[chosen], batch=batch[chosen])
    np.testing.assert_array_equal(
        tvn.transform(X, batch=batch), alone.transform(X, batch=batch)
    )
    several = TypicalVariationNormalizer(control=["DMSO", "drug"])
    np.testing.assert_array_equal(
        several.fit_transform(X, y, batch=batch),
        TypicalVariationNormalizer().fit_transform(X, batch=batch),
    )


def test_rows_are_independent():
    X, batch = controls(40, 60), np.array(list("abcd") * 10)
    tvn = TypicalVariationNormalizer().fit(X, batch=batch)
    together = tvn.transform(X, batch=batch)
    order = np.random.default_rng(0).permutation(40)[:7]
    few = tvn.transform(X[order], batch=batch[order])
    np.testing.assert_allclose(few, together[order], rtol=1e-9, atol=1e-9)


def test_the_order_of_controls_turns_no_sign():
    X = controls(60, 5)
    order = np.random.default_rng(1).permutation(60)
    found, expected = (
        TypicalVariationNormalizer().fit(rows).transform(X) for rows in (X[order], X)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_fewer_components():
    X = controls(50, 10)
    full = TypicalVariationNormalizer().fit_transform(X)
    few = TypicalVariationNormalizer(n_components=3).fit_transform(X)
    np.testing.assert_allclose(few, full[:, :3], atol=1e-8)
    more = TypicalVariationNormalizer(n_components=40).fit_transform(X)
    np.testing.assert_array_equal(more, full)


def test_a_constant_feature_counts_for_nothing():
    X = np.hstack([controls(30, 3), np.full((30, 1), 0.1)])
    tvn = TypicalVariationNormalizer().fit(X)
    assert tvn.n_components_ == 3
    assert np.isfinite(tvn.transform(X + 1)).all()


def test_in_a_pipeline_with_batches():
    X, batch = controls(60, 4), np.repeat(["P1", "P2"], 30)
    y = np.where(np.arange(60) % 2, "DMSO", "drug")
    X[y == "drug"] += 5 * X.std(axis=0)
    tvn = TypicalVariationNormalizer(control="DMSO")
    with sklearn.config_context(enable_metadata_routing=True):
        tvn.set_fit_request(batch=True).set_transform_request(batch=True)
        model = make_pipeline(StandardScaler(), tvn, LinearSVC())
        model.fit(X, y, batch=batch)
        assert (model.predict(X, batch=batch) == y).mean() > 0.9


def test_data_frames():
    X = pd.DataFrame(controls(30, 3), columns=["a", "b", "c"])
    tvn = TypicalVariationNormalizer().set_output(transform="pandas")
    assert list(tvn.fit_transform(X).columns) == [
        f"typicalvariationnormalizer{i}" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"control": "DMSO"}, {}, "control='DMSO' needs y"),
        ({"control": "DMSO"}, {"y": ["drug"] * 6}, "No row of y is 'DMSO'"),
        ({"control": "DMSO"}, {"y": ["DMSO"] * 5}, "y has 5 values, X has 6 rows"),
        ({}, {"batch": ["a"] * 5 + ["b"]}, "Batch 'b' has 1 controls"),
        ({}, {"batch": ["a"] * 5}, "batch has shape"),
        ({}, {"batch": ["a"] * 5 + [None]}, "Row 5 has no batch"),
        (
            {"shrinkage": 0},
            {"batch": [1, 1, 1, 2, 2, 2]},
            r"batch 1 do not vary in all \d components",
        ),
    ],
)
def test_errors(parameters, arguments, message):
    y = arguments.pop("y", None)
    X = controls(6, 3)
    with pytest.raises(ValueError, match=message):
        TypicalVariationNormalizer(**parameters).fit(X, y, **arguments)


def test_a_feature_constant_in_one_batch_cannot_be_aligned_without_shrinkage():
    X, batch = controls(60, 3), np.repeat(["P1", "P2"], 30)
    X[:30, 0] = 1.0
    with pytest.raises(ValueError, match="batch 'P1' do not vary in all 3"):
        TypicalVariationNormalizer(shrinkage=0).fit(X, batch=batch)
    assert np.isfinite(TypicalVariationNormalizer().fit_transform(X, batch=batch)).all()


def test_missing_labels_are_no_controls():
    y = pd.array(["DMSO", None, "drug"] * 10, dtype="string")
    tvn = TypicalVariationNormalizer(control="DMSO").fit(controls(30, 3), y)
    assert tvn.n_components_ == 3


def test_controls_that_do_not_vary():
    with pytest.raises(ValueError, match="do not vary"):
        TypicalVariationNormalizer().fit(np.full((5, 3), 0.1))


def test_a_batch_without_controls_is_named():
    X = controls(20, 3)
    tvn = TypicalVariationNormalizer().fit(X, batch=np.repeat(["P1", "P2"], 10))
    with pytest.raises(ValueError, match="No controls of batch 'P3' in fit"):
        tvn.transform(X, batch=["P3"] * 20)
    with pytest.raises(ValueError, match="No controls of batch 'all' in fit"):
        tvn.transform(X)
