"""The curve against R, and every kind of input that a screen brings."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, check_grad, least_squares
from scipy.special import logit
from scipy.stats import binom, t
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.scoring import DoseResponseRegressor
from gandl.scoring._logistic import curve_at

DATA = Path(os.environ.get("GANDL_DATA", "not set"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs GANDL_DATA")

DOSES = np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 3)
FALLING = np.array(
    [
        *(1.02, 0.95, 1.04, 0.93, 0.82, 0.86, 0.47, 0.55, 0.52),
        *(0.21, 0.12, 0.15, 0.06, -0.03, 0.02, -0.04, 0.05, 0.01),
    ]
)


def fit(doses, responses, **options):
    return DoseResponseRegressor(**options).fit(np.reshape(doses, (-1, 1)), responses)


@parametrize_with_checks([DoseResponseRegressor()])
def test_sklearn(estimator, check):
    check(estimator)


def assert_is(curve, expected):
    """Estimate and confidence interval of each parameter, to three digits."""
    for name, (estimate, low, high) in expected.items():
        assert getattr(curve, f"{name}_") == pytest.approx(estimate, rel=1e-3)
        interval = curve.confidence_intervals_[name]
        assert interval == pytest.approx((low, high), rel=1e-3, abs=1e-4)


def profile_interval(doses, responses, name, best, at=None):
    """Those values with which the best curve is not told from the best of all.

    Of a parameter, "left", "right", "middle" or "slope", or of the "response" at a
    logarithm ``at``; by other means than the estimator's.
    """
    x, y = np.log10(doses), np.asarray(responses, dtype=float)
    tested = x[np.isfinite(x)]
    low, high = y.min() - 2 * np.ptp(y), y.max() + 2 * np.ptp(y)
    bounds = {
        "left": (low, high),
        "right": (low, high),
        "middle": (tested.min() - 1, tested.max() + 1),
        "slope": (0.1, 20),
    }
    names = [*bounds]
    free = [n for n in names if n != ("middle" if name == "response" else name)]
    first, last = y[x == x.min()].mean(), y[x == x.max()].mean()
    scale = {"left": np.ptp(y), "right": np.ptp(y), "middle": 1, "slope": 1}

    def squares(value):
        def residuals(p):
            have = dict(zip(free, p, strict=True))
            if name == "response":
                share = (value - have["left"]) / (have["right"] - have["left"])
                away = logit(np.clip(share, 1e-9, 1 - 1e-9)) / math.log(10)
                have["middle"] = at - away / have["slope"]
            else:
                have[name] = value
            return curve_at(np.array([have[n] for n in names]), x)[0] - y

        starts = [
            {"left": first, "right": last, "middle": np.median(tested), "slope": slope}
            for slope in (0.7, 5)
        ]
        fits = [
            least_squares(
                residuals,
                [start[n] for n in free],
                bounds=np.transpose([bounds[n] for n in free]),
                x_scale=[scale[n] for n in free],
            )
            for start in starts
        ]
        return 2 * min(f.cost for f in fits)

    degrees = len(y) - 4
    limit = squares(best) * (1 + t.ppf(0.975, degrees) ** 2 / degrees)

    def end(bound):
        steps = np.linspace(best, bound, 12)
        inside = np.flatnonzero([squares(v) <= limit for v in steps]).max(initial=0)
        if inside == len(steps) - 1:
            return math.copysign(math.inf, bound - best)
        a, b = steps[inside : inside + 2]
        return brentq(lambda v: squares(v) - limit, a, b, rtol=1e-4)

    low, high = bounds["left" if name == "response" else name]
    return end(low), end(high)


def test_equals_r_on_a_falling_curve():
    """R 4.2.2: d <- data.frame(x = log10(dose), y = y); then

    f <- nls(y ~ SSfpl(x, A, B, xmid, scal), d,
             start = list(A = 1, B = 0, xmid = -1, scal = 0.3))
    coef(f) + outer(sqrt(diag(vcov(f))), c(0, -1, 1)) * qt(0.975, 14)

    with slope = 1 / (scal log 10) and its standard error by the delta method; here and
    below, the intervals are by `profile_interval`, those of R's are of another kind.
    """
    curve = fit(DOSES, FALLING)
    expected = {
        "top": (1.0343814, 0.9640901, 1.1333228),
        "bottom": (-0.0092622544, -0.0635084, 0.0371131),
        "log_ec50": (-1.0058633, -1.0976593, -0.9274534),
        "slope": (-1.4581422, -1.9192707, -1.1059469),
    }
    assert_is(curve, expected)
    assert not any([curve.inactive_, curve.extrapolated_, curve.non_monotonic_])


@needs_data
@pytest.mark.parametrize(
    ("compound", "highest", "expected", "p_value"),
    [
        (
            "LY294002",  # start = list(A=38, B=74.5, xmid=.617, scal=.0787)
            math.inf,
            {
                "bottom": (38.03320, 31.331165, 43.913210),
                "top": (74.49700, 69.106454, 79.905033),
                "log_ec50": (0.61685, 0.4164555, 0.7229482),
                "slope": (5.5204586, 2.1841265, math.inf),
            },
            9.7464761e-10,
        ),
        (
            "Wortmannin",  # start = list(A=36.1, B=74.6, xmid=.96, scal=.086)
            62.5,  # above, responses fall; nls finds no fit with them
            {
                "bottom": (36.098700, 28.253072, 42.365769),
                "top": (74.623700, 67.862159, 82.442796),
                "log_ec50": (0.959970, 0.8099456, 1.1581732),
                "slope": (5.0479401, 1.6673889, math.inf),
            },
            6.2163428e-08,
        ),
    ],
)
def test_equals_r_on_bbbc013(compound, highest, expected, p_value):
    """R 4.2.2: w <- read.csv("wells.csv"); w$x <- log10(w$dose)

    f <- nls(nuclear_gfp_intensity ~ SSfpl(x, A, B, xmid, scal),
             w[w$compound == "LY294002", ], start = ...)
    """
    wells = pd.read_csv(DATA / "bbbc013" / "wells.csv")
    wells = wells[(wells["compound"] == compound) & (wells["dose"] <= highest)]
    curve = fit(wells["dose"], wells["nuclear_gfp_intensity"])
    assert_is(curve, expected)
    assert curve.p_value_ == pytest.approx(p_value, rel=1e-3)


@needs_data
def test_responses_that_fall_again_are_coped_with():
    """All doses of Wortmannin: R's nls ends in "singular gradient"."""
    wells = pd.read_csv(DATA / "bbbc013" / "wells.csv")
    wells = wells[wells["compound"] == "Wortmannin"]
    curve = fit(wells["dose"], wells["nuclear_gfp_intensity"])
    assert 5 < 10**curve.log_ec50_ < 15
    assert curve.confidence_intervals_["slope"][1] == math.inf
    assert all(np.isfinite(curve.confidence_intervals_["log_ec50"]))


