"""Curves, intervals and calls: what another solver, or a hand, makes of the same."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares
from test_dose_response import DOSES, FALLING, fit, profile_interval

from gandl.scoring import (
    DoseResponseScorer,
    HitCaller,
    PerturbationScorer,
)
from gandl.scoring._logistic import curve_at


def unequal():
    """Responses of unequal numbers of replicates; many at the left plateau, too low."""
    doses = np.r_[np.zeros(40), DOSES[:9], DOSES[9:].repeat(2)]
    wave = 0.1 * np.sin(7.0 * np.arange(len(doses)))
    left = np.where(np.arange(len(doses)) < 40, -0.15, 0)
    return doses, np.r_[np.ones(40), FALLING[:9], FALLING[9:].repeat(2)] + wave + left


def test_replicates_of_unequal_number_count_as_many():
    """The curve is the best of all responses, by another solver of them all."""
    doses, y = unequal()
    x = np.log10(doses, where=doses > 0, out=np.full(len(doses), -math.inf))
    best = least_squares(lambda p: curve_at(p, x)[0] - y, [1, 0, -1, 1.5], xtol=1e-12)
    curve = fit(doses, y)
    found = [curve.top_, curve.bottom_, curve.log_ec50_, -curve.slope_]
    assert found == pytest.approx(best.x, rel=1e-3)


def test_interval_of_a_response_where_replicates_are_unequal():
    (doses, y), at = unequal(), -0.8
    curve = fit(doses, y)
    (best,), (found,) = curve.predict([[10**at]], return_interval=True)
    with np.errstate(divide="ignore"):
        expected = profile_interval(doses, y, "response", best, at)
    assert found == pytest.approx(expected, abs=0.02 * (found[1] - found[0]))


def test_level_of_intervals_is_alpha():
    wide, narrow = (fit(DOSES, FALLING, alpha=a) for a in (0.01, 0.3))
    for name in ("bottom", "top", "log_ec50", "slope"):
        (a, d), (b, c) = (m.confidence_intervals_[name] for m in (wide, narrow))
        assert a < b < c < d


def test_a_curve_turns_back_seldom_by_chance():
    """Of curves that rise to a plateau, at most alpha are said to; Bonferroni's."""
    rng = np.random.default_rng(0)
    truth = curve_at(np.array([0.0, 1.0, -1.5, 2.0]), np.log10(DOSES))[0]
    told = [
        fit(DOSES, truth + rng.normal(0, 0.1, 18)).non_monotonic_ for _ in range(60)
    ]
    assert np.mean(told) <= 0.1


def test_means_of_few_and_of_many_are_compared_by_both_their_errors():
    """A late dose of one replicate says little, by its own error."""
    doses = np.r_[np.repeat([0.01, 0.1, 1.0, 3.0], 8), 10.0]
    wave = 0.1 * np.tile([-1, 1], 16)
    y = np.r_[np.repeat([0.0, 0.5, 1.0, 1.0], 8) + wave, 0.72]
    # t of the last pair: 0.28 / (0.107 sqrt(1 + 1/8)) = 2.5; sqrt(2/8) would be 5.2.
    curve = fit(doses, y)
    assert curve.slope_ > 0
    assert not curve.non_monotonic_


def test_curves_are_called_by_q_not_by_p(monkeypatch):
    """A drug whose curve falls without doubt, were it not one of so many."""
    rng = np.random.default_rng(0)
    doses = np.repeat([0.1, 0.3, 1.0, 3.0, 10.0], 3)
    X = rng.normal(size=(60 + 15, 2))
    X[30:, 0] += 10
    X[60:, 0] -= 10 / (1 + 1 / doses)
    scorer = DoseResponseScorer(
        perturbation=PerturbationScorer(negative="mock", positive="infected")
    ).fit(X[:60], np.repeat(["mock", "infected"], 30))
    for q, call in ((0.04, "hit"), (0.06, "inactive")):
        monkeypatch.setattr(
            "gandl.scoring._dose_response_scorer.false_discovery_control",
            lambda p, q=q: np.full(len(p), q),
        )
        row = scorer.dose_response(X[60:], ["drug"] * 15, doses).iloc[0]
        assert row["p_value"] < 1e-6
        assert (row["q_value"], row["call"]) == (q, call)


def test_compounds_of_one_q_are_in_order_of_their_lowest_mean():
    rng = np.random.default_rng(0)
    y = np.repeat(["mock", "infected"], 20)
    X = rng.normal(scale=0.1, size=(40 + 3 * 3, 2))
    X[20:, 0] += 10
    X[40:, 0] -= [0, 1, 0, 0.5, 0, 0.5, 0, 3, 0]
    scorer = DoseResponseScorer(
        perturbation=PerturbationScorer(negative="mock", positive="infected"),
        controls_at_zero=False,
    ).fit(X[:40], y)
    table = scorer.dose_response(X[40:], list("aaabbbccc"), [1.0, 2, 3] * 3)
    assert table["q_value"].isna().all()
    assert table["compound"].tolist() == ["c", "a", "b"]


def test_controls_on_batches_of_unequal_size_by_hand():
    """n of analysis of variance: (6 - (4 ** 2 + 2 ** 2) / 6) / 1 = 8 / 3."""
    on = np.array([0.0, 2, 0, 2, 9, 11])
    X = np.stack([np.r_[50, 50, on], np.ones(8)], axis=1)
    caller = HitCaller(negative=0, positive=1, quantile=0.05)
    caller.fit(X, [0, 0, *[1] * 6], batch=list("ab") + list("aaaabb"))
    within = 6 / 4
    squares = 4 * (1 - 4) ** 2 + 2 * (10 - 4) ** 2
    between = (squares - within) / (8 / 3)
    n_sure = 4 / (1 / 4 + 1 / 2)
    variance = within * (1 / 3 + 1 / n_sure) + between * (1 - 1 / 2)
    on, _ = caller.thresholds(3, n_batches=1)
    assert on == pytest.approx(5.5 - 2.0150 * variance**0.5, rel=1e-4)  # t of 5


def test_off_perturbation_is_the_last_column():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    caller = HitCaller(negative=0, positive=1).fit(X, np.repeat([0, 1], 20))
    assert caller.call([[0, 99, 0], [0, 0, 99]]).tolist() == ["inactive", "toxic"]


def test_six_negative_controls_a_batch_are_enough():
    from gandl.scoring._dose_response_scorer import few_controls

    assert few_controls(pd.Series({"A": 6, "B": 20}), 0) == ""
    assert "in batches: A. " in few_controls(pd.Series({"A": 5, "B": 20}), 0)
