"""Wells by any usual name."""

import string

import pytest

from gandl._wells import row_letters, well_name, well_position


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("A1", (0, 0)),
        ("A01", (0, 0)),
        ("a001", (0, 0)),
        (" H12 ", (7, 11)),
        ("P24", (15, 23)),
        ("Z10", (25, 9)),
        ("AA1", (26, 0)),
        ("af48", (31, 47)),
        ("A-1", (0, 0)),
        ("b:03", (1, 2)),
        ("AA_2", (26, 1)),
        ("H 12", (7, 11)),
        ("1-1", (0, 0)),
        ("02-12", (1, 11)),
        ("r01c01", (0, 0)),
        ("R16C24", (15, 23)),
        ("R01", (17, 0)),
        ("A - 1", (0, 0)),  # of IN Cell Analyzer
        ("002011", (1, 10)),  # of Columbus
    ],
)
def test_names(name, position):
    assert well_position(name) == position


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "A0", "A00", "A49", "AG1", "1A", "A1b", "A--1", "A1.0", "A/1", None),
        *(7, "12", "0-1", "33-1", "1-49", "1-1-1", "r0c1", "r33c01", "c01r01"),
    ],
)
def test_what_is_no_well(name):
    with pytest.raises(ValueError, match="is no well"):
        well_position(name)


@pytest.mark.parametrize("name", ["1-Jan", "01-Jan", "Jan-01", "2026-01-01 00:00:00"])
def test_a_spreadsheets_date(name):
    with pytest.raises(ValueError, match="taken 1-1 for a date"):
        well_position(name)


def test_usual_name():
    for name in ("a1", "A01", "1-1", "r01c01", "A:1"):
        assert well_name(name) == "A01"
    assert well_name("32-48") == "AF48"


def test_letters_are_the_way_back():
    for row in range(32):
        assert well_position(f"{row_letters(row)}01") == (row, 0)
    assert [row_letters(row) for row in range(26)] == list(string.ascii_uppercase)
