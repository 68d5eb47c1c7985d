"""Scores of rows by an axis from one control to the other: on it, and off it."""

from __future__ import annotations

import numpy as np


def scores_along(
    X: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    weights: np.ndarray,
    unit: float | None = None,
) -> np.ndarray:
    """On- and off-perturbation (n, 2); one origin for all rows, or one a row.

    ``unit`` is the length that off-perturbation is given in; None: the direction's.
    """
    away = X - origin
    on = (away * weights).sum(axis=-1)
    rest = away - on[:, None] * direction
    length = np.linalg.norm(direction, axis=-1) if unit is None else unit
    off = np.linalg.norm(rest, axis=-1) / length
    return np.stack([on, off], axis=1)


def leave_one_out(X: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Scores of controls, each by the means of all others.

    Noise lengthens the direction, the more so the fewer controls it is of: by its own,
    off-perturbation would be less than that of rows that are no controls.
    """
    counts = np.bincount(kind)
    means = np.stack([X[kind == k].mean(axis=0) for k in (0, 1)])
    others = counts[kind][:, None]
    without = (others * means[kind] - X) / (others - 1)
    negative = (kind == 0)[:, None]
    origin = np.where(negative, without, means[0])
    direction = np.where(negative, means[1], without) - origin
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = direction / (direction**2).sum(axis=1, keepdims=True)
        unit = float(np.linalg.norm(means[1] - means[0]))
        return scores_along(X, origin, direction, weights, unit)