@needs_data
def test_equals_drc_on_ryegrass():
    """drc's LL.4 on ryegrass (Ritz et al. 2015): estimates and standard errors."""
    plants = pd.read_csv(DATA / "ryegrass" / "ryegrass.csv")
    curve = DoseResponseRegressor(column=1)
    curve.fit(plants[["root_length_cm", "concentration_mm"]], plants["root_length_cm"])
    assert -curve.slope_ == pytest.approx(2.98222, rel=1e-4)
    assert curve.bottom_ == pytest.approx(0.48141, rel=1e-4)
    assert curve.top_ == pytest.approx(7.79296, rel=1e-4)
    assert 10**curve.log_ec50_ == pytest.approx(3.05795, rel=1e-4)
    quantile = 2.085963  # qt(0.975, 20)
    # Of a curve that many doses tell, drc's intervals and these are alike.
    errors = {"slope": 0.458, "bottom": 0.210, "top": 0.190, "log_ec50": 0.186}
    for name, error in errors.items():
        low, high = curve.confidence_intervals_[name]
        if name == "log_ec50":
            low, high = 10**low, 10**high
        assert (high - low) / 2 / quantile == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("left", "right"), [(1.0, 0.0), (-5.0, 300.0)])
def test_recovers_a_curve_without_noise(left, right, slope):
    parameters = np.array([left, right, -0.8, slope])
    y = curve_at(parameters, np.log10(DOSES))[0]
    curve = fit(DOSES, y)
    assert curve.log_ec50_ == pytest.approx(-0.8, abs=1e-3)
    assert curve.slope_ == pytest.approx(slope * np.sign(right - left), rel=1e-3)
    assert (curve.bottom_, curve.top_) == pytest.approx(sorted([left, right]), rel=1e-2)
    np.testing.assert_allclose(
        curve.predict(DOSES[:, None]), y, atol=1e-3 * abs(right - left)
    )


