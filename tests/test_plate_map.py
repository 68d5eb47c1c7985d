"""Plate maps are joined by well, and every way to be wrong is named."""

import numpy as np
import pandas as pd
import pytest

from gandl._plate_map import (
    join_plate_map,
    several_images,
    spelled_alike,
    well_kinds,
)
from gandl.images import ImageCollection, read_plate_map
from gandl.profiles import aggregate

KNOWN = pd.DataFrame({"plate": ["1", "1", "2"], "well": ["A1", "B01", "A01"]})
COLUMNS = {
    "control": "state",
    "negative": "mock",
    "positive": "infected",
    "compound": "compound",
    "concentration": "dose",
    "vehicle": ["DMSO"],
}


def plate_map():
    return pd.DataFrame(
        {
            "plate": ["2", "1", "1"],
            "well": ["a01", "B1", "A01"],
            "compound": ["x", "y", "z"],
        }
    )


def test_spellings_of_both_sides():
    known = pd.DataFrame({"well": ["r01c01", "B-2", "3:3", "AF48"]})
    table = pd.DataFrame({"well": ["A:1", "2-2", "c03", "r32c48"], "dose": range(4)})
    joined, unused = join_plate_map(known, table)
    assert joined["well"].tolist() == ["A01", "B02", "C03", "AF48"]
    assert joined["dose"].tolist() == [0, 1, 2, 3]
    assert unused.empty
    with pytest.raises(ValueError, match="has well A01 twice"):
        join_plate_map(known, pd.DataFrame({"well": ["A1", "1-1"]}))


def test_a_table_as_it_is(tmp_path):
    plate_map().to_csv(tmp_path / "map.csv", index=False)
    read, same = read_plate_map(tmp_path / "map.csv"), pd.testing.assert_frame_equal
    same(read, plate_map(), check_dtype=False)  # text is of two types in pandas 3
    renamed = plate_map().rename(columns={"well": "well_position"})
    renamed.to_csv(tmp_path / "map.txt", sep="\t", index=False)
    same(read_plate_map(tmp_path / "map.txt"), plate_map(), check_dtype=False)
    renamed.to_parquet(tmp_path / "map.parquet")
    pd.testing.assert_frame_equal(read_plate_map(tmp_path / "map.parquet"), plate_map())


def test_joined_to_images(tmp_path):
    images = np.arange(3.0).reshape(3, 1, 1, 1)
    known = KNOWN.rename(columns={"well": "Metadata_Well"})
    X = ImageCollection.from_array(images, metadata=known)
    plate_map().to_csv(tmp_path / "map.csv", index=False)
    for given in (plate_map(), tmp_path / "map.csv", str(tmp_path / "map.csv")):
        Y = X.with_plate_map(given)
        assert Y.metadata.to_dict("list") == {
            "plate": ["1", "1", "2"],
            "well": ["A01", "B01", "A01"],
            "compound": ["z", "y", "x"],
        }
        np.testing.assert_array_equal(Y, images)
    assert Y[[2]].metadata["compound"].tolist() == ["x"]
    with pytest.raises(ValueError, match="lacks plate 1, well A01"):
        X.with_plate_map(plate_map()[:2])


def test_a_map_joined_twice_says_what_to_do():
    X = ImageCollection.from_array(np.zeros((3, 1, 1, 1)), metadata=KNOWN)
    gap = plate_map().assign(compound=["x", None, "z"])
    once = X.with_plate_map(gap)
    with pytest.raises(ValueError, match=r"no compound to look up.*begin with the"):
        once.with_plate_map(gap)
    whole = X.with_plate_map(plate_map())
    assert whole.with_plate_map(plate_map()).metadata.equals(whole.metadata)
    with pytest.raises(ValueError, match="compound already, as the plate map has"):
        whole.with_plate_map(plate_map().assign(compound=["x", "q", "z"]))


def test_a_table_of_polars():
    polars = pytest.importorskip("polars")
    X = ImageCollection.from_array(np.zeros((3, 1, 1, 1)), metadata=KNOWN)
    found = X.with_plate_map(polars.from_pandas(plate_map())).metadata
    assert found["compound"].tolist() == ["z", "y", "x"]
    profiles = polars.DataFrame({"Metadata_well": ["A01", "A01"], "f": [1.0, 3.0]})
    assert aggregate(profiles, "well")["f"].tolist() == [2.0]


def test_one_map_for_all_plates():
    joined, _ = join_plate_map(KNOWN, plate_map().iloc[:2].drop(columns="plate"))
    assert joined["compound"].tolist() == ["x", "y", "x"]


