"""HitCaller: which scores are better than those of untreated controls."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import kinds_of_controls


class HitCaller(BaseEstimator):
    """Call on- and off-perturbation a hit, inactive or toxic, by quantiles of controls.

    A row is toxic if its off-perturbation is above that of nearly all controls, else a
    hit if its on-perturbation is below that of nearly all positive (untreated)
    controls, else inactive.

    Parameters
    ----------
    negative, positive : object, default=None
        The values of ``y`` that mark the controls. None: the first and the last in
        sorted order.
    quantile : float, default=0.01
        The share of controls that a threshold cuts off.

    Attributes
    ----------
    on_threshold_ : float
        The quantile of the positive controls' on-perturbation.
    off_threshold_ : float
        The quantile ``1 - quantile`` of both controls' off-perturbation.
    negative_, positive_ : object
        The values of ``y`` used.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    PerturbationScorer : Where the scores come from.

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
        "quantile": [Interval(Real, 0, 0.5, closed="left")],
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
            If there are no controls of a kind.
        """
        X = validate_data(self, X, dtype=np.float64)
        self.negative_, self.positive_, kind = kinds_of_controls(
            y, len(X), self.negative, self.positive
        )
        self.on_threshold_ = float(np.quantile(X[kind == 1, 0], self.quantile))
        self.off_threshold_ = float(np.quantile(X[kind >= 0, -1], 1 - self.quantile))
        return self

    def call(self, X: Any) -> np.ndarray:
        """Call rows.

        Parameters
        ----------
        X : array-like of shape (n, n_columns)
            On-perturbation and off-perturbation, as in `fit`.

        Returns
        -------
        ndarray of str of shape (n,)
            "hit", "inactive" or "toxic".
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        rescued = X[:, 0] < self.on_threshold_
        toxic = X[:, -1] > self.off_threshold_
        return np.where(toxic, "toxic", np.where(rescued, "hit", "inactive"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