def test_gradient():
    x = np.array([-np.inf, -2.0, -0.5, 0.3])
    for k in range(len(x)):
        error = check_grad(
            lambda p, k=k: curve_at(p, x)[0][k],
            lambda p, k=k: curve_at(p, x)[1][k],
            np.array([0.2, 1.1, -0.4, 1.3]),
        )
        assert error < 1e-6


@pytest.mark.parametrize("slope", [1.2, 15])
def test_confidence_intervals_cover(slope):
    """Of 200 intervals, 95 % cover the truth, but for chance; of a step's, more."""
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(200):
        middle = rng.uniform(-1.8, 0.3)
        truth = curve_at(np.array([0.0, 1.0, middle, slope]), np.log10(DOSES))[0]
        curve = fit(DOSES, truth + rng.normal(0, 0.1, 18))
        low, high = curve.confidence_intervals_["log_ec50"]
        covered.append(low < middle < high)
        widths.append(high - low)
    assert binom.ppf(0.001, 200, 0.95) <= sum(covered)
    if slope < 4:
        assert sum(covered) <= binom.ppf(0.999, 200, 0.95)
    else:  # two doses are half a decade apart
        assert np.quantile(widths, 0.9) < 1


STEP = np.repeat([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 3) + 0.03 * np.tile([-1, 0, 1], 6)


@pytest.mark.parametrize(
    "responses",
    [
        FALLING,
        10 * FALLING - 300,
        STEP,
        np.repeat([1.0, 1.0, 1.0, 1.0, 0.9, 0.5], 3) + 0.05 * np.tile([-1, 0, 1], 6),
        np.repeat([0.6, 0.3, 0.1, 0.0, 0.0, 0.0], 3) + 0.05 * np.tile([-1, 0, 1], 6),
    ],
    ids=["falling", "other unit", "a step", "right half", "left half"],
)
def test_interval_of_the_midpoint(responses):
    curve = fit(DOSES, responses)
    found = curve.confidence_intervals_["log_ec50"]
    expected = profile_interval(DOSES, responses, "middle", curve.log_ec50_)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[0] <= curve.log_ec50_ <= found[1]


@pytest.mark.parametrize(
    ("responses", "at"),
    [(FALLING, -1.6), (FALLING, -0.8), (STEP, -0.7)],
    ids=["falling, plateau", "falling, slope", "a step"],
)
def test_interval_of_a_response(responses, at):
    curve = fit(DOSES, responses)
    (best,), (found,) = curve.predict([[10**at]], return_interval=True)
    expected = profile_interval(DOSES, responses, "response", best, at)
    assert found == pytest.approx(expected, abs=0.02 * (found[1] - found[0]))


def test_interval_of_a_response_where_much_fits():
    """A step between two doses is as good as a slope over all, by its own squares."""
    doses = np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 2)
    y = [0.156, 0.469, 0.319, 0.117, 0.675, 0.258, 0.353, 0.234, 0.432, 0.575, 1.142]
    y = np.array([*y, 0.701])
    curve = fit(doses, y)
    steps = np.array([0.309, 0.778, -0.495, 20])
    squares = ((curve_at(steps, np.log10(doses))[0] - y) ** 2).sum()
    least = ((curve.predict(doses[:, None]) - y) ** 2).sum()
    assert squares < least * (1 + t.ppf(0.975, 8) ** 2 / 8)
    _, ((_, high),) = curve.predict([[10**-0.45]], return_interval=True)
    expected = curve_at(steps, np.array([-0.45]))[0][0]
    assert expected - 1e-3 < high < expected + 0.02


@pytest.mark.parametrize("slope", [1.2, 15])
def test_intervals_of_responses_cover(slope):
    """Those at the midpoint and beside it, but for chance; not endless either."""
    rng = np.random.default_rng(0)
    covered, widths = np.zeros(3), []
    for _ in range(100):
        middle = rng.uniform(-1.5, 0.0)
        parameters = np.array([0.0, 1.0, middle, slope])
        y = curve_at(parameters, np.log10(DOSES))[0] + rng.normal(0, 0.1, 18)
        at = middle + np.array([-0.3, 0, 0.3])
        _, interval = fit(DOSES, y).predict(10 ** at[:, None], return_interval=True)
        truth = curve_at(parameters, at)[0]
        covered += (interval[:, 0] < truth) & (truth < interval[:, 1])
        widths.append(np.diff(interval))
    assert (binom.ppf(0.001, 100, 0.95) <= covered).all()
    assert np.quantile(widths, 0.9) < 1.5