def test_map_errors():
    with pytest.raises(ValueError, match='no column "well"; it has'):
        join_plate_map(KNOWN, pd.DataFrame({"Position": ["A1"]}))
    with pytest.raises(ValueError, match='The images have no "well"'):
        join_plate_map(KNOWN[["plate"]], plate_map())
    with pytest.raises(ValueError, match="has plate 2, well A01 twice"):
        join_plate_map(KNOWN, pd.concat([plate_map(), plate_map().iloc[:1]]))
    with pytest.raises(ValueError, match="lacks plate 1, well A01, which has images"):
        join_plate_map(KNOWN, plate_map().iloc[:2])
    with pytest.raises(ValueError, match="Row 0 of the plate map: 'Z99' is no well"):
        join_plate_map(KNOWN, plate_map().assign(well="Z99"))
    with pytest.raises(ValueError, match="Row 0 of the images: 'Z99' is no well"):
        join_plate_map(KNOWN.assign(well="Z99"), plate_map())


@pytest.mark.parametrize("name", ["map.csv", "map.parquet", "map.xlsx"])
def test_a_row_without_a_well(tmp_path, name):
    table = pd.DataFrame({"well": ["A1", None], "compound": ["x", "y"]})
    with pytest.raises(ValueError, match=r"Row 1 of the plate map, .* no well"):
        join_plate_map(KNOWN, table)
    write = {"csv": table.to_csv, "parquet": table.to_parquet, "xlsx": table.to_excel}
    write[name.partition(".")[2]](tmp_path / name, index=False)
    with pytest.raises(ValueError, match=rf"{name}'.*: Row 1 .* has no well"):
        read_plate_map(tmp_path / name)


def test_wells_without_images_are_named():
    more = pd.DataFrame({"plate": ["1", "3"], "well": ["C7", "A1"]})
    _, unused = join_plate_map(KNOWN, pd.concat([plate_map(), more]))
    assert unused.to_dict("list") == {"plate": ["1", "3"], "well": ["C07", "A01"]}


def test_plates_of_other_names_are_shown():
    others = plate_map().replace({"plate": {"1": "P1", "2": "P2"}})
    with pytest.raises(ValueError, match=r"images, \['1', '2'\], .* \['P1', 'P2'\]"):
        join_plate_map(KNOWN, others)


def test_images_that_only_another_column_tells_apart():
    cells = KNOWN.assign(site="1", cell="HRCE", focus="0")
    assert several_images(cells) == ("", [])
    both = pd.concat([cells, cells.assign(cell="VERO")], ignore_index=True)
    assert several_images(both) == ("plate 1, well A1, site 1", ["cell"])
    unknown = both.assign(site=None)
    assert several_images(unknown) == ("plate 1, well A1, site None", ["cell"])
    sites = pd.concat([cells, cells.assign(site="2")], ignore_index=True)
    assert several_images(sites) == ("", [])
    assert several_images(sites.drop(columns="site")) == ("plate 1, well A1", [])


def wells(**columns):
    table = pd.DataFrame(
        {
            "plate": "1",
            "well": ["A01", "A02", "A03", "A04", "A05"],
            "state": ["mock", "infected", "infected", "infected", "uv"],
            "compound": [None, "DMSO", "drug", "drug", None],
            "dose": [None, "0", "0.3", "1e1", None],
        }
    )
    return table.assign(**columns)


def test_kinds():
    found = well_kinds(wells(), **COLUMNS)
    kinds = ["mock", "infected", None, None, None]
    kind = found["kind"].astype(object)
    assert kind.where(kind.notna(), None).tolist() == kinds
    assert found["compound"].dropna().to_dict() == {2: "drug", 3: "drug"}
    assert found["concentration"].dropna().to_dict() == {2: 0.3, 3: 10.0}


def test_compounds_on_cells_of_another_state_are_left_out():
    table = wells(state=["mock", "infected", "mock", None, "uv"])
    found = well_kinds(table.assign(compound=[None, "DMSO", *["drug"] * 3]), **COLUMNS)
    assert found["compound"].dropna().to_dict() == {3: "drug"}
    reasons = [f"has a compound, but is '{s}', not 'infected'" for s in ("mock", "uv")]
    assert found["left_out"].tolist() == ["", "", reasons[0], "", reasons[1]]
    blank = well_kinds(wells(), **COLUMNS)["left_out"].tolist()
    assert blank == [*[""] * 4, "neither a control nor given a compound"]


def test_controls_among_the_compounds():
    """A map of one column: DMSO, a reference drug as the other control, and drugs."""
    table = wells(compound=["reference", "DMSO", "drug", "drug", "DMSO"])
    given = {**COLUMNS, "control": "compound", "negative": "reference"}
    found = well_kinds(table, **{**given, "positive": "DMSO"})
    assert found["kind"].dropna().to_dict() == {0: "reference", 1: "DMSO", 4: "DMSO"}
    assert found["compound"].dropna().to_dict() == {2: "drug", 3: "drug"}


