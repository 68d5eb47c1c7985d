"""What a collection pickles to, hashes to, and where its pixels stay."""

import copy
import datetime
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest

from gandl.images import ImageCollection, percentile_range


def test_pickle_round_trip(X, same):
    for Y in (X, X[[5, 2, 2]], X[3:].tile(5), X.with_channels(["b"]), X[[]]):
        same(Y, pickle.loads(pickle.dumps(Y)))
        same(Y, copy.deepcopy(Y))


def test_pickle_is_small(folder, pixels, table):
    table = pd.concat([table] * 50, ignore_index=True)
    X = ImageCollection.from_table(table, root=folder)
    assert len(pickle.dumps(X)) < 200 * len(X)
    assert len(pickle.dumps(X[:10])) < 4000


@pytest.mark.parametrize(
    "column",
    [
        ["x", None, "x", "é"],
        np.array(["x", "y", "x", "y"], dtype=object),
        pd.array(["x", pd.NA, "x", "y"], dtype="string"),
        [1.5, np.nan, 2.5, 0.0],
        pd.array([1, pd.NA, 3, 4], dtype="Int64"),
        pd.Categorical(["b", "a", "b", None]),
        pd.date_range("2026-01-01", periods=4),
        pd.date_range("2026-01-01", periods=4, tz="UTC"),
        [True, False, True, False],
        [(1, 2), "mixed", 3, None],
    ],
    ids=str,
)
def test_metadata_of_any_type_keeps_its_values_and_hash(pixels, column, same):
    table = pd.DataFrame({"column": column, 3: range(4)})
    X = ImageCollection.from_array(pixels[:4], metadata=table)
    same(X, pickle.loads(pickle.dumps(X)))
    same(X[[2, 0]], pickle.loads(pickle.dumps(X[[2, 0]])))
    same(X[1:3], X[[1, 2]])
    same(X[1:][:2], X[:3][1:])
    assert joblib.hash(X[1:3]) != joblib.hash(X[:2])


SCRIPT = """
import sys, joblib, pandas as pd
from gandl.images import ImageCollection
table = pd.read_csv(sys.argv[2], dtype={"plate": str})
X = ImageCollection.from_table(table, root=sys.argv[1])
print(joblib.hash(X), joblib.hash(X.with_intensity_range("plate")[3:].tile(5)))
assert "torch" not in sys.modules
"""


def test_hash_in_another_process(folder, table):
    table.to_csv(folder / "table.csv", index=False)
    table = pd.read_csv(folder / "table.csv", dtype={"plate": str})
    X = ImageCollection.from_table(table, root=folder)
    expected = [joblib.hash(X)]
    expected.append(joblib.hash(X.with_intensity_range("plate")[3:].tile(5)))
    command = [sys.executable, "-c", SCRIPT, str(folder), str(folder / "table.csv")]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    assert output.stdout.split() == expected


def test_hash_depends_on_all_that_matters(X, folder, table):
    Y = X.with_intensity_range("plate")
    views = [X, X[1:], X[::-1], X.with_channels(["a"]), X.tile(6), Y, X.tile(6)[1:]]
    views += [X.with_channels(["b"]), X.tile((6, 5)), Y.with_channels(["b"])]
    views += [ImageCollection.from_table(table, root=folder, channels=list("xyz"))]
    table["dose"] += 1
    views += [ImageCollection.from_table(table, root=folder, channels=list("abc"))]
    assert len({joblib.hash(view) for view in views}) == len(views)


def test_touched_file_changes_the_hash(X, folder, table):
    path = folder / table["path"][3]
    os.utime(path, ns=(1, 1))
    Y = ImageCollection.from_table(table, root=folder, channels=["a", "b", "c"])
    assert joblib.hash(X) != joblib.hash(Y)
    assert joblib.hash(X[4:]) == joblib.hash(Y[4:])
    with pytest.raises(ValueError, match=r"image 3\.tif' has changed since"):
        X[3]
    np.asarray(Y)


# Arrays.


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float32", ">u2"])
def test_array_in_memory(pixels, table, dtype, same):
    pixels = pixels.astype(dtype)
    X = ImageCollection.from_array(pixels, metadata=table.set_index("well"))
    assert X.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(np.asarray(X), pixels)
    assert np.shares_memory(X[3:]._source.array, pixels)
    assert X.channels == ("channel_0", "channel_1", "channel_2")
    assert X.metadata.index.tolist() == list(range(24))
    same(X, pickle.loads(pickle.dumps(X)))
    same(X[5:7].tile(5), pickle.loads(pickle.dumps(X[5:7].tile(5))))
    assert len(pickle.dumps(X[:1])) < pixels[0].nbytes + 2000


