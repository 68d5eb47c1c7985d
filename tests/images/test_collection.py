import pickle
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import tifffile
from _images import write_channels
from joblib import Parallel, delayed

from gandl.images import ImageCollection, percentile_range


def test_describes_itself(X, pixels):
    assert X.shape == pixels.shape
    assert X.ndim == 4
    assert X.dtype == np.uint16
    assert X.nbytes == pixels.nbytes
    assert X.byte_limit == 4 * 2**30
    assert len(X) == len(pixels)
    assert X.channels == ("a", "b", "c")
    assert X.intensity_range is None
    assert repr(X) == (
        "ImageCollection(24 images, channels: a, b, c, 12 x 10 pixels, uint16, "
        "3 plates)"
    )


def test_reads_what_is_there(X, pixels):
    np.testing.assert_array_equal(np.asarray(X), pixels)
    np.testing.assert_array_equal(X[5], pixels[5])
    np.testing.assert_array_equal(X[-1], pixels[-1])
    np.testing.assert_array_equal(X[np.int64(3), ...], pixels[3])
    np.testing.assert_array_equal(np.stack(list(X)), pixels)
    assert np.asarray(X, dtype="float32").dtype == np.float32
    with pytest.raises(ValueError, match="a copy"):
        np.asarray(X, copy=False)


