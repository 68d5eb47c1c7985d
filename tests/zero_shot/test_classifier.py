"""ZeroShotClassifier: prototypes, honest probabilities, classes that come later."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl import ZeroShotClassifier
from gandl.zero_shot._classifier import _class_means, _held_out_distances, _whitening


@parametrize_with_checks([ZeroShotClassifier()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


CLASSES = np.array(["apoptosis", "interphase", "metaphase", "polylobed"])


def cells(counts, d=60, distance=2.5, seed=0, spread=(3.0, 0.3)):
    """Classes that vary more in a tenth of the directions than in the others."""
    means = distance * np.random.default_rng(7).normal(size=(len(counts), d)) / d**0.5
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(counts)), counts)
    spread = np.where(np.arange(d) < d / 10, *spread)
    X = means[which] + spread * rng.normal(size=(len(which), d))
    return X, CLASSES[which]


def balanced(model, X, y):
    return balanced_accuracy_score(y, model.predict(X))


def test_one_example_a_class_is_the_nearest_example():
    X, y = cells([1, 1, 1, 1])
    held, _ = cells([20] * 4, seed=1)
    model = ZeroShotClassifier().fit(X, y)
    assert model.whitening_ is None
    expected = KNeighborsClassifier(1).fit(X, y).predict(held)
    np.testing.assert_array_equal(model.predict(held), expected)
    apart = ((X[:, None] - X) ** 2).sum(axis=2)[np.triu_indices(4, 1)]
    assert model.temperature_ == pytest.approx(apart.mean())


def test_many_examples_make_a_linear_discriminant():
    X, y = cells([500] * 4, d=10)
    held, truth = cells([200] * 4, d=10, seed=1)
    model = ZeroShotClassifier().fit(X, y)
    other = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4).fit(X, y)
    agree = (model.predict(held) == other.predict(held)).mean()
    assert agree > 0.98
    assert balanced(model, held, truth) > balanced(
        NearestCentroid().fit(X, y), held, truth
    )


@pytest.mark.parametrize("n", [5, 20])
def test_few_examples_suffice_in_many_dimensions(n):
    X, y = cells([n] * 4)
    held, truth = cells([200] * 4, seed=1)
    plain = balanced(NearestCentroid().fit(X, y), held, truth)
    assert balanced(ZeroShotClassifier().fit(X, y), held, truth) > plain + 0.1


def test_whitening_is_the_inverse_root_of_the_shrunk_covariance():
    X, y = cells([9] * 4, d=12)
    which = np.unique(y, return_inverse=True)[1]
    residuals = X - _class_means(X, which)[which]
    W, weight = _whitening(residuals, which)
    n, p = 36 - 4, 12
    S = residuals.T @ residuals / n
    squares, trace = np.trace(S @ S), np.trace(S)
    # Chen et al. 2010, equation 23.
    rho = (1 - 2 / p) * squares + trace**2
    rho = min(rho / ((n + 1 - 2 / p) * (squares - trace**2 / p)), 1)
    assert 0 < rho < 1
    shrunk = (1 - rho) * S + rho * trace / p * np.eye(p)
    np.testing.assert_allclose(W @ W.T, np.linalg.inv(shrunk))
    assert weight == pytest.approx((1 - rho) / n)


def test_left_out_examples_are_as_if_they_had_not_been_there():
    """The formula against leaving out by hand."""
    X, y = cells([4, 7, 2], d=20)
    which = np.unique(y, return_inverse=True)[1]
    means = _class_means(X, which)
    W, weight = _whitening(X - means[which], which)
    found, _ = _held_out_distances(X @ W, which, means @ W, weight)
    inverse = np.linalg.inv(W @ W.T)
    residuals = X - means[which]
    for i, x in enumerate(X):
        rest = np.arange(len(X)) != i
        others = _class_means(X[rest], which[rest])
        left = X[rest] - others[which[rest]]
        covariance = inverse + weight * (left.T @ left - residuals.T @ residuals)
        expected = [(x - m) @ np.linalg.inv(covariance) @ (x - m) for m in others]
        np.testing.assert_allclose(found[i], expected)


@pytest.mark.parametrize("n", [5, 20, 200])
def test_probabilities_are_about_as_often_right_and_lower_where_examples_are_few(n):
    X, y = cells([n] * 4)
    held, truth = cells([500] * 4, seed=1)
    model = ZeroShotClassifier().fit(X, y)
    probabilities = model.predict_proba(held)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    right = (model.predict(held) == truth).mean()
    said = probabilities.max(axis=1).mean()
    assert right - (0.1 if n > 5 else 0.4) < said < right + 0.05
    top = model.classes_[probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(top, model.predict(held))


def test_added_classes_leave_the_odds_of_others_as_they_were():
    X, y = cells([40] * 4)
    held, truth = cells([100] * 4, seed=1)
    new = y == "interphase"
    model = ZeroShotClassifier().fit(X[~new], y[~new])
    before = model.predict_proba(held)
    assert model.add_classes(X[new], y[new]) is model
    np.testing.assert_array_equal(model.classes_, CLASSES)
    np.testing.assert_array_equal(model.class_counts_, [40] * 4)
    after = model.predict_proba(held)
    np.testing.assert_allclose(after.sum(axis=1), 1)
    old = after[:, [0, 2, 3]]
    np.testing.assert_allclose(old / old.sum(axis=1, keepdims=True), before)
    assert balanced(model, held, truth) > 0.9 * balanced(
        ZeroShotClassifier().fit(X, y), held, truth
    )


@pytest.mark.parametrize("n", [1, 3])
def test_a_class_of_few_examples_is_found_beside_classes_of_many(n):
    X, y = cells([300] * 4, distance=4, spread=(1, 1))
    held, truth = cells([200] * 4, distance=4, spread=(1, 1), seed=1)
    new, wanted = y == "metaphase", truth == "metaphase"
    fitted = ZeroShotClassifier().fit(X[~new], y[~new])
    right, wrong, uncorrected = [], [], []
    for examples in np.split(X[new][: 10 * n], 10):
        model = pickle.loads(pickle.dumps(fitted))
        found = model.add_classes(examples, ["metaphase"] * n).predict(held)
        right.append((found == "metaphase")[wanted].mean())
        wrong.append((found == "metaphase")[~wanted].mean())
        model.variance_ = 0.0  # as if prototypes of few examples had no error
        uncorrected.append((model.predict(held) == "metaphase")[wanted].mean())
    assert np.mean(right) > 0.7
    assert np.mean(wrong) < 0.2
    assert np.mean(uncorrected) < 0.6


def test_classes_are_added_to_one_example_each():
    X, y = cells([1, 1, 30, 30], distance=8)
    held, truth = cells([100] * 4, distance=8, seed=1)
    few = np.isin(y, ["apoptosis", "interphase"])
    model = ZeroShotClassifier().fit(X[few], y[few])
    old = held[np.isin(truth, ["apoptosis", "interphase"])]
    order = model.predict(old)
    assert np.isnan(model.variance_)
    model.add_classes(X[~few], y[~few])
    assert model.variance_ > 0
    odds = model.predict_proba(old)[:, :2]
    np.testing.assert_array_equal(CLASSES[odds.argmax(axis=1)], order)
    counted = pd.Series(model.predict(held)).value_counts(normalize=True)
    assert counted[["metaphase", "polylobed"]].sum() < 0.75


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_class_added_to_a_single_one_gives_odds_in_units_of_their_distance(unit):
    model = ZeroShotClassifier().fit([[0, 0]], ["a"])
    assert np.isnan(model.temperature_)
    np.testing.assert_array_equal(model.predict_proba([[5.0, 0]]), [[1]])
    model.add_classes([[unit, 0]], ["b"])
    at_once = ZeroShotClassifier().fit([[0, 0], [unit, 0]], ["a", "b"])
    asked = [[0.2 * unit, 0]]
    np.testing.assert_allclose(
        model.predict_proba(asked), at_once.predict_proba(asked), rtol=1e-6
    )


def test_a_missing_class_is_named():
    for y in (["a", None], pd.Series(["a", None], dtype="string"), [1.0, np.nan]):
        with pytest.raises(ValueError, match="y has no class in row 1"):
            ZeroShotClassifier().fit(np.eye(2), y)


def test_labels_in_another_order_are_refused():
    X, y = cells([5, 5])
    X, y = pd.DataFrame(X), pd.Series(y)
    model = ZeroShotClassifier().fit(X, y)
    # Rows that count from 0 may be of a table that a step before made: an order that
    # is theirs says nothing of y's.
    told = r"y has the rows of X in another .*y\.to_numpy\(\); otherwise bring it into"
    with pytest.raises(ValueError, match=told):
        model.score(X, y[::-1])
    X, y = X.set_axis(list("abcdefghij")), y.set_axis(list("abcdefghij"))
    told = r"y\.to_numpy\(\); otherwise y\.loc\[X\.index\]"
    with pytest.raises(ValueError, match=told):
        model.score(X, y[::-1])
    assert model.score(X, y) == (model.predict(X) == y).mean()


def test_classes_that_cannot_be_added():
    X, y = cells([4] * 4)
    model = ZeroShotClassifier().fit(X[:8], y[:8])
    with pytest.raises(ValueError, match=r"Known already: \['interphase'\].*call fit"):
        model.add_classes(X[4:], y[4:])
    with pytest.raises(ValueError, match="text or numbers, but not both"):
        model.add_classes(X[8:], np.repeat([3, 4], 4))
    with pytest.raises(ValueError, match="61 features"):
        model.add_classes(np.zeros((2, 61)), ["a", "b"])
    with pytest.raises(NotFittedError):
        ZeroShotClassifier().add_classes(X, y)
    np.testing.assert_array_equal(model.classes_, CLASSES[:2])


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((6, 4)),
        np.repeat([[0.0], [1.0], [2.0]], 2, axis=0),
        np.repeat(np.eye(3), 2, axis=0),
        np.concatenate([np.zeros((5, 3)), np.ones((1, 3))]),
        1e150 * np.random.default_rng(0).normal(size=(6, 4)),
        1e-150 * np.random.default_rng(0).normal(size=(6, 4)),
    ],
    ids=["all alike", "no spread", "no spread, 3-d", "two rows of one", "huge", "tiny"],
)
def test_odd_embeddings_give_probabilities(X):
    y = ["a", "a", "b", "b", "c", "c"]
    probabilities = ZeroShotClassifier().fit(X, y).predict_proba(X)
    assert np.isfinite(probabilities).all()


def means_of_images(X):
    return np.stack([np.asarray(image).mean(axis=(1, 2)) for image in X])


def test_images_by_a_featurizer_that_is_never_fitted_again():
    rng = np.random.default_rng(0)
    y = np.tile(["dim", "bright"], 12)
    X = rng.normal(size=(24, 2, 8, 8)) + (y == "bright")[:, None, None, None]
    featurizer = make_pipeline(
        FunctionTransformer(means_of_images), StandardScaler()
    ).fit(X)
    before = pickle.dumps(featurizer)
    model = ZeroShotClassifier(featurizer=featurizer).fit(X[:20], y[:20])
    np.testing.assert_array_equal(model.predict(X[20:]), y[20:])
    assert model.predict_proba(X[20:]).shape == (4, 2)
    model.add_classes(X[:2] + 5, ["glaring"] * 2)
    assert model.predict(X[3:4] + 5) == ["glaring"]
    assert pickle.dumps(featurizer) == before
    on_embeddings = ZeroShotClassifier().fit(featurizer.transform(X[:20]), y[:20])
    np.testing.assert_array_equal(
        on_embeddings.predict_proba(featurizer.transform(X[20:])),
        ZeroShotClassifier(featurizer=featurizer)
        .fit(X[:20], y[:20])
        .predict_proba(X[20:]),
    )
    scores = cross_val_score(
        ZeroShotClassifier(featurizer=FrozenEstimator(featurizer)),
        X,
        y,
        groups=np.arange(24) // 4,
        cv=GroupKFold(3),
        error_score="raise",
    )
    assert scores.mean() > 0.9
    with pytest.raises(NotFittedError, match=r"FrozenEstimator\(featurizer\)"):
        cross_val_score(model, X, y, error_score="raise")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])


def test_a_row_without_a_class_is_named():
    with pytest.raises(ValueError, match=r"y has no class in row 1: leave out"):
        ZeroShotClassifier().fit(np.eye(4), ["a", None, "b", "a"])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b"], "inconsistent numbers of samples"),
        (None, "requires y to be passed"),
        ([0.5] * 4, "Unknown label type"),
        (["a", None, "a", "b"], "no class in row 1"),
    ],
)
def test_labels_are_looked_at_before_images_are_embedded(y, message):
    def embed(X):
        raise AssertionError

    images = np.zeros((4, 1, 8, 8))
    model = ZeroShotClassifier(featurizer=FunctionTransformer(embed))
    with pytest.raises(ValueError, match=message):
        model.fit(images, y)


def test_known_classes_are_refused_before_images_are_embedded():
    embedded = []

    def embed(X):
        embedded.append(len(X))
        return means_of_images(X)

    images = np.random.default_rng(0).normal(size=(8, 3, 8, 8))
    model = ZeroShotClassifier(featurizer=FunctionTransformer(embed))
    model.fit(images, list("aabbccdd"))
    with pytest.raises(ValueError, match=r"Known already: \['a'\]"):
        model.add_classes(images[:2], ["a", "e"])
    assert embedded == [8]


def test_embeddings_of_another_length_than_in_fit_are_refused():
    images = np.random.default_rng(0).normal(size=(8, 3, 8, 8))
    featurizer = FunctionTransformer(means_of_images)
    model = ZeroShotClassifier(featurizer=featurizer).fit(images, list("aabbccdd"))
    featurizer.set_params(func=lambda X: means_of_images(X)[:, :1])
    with pytest.raises(ValueError, match="embeddings of 1 numbers, and gave"):
        model.predict(images)
    featurizer.set_params(func=lambda X: np.full((len(X), 3), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(images)


def test_variance_is_that_within_classes():
    """As if prototypes had no error: squares by the rows less the classes."""
    X, y = cells([4, 4, 4], d=20)
    which = np.unique(y, return_inverse=True)[1]
    means = _class_means(X, which)
    _, variance = _held_out_distances(X, which, means)
    assert variance == pytest.approx(((X - means[which]) ** 2).sum() / (12 - 3))


def test_temperature_is_the_best_for_examples_left_out():
    """By a naive loop: each class weighs the same, and targets are Platt's."""
    X, y = cells([2, 4, 8], d=5, distance=4)
    model = ZeroShotClassifier().fit(X, y)
    which = np.unique(y, return_inverse=True)[1]
    means, W, counts = model.prototypes_, model.whitening_, model.class_counts_
    _, weight = _whitening(X - means[which], which)
    away, variance = _held_out_distances(X @ W, which, means @ W, weight)

    def loss(temperature):
        total = 0.0
        for row, own in zip(away, which, strict=True):
            is_own = np.arange(3) == own
            scores = variance / (counts - is_own) - row  # its class is of one fewer
            target = np.where(is_own, len(X) + 1, 1) / (len(X) + 3)
            total -= target @ log_softmax(scores / temperature) / counts[own]
        return total

    found = model.temperature_
    assert loss(found) < min(loss(0.997 * found), loss(1.003 * found))
