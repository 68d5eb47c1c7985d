"""ControlScaler: centre and scale by the controls of each batch."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy.stats import median_abs_deviation
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from gandl._whole_fit import whole_fit
from gandl.profiles._controls import OnControls, scale_or_one


class ControlScaler(OneToOneFeatureMixin, OnControls, BaseEstimator):
    """Centre and scale features by the control wells, batch by batch.

    Parameters
    ----------
    control : object or array-like, default=None
        Which values of ``y`` mark controls. None: all rows that ``fit`` sees.
    method : {"standard", "robust"}, default="standard"
        By mean and standard deviation, or by median and median absolute deviation (of
        which a normal distribution's standard deviation is 1.4826), which a few
        outlying controls hardly move.
    prior_df : float, default=0.0
        Degrees of freedom by which the variance of a feature in each batch is drawn
        to its mean over all batches. 0: each batch has its own alone. With fewer than
        a dozen controls a batch, 6 makes scores steadier by far.

    Attributes
    ----------
    batches_ : ndarray of shape (n_batches,)
        The batches, sorted; one, "all", if ``fit`` had none.
    centres_, scales_ : ndarray of shape (n_batches, n_features)
        What is subtracted from each batch, and what it is divided by; 1 where its
        controls do not vary (with ``prior_df``, those of no batch).
    n_features_in_ : int
        Length of a row.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    TypicalVariationNormalizer : Also takes correlations of features out.
    gandl.scoring.PerturbationScorer : Takes it as ``scaler``.

    Notes
    -----
    With n controls and ``prior_df`` d, a batch's variance v of a feature becomes
    ``((n - 1) * v + d * r * m) / (n - 1 + d)``, where r is the batch's level, v / m
    averaged over the features, so that a plate of another exposure keeps its own, and
    m the feature's v / r averaged over batches by their n - 1. It is the moderated
    variance of [1]_, over batches instead of genes. Three controls have features that
    hardly vary by chance, and all that is divided by these is huge.

    The controls that it was fitted on lie nearer to 0, and to each other, than wells
    that do nothing. To say whether controls separate, give it to the scorer, which
    holds controls out of both.

    References
    ----------
    .. [1] G. K. Smyth, "Linear models and empirical Bayes methods for assessing
       differential expression in microarray experiments", Stat Appl Genet Mol Biol 3,
       2004.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.profiles import ControlScaler
    >>> X = np.array([[1.0], [3.0], [6.0], [10.0], [30.0], [60.0]])
    >>> y = np.array(["DMSO", "DMSO", "drug"] * 2)
    >>> plate = np.repeat(["P1", "P2"], 3)
    >>> scaler = ControlScaler(control="DMSO")
    >>> scaler.fit_transform(X, y, batch=plate).round(2).ravel()
    array([-0.71,  0.71,  2.83, -0.71,  0.71,  2.83])
    """

    _parameter_constraints: ClassVar[dict] = {
        "control": "no_validation",
        "method": [StrOptions({"standard", "robust"})],
        "prior_df": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self, *, control: Any = None, method: str = "standard", prior_df: float = 0.0
    ) -> None:
        self.control = control
        self.method = method
        self.prior_df = prior_df

    @whole_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, *, batch: Any = None) -> ControlScaler:
        """Learn from controls.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings of images, sites or wells.
        y : array-like of shape (n,), default=None
            What each row is; only with ``control``.
        batch : array-like of shape (n,), default=None
            The batch of each row, usually its plate. None: all are of one.

        Returns
        -------
        ControlScaler
            Itself, fitted.

        Raises
        ------
        ValueError
            If a batch has fewer than two controls.
        """
        *_, parts = self._controls(X, y, batch)
        robust = self.method == "robust"
        centre = np.median if robust else np.mean
        self.centres_ = np.stack([centre(part, axis=0) for part in parts])
        spread = np.stack([part.std(axis=0, ddof=1) for part in parts])
        if robust:
            middle = np.stack(
                [median_abs_deviation(p, axis=0, scale="normal") for p in parts]
            )
            # Of values most of which are the same, that is 0.
            spread = np.where(middle > 0, middle, spread)
        if self.prior_df:
            degrees = np.array([len(part) - 1 for part in parts])
            varies = scale_or_one(spread, self.centres_) == spread  # beyond rounding
            spread = _moderated(np.where(varies, spread, 0.0), degrees, self.prior_df)
        self.scales_ = scale_or_one(spread, self.centres_)
        return self

    def transform(self, X: Any, *, batch: Any = None) -> np.ndarray:
        """Centre and scale rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings, of controls and of anything else.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_features), float64
            The rows, in deviations of their batch's controls.

        Raises
        ------
        ValueError
            If a batch had no controls in `fit`, or there were batches in `fit` and
            none are given, or the other way round.
        """
        X, rows_of = self._by_batch(X, batch)
        scaled = np.empty_like(X)
        for b, rows in enumerate(rows_of):
            scaled[rows] = (X[rows] - self.centres_[b]) / self.scales_[b]
        return scaled


def _moderated(spread: np.ndarray, degrees: np.ndarray, prior: float) -> np.ndarray:
    """Deviations (n_batches, d), each drawn to the mean over batches at its level."""
    variance, degrees = spread**2, degrees[:, None]
    level = np.ones((len(spread), 1))
    for _ in range(5):  # the mean is of batches brought to one level, and so in turns
        mean = (degrees * variance / level).sum(axis=0) / degrees.sum()
        varies = mean > 0
        if varies.any():
            found = (variance[:, varies] / mean[varies]).mean(axis=1, keepdims=True)
            level = np.where(found > 0, found, 1.0)
    return np.sqrt((degrees * variance + prior * level * mean) / (degrees + prior))
