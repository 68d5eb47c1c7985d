"""What is known of rows: their batch (plate), and which of them are controls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d


def is_permuted(index: pd.Index, of: pd.Index) -> bool:
    """Whether two indexes have the same labels, as often each, in another order."""
    if len(index) != len(of) or index.nlevels != of.nlevels or index.equals(of):
        return False
    # Labels of two types may be the same.
    index, of = index.astype(object), of.astype(object)
    return not index.equals(of) and Counter(index) == Counter(of)


def check_order(X: Any, *, of: str = "X", **columns: Any) -> None:
    """Refuse columns that, by their index, have the rows of X in another order."""
    if not isinstance(X, pd.DataFrame | pd.Series):
        return
    for name, column in columns.items():
        is_pandas = isinstance(column, pd.Series | pd.DataFrame)
        if is_pandas and is_permuted(column.index, X.index):
            remedy = f"otherwise {name}.loc[{of}.index]"
            if not X.index.is_unique:
                remedy = "otherwise sort both alike, by columns that tell rows apart"
            elif X.index.equals(pd.RangeIndex(len(X))):  # may say nothing of an order
                remedy = "otherwise bring it into that order first"
            raise ValueError(
                f"By its index, {name} has the rows of {of} in another order, and rows "
                f"go by position. If they are in that of {of} all the same, pass "
                f"{name}.to_numpy(); {remedy}."
            )


def check_order_of_images(column: pd.Series | pd.DataFrame, n: int, name: str) -> None:
    """Refuse what has, by its index, the rows of a collection in another order."""
    if is_permuted(column.index, pd.RangeIndex(n)):
        raise ValueError(
            f"By its index, {name} has the images in another order, and rows go by "
            f"position: pass {name}.sort_index(), or, if they are in that of the "
            f"images all the same, {name}.reset_index(drop=True)."
        )


def one_a_row(values: Any, n: int, name: str) -> np.ndarray:
    """Values (n,) of rows as objects."""
    rows = np.asarray(values, dtype=object)
    if rows.shape != (n,):
        raise ValueError(f"{name} has shape {rows.shape}, X has {n} rows.")
    return rows


def numbers(values: Any, *, warn: bool = False) -> np.ndarray:
    """Numbers (n,) of rows, missing ones NaN."""
    if isinstance(values, pd.Series) and values.dtype == object:
        values = values.where(values.notna(), np.nan)  # pd.NA is no number
    return column_or_1d(values, dtype=np.float64, warn=warn)


def batch_of_rows(batch: Any, n: int) -> np.ndarray:
    """The batch of each of n rows; "all" where none are given."""
    if batch is None:
        return np.full(n, "all", dtype=object)
    rows = one_a_row(batch, n, "batch")
    missing = np.flatnonzero(pd.isna(rows))
    if len(missing):
        raise ValueError(f"Row {missing[0]} has no batch.")
    return rows


def sorted_batches(rows: np.ndarray) -> np.ndarray:
    """The batches among rows, each once."""
    names = sorted(set(rows), key=str)
    batches = np.empty(len(names), dtype=object)
    batches[:] = names  # tuples, too
    return batches


def batch_positions(rows: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Index of each row's batch among those that were fitted."""
    known = {name: b for b, name in enumerate(batches)}
    # Shown as what they are: 1 is not "1".
    unknown = sorted({repr(name) for name in rows if name not in known})
    if unknown:
        raise ValueError(
            f"No controls of batch {', '.join(unknown[:5])} in fit, which saw "
            f"{', '.join(map(repr, batches[:5]))}. Give fit the controls of "
            "each batch, and the same batches to transform."
        )
    return np.array([known[name] for name in rows])


def check_spelling(rows: np.ndarray, batches: np.ndarray) -> None:
    """Refuse batches that are text where those of fit are numbers, or the reverse."""
    known = set(batches)
    spelled = {str(name): name for name in batches}
    for name in set(rows) - known:
        if str(name) in spelled:
            raise ValueError(
                f"batch has {name!r}, where that of fit has {spelled[str(name)]!r}: "
                "pass the same to both."
            )


def rows_of_each(position: np.ndarray, n: int) -> list[np.ndarray]:
    """The rows at each of n positions, in order, by one sort of all rows."""
    ends = np.cumsum(np.bincount(position, minlength=n))
    return np.split(np.argsort(position, kind="stable"), ends[:-1])


def labels(y: Any) -> np.ndarray:
    """Labels (n,) of rows as objects, missing ones None."""
    y = np.array(y, dtype=object).ravel()
    y[pd.isna(y)] = None
    return y


def kinds_of_controls(
    y: Any, n: int, negative: Any, positive: Any
) -> tuple[Any, Any, np.ndarray]:
    """The values that mark controls, and each row's kind.

    A kind is 0 for a negative control, 1 for a positive one, -1 for all else. Where
    ``negative`` or ``positive`` is None, it is the first or the last value in order
    but the other's.
    """
    if y is None:
        raise ValueError(
            "requires y to be passed, but the target y is None: y marks controls."
        )
    y = labels(y)
    if len(y) != n:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: X has "
            f"{n}, y {len(y)}."
        )
    values = sorted(
        {value for value in y if value is not None},
        key=lambda value: (type(value).__name__, value),
    )
    if len(values) < 2:
        raise ValueError(
            f"y has {len(values)} class, {values}; two kinds of controls are needed."
        )
    if negative is None:
        negative = next(value for value in values if value != positive)
    if positive is None:
        positive = next(value for value in reversed(values) if value != negative)
    if negative == positive:
        raise ValueError(f"negative and positive are both {negative!r}.")
    for name, value in (("negative", negative), ("positive", positive)):
        if value not in values:
            raise ValueError(
                f"No row of y is {name}={value!r}; there are {values[:5]}."
            )
    kind = np.where(y == negative, 0, np.where(y == positive, 1, -1))
    return negative, positive, kind
