"""PerturbationDisplay: how far from healthy, against how far from anything known."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from gandl._row_labels import check_order, labels
from gandl.plotting._style import (
    BLACK,
    BLUE,
    GREY,
    NEGATIVE,
    ORANGE,
    POSITIVE,
    in_legend,
    new_axes,
    plain,
    shortened,
)
from gandl.scoring import DoseResponseScorer, PerturbationScorer

_CALLS = {"inactive": GREY, "toxic": ORANGE, "hit": BLUE}
_MARKERS = {"inactive": "o", "toxic": "X", "hit": "D"}


class PerturbationDisplay:
    """On- against off-perturbation: controls as ellipses, hits named.

    Made by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    scores : array-like of shape (n, 2)
        On- and off-perturbation of treated rows.
    controls : dict of str to array-like of shape (k, 2)
        Scores of the negative, then of the positive controls, by their names.
    names : array-like of shape (n,), default=None
        The name of each row, written beside hits.
    calls : array-like of shape (n,), default=None
        "hit", "toxic" or "inactive"; None: all rows look alike.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes drawn on.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    gandl.scoring.PerturbationScorer : Where the scores come from.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.plotting import PerturbationDisplay
    >>> rng = np.random.default_rng(0)
    >>> controls = {
    ...     "mock": rng.normal([0, 0.3], 0.1, size=(20, 2)),
    ...     "infected": rng.normal([1, 0.3], 0.1, size=(20, 2)),
    ... }
    >>> display = PerturbationDisplay.from_predictions(
    ...     [[0.1, 0.3], [1.0, 0.4]],
    ...     controls,
    ...     names=["remdesivir", "inert"],
    ...     calls=["hit", "inactive"],
    ... )
    >>> [text.get_text() for text in display.ax_.texts]
    ['remdesivir']
    """

    def __init__(
        self, *, scores: Any, controls: dict[str, Any], names: Any, calls: Any
    ) -> None:
        self.scores = scores
        self.controls = controls
        self.names = names
        self.calls = calls

    @classmethod
    def from_estimator(
        cls,
        estimator: PerturbationScorer | DoseResponseScorer,
        X: Any,
        names: Any = None,
        *,
        batch: Any = None,
        ax: Any = None,
    ) -> PerturbationDisplay:
        """Score treated rows and draw them beside the controls of ``fit``.

        Controls are drawn by `PerturbationScorer.control_scores_`, of axes that they
        were not fitted on; those that could not be judged are left out.

        Parameters
        ----------
        estimator : PerturbationScorer or DoseResponseScorer
            Fitted. The latter also calls rows hit, toxic or inactive.
        X : array-like of shape (n, n_features)
            Embeddings or profiles of treated rows.
        names : array-like of shape (n,), default=None
            The name of each row, usually its compound.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in its ``fit``.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        PerturbationDisplay
            Drawn.
        """
        check_is_fitted(estimator)
        calls, scorer = None, estimator
        if isinstance(estimator, DoseResponseScorer):
            scorer = estimator.perturbation_
        check_order(X, names=names, batch=batch)
        scores = scorer._score_rows(X, batch)
        if isinstance(estimator, DoseResponseScorer):
            calls = estimator.hits_.call(scores)
        return cls.from_predictions(
            scores, judged_controls(scorer), names=names, calls=calls, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        scores: Any,
        controls: dict[str, Any],
        *,
        names: Any = None,
        calls: Any = None,
        ax: Any = None,
    ) -> PerturbationDisplay:
        """Draw scores.

        Parameters
        ----------
        scores : array-like of shape (n, 2)
            On- and off-perturbation of treated rows.
        controls : dict of str to array-like of shape (k, 2)
            Scores of the negative, then of the positive controls, by their names.
        names : array-like of shape (n,), default=None
            The name of each row, written beside hits.
        calls : array-like of shape (n,), default=None
            "hit", "toxic" or "inactive"; None: all rows look alike.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        PerturbationDisplay
            Drawn.

        Raises
        ------
        ValueError
            If lengths differ, a call is another word, or controls are not of two kinds.
        """
        check_consistent_length(scores, names, calls)
        check_order(scores, of="scores", names=names, calls=calls)
        if len(controls) != 2:
            raise ValueError(
                "controls are the negative and the positive ones, got "
                f"{list(controls)}."
            )
        unknown = set() if calls is None else set(calls) - set(_CALLS)
        if unknown:
            raise ValueError(
                f"calls are among {sorted(_CALLS)}, got {sorted(map(str, unknown))}."
            )
        display = cls(scores=scores, controls=controls, names=names, calls=calls)
        return display.plot(ax=ax)

    def plot(self, *, n_names: int = 20, ax: Any = None) -> PerturbationDisplay:
        """Draw.

        Parameters
        ----------
        n_names : int, default=20
            How many hits are named at most, those of the lowest on-perturbation first,
            each name once; those that would stand above the axes are not.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        PerturbationDisplay
            Itself.
        """
        self.figure_, self.ax_ = new_axes(ax, figsize=(7, 4))
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1, 2)
        calls = np.asarray(
            ["inactive"] * len(scores) if self.calls is None else self.calls
        )
        for call, colour in _CALLS.items():
            rows = scores[calls == call]
            if len(rows):
                label = "treated" if self.calls is None else call
                self.ax_.scatter(
                    *rows.T,
                    s=22,
                    color=colour,
                    marker=_MARKERS[call],
                    linewidths=0,
                    alpha=0.8,
                    label=label,
                )
        for colour, (name, control) in zip(
            (NEGATIVE, POSITIVE), self.controls.items(), strict=True
        ):
            self._draw_controls(name, np.asarray(control), colour)
        self.ax_.set(xlabel="on-perturbation", ylabel="off-perturbation")
        self.ax_.legend(
            fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
        )
        if self.names is not None:
            # The legend moves what is named. Of a subfigure, the whole is drawn.
            self.figure_.figure.draw_without_rendering()
            self._name_hits(scores, calls == "hit", n_names)
        return self

    def _draw_controls(self, name: str, scores: np.ndarray, colour: str) -> None:
        from matplotlib.patches import Ellipse

        few = len(scores) < 3  # for an ellipse
        label = in_legend(name) if few else None
        style = {"s": 8, "color": colour, "alpha": 0.35, "linewidths": 0}
        self.ax_.scatter(*scores.T, label=label, **style)
        if few:
            return
        values, vectors = np.linalg.eigh(np.cov(scores.T))
        width, height = 2 * np.sqrt(chi2.ppf(0.95, 2) * np.maximum(values, 0))
        angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        self.ax_.add_patch(
            Ellipse(
                scores.mean(axis=0),
                width,
                height,
                angle=angle,
                edgecolor=colour,
                facecolor="none",
                lw=2,
                label=in_legend(f"{name}, 95 % ellipse"),
            )
        )

    def _name_hits(self, scores: np.ndarray, is_hit: np.ndarray, n_names: int) -> None:
        names, rows = labels(self.names), np.flatnonzero(is_hit)
        named: set[Any] = set()
        taken: list[Any] = []
        for row in rows[np.argsort(scores[rows, 0])]:
            if names[row] is None or names[row] in named or len(named) == n_names:
                continue
            named.add(names[row])
            height = 3
            label = self.ax_.annotate(
                plain(shortened(names[row])),
                scores[row],
                xytext=(4, height),
                textcoords="offset points",
                fontsize="small",
                color=BLACK,
            )
            label.set_in_layout(False)  # or the axes would make room
            # Up, until it stands on no other name.
            while any(label.get_window_extent().overlaps(other) for other in taken):
                height += 10
                label.xyann = (4, height)
            if label.get_window_extent().y1 > self.ax_.bbox.y1:
                label.remove()  # there is no room
                continue
            taken.append(label.get_window_extent())
            if height > 3:
                line = self.ax_.annotate(
                    "",
                    scores[row],
                    xytext=(4, height),
                    textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "lw": 0.5, "shrinkA": 0},
                )
                line.set_in_layout(False)


def judged_controls(scorer: PerturbationScorer) -> dict[str, np.ndarray]:
    """Scores of the negative, then of the positive controls that could be judged."""
    judged = ~np.isnan(scorer.control_scores_[:, 0])
    return {
        str(name): scorer.control_scores_[judged & (scorer.control_kinds_ == kind)]
        for kind, name in enumerate([scorer.negative_, scorer.positive_])
    }
