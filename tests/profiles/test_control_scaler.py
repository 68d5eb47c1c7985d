"""Controls of each batch end at zero, in units of their spread."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.profiles import ControlScaler


@parametrize_with_checks(
    [ControlScaler(), ControlScaler(method="robust"), ControlScaler(prior_df=6)]
)
def test_sklearn(estimator, check):
    check(estimator)


@pytest.fixture
def plate():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3)) * [1, 10, 100] + 5
    y = np.tile(["DMSO", "DMSO", "drug"], 30)
    batch = np.repeat(["P1", "P2", "P3"], 30)
    X[batch == "P2"] = 3 * X[batch == "P2"] - 7
    return X, y, batch


def test_controls_of_each_batch_have_mean_zero_and_deviation_one(plate):
    X, y, batch = plate
    scaled = ControlScaler(control="DMSO").fit_transform(X, y, batch=batch)
    for name in np.unique(batch):
        mine = scaled[(batch == name) & (y == "DMSO")]
        np.testing.assert_allclose(mine.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(mine.std(axis=0, ddof=1), 1)


def test_robust_is_median_and_deviation_from_it(plate):
    X, y, batch = plate
    scaled = ControlScaler(control="DMSO", method="robust").fit_transform(
        X, y, batch=batch
    )
    for name in np.unique(batch):
        mine = scaled[(batch == name) & (y == "DMSO")]
        np.testing.assert_allclose(np.median(mine, axis=0), 0, atol=1e-12)
        # 1 / Phi^-1(3/4): the deviation of a normal distribution is 1 then.
        np.testing.assert_allclose(np.median(abs(mine), axis=0), 0.6744897501960817)


def test_robust_takes_the_deviation_where_most_controls_are_alike():
    X = np.array([[0.0]] * 6 + [[1.0], [2.0], [3.0], [4.0]])
    scaler = ControlScaler(method="robust").fit(X)
    assert scaler.scales_[0, 0] == pytest.approx(X.std(ddof=1))


def test_an_outlying_control_moves_the_mean_but_hardly_the_median(plate):
    X, y, batch = plate
    moved = X.copy()
    moved[0] += 1e6
    treated = y == "drug"
    change = {}
    for method in ("standard", "robust"):
        scaler = ControlScaler(control="DMSO", method=method)
        before = scaler.fit_transform(X, y, batch=batch)[treated]
        after = scaler.fit_transform(moved, y, batch=batch)[treated]
        change[method] = np.abs(after - before).mean()
    assert change["robust"] < change["standard"] / 5


def test_treated_rows_do_not_matter(plate):
    X, y, batch = plate
    scaler = ControlScaler(control="DMSO").fit(X, y, batch=batch)
    other = X.copy()
    other[y == "drug"] = 0
    again = ControlScaler(control="DMSO").fit(other, y, batch=batch)
    np.testing.assert_array_equal(scaler.centres_, again.centres_)
    np.testing.assert_array_equal(scaler.scales_, again.scales_)


def test_a_feature_that_controls_hold_constant_is_only_centred():
    X = np.array([[0.3, 1.0], [0.3, 2.0], [0.3, 3.0], [0.8, 2.0]])
    y = ["DMSO"] * 3 + ["drug"]
    scaled = ControlScaler(control="DMSO").fit_transform(X, y)
    np.testing.assert_allclose(scaled[:, 0], [0, 0, 0, 0.5], atol=1e-15)


def test_few_controls_borrow_the_deviations_of_other_batches():
    """Three controls have features that hardly vary by chance."""
    rng = np.random.default_rng(0)
    deviation = rng.uniform(1, 3, 500)
    X = rng.normal(size=(53, 500)) * deviation
    batch = np.repeat(["few", "many"], [3, 50])
    X[batch == "few"] *= 4  # another exposure, which is kept
    truth = np.stack([4 * deviation, deviation])
    error = {}
    for prior_df in (0, 6):
        scales = ControlScaler(prior_df=prior_df).fit(X, batch=batch).scales_
        error[prior_df] = np.abs(np.log(scales / truth)).max(axis=1)
    assert error[0][0] > 2  # a factor of 7
    assert error[6][0] < 1
    assert error[6][1] <= error[0][1]
    alone = X[batch == "few"]
    np.testing.assert_allclose(
        ControlScaler(prior_df=6).fit(alone).scales_, ControlScaler().fit(alone).scales_
    )


def test_moderated_variance_is_the_formula():
    """Where deviations are a level times a profile nothing moves; else by weights."""
    X = np.array([[0.0, 0, 0], [2, 8, 4], [0, 0, 0], [6, 24, 12], [0, 0, 0], [4, 2, 8]])
    batch = np.repeat(["a", "b", "c"], 2)
    alike = batch != "c"
    own, moved = (
        ControlScaler(prior_df=d).fit(X[alike], batch=batch[alike]).scales_
        for d in (0, 3)
    )
    np.testing.assert_allclose(moved, own)
    own, moved = (ControlScaler(prior_df=d).fit(X, batch=batch).scales_ for d in (0, 3))
    share = (4 * moved**2 - own**2) / 3  # level times mean: of rank one
    np.testing.assert_allclose(share / share[:, :1], (share / share[:, :1])[[0] * 3])
    assert (np.sign(moved - own)[2] == [-1, 1, -1]).all()


def test_a_bright_plate_does_not_spoil_the_others():
    rng = np.random.default_rng(0)
    deviation = rng.uniform(1, 3, 500)
    X = rng.normal(size=(40, 500)) * deviation
    batch = np.repeat(np.arange(10), 4)
    dim = ControlScaler(prior_df=6).fit(X, batch=batch).scales_[1:]
    X[batch == 0] *= 30
    X = np.concatenate([X, np.full((40, 500), 0.1)], axis=1)  # constant, to rounding
    scales = ControlScaler(prior_df=6).fit(X, batch=batch).scales_
    error = np.abs(np.log(scales[1:, :500] / dim))
    assert error.max() < 0.05
    assert (scales[:, 500:] == 1).all()


@pytest.mark.parametrize("method", ["standard", "robust"])
def test_errors(plate, method):
    X, y, batch = plate
    scaler = ControlScaler(control="DMSO", method=method)
    with pytest.raises(ValueError, match="needs y"):
        scaler.fit(X)
    with pytest.raises(ValueError, match="No row of y is 'water'"):
        ControlScaler(control="water").fit(X, y)
    few = np.array(["P4", *batch[1:]], dtype=object)
    with pytest.raises(ValueError, match="Batch 'P4' has 1 controls"):
        scaler.fit(X, y, batch=few)
    with pytest.raises(ValueError, match="No controls of batch 'P4' in fit"):
        scaler.fit(X, y, batch=batch).transform(X, batch=few)


def test_several_controls_of_which_one_is_misspelt():
    X, y = np.arange(8.0)[:, None], ["DMSO", "DMSO", "water", "drug"] * 2
    with pytest.warns(UserWarning, match=r"No row of y is 'watr', of control=\["):
        misspelt = ControlScaler(control=["DMSO", "watr"]).fit(X, y)
    np.testing.assert_array_equal(
        misspelt.centres_, ControlScaler(control={"DMSO"}).fit(X, y).centres_
    )
