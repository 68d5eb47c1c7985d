"""Which rows are controls, and what those of each batch have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from gandl._row_labels import labels, rows_of_each
from gandl._warnings import warn


def is_control(control: Any, y: Any, n: int) -> np.ndarray:
    """Mask (n,) of the rows whose label is ``control`` or in it; None: all."""
    if control is None:
        return np.ones(n, dtype=bool)
    if y is None:
        raise ValueError(f"control={control!r} needs y, which says what each row is.")
    several = list(control) if isinstance(control, set | frozenset) else control
    wanted = np.atleast_1d(np.asarray(several, dtype=object))
    known = labels(y)
    if len(known) != n:
        raise ValueError(f"y has {len(known)} values, X has {n} rows.")
    chosen = np.isin(known, wanted)
    if not chosen.any():
        raise ValueError(f"No row of y is {control!r}.")
    for name in wanted if len(wanted) > 1 else ():
        if not (known == name).any():
            warn(f"No row of y is {name!r}, of control={control!r}.")
    return chosen


def split_controls(
    X: np.ndarray, position: np.ndarray, batches: np.ndarray
) -> list[np.ndarray]:
    """The controls X (n, d) of each batch, two at least; ``position`` is its index."""
    counts = np.bincount(position, minlength=len(batches))
    if counts.min() < 2:
        raise ValueError(
            f"Batch {batches[counts.argmin()]!r} has {counts.min()} controls; centring "
            "and scaling it takes two at least. Leave it out, or join it with another."
        )
    return [X[rows] for rows in rows_of_each(position, len(batches))]


def scale_or_one(spread: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What to divide by: the spread, or 1 where it is but a constant's rounding."""
    return np.where(spread > 1e-12 * np.abs(centre), spread, 1.0)