def test_array_layouts_have_one_hash(pixels, same):
    X = ImageCollection.from_array(pixels[:, :1])
    flat = np.ascontiguousarray(pixels[:, 0])
    same(X, ImageCollection.from_array(flat[:, None]))
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    Y = ImageCollection.from_array(last)
    np.testing.assert_array_equal(np.asarray(Y), pixels)
    same(Y, pickle.loads(pickle.dumps(Y)))
    same(Y[2:5], ImageCollection.from_array(pixels)[2:5])


def test_memmap_stays_on_disk(mapped, pixels, same):
    views = [
        (mapped, pixels),
        (mapped[5:9], pixels[5:9]),
        (mapped[::-2, ::-1, 1:], pixels[::-2, ::-1, 1:]),
        (mapped.transpose(0, 1, 3, 2), pixels.transpose(0, 1, 3, 2)),
        (np.asarray(mapped)[2:], pixels[2:]),
        (mapped[:, :1, None, 3], pixels[:, :1, None, 3]),
    ]
    for images, expected in views:
        X = ImageCollection.from_array(images)
        assert len(pickle.dumps(X)) < 2000
        np.testing.assert_array_equal(np.asarray(X), expected)
        same(X, pickle.loads(pickle.dumps(X)))
        np.testing.assert_array_equal(
            np.asarray(X[1:].tile(1)[3]), np.asarray(X[1:].tile(1))[3]
        )
    del images, views
    restored = pickle.loads(pickle.dumps(X))
    assert restored.dtype == np.uint16


def test_memmap_is_not_loaded(tmp_path):
    # 64 GiB that take no disk: copying or casting them would fail.
    path = tmp_path / "sparse.bin"
    with open(path, "wb") as file:
        file.truncate(2**36)
    mapped = np.memmap(path, np.uint16, "r", shape=(2**21, 1, 128, 128))
    X = ImageCollection.from_array(mapped)
    assert X[-1].shape == (1, 128, 128)
    assert percentile_range(X, max_images=4).tolist() == [[0, 0]]
    with pytest.raises(MemoryError, match=r"64 GiB.*byte_limit of 4 GiB"):
        np.asarray(X)


def test_memmap_file_that_changed(tmp_path, mapped, pixels):
    X = ImageCollection.from_array(mapped)
    os.utime(tmp_path / "pixels.npy", ns=(1, 1))
    with pytest.raises(ValueError, match=r"pixels\.npy' has changed since"):
        X[0]
    (tmp_path / "pixels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"pixels\.npy"):
        X[0]


def test_memmap_just_written(tmp_path, pixels):
    path = tmp_path / "new.bin"
    mapped = np.memmap(path, np.uint16, "w+", shape=pixels.shape)
    mapped[:] = pixels
    X = ImageCollection.from_array(mapped)
    restored = pickle.loads(pickle.dumps(X))
    np.testing.assert_array_equal(np.asarray(restored), pixels)


def test_copy_on_write_memmap_keeps_what_was_written(tmp_path, mapped):
    own = np.load(tmp_path / "pixels.npy", mmap_mode="c")
    own[0] = 7
    X = ImageCollection.from_array(own)
    assert (pickle.loads(pickle.dumps(X))[0] == 7).all()


@pytest.mark.parametrize(
    "value", [datetime.date(2026, 1, 1), np.float64(0.5), (1, 2), [1], np.nan]
)
def test_equal_objects_hash_alike_whether_shared_or_not(pixels, value):
    shared = pd.Series([value] * 4, dtype=object)
    apart = pd.Series([copy.deepcopy(value) for _ in range(4)], dtype=object)
    apart = pd.Series(pickle.loads(pickle.dumps(list(apart))), dtype=object)
    hashes = {
        joblib.hash(ImageCollection.from_array(pixels[:4], metadata={"c": column}))
        for column in (shared, apart)
    }
    assert len(hashes) == (1 if value != [1] else 2)  # a list may change


def test_metadata_with_a_column_twice(pixels):
    table = pd.DataFrame([[0, 1]] * 4, columns=["dose", "dose"])
    with pytest.raises(ValueError, match="several columns 'dose'"):
        ImageCollection.from_array(pixels[:4], metadata=table)
