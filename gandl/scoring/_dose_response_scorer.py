"""DoseResponseScorer: from embeddings of a screen to its table of compounds."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.utils import assert_all_finite, check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import (
    batch_of_rows,
    check_order,
    check_spelling,
    numbers,
    rows_of_each,
)
from gandl._warnings import warn
from gandl._whole_fit import whole_fit
from gandl.scoring._dose_response import DoseResponseRegressor, has_curve
from gandl.scoring._hits import HitCaller, effective_batches
from gandl.scoring._perturbation import PerturbationScorer

# Negative controls of a batch below which their deviations, and with them the scores
# of controls held out, are mostly chance.
FEW = 6
_SEVERAL = 10  # compounds: fewer may well all be hits
_SAME_DOSE = 1e-6  # relative: 0.1 + 0.2 and 0.3 are one concentration


class DoseResponseScorer(BaseEstimator):
    """Score every compound of a screen: curve, EC50, significance and call.

    Composes `PerturbationScorer`, `DoseResponseRegressor` and `HitCaller`, fitted on
    the controls of the screen.

    Parameters
    ----------
    perturbation : PerturbationScorer, default=None
        Scores rows; its ``negative`` and ``positive`` mark the controls. None: with
        its defaults.
    curve : DoseResponseRegressor, default=None
        Fits a compound's on-perturbation by concentration; a curve that its own
        ``alpha`` finds inactive is no hit. None: with its defaults.
    hits : HitCaller, default=None
        Calls a compound at a concentration. None: with its defaults. The controls are
        those of ``perturbation``.
    controls_at_zero : bool, default=True
        Whether the positive (untreated) controls of a compound's batches join its
        curve at concentration zero, by their scores on axes that they were not fitted
        on. They make curves steadier by far, if they lie among the treated wells:
        controls that fill a plate's edge differ by that.
    alpha : float, default=0.05
        False discovery rate at which a compound's curve is taken for active.
    n_jobs : int, default=None
        Processes in which curves are fitted, as joblib has it.

    Attributes
    ----------
    perturbation_, hits_ : PerturbationScorer, HitCaller
        Fitted on the controls.
    n_features_in_ : int
        Length of a row.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame.

    See Also
    --------
    PerturbationScorer, DoseResponseRegressor, HitCaller : Its parts.

    Notes
    -----
    A compound is toxic from the concentration on at which, and at all higher ones, its
    mean off-perturbation is above ``hits``' threshold. They are tested from the highest
    down, each at the full level, as tests in a fixed sequence may be [2]_: of inert
    compounds, about ``hits.quantile`` are called toxic, or fewer, whatever the number
    of concentrations. Its curve is fitted to what lies below: poisoned cells lose the
    signs of infection as well.

    A compound is a hit if that curve falls, with a q-value (Benjamini and Hochberg
    [1]_) below ``alpha``, and its mean at some concentration is a hit by ``hits``,
    whose ``quantile`` the concentrations share; else toxic if it is at any; else
    inactive. A mean over n replicates is called by what means of n further controls
    on as many batches would be.

    A compound with fewer than four concentrations (zero, of controls, is one) or five
    responses has no curve, and no p- and q-value: its means alone decide, as they do
    for about ``hits.quantile`` of inert compounds. In a screen of many at a single
    dose, that is the share of false hits to expect. A compound that has more, but too
    few below its onset of toxicity, is tested there in vain (``p_value`` 1): what
    poisons cells is no hit at the doses just below.

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", J R
       Stat Soc B 57, 1995.
    .. [2] W. Maurer, L. A. Hothorn and W. Lehmacher, "Multiple comparisons in drug
       clinical trials and preclinical assays: a-priori ordered hypotheses", in
       Biometrie in der chemisch-pharmazeutischen Industrie 6, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.scoring import DoseResponseScorer, PerturbationScorer
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["infected"] * 20 + ["mock"] * 20 + ["drug"] * 18)
    >>> dose = np.r_[np.zeros(40), np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 3)]
    >>> X = rng.normal(size=(58, 4))
    >>> X[:, 0] += 10 * (y == "infected")
    >>> X[40:, 0] += 10 / (1 + dose[40:] / 0.1)
    >>> scorer = DoseResponseScorer(
    ...     perturbation=PerturbationScorer(negative="mock", positive="infected")
    ... ).fit(X, y)
    >>> table = scorer.dose_response(X[40:], y[40:], dose[40:])
    >>> table[["compound", "ec50", "call"]].round(1)
      compound  ec50 call
    0     drug   0.1  hit
    """

    _parameter_constraints: ClassVar[dict] = {
        "perturbation": [PerturbationScorer, None],
        "curve": [DoseResponseRegressor, None],
        "hits": [HitCaller, None],
        "controls_at_zero": ["boolean"],
        "alpha": DoseResponseRegressor._parameter_constraints["alpha"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        *,
        perturbation: PerturbationScorer | None = None,
        curve: DoseResponseRegressor | None = None,
        hits: HitCaller | None = None,
        controls_at_zero: bool = True,
        alpha: float = 0.05,
        n_jobs: int | None = None,
    ) -> None:
        self.perturbation = perturbation
        self.curve = curve
        self.hits = hits
        self.controls_at_zero = controls_at_zero
        self.alpha = alpha
        self.n_jobs = n_jobs

    @whole_fit
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, *, batch: Any = None) -> DoseResponseScorer:
        """Learn axis and thresholds from the controls; other rows are not looked at.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings or profiles.
        y : array-like of shape (n,)
            What each row is.
        batch : array-like of shape (n,), default=None
            The batch of each row, for an axis a batch.

        Returns
        -------
        DoseResponseScorer
            Itself, fitted.

        Raises
        ------
        ValueError
            As `PerturbationScorer.fit`; also if no batch has controls enough to leave
            one out.
        """
        validate_data(self, X, dtype=np.float64)
        self.perturbation_ = clone(self.perturbation or PerturbationScorer())
        self.perturbation_.fit(X, y, batch=batch)
        # Thresholds from scores that the axis was not fitted on: those it was fitted
        # on lie nearer to it, the more so the more features there are.
        scores = self.perturbation_.control_scores_
        if np.isnan(scores[:, 0]).all():
            raise ValueError(
                "No batch has controls enough to leave one out: there is nothing to "
                "take thresholds from. Join batches, or give more controls."
            )
        known = ~np.isnan(scores[:, 0])
        self.hits_ = clone(self.hits or HitCaller()).set_params(negative=0, positive=1)
        axis = self.perturbation_
        self.hits_.fit(
            scores[known],
            axis.control_kinds_[known],
            batch=axis.control_batches_[known],
        )
        self._tell_few_controls()
        return self

    def _tell_few_controls(self) -> None:
        axis = self.perturbation_
        if axis.scaler is None or axis.poor_controls == "ignore":
            return
        prior_df = getattr(axis.scaler, "prior_df", 0)
        if told := few_controls(axis.separation_["n_negative"], prior_df):
            warn(told)

    def dose_response(
        self, X: Any, compound: Any, concentration: Any, *, batch: Any = None
    ) -> pd.DataFrame:
        """Score the compounds of treated rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows of treated wells, untreated ones left out.
        compound : array-like of shape (n,)
            The compound of each row.
        concentration : array-like of shape (n,)
            Its concentration, zero or more, in one unit for all; those that agree to
            one in a million are one, the lowest of them.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        DataFrame
            One row a compound, in order of ``q_value``, then of its lowest mean:
            "compound", "call", "ec50", "ec50_low", "ec50_high" (confidence interval),
            "bottom", "top", "slope", "p_value" and "q_value" (NaN with too few
            concentrations or responses for a curve), "toxic_from" (the concentration
            from which on it is toxic, NaN if none), "extrapolated", "non_monotonic",
            "n_rows", and lists by dose: "concentrations", "on", "off" (means),
            "hit_below", "toxic_above" (what these are called by), "calls".

        Raises
        ------
        ValueError
            If a compound is missing, or a concentration is missing or negative.
        """
        check_is_fitted(self)
        check_order(X, compound=compound, concentration=concentration, batch=batch)
        validate_data(self, X, dtype=np.float64, reset=False)
        scores = self.perturbation_._score_rows(X, batch)
        dose = numbers(concentration)
        assert_all_finite(dose, input_name="concentration")
        dose = equal_doses(dose)
        compound = np.asarray(compound, dtype=object)
        if compound.ndim != 1:
            raise ValueError(
                f"compound has shape {compound.shape}: one name a row is expected."
            )
        check_consistent_length(scores, compound, dose)
        negative = np.flatnonzero(dose < 0)
        if len(negative):
            row = negative[0]
            raise ValueError(f"Row {row} has a negative concentration, {dose[row]:g}.")
        missing = np.flatnonzero(pd.isna(compound))
        if len(missing):
            raise ValueError(f"Row {missing[0]} has no compound.")
        position, names = pd.factorize(compound, sort=True)
        rows = rows_of_each(position, len(names))
        of = batch_of_rows(batch, len(scores))
        check_spelling(of, self.perturbation_.batches_)
        judged = [
            self._by_dose(scores[where], dose[where], of[where]) for where in rows
        ]
        fitted = [
            where[of_curve(found["toxic_from"], dose[where])]
            for where, found in zip(rows, judged, strict=True)
        ]
        data = [
            self.curve_data(
                scores[where, 0], dose[where], None if batch is None else of[where]
            )
            for where in fitted
        ]
        curves = Parallel(n_jobs=self.n_jobs)(
            delayed(fit_curve)(self.curve, *points) for points in data
        )
        p_values = np.array([curve.p_value_ for curve in curves])
        # Zero is one of them if controls did join.
        joined = [
            np.append(dose[where], points[0][len(below) :])
            for where, below, points in zip(rows, fitted, data, strict=True)
        ]
        tested = np.array([has_curve(doses) for doses in joined])
        p_values[~tested] = np.nan
        q_values = p_values.copy()
        q_values[tested] = false_discovery_control(p_values[tested])
        table = pd.DataFrame(
            [
                self._row(name, found, curve, p, q)
                for name, found, curve, p, q in zip(
                    names, judged, curves, p_values, q_values, strict=True
                )
            ]
        )
        lowest = np.array([min(found["on"]) for found in judged])
        return table.iloc[np.lexsort([lowest, q_values])].reset_index(drop=True)

    def curve_data(
        self, on: np.ndarray, concentration: np.ndarray, batch: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what a compound's curve is fitted to.

        Parameters
        ----------
        on : ndarray of shape (n,)
            On-perturbation of the compound's rows.
        concentration : ndarray of shape (n,)
            Their concentrations.
        batch : array-like of shape (n,), default=None
            Their batches, as in `fit`; None, or if that had none: of any.

        Returns
        -------
        tuple of ndarray of shape (m,)
            Concentrations and on-perturbation; with ``controls_at_zero``, those of the
            positive controls of the same batches come after the compound's own.
        """
        check_is_fitted(self)
        axis = self.perturbation_
        if not self.controls_at_zero:
            return concentration, on
        known = axis.control_scores_[:, 0]
        joins = (axis.control_kinds_ == 1) & ~np.isnan(known)
        if batch is not None and list(axis.batches_) != ["all"]:
            named = set(batch_of_rows(batch, len(on)))
            # By hash: np.isin sorts all controls, for each compound anew.
            joins &= pd.Series(axis.control_batches_, dtype=object).isin(named)
        return (
            np.append(concentration, np.zeros(joins.sum())),
            np.append(on, known[joins]),
        )

    def _by_dose(
        self, scores: np.ndarray, dose: np.ndarray, of: np.ndarray
    ) -> dict[str, Any]:
        """Means, calls and onset of toxicity; infinity where there is none."""
        doses, position, counts = np.unique(
            dose, return_inverse=True, return_counts=True
        )
        means = np.stack(
            [scores[position == k].mean(axis=0) for k in range(len(doses))]
        )
        n_batches = [effective_batches(of[position == k]) for k in range(len(doses))]
        below, _ = self.hits_.thresholds(counts, len(doses), n_batches)
        _, above = self.hits_.thresholds(counts, n_batches=n_batches)
        elsewhere = means[:, 1] > above
        toxic = np.logical_and.accumulate(elsewhere[::-1])[::-1]
        rescued = (means[:, 0] < below) & ~elsewhere
        calls = np.where(toxic, "toxic", np.where(rescued, "hit", "inactive"))
        return {
            "toxic_from": float(doses[toxic][0]) if toxic.any() else math.inf,
            "n_rows": len(scores),
            "concentrations": doses.tolist(),
            "on": means[:, 0].tolist(),
            "off": means[:, 1].tolist(),
            "hit_below": below.tolist(),
            "toxic_above": above.tolist(),
            "calls": calls.tolist(),
        }

    def _row(
        self,
        name: Any,
        found: dict[str, Any],
        curve: DoseResponseRegressor,
        p_value: float,
        q_value: float,
    ) -> dict[str, Any]:
        onset = found.pop("toxic_from")
        falls = q_value < self.alpha and curve.slope_ < 0
        call = "toxic" if math.isfinite(onset) else "inactive"
        if (falls or np.isnan(q_value)) and "hit" in found["calls"]:
            call = "hit"
        ec50, low, high = curve._ec50_and_ends()
        return {
            "compound": name,
            "call": call,
            "ec50": ec50,
            "ec50_low": low,
            "ec50_high": high,
            "bottom": curve.bottom_,
            "top": curve.top_,
            "slope": curve.slope_,
            "p_value": float(p_value),
            "q_value": float(q_value),
            "toxic_from": onset if math.isfinite(onset) else math.nan,
            "extrapolated": curve.extrapolated_,
            "non_monotonic": curve.non_monotonic_,
            **found,
        }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def many_hits(calls: pd.Series) -> str:
    """What there is to say of a screen in which most compounds are hits."""
    if len(calls) < _SEVERAL or (calls == "hit").mean() <= 0.5:
        return ""
    return (
        "More than half of the compounds are hits. A hit brings wells from the "
        "positive controls, perturbed cells without a compound, to the negative ones; "
        "where the positive control is a reference drug, inert compounds are hits too."
    )


