"""HitCaller: which scores are better than untreated wells would have."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy.stats import t as student
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import kinds_of_controls


class HitCaller(BaseEstimator):
    """Call on- and off-perturbation a hit, inactive or toxic, by the controls.

    A row, or a mean of replicates, is toxic if its off-perturbation is above what
    nearly all controls would have, else a hit if its on-perturbation is below what
    nearly all positive (untreated) controls would have, else inactive.

    Parameters
    ----------
    negative, positive : object, default=None
        The values of ``y`` that mark the controls. None: the first and the last in
        sorted order, but the other's.
    quantile : float, default=0.01
        The share of further controls that a threshold is to cut off.

    Attributes
    ----------
    on_controls_ : ndarray of shape (n_positive,)
        On-perturbation of the positive controls.
    off_controls_ : ndarray of shape (n_negative,) or (n_positive,)
        Off-perturbation of the negative or of the positive controls, of those where it
        is larger on average.
    negative_, positive_ : object
        The values of ``y`` used.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    PerturbationScorer : Where the scores come from.

    Notes
    -----
    A threshold is the limit of a prediction interval [1]_ for the mean of n further
    controls, given N: ``mean ± t * sd * sqrt(1 / n + 1 / N)``, with the quantile t of
    Student's distribution of N - 1 degrees of freedom. A quantile of the controls
    themselves is not known where they are a dozen a plate. Off-perturbation is a length
    and skewed: its threshold is the higher of that limit and of the one for
    ``off ** (2 / 3)``, which is nearly normal (Wilson and Hilferty [2]_). It is taken
    of the kind of controls whose off-perturbation is larger on average: both together
    may be two heaps, with a spread that is of neither.

    References
    ----------
    .. [1] G. J. Hahn and W. Q. Meeker, "Statistical Intervals", Wiley, 1991.
    .. [2] E. B. Wilson and M. M. Hilferty, "The distribution of chi-square", PNAS 17,
       1931.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.scoring import HitCaller
    >>> rng = np.random.default_rng(0)
    >>> controls = rng.normal(scale=0.1, size=(80, 2)) + [[0, 0.3]]
    >>> y = np.repeat(["mock", "infected"], 40)
    >>> controls[40:, 0] += 1
    >>> caller = HitCaller(negative="mock", positive="infected").fit(controls, y)
    >>> caller.call([[0.2, 0.3], [1.0, 0.3], [0.2, 2.0]]).tolist()
    ['hit', 'inactive', 'toxic']
    """

    _parameter_constraints: ClassVar[dict] = {
        "negative": "no_validation",
        "positive": "no_validation",
        "quantile": [Interval(Real, 0, 0.5, closed="neither")],
    }

    def __init__(
        self, *, negative: Any = None, positive: Any = None, quantile: float = 0.01
    ) -> None:
        self.negative = negative
        self.positive = positive
        self.quantile = quantile

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> HitCaller:
        """Learn the thresholds from the controls; other rows are not looked at.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            On-perturbation and off-perturbation, its first and last columns.
        y : array-like of shape (n,)
            What each row is.

        Returns
        -------
        HitCaller
            Itself, fitted.

        Raises
        ------
        ValueError
            If there are fewer than two controls of a kind.
        """
        X = validate_data(self, X, dtype=np.float64)
        self.negative_, self.positive_, kind = kinds_of_controls(
            y, len(X), self.negative, self.positive
        )
        for k, name in enumerate((self.negative_, self.positive_)):
            if (n := (kind == k).sum()) < 2:
                raise ValueError(
                    f"Controls {name!r}: {n}, and thresholds take two at least."
                )
        self.on_controls_ = X[kind == 1, 0]
        off = [X[kind == k, -1] for k in (0, 1)]
        self.off_controls_ = max(off, key=np.mean)
        return self

    def thresholds(
        self, n_rows: Any = 1, n_calls: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is a hit below, and toxic above.

        Parameters
        ----------
        n_rows : int or array-like of int, default=1
            Replicates behind each mean that is to be called.
        n_calls : int, default=1
            Calls that share ``quantile``, such as a compound's concentrations.

        Returns
        -------
        tuple of ndarray
            Thresholds of on- and off-perturbation, in the shape of ``n_rows``.
        """
        check_is_fitted(self)
        share = self.quantile / n_calls
        on = _prediction_limit(self.on_controls_, n_rows, share)
        off = _prediction_limit(self.off_controls_, n_rows, 1 - share)
        lengths = self.off_controls_.clip(min=0)
        root = _prediction_limit(lengths ** (2 / 3), n_rows, 1 - share)
        return on, np.maximum(off, root.clip(min=0) ** (3 / 2))

    def call(self, X: Any, n_rows: Any = 1, n_calls: int = 1) -> np.ndarray:
        """Call rows, or means of replicates.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            On-perturbation and off-perturbation, as in `fit`.
        n_rows : int or array-like of int of shape (n,), default=1
            Replicates behind each row of X.
        n_calls : int, default=1
            Calls that share ``quantile``, such as a compound's concentrations.

        Returns
        -------
        ndarray of str of shape (n,)
            "hit", "inactive" or "toxic".
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        on, off = self.thresholds(n_rows, n_calls)
        rescued, toxic = X[:, 0] < on, X[:, -1] > off
        return np.where(toxic, "toxic", np.where(rescued, "hit", "inactive"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _prediction_limit(x: np.ndarray, n: Any, quantile: float) -> np.ndarray:
    """What the mean of n further values lies below with a probability ``quantile``."""
    spread = x.std(ddof=1) * np.sqrt(1 / np.asarray(n) + 1 / len(x))
    # Where controls are all alike so are further ones, whatever the quantile.
    return x.mean() + (
        student.ppf(quantile, len(x) - 1) * spread if spread.any() else 0
    )
