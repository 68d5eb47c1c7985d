"""Profiles as tables: features beside ``Metadata_`` columns, aggregated and stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gandl._extras import needed
from gandl._files import whole_file
from gandl._row_labels import check_order
from gandl._tables import (
    DAMAGE,
    as_pandas,
    is_of_disk,
    no_table,
    read_text,
    refuse_twice,
    separator,
    with_index,
)

_METADATA = "Metadata_"
# As pycytominer looks for them.
_SPELLING = {"plate": "Plate", "well": "Well", "site": "Site"}
_N_ROWS = _METADATA + "n_rows"
_SUFFIXES = (".parquet", ".csv", ".csv.gz")


def make_profiles(
    X: Any, metadata: pd.DataFrame, *, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Set embeddings beside what is known of their rows, as pycytominer has it.

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        Embeddings.
    metadata : DataFrame of n rows
        What is known of each row, in the same order: its plate, well, compound.
    names : sequence of str, default=None
        Names of the features, ``featurizer.get_feature_names_out()`` say. None: X's
        columns if it is a DataFrame, else "feature_0" and so on.

    Returns
    -------
    DataFrame of n rows
        Columns of ``metadata``, their names after "Metadata_" (plate, well and site
        as "Metadata_Plate", "Metadata_Well" and "Metadata_Site"), then the features.

    Raises
    ------
    ValueError
        If lengths differ, or a name occurs twice or is that of metadata.

    Examples
    --------
    >>> import pandas as pd
    >>> from gandl.profiles import make_profiles
    >>> metadata = pd.DataFrame({"plate": ["P1", "P1"], "compound": ["DMSO", "taxol"]})
    >>> make_profiles([[0.5], [2.0]], metadata)
      Metadata_Plate Metadata_compound  feature_0
    0             P1              DMSO        0.5
    1             P1             taxol        2.0
    """
    X, metadata = as_pandas(X), as_pandas(metadata)
    if isinstance(metadata, pd.Series):
        metadata = metadata.to_frame()
    check_order(X, metadata=metadata)
    if names is None and isinstance(X, pd.DataFrame):
        names = list(X.columns)
    names = None if names is None else list(map(str, names))
    mistaken = [name for name in names or () if name.startswith(_METADATA)]
    if mistaken:
        raise ValueError(f"{mistaken[0]!r} is a name of metadata, not of a feature.")
    values = np.asarray(X)
    if isinstance(X, pd.DataFrame) and values.dtype == object:  # of nullable types
        values = X.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.ndim != 2:
        raise ValueError(f"X has shape {values.shape}; a row a profile is expected.")
    if len(values) != len(metadata):
        raise ValueError(f"X has {len(values)} rows, metadata {len(metadata)}.")
    if names is None:
        names = [f"feature_{k}" for k in range(values.shape[1])]
    if len(names) != values.shape[1]:
        raise ValueError(f"X has {values.shape[1]} columns, but {len(names)} names.")
    known = with_index(_spelled(metadata.rename(columns=_metadata_name)))
    features = pd.DataFrame(values, columns=names)
    profiles = pd.concat([known.reset_index(drop=True), features], axis=1)
    twice = profiles.columns[profiles.columns.duplicated()]
    if len(twice):
        raise ValueError(f"The column {twice[0]!r} would be there twice.")
    return profiles


def feature_columns(profiles: pd.DataFrame) -> list[str]:
    """Return the names of the features: of all columns but "Metadata_" ones.

    Parameters
    ----------
    profiles : DataFrame
        Profiles.

    Returns
    -------
    list of str
        The names, in order.

    Raises
    ------
    ValueError
        If there is none, one of them is not numeric, or a name is not text or is there
        twice.

    Examples
    --------
    >>> import pandas as pd
    >>> from gandl.profiles import feature_columns
    >>> feature_columns(pd.DataFrame({"Metadata_Well": ["A01"], "area": [1.0]}))
    ['area']
    """
    for name in profiles:
        if not isinstance(name, str):
            raise ValueError(
                f"The column {name!r} has no text for a name: make_profiles gives "
                "features names, or profiles.columns.map(str) does."
            )
    refuse_twice(profiles)
    names = [name for name in map(str, profiles) if not name.startswith(_METADATA)]
    for name in names:
        if not pd.api.types.is_numeric_dtype(profiles[name]):
            raise ValueError(
                f"The column {name!r} is not numeric: to be carried along, its name "
                f'is to start with "{_METADATA}".'
            )
    if not names:
        raise ValueError(f'There is no feature: all columns start with "{_METADATA}".')
    return names


