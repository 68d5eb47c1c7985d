"""Names of wells: A1, A01, a01, A-1, "A - 1", r01c01, 1-1, 001001, AF48."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_LETTERS = re.compile(r"([A-Za-z]{1,2})(?: - |[-_: ])?0*([1-9]\d?)")
_NUMBERS = (
    re.compile(r"0*([1-9]\d?)[-_:]0*([1-9]\d?)"),
    re.compile(r"[Rr]0*([1-9]\d?)[-_: ]?[Cc]0*([1-9]\d?)"),
    re.compile(r"0(\d\d)0(\d\d)"),  # of Columbus
)
# What becomes of 1-1 in a spreadsheet: "01-Jan", "Jan-01" or a whole date.
_DATE = re.compile(r"\d{1,2}-[A-Za-z]{3}|[A-Za-z]{3}-\d{1,2}|\d{4}-\d\d-\d\d")

# Rows and columns of the plates there are.
FORMATS = ((8, 12), (16, 24), (32, 48))


def well_position(name: Any) -> tuple[int, int]:
    """Row and column of a well, from 0: "B03", "2-3" and "r02c03" are (1, 2)."""
    row, column = _position(str(name).strip())
    if 0 <= row < FORMATS[-1][0] and 0 <= column < FORMATS[-1][1]:
        return row, column
    hint = ""
    if _DATE.match(str(name)):
        hint = " A spreadsheet may have taken 1-1 for a date: write A1, or r1c1."
    raise ValueError(
        f"{name!r} is no well: a row from A to AF, then a column from 1 to 48, as in "
        f"A1, A01, A-1, r01c01 or, both as numbers, 1-1.{hint}"
    )


# The same few names come back for every plate, site and channel of a screen.
@lru_cache(maxsize=4096)
def _position(text: str) -> tuple[int, int]:
    row = column = -1
    if match := _LETTERS.fullmatch(text):
        for letter in match[1].upper():
            row = 26 * (row + 1) + ord(letter) - ord("A")
        column = int(match[2]) - 1
    for numbers in _NUMBERS:
        if match := numbers.fullmatch(text):
            row, column = int(match[1]) - 1, int(match[2]) - 1
    return row, column


def well_name(name: Any) -> str:
    """A well by its usual name: "a1", "1-1" and "r01c01" are "A01"."""
    row, column = well_position(name)
    return f"{row_letters(row)}{column + 1:02}"


def row_letters(row: int) -> str:
    """Letters of a row counted from 0: 1 is "B", 26 is "AA"."""
    high, low = divmod(row, 26)
    return (chr(ord("A") + high - 1) if high else "") + chr(ord("A") + low)
