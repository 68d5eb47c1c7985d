"""HitCaller: which scores are better than untreated wells would have."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_consistent_length, check_scalar, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import batch_of_rows, check_order, kinds_of_controls
from gandl._whole_fit import whole_fit


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
    themselves is not known where they are a dozen a plate.

    Wells of one plate share the error of its centre and scale, so that replicates on
    one say less than as many on several. With B batches, the variance of a mean is
    ``within * (1 / n + 1 / N) + between * (1 / m - 1 / B)``, of the variances within
    and between batches (analysis of variance; between is taken for that of means of
    controls at the least), where m is the number of batches that replicates lie on;
    spread over all of them they share what controls share. Batches count alike: the
    mean is that of their means, and N is as many controls as would make it as sure,
    but for the degrees of freedom, which stay those of all controls.
    With a single control a batch, no two wells of one are known to differ, and
    replicates count by batches.

    Off-perturbation is a length
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

    @whole_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, *, batch: Any = None) -> HitCaller:
        """Learn the thresholds from the controls; other rows are not looked at.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            On-perturbation and off-perturbation, its first and last columns.
        y : array-like of shape (n,)
            What each row is.
        batch : array-like of shape (n,), default=None
            The batch of each row, usually its plate. None: all are of one.

        Returns
        -------
        HitCaller
            Itself, fitted.

        Raises
        ------
        ValueError
            If there are fewer than two controls of a kind.
        """
        check_order(X, y=y, batch=batch)
        X = validate_data(self, X, dtype=np.float64)
        self.negative_, self.positive_, kind = kinds_of_controls(
            y, len(X), self.negative, self.positive
        )
        for k, name in enumerate((self.negative_, self.positive_)):
            if (n := (kind == k).sum()) < 2:
                raise ValueError(
                    f"Controls {name!r}: {n}, and thresholds take two at least."
                )
        rows = batch_of_rows(batch, len(X))
        farther = int(X[kind == 1, -1].mean() > X[kind == 0, -1].mean())
        self.on_controls_ = X[kind == 1, 0]
        self.off_controls_ = X[kind == farther, -1]
        roots = self.off_controls_.clip(min=0) ** (2 / 3)
        self._on = _Further.like(self.on_controls_, rows[kind == 1])
        self._off, self._roots = (
            _Further.like(x, rows[kind == farther]) for x in (self.off_controls_, roots)
        )
        return self

    def thresholds(
        self, n_rows: Any = 1, n_calls: int = 1, n_batches: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is a hit below, and toxic above.

        Parameters
        ----------
        n_rows : int or array-like of int, default=1
            Replicates behind each mean that is to be called.
        n_calls : int, default=1
            Calls that share ``quantile``, such as a compound's concentrations.
        n_batches : float or array-like of float, default=None
            Batches that these replicates come from; where their numbers are unequal,
            ``n ** 2 / sum(n_of_batch ** 2)``. None: each is from another.

        Returns
        -------
        tuple of ndarray
            Thresholds of on- and off-perturbation, in the shape of ``n_rows``.

        Raises
        ------
        ValueError
            If a number is below 1.
        """
        check_is_fitted(self)
        check_scalar(n_calls, "n_calls", Integral, min_val=1)
        share = self.quantile / n_calls
        of = np.asarray(n_rows), np.asarray(n_rows if n_batches is None else n_batches)
        for name, numbers in zip(("n_rows", "n_batches"), of, strict=True):
            if not (numbers >= 1).all():  # nor if one is NaN
                raise ValueError(f"{name} is at least 1, got {numbers.min()}.")
        on = self._on.limit(*of, share)
        off, root = (x.limit(*of, 1 - share) for x in (self._off, self._roots))
        return on, np.maximum(off, root.clip(min=0) ** (3 / 2))

    def call(
        self, X: Any, n_rows: Any = 1, n_calls: int = 1, n_batches: Any = None
    ) -> np.ndarray:
        """Call rows, or means of replicates.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            On-perturbation and off-perturbation, as in `fit`.
        n_rows : int or array-like of int of shape (n,), default=1
            Replicates behind each row of X.
        n_calls : int, default=1
            Calls that share ``quantile``, such as a compound's concentrations.
        n_batches : float or array-like of float of shape (n,), default=None
            Batches that these replicates come from, as in `thresholds`.

        Returns
        -------
        ndarray of str of shape (n,)
            "hit", "inactive" or "toxic".

        Raises
        ------
        ValueError
            If a number is below 1, or numbers are not one a row.
        """
        check_is_fitted(self)
        check_order(X, n_rows=n_rows, n_batches=n_batches)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        n_rows, n_batches = (
            column_or_1d(numbers) if np.ndim(numbers) else numbers
            for numbers in (n_rows, n_batches)
        )
        check_consistent_length(X, *(n for n in (n_rows, n_batches) if np.ndim(n)))
        on, off = self.thresholds(n_rows, n_calls, n_batches)
        rescued, toxic = X[:, 0] < on, X[:, -1] > off
        return np.where(toxic, "toxic", np.where(rescued, "hit", "inactive"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def effective_batches(rows: np.ndarray) -> float:
    """Of how many batches, equally shared, a mean of rows would be as sure."""
    counts = np.bincount(pd.factorize(rows)[0])
    return float(len(rows) ** 2 / (counts**2).sum())


class _Further(NamedTuple):
    """What is known of the mean of further values that are like some."""

    mean: float  # of the means of batches
    within: float  # variance within batches
    between: float  # and between them
    n_batches: int
    n: int
    n_sure: float  # values that, as many in each batch, make the mean as sure
    is_told: bool  # whether there is more than one value in some batches

    @classmethod
    def like(cls, x: np.ndarray, batches: np.ndarray) -> _Further:
        groups = pd.Series(x).groupby(pd.factorize(batches)[0])
        n, means = groups.size().to_numpy(), groups.mean().to_numpy()
        n_batches, degrees, mean = len(n), len(x) - len(n), float(means.mean())
        n_sure = float(n_batches**2 / (1 / n).sum())
        if n_batches == 1 or degrees < 2:
            of_all, told = float(x.var(ddof=1)), n_batches == 1
            return cls(mean, of_all, 0.0, n_batches, len(x), n_sure, told)
        within = float((groups.var(ddof=0) * n).sum() / degrees)
        n_each = (len(x) - (n**2).sum() / len(x)) / (n_batches - 1)
        squares = float((n * (means - x.mean()) ** 2).sum() / (n_batches - 1))
        # Rows of a batch share the error of its controls' mean, by which they are
        # centred: what lies between batches is that at the least.
        between = max(squares - within, within) / n_each
        return cls(mean, within, between, n_batches, len(x), n_sure, True)

    def limit(self, n: np.ndarray, m: np.ndarray, quantile: float) -> np.ndarray:
        """What a mean of n values, of m batches, is below with that probability."""
        apart = (1 / m - 1 / self.n_batches).clip(min=0)
        alone = 1 / (n if self.is_told else m)
        spread = np.sqrt(self.within * (alone + 1 / self.n_sure) + self.between * apart)
        # Where controls are all alike so are further ones, whatever the quantile.
        steps = student.ppf(quantile, self.n - 1) if spread.any() else 0.0
        return self.mean + steps * spread