def aggregate(
    profiles: pd.DataFrame, by: str | Sequence[str], *, how: str = "mean"
) -> pd.DataFrame:
    """Average profiles: images to sites, sites to wells, wells to treatments.

    Each row of a group counts alike: averaged over wells, a well of few sites weighs
    as much as one of many.

    Parameters
    ----------
    profiles : DataFrame
        Profiles, features beside "Metadata_" columns.
    by : str or sequence of str
        Columns whose values make a group: ``["plate", "well"]``, with or without
        "Metadata_".
    how : {"mean", "median"}, default="mean"
        The average of each feature.

    Returns
    -------
    DataFrame
        One row a group, in order of first appearance: those columns, every other
        metadata column that has one value in each group, "Metadata_n_rows" (rows
        averaged), and the features.

    Raises
    ------
    ValueError
        If a column is not there, a row has no value in it, or a feature is missing or
        infinite in a row.

    Examples
    --------
    >>> import pandas as pd
    >>> from gandl.profiles import aggregate
    >>> sites = pd.DataFrame(
    ...     {
    ...         "Metadata_Well": ["A01", "A01", "A02"],
    ...         "Metadata_Site": ["1", "2", "1"],
    ...         "Metadata_compound": ["DMSO", "DMSO", "taxol"],
    ...         "feature_0": [1.0, 2.0, 5.0],
    ...     }
    ... )
    >>> aggregate(sites, "well")
      Metadata_Well Metadata_compound  Metadata_n_rows  feature_0
    0           A01              DMSO                2        1.5
    1           A02             taxol                1        5.0
    """
    if how not in ("mean", "median"):
        raise ValueError(f'how is "mean" or "median", got {how!r}.')
    profiles = with_index(as_pandas(profiles), _METADATA)
    features = feature_columns(profiles)
    keys = [_column(profiles, name) for name in ([by] if isinstance(by, str) else by)]
    if not keys:
        raise ValueError("by names no column.")
    profiles = profiles.reset_index(drop=True)
    for name in keys:
        missing = np.flatnonzero(profiles[name].isna())
        if len(missing):
            raise ValueError(f"Row {missing[0]} has no {name!r}.")
    _check_numbers(profiles, features)
    grouped = profiles.groupby(keys, sort=False, observed=True)
    # Not .first(), which takes the first that is not missing.
    first, group = ~profiles.duplicated(keys), grouped.ngroup()

    def has_one_value_in_each(name: str) -> bool:
        column = profiles[name]
        try:
            values, _ = pd.factorize(column)
        except TypeError:  # lists, of targets say
            values, _ = pd.factorize(column.map(_hashable))
        return bool((values == values[first][group]).all())

    others = [
        name
        for name in map(str, profiles)
        if name not in {*keys, *features, _N_ROWS} and has_one_value_in_each(name)
    ]
    known = profiles[first].set_index(keys)[others]
    averages = grouped[features].agg(how)
    count = grouped.size().rename(_N_ROWS)
    return known.join(count).join(averages).reset_index()


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | np.ndarray) else value


def _check_numbers(profiles: pd.DataFrame, names: Sequence[str]) -> None:
    odd = {}  # rows without a number, a column at a time: all together are many
    for name in names:
        values = profiles[name].to_numpy(dtype=float, na_value=np.nan)
        if len(rows := np.flatnonzero(~np.isfinite(values))):
            odd[name] = rows, values[rows]
    if not odd:
        return
    (name, (rows, [value, *_])), *more = odd.items()
    others = ""
    if more:
        is_missing = np.isnan(np.concatenate([values for _, (_, values) in more]))
        kind = "Missing" if is_missing.all() else "Missing or infinite"
        kind = kind if is_missing.any() else "Infinite"
        others = f" {kind} too in: {', '.join(other for other, _ in more[:5])}."
    if len(more) > 5:
        others = f"{others[:-1]} and {len(more) - 5} more."
    if len(rows) == len(profiles):
        raise ValueError(
            f"No row has a number in {name!r}: leave that column out.{others}"
        )
    has = "no" if np.isnan(value) else f"{value} in"
    raise ValueError(
        f"Row {rows[0]} has {has} {name!r}: leave out that column or the rows that "
        f"have no number there, {len(rows)} of {len(profiles)}.{others}"
    )


def _spelled(table: pd.DataFrame) -> pd.DataFrame:
    """Names of the index as those of metadata."""
    names = [None if n is None else _metadata_name(n) for n in table.index.names]
    return table.set_axis(table.index.set_names(names))


