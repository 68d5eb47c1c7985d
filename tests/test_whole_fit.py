"""A fit that is refused leaves an estimator as it was."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from gandl import ChannelAdapter, ImageCollection, ZeroShotClassifier
from gandl.profiles import ControlScaler, TypicalVariationNormalizer
from gandl.scoring import (
    DoseResponseRegressor,
    DoseResponseScorer,
    HitCaller,
    PerturbationScorer,
)

KINDS = np.tile(["mock", "infected"], 12)
PLATES = {"batch": np.repeat(["P1", "P2"], 12)}
# Refused once batches are told apart.
LAST_ALONE = {"batch": np.repeat(["P1", "P3"], [23, 1])}
DOSES = np.repeat([0.1, 1.0, 10.0, 100.0], 6)[:, None]
AXIS = PerturbationScorer(negative="mock", positive="infected")
NAMED = {"channels": {"DNA": "Hoechst"}, "mismatch": "ignore"}


def rows(seed):
    X = np.random.default_rng(seed).normal(size=(24, 3))
    return X + 9 * (KINDS == "infected")[:, None] + seed


def stained(*names):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, 4, 4), dtype="uint8")
    return ImageCollection.from_array(pixels, channels=names)


def transformed(fitted):
    return fitted.transform(rows(0), **PLATES)


# An estimator, what it is fitted to, what it is refused, and what it then does.
CASES = [
    (ControlScaler(), ((rows(0),), PLATES), ((rows(1),), LAST_ALONE), transformed),
    (
        TypicalVariationNormalizer(),
        ((rows(0),), PLATES),
        ((rows(1),), LAST_ALONE),
        transformed,
    ),
    (AXIS, ((rows(0), KINDS), PLATES), ((rows(1), KINDS), LAST_ALONE), transformed),
    (
        DoseResponseScorer(perturbation=AXIS),
        ((rows(0), KINDS), PLATES),
        ((rows(1), KINDS), LAST_ALONE),
        lambda fitted: fitted.dose_response(rows(0), KINDS, DOSES[:, 0], **PLATES)[
            "ec50"
        ].tolist(),
    ),
    (
        HitCaller(negative="mock", positive="infected"),
        ((rows(0), KINDS), {}),
        ((rows(1), ["mock"] * 23 + ["infected"]), {}),
        lambda fitted: fitted.thresholds(),
    ),
    (
        DoseResponseRegressor(),
        ((DOSES, rows(0)[:, 0]), {}),
        ((DOSES, np.full(24, np.nan)), {}),
        lambda fitted: fitted.predict([[1.0], [10.0]]),
    ),
    (
        ZeroShotClassifier(),
        ((rows(0), KINDS), {}),
        ((rows(1)[:, :2], rows(1)[:, 0]), {}),
        lambda fitted: fitted.predict_proba(rows(0)),
    ),
    (
        ChannelAdapter(**NAMED),
        ((stained("actin", "Hoechst"),), {}),
        ((stained("w1", "w2"),), {}),
        lambda fitted: np.asarray(fitted.transform(stained("actin", "Hoechst"))),
    ),
]


@pytest.mark.parametrize(("estimator", "right", "wrong", "act"), CASES)
def test_what_was_fitted_before_stays(estimator, right, wrong, act):
    fitted = clone(estimator).fit(*right[0], **right[1])
    before = act(fitted)
    with pytest.raises(ValueError):  # noqa: PT011
        fitted.fit(*wrong[0], **wrong[1])
    np.testing.assert_equal(act(fitted), before)


@pytest.mark.parametrize(("estimator", "right", "wrong", "act"), CASES)
def test_what_was_never_fitted_is_not(estimator, right, wrong, act):
    fresh = clone(estimator)
    with pytest.raises(ValueError):  # noqa: PT011
        fresh.fit(*wrong[0], **wrong[1])
    with pytest.raises(NotFittedError):
        act(fresh)
