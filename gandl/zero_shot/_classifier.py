"""ZeroShotClassifier: classes by a few examples each, on embeddings learned before."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_X_y
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl.zero_shot._frozen import check_featurizer

_WIDEST = 1e4  # temperatures looked at, in squared distances of prototypes, and 1 by it


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
    """Tell classes apart that the featurizer never saw, by the nearest prototype.

    The prototype of a class is the mean of its examples' embeddings, centred and
    scaled to length 1 [1]_ [2]_. One example a class is enough to begin with, and
    ``add_classes`` adds classes later without touching those that are there.

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
        The mean of each class's examples, which are centred and of length 1.
    centre_ : ndarray of shape (d,)
        What is subtracted from embeddings: the mean of the classes' means in ``fit``.
    variance_ : float
        The variance of examples within their class, summed over dimensions, in
        ``fit``; NaN as long as no class has two.
    temperature_ : float
        What squared distances are divided by in ``predict_proba``.
    n_features_in_ : int
        Length of an embedding; only if X had embeddings.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame of embeddings.

    See Also
    --------
    ChannelAdapter : Gives images of another collection the channels that are known.

    Notes
    -----
    With z an embedding, centred and scaled to length 1, and c_k the prototype of n_k
    examples, the probability of class k is the softmax of ``-(|z - c_k|**2 - variance_
    / n_k) / temperature_`` [3]_. The mean of few examples lies off the true mean by a
    squared distance of ``variance_ / n_k`` on average: without that term, a class of
    few examples next to classes of many would hardly ever be predicted. All classes
    are taken to be equally frequent.

    The temperature is that at which the examples, each left out of its own prototype,
    are most probable, all classes with the same weight; their probabilities are held
    against ``(n_k + 1) / (n_k + n_classes)`` in place of 1, so that few examples do not
    make for certainty [4]_. As long as no class has two examples, it is the mean
    squared distance of two prototypes.

    Dimensions count as they come: put a `sklearn.preprocessing.StandardScaler` before,
    unless they are of one unit, as whitened embeddings of the featurizer are.

    References
    ----------
    .. [1] T. Mensink et al., "Distance-based image classification: generalizing to new
       classes at near-zero cost", IEEE TPAMI 35, 2013.
    .. [2] Y. Wang et al., "SimpleShot: revisiting nearest-neighbor classification for
       few-shot learning", arXiv 1911.04623, 2019.
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
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> ZeroShotClassifier:
        """Learn the prototypes of classes, and how far examples lie from them.

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
        self.centre_ = _class_means(X, which).mean(axis=0)
        Z = self._directions(X)
        self.prototypes_ = _class_means(Z, which)
        self.variance_ = _variance_within(Z, which)
        self.temperature_ = self._learn_temperature(Z, which)
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
        Z = self._directions(X)
        classes = np.concatenate([self.classes_, added])
        order = np.argsort(classes)
        counts = np.concatenate([self.class_counts_, np.bincount(which)])
        prototypes = np.concatenate([self.prototypes_, _class_means(Z, which)])
        self.classes_, self.class_counts_ = classes[order], counts[order]
        self.prototypes_ = prototypes[order]
        # Unknown, it did not matter among classes of one example each; now it may.
        if np.isnan(self.variance_):
            self.variance_ = _variance_within(Z, which)
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
            The class of the nearest prototype.
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
        return softmax(scores / self.temperature_, axis=1)

    def _labelled(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, Any]:
        featurizer = check_featurizer(self)
        if featurizer is None:
            X, y = validate_data(self, X, y, dtype=np.float64, reset=reset)
        else:
            X, y = check_X_y(featurizer.transform(X), y, dtype=np.float64)
        check_classification_targets(y)
        return X, y

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        if self.featurizer is None:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            X = self.featurizer.transform(X)
        return _nearness(
            self._directions(X), self.prototypes_, self.class_counts_, self.variance_
        )

    def _directions(self, X: np.ndarray) -> np.ndarray:
        Z = np.asarray(X, dtype=np.float64) - self.centre_
        length = np.linalg.norm(Z, axis=1, keepdims=True)
        return np.divide(Z, length, out=np.zeros_like(Z), where=length > 0)

    def _learn_temperature(self, Z: np.ndarray, which: np.ndarray) -> float:
        n_classes = len(self.classes_)
        if n_classes == 1:
            return 1.0
        unit = 2 * self.prototypes_.var(axis=0).sum() * n_classes / (n_classes - 1)
        if unit <= 0:  # all prototypes are the same
            return 1.0
        counts = self.class_counts_
        rows = counts[which] > 1  # others would leave their class without a prototype
        if not rows.any():
            return float(unit)
        scores, own = self._held_out_scores(Z, which)[rows], which[rows]
        targets = np.repeat(1 / (counts[own] + n_classes), n_classes)
        targets = targets.reshape(-1, n_classes)
        targets[np.arange(len(own)), own] *= counts[own] + 1
        targets /= counts[own][:, None]  # all classes weigh the same

        def loss(log_temperature: float) -> float:
            odds = scores / (unit * np.exp(log_temperature))
            return -(targets * log_softmax(odds, axis=1)).sum()

        limit = np.log(_WIDEST)
        best = minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x
        return float(unit * np.exp(best))

    def _held_out_scores(self, Z: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Scores of examples, each left out of the prototype of its own class."""
        counts, means = self.class_counts_, self.prototypes_
        scores = _nearness(Z, means, counts, self.variance_)
        n = np.maximum(counts[which] - 1, 1)
        without = (counts[which][:, None] * means[which] - Z) / n[:, None]
        own = 2 * (Z * without).sum(axis=1) - (without**2).sum(axis=1)
        scores[np.arange(len(Z)), which] = own + self.variance_ / n
        return scores


def _nearness(
    Z: np.ndarray, prototypes: np.ndarray, counts: np.ndarray, variance: float
) -> np.ndarray:
    """Minus squared distances from prototypes (n, n_classes), up to |Z|**2.

    Each without what the prototype's own error adds to it, where that is known.
    """
    error = 0.0 if np.isnan(variance) else variance / counts
    return 2 * Z @ prototypes.T - (prototypes**2).sum(axis=1) + error


def _class_means(X: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.stack([X[which == k].mean(axis=0) for k in range(which.max() + 1)])


def _variance_within(Z: np.ndarray, which: np.ndarray) -> float:
    """Unbiased, pooled over classes; NaN if each has one row."""
    freedom = len(Z) - which.max() - 1
    if freedom == 0:
        return float("nan")
    return float(((Z - _class_means(Z, which)[which]) ** 2).sum() / freedom)


def _is_text(classes: np.ndarray) -> bool:
    return isinstance(classes.tolist()[0], str)
