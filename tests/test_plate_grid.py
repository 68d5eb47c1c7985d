"""Plate maps that look like the plate."""

import datetime
import gzip
import string

import pandas as pd
import pytest
import xlsxwriter

from gandl.images import read_plate_map

ROWS = [*string.ascii_uppercase, "AA", "AB", "AC", "AD", "AE", "AF"]


def grid(title, height, width, value):
    """Lines of cells, the corner, the numbers across and the letters down included."""
    head = [title, *range(1, width + 1)]
    return [head] + [
        [ROWS[r], *[value(r, c) for c in range(width)]] for r in range(height)
    ]


def place(r, c):
    return f"{r}:{c}"


def as_csv(lines, separator=","):
    return "\n".join(separator.join(map(str, line)) for line in lines)


@pytest.fixture
def write(tmp_path):
    """Writes csv from lines, or xlsx, by another library than reads it, from sheets."""

    def write(content, name="map.csv", merged=()):
        path = tmp_path / name
        if not isinstance(content, dict):
            path.write_text(as_csv(content, "\t" if "tsv" in name else ","))
            return path
        with xlsxwriter.Workbook(path, {"strings_to_formulas": False}) as book:
            for title, lines in content.items():
                sheet = book.add_worksheet(title)
                for r, line in enumerate(lines):
                    for c, value in enumerate(line):
                        sheet.write(r, c, value)
                for area, value in merged:
                    sheet.merge_range(area, value)
        return path

    return write


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (32, 48)])
@pytest.mark.parametrize("name", ["map.csv", "map.tsv", "map.xlsx"])
def test_sizes(write, size, name):
    lines = grid("compound", *size, place)
    table = read_plate_map(write({"Map": lines} if "xlsx" in name else lines, name))
    assert len(table) == size[0] * size[1]
    assert table["well"].is_unique
    assert table.iloc[0].tolist() == ["A01", "0:0"]
    last = [f"{ROWS[size[0] - 1]}{size[1]:02}", f"{size[0] - 1}:{size[1] - 1}"]
    assert table.iloc[-1].tolist() == last


def test_several_columns(write):
    """Titles in the corner or above, a sign for no title, empty wells, row a."""
    dose = grid("<>", 8, 12, lambda r, c: "" if r else 0.1 * c)
    dose[1][0] = "a"
    lines = [
        *grid("compound", 8, 12, place),
        [],
        ["dose"],
        *dose,
    ]
    for path in (write(lines), write({"Map": lines}, "map.xlsx")):
        table = read_plate_map(path)
        assert list(table) == ["well", "compound", "dose"]
        assert table["dose"][0] in ("0", "0.0")
        assert float(table["dose"][11]) == pytest.approx(1.1)
        assert table["dose"][12:].isna().all()


def test_several_plates(write):
    lines = [
        ["Plate", "P1"],
        *grid("compound", 8, 12, lambda r, c: "x"),
        *grid("dose", 8, 12, lambda r, c: 1),
        ["", ""],
        ["plate: 007"],
        *grid("compound", 8, 12, lambda r, c: "y"),
    ]
    table = read_plate_map(write(lines))
    assert table["plate"].tolist() == ["P1"] * 96 + ["007"] * 96
    assert table["compound"].tolist() == ["x"] * 96 + ["y"] * 96
    assert table["dose"].notna().tolist() == [True] * 96 + [False] * 96


