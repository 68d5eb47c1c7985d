"""Wells by any usual name."""

import string

import pytest

from gandl._wells import row_letters, well_position


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
    ],
)
def test_names(name, position):
    assert well_position(name) == position


@pytest.mark.parametrize(
    "name", ["", "A", "A0", "A00", "A49", "AG1", "1A", "A1b", "A-1", "A1.0", None, 7]
)
def test_what_is_no_well(name):
    with pytest.raises(ValueError, match="is no well"):
        well_position(name)


def test_letters_are_the_way_back():
    for row in range(32):
        assert well_position(f"{row_letters(row)}01") == (row, 0)
    assert [row_letters(row) for row in range(26)] == list(string.ascii_uppercase)
