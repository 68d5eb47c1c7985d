"""A folder of partitions belongs to one identity, whoever comes first."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from gandl.profiles import make_profiles, read_profiles
from gandl.profiles._partitioned import PartitionedProfiles, profiles_schema

ORIGIN = {"images": "a"}


def test_eight_begin_at_once_and_one_is_first(tmp_path):
    together = threading.Barrier(8)

    def begin(k):
        together.wait()
        try:
            PartitionedProfiles(tmp_path / "out", 3, {"images": {"of": k // 4}})
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(begin, range(8)))
    first = int(found[0] != "")
    assert found[4 * first : 4 * first + 4] == [""] * 4
    others = found[4 - 4 * first : 8 - 4 * first]
    assert all(f"of was {first}, is {1 - first}" in text for text in others)
    assert os.listdir(tmp_path / "out") == ["_gandl.json"]


def test_on_disks_without_links(tmp_path, monkeypatch):
    def no_link(*paths):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    PartitionedProfiles(tmp_path, 3, {"images": {"of": 1}})
    with pytest.raises(ValueError, match="of was 1, is 2"):
        PartitionedProfiles(tmp_path, 3, {"images": {"of": 2}})


def test_a_folder_of_something_else_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"'notes\.txt', which is no partition"):
        PartitionedProfiles(tmp_path, 1, {})
    with pytest.raises(FileExistsError, match=r"notes\.txt' is a file"):
        PartitionedProfiles(tmp_path / "notes.txt", 1, {})
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(ValueError, match=r"without '_gandl\.json'"):
        read_profiles(tmp_path)


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "_gandl.json").write_text('{"partitions"')
    with pytest.raises(ValueError, match=r"_gandl\.json' is broken"):
        PartitionedProfiles(tmp_path, 1, {})
    with pytest.raises(ValueError, match=r"_gandl\.json' is broken"):
        read_profiles(tmp_path)


def written(folder, metadata, n_rows):
    schema = profiles_schema(metadata, ["feature_0"])
    starts = range(0, len(metadata), n_rows)
    partitions = PartitionedProfiles(folder, len(starts), {})
    for number, start in enumerate(starts):
        known = metadata.iloc[start : start + n_rows]
        X = np.full((len(known), 1), number, np.float32)
        partitions.write(number, make_profiles(X, known), schema, ORIGIN)
    return partitions


def test_columns_without_a_value_in_a_partition(tmp_path):
    metadata = pd.DataFrame(
        {
            "compound": [None, None, "taxol", None],
            "dose": [np.nan, np.nan, 0.5, 1.0],
            "when": pd.to_datetime([None, None, "2024-01-31", None]),
            "kind": pd.Categorical([None, "drug", "drug", "control"]),
            "count": pd.array([None, None, 3, 4], "Int64"),
        }
    )
    written(tmp_path, metadata, 2)
    expected = make_profiles(np.array([[0], [0], [1], [1]], np.float32), metadata)
    for profiles in (read_profiles(tmp_path), pd.read_parquet(tmp_path)):
        pd.testing.assert_frame_equal(profiles, expected)
        assert profiles.attrs == {}


def test_rows_are_in_order_beyond_the_digits_of_a_name(tmp_path):
    many = PartitionedProfiles(tmp_path, 100_001, {})
    assert many.path(9).name == "part-000009.parquet"
    assert many.path(100_000).name == "part-100000.parquet"


def test_a_column_of_several_kinds_is_named(tmp_path):
    with pytest.raises(ValueError, match="column 'Metadata_dose' cannot be stored"):
        profiles_schema(pd.DataFrame({"dose": ["low", 3.0]}), [])


def test_a_partition_knows_what_it_was_made_of(tmp_path):
    partitions = written(tmp_path, pd.DataFrame({"plate": ["1", "2"]}), 1)
    assert partitions.is_finished(1, ORIGIN)
    with pytest.raises(ValueError, match=r"part-00001\.parquet' was made of other im"):
        partitions.is_finished(1, {"images": "b"})
    partitions.path(1).write_bytes(b"")
    assert not partitions.is_finished(1, ORIGIN)
    partitions.path(1).unlink()
    assert not partitions.is_finished(1, ORIGIN)


def test_names_of_folders_above_are_no_columns(tmp_path):
    folder = tmp_path / "seed=4" / "out"
    folder.parent.mkdir()
    written(folder, pd.DataFrame({"plate": ["1", "2"]}), 1)
    assert list(read_profiles(folder)) == ["Metadata_Plate", "feature_0"]
