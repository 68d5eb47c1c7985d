"""DoseResponseRegressor: one compound's curve."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import assert_all_finite, check_consistent_length
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import check_order, numbers
from gandl._whole_fit import whole_fit
from gandl.scoring._logistic import ByDose, bounds, by_dose, curve_at, fit_curve_to
from gandl.scoring._profile_likelihood import curves_that_fit

MIN_DOSES = 4  # to fit a curve to
MIN_RESPONSES = 5  # one more than it has parameters
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
        Of "bottom", "top", "log_ec50" and "slope"; NaN if inactive. Infinite on a side
        where all up to the bound fit the responses (that end of a slope's which is
        nearer to zero is then 0), for "log_ec50" up to a decade outside the
        concentrations tested.
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

    All intervals are by profile likelihood ([1]_, chapter 6), as ``confint`` of R's
    ``nls`` has them: the values with which the best curve leaves squares that an F test
    does not tell from those of the fit. Of a response that changes between two
    concentrations, the midpoint's is about what lies between them, and the slope's has
    one end. Estimates plus and minus Student's t times their standard errors, as
    ``summary`` and drc [2]_ have them, are alike where many concentrations lie on the
    slope; of steep curves those would cover the truth too seldom, and some would span
    decades. In the intervals of plateaus and responses, midpoints and slopes are
    bounded and plateaus are not; these are read off some thousand curves, and may lack
    a few per cent of their width. The F test of the curve takes it for linear in its
    three parameters beyond the constant.

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

    @whole_fit
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
        check_order(X, y=y)
        X = validate_data(self, X, dtype=np.float64)
        dose = self._concentrations(X)
        if y is None:
            raise ValueError(
                "requires y to be passed, but the target y is None: y is the responses."
            )
        y = numbers(y, warn=True)
        assert_all_finite(y, allow_nan=True, input_name="y")
        check_consistent_length(X, y)
        known = ~np.isnan(y)
        if not known.any():
            raise ValueError("All responses are missing.")
        dose, y = dose[known], y[known]
        self.n_responses_ = len(y)
        self._set_constant(float(y.mean()))
        if has_curve(dose) and np.ptp(y) > 0:
            self._fit_curve(_log10(dose), y)
        return self

    def predict(self, X: Any, *, return_interval: bool = False) -> Any:
        """Read the curve.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            Concentrations, in the column as in `fit`.
        return_interval : bool, default=False
            Whether to return confidence intervals too, each of one concentration's
            response.

        Returns
        -------
        ndarray of shape (n,) or tuple of two
            The curve's responses; with ``return_interval`` also their intervals, of
            shape (n, 2), as those of the parameters; NaN if inactive.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        x = _log10(self._concentrations(X))
        response = self._response_at(x)
        return (response, self._interval_at(x)) if return_interval else response

    def _response_at(self, x: np.ndarray) -> np.ndarray:
        """Of the curve (n,) at logarithms of concentrations."""
        if self.inactive_:
            return np.full(len(x), self.bottom_)
        return curve_at(self._parameters, x)[0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the coefficient of determination of the responses.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            Concentrations, in the column as in `fit`.
        y : array-like of shape (n,)
            Responses; missing ones (NaN) are left out, as in `fit`.
        sample_weight : array-like of shape (n,), default=None
            What each counts.

        Returns
        -------
        float
            1 for a curve through all of them, 0 for one no better than their mean.
        """
        check_order(X, y=y, sample_weight=sample_weight)
        predicted, y = self.predict(X), numbers(y)
        check_consistent_length(predicted, y, sample_weight)
        known = ~np.isnan(y)
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight)[known]
        return float(r2_score(y[known], predicted[known], sample_weight=sample_weight))

    def _interval_at(self, x: np.ndarray) -> np.ndarray:
        """Of the responses (n, 2) at logarithms of concentrations."""
        if self.inactive_:
            return np.full((len(x), 2), math.nan)
        x, place = np.unique(x, return_inverse=True)
        base, unit = self._origin
        return base + unit * self._region.responses(x)[place]

    def _ec50_and_ends(self) -> tuple[float, float, float]:
        """EC50 and its confidence interval, in the unit of X."""
        logs = [self.log_ec50_, *self.confidence_intervals_["log_ec50"]]
        with np.errstate(over="ignore"):  # no bound is known: infinity
            ec50, low, high = np.power(10.0, logs).tolist()
        return ec50, low, high

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

    def _fit_curve(self, x: np.ndarray, y: np.ndarray) -> None:
        # In units of the responses' range: tolerances of the solver are absolute.
        base, unit = y.mean(), np.ptp(y)
        y = (y - base) / unit
        data, (lower, upper) = by_dose(x, y), bounds(x, y)
        fit = fit_curve_to(data, lower, upper)
        degrees = len(y) - 4
        unexplained, total = 2 * fit.cost + data.within, (y**2).sum()
        if unexplained > 1e-20 * total:
            ratio = (total - unexplained) / 3 / (unexplained / degrees)
            self.p_value_ = float(f_distribution.sf(ratio, 3, degrees))
        else:
            self.p_value_ = 0.0
        if self.p_value_ >= self.alpha:
            return
        self._origin = base, unit
        self._parameters = fit.x * [unit, unit, 1, 1] + [base, base, 0, 0]
        left, right, middle, slope = self._parameters
        self.inactive_ = False
        self.bottom_, self.top_ = float(min(left, right)), float(max(left, right))
        self.log_ec50_ = float(middle)
        self.slope_ = float(math.copysign(slope, right - left))
        tested = x[np.isfinite(x)]
        self.extrapolated_ = not tested.min() <= middle <= tested.max()
        t = t_distribution.isf(self.alpha / 2, degrees)
        allowed = unexplained * (1 + t**2 / degrees) - data.within
        self._region, middles, slopes = curves_that_fit(
            data, fit.x, allowed, lower, upper
        )
        ends = self._interval_at(np.array([-math.inf, math.inf])).tolist()
        if right < left:
            ends, slopes = ends[::-1], (-slopes[1], 0.0 - slopes[0])
        intervals = (*map(tuple, ends), middles, slopes)
        self.confidence_intervals_ = dict(zip(_NAMES, intervals, strict=True))
        self.non_monotonic_ = _turns_back(data, right > left, self.alpha)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # where the response is no curve of X
        return tags


def has_curve(dose: np.ndarray) -> bool:
    """Whether responses at these concentrations are enough to fit a curve to."""
    return len(np.unique(dose)) >= MIN_DOSES and len(dose) >= MIN_RESPONSES


def _log10(dose: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log10(dose)  # of zero: minus infinity, the left plateau


def _turns_back(data: ByDose, rising: bool, alpha: float) -> bool:
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
