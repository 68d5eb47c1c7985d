"""How well two kinds of controls separate."""

from __future__ import annotations

import numpy as np


def separation(negative: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Z', SSMD, AUC and Cohen's d of scores of two kinds of controls.

    NaN where a kind has fewer than two, which have no spread.
    """
    if min(len(negative), len(positive)) < 2:
        return dict.fromkeys(("z_prime", "ssmd", "auc", "cohens_d"), np.nan)
    difference = positive.mean() - negative.mean()
    spread = [part.std(ddof=1) for part in (negative, positive)]
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.hypot(*spread)
        z_prime = 1 - 3 * sum(spread) / difference if difference > 0 else -np.inf
        ssmd = difference / both
    # Negative ones below each positive one, ties by halves; in order, since all pairs
    # of a screen's controls are too many.
    ordered = np.sort(negative)
    below = [np.searchsorted(ordered, positive, side) for side in ("left", "right")]
    auc = np.mean(below) / len(negative)
    return {
        "z_prime": float(z_prime) if np.isfinite(difference) else np.nan,
        "ssmd": float(ssmd),
        "auc": float(auc) if np.isfinite(difference) else np.nan,
        "cohens_d": float(ssmd * np.sqrt(2)),
    }
