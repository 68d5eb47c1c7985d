"""Batches (plates) of rows, as estimators of profiles and scores take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def batch_of_rows(batch: Any, n: int) -> np.ndarray:
    """The batch of each of n rows; "all" where none are given."""
    if batch is None:
        return np.full(n, "all", dtype=object)
    rows = np.asarray(batch, dtype=object)
    if rows.shape != (n,):
        raise ValueError(f"batch has shape {rows.shape}, X has {n} rows.")
    missing = np.flatnonzero(pd.isna(rows))
    if len(missing):
        raise ValueError(f"Row {missing[0]} has no batch.")
    return rows


def sorted_batches(rows: np.ndarray) -> np.ndarray:
    """The batches among rows, each once."""
    return np.array(sorted(set(rows), key=str), dtype=object)


def batch_positions(rows: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Index of each row's batch among those that were fitted."""
    known = {name: b for b, name in enumerate(batches)}
    unknown = sorted({str(name) for name in rows if name not in known})
    if unknown:
        raise ValueError(
            f"No controls of batch {', '.join(unknown[:5])} in fit, which saw "
            f"{', '.join(str(name) for name in batches[:5])}. Give fit the controls of "
            "each batch, and the same batches to transform."
        )
    return np.array([known[name] for name in rows])