KEYS = [
    slice(None),
    slice(3, 17, 5),
    slice(None, None, -1),
    [],
    [4, 4, -1],
    np.array([7, 2]),
    np.arange(24) % 3 == 0,
    (np.arange(24) % 3 == 0).tolist(),
    pd.Series(np.arange(24) > 20),
    range(2, 5),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_index_gives_a_view(X, pixels, table, key):
    rows = np.arange(24)[key if isinstance(key, slice) else list(key) or slice(0)]
    for view in (X[key], X[key, ...]):
        assert isinstance(view, ImageCollection)
        np.testing.assert_array_equal(np.asarray(view), pixels[rows])
        expected = table.drop(columns="path").iloc[rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(view.metadata, expected)
    np.testing.assert_array_equal(X.load_batch(key), pixels[rows])


def test_a_mask_of_rows_in_another_order_is_refused(X):
    mask = X.metadata.sort_values("dose", ascending=False)["dose"] > 0
    for kind in (bool, "boolean"):
        with pytest.raises(IndexError, match=r"pass mask\.to_numpy"):
            X[mask.astype(kind)]
    assert len(X[mask.to_numpy()]) == mask.sum()
    others = mask.set_axis(np.arange(24) + 100)  # of a table that was cut before
    assert len(X[others]) == mask.sum()


def test_groups_in_another_order_are_refused(X):
    by = X.metadata.sort_values("well", ascending=False, kind="stable")["plate"]
    assert not by.index.equals(X.metadata.index)
    for group in (X.with_intensity_range, X.with_illumination):
        with pytest.raises(ValueError, match=r"pass by\.sort_index\(\), or"):
            group(by=by)
    expected = X.with_intensity_range(by="plate").intensity_range
    found = X.with_intensity_range(by=by.sort_index()).intensity_range
    np.testing.assert_array_equal(found, expected)


def test_views_read_no_file(X, folder, table):
    for path in table["path"]:
        (folder / path).unlink()
    view = X[3:][[0, 5, 7]].select("dose > 0").tile(4).with_channels(["c"])
    assert view.shape == (27, 1, 4, 4)
    with pytest.raises(FileNotFoundError, match=r"image 3\.tif"):
        view[0]


@pytest.mark.parametrize(
    "key", [24, -25, [24], True, 1.5, [0.5], "a", None, (1, 2), [[0, 1]], [True, False]]
)
def test_invalid_index(X, key):
    with pytest.raises(IndexError):
        X[key]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint64", "int64"])
def test_positions_of_any_type_of_integer(dtype):
    numbers = np.arange(300).reshape(-1, 1, 1, 1)  # more than fit into eight bits
    X = ImageCollection.from_array(numbers)
    rows = np.array([23, 0, 7, 7], dtype=dtype)
    assert X.load_batch(rows).ravel().tolist() == [23, 0, 7, 7]
    if np.iinfo(dtype).min < 0:
        assert X.load_batch(-1 - rows).ravel().tolist() == [276, 299, 292, 292]


def test_view_of_view(X, pixels):
    np.testing.assert_array_equal(np.asarray(X[4:][::2][[1, 3]]), pixels[[6, 10]])


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
def test_load_batch(X, pixels, n_jobs):
    rows = np.array([5, 1, 5, 20, -1])
    np.testing.assert_array_equal(X.load_batch(rows, n_jobs=n_jobs), pixels[rows])


def test_select(X, pixels):
    view = X.select("plate == '1053597801' and dose > 0.5")
    rows = [i for i in range(24) if i % 3 == 1 and i / 23 > 0.5]
    np.testing.assert_array_equal(np.asarray(view), pixels[rows])
    assert len(X.select("dose > 2")) == 0
    with pytest.raises(
        ValueError, match=r"'plate > dose': .* the columns \['plate'.*text"
    ):
        X.select("plate > dose")
    for query in (
        "plate != 1053597801 and dose > 0",
        "dose > 0 & (3 == plate)",
        "~(`plate` in [1, 2])",
    ):
        with pytest.raises(ValueError, match="compares the text 'plate' with a number"):
            X.select(query)
    assert len(X.select("plate != '7'")) == len(X.select("dose != 7")) == len(X)


@pytest.mark.parametrize("asked", ["\u00b5", "\u03bc"])
@pytest.mark.parametrize("heading", ["\u00b5", "\u03bc"])
def test_select_by_either_character_of_micro(pixels, heading, asked):
    unit, text = [f"{heading}M", "nM"] * 12, ["1", "2"] * 12
    dose, log = np.arange(24), np.arange(24) / 2
    names = [f"dose_{heading}M", f"dose ({heading}M)", "unit", f"text_{heading}"]
    metadata = dict(zip(names, (dose, log, unit, text), strict=True))
    X = ImageCollection.from_array(pixels, metadata=metadata)
    assert len(X.select(f"dose_{asked}M > 20")) == 3
    assert len(X.select(f"`dose_{asked}M` > 20 and unit == '{heading}M'")) == 1
    assert len(X.select(f"`dose ({asked}M)` > 11")) == 1
    assert len(X.select(f"unit == '{asked}M'")) == (12 if asked == heading else 0)
    with pytest.raises(ValueError, match="with a number"):
        X.select(f"text_{asked} > 1")
    with pytest.raises(ValueError, match=f"columns .'dose_{heading}M'"):
        X.select("none > 1")


@pytest.mark.parametrize("size", [1, 4, 5, (12, 10), (7, 3)])
@pytest.mark.parametrize("stride", [None, 1, 2])
def test_tiles_against_a_naive_loop(X, pixels, size, stride):
    if stride == 2 and size == 1:
        with pytest.raises(ValueError, match="stride=2, size=1"):
            X.tile(size, stride)
        return
    height, width = size if isinstance(size, tuple) else (size, size)
    tiles = X[:2].tile(size, stride)
    covered = np.zeros((2, 12, 10), dtype=int)
    table = tiles.metadata
    for tile, (_, row) in zip(tiles, table.iterrows(), strict=True):
        i, y, x = int(row["well"][1:]), row["tile_y"], row["tile_x"]
        window = np.s_[y : y + height, x : x + width]
        np.testing.assert_array_equal(tile, pixels[i][:, *window])
        covered[i][window] += 1
    assert covered.min() >= 1
    if stride is None and 12 % height == 0 and 10 % width == 0:
        assert covered.max() == 1
    for column, largest in (("tile_y", height), ("tile_x", width)):
        steps = np.diff(np.sort(table[column].unique()))
        assert (steps <= (stride or largest)).all()
        assert np.ptp(steps) <= 1 if len(steps) else True


def test_tiles_of_tiles(X, pixels):
    tiles = X.tile((6, 5)).tile((3, 5))
    assert len(tiles) == 24 * 8
    row = tiles.metadata.loc[7]
    assert (row["tile_y"], row["tile_x"]) == (9, 5)
    np.testing.assert_array_equal(tiles[7], pixels[0, :, 9:, 5:])


@pytest.mark.parametrize(
    ("size", "stride"), [(0, None), (13, None), ((5, 11), None), (4, 5), (4, 0)]
)
def test_invalid_tiles(X, size, stride):
    with pytest.raises(ValueError, match="1 <= stride <= size <= image"):
        X.tile(size, stride)


def test_tile_columns_are_not_overwritten(pixels):
    X = ImageCollection.from_array(pixels, metadata={"tile_x": range(24)})
    with pytest.raises(ValueError, match="tile_x"):
        X.tile(4)


def test_with_channels(X, pixels):
    view = X.with_channels(["c", "a"])
    assert view.channels == ("c", "a")
    np.testing.assert_array_equal(np.asarray(view), pixels[:, [2, 0]])
    again = view.with_channels("a")
    np.testing.assert_array_equal(np.asarray(again), pixels[:, :1])
    with pytest.raises(ValueError, match=r"\['d'\].*\['a', 'b', 'c'\]"):
        X.with_channels(["d"])
    with pytest.raises(ValueError, match="different names"):
        X.with_channels(["a", "a"])
    with pytest.raises(ValueError, match="No such channels"):
        X.with_channels([])


@pytest.fixture
def split(tmp_path, pixels):
    table = pd.DataFrame({"row": range(24)})
    for c in range(3):
        table[f"file_{c}"] = [f"{i}_{c}.tif" for i in range(24)]
        for i in range(24):
            tifffile.imwrite(tmp_path / f"{i}_{c}.tif", pixels[i, c])
    return tmp_path, table


def test_one_file_a_channel(split, pixels):
    root, table = split
    columns = ["file_2", "file_0"]
    X = ImageCollection.from_table(table, path=columns, root=root)
    assert X.channels == ("file_2", "file_0")
    assert list(X.metadata) == ["row", "file_1"]
    np.testing.assert_array_equal(np.asarray(X), pixels[:, [2, 0]])
    named = {"dna": "file_0", "actin": "file_1", "er": "file_2"}
    X = ImageCollection.from_table(table, path=named, root=root)
    assert X.channels == ("dna", "actin", "er")
    (root / "4_1.tif").unlink()
    np.testing.assert_array_equal(
        X.with_channels(["er", "dna"]).load_batch([4]), pixels[4:5, [2, 0]]
    )
    with pytest.raises(FileNotFoundError, match=r"4_1\.tif"):
        X[4]
    with pytest.raises(ValueError, match="leave out `channels`"):
        ImageCollection.from_table(table, path=named, root=root, channels=["a"])


def test_one_file_a_channel_of_several(folder, table):
    table["other"] = table["path"]
    with pytest.raises(ValueError, match=r"image 0\.tif' holds 3 channels"):
        ImageCollection.from_table(table, path=["path", "other"], root=folder)


def test_paths_relative_to_the_working_directory(X, folder, table, monkeypatch, same):
    monkeypatch.chdir(folder)
    Y = ImageCollection.from_table(table, channels=["a", "b", "c"])
    monkeypatch.chdir("/")
    same(X, Y)


def test_intensity_range_of_each_plate(X, pixels, table, same):
    Y = X.with_intensity_range("plate", low=5, high=95)
    for i, plate in enumerate(table["plate"]):
        expected = percentile_range(pixels[table["plate"] == plate], low=5, high=95)
        np.testing.assert_array_equal(Y.intensity_range[i], expected)
    rows = [7, 3, 20]
    expected = Y.intensity_range[rows]
    np.testing.assert_array_equal(Y[rows].intensity_range, expected)
    restored = pickle.loads(pickle.dumps(Y[rows]))
    np.testing.assert_array_equal(restored.intensity_range, expected)
    same(Y[rows], restored)
    np.testing.assert_array_equal(
        Y[rows].tile(6).with_channels(["c", "a"]).intensity_range,
        expected[:, [2, 0]].repeat(4, axis=0),
    )
    wells = Y.select("well == 'A03'")
    np.testing.assert_array_equal(wells.intensity_range, expected[1:2])
    assert X.intensity_range is None


def test_intensity_range_of_other_groups(X, pixels):
    everything = X.with_intensity_range(None).intensity_range
    np.testing.assert_array_equal(everything[3], percentile_range(pixels))
    each = X.with_intensity_range(["plate", "well"], low=0, high=100).intensity_range
    np.testing.assert_array_equal(each[..., 1], pixels.max(axis=(2, 3)))
    with pytest.raises(ValueError, match=r"\['batch'\].*'plate', 'well', 'dose'"):
        X.with_intensity_range("batch")
    with pytest.raises(ValueError, match="No images"):
        X[[]].with_intensity_range("plate")


def test_intensity_range_names_the_row_of_a_bad_image(pixels, table):
    pixels = pixels.astype(np.float32)
    pixels[13, 1, 0, 0] = np.nan
    X = ImageCollection.from_array(pixels, metadata=table)
    with pytest.raises(ValueError, match="contains NaN: image 13, channel 1"):
        X.with_intensity_range("plate")


def test_is_immutable(X, pixels):
    with pytest.raises(AttributeError, match="immutable"):
        X.channels = ("x", "y", "z")
    with pytest.raises(AttributeError, match="immutable"):
        X.new = 1
    with pytest.raises(AttributeError, match="immutable"):
        del X._rows
    with pytest.raises(TypeError, match="from_folder"):
        ImageCollection()
    before = joblib.hash(X)
    metadata = X.metadata
    metadata["plate"] = "other"
    X[0][:] = 0
    np.asarray(X)[:] = 0
    assert joblib.hash(X) == before
    Y = ImageCollection.from_array(pixels)
    Y[0][:] = 0
    np.asarray(Y)[:] = 0
    assert pixels.any(axis=(1, 2, 3)).all()


def test_table_given_may_change(pixels, table):
    X = ImageCollection.from_array(pixels, metadata=table)
    table.loc[0, "plate"] = "other"
    assert X.metadata.loc[0, "plate"] == "1053597800"


def test_an_index_with_names_is_metadata(pixels, folder, table):
    expected = table.drop(columns="path")
    indexed = table.set_index(["plate", "well"])
    X = ImageCollection.from_array(pixels, metadata=indexed.drop(columns="path"))
    pd.testing.assert_frame_equal(X.metadata, expected, check_like=True)
    for on_error in ("raise", "skip"):
        X = ImageCollection.from_table(indexed, root=folder, on_error=on_error)
        pd.testing.assert_frame_equal(X.metadata, expected, check_like=True)
    X = ImageCollection.from_table(table.set_index("path"), root=folder)
    pd.testing.assert_frame_equal(X.metadata, expected)
    headless = expected.set_axis(range(expected.shape[1]), axis=1).set_index(1)
    X = ImageCollection.from_array(pixels, metadata=headless)
    assert X.metadata[1].tolist() == expected.iloc[:, 1].tolist()
    wells = pd.Index(["A01", "A02"], name="Well")
    X = ImageCollection.from_array(pixels[:2], metadata=pd.DataFrame(index=wells))
    plate_map = pd.DataFrame({"compound": ["DMSO", "taxol"]}, index=wells)
    plate_map.to_parquet(folder / "map.parquet")
    for given in (plate_map, folder / "map.parquet"):
        found = X.with_plate_map(given).metadata
        assert found["compound"].tolist() == ["DMSO", "taxol"]
    # Others are numbers of rows, or of rows elsewhere.
    X = ImageCollection.from_array(
        pixels, metadata=expected.set_axis(expected["well"].to_numpy())
    )
    assert list(X.metadata) == list(expected)


@pytest.mark.parametrize(
    ("images", "kwargs", "message"),
    [
        (np.zeros((4, 5, 6)), {}, r"\(n, C, H, W\).*\(4, 5, 6\).*images\[:, None\]"),
        (np.zeros((1, 1, 5, 6), complex), {}, "complex128"),
        (np.zeros((2, 1, 5, 6)), {"metadata": {"a": [1]}}, "1 rows for 2 images"),
        (np.zeros((2, 1, 5, 6)), {"channels": ["a", "b"]}, "must be 1 strings"),
        (np.zeros((2, 2, 5, 6)), {"channels": ["a", "a"]}, "different names"),
        (np.zeros((2, 1, 5, 6)), {"channels": [1]}, "must be 1 strings"),
    ],
)
def test_invalid_array(images, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_array(images, **kwargs)


# Files that are not as they should be.


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 12, 11), np.uint16), r"\(3, 12, 11\).*\(3, 12, 10\)"),
        (np.zeros((2, 12, 10), np.uint16), r"\(2, 12, 10\).*\(3, 12, 10\)"),
        (np.zeros((3, 12, 10), np.uint8), "uint8.*uint16"),
    ],
)
def test_odd_file(folder, table, image, message):
    write_channels(folder / table["path"][7], image)
    X = ImageCollection.from_table(table, root=folder)
    X[:7].load_batch(slice(None))
    for read in (lambda: X[7], lambda: np.asarray(X), lambda: list(X.tile(4))):
        with pytest.raises(ValueError, match=rf"image 7\.tif.*{message}"):
            read()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_truncated_file(folder, table, n_jobs):
    path = folder / table["path"][7]
    path.write_bytes(path.read_bytes()[:-100])
    X = ImageCollection.from_table(table, root=folder)
    with pytest.raises(ValueError, match=r"Cannot read .*image 7\.tif"):
        X.load_batch(slice(None), n_jobs=n_jobs)


