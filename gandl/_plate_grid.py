"""Plate maps that look like the plate: rows A to H below each other, 1 to 12 across."""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gandl._extras import needed
from gandl._tables import DAMAGE, no_table, separator
from gandl._wells import FORMATS, row_letters

Rows = list[list[str]]
_PLATE = re.compile(r"(?:metadata_)?plate\s*:?", re.IGNORECASE)
_LIKE_A_PLATE = re.compile(r"(?:assay)?plate[\W_]*\w*\d\w*", re.IGNORECASE)
_PLATE_AND_NAME = re.compile(r"plate\s*:\s*(.+)", re.IGNORECASE)


@dataclass
class Grid:
    place: str  # where it stands, for errors
    title: str
    plate: str | None
    values: Rows  # one of FORMATS


def read_cells(
    path: str | os.PathLike[str], wanted: Container[str] | None
) -> dict[str, Rows]:
    """The cells of a file as text, by sheet; a csv or tsv file is one sheet, "".

    Sheets that are not ``wanted`` have no cells; None: all are.
    """
    name = os.fsdecode(path)
    if name.lower().endswith((".xlsx", ".xlsm")):
        return _read_workbook(name, wanted)
    opened = gzip.open if name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter=separator(path)))
    except (csv.Error, *DAMAGE) as error:
        raise no_table(path, error) from None
    return {"": [[cell.strip() for cell in row] for row in rows]}


def _read_workbook(path: str, wanted: Container[str] | None) -> dict[str, Rows]:
    told = f'Reading {path!r} needs openpyxl. Install it: pip install "gandl[io]".'
    with needed(told):
        from openpyxl import load_workbook
    with open(path, "rb") as file:
        try:
            # What a formula came to, and whether it was worked out at all.
            workbook, formulas = (
                load_workbook(file, data_only=d) for d in (True, False)
            )
        # The library answers a damaged file with errors of any type.
        except Exception as error:
            raise ValueError(f"{path!r} is no workbook: {error}") from None
    return {
        sheet.title: _sheet_rows(path, sheet, formulas[sheet.title])
        if wanted is None or sheet.title in wanted
        else []
        for sheet in workbook.worksheets
    }


def _sheet_rows(path: str, sheet: Any, formulas: Any) -> Rows:
    for row in formulas.iter_rows():
        for formula in row:
            cell = sheet[formula.coordinate]
            place = f"{path!r}, sheet {sheet.title!r}: cell {formula.coordinate}"
            if cell.data_type == "e":
                raise ValueError(
                    f"{place} is the error {cell.value}. Mend it, or, where that sheet "
                    "is no plate map, name those that are by `sheet` (--sheet)."
                )
            if formula.data_type == "f" and cell.value is None:
                raise ValueError(
                    f"{place} is a formula that was never worked out: open and save "
                    "the file in a spreadsheet, or put values for formulas."
                )
    rows = [
        [_text(value) for value in row] for row in sheet.iter_rows(values_only=True)
    ]
    for merged in sheet.merged_cells.ranges:
        value = rows[merged.min_row - 1][merged.min_col - 1]
        for row in rows[merged.min_row - 1 : merged.max_row]:
            width = merged.max_col - merged.min_col + 1
            row[merged.min_col - 1 : merged.max_col] = [value] * width
    return rows


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def find_grids(rows: Rows, place: str, sheet: str) -> list[Grid]:
    """All grids of a sheet; [] if it holds none. Any other text is an error."""
    starts = [k for k in range(len(rows)) if _corner(rows, k) is not None]
    if not starts:
        return []
    grids: list[Grid] = []
    plate, above, line = None, "", 0
    while line < len(rows):
        filled = [cell for cell in rows[line] if cell]
        corner = _corner(rows, line)
        here = f"{place} line {line + 1}"
        if corner is not None:
            title = rows[line][corner]
            if not re.search(r"\w", title):
                title, above = above or sheet, ""
            _refuse(above, here)
            if not title:
                raise ValueError(
                    f"{here}: a grid without a title: put one in its corner, as the "
                    "name of the column that it becomes."
                )
            if _LIKE_A_PLATE.fullmatch(title):
                raise ValueError(
                    f"{here}: the title of this grid, {title!r}, looks like a plate's "
                    "name, and would be that of a column. Name the column in the "
                    "grid's corner, and the plate in a line above, as in 'plate: P1'."
                )
            values = _values(rows, line, corner, here)
            grids.append(Grid(here, title, plate, values))
            above, line = "", line + len(values)
        elif name := _plate_name(filled):
            _refuse(above, here)
            plate, above = name, ""
        elif filled:
            _refuse(above, here)
            above = filled[0]
            if len(set(filled)) > 1:
                _refuse(", ".join(filled), f"{place} line {line + 2}")
        line += 1
    _refuse(above, f"{place} line {len(rows) + 1}")
    return grids