def test_sheets_are_columns(write):
    sheets = {
        "compound": grid("", 8, 12, place),
        "dose": grid("", 8, 12, lambda r, c: r),
        "empty": [],
    }
    table = read_plate_map(write(sheets, "map.xlsx"))
    assert list(table) == ["well", "compound", "dose"]
    assert table["dose"].tolist() == [str(k // 12) for k in range(96)]


def test_sheets_are_plates(write):
    sheets = {p: grid("compound", 8, 12, lambda r, c, p=p: p) for p in ("P1", "P2")}
    sheets["P2"] += grid("dose", 8, 12, place)
    table = read_plate_map(write(sheets, "map.xlsx"))
    assert table["plate"].tolist() == table["compound"].tolist()
    only = read_plate_map(write(sheets, "map.xlsx"), sheet="P2")
    assert list(only) == ["well", "compound", "dose"]


def test_titles_and_headings_of_another_case(write):
    """What is one column would be two, and wells without a compound are controls."""
    sheets = {
        "P1": grid("compound", 8, 12, place),
        "P2": grid("Compound", 8, 12, place),
    }
    with pytest.raises(ValueError, match=r"'P2', line 1: the title 'Compound', where"):
        read_plate_map(write(sheets, "map.xlsx"))
    headings = {"P1": "dose", "P2": "Dose"}
    sheets = {p: [["well", name], ["A1", "x"]] for p, name in headings.items()}
    with pytest.raises(ValueError, match="'P2' has a column 'Dose', where 'P1' has"):
        read_plate_map(write(sheets, "map.xlsx"))


def test_sheets_that_are_tables(write):
    lines = [["Well", "compound", None], ["A1", "x"], [None], ["A2", 5]]
    table = read_plate_map(write({"P1": lines, "P2": lines[:2]}, "map.xlsx"))
    assert table.to_dict("list") == {
        "well": ["A1", "A2", "A1"],
        "compound": ["x", "5", "x"],
        "plate": ["P1", "P1", "P2"],
    }
    with_plate = [["Metadata_Plate", "well_position"], ["007", "B3"]]
    table = read_plate_map(write({"Sheet1": with_plate}, "map.xlsx"))
    assert table.to_dict("records") == [{"plate": "007", "well": "B3"}]


def test_merged_cells_are_each_that_value(write):
    lines = grid("compound", 8, 12, lambda r, c: None)
    merged = [("B2:D2", "x"), ("B3:B5", "y")]
    table = read_plate_map(write({"S": lines}, "map.xlsx", merged)).set_index("well")
    found = table["compound"].dropna().to_dict()
    assert found == dict.fromkeys(["A01", "A02", "A03"], "x") | dict.fromkeys(
        ["B01", "C01", "D01"], "y"
    )


def test_beside_empty_columns_and_compressed(write, tmp_path):
    lines = [["", "", *line] for line in grid("compound", 8, 12, place)]
    table = read_plate_map(write(lines))
    assert table.iloc[-1].tolist() == ["H12", "7:11"]
    path = tmp_path / "map.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + as_csv(lines).encode()))
    pd.testing.assert_frame_equal(read_plate_map(path), table)


GOOD = grid("compound", 8, 12, place)
BAD = {
    "rows missing": (
        GOOD[:7],
        r"map.csv' line 1: a grid of 6 x 12 wells. Plates have 8",
    ),
    "columns missing": (
        [line[:11] for line in GOOD],
        "a grid of 8 x 10 wells.*keep the rows and columns that are empty",
    ),
    "a letter left out": ([*GOOD[:3], *GOOD[4:], ["I"]], "a grid of 2 x 12 wells"),
    "a title twice": ([*GOOD, *GOOD], "line 10: there is a grid 'compound' already"),
    "called well": (grid("Well", 8, 12, place), "there is a grid 'Well' already"),
    "no title": (
        grid("", 8, 12, place),
        "line 1: a grid without a title: put one in its corner",
    ),
    "text above": ([["Screen 5"], *GOOD], "line 2: 'Screen 5' before it is neither"),
    "text below": ([*GOOD, ["done by", "me"]], "'done by, me' before it"),
    "a word below": ([*GOOD, ["mine"]], "line 11: 'mine' before it is neither"),
    "text beside": (
        [[*line, "x"] if k == 4 else line for k, line in enumerate(GOOD)],
        "line 1: 'x' stands beside the grid",
    ),
    "two side by side": (
        [[*a, "", *b] for a, b in zip(GOOD, grid("dose", 8, 12, place), strict=True)],
        "'dose' stands beside the grid",
    ),
    "before the first plate": (
        [*GOOD, ["plate", "P1"], *grid("dose", 8, 12, place)],
        "line 1: 'compound' stands before the first plate",
    ),
    "a plate twice": (
        [["plate", "P1"], *GOOD, ["plate", "P1"], *GOOD],
        "'compound' already.*line with \"plate\"",
    ),
    "two sizes": (
        [*GOOD, *grid("dose", 16, 24, place)],
        "another number of wells than",
    ),
    "a plate's name for a title": (
        [["Plate 1"], *grid("", 8, 12, place)],
        "line 2: .*'Plate 1', looks like a plate's name.* 'plate: P1'",
    ),
    "a plate's name in the corner": (grid("plate_B7", 8, 12, place), "'plate_B7', loo"),
    "no well and no grid": ([["a", "b"], [1, 2]], 'no column "well"; it has .*letters'),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_grids(write, kind):
    lines, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        read_plate_map(write(lines))


def test_bad_workbooks(write, tmp_path):
    path = tmp_path / "map.xlsx"
    for content in (b"", b"PK\x03\x04 not a zip", b"well,compound\nA1,x\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"map\.xlsx' is no workbook"):
            read_plate_map(path)
    with pytest.raises(ValueError, match="is empty"):
        read_plate_map(write({"S": []}, "map.xlsx"))
    write({"S": GOOD}, "map.xlsx")
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1  # where the list of its parts is
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"map\.xlsx' is no workbook"):
        read_plate_map(path)
    both = {"S": GOOD, "Notes": [["well"], ["A1"]]}
    with pytest.raises(
        ValueError, match=r"sheet 'S' has grids, others have not.*sheet`"
    ):
        read_plate_map(write(both, "map.xlsx"))
    with pytest.raises(ValueError, match=r"no sheets \['T'\]; it has \['S', 'Notes'\]"):
        read_plate_map(path, sheet=["T"])
    with pytest.raises(ValueError, match=r"sheet 'Notes': The plate map has no column"):
        read_plate_map(
            write({"S": [["well"], ["A1"]], "Notes": [["hello"]]}, "map.xlsx")
        )
    with pytest.raises(ValueError, match="column 2 has no heading"):
        read_plate_map(write({"S": [["well"], ["A1", "x"]]}, "map.xlsx"))
    some = {"S": [["well", "plate"], ["A1", "x"]], "T": [["well"], ["A1"]]}
    with pytest.raises(ValueError, match=r"only \['S'\] have a column \"plate\""):
        read_plate_map(write(some, "map.xlsx"))
    (tmp_path / "map.xls").write_bytes(b"")
    with pytest.raises(ValueError, match=r"map\.xls': save it as xlsx or csv"):
        read_plate_map(tmp_path / "map.xls")
    with pytest.raises(FileNotFoundError, match=r"There is no .*none\.xlsx"):
        read_plate_map(tmp_path / "none.xlsx")


def test_errors_of_the_spreadsheet(tmp_path):
    with xlsxwriter.Workbook(tmp_path / "map.xlsx") as book:
        sheet = book.add_worksheet("S")
        sheet.write_row(0, 0, ["well", "dose"])
        sheet.write(1, 0, "A1")
        sheet.write_formula(1, 1, "=1/0", value="#DIV/0!")
        book.add_worksheet("map").write_column(0, 0, ["well", "A1"])
    message = r"sheet 'S': cell B2 is the error #DIV/0!\. .* \(--sheet\)"
    with pytest.raises(ValueError, match=message):
        read_plate_map(tmp_path / "map.xlsx")
    alone = read_plate_map(tmp_path / "map.xlsx", sheet="map")
    assert alone["well"].tolist() == ["A1"]


def test_a_well_that_became_a_date(tmp_path):
    """Excel takes 1-1 for the first of January."""
    with xlsxwriter.Workbook(tmp_path / "map.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, "well")
        date = book.add_format({"num_format": "d-mmm"})
        sheet.write_datetime(1, 0, datetime.datetime(2026, 1, 1), date)
    from gandl.images import ImageCollection

    X = ImageCollection.from_array([[[[0.0]]]], metadata=pd.DataFrame({"well": ["A1"]}))
    with pytest.raises(ValueError, match=r"'2026-01-01 .* is no well.* for a date"):
        X.with_plate_map(tmp_path / "map.xlsx")


def test_formulas_that_were_never_worked_out(tmp_path):
    """As openpyxl writes them: were they empty, treated wells would be controls."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["well", "compound"])
    book.active.append(["A1", '="asp"&"irin"'])
    book.save(tmp_path / "map.xlsx")
    with pytest.raises(ValueError, match=r"sheet 'Sheet': cell B2 is a formula that"):
        read_plate_map(tmp_path / "map.xlsx")
    with xlsxwriter.Workbook(tmp_path / "done.xlsx") as done:
        sheet = done.add_worksheet()
        sheet.write_row(0, 0, ["well", "compound"])
        sheet.write_row(1, 0, ["A1"])
        sheet.write_formula(1, 1, '="asp"&"irin"', value="aspirin")
    assert read_plate_map(tmp_path / "done.xlsx")["compound"].tolist() == ["aspirin"]


def test_openpyxl_is_named(write, monkeypatch):
    path = write({"S": GOOD}, "map.xlsx")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"needs openpyxl.*gandl\[io\]"):
        read_plate_map(path)