def test_byte_limit(folder, table, pixels):
    n_bytes = pixels.nbytes
    X = ImageCollection.from_table(table, root=folder, byte_limit=n_bytes)
    np.asarray(X)
    X = ImageCollection.from_table(table, root=folder, byte_limit=n_bytes - 1)
    with pytest.raises(MemoryError, match=r"1\.609e-05 GiB.*load_batch"):
        np.asarray(X)
    np.asarray(X[1:])
    with pytest.raises(ValueError, match=r"image 0\.tif.*promises"):
        ImageCollection.from_table(table, root=folder, byte_limit=100)


def test_invalid_table(folder, table):
    make = ImageCollection.from_table
    with pytest.raises(ValueError, match=r"\['file'\].*'plate', 'well'"):
        make(table, path="file", root=folder)
    with pytest.raises(ValueError, match="no rows"):
        make(table[:0], root=folder)
    with pytest.raises(TypeError, match="DataFrame"):
        make(table["path"].tolist(), root=folder)
    with pytest.raises(ValueError, match="one name"):
        make(table[["path", "path"]], root=folder)
    table.loc[4, "path"] = None
    with pytest.raises(ValueError, match=r"Row 4 .*'path'"):
        make(table, root=folder)


# Many readers at once.


def test_threads_read_one_collection(X, pixels):
    results = {}

    def read(k):
        results[k] = np.asarray(X[k::4])

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_array_equal(results[k], pixels[k::4])


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_read_one_collection(X, mapped, pixels, backend):
    collections = [X, ImageCollection.from_array(mapped)]
    collections.append(ImageCollection.from_array(pixels))
    with Parallel(n_jobs=2, backend=backend, max_nbytes=1000) as parallel:
        for Y in collections:
            results = parallel(delayed(Y.load_batch)([k, k + 1]) for k in range(4))
            for k in range(4):
                np.testing.assert_array_equal(results[k], pixels[k : k + 2])
            assert set(parallel(delayed(joblib.hash)(Y) for _ in range(2))) == {
                joblib.hash(Y)
            }


def _handed_on(pixels):
    return pickle.dumps(ImageCollection.from_array(pixels))


def test_what_a_worker_hands_on_outlives_its_files(pixels):
    """joblib writes large arrays to files for its workers, and deletes these."""
    with Parallel(n_jobs=2, backend="loky", max_nbytes=1000) as parallel:
        (pickled,) = parallel([delayed(_handed_on)(pixels)])
    np.testing.assert_array_equal(pickle.loads(pickled), pixels)
