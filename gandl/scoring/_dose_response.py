"""DoseResponseRegressor: one compound's curve."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

_LN10 = math.log(10)
_SLOPES = np.geomspace(0.1, 20, 12)  # to start from; the first and last are the bounds
_BEYOND = 1.0  # decades by which a midpoint may lie outside the tested concentrations
MIN_DOSES = 4  # to fit a curve to
_NAMES = ("bottom", "top", "log_ec50", "slope")


class DoseResponseRegressor(RegressorMixin, BaseEstimator):
    """Fit a four-parameter log-logistic curve to the responses of one compound.

    ``bottom + (top - bottom) / (1 + 10 ** (slope * (log_ec50 - x)))``, with ``x`` the
    decadic logarithm of the concentration, by least squares from many starts.

    Parameters
    ----------
    column : int, default=0
        The column of X that has the concentrations. No column may be negative.
    alpha : float, default=0.05
        Level of significance: a curve whose p-value is not below it is taken for a
        constant, and confidence intervals cover ``1 - alpha``.

    Attributes
    ----------
    bottom_, top_ : float
        The lower and the upper plateau; both the mean if the compound is inactive.
    log_ec50_ : float
        Decadic logarithm of the concentration halfway between the plateaus, in the
        unit of X; NaN if inactive.
    slope_ : float
        Steepness (Hill slope), negative for a curve that falls with concentration; NaN
        if inactive.
    confidence_intervals_ : dict of str to tuple of 2 float
        Of "bottom", "top", "log_ec50" and "slope"; NaN if inactive. That of "log_ec50"
        is infinite on the side where midpoints fit up to a decade outside the
        concentrations tested, that of another parameter on both if it ended at a bound
        or the responses do not tell it.
    p_value_ : float
        Of an F test of the curve against a constant; 1 if there is no curve to fit.
    inactive_ : bool
        Whether the responses are told from a constant by no curve; always with fewer
        than four concentrations (zero is one) or five responses.
    extrapolated_ : bool
        Whether ``log_ec50_`` lies outside the concentrations tested.
    non_monotonic_ : bool
        Whether responses turn back against the trend of the curve by more than chance,
        as for a compound that is toxic at high doses.
    n_responses_ : int
        Responses used, missing ones not counted.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    Notes
    -----
    A concentration of zero is the plateau at the left, exactly. Bounds: midpoints up to
    a decade outside the concentrations tested, slopes from 0.1 to 20, plateaus up to
    twice the range of the responses beyond it.

    The interval of ``log_ec50_`` is by profile likelihood ([1]_, chapter 6): the
    midpoints with which the best curve leaves squares that an F test does not tell from
    those of the fit. Of a response that changes between two concentrations it is about
    what lies between them. The other intervals are the estimate plus and minus
    Student's t times the standard error from the Jacobian, as R's ``nls`` and drc [2]_
    give them; of the midpoint of a steep curve, which few concentrations lie on, those
    would cover the truth too seldom, and some span decades. The F test takes the curve
    for linear in its three parameters beyond the constant.

    References
    ----------
    .. [1] D. M. Bates and D. G. Watts, "Nonlinear regression analysis and its
       applications", Wiley, 1988.
    .. [2] C. Ritz et al., "Dose-response analysis using R", PLoS ONE 10, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.scoring import DoseResponseRegressor
    >>> concentration = np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 3)  # uM
    >>> noise = np.random.default_rng(0).normal(scale=0.05, size=18)
    >>> response = 1 / (1 + (concentration / 0.1) ** 1.5) + noise
    >>> curve = DoseResponseRegressor().fit(concentration[:, None], response)
    >>> round(10**curve.log_ec50_, 1), round(curve.slope_)
    (0.1, -2)
    >>> curve.predict([[0], [0.1], [0.2]]).round(2)
    array([0.99, 0.52, 0.25])
    """

    _parameter_constraints: ClassVar[dict] = {
        "column": [Integral],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, *, column: int = 0, alpha: float = 0.05) -> None:
        self.column = column
        self.alpha = alpha

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> DoseResponseRegressor:
        """Fit the curve.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            Concentrations, zero or more, in any order, in its column ``column``.
        y : array-like of shape (n,)
            Responses; missing ones (NaN) are left out.

        Returns
        -------
        DoseResponseRegressor
            Itself, fitted.

        Raises
        ------
        ValueError
            If a concentration is missing, negative or infinite, a response is
            infinite, or all responses are missing.
        """
        X = validate_data(self, X, dtype=np.float64)
        dose = self._concentrations(X)
        if y is None:
            raise ValueError(
                "requires y to be passed, but the target y is None: y is the responses."
            )
        y = column_or_1d(y, dtype=np.float64, warn=True)
        assert_all_finite(y, allow_nan=True, input_name="y")
        check_consistent_length(X, y)
        known = ~np.isnan(y)
        if not known.any():
            raise ValueError("All responses are missing.")
        dose, y = dose[known], y[known]
        self.n_responses_ = len(y)
        self._set_constant(float(y.mean()))
        if len(np.unique(dose)) >= MIN_DOSES and len(y) >= 5 and np.ptp(y) > 0:
            self._fit_curve(_log10(dose), y)
        return self

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Read the curve.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            Concentrations, in the column as in `fit`.
        return_std : bool, default=False
            Whether to return standard errors too.

        Returns
        -------
        ndarray of shape (n,) or tuple of two
            The curve's responses; with ``return_std`` also their standard errors, NaN
            if inactive. A parameter at a bound is taken as given: beyond the
            concentrations tested, errors are then too small.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        x = _log10(self._concentrations(X))
        if self.inactive_:
            response, gradient = (
                np.full(len(x), self.bottom_),
                np.full((len(x), 4), np.nan),
            )
        else:
            response, gradient = _curve(self._parameters, x)
        if not return_std:
            return response
        variance = np.einsum("ij,jk,ik->i", gradient, self._covariance, gradient)
        return response, np.sqrt(variance)

    def _concentrations(self, X: np.ndarray) -> np.ndarray:
        n_columns = X.shape[1]
        if not -n_columns <= self.column < n_columns:
            raise ValueError(f"column={self.column}, but X has {n_columns} columns.")
        negative = np.argwhere(X < 0)
        if len(negative):
            row, column = negative[0]
            raise ValueError(
                f"Negative values in data: row {row}, column {column} has a "
                f"concentration of {X[row, column]:g}."
            )
        return X[:, self.column]

    def _set_constant(self, mean: float) -> None:
        self.bottom_ = self.top_ = mean
        self.log_ec50_ = self.slope_ = math.nan
        self.p_value_ = 1.0
        self.inactive_, self.extrapolated_, self.non_monotonic_ = True, False, False
        self.confidence_intervals_ = dict.fromkeys(_NAMES, (math.nan, math.nan))
        self._covariance = np.full((4, 4), math.nan)

    def _fit_curve(self, x: np.ndarray, y: np.ndarray) -> None:
        # In units of the responses' range: tolerances of the solver are absolute.
        base, unit = y.mean(), np.ptp(y)
        y = (y - base) / unit
        data, (lower, upper) = _by_dose(x, y), _bounds(x, y)
        fit = _least_squares(data, lower, upper)
        degrees = len(y) - 4
        unexplained, total = 2 * fit.cost + data.within, (y**2).sum()
        if unexplained > 1e-20 * total:
            ratio = (total - unexplained) / 3 / (unexplained / degrees)
            self.p_value_ = float(f_distribution.sf(ratio, 3, degrees))
        else:
            self.p_value_ = 0.0
        if self.p_value_ >= self.alpha:
            return
        scale = np.array([unit, unit, 1, 1])
        self._parameters = fit.x * scale + [base, base, 0, 0]
        left, right, middle, slope = self._parameters
        self.inactive_ = False
        self.bottom_, self.top_ = float(min(left, right)), float(max(left, right))
        self.log_ec50_ = float(middle)
        self.slope_ = float(math.copysign(slope, right - left))
        tested = x[np.isfinite(x)]
        self.extrapolated_ = not tested.min() <= middle <= tested.max()
        free = (fit.x > lower) & (fit.x < upper) & (fit.active_mask == 0)
        covariance, known = _covariance(fit.jac, free, unexplained / degrees)
        self._covariance = covariance * np.outer(scale, scale)
        self.confidence_intervals_ = self._intervals(self._parameters, known, degrees)
        t = t_distribution.ppf(1 - self.alpha / 2, degrees)
        allowed = unexplained * (1 + t**2 / degrees) - data.within
        self.confidence_intervals_["log_ec50"] = _midpoints(
            data, float(middle), allowed, lower, upper
        )
        self.non_monotonic_ = _turns_back(data, right > left, self.alpha)

    def _intervals(
        self, parameters: np.ndarray, known: np.ndarray, degrees: int
    ) -> dict[str, tuple[float, float]]:
        half = t_distribution.ppf(1 - self.alpha / 2, degrees) * np.sqrt(
            np.diag(self._covariance)
        )
        half[~known] = math.inf
        low, high = parameters - half, parameters + half
        left, right, middle, slope = zip(low.tolist(), high.tolist(), strict=True)
        if parameters[1] < parameters[0]:
            left, right, slope = right, left, (-slope[1], -slope[0])
        return dict(zip(_NAMES, (left, right, middle, slope), strict=True))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # where the response is no curve of X
        return tags


def _log10(dose: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log10(dose)  # of zero: minus infinity, the left plateau


def _curve(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Responses (n,) at x, and their gradient (n, 4) by the parameters.

    The parameters are the plateaus at the left and at the right, the midpoint and the
    steepness, positive.
    """
    left, right, middle, slope = parameters
    risen = expit(_LN10 * slope * (x - middle))
    change = (right - left) * risen * (1 - risen) * _LN10
    away = np.where(np.isfinite(x), x - middle, 0.0)
    gradient = np.stack([1 - risen, risen, -slope * change, away * change], axis=1)
    return left + (right - left) * risen, gradient


