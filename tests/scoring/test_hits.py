"""Thresholds from controls, and the calls that follow."""

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.scoring import HitCaller


@parametrize_with_checks([HitCaller(), HitCaller(quantile=0.2)])
def test_sklearn(estimator, check):
    check(estimator)


def controls(n=500, seed=0, dimensions=5):
    """On-perturbation, normal, and off-perturbation, a length in so many dimensions."""
    rng = np.random.default_rng(seed)
    y = np.repeat(["mock", "infected", "drug"], n)
    lengths = np.sqrt(rng.chisquare(dimensions, size=3 * n))
    scores = np.stack([rng.normal(size=3 * n), lengths], axis=1)
    scores[y == "infected", 0] += 6
    scores[y == "drug"] += 100
    return scores, y


def test_thresholds_cut_off_that_share_of_many_controls():
    scores, y = controls(5000)
    caller = HitCaller(negative="mock", positive="infected", quantile=0.02)
    calls = caller.fit(scores, y).call(scores)
    infected, either = y == "infected", y != "drug"
    on, off = caller.thresholds()
    assert np.mean(scores[infected, 0] < on) == pytest.approx(0.02, abs=0.004)
    assert np.mean(scores[either, 1] > off) == pytest.approx(0.02, abs=0.004)
    assert np.mean(calls[y == "mock"] == "hit") > 0.95
    assert (calls[y == "drug"] == "toxic").all()


@pytest.mark.parametrize("n_rows", [1, 3, 12])
@pytest.mark.parametrize("n_controls", [6, 12, 50])
@pytest.mark.parametrize("dimensions", [2, 20])
def test_of_further_controls_that_share_is_called_by_few_controls(
    n_controls, n_rows, dimensions
):
    """Six means share 0.05, also where as many replicates are as controls."""
    called = []
    for seed in range(300):
        caller = HitCaller(negative="mock", positive="infected", quantile=0.05)
        caller.fit(*controls(n_controls, seed, dimensions))
        further, y = controls(6 * n_rows, seed + 1000, dimensions)
        means = further[y == "infected"].reshape(6, n_rows, 2).mean(axis=1)
        calls = caller.call(means, n_rows, n_calls=6)
        called.append([(calls == "hit").any(), (calls == "toxic").any()])
    hit, toxic = np.mean(called, axis=0)
    # Three standard errors of 300 draws; lengths are not quite normal.
    assert hit < 0.05 + 0.04
    assert toxic < 0.05 + 0.06
    # Here both kinds are alike: that of the larger mean is a little severe, the more so
    # where means are as sure as its own.
    if n_controls >= 12 and n_rows <= 3:
        assert toxic > 0.005


def test_thresholds_are_prediction_limits():
    """By hand: mean 2, sd 1, 3 controls; Student's 2.9200 is its 95 % at 2 degrees."""
    X = np.array([[9, 1], [9, 1], [1, 1], [2, 1], [3, 1]])
    caller = HitCaller(negative=0, positive=1, quantile=0.05)
    caller.fit(X, [0, 0, 1, 1, 1])
    on, off = caller.thresholds([1, 4], n_calls=1)
    expected = [2 - 2.9200 * (1 + 1 / 3) ** 0.5, 2 - 2.9200 * (1 / 4 + 1 / 3) ** 0.5]
    np.testing.assert_allclose(on, expected, rtol=1e-4)
    np.testing.assert_allclose(off, 1)  # controls are all alike there
    assert caller.thresholds(n_calls=6)[0] < on[0]


def test_side_effects_come_before_rescue():
    caller = HitCaller(negative="mock", positive="infected").fit(*controls())
    assert caller.call([[0, 0], [0, 100], [6, 0], [6, 100]]).tolist() == [
        "hit",
        "toxic",
        "inactive",
        "toxic",
    ]


def test_controls_are_to_be_there():
    scores, y = controls()
    with pytest.raises(ValueError, match="No row of y is positive='virus'"):
        HitCaller(negative="mock", positive="virus").fit(scores, y)
    with pytest.raises(ValueError, match="'mock': 1, and thresholds take two"):
        HitCaller(negative="mock", positive="infected").fit(scores[499:], y[499:])


