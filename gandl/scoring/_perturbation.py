"""PerturbationScorer: how far from healthy, and how far from anything known."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import (
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from gandl._row_labels import (
    batch_of_rows,
    batch_positions,
    check_order,
    kinds_of_controls,
    labels,
    rows_of_each,
    sorted_batches,
)
from gandl._warnings import warn
from gandl._whole_fit import whole_fit
from gandl.profiles._controls import values_of
from gandl.scoring._axis import leave_one_out, scores_along
from gandl.scoring._separation import separation

_POOR = 0.5  # Cohen's d below which controls are not separate


class PerturbationScorer(TransformerMixin, BaseEstimator):
    """Score rows along the axis from one control to the other, and away from it.

    With ``m0`` and ``m1`` the means of the negative and the positive controls and ``v =
    m1 - m0``, on-perturbation is ``(x - m0) . v / |v|**2``: 0 at the negative controls
    (healthy), 1 at the positive ones (infected). Off-perturbation is the length of what
    is left of ``x - m0``, divided by ``|v|``: side effects.

    Parameters
    ----------
    negative, positive : object, default=None
        The values of ``y`` that mark the controls. None: the first and the last in
        sorted order, but the other's.
    scaler : estimator, default=None
        What the axis is fitted after, `gandl.profiles.ControlScaler` say: fitted to the
        controls of each batch with ``fit(X, y, batch=)``, and once more without those
        that are held out. Rows scaled beforehand have seen all controls: negative ones
        then lie too near to each other, and seem separate where they are few.
        None: rows are taken as they are.
    axis : {"mean", "discriminant"}, default="mean"
        On-perturbation along the difference of means, or along Fisher's linear
        discriminant (covariance shrunk by Ledoit and Wolf), scaled so that controls
        are at 0 and 1 all the same.
    pooled : bool, default=False
        Whether one axis is fitted to the controls of all batches, which then are to be
        comparable (by ``scaler``), instead of one a batch. More controls make an axis
        steadier; separation is told by batch in both cases.
    poor_controls : {"warn", "raise", "ignore"}, default="warn"
        What to do about batches whose controls do not separate, with a Cohen's d below
        0.5, or are too few for one to be left out.

    Attributes
    ----------
    batches_ : ndarray of shape (n_batches,)
        The batches, sorted; one, "all", if ``fit`` had none.
    origins_, directions_, weights_ : ndarray of shape (n_axes, n_features)
        ``m0``, ``v``, and the vector whose product with ``x - m0`` is on-perturbation,
        of each batch; one, if pooled. Of scaled rows, if there is a scaler.
    scaler_ : estimator or None
        The scaler, fitted.
    control_scores_ : ndarray of shape (n_controls, 2)
        On- and off-perturbation of each control by an axis that it was not fitted on
        (all others that its axis is of; with "discriminant" or a scaler, up to 19 of
        20), in order of rows; NaN where controls are too few to leave one out: negative
        ones of a batch of fewer than three, with a scaler.
    control_kinds_ : ndarray of shape (n_controls,)
        0 for a negative, 1 for a positive control.
    control_batches_ : ndarray of shape (n_controls,)
        The batch of each control.
    separation_ : DataFrame
        One row a batch: controls ("n_negative", "n_positive"), and how well the
        on-perturbation in ``control_scores_`` separates them: "z_prime", "ssmd",
        "auc", "cohens_d", and "separate", whether that is 0.5 or more.
    negative_, positive_ : object
        The values of ``y`` used.
    n_features_in_ : int
        Length of a row.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    DoseResponseRegressor : The curve of on-perturbation by concentration.
    gandl.profiles.ControlScaler : Centres and scales by the controls of each batch.

    Notes
    -----
    The two scores are those of [1]_. Z' is ``1 - 3 (s0 + s1) / |m1 - m0|`` [2]_, SSMD
    ``(m1 - m0) / sqrt(s0**2 + s1**2)``, Cohen's d ``(m1 - m0) / sqrt((s0**2 + s1**2) /
    2)``, of the scores' means and standard deviations.

    References
    ----------
    .. [1] M. F. Cuccarese et al., "Functional immune mapping with deep-learning
       enabled phenomics applied to immunomodulatory and COVID-19 drug discovery",
       bioRxiv 2020.08.02.233064, 2020.
    .. [2] J.-H. Zhang et al., "A simple statistical parameter for use in evaluation
       and validation of high throughput screening assays", J Biomol Screen 4, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.scoring import PerturbationScorer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 3))
    >>> y = np.repeat(["mock", "infected"], 20)
    >>> X[20:, 0] += 10
    >>> scorer = PerturbationScorer(negative="mock", positive="infected").fit(X, y)
    >>> scorer.transform([[5, 0, 0], [10, 20, 0]]).round(1)
    array([[0.5, 0. ],
           [1. , 2.1]])
    >>> round(float(scorer.separation_.loc["all", "z_prime"]), 1)
    0.3
    """

    _parameter_constraints: ClassVar[dict] = {
        "negative": "no_validation",
        "positive": "no_validation",
        "scaler": [HasMethods(["fit", "transform"]), None],
        "axis": [StrOptions({"mean", "discriminant"})],
        "pooled": ["boolean"],
        "poor_controls": [StrOptions({"warn", "raise", "ignore"})],
    }

    def __init__(
        self,
        *,
        negative: Any = None,
        positive: Any = None,
        scaler: Any = None,
        axis: str = "mean",
        pooled: bool = False,
        poor_controls: str = "warn",
    ) -> None:
        self.negative = negative
        self.positive = positive
        self.scaler = scaler
        self.axis = axis
        self.pooled = pooled
        self.poor_controls = poor_controls

    @whole_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, *, batch: Any = None) -> PerturbationScorer:
        """Learn the axis from the controls; other rows are not looked at.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings or profiles.
        y : array-like of shape (n,)
            What each row is.
        batch : array-like of shape (n,), default=None
            The batch of each row, usually its plate. None: all are of one.

        Returns
        -------
        PerturbationScorer
            Itself, fitted.

        Raises
        ------
        ValueError
            If a batch (if pooled, all of them together) lacks a kind of control, or
            their means are equal; if the scaler is to learn from other rows; with
            ``poor_controls="raise"``, if controls do not separate.
        """
        check_order(X, y=y, batch=batch)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.negative_, self.positive_, kind = kinds_of_controls(
            y, len(X), self.negative, self.positive
        )
        rows = batch_of_rows(batch, len(X))
        chosen = kind >= 0
        X, kind, rows = X[chosen], kind[chosen], rows[chosen]
        y = labels(y)[chosen]
        self.scaler_ = self._fitted_scaler(X, y, rows)
        self.batches_ = sorted_batches(rows)
        of = batch_positions(rows, self.batches_)
        self.control_kinds_, self.control_batches_ = kind, rows
        rows_of = rows_of_each(of, len(self.batches_))
        names = ["all"] if self.pooled else list(self.batches_)
        parts = [np.arange(len(X))] if self.pooled else rows_of
        scaled = _scaled(self.scaler_, X, rows)
        axes = [
            self._axis(scaled[mine], kind[mine], name)
            for name, mine in zip(names, parts, strict=True)
        ]
        self.control_scores_ = self._held_out_scores(
            X, scaled, y, kind, rows, of, parts, axes
        )
        self.origins_, self.directions_, self.weights_ = map(
            np.stack, zip(*axes, strict=True)
        )
        found = []
        for mine in rows_of:
            scores = self.control_scores_[mine, 0]
            on = [scores[kind[mine] == k] for k in (0, 1)]
            counts = {"n_negative": len(on[0]), "n_positive": len(on[1])}
            measured = separation(*on)
            separate = measured["cohens_d"] >= _POOR  # not if it is NaN
            found.append({**counts, **measured, "separate": separate})
        self._separation = {
            name: np.array([row[name] for row in found]) for name in found[0]
        }
        self._tell_poor_controls()
        return self

    def transform(self, X: Any, *, batch: Any = None) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings or profiles, of controls and of anything else.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        ndarray of shape (n, 2)
            On-perturbation and off-perturbation.

        Raises
        ------
        ValueError
            If a batch had no controls in `fit`, unless pooled without a scaler.
        """
        return self._score_rows(X, batch)

    def _score_rows(self, X: Any, batch: Any) -> np.ndarray:
        """Score rows; an array, whatever scikit-learn is set to give out."""
        check_is_fitted(self)
        check_order(X, batch=batch)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        rows = batch_of_rows(batch, len(X))
        X = _scaled(self.scaler_, X, rows)
        if self.pooled:
            position = np.zeros(len(X), dtype=np.intp)
        else:
            position = batch_positions(rows, self.batches_)
        scores = np.empty((len(X), 2))
        axes = zip(self.origins_, self.directions_, self.weights_, strict=True)
        for axis, mine in zip(
            axes, rows_of_each(position, len(self.origins_)), strict=True
        ):
            scores[mine] = scores_along(X[mine], *axis)
        return scores

    def fit_transform(self, X: Any, y: Any, *, batch: Any = None) -> np.ndarray:
        """Learn from the controls among rows, and score all rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings or profiles.
        y : array-like of shape (n,)
            What each row is.
        batch : array-like of shape (n,), default=None
            The batch of each row.

        Returns
        -------
        ndarray of shape (n, 2)
            On-perturbation and off-perturbation; of controls, which the axis was
            fitted on, too optimistic.
        """
        return self.fit(X, y, batch=batch).transform(X, batch=batch)

    def score(self, X: Any, y: Any, *, batch: Any = None) -> float:
        """Compute the Z'-factor of the controls' on-perturbation.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows, best such as `fit` has not seen.
        y : array-like of shape (n,)
            What each row is.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        float
            The Z'-factor, at most 1; minus infinity if the positive controls are not
            above the negative ones, NaN with fewer than two of a kind.
        """
        check_order(X, y=y)
        on = self._score_rows(X, batch)[:, 0]
        *_, kind = kinds_of_controls(y, len(on), self.negative_, self.positive_)
        return separation(on[kind == 0], on[kind == 1])["z_prime"]

    @property
    def separation_(self) -> pd.DataFrame:
        """How well the controls of each batch separate."""
        check_is_fitted(self)
        index = pd.Index(self.batches_, name="batch")
        return pd.DataFrame(self._separation, index=index)

    def _fitted_scaler(self, X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Any:
        if self.scaler is None:
            return None
        kinds = {p.kind for p in signature(self.scaler.fit).parameters.values()}
        takes_all = Parameter.VAR_KEYWORD in kinds
        if not takes_all and not has_fit_parameter(self.scaler, "batch"):
            raise ValueError(
                f"scaler={self.scaler!r} does not take a batch: it is to be a "
                "ControlScaler or TypicalVariationNormalizer; what scales all rows "
                "alike goes before the scorer, in a Pipeline."
            )
        unseen = [
            label
            for label in self._scaling_labels()
            if label not in (self.negative_, self.positive_)
        ]
        if unseen:
            raise ValueError(
                f"The scaler is to learn from rows of y that are {unseen[0]!r}, and is "
                f"given the controls alone, {self.negative_!r} and {self.positive_!r}. "
                "Name these as its control, or scale the rows before the scorer."
            )
        return clone(self.scaler).fit(X, y, batch=rows)

    def _scaling_labels(self) -> list[Any]:
        """Labels of the controls that the scaler learns from: all if it names none."""
        control = getattr(self.scaler, "control", None)
        both = [self.negative_, self.positive_]
        return both if control is None else values_of(control)

    def _axis(
        self, X: np.ndarray, kind: np.ndarray, name: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.bincount(kind, minlength=2)
        if counts.min() == 0:
            raise ValueError(
                f"Batch {name!r} has {counts[0]} negative and {counts[1]} positive "
                "controls, and needs both: leave it out, or join it with another."
            )
        origin = X[kind == 0].mean(axis=0)
        direction = X[kind == 1].mean(axis=0) - origin
        if not direction.any():
            raise ValueError(f"In batch {name!r} both controls have the same mean.")
        weights = direction
        if self.axis == "discriminant":
            if len(X) < 3:
                raise ValueError(
                    f"Batch {name!r} has {counts[0]} negative and {counts[1]} positive "
                    'controls, too few for a discriminant: use axis="mean".'
                )
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            weights = model.fit(X, kind).coef_[0]
        return origin, direction, weights / (weights @ direction)

    def _held_out_scores(
        self,
        X: np.ndarray,
        scaled: np.ndarray,
        y: np.ndarray,
        kind: np.ndarray,
        rows: np.ndarray,
        of: np.ndarray,
        parts: list[np.ndarray],
        axes: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """Of controls, by what was not fitted on them; for any order of rows.

        ``rows`` and ``of`` are their batches and the positions of these, ``parts`` the
        rows that each of the ``axes`` is of.
        """
        scores = np.full((len(X), 2), np.nan)
        if self.scaler is None and self.axis == "mean":
            for mine in parts:
                if np.bincount(kind[mine], minlength=2).min() >= 2:
                    scores[mine] = leave_one_out(X[mine], kind[mine])
            return scores
        fold = self._folds(scaled, kind, of, parts, axes)
        # The scaler of other rows has learned from all batches, whatever their axis.
        for held in range(fold.max() + 1):
            train = fold != held
            scaler = self._fitted_scaler(X[train], y[train], rows[train])
            now = _scaled(scaler, X, rows)
            for mine, whole in zip(parts, axes, strict=True):
                test, seen = mine[~train[mine]], mine[train[mine]]
                if len(test):
                    axis = self._axis(now[seen], kind[seen], "all")
                    unit = float(np.linalg.norm(whole[1]))
                    scores[test] = scores_along(now[test], *axis, unit)
        return scores

    def _folds(
        self,
        scaled: np.ndarray,
        kind: np.ndarray,
        of: np.ndarray,
        parts: Any,
        axes: Any,
    ) -> np.ndarray:
        """Of 20, the one in which each control is held out; -1: in none."""
        # A discriminant needs three rows, and two controls of a kind leave one each; a
        # scaler two of each batch.
        held_out = np.ones(len(kind), dtype=bool)
        if self.scaler is None:
            of = np.zeros_like(of)  # batches are all one
        else:
            by = int(self.negative_ not in self._scaling_labels())
            n_scaling = np.bincount(of[kind == by], minlength=of.max() + 1)
            held_out = (kind != by) | (n_scaling[of] >= 3)
        fold, start = np.full(len(kind), -1), 0
        for mine, axis in zip(parts, axes, strict=True):
            n_folds = min(
                20, np.bincount(kind[mine[held_out[mine]]], minlength=2).min()
            )
            if n_folds < 3:
                continue
            for k in (0, 1):  # dealt out batch by batch, in order of the score
                dealt = mine[held_out[mine] & (kind[mine] == k)]
                on = scores_along(scaled[dealt], *axis)[:, 0]
                dealt = dealt[np.lexsort([on, of[dealt]])]
                fold[dealt] = (start + np.arange(len(dealt)) % n_folds) % 20
            start += n_folds
        return fold

    def _tell_poor_controls(self) -> None:
        poor = ~self.separation_["separate"]
        if not poor.any() or self.poor_controls == "ignore":
            return
        names = ", ".join(str(name) for name in self.batches_[poor.to_numpy()][:5])
        message = (
            f"Controls do not separate, or cannot be judged, in {poor.sum()} of "
            f"{len(poor)} batches: {names}. Do not trust scores there; see separation_."
        )
        if self.poor_controls == "raise":
            raise ValueError(message)
        warn(message)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the scores.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of str
            "on_perturbation" and "off_perturbation".
        """
        check_is_fitted(self)
        return np.array(["on_perturbation", "off_perturbation"], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _scaled(scaler: Any, X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows as a scaler has them, an array whatever scikit-learn is set to give out."""
    return X if scaler is None else np.asarray(scaler.transform(X, batch=rows))