def few_controls(n_negative: pd.Series, prior_df: float) -> str:
    """What there is to say of batches whose negative controls are too few, by count."""
    degrees = n_negative - 1
    borrowed = (degrees.sum() - degrees).clip(upper=prior_df)
    few = [str(name) for name in n_negative.index[degrees + borrowed < FEW - 1]]
    if not few:
        return ""
    remedies = []
    if len(few) < len(n_negative):
        remedies.append("leave these out")
    if len(n_negative) > 1 and prior_df < FEW:
        remedies.append("take ControlScaler(prior_df=6)")
    remedies.append("have more controls")
    more = ", ..." * (len(few) > 5)
    return (
        f"Fewer than {FEW} negative controls in batches: {', '.join(few[:5])}{more}. "
        "Deviations of so few are chance, and the thresholds of all batches are taken "
        "from them too: compounds may be called wrongly, toxic ones inactive above "
        f"all. Remedy: {', or '.join(remedies)}."
    )


def equal_doses(dose: np.ndarray) -> np.ndarray:
    """Concentrations that differ by rounding alone, as one."""
    values, position = np.unique(dose, return_inverse=True)
    new = np.append(True, values[1:] > values[:-1] * (1 + _SAME_DOSE))[: len(values)]
    return values[new][np.cumsum(new) - 1][position]


def of_curve(toxic_from: float, dose: np.ndarray) -> np.ndarray:
    """Which of a compound's rows its curve is fitted to: the lowest dose at least."""
    return ~(dose >= toxic_from) | (dose == dose.min())


def fit_curve(
    curve: DoseResponseRegressor | None, dose: np.ndarray, response: np.ndarray
) -> DoseResponseRegressor:
    return clone(curve or DoseResponseRegressor()).fit(dose[:, None], response)
