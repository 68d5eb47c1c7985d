"""Tables in files are text, with the usual names."""

import gzip

import pandas as pd
import pytest

from gandl._tables import read_table, with_usual_names
from gandl.images import read_plate_map


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.csv", "Plate,Well,compound\n007,A1,NA\n"),
        ("map.csv", "\ufeffPlate,Well,compound\r\n007,A1,NA\r\n"),
        ("map.tsv", "Metadata_Plate\tMetadata_Well\tcompound\n007\tA1\tNA\n"),
        ("map.csv", "Plate;Well;compound\n007;A1;NA\n"),
        ("map.csv", "\nPlate\tWell\tcompound\n007\tA1\tNA\n"),
        ("ä map.txt", "plate\twell\tcompound\n007\tA1\tNA\n"),
    ],
)
def test_tables_are_text(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    table = read_table(tmp_path / name)
    assert table.to_dict("records") == [
        {"plate": "007", "well": "A1", "compound": "NA"}
    ]


def test_semicolons_of_a_zipped_csv_and_of_a_grid(tmp_path):
    path = tmp_path / "map.csv.gz"
    path.write_bytes(gzip.compress(b"well;dose\nA1;0,5\n"))
    assert read_plate_map(path).to_dict("list") == {"well": ["A1"], "dose": ["0,5"]}
    lines = [";".join(["dose", *(str(k + 1) for k in range(12))])]
    lines += [";".join([letter, *["0,5"] * 12]) for letter in "ABCDEFGH"]
    (tmp_path / "grid.csv").write_text("\n".join(lines))
    assert read_plate_map(tmp_path / "grid.csv")["dose"].tolist() == ["0,5"] * 96


def damaged(content):
    """Compressed files: none at all, cut, of a wrong sum, of codes that are none."""
    whole = gzip.compress(content, mtime=0)
    yield content
    yield whole[:-12]
    yield whole[:-8] + bytes(8)
    yield whole[:10] + b"\xff" * 8 + whole[18:]


def test_what_is_no_table(tmp_path):
    path = tmp_path / "map.csv"
    for content in (b"", b"\xff\xfe\x00\x01", b'"open quote\n1,2'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"map\.csv' is no table"):
            read_table(path)
    for bad in damaged(b"well,compound\n" + b"A1,x\n" * 999):
        (tmp_path / "map.csv.gz").write_bytes(bad)
        for read in (read_table, read_plate_map):
            with pytest.raises(ValueError, match=r"map\.csv\.gz' is no table"):
                read(tmp_path / "map.csv.gz")
    with pytest.raises(ValueError, match="several columns 'plate'"):
        with_usual_names(pd.DataFrame([["1", "2"]], columns=["Plate", "plate"]))


def test_parquet_is_text_too(tmp_path):
    table = pd.DataFrame(
        {"Metadata_Plate": [7, 8], "dose": [0.5, None], "site": [1.0, None]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").to_dict("list") == {
        "plate": ["7", "8"],
        "dose": ["0.5", None],
        "site": ["1", None],
    }
