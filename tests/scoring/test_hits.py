"""Thresholds from controls, and the calls that follow."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.scoring import HitCaller


@parametrize_with_checks([HitCaller(), HitCaller(quantile=0)])
def test_sklearn(estimator, check):
    check(estimator)


def controls(n=500):
    rng = np.random.default_rng(0)
    y = np.repeat(["mock", "infected", "drug"], n)
    scores = np.stack([rng.normal(size=3 * n), rng.chisquare(5, size=3 * n)], axis=1)
    scores[y == "infected", 0] += 6
    scores[y == "drug"] += 100
    return scores, y


def test_thresholds_are_quantiles_of_controls():
    scores, y = controls()
    caller = HitCaller(negative="mock", positive="infected", quantile=0.02)
    caller.fit(scores, y)
    infected = y == "infected"
    assert np.mean(scores[infected, 0] < caller.on_threshold_) == 0.02
    either = y != "drug"
    assert np.mean(scores[either, 1] > caller.off_threshold_) == 0.02
    calls = caller.call(scores)
    assert np.mean(calls[infected] == "hit") < 0.021
    assert np.mean(calls[y == "mock"] == "hit") > 0.95
    assert (calls[y == "drug"] == "toxic").all()


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
