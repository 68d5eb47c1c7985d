"""Names of wells: A1, A01, a01, AF48."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d?)")

# Rows and columns of the plates there are.
FORMATS = ((8, 12), (16, 24), (32, 48))


def well_position(name: Any) -> tuple[int, int]:
    """Row and column of a well, from 0: "B03" is (1, 2), "AA1" is (26, 0)."""
    match = _NAME.fullmatch(str(name).strip())
    if match:
        row = -1
        for letter in match[1].upper():
            row = 26 * (row + 1) + ord(letter) - ord("A")
        column = int(match[2]) - 1
        if row < FORMATS[-1][0] and column < FORMATS[-1][1]:
            return row, column
    raise ValueError(
        f"{name!r} is no well: a row from A to AF, then a column from 1 to 48."
    )


def row_letters(row: int) -> str:
    """Letters of a row counted from 0: 1 is "B", 26 is "AA"."""
    high, low = divmod(row, 26)
    return (chr(ord("A") + high - 1) if high else "") + chr(ord("A") + low)
