"""Plate maps: what is in each well, joined to its images."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

from gandl._plate_grid import Rows, find_grids, join_grids, read_cells
from gandl._tables import (
    USUAL,
    composed,
    no_column,
    read_table,
    separator,
    with_usual_names,
)
from gandl._wells import well_name, well_position

_THOUSANDS = r"[1-9]\d{0,2}(\.\d{3})+"  # of a number


def read_plate_map(
    path: str | os.PathLike[str], *, sheet: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Read what is in each well of one or several plates.

    Parameters
    ----------
    path : str or path-like
        A csv, tsv (both also .gz), xlsx or parquet file, of one of two forms:

        - A table with a column "well" (or "well_position"), and "plate" where plates
          differ: one row a well.
        - Grids that look like the plate, 8 x 12, 16 x 24 or 32 x 48: letters down,
          numbers across, and in the corner, or in a line of its own above, a title,
          which becomes a column. Several stand one below the other. A line with
          "plate" and its name begins another plate.

        The sheets of a workbook are read alike. A grid without a title has that of its
        sheet. Where several sheets are tables without a column "plate", or have grids
        of the same title and no plates, each sheet is a plate.
    sheet : str or sequence of str, default=None
        The sheets of a workbook to read; None: all that are not empty.

    Returns
    -------
    DataFrame
        One row a well, all columns text, empty fields missing. Wells of grids are
        called A01; those of tables as they are.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no table, or not to be understood in one way alone: a grid of
        another size, without or of the same title, or with text around it.
    ImportError
        If reading it needs a package that is not installed.

    See Also
    --------
    ImageCollection.with_plate_map : Join it to images.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> from gandl.images import read_plate_map
    >>> rows = ["compound," + ",".join(str(k + 1) for k in range(12))]
    >>> rows += [letter + ",DMSO,aspirin" + "," * 10 for letter in "ABCDEFGH"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "map.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("\\n".join(rows))
    ...     plate_map = read_plate_map(path)
    >>> plate_map.head(3)
      well compound
    0  A01     DMSO
    1  A02  aspirin
    2  A03     None
    """
    name = os.fsdecode(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no {name!r}.")
    if name.lower().endswith((".xls", ".ods", ".numbers")):
        raise ValueError(f"{name!r}: save it as xlsx or csv.")
    if name.lower().endswith(".parquet"):
        return _table(path)
    titles = [sheet] if isinstance(sheet, str) else sheet
    titles = None if titles is None else list(titles)
    sheets = _chosen(name, read_cells(path, titles), titles)
    grids = {
        title: find_grids(rows, f"{name!r}{title and f', sheet {title!r},'}", title)
        for title, rows in sheets.items()
    }
    if all(grids.values()):
        return with_usual_names(composed(join_grids(grids)))
    if "" in sheets:  # not a workbook
        return _table(path)
    for title, found in grids.items():
        if found:
            raise ValueError(
                f"{name!r}: sheet {title!r} has grids, others have not. Choose sheets "
                "of one form by `sheet`."
            )
    tables = {title: _long_sheet(name, title, rows) for title, rows in sheets.items()}
    return composed(_join_sheets(tables))


def _table(path: str | os.PathLike[str]) -> pd.DataFrame:
    try:
        table = composed(_with_well(read_table(path)))
        if not os.fsdecode(path).lower().endswith(".parquet"):
            _refuse_thousands(table, separator(path))
        return table
    except ValueError as error:
        name = os.fsdecode(path)
        if name in str(error):
            raise
        raise ValueError(f"{name!r}: {error}") from None


def _refuse_thousands(table: pd.DataFrame, separated: str) -> None:
    """Refuse 1.000 where it may be a thousand, and nothing tells that it is not."""
    if separated != ";":  # of languages with a decimal comma
        return
    for name in [name for name in table if name not in USUAL]:
        values = table[name].dropna()
        has_point = values.str.contains(".", regex=False)
        pointed, whole = values[has_point], values[~has_point]
        # As in 10, 100, 1.000: what has no point is below a thousand.
        if (
            len(pointed)
            and pointed.str.fullmatch(_THOUSANDS).all()
            and (pd.to_numeric(whole, errors="coerce") < 1000).any()
        ):
            raise ValueError(
                f"{pointed.iloc[0]!r} in the column {name!r} may be "
                f"{pointed.iloc[0].replace('.', '')}, as languages with a decimal "
                "comma have it, or a fraction: write numbers without points for "
                "thousands, and separate fields by commas."
            )


def _chosen(
    path: str, sheets: dict[str, Rows], titles: Sequence[str] | None
) -> dict[str, Rows]:
    if titles is None:
        chosen = {t: rows for t, rows in sheets.items() if any(map(any, rows))}
        if not chosen:
            raise ValueError(f"{path!r} is no table: it is empty.")
        return chosen
    unknown = [title for title in titles if title not in sheets]
    if unknown or not titles:
        raise ValueError(f"{path!r} has no sheets {unknown}; it has {list(sheets)}.")
    return {title: sheets[title] for title in titles}


def _long_sheet(path: str, title: str, rows: Rows) -> pd.DataFrame:
    filled = [row for row in rows if any(row)]
    names, body = filled[0], filled[1:]
    used = [k for k in range(len(names)) if any(row[k] for row in filled)]
    nameless = [k for k in used if not names[k]]
    if nameless:
        raise ValueError(
            f"{path!r}, sheet {title!r}: column {nameless[0] + 1} has no heading in "
            f"the first line, {[name for name in names if name]}. Headings are the "
            "first line: take out a title that stands above them."
        )
    table = pd.DataFrame(
        [[row[k] or None for k in used] for row in body],
        columns=[names[k] for k in used],
        dtype=object,
    )
    try:
        return _with_well(with_usual_names(table))
    except ValueError as error:
        raise ValueError(
            f"{path!r}, sheet {title!r}: {error} Where a sheet is no plate map, name "
            "those that are: read_plate_map(path, sheet=...), or --sheet."
        ) from None


def _join_sheets(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    first: dict[str, tuple[str, str]] = {}
    for title, table in tables.items():
        for name in map(str, table):
            sheet, other = first.setdefault(name.casefold(), (title, name))
            if name != other and title != sheet:
                raise ValueError(
                    f"The sheet {title!r} has a column {name!r}, where {sheet!r} has "
                    f"{other!r}: spell them alike."
                )
    with_plate = [title for title, table in tables.items() if "plate" in table]
    if len(tables) > 1 and not with_plate:
        tables = {t: table.assign(plate=t) for t, table in tables.items()}
    elif len(with_plate) < len(tables) > 1:
        raise ValueError(
            f'Of the sheets {list(tables)}, only {with_plate} have a column "plate".'
        )
    return pd.concat(tables.values(), ignore_index=True)


def _with_well(table: pd.DataFrame) -> pd.DataFrame:
    if "well" not in table and "well_position" in table:
        table = table.rename(columns={"well_position": "well"})
    if "well" not in table:
        raise ValueError(
            f'The plate map has no column "well"; it has {list(table)}. Or draw it as '
            "the plate: letters down, numbers across, and a title in the corner."
        )
    table = _without_blank_end(table)
    if not len(table):
        raise ValueError("The plate map has headings, and no well.")
    _check_no_well_lacks(table)
    return table


def _without_blank_end(table: pd.DataFrame) -> pd.DataFrame:
    """Without the blank last rows that spreadsheets write."""
    filled = np.flatnonzero(table.notna().any(axis=1))
    return table.iloc[: filled[-1] + 1 if len(filled) else 0]


def _check_no_well_lacks(table: pd.DataFrame) -> None:
    without = np.flatnonzero(table["well"].isna())
    if len(without):
        raise ValueError(
            f"Row {without[0]} of the plate map, counted from 0, has no well "
            f"({len(without)} such rows). Fill them in, or remove the rows."
        )


def join_plate_map(
    known: pd.DataFrame, plate_map: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add to each row of ``known`` what the plate map says of its well.

    Rows go together by all columns that both have; wells "A1" and "A01" are one. Also
    returned are, by these columns, the wells of the map that have no images.
    """
    if "well" not in plate_map:
        raise ValueError(
            f'The plate map has no column "well"; it has {list(plate_map)}.'
        )
    known, plate_map = composed(known), composed(_without_blank_end(plate_map))
    _check_no_well_lacks(plate_map)
    keys = [name for name in map(str, plate_map) if name in known]
    if "well" not in keys:
        raise ValueError(
            f'The images have no "well" to look up; what is known is {list(known)}.'
        )
    again = ""
    if more := [key for key in keys if key not in USUAL]:
        again = (
            f" The images have {', '.join(more)} already, as the plate map has: if by "
            "an earlier plate map, begin with the images without it."
        )
    for key in keys:
        without = np.flatnonzero(known[key].isna())
        if len(without):
            raise ValueError(f"Row {without[0]} has no {key} to look up.{again}")
    left, right = (
        table.assign(
            **{key: table[key].astype(str) for key in keys},  # plate 1 is plate "1"
        ).assign(well=_well_names(table, whose))
        for table, whose in ((known, "images"), (plate_map, "plate map"))
    )
    twice = np.flatnonzero(right.duplicated(keys))
    if len(twice):
        raise ValueError(
            f"The plate map has {named(right, keys, twice)} twice, the second time in "
            f"row {twice[0]}, counted from 0: {keys} are the columns that it shares "
            "with the images. Remove a row, or add the column that tells them apart."
        )
    joined = left.merge(right, on=keys, how="left", indicator="_found")
    lost = np.flatnonzero(joined["_found"] == "left_only")
    if len(lost):
        for key in keys:
            _check_shared(key, left[key], right[key], again)
        raise ValueError(
            f"The plate map lacks {named(left, keys, lost)}, which has images: give "
            f"it a row, whose other fields may be empty.{again}"
        )
    imaged = pd.MultiIndex.from_frame(left[keys])
    unused = ~pd.MultiIndex.from_frame(right[keys]).isin(imaged)
    return joined.drop(columns="_found"), right.loc[unused, keys]


def _well_names(table: pd.DataFrame, whose: str) -> list[str]:
    names = []
    for row, name in enumerate(table["well"]):
        try:
            names.append(well_name(name))
        except ValueError as error:
            raise ValueError(f"Row {row} of the {whose}: {error}") from None
    return names


def well_kinds(
    wells: pd.DataFrame,
    *,
    control: str,
    negative: str,
    positive: str | None,
    compound: str,
    concentration: str,
    vehicle: Sequence[str],
) -> pd.DataFrame:
    """Tell controls from treated wells: columns kind, compound and concentration.

    A well is a control if its ``control`` column says so and nothing but a vehicle was
    given to it; where both are one column, if it says so. Of wells with a compound,
    those that the ``control`` column gives another state than the positive controls'
    have no score, since a compound on healthy cells rescues none; without positive
    controls, cells may be in any. "left_out" says why a well is neither a control nor
    treated; it is empty for all others.
    """
    for name in (control, compound, concentration):
        if name not in wells:
            remedy = ""
            if name == concentration:
                remedy = " In a screen of one dose, any one number will do there."
            raise ValueError(
                f"{no_column(name, wells)} It may come from --plate-map; other names "
                f"are told by --control, --compound and --concentration.{remedy}"
            )
    given, state = wells[compound], wells[control]
    controls = (negative,) if positive is None else (negative, positive)
    _check_spelling(wells, control, controls)
    kind = state.where(state.isin(controls))
    is_vehicle = _folded(given).isin([_fold(name) for name in vehicle])
    if control != compound:
        kind = kind.where(given.isna() | is_vehicle)
    for value in controls:
        if not (kind == value).any():
            found = sorted(set(state.dropna()))[:8]
            remedy = "name its values by --negative and --positive."
            if positive is None:
                remedy = "name its value by --negative."
                if control == compound and given.isna().any():
                    remedy += (
                        " Empty fields are none: where those are untreated wells, take "
                        "another column for --control."
                    )
            elif value == positive:
                remedy += " Where there are no positive ones, leave out --positive."
            if (mine := state == value).any():
                remedy = (
                    f"controls were given nothing, or one of {list(vehicle)}. Wells "
                    f"that are {value!r} were given "
                    f"{sorted(set(given[mine & ~is_vehicle].dropna()), key=str)[:8]}: "
                    "name those of them that are no treatment by --vehicle."
                )
            raise ValueError(
                f"No well is a control {value!r} by the column {control!r}, which has "
                f"{found}: {remedy}"
            )
    treated = kind.isna() & given.notna() & ~is_vehicle
    left_out = pd.Series("", index=wells.index, dtype=object)
    left_out[kind.isna() & ~treated] = "neither a control nor given a compound"
    asked = control != compound and positive is not None
    other = treated & state.notna() & (state != positive) & asked
    if other.any():
        left_out[other] = state[other].map(
            lambda value: f"has a compound, but is {value!r}, not {positive!r}"
        )
        treated &= ~other
    for name in wells["well"]:
        well_position(name)  # refuses what is none
    if not treated.any():
        why = "."
        if other.any():
            lost = np.flatnonzero(other)
            why = (
                f": {named(wells, ['plate', 'well'], lost)} {left_out.iloc[lost[0]]}. "
                f"The column {control!r} of a treated well is to be empty, or "
                f"{positive!r} as the controls' that compounds are to bring back."
            )
        raise ValueError(f"No well is treated by the column {compound!r}{why}")
    dose = pd.to_numeric(wells[concentration].where(treated), errors="coerce")
    odd = np.flatnonzero(treated & ~(dose >= 0) | np.isinf(dose))
    if len(odd):
        found = wells[concentration].iloc[odd[0]]
        has = "no concentration" if pd.isna(found) else f"the concentration {found!r}"
        raise ValueError(
            f"{named(wells, ['plate', 'well'], odd)}, treated with "
            f"{given.iloc[odd[0]]!r}, has {has}: a number from 0 is needed, with a "
            "decimal point and without a unit. In a screen of one dose, any one number "
            "will do; wells of unknown dose are left out by --select."
        )
    return pd.DataFrame(
        {
            "kind": kind,
            "compound": given.where(treated),
            "concentration": dose,
            "left_out": left_out,
        }
    )


def _fold(name: object) -> str:
    """A name as it is compared where case, blanks and look-alikes are no difference."""
    text = unicodedata.normalize("NFKC", str(name)).replace("\u2010", "-")
    return " ".join(text.split()).casefold()


def _folded(names: pd.Series) -> pd.Series:
    return names.astype(object).map(_fold, na_action="ignore")


def _check_spelling(wells: pd.DataFrame, column: str, names: Sequence[str]) -> None:
    """Refuse values that differ from a name by upper and lower case alone."""
    values = wells[column]
    folded = _folded(values).where(~values.isin(names))
    for name in names:
        rows = np.flatnonzero(folded == _fold(name))
        if len(rows) and (values == name).any():
            raise ValueError(
                f"{named(wells, ['plate', 'well'], rows)}, has the {column} "
                f"{values.iloc[rows[0]]!r}, where others have {name!r}: spell them "
                "alike."
            )


def spelled_alike(names: pd.Series) -> list[list[str]]:
    """Names that differ by upper and lower case alone, together."""
    unique = names.dropna().drop_duplicates()
    groups = unique.groupby(_folded(unique), sort=False)
    return [group.tolist() for _, group in groups if len(group) > 1]


def _check_shared(
    key: str, images: pd.Series, plate_map: pd.Series, again: str
) -> None:
    """Refuse images and a plate map that call a plate, say, by different names."""
    names, others = set(images), set(plate_map)
    told = f"which has {sorted(others)[:3]}: call them the same"
    if names.isdisjoint(others):
        raise ValueError(
            f"No {key} of the images, {sorted(names)[:3]}, is in the plate map, "
            f"{told}. In a pattern, text beside a field is no part of it, as in "
            f"Plate{{plate}}.{again}"
        )
    if key != "well" and (unknown := sorted(names - others)):
        raise ValueError(
            f"The {key} {unknown[0]!r} of the images (one of {len(unknown)}) is not "
            f"in the plate map, {told}, give it rows, or leave that column out of the "
            f"plate map.{again}"
        )


def several_images(known: pd.DataFrame) -> tuple[str, list[str]]:
    """One site of a plate that has several images, and the columns they differ in.

    Without a column of sites, it is the wells that have several. ("", []) if none has.
    """
    keys = [name for name in USUAL if name in known]
    together = known.groupby(keys, sort=False, dropna=False)
    rows = np.flatnonzero(known.duplicated(keys))
    if not len(rows):
        return "", []
    others = known.columns.difference(keys, sort=False)
    differing = together[list(others)].nunique(dropna=False).gt(1).any()
    return named(known, keys, rows[:1]), [str(c) for c in others[differing]]


def named(table: pd.DataFrame, keys: list[str], rows: np.ndarray) -> str:
    """The first of some rows, by its keys, and how many more there are."""
    found = table[keys].iloc[rows].drop_duplicates()  # a well has several images
    values = ", ".join(f"{key} {found[key].iloc[0]}" for key in keys)
    return values + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