def test_side_effects_are_judged_by_the_kind_that_lies_farther_off():
    """Of both kinds together the mean is too low, and untreated wells lie above it."""
    rng = np.random.default_rng(0)

    def infected(n):
        return np.stack([rng.normal(1, 0.1, n), rng.normal(2, 0.2, n)], axis=1)

    healthy = np.stack([rng.normal(0, 0.1, 36), rng.normal(0.3, 0.01, 36)], axis=1)
    caller = HitCaller(negative="mock", positive="infected")
    caller.fit(np.r_[healthy, infected(36)], np.repeat(["mock", "infected"], 36))
    means = infected(3 * 2000).reshape(-1, 3, 2).mean(axis=1)
    assert (caller.call(means, 3) == "toxic").mean() == pytest.approx(0.01, abs=0.01)
    means[:, 1] += 0.6
    assert (caller.call(means, 3) == "toxic").mean() > 0.9


def test_replicates_on_one_batch_share_its_error():
    """By hand: within 2, between (16 - 2) / 2, Student's 2.3534 is its 95 % at 3."""
    X = np.array([[9, 1], [9, 1], [1, 1], [3, 1], [5, 1], [7, 1]])
    caller = HitCaller(negative=0, positive=1, quantile=0.05)
    caller.fit(X, [0, 0, 1, 1, 1, 1], batch=["a", "b", "a", "a", "b", "b"])
    apart = 2 * (1 / 2 + 1 / 4)
    together = apart + 7 * (1 - 1 / 2)
    for n_batches, variance in ((2, apart), (1, together), (None, apart)):
        on, _ = caller.thresholds(2, n_batches=n_batches)
        assert on == pytest.approx(4 - 2.3534 * variance**0.5, rel=1e-4)
    assert caller.call([[0, 1]], 2, n_batches=2) == ["hit"]
    assert caller.call([[0, 1]], 2, n_batches=1) == ["inactive"]


def test_batches_of_one_control_each():
    """Then nothing tells replicates of one batch from one row of it."""
    scores, y = controls(6)
    callers = [HitCaller(negative="mock", positive="infected") for _ in range(2)]
    callers[0].fit(scores, y)
    callers[1].fit(scores, y, batch=np.arange(len(y)))
    for n_batches in (1, 2, 3):
        expected = callers[0].thresholds(n_batches)
        found = callers[1].thresholds(3, n_batches=n_batches)
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("n_controls", [[12] * 6, [40, 6, 6, 6, 6, 6], [6, 40, 6]])
def test_of_further_controls_of_any_batches_that_share_is_called(n_controls):
    """What lies between batches is as much as within, and controls are unequal."""
    rng = np.random.default_rng(0)
    n_batches, hits = len(n_controls), []
    batch = np.repeat(np.arange(n_batches), n_controls)
    y = np.repeat([1, 0], [len(batch), 2])
    for _ in range(300):
        shift = rng.normal(size=n_batches)
        on = np.append(rng.normal(size=len(batch)) + shift[batch], [9, 9])
        X = np.stack([on, np.ones(len(on))], axis=1)
        caller = HitCaller(negative=0, positive=1, quantile=0.05)
        caller.fit(X, y, batch=np.append(batch, [0, 0]))
        for of in ([0] * 6, [n_batches - 1] * 6, np.arange(6) % n_batches):
            below, _ = caller.thresholds(
                6, n_batches=1 if len(set(of)) == 1 else n_batches
            )
            hits.append(rng.normal(size=6).mean() + shift[of].mean() < below)
    by_place = np.reshape(hits, (-1, 3)).mean(axis=0)
    assert (by_place < 0.05 + 0.04).all()  # three standard errors of 300 draws
    assert by_place.sum() > 0.02


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_rows": [1, 0, 2]}, "n_rows is at least 1, got 0"),
        ({"n_rows": float("nan")}, "n_rows is at least 1, got nan"),
        ({"n_batches": 0.5}, r"n_batches is at least 1, got 0\.5"),
        ({"n_rows": [1, 2]}, "inconsistent numbers of samples"),
        ({"n_calls": 0}, "n_calls == 0, must be >= 1"),
    ],
)
def test_counts_that_are_none_are_refused(how, message):
    caller = HitCaller(negative="mock", positive="infected").fit(*controls())
    with pytest.raises(ValueError, match=message):
        caller.call([[0, 2], [6, 2], [0, 9]], **how)


def test_a_column_of_counts_goes_row_by_row():
    caller = HitCaller(negative="mock", positive="infected").fit(*controls())
    calls = caller.call([[0, 2], [6, 2], [0, 9]], n_rows=[[1], [2], [3]])
    assert calls.tolist() == ["hit", "inactive", "toxic"]


def test_numbers_of_rows_in_another_order_are_refused():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(20, 2)))
    caller = HitCaller().fit(X, np.repeat([0, 1], 10))
    with pytest.raises(ValueError, match="n_rows has the rows of X in another order"):
        caller.call(X, pd.Series(range(1, 21))[::-1])
