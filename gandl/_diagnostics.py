"""How good an embedding is, told without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils import check_consistent_length

_BLOCK = 256  # rows compared with all others at once


def mean_average_precision(embeddings: np.ndarray, groups: Any) -> float:
    """Mean over rows of the average precision of finding the rows of one's group.

    By cosine similarity of standardised embeddings (n, d), each row against all
    others; rows that are alone in their group, or of none (missing), are not asked,
    only found wrongly.
    """
    check_consistent_length(embeddings, groups)
    group = pd.factorize(np.asarray(groups, dtype=object))[0]
    counts = np.bincount(group[group >= 0], minlength=1)
    asked = np.flatnonzero((group >= 0) & (counts[group] > 1))
    if not len(asked):
        raise ValueError("No group has two images: replicates cannot agree.")
    if len(counts) == 1 and (group >= 0).all():
        raise ValueError("All images are of one group: there is none to tell it from.")
    # An array, whatever scikit-learn is set to give out.
    scaler = StandardScaler().set_output(transform="default")
    z = normalize(scaler.fit_transform(embeddings.astype(np.float64)))
    total = 0.0
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        similarity = z[rows] @ z.T
        relevant = group[rows][:, None] == group
        others = np.arange(len(z)) != rows[:, None]  # all but the row itself
        shape = (len(rows), len(z) - 1)
        total += len(rows) * label_ranking_average_precision_score(
            relevant[others].reshape(shape), similarity[others].reshape(shape)
        )
    return total / len(asked)


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Squared Fréchet distance between two clouds (n, d) taken as normal, by d.

    Both are first standardised on the real one (Heusel et al. 2017, in the
    embedding's own space).
    """
    if len(real) < 2:
        raise ValueError("A Fréchet distance takes two images at least, got 1.")
    scaler = StandardScaler().set_output(transform="default")
    scaler.fit(real.astype(np.float64))
    real, generated = scaler.transform(real), scaler.transform(generated)
    # Triangles R with R.T @ R the covariance: the trace of the root of a product of
    # covariances is the sum of the singular values of R1 @ R2.T.
    roots = [
        np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1)
        for x in (real, generated)
    ]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum((root**2).sum() for root in roots)
    shift = ((real.mean(axis=0) - generated.mean(axis=0)) ** 2).sum()
    return float(shift + spread - 2 * overlap) / real.shape[1]
