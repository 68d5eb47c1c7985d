"""Plate maps: what is in each well, joined to its images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gandl._wells import row_letters, well_position

_USUAL = ("plate", "well", "site")


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a csv or tsv file, all columns as text; only an empty field is missing."""
    name = os.fspath(path).lower().removesuffix(".gz")
    separator = "\t" if name.endswith((".tsv", ".txt")) else ","
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no {os.fspath(path)!r}.")
    try:
        with warnings.catch_warnings():
            # Of fields that no heading is for.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                encoding="utf-8-sig",
                keep_default_na=False,
                na_values=[""],
                index_col=False,
            )
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{os.fspath(path)!r} is no table: a row has more fields than there are "
            "headings. A comma inside a field takes quotation marks around the field."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no table: {error}") from None
    return with_usual_names(table)


def with_usual_names(table: pd.DataFrame) -> pd.DataFrame:
    """Rename "Metadata_Plate" and "Plate" to "plate", well and site alike."""

    def usual(name: str) -> str:
        bare = str(name).strip().removeprefix("Metadata_")
        return bare.lower() if bare.lower() in _USUAL else bare

    renamed = table.rename(columns=usual)
    twice = renamed.columns[renamed.columns.duplicated()]
    if len(twice):
        raise ValueError(f"There are several columns {twice[0]!r}.")
    return renamed


def join_plate_map(
    known: pd.DataFrame, plate_map: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """Add to each row of ``known`` what the plate map says of its well.

    Rows go together by all columns that both have; wells "A1" and "A01" are one. Also
    returned is a well of the map that has no images, and how many more there are.
    """
    if "well" not in plate_map:
        raise ValueError(
            f'The plate map has no column "well"; it has {list(plate_map)}.'
        )
    keys = [name for name in map(str, plate_map) if name in known]
    if "well" not in keys:
        raise ValueError(
            f'The images have no "well" to look up; what is known is {list(known)}.'
        )
    for key in keys:
        without = np.flatnonzero(known[key].isna())
        if len(without):
            raise ValueError(f"Row {without[0]} has no {key} to look up.")
    left, right = (
        table.assign(
            **{key: table[key].astype(str) for key in keys},  # plate 1 is plate "1"
        ).assign(well=[_well(name) for name in table["well"]])
        for table in (known, plate_map)
    )
    twice = np.flatnonzero(right.duplicated(keys))
    if len(twice):
        raise ValueError(
            f"The plate map has {_named(right, keys, twice)} twice: {keys} are the "
            "columns that it shares with the images."
        )
    joined = left.merge(right, on=keys, how="left", indicator="_found")
    lost = np.flatnonzero(joined["_found"] == "left_only")
    if len(lost):
        for key in keys:
            _check_shared(key, left[key], right[key])
        raise ValueError(
            f"The plate map lacks {_named(left, keys, lost)}, which has images: give "
            "it a row, whose other fields may be empty."
        )
    imaged = pd.MultiIndex.from_frame(left[keys])
    unused = np.flatnonzero(~pd.MultiIndex.from_frame(right[keys]).isin(imaged))
    unseen = _named(right, keys, unused) if len(unused) else ""
    return joined.drop(columns="_found"), unseen


def well_kinds(
    wells: pd.DataFrame,
    *,
    control: str,
    negative: str,
    positive: str,
    compound: str,
    concentration: str,
    vehicle: Sequence[str],
) -> pd.DataFrame:
    """Tell controls from treated wells: columns kind, compound and concentration.

    A well is a control if its ``control`` column says so and nothing but a vehicle was
    given to it; where both are one column, if it says so. Of wells with a compound,
    those that the ``control`` column gives another state than the positive controls'
    are "left_out": a compound on healthy cells rescues none.
    """
    for name in (control, compound, concentration):
        if name not in wells:
            raise ValueError(
                f"There is no column {name!r}, but {list(wells)}. It may come from "
                "--plate-map; other names are told by --control, --compound and "
                "--concentration."
            )
    given = wells[compound]
    kind = wells[control].where(wells[control].isin([negative, positive]))
    if control != compound:
        kind = kind.where(given.isna() | given.isin(vehicle))
    for value in (negative, positive):
        if not (kind == value).any():
            found = sorted(set(wells[control].dropna()))[:8]
            remedy = "name its values by --negative and --positive."
            if value in found:
                remedy = (
                    f"controls were given nothing, or one of {list(vehicle)}: name "
                    "others by --vehicle."
                )
            raise ValueError(
                f"No well is a control {value!r} by the column {control!r}, which has "
                f"{found}: {remedy}"
            )
    treated = kind.isna() & given.notna() & ~given.isin(vehicle)
    left_out = pd.Series(False, index=wells.index)
    if control != compound:
        state = wells[control]
        left_out = treated & state.notna() & (state != positive)
        treated &= ~left_out
    for name in wells["well"]:
        well_position(name)  # refuses what is none
    if not treated.any():
        raise ValueError(f"No well is treated by the column {compound!r}.")
    dose = pd.to_numeric(wells[concentration].where(treated), errors="coerce")
    odd = np.flatnonzero(treated & ~(dose >= 0) | np.isinf(dose))
    if len(odd):
        raise ValueError(
            f"{_named(wells, ['plate', 'well'], odd)}, treated with "
            f"{given.iloc[odd[0]]!r}, has the concentration "
            f"{wells[concentration].iloc[odd[0]]!r}: a number from 0 is needed."
        )
    return pd.DataFrame(
        {
            "kind": kind,
            "compound": given.where(treated),
            "concentration": dose,
            "left_out": left_out,
        }
    )


def _well(name: Any) -> str:
    row, column = well_position(name)
    return f"{row_letters(row)}{column + 1:02}"


def _check_shared(key: str, images: pd.Series, plate_map: pd.Series) -> None:
    """Refuse images and a plate map that have no value of a key in common."""
    names, others = set(images), set(plate_map)
    if names.isdisjoint(others):
        raise ValueError(
            f"No {key} of the images, {sorted(names)[:3]}, is in the plate map, which "
            f"has {sorted(others)[:3]}: call them the same. In a pattern, text beside "
            "a field is no part of it, as in Plate{plate}."
        )


def several_images(known: pd.DataFrame) -> tuple[str, list[str]]:
    """One site of a plate that has several images, and the columns they differ in.

    Without a column of sites, it is the wells that have several. ("", []) if none has.
    """
    keys = [name for name in _USUAL if name in known]
    together = known.groupby(keys, sort=False, dropna=False)
    rows = np.flatnonzero(known.duplicated(keys))
    if not len(rows):
        return "", []
    others = known.columns.difference(keys, sort=False)
    differing = together[list(others)].nunique(dropna=False).gt(1).any()
    return _named(known, keys, rows[:1]), [str(c) for c in others[differing]]


def _named(table: pd.DataFrame, keys: list[str], rows: np.ndarray) -> str:
    named = table[keys].iloc[rows].drop_duplicates()  # a well has several images
    values = ", ".join(f"{key} {named[key].iloc[0]}" for key in keys)
    return values + (f" (and {len(named) - 1} more)" if len(named) > 1 else "")