def test_names_that_differ_by_case_alone():
    """Half of a screen was left out for a capital letter."""
    for state in ("Infected", "infected ", "Mock"):
        spelled = wells(state=["mock", "infected", "infected", state, "uv"])
        with pytest.raises(ValueError, match=rf"well A04, has the state '{state}', wh"):
            well_kinds(spelled, **COLUMNS)
    with pytest.raises(ValueError, match=r"No well is a control 'Mock'.*'mock'"):
        well_kinds(wells(), **{**COLUMNS, "negative": "Mock"})
    given = wells(compound=[None, "dmso", "drug", "drug", None])
    assert well_kinds(given, **COLUMNS)["kind"][1] == "infected"
    names = pd.Series(["Aspirin", "aspirin", None, "drug", "drug"])
    assert spelled_alike(names) == [["Aspirin", "aspirin"]]


def test_what_controls_were_given_is_told():
    given = wells(compound=["water", "DMSO", "drug", "drug", None])
    with pytest.raises(ValueError, match=r"that are 'mock' were given \['water'\]: n"):
        well_kinds(given, **COLUMNS)


def test_a_plate_of_another_name_is_shown():
    others = plate_map().replace({"plate": {"2": "P2"}})
    with pytest.raises(ValueError, match=r"The plate '2' .* has \['1', 'P2'\]: call"):
        join_plate_map(KNOWN, others)


def test_a_third_state_of_all_treated_wells_is_told():
    given = wells(state=["mock", "infected", "sample", "sample", "uv"])
    message = r"well A03 \(and 1 more\) has a compound, but is 'sample', not 'infected'"
    with pytest.raises(ValueError, match=message):
        well_kinds(given, **COLUMNS)


@pytest.mark.parametrize("dose", ["1.000", "0.5"])
def test_a_point_that_may_part_thousands(tmp_path, dose):
    path = tmp_path / "map.csv"
    path.write_text(f"plate;well;dose\n1.001;A1;10\n1.001;A2;{dose}\n1.002;A3;\n")
    if dose == "0.5":
        assert read_plate_map(path)["dose"].tolist()[:2] == ["10", "0.5"]
    else:
        with pytest.raises(ValueError, match=r"map\.csv': '1\.000' .* may be 1000"):
            read_plate_map(path)


def test_names_are_composed(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("well,compound\nA01,u\N{COMBINING DIAERESIS}\n", encoding="utf-8")
    composed = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"
    table = read_plate_map(path)
    assert table["compound"].tolist() == [composed]
    apart = pd.DataFrame({"plate": ["u\N{COMBINING DIAERESIS}"], "well": ["A01"]})
    joined, _ = join_plate_map(apart, table.assign(plate=composed))
    assert joined["compound"].tolist() == [composed]
    assert joined["compound"].dtype == table["compound"].dtype
    known = apart.astype({"plate": "category"}).assign(line=pd.array(["x"], "string"))
    joined, _ = join_plate_map(known, table.assign(plate=composed))
    assert joined["line"].dtype == "string"
    twice = f"well,{composed},u\N{COMBINING DIAERESIS}\nA01,1,2\n"
    path.write_text(twice, encoding="utf-8")
    with pytest.raises(ValueError, match="several columns"):
        read_plate_map(path)


def test_kind_errors():
    with pytest.raises(ValueError, match=r"no column 'dose', but .* Is 'Dose' meant"):
        well_kinds(wells().rename(columns={"dose": "Dose"}), **COLUMNS)
    with pytest.raises(ValueError, match=r"has no concentration: .* any one number"):
        well_kinds(wells(dose=None), **COLUMNS)
    with pytest.raises(ValueError, match=r"No well is a control 'healthy'.*'mock'"):
        well_kinds(wells(), **{**COLUMNS, "negative": "healthy"})
    with pytest.raises(ValueError, match="No well is treated"):
        well_kinds(wells(compound="DMSO"), **COLUMNS)
    with pytest.raises(ValueError, match="'W0' is no well"):
        well_kinds(wells(well="W0"), **COLUMNS)
    for odd in ("-1", "inf", "nan"):
        with pytest.raises(ValueError, match=f"concentration '{odd}': a number from 0"):
            well_kinds(wells(dose=odd), **COLUMNS)
    odd = ["", "", "0,3", None, ""]
    with pytest.raises(
        ValueError, match=r"well A03 \(and 1 more\), treated with 'drug'.*'0,3'"
    ):
        well_kinds(wells(dose=odd), **COLUMNS)


@pytest.mark.parametrize("name", ["map.csv", "map.parquet"])
def test_blank_last_rows_are_none(tmp_path, name):
    """As spreadsheets save lines that were once filled."""
    table = pd.DataFrame(
        {"well": ["A1", "A2", None, None], "compound": ["x", None, None, None]}
    )
    write = {"csv": table.to_csv, "parquet": table.to_parquet}
    write[name.partition(".")[2]](tmp_path / name, index=False)
    wells = pd.DataFrame({"well": ["A01", "A02"]})
    X = ImageCollection.from_array(np.zeros((2, 1, 1, 1)), metadata=wells)
    for told in (tmp_path / name, table):
        joined = X.with_plate_map(told).metadata
        assert joined["compound"].fillna("none").tolist() == ["x", "none"]