def _refuse(text: str, place: str) -> None:
    if text:
        raise ValueError(
            f"{place}: {text!r} before it is neither the title of a grid nor a plate, "
            'as "plate" and its name in two cells are. Remove it.'
        )


def _plate_name(filled: list[str]) -> str | None:
    if len(filled) == 2 and _PLATE.fullmatch(filled[0]):
        return filled[1]
    if len(filled) == 1 and (match := _PLATE_AND_NAME.fullmatch(filled[0])):
        return match[1]
    return None


def _corner(rows: Rows, line: int) -> int | None:
    """Where a grid's corner is in this line: left of 1, 2, ... and above A."""
    numbers = [_number(cell) for cell in rows[line]]
    for k in range(1, len(numbers) - 1):
        if numbers[k : k + 2] == [1, 2]:
            below = rows[line + 1] if line + 1 < len(rows) else []
            if k - 1 < len(below) and below[k - 1].upper() == "A":
                return k - 1
    return None


def _number(cell: str) -> int | None:
    return int(cell) if re.fullmatch(r"0*[1-9]\d?", cell) else None


def _values(rows: Rows, line: int, corner: int, place: str) -> Rows:
    numbers = [_number(cell) for cell in rows[line][corner + 1 :]]
    n_columns = 0
    while n_columns < len(numbers) and numbers[n_columns] == n_columns + 1:
        n_columns += 1
    values: Rows = []
    for row in rows[line + 1 :]:
        name = row[corner] if corner < len(row) else ""
        if name.upper() != row_letters(len(values)):
            break
        cells = row[corner + 1 : corner + 1 + n_columns]
        values.append(cells + [""] * (n_columns - len(cells)))
    size = len(values), n_columns
    if size not in FORMATS:
        formats = ", ".join(f"{height} x {width}" for height, width in FORMATS)
        raise ValueError(
            f"{place}: a grid of {size[0]} x {size[1]} wells. Plates have {formats}: "
            "keep the rows and columns that are empty."
        )
    for row in rows[line : line + 1 + len(values)]:
        beside = [cell for cell in row[:corner] + row[corner + 1 + n_columns :] if cell]
        if beside:
            raise ValueError(
                f"{place}: {beside[0]!r} stands beside the grid. Put grids one below "
                "the other, and remove other text."
            )
    return values


def join_grids(sheets: Mapping[str, list[Grid]]) -> pd.DataFrame:
    """One row a well and one column a title, of the grids of all sheets."""
    grids = [grid for found in sheets.values() for grid in found]
    first: dict[str, Grid] = {}
    for grid in grids:
        other = first.setdefault(grid.title.casefold(), grid)
        if other.title != grid.title:
            raise ValueError(
                f"{grid.place}: the title {grid.title!r}, where {other.place} has "
                f"{other.title!r}: spell them alike."
            )
    titles = [{grid.title for grid in found} for found in sheets.values()]
    if any(grid.plate for grid in grids):
        for grid in grids:
            if grid.plate is None:
                raise ValueError(
                    f"{grid.place}: {grid.title!r} stands before the first plate."
                )
    elif sum(map(len, titles)) > len(set().union(*titles)):
        for sheet, found in sheets.items():
            for grid in found:
                grid.plate = sheet
    plates = dict.fromkeys(grid.plate for grid in grids)
    tables = [
        _plate_table(plate, [grid for grid in grids if grid.plate == plate])
        for plate in plates
    ]
    return pd.concat(tables, ignore_index=True)


def _plate_table(plate: str | None, grids: list[Grid]) -> pd.DataFrame:
    columns: dict[str, list[str | None]] = {}
    height, width = len(grids[0].values), len(grids[0].values[0])
    wells = [f"{row_letters(r)}{c + 1:02}" for r in range(height) for c in range(width)]
    for grid in grids:
        if grid.title.lower() in ("plate", "well") or grid.title in columns:
            raise ValueError(
                f"{grid.place}: there is a grid {grid.title!r} already. Give each a "
                'title of its own, in its corner, and each plate a line with "plate" '
                "and its name above its grids."
            )
        if (len(grid.values), len(grid.values[0])) != (height, width):
            raise ValueError(
                f"{grid.place}: {grid.title!r} has another number of wells than "
                f"{grids[0].title!r}, of the same plate."
            )
        columns[grid.title] = [cell or None for row in grid.values for cell in row]
    table = pd.DataFrame({"well": wells} | columns, dtype=object)
    if plate is not None:
        table.insert(0, "plate", plate)
    return table
