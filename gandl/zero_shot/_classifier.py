"""ZeroShotClassifier: classes by a few examples each, on embeddings learned before."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import check_order
from gandl._whole_fit import whole_fit
from gandl.zero_shot._frozen import check_featurizer

_WIDEST = 1e4  # temperatures looked at, in squared distances of prototypes, and 1 by it


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
    """Tell classes apart that the featurizer never saw, by the nearest prototype.

    The prototype of a class is the mean of its examples' embeddings [1]_. How far an
    image lies from it is measured in units of how images vary within classes. One
    example a class is enough to begin with, and ``add_classes`` adds classes later
    without touching those that are there.

    Parameters
    ----------
    featurizer : fitted transformer, default=None
        What makes embeddings of images, such as `gandl.GANDLFeaturizer` or a pipeline
        that ends in one. It is never fitted here; inside cross-validation, which
        clones, pass ``FrozenEstimator(featurizer)``. None: X has embeddings.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.
    class_counts_ : ndarray of shape (n_classes,)
        The number of examples of each.
    prototypes_ : ndarray of shape (n_classes, d)
        The mean embedding of each class's examples.
    whitening_ : ndarray of shape (d, d) or None
        What differences of embeddings are multiplied with before their length is
        taken, so that examples vary alike in all directions within their class. None
        if no class had two examples in ``fit``: lengths are taken as they are.
    variance_ : float
        The mean squared distance of an example from the true mean of its class, after
        whitening; NaN as long as no class has two examples.
    temperature_ : float
        What squared distances are divided by in ``predict_proba``; NaN as long as
        there are no two prototypes apart.
    n_features_in_ : int
        Length of an embedding; only if X had embeddings.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame of embeddings.

    See Also
    --------
    ChannelAdapter : Gives images of another collection the channels that are known.

    Notes
    -----
    The covariance within classes, pooled, is shrunk towards a multiple of the unit
    matrix as far as its number of examples demands [2]_, and whitening is the inverse
    of its root: a linear discriminant where examples are many, the plain distance where
    they are few. Classes that are added are measured by the same metric, which need
    not have seen them [1]_.

    With d_k the distance of an embedding from the prototype of n_k examples, the
    probability of class k is the softmax of ``-(d_k**2 - variance_ / n_k) /
    temperature_`` [3]_. The mean of few examples lies off the true mean by a squared
    distance of ``variance_ / n_k`` on average: without that term, a class of few
    examples next to classes of many would hardly ever be predicted. All classes are
    taken to be equally frequent.

    The temperature is that at which the examples, each left out of prototype and
    covariance, are most probable, all classes with the same weight; probabilities are
    held against ``(N + 1) / (N + n_classes)`` in place of 1, N the examples of classes
    that have two or more, so that few do not make for certainty [4]_. As long as no
    class has two examples, it is the mean squared distance of two prototypes.

    Put a `sklearn.preprocessing.StandardScaler` before, unless all dimensions are of
    one unit, as those of whitened embeddings of the featurizer are.

    References
    ----------
    .. [1] T. Mensink et al., "Distance-based image classification: generalizing to new
       classes at near-zero cost", IEEE TPAMI 35, 2013.
    .. [2] Y. Chen et al., "Shrinkage algorithms for MMSE covariance estimation", IEEE
       Trans. Signal Processing 58, 2010: equation 23.
    .. [3] J. Snell, K. Swersky, R. Zemel, "Prototypical networks for few-shot
       learning", NeurIPS 2017, arXiv 1703.05175.
    .. [4] J. C. Platt, "Probabilistic outputs for support vector machines and
       comparisons to regularized likelihood methods", Advances in Large Margin
       Classifiers, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl import ZeroShotClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = np.eye(3).repeat(5, axis=0) + rng.normal(0, 0.1, (15, 3))
    >>> y = np.repeat(["interphase", "metaphase", "apoptosis"], 5)
    >>> classifier = ZeroShotClassifier().fit(X[:10], y[:10])
    >>> classifier.add_classes(X[10:], y[10:]).classes_
    array(['apoptosis', 'interphase', 'metaphase'], dtype='<U10')
    >>> classifier.predict([[0, 0.9, 0.1], [0, 0.2, 0.8]])
    array(['metaphase', 'apoptosis'], dtype='<U10')
    """

    _parameter_constraints: ClassVar[dict] = {
        "featurizer": [HasMethods(["transform"]), None]
    }

    def __init__(self, *, featurizer: Any = None) -> None:
        self.featurizer = featurizer

    # The featurizer is fitted, and has validated its parameters itself.
    @whole_fit
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> ZeroShotClassifier:
        """Learn the prototypes of classes, and how examples vary about them.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Embeddings; with ``featurizer``, images as that takes them.
        y : array-like of shape (n,)
            The class of each.

        Returns
        -------
        ZeroShotClassifier
            Itself, fitted.

        Raises
        ------
        NotFittedError
            If the featurizer is not fitted.
        ValueError
            If X and y are not of one length, or y does not name classes.
        """
        X, y = self._labelled(X, y, reset=True)
        self.classes_, which = np.unique(y, return_inverse=True)
        self.class_counts_ = np.bincount(which)
        self.prototypes_ = _class_means(X, which)
        self.whitening_, learned = _whitening(X - self.prototypes_[which], which)
        distances, variance = _held_out_distances(
            self._whiten(X), which, self._whiten(self.prototypes_), learned
        )
        self.variance_ = variance
        self.temperature_ = self._learn_temperature(distances, which)
        return self

    def add_classes(self, X: Any, y: Any) -> ZeroShotClassifier:
        """Learn the prototypes of further classes; few examples are enough.

        The scores of the classes that are there do not change, nor do the odds of one
        of them against another. ``classes_`` stays sorted: columns of ``predict_proba``
        move.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Embeddings or images as in `fit`.
        y : array-like of shape (n,)
            The class of each, none of which ``fit`` has seen.

        Returns
        -------
        ZeroShotClassifier
            Itself, with the classes added.

        Raises
        ------
        ValueError
            If a class is known already, or labels are text where those of ``fit`` are
            numbers, or the other way round.
        """
        check_is_fitted(self)
        X, y = self._labelled(X, y, reset=False)
        added, which = np.unique(y, return_inverse=True)
        classes = np.concatenate([self.classes_, added])
        order = np.argsort(classes)
        counts = np.concatenate([self.class_counts_, np.bincount(which)])
        prototypes = np.concatenate([self.prototypes_, _class_means(X, which)])
        self.classes_, self.class_counts_ = classes[order], counts[order]
        self.prototypes_ = prototypes[order]
        # Of one class, or one prototype, there were no odds that could change.
        if np.isnan(self.temperature_):
            self.temperature_ = self._prototype_distance()
        # Among classes of one example each it did not matter; now it may.
        if np.isnan(self.variance_):
            means = self._whiten(_class_means(X, which))
            self.variance_ = _held_out_distances(self._whiten(X), which, means)[1]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of each row.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Embeddings or images as in `fit`.

        Returns
        -------
        ndarray of shape (n,)
            The most probable class.
        """
        nearest = self._scores(X).argmax(axis=1)
        return self.classes_[nearest]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Embeddings or images as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities in the order of ``classes_``; rows sum to 1.
        """
        scores = self._scores(X)
        temperature = 1.0 if np.isnan(self.temperature_) else self.temperature_
        return softmax(scores / temperature, axis=1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score the mean accuracy of `predict`.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Embeddings or images as in `fit`.
        y : array-like of shape (n,)
            The class of each.
        sample_weight : array-like of shape (n,), default=None
            The weight of each.

        Returns
        -------
        float
            The part of the weight whose class is predicted.

        Raises
        ------
        ValueError
            If y has, by its index, the rows of X in another order.
        """
        check_order(X, y=y)
        return super().score(X, y, sample_weight)

    def _labelled(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, Any]:
        featurizer = check_featurizer(self)
        check_order(X, y=y)
        missing = np.flatnonzero(pd.isna(np.array(y, dtype=object)))
        if y is not None and len(missing):
            raise ValueError(
                f"y has no class in row {missing[0]}: leave out rows without one."
            )
        if featurizer is None:
            X, y = validate_data(self, X, y, dtype=np.float64, reset=reset)
            self._check_classes(y, reset)
            return X, y
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None.")
        # Before images are embedded, which may take hours.
        check_consistent_length(X, y)
        y = column_or_1d(y)
        self._check_classes(y, reset)
        return self._embedded(X, reset=reset), y

    def _check_classes(self, y: np.ndarray, reset: bool) -> None:
        check_classification_targets(y)
        if reset:
            return
        added = np.unique(y)
        if _is_text(added) != _is_text(self.classes_):
            raise ValueError(
                f"The classes in fit are {self.classes_[:5].tolist()}, those to add "
                f"{added[:5].tolist()}: text or numbers, but not both."
            )
        known = np.intersect1d(self.classes_, added)
        if len(known):
            raise ValueError(
                f"Known already: {known[:5].tolist()}. add_classes takes classes that "
                "fit has not seen; for more examples of known ones, call fit with all."
            )

    def _embedded(self, X: Any, *, reset: bool) -> np.ndarray:
        """Embeddings of images, of the length that they had in `fit`."""
        if reset:  # scikit-learn's of an earlier fit, to embeddings
            for name in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)
        embeddings = check_array(self.featurizer.transform(X), dtype=np.float64)
        d = embeddings.shape[1]
        if not reset and d != (fitted := self.prototypes_.shape[1]):
            raise ValueError(
                f"The featurizer gives embeddings of {d} numbers, and gave {fitted} in "
                "fit: fit again."
            )
        return embeddings

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        if self.featurizer is None:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            X = self._embedded(X, reset=False)
        distances = _squared_distances(self._whiten(X), self._whiten(self.prototypes_))
        return self._nearness(distances, self.class_counts_)

    def _whiten(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X, dtype=np.float64)
        return X if self.whitening_ is None else X @ self.whitening_

    def _nearness(self, distances: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Minus squared distances, without what prototypes' own errors add to them."""
        return (
            0.0 if np.isnan(self.variance_) else self.variance_ / counts
        ) - distances

    def _prototype_distance(self) -> float:
        """Mean squared distance of two prototypes; NaN if there are none apart."""
        spread = self._whiten(self.prototypes_).var(axis=0).sum()
        n_classes = len(self.classes_)
        return float(2 * spread * n_classes / (n_classes - 1)) if spread > 0 else np.nan

    def _learn_temperature(self, distances: np.ndarray, which: np.ndarray) -> float:
        n_classes, counts = len(self.classes_), self.class_counts_
        unit = self._prototype_distance()
        if np.isnan(unit):
            return unit
        rows = counts[which] > 1  # others would leave their class without a prototype
        if not rows.any():
            return unit
        own, at = which[rows], np.arange(rows.sum())
        of_prototype = np.tile(counts, (len(own), 1))
        of_prototype[at, own] -= 1
        scores = self._nearness(distances[rows], of_prototype)
        targets = np.full(scores.shape, 1 / (len(own) + n_classes))
        targets[at, own] *= len(own) + 1
        targets /= counts[own][:, None]  # all classes weigh the same

        def loss(log_temperature: float) -> float:
            odds = scores / (unit * np.exp(log_temperature))
            return -(targets * log_softmax(odds, axis=1)).sum()

        limit = np.log(_WIDEST)
        best = minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x
        return float(unit * np.exp(best))


def _class_means(X: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.stack([X[which == k].mean(axis=0) for k in range(which.max() + 1)])


def _squared_distances(Z: np.ndarray, means: np.ndarray) -> np.ndarray:
    # Differences first: far from the origin, products would lose their last digits.
    return np.stack([((Z - mean) ** 2).sum(axis=1) for mean in means], axis=1)


def _whitening(
    residuals: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """Inverse root of the shrunk covariance within classes, None if there is none.

    Beside it, the weight that the outer product of a residual has in that covariance.
    """
    n = len(residuals) - which.max() - 1
    if n == 0 or not residuals.any():
        return None, 0.0
    unit = np.abs(residuals).max()  # squares of squares may leave the range of numbers
    covariance = (residuals / unit).T @ (residuals / unit) / n
    p, trace, square = len(covariance), np.trace(covariance), (covariance**2).sum()
    excess = (n + 1 - 2 / p) * (square - trace**2 / p)
    needed = (1 - 2 / p) * square + trace**2
    shrinkage = needed / excess if excess > needed else 1.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(p)] += shrinkage * trace / p
    root = np.linalg.cholesky(covariance)
    whitening = solve_triangular(root, np.eye(p), lower=True).T / unit
    return whitening, (1 - shrinkage) / n


def _held_out_distances(
    Z: np.ndarray, which: np.ndarray, means: np.ndarray, learned: float = 0.0
) -> tuple[np.ndarray, float]:
    """Squared distances of whitened examples, each as if it had not been seen.

    An example is left out of the prototype of its class and, by the formula of Sherman
    and Morrison, out of the covariance, in which residuals weigh ``learned``. Beside
    them, their mean within classes if prototypes had no error; NaN where no class has
    two examples. Rows that are alone in their class have no meaning.
    """
    counts = np.bincount(which)[which]
    n, rows = np.maximum(counts, 2), np.arange(len(Z))
    residuals = Z - means[which]
    away, along = _squared_distances(Z, means), (Z * residuals).sum(axis=1)[:, None]
    along = along - residuals @ means.T
    length = (residuals**2).sum(axis=1)
    away[rows, which], along[rows, which] = length, length
    away[rows, which] *= (n / (n - 1)) ** 2
    along[rows, which] *= n / (n - 1)
    taken = learned * n / (n - 1)
    away += (taken / (1 - taken * length))[:, None] * along**2
    if not (counts > 1).any():
        return away, float("nan")
    own = away[rows, which] * (n - 1) / n
    return away, float(own[counts > 1].mean())


def _is_text(classes: np.ndarray) -> bool:
    return isinstance(classes.tolist()[0], str)
