"""TypicalVariationNormalizer: what controls do anyway is made small, and alike."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import svd_flip

from gandl._row_labels import rows_of_each
from gandl._whole_fit import whole_fit
from gandl.profiles._controls import OnControls, scale_or_one


class TypicalVariationNormalizer(
    ClassNamePrefixFeaturesOutMixin, OnControls, BaseEstimator
):
    """Whiten embeddings by the variation of control wells, batch by batch.

    Controls differ from each other by position, cell density and chance alone. In the
    transformed space they are centred in each batch, and their covariance is the
    identity: directions in which controls vary much count no more than others.

    Parameters
    ----------
    control : object or array-like, default=None
        Which values of ``y`` mark controls. None: all rows that ``fit`` sees.
    n_components : int, default=None
        The most principal components of the controls to keep; they vary in no more
        than controls minus batches. None: all. Fewer are steadier where controls are
        few: a component in which they hardly vary is scaled by what little was seen.
    shrinkage : float, default=0.5
        What is added to the diagonal of a batch's covariance of whitened controls
        before the batch is aligned with it: large values leave each batch's shape as
        it is, 0 makes all batches' covariances one multiple of the identity.

    Attributes
    ----------
    batches_ : ndarray of shape (n_batches,)
        The batches, sorted; one, "all", if ``fit`` had none.
    means_, scales_ : ndarray of shape (n_batches, n_features)
        Mean and standard deviation of each batch's controls.
    components_ : ndarray of shape (n_components_, n_features)
        What whitens the centred and scaled controls of all batches.
    alignments_ : ndarray of shape (n_batches, n_components_, n_components_)
        What aligns the whitened rows of a batch.
    n_components_ : int
        Length of a transformed row.
    n_features_in_ : int
        Length of a row.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    ControlScaler : Centres and scales, without whitening.

    Notes
    -----
    Centring and scaling on controls, principal components of the controls, and
    alignment by ``(covariance + 0.5 I) ** (-1 / 2)`` are those of [1]_ and [2]_. Two
    things differ, so that the covariance of all controls is the identity for any
    ``shrinkage``: batches are centred before the components are found, and what the
    alignment leaves is whitened once more.

    Directions in which no control varies are dropped. With fewer controls than
    features that can be most of them, with what a treatment does in them: of a few
    dozen wells and an embedding, take `ControlScaler`, whose scores a regularised axis
    (`gandl.scoring.PerturbationScorer` with ``axis="discriminant"``) separates better.

    The controls are whitened by what they themselves taught, other rows are not: with
    few controls, controls lie nearer to each other than rows that are no different. A
    p-value against them (`energy_distance`, `replicate_consistency`) takes controls
    that ``fit`` has not seen.

    References
    ----------
    .. [1] D. M. Ando et al., "Improving phenotypic measurements in high-content
       imaging screens", bioRxiv 161422, 2017.
    .. [2] S. Celik et al., "Building, benchmarking, and exploring perturbative maps of
       transcriptional and morphological data", PLoS Computational Biology 20, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.profiles import TypicalVariationNormalizer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 3
    >>> plate = np.repeat(["P1", "P2"], 30)
    >>> compound = np.tile(["DMSO", "DMSO", "drug"], 20)
    >>> tvn = TypicalVariationNormalizer(control="DMSO")
    >>> profiles = tvn.fit_transform(X, compound, batch=plate)
    >>> np.cov(profiles[compound == "DMSO"].T).round(2) + 0.0
    array([[1., 0., 0., 0.],
           [0., 1., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 0., 1.]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "control": "no_validation",
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "shrinkage": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        control: Any = None,
        n_components: int | None = None,
        shrinkage: float = 0.5,
    ) -> None:
        self.control = control
        self.n_components = n_components
        self.shrinkage = shrinkage

    @whole_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any = None, *, batch: Any = None
    ) -> TypicalVariationNormalizer:
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
        TypicalVariationNormalizer
            Itself, fitted.

        Raises
        ------
        ValueError
            If a batch has fewer than two controls, or controls do not vary; if
            ``shrinkage`` is 0 and a batch has too few controls to whiten.
        """
        controls, position, parts = self._controls(X, y, batch)
        self.means_ = np.stack([part.mean(axis=0) for part in parts])
        spread = np.stack([part.std(axis=0, ddof=1) for part in parts])
        self.scales_ = scale_or_one(spread, self.means_)
        controls = (controls - self.means_[position]) / self.scales_[position]
        self.components_ = self._whitening(controls, len(controls) - len(parts))
        self.n_components_ = len(self.components_)
        self.alignments_ = self._align(controls @ self.components_.T, position)
        return self

    def transform(self, X: Any, *, batch: Any = None) -> np.ndarray:
        """Express rows in the space in which controls have unit covariance.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings, of controls and of anything else.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_components_), float64
            The rows; row i depends on row i and its batch alone.

        Raises
        ------
        ValueError
            If a batch had no controls in `fit`, or there were batches in `fit` and
            none are given, or the other way round.
        """
        X, rows_of = self._by_batch(X, batch)
        aligned = np.empty((len(X), self.n_components_))
        for b, rows in enumerate(rows_of):
            part = (X[rows] - self.means_[b]) / self.scales_[b]
            aligned[rows] = part @ self.components_.T @ self.alignments_[b]
        return aligned

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _whitening(self, controls: np.ndarray, degrees: int) -> np.ndarray:
        """Directions whose coordinates have unit variance over centred controls."""
        _, singular, directions = np.linalg.svd(controls, full_matrices=False)
        # Signs that do not depend on the order of rows.
        _, directions = svd_flip(None, directions, u_based_decision=False)
        tolerance = singular.max(initial=0.0) * max(controls.shape) * 1e-12
        rank = int((singular[:degrees] > tolerance).sum())
        if not rank:
            raise ValueError("The controls do not vary: nothing to normalise by.")
        kept = min(self.n_components or rank, rank)
        # The usual denominator, so that np.cov of the transformed controls is I.
        scale = np.sqrt(len(controls) - 1) / singular[:kept]
        return directions[:kept] * scale[:, None]

    def _align(self, controls: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Turn each batch's covariance towards I, then that of all into I."""
        n = controls.shape[1]
        aligned = np.empty_like(controls)
        alignments = np.empty((len(self.batches_), n, n))
        rows_of = rows_of_each(position, len(self.batches_))
        for b, (name, rows) in enumerate(zip(self.batches_, rows_of, strict=True)):
            part = controls[rows]
            covariance = part.T @ part / (len(part) - 1)
            values, vectors = np.linalg.eigh(covariance + self.shrinkage * np.eye(n))
            if values[-1] > 1e10 * values[0]:
                raise ValueError(
                    f"The controls of batch {name!r} do not vary in all {n} "
                    f"components: set shrinkage above {self.shrinkage:g}, or lower "
                    "n_components."
                )
            alignments[b] = _inverse_root(values, vectors)
            aligned[rows] = part @ alignments[b]
        of_all = aligned.T @ aligned / (len(aligned) - 1)
        return alignments @ _inverse_root(*np.linalg.eigh(of_all))


def _inverse_root(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Inverse root of a symmetric matrix, by its eigenvalues and -vectors."""
    return vectors / np.sqrt(values) @ vectors.T
