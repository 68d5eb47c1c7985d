"""Tables and names as compact state: equal content, equal hash.

The state depends on the values alone, never on how a table came about, in which
process, or in how many blocks pandas keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

PackedTable = tuple[int, tuple[Any, ...], tuple[tuple[str, Any], ...]]


def pack_table(table: pd.DataFrame) -> PackedTable:
    columns = tuple(_pack_column(table[name]) for name in table.columns)
    return len(table), tuple(table.columns), columns


def unpack_table(state: PackedTable) -> pd.DataFrame:
    n_rows, names, columns = state
    values = {n: _unpack_column(c) for n, c in zip(names, columns, strict=True)}
    return pd.DataFrame(values, index=pd.RangeIndex(n_rows))


def pack_names(names: np.ndarray) -> tuple[tuple[int, ...], str]:
    # One string is faster to hash and smaller than many; no path holds a NUL.
    return names.shape, "\0".join(names.ravel())


def unpack_names(state: tuple[tuple[int, ...], str]) -> np.ndarray:
    shape, joined = state
    names = np.empty(int(np.prod(shape)), dtype=object)
    names[:] = joined.split("\0")
    return names.reshape(shape)


def _pack_column(column: pd.Series) -> tuple[str, Any]:
    dtype = column.dtype
    if isinstance(dtype, pd.StringDtype):
        codes, values = pd.factorize(column)
        return "string", (str(dtype), codes.astype(np.int32), tuple(values))
    if not isinstance(dtype, np.dtype):
        if not pd.api.types.is_numeric_dtype(dtype):
            return "extension", column.array
        # Arrays with a mask carry caches: their values instead.
        content = tuple(None if value is pd.NA else value for value in column)
        return "nullable", (str(dtype), content)
    if dtype.kind == "O":
        return "object", tuple(_shared(column))
    return "array", column.to_numpy().copy()


def _shared(values: Iterable[Any]) -> Iterator[Any]:
    """Equal values as one object: a pickle tells one from several that are equal."""
    first: dict[Any, Any] = {}
    for value in values:
        try:
            known = None if value != value else value  # of NaN, each differs
            yield first.setdefault((type(value), known), value)
        except (TypeError, ValueError):  # no hash, or several truths
            yield value


def _unpack_column(state: tuple[str, Any]) -> Any:
    kind, content = state
    if kind == "string":
        dtype, codes, values = content
        return pd.array(list(values), dtype=dtype).take(codes, allow_fill=True)
    if kind == "nullable":
        dtype, values = content
        return pd.array(list(values), dtype=dtype)
    if kind == "object":
        return pd.Series(list(content), dtype=object)
    return content