def test_half_a_curve_tells_one_end():
    late = np.repeat([1, 1, 1, 1, 1, 0.8], 3) + 0.1 * np.tile([-1, 0, 1], 6)
    low, high = fit(DOSES, late).confidence_intervals_["log_ec50"]
    assert -0.5 < low < 0.5
    assert high == math.inf
    low, high = fit(DOSES, late[::-1]).confidence_intervals_["log_ec50"]
    assert low == -math.inf
    assert -2 < high < -1


@pytest.mark.parametrize("noise", [1e-3, 1e-6])
def test_intervals_are_as_small_as_the_noise(noise):
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(40):
        middle = rng.uniform(-1.8, 0.3)
        truth = curve_at(np.array([0.0, 1.0, middle, 1.2]), np.log10(DOSES))[0]
        curve = fit(DOSES, truth + rng.normal(0, noise, 18))
        low, high = curve.confidence_intervals_["log_ec50"]
        covered += low < middle < high
        widths.append(high - low)
    assert binom.ppf(0.001, 40, 0.95) <= covered
    assert 5 * noise < np.median(widths) < 15 * noise


def test_no_noise_no_interval():
    y = curve_at(np.array([1.0, 0.0, -0.8, 1.5]), np.log10(DOSES))[0]
    curve = fit(DOSES, y)
    for name, value in (("bottom", 0), ("top", 1), ("log_ec50", -0.8), ("slope", -1.5)):
        expected = (value, value)
        assert curve.confidence_intervals_[name] == pytest.approx(expected, abs=1e-3)
    response, interval = curve.predict(DOSES[:, None], return_interval=True)
    np.testing.assert_allclose(interval, np.stack([response] * 2, axis=1), atol=1e-3)
    assert (interval[:, 0] <= response + 1e-12).all()
    assert (response - 1e-12 <= interval[:, 1]).all()


def test_flat_responses_are_seldom_active():
    rng = np.random.default_rng(0)
    p = [fit(DOSES, rng.normal(size=18)) for _ in range(100)]
    share = np.mean([not curve.inactive_ for curve in p])
    assert share <= binom.ppf(0.999, 100, 0.05) / 100
    flat = next(curve for curve in p if curve.inactive_)
    assert flat.bottom_ == flat.top_ == flat.predict([[0.2]])[0]
    assert math.isnan(flat.log_ec50_)
    assert not flat.extrapolated_


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_equal_responses_are_inactive(constant):
    curve = fit(DOSES, np.full(18, constant))
    assert curve.inactive_
    assert curve.p_value_ == 1
    assert curve.predict([[0.0], [5.0]]) == pytest.approx(constant)


def test_a_bell_is_said_to_turn_back():
    bell = np.repeat([0, 0.1, 0.6, 1, 0.9, 0.2], 3) + 0.05 * np.tile([-1, 0, 1], 6)
    curve = fit(DOSES, bell)
    assert curve.non_monotonic_
    assert not curve.inactive_
    assert curve.slope_ > 0
    assert not fit(DOSES, FALLING).non_monotonic_


def test_zero_dose_is_the_left_plateau():
    with_zero = np.append(DOSES, [0, 0, 0])
    y = np.append(FALLING, [1.5, 1.4, 1.6])
    curve = fit(with_zero, y)
    assert curve.predict([[0]])[0] == pytest.approx(curve.top_)
    assert curve.top_ > fit(DOSES, FALLING).top_
    assert np.isfinite(curve.confidence_intervals_["log_ec50"]).all()


def test_order_and_unit_of_the_doses():
    curve = fit(DOSES, FALLING)
    order = np.random.default_rng(0).permutation(18)
    shuffled = fit(DOSES[order], FALLING[order])
    assert shuffled.log_ec50_ == pytest.approx(curve.log_ec50_, rel=1e-5)
    nanomolar = fit(1000 * DOSES, FALLING)
    assert nanomolar.log_ec50_ == pytest.approx(curve.log_ec50_ + 3, rel=1e-5)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_unit_of_the_responses(unit):
    curve, other = fit(DOSES, FALLING), fit(DOSES, unit * FALLING)
    assert other.log_ec50_ == pytest.approx(curve.log_ec50_, rel=1e-6)
    assert other.top_ == pytest.approx(unit * curve.top_, rel=1e-6)
    for name in ("log_ec50", "slope"):
        expected = curve.confidence_intervals_[name]
        assert other.confidence_intervals_[name] == pytest.approx(expected, rel=1e-5)
    low, high = curve.confidence_intervals_["bottom"]
    assert other.confidence_intervals_["bottom"] == pytest.approx(
        (unit * low, unit * high), rel=1e-5
    )