class _ByDose(NamedTuple):
    """Responses by dose: the curve that fits their means, weighted, fits them all.

    Squares within doses depend on no curve, and thousands of controls cost nothing.
    """

    x: np.ndarray  # decadic logarithms, ascending
    means: np.ndarray
    counts: np.ndarray
    within: float  # sum of squares about the means


def _by_dose(x: np.ndarray, y: np.ndarray) -> _ByDose:
    doses, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(group, y) / counts
    return _ByDose(doses, means, counts, float(((y - means[group]) ** 2).sum()))


def _bounds(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest parameters."""
    tested, spread = x[np.isfinite(x)], 2 * np.ptp(y)
    lower = [y.min() - spread] * 2 + [tested.min() - _BEYOND, _SLOPES[0]]
    upper = [y.max() + spread] * 2 + [tested.max() + _BEYOND, _SLOPES[-1]]
    return np.array(lower), np.array(upper)


def _least_squares(data: _ByDose, lower: np.ndarray, upper: np.ndarray) -> Any:
    """The best fit; its cost is of the means alone."""
    weights = np.sqrt(data.counts)

    def solve(start: np.ndarray, tolerance: float, most: int) -> Any:
        return least_squares(
            lambda p: weights * (_curve(p, data.x)[0] - data.means),
            start,
            jac=lambda p: weights[:, None] * _curve(p, data.x)[1],
            bounds=(lower, upper),
            method="dogbox",
            max_nfev=most,
            x_scale="jac",
            ftol=tolerance,
            xtol=tolerance,
            gtol=tolerance,
        )

    # Nearly there, it is seen which is the best; it alone goes all the way.
    starts = _starts(data, lower, upper)
    near = min((solve(p, 1e-4, 12) for p in starts), key=lambda fit: fit.cost)
    return solve(near.x, 1e-12, 60)


def _starts(
    data: _ByDose, lower: np.ndarray, upper: np.ndarray, n: int = 4
) -> np.ndarray:
    """Parameters (n, 4) from a grid of midpoints and slopes."""
    inside = (upper - lower) * 1e-6
    lower, upper = lower + inside, upper - inside
    middle, slope = np.meshgrid(
        np.linspace(lower[2], upper[2], 40),
        np.clip(_SLOPES, lower[3], upper[3]),
        indexing="ij",
    )
    left, right, squares = _plateaus(data, middle, slope, lower, upper)
    order = np.argsort(squares.min(axis=0))[:n]  # the best midpoint of the best slopes
    chosen = squares.argmin(axis=0)[order], order
    return np.stack([p[chosen] for p in (left, right, middle, slope)], axis=1)


def _plateaus(
    data: _ByDose,
    middle: np.ndarray,
    slope: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best plateaus of each midpoint and slope, and the squares that they leave.

    A linear regression of two coefficients between bounds: where one lies beyond its
    own, the best has that one at it, or else the other at its.
    """
    risen = expit(_LN10 * slope[..., None] * (data.x - middle[..., None]))
    shares = [1 - risen, risen]  # of the left and of the right plateau
    (aa, ab), (_, bb) = [[(s * t) @ data.counts for t in shares] for s in shares]
    ay, by = (s @ (data.counts * data.means) for s in shares)
    tiny = 1e-12 * data.counts.sum()

    def of_left(right: np.ndarray) -> np.ndarray:
        return np.clip((ay - ab * right) / np.maximum(aa, tiny), lower[0], upper[0])

    def of_right(left: np.ndarray) -> np.ndarray:
        return np.clip((by - ab * left) / np.maximum(bb, tiny), lower[1], upper[1])

    determinant = np.maximum(aa * bb - ab**2, tiny**2)
    left = np.clip((ay * bb - by * ab) / determinant, lower[0], upper[0])
    right = np.clip((by * aa - ay * ab) / determinant, lower[1], upper[1])
    both = np.stack([[left, of_right(left)], [of_left(right), right]])
    fitted = both[:, 0, ..., None] * shares[0] + both[:, 1, ..., None] * shares[1]
    squares = (fitted - data.means) ** 2 @ data.counts
    second = squares[1] < squares[0]
    left, right = np.where(second, both[1], both[0])
    return left, right, np.where(second, squares[1], squares[0])


def _midpoints(
    data: _ByDose,
    middle: float,
    allowed: float,
    lower: np.ndarray,
    upper: np.ndarray,
) -> tuple[float, float]:
    """The first and the last midpoint whose best curve leaves no more than allowed."""

    def fits(middles: np.ndarray) -> np.ndarray:
        return _fits(data, middles, allowed, lower, upper) | (middles == middle)

    def end(inside: float, beyond: float) -> float:
        for _ in range(12):
            if abs(beyond - inside) < 1e-3 * abs(inside - middle):
                break
            between = np.linspace(inside, beyond, 17)
            last = np.flatnonzero(fits(between[1:-1])).max(initial=-1) + 1
            inside, beyond = between[last], between[last + 1]
        return float(inside)

    grid = np.union1d(np.linspace(lower[2], upper[2], 60), middle)
    inside = np.flatnonzero(fits(grid))
    first, last = inside[0], inside[-1]
    return (
        end(grid[first], grid[first - 1]) if first else -math.inf,
        end(grid[last], grid[last + 1]) if last + 1 < len(grid) else math.inf,
    )


def _fits(
    data: _ByDose,
    middles: np.ndarray,
    allowed: float,
    lower: np.ndarray,
    upper: np.ndarray,
) -> np.ndarray:
    """With which of the midpoints (n,) some curve leaves no more squares than allowed.

    Of slopes, closer and closer about the best, until all is decided.
    """
    least, most = math.log(lower[3]), math.log(upper[3])
    slopes = np.tile(np.linspace(least, most, 16), (len(middles), 1))
    step = (most - least) / 15
    squares = np.full(len(middles), math.inf)
    for _ in range(14):
        found = _plateaus(data, middles[:, None], np.exp(slopes), lower, upper)[2]
        best = np.take_along_axis(slopes, found.argmin(axis=1)[:, None], axis=1)
        # Between the best and its neighbours, a parabola falls by less than this.
        lowest = np.partition(found, 2, axis=1)
        squares = np.minimum(squares, lowest[:, 0])
        doubt = lowest[:, 2] - lowest[:, 0]
        if not ((squares > allowed) & (squares - doubt <= allowed)).any():
            break
        low, high = np.maximum(best - step, least), np.minimum(best + step, most)
        slopes = low + (high - low) * np.linspace(0, 1, 9)
        step /= 4
    return squares <= allowed


def _covariance(
    jacobian: np.ndarray, free: np.ndarray, variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of the parameters, and which of them the data say anything about.

    Those at a bound are taken as given, as are those that no response depends on.
    """
    norms = np.linalg.norm(jacobian, axis=0)
    free = free & (norms > 1e-8 * norms.max())
    _, singular, directions = np.linalg.svd(
        jacobian[:, free] / norms[free], full_matrices=False
    )
    seen = singular > 1e-8
    root = directions[seen] / singular[seen, None]
    covariance = np.zeros((4, 4))
    scale = np.outer(norms[free], norms[free])
    covariance[np.ix_(free, free)] = variance * (root.T @ root) / scale
    known = free.copy()
    known[free] = (np.abs(directions[~seen]) < 1e-4).all(axis=0)
    return covariance, known


def _turns_back(data: _ByDose, rising: bool, alpha: float) -> bool:
    """Whether a later dose's mean lies against the trend by more than chance.

    t tests of every pair of doses, with the variance within doses, Bonferroni's
    correction; needs replicates.
    """
    means, counts = data.means, data.counts
    degrees = counts.sum() - len(means)
    if degrees < 2:
        return False
    variance = data.within / degrees
    earlier, later = np.triu_indices(len(means), 1)
    back = (means[earlier] - means[later]) * (1 if rising else -1)
    error = np.sqrt(variance * (1 / counts[earlier] + 1 / counts[later]))
    limit = t_distribution.isf(alpha / len(back), degrees)
    return bool((back > limit * error).any())
