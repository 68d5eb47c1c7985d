"""Tables and names as compact state: equal content, equal hash.

The state depends on the values alone, never on how a table came about, in which
process, or in how many blocks pandas keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from gandl.images._planes import Planes

PackedTable = tuple[int, tuple[Any, ...], tuple[tuple[str, Any], ...]]


def pack_table(table: pd.DataFrame) -> PackedTable:
    columns = tuple(_pack_column(table[name]) for name in table.columns)
    return len(table), tuple(table.columns), columns


def unpack_table(state: PackedTable) -> pd.DataFrame:
    n_rows, names, columns = state
    values = {n: _unpack_column(c) for n, c in zip(names, columns, strict=True)}
    return pd.DataFrame(values, index=pd.RangeIndex(n_rows))


class Packed:
    """A dataclass of which pickle and hash depend on the values of its fields alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        return _from_fields, (type(self), *map(_pack_field, values))


def _from_fields(cls: type, *state: Any) -> Any:
    return cls(*map(_unpack_field, state))


def _pack_field(value: Any) -> tuple[str, Any]:
    if isinstance(value, np.ndarray) and value.dtype == object:
        # One string is faster to hash and smaller than many; no path holds a NUL.
        return "names", (value.shape, "\0".join(value.ravel()))
    if isinstance(value, np.ndarray):
        return "array", (value.shape, value.flatten())
    if isinstance(value, np.dtype):
        return "dtype", value.str
    if isinstance(value, Planes):
        return "planes", tuple(value)
    return "", value


def _unpack_field(state: tuple[str, Any]) -> Any:
    kind, content = state
    if kind == "names":
        shape, joined = content
        names = joined.split("\0")[: math.prod(shape)]  # "" is one name, or none
        return np.array(names, dtype=object).reshape(shape)
    if kind == "array":
        shape, flat = content
        return flat.reshape(shape)
    if kind == "dtype":
        return np.dtype(content)
    return Planes(*content) if kind == "planes" else content


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