def write_profiles(
    profiles: pd.DataFrame, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Store profiles as parquet or csv.

    Parameters
    ----------
    profiles : DataFrame
        Profiles.
    path : str or path
        The file: ".parquet", ".csv" or ".csv.gz". Written under another name first, so
        that it is whole or not there.
    overwrite : bool, default=False
        Whether a file that exists may be replaced.

    Raises
    ------
    ValueError
        If the name ends otherwise, or is that of a folder; if the index has names that
        do not begin with "Metadata_" (those that do are written as columns).
    FileExistsError
        If the file exists.
    ImportError
        If parquet is to be written without pyarrow, the extra "profiles".

    See Also
    --------
    read_profiles : Reads them back.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from gandl.profiles import read_profiles, write_profiles
    >>> profiles = pd.DataFrame({"Metadata_Plate": ["007"], "feature_0": [0.5]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_profiles(profiles, f"{folder}/wells.csv")
    ...     read_profiles(f"{folder}/wells.csv")
      Metadata_Plate  feature_0
    0            007        0.5
    """
    final, suffix = Path(path), check_writable(path)
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{str(final)!r} exists: name another file, or pass overwrite=True."
        )
    profiles = with_index(profiles, _METADATA)
    lost = [n for n in profiles.index.names if n is not None and n not in profiles]
    if lost:
        raise ValueError(
            f"The index has {lost[0]!r}, which a file of profiles has no place for: "
            f'profiles.reset_index(), and let its name begin with "{_METADATA}", or '
            "profiles.reset_index(drop=True)."
        )
    with whole_file(final) as part:
        if suffix == ".parquet":
            profiles.to_parquet(part, index=False)
        else:
            profiles.to_csv(part, index=False)


def check_writable(path: str | os.PathLike[str]) -> str:
    """How the name of a file of profiles ends; an error if none can be written so."""
    suffix = _suffix(path)
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)!r} is a folder: name a file.")
    if suffix == ".parquet":
        check_pyarrow()
    return suffix


def read_profiles(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read profiles from parquet or csv.

    Parameters
    ----------
    path : str or path
        The file: ".parquet", ".csv" or ".csv.gz"; or the folder that
        `gandl.embed_to_parquet` has filled.

    Returns
    -------
    DataFrame
        The profiles. A csv file does not say what is a number: its "Metadata_"
        columns are text, so that plate 007 stays what it is.

    Raises
    ------
    ValueError
        If the name ends otherwise, a feature is not numeric, or a column of a csv file
        has no name.
        If partitions of a folder are not there yet.
    FileNotFoundError
        If there is no such file.
    ImportError
        If parquet is to be read without pyarrow, the extra "profiles".

    See Also
    --------
    write_profiles : Stores them.
    gandl.embed_to_parquet : Stores embeddings of many images as they are computed.

    Examples
    --------
    >>> from gandl.profiles import read_profiles
    >>> read_profiles("wells.xlsx")
    Traceback (most recent call last):
    ...
    ValueError: 'wells.xlsx' does not end in .parquet, .csv or .csv.gz.
    """
    if Path(path).is_dir():
        from gandl.profiles._partitioned import read_partitions

        profiles = read_partitions(Path(path))
    elif "://" not in os.fspath(path) and _suffix(path) and not Path(path).exists():
        raise FileNotFoundError(f"There is no {os.fspath(path)!r}.")
    elif _suffix(path) == ".parquet":
        check_pyarrow()
        try:
            profiles = pd.read_parquet(path, partitioning=None)  # not of its folders
        except (OSError, ValueError) as error:
            if is_of_disk(error):
                raise
            raise no_table(path, error) from None
        profiles = with_index(_spelled(profiles))
    else:
        separated = separator(path)
        try:
            columns = pd.read_csv(path, nrows=0, sep=separated).columns
        except (pd.errors.ParserError, pd.errors.EmptyDataError, *DAMAGE) as error:
            raise no_table(path, error) from None
        unnamed = [k for k, n in enumerate(columns) if n.startswith("Unnamed: ")]
        if unnamed:
            index = ", as an index that pandas writes has none" * (unnamed[0] == 0)
            raise ValueError(
                f"{os.fspath(path)!r}: column {unnamed[0] + 1} has no name{index}: it "
                "would be taken for a feature. Name it, or write the table without it "
                "(index=False)."
            )
        text = {name: str for name in columns if name.startswith(_METADATA)}
        # "NA" and "None" are names of compounds too, and no numbers.
        missing = {n: [""] if n in text else ["", "NA", "NaN", "nan"] for n in columns}
        how: Any = {"dtype": text, "na_values": missing, "keep_default_na": False}
        how["float_precision"] = "round_trip"
        profiles = read_text(path, **how)
        if separated == ";" and profiles.select_dtypes("number").shape[1] == 0:
            profiles = read_text(path, decimal=",", **how)
    try:
        feature_columns(profiles)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from None
    return profiles


def _metadata_name(name: Any) -> str:
    bare = str(name).removeprefix(_METADATA)
    return _METADATA + _SPELLING.get(bare, bare)


def _column(profiles: pd.DataFrame, name: str) -> str:
    for candidate in (name, _METADATA + name, _metadata_name(name)):
        if candidate in profiles and candidate.startswith(_METADATA):
            return candidate
    known = [column for column in profiles if str(column).startswith(_METADATA)]
    raise ValueError(f"There is no metadata column {name!r}, but {known}.")


def _suffix(path: str | os.PathLike[str]) -> str:
    name = Path(path).name.lower()
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise ValueError(f"{os.fspath(path)!r} does not end in .parquet, .csv or .csv.gz.")


def check_pyarrow() -> None:
    with needed('parquet needs pyarrow: pip install "gandl[profiles]", or use ".csv".'):
        import pyarrow  # noqa: F401