def test_a_step_between_two_doses_tells_no_slope():
    rng = np.random.default_rng(0)
    doses = np.repeat([0.001, 0.01, 0.1, 1, 10], 3)
    curve = fit(doses, (doses > 0.05) + rng.normal(0, 0.02, 15))
    low, high = curve.confidence_intervals_["slope"]
    assert 1 < low < curve.slope_
    assert high == math.inf
    assert curve.confidence_intervals_["top"][0] > 0.9


def test_missing_responses_are_left_out():
    y = FALLING.copy()
    y[[1, 7]] = np.nan
    known = ~np.isnan(y)
    curve = fit(DOSES, y)
    assert curve.n_responses_ == 16
    other = fit(DOSES[known], y[known])
    assert curve.log_ec50_ == other.log_ec50_


@pytest.mark.parametrize(
    "doses", [[1.0] * 8, [0.1, 1.0] * 4, [0, 0.1, 1.0] * 3, [0.1, 0.3, 1, 3]]
)
def test_too_few_doses_or_responses_have_no_curve(doses):
    y = np.linspace(0, 1, len(doses))
    curve = fit(doses, y)
    assert curve.inactive_
    assert curve.p_value_ == 1
    assert curve.predict([[1.0]])[0] == pytest.approx(0.5)


def test_half_a_curve_is_extrapolated():
    x = np.log10(DOSES)
    noise = 0.01 * np.tile([-1, 0, 1], 6)
    y = curve_at(np.array([0, 1, 0.9, 1.5]), x)[0] + noise
    curve = fit(DOSES, y)
    assert curve.extrapolated_
    assert curve.log_ec50_ <= np.log10(3) + 1


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([0.1, 1, -1], [1, 2, 3], "row 2, column 0 has a concentration of -1"),
        ([0.1, 1, np.nan], [1, 2, 3], "Input X contains NaN"),
        ([0.1, 1, np.inf], [1, 2, 3], "Input X contains infinity"),
        ([0.1, 1, 3], [1, 2, np.inf], "Input y contains infinity"),
        ([0.1, 1, 3], [np.nan] * 3, "All responses are missing"),
        ([0.1, 1, 3], [1, 2], "inconsistent numbers of samples"),
    ],
)
def test_errors(X, y, message):
    with pytest.raises(ValueError, match=message):
        fit(X, y)


def test_the_column_is_to_be_there():
    with pytest.raises(ValueError, match="column=1, but X has 1 columns"):
        fit(DOSES, FALLING, column=1)


def test_score_leaves_out_missing_responses_as_fit_does():
    concentration = np.repeat([0.01, 0.1, 1.0, 10.0, 100.0], 3)[:, None]
    noise = np.random.default_rng(0).normal(scale=0.05, size=15)
    response = 1 / (1 + concentration[:, 0]) + noise
    curve = DoseResponseRegressor().fit(concentration, response)
    whole = curve.score(concentration, response)
    assert whole == r2_score(response, curve.predict(concentration))
    weight = np.ones(15)
    weight[4] = 0
    without = curve.score(concentration, response, sample_weight=weight)
    response[4] = np.nan
    assert curve.score(concentration, response) == pytest.approx(without)
    assert curve.score(concentration, response, np.ones(15)) == pytest.approx(without)


def test_responses_in_another_order_are_refused():
    X = pd.DataFrame({"dose": np.repeat([0.1, 1.0, 10.0, 100.0], 3)})
    y = pd.Series(np.linspace(0, 1, 12))
    curve = DoseResponseRegressor().fit(X, y)
    for call in (curve.fit, curve.score):
        with pytest.raises(ValueError, match="y has the rows of X in another order"):
            call(X, y[::-1])


def test_a_missing_response_may_be_of_any_kind():
    dose = np.repeat([0.1, 1.0, 10.0, 100.0], 3)[:, None]
    y = pd.Series([None, 0, 0, 0, 0.1, 0, 1, 0.9, 1, 1, 1, 1], dtype=object)
    curve = DoseResponseRegressor().fit(dose, y.where(y.notna(), pd.NA))
    assert curve.n_responses_ == 11
    assert curve.log_ec50_ == DoseResponseRegressor().fit(dose, y).log_ec50_
