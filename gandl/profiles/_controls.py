"""Which rows are controls, and what those of each batch have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import (
    batch_of_rows,
    batch_positions,
    check_order,
    labels,
    rows_of_each,
    sorted_batches,
)
from gandl._warnings import warn


class OnControls(TransformerMixin):
    """What transformers have in common that learn from the controls of each batch."""

    control: Any
    batches_: np.ndarray

    def _controls(
        self, X: Any, y: Any, batch: Any
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The controls (n, d) among rows, their batches' numbers, and them by batch."""
        check_order(X, y=y, batch=batch)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        rows = batch_of_rows(batch, len(X))
        chosen = is_control(self.control, y, len(X))
        self.batches_ = sorted_batches(rows)
        X, position = X[chosen], batch_positions(rows, self.batches_)[chosen]
        counts = np.bincount(position, minlength=len(self.batches_))
        if counts.min() < 2:
            raise ValueError(
                f"Batch {self.batches_[counts.argmin()]!r} has {counts.min()} controls;"
                " centring and scaling it takes two at least. Leave it out, or join it "
                "with another."
            )
        parts = [X[mine] for mine in rows_of_each(position, len(counts))]
        return X, position, parts

    def _by_batch(self, X: Any, batch: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        """Rows (n, d) to transform, and which of them are of each batch."""
        check_is_fitted(self)
        check_order(X, batch=batch)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        position = batch_positions(batch_of_rows(batch, len(X)), self.batches_)
        return X, rows_of_each(position, len(self.batches_))

    def fit_transform(self, X: Any, y: Any = None, *, batch: Any = None) -> np.ndarray:
        """Learn from the controls among rows, and transform all rows.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Embeddings, as in `fit`.
        y : array-like of shape (n,), default=None
            What each row is, as in `fit`.
        batch : array-like of shape (n,), default=None
            The batch of each row, as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_features) or (n, n_components_), float64
            The rows, transformed.
        """
        return self.fit(X, y, batch=batch).transform(X, batch=batch)


def values_of(control: Any) -> list[Any]:
    """The labels of controls, where ``control`` is one label or several."""
    several = list(control) if isinstance(control, set | frozenset) else control
    return np.atleast_1d(np.asarray(several, dtype=object)).tolist()


def is_control(control: Any, y: Any, n: int) -> np.ndarray:
    """Mask (n,) of the rows whose label is ``control`` or in it; None: all."""
    if control is None:
        return np.ones(n, dtype=bool)
    if y is None:
        raise ValueError(f"control={control!r} needs y, which says what each row is.")
    wanted = values_of(control)
    known = labels(y)
    if len(known) != n:
        raise ValueError(f"y has {len(known)} values, X has {n} rows.")
    chosen = np.isin(known, np.array(wanted, dtype=object))
    if not chosen.any():
        raise ValueError(f"No row of y is {control!r}.")
    for name in wanted if len(wanted) > 1 else ():
        if not (known == name).any():
            warn(f"No row of y is {name!r}, of control={control!r}.")
    return chosen


def scale_or_one(spread: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What to divide by: the spread, or 1 where it is but a constant's rounding."""
    return np.where(spread > 1e-12 * np.abs(centre), spread, 1.0)
