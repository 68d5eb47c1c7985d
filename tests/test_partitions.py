"""Large collections are embedded as a whole is, and what is done is done once."""

import errno
import os
import subprocess
import sys
from collections import Counter

import dask.dataframe as dd
import joblib
import numpy as np
import pandas as pd
import pytest
import tifffile
from _images import write_channels
from dask.distributed import Client, LocalCluster
from pandas.testing import assert_frame_equal

import gandl.images._sources
from gandl import GANDLFeaturizer, ImageCollection, embed_to_parquet
from gandl._partitions import partition_bounds
from gandl.profiles import make_profiles, read_profiles

N = 11  # in partitions of four, three, four


@pytest.fixture(scope="module")
def featurizer():
    network = {"channel_max": 8, "latent_dim": 8, "n_views": 2, "precision": "float32"}
    budget = {"max_kimg": 0.016, "batch_size": 8, "random_state": 0}
    pixels = np.random.default_rng(0).integers(0, 4096, (16, 2, 32, 32), dtype="uint16")
    return GANDLFeaturizer(**network, **budget).fit(pixels)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "plates"
    root.mkdir()
    rng = np.random.default_rng(1)
    for k in range(N):
        pixels = rng.integers(0, 4096, (2, 32, 32), dtype="uint16")
        write_channels(root / f"P{k // 6}_{k}.tif", pixels)
    return root


def collection(root, **how):
    return ImageCollection.from_folder(root, "{plate}_{site}.tif", **how)


@pytest.fixture
def X(root):
    return collection(root)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "embeddings"


def embed(featurizer, X, folder, **how):
    made = embed_to_parquet(featurizer, X, folder, **{"rows_per_partition": 4} | how)
    return [int(path.stem.removeprefix("part-")) for path in made]


def whole(featurizer, X):
    names = list(featurizer.get_feature_names_out())
    return make_profiles(featurizer.transform(X), X.metadata, names=names)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_rows_are_those_of_the_whole(featurizer, X, folder, rows):
    assert embed(featurizer, X, folder, rows_per_partition=np.int64(rows)) == list(
        range(-(-N // rows))
    )
    expected = whole(featurizer, X)
    assert_frame_equal(read_profiles(folder), expected, check_exact=True)
    assert_frame_equal(pd.read_parquet(folder), expected, check_exact=True)
    table = dd.read_parquet(folder).compute().reset_index(drop=True)
    assert_frame_equal(table, expected, check_exact=True, check_dtype=False)


def test_metadata_of_rows_in_another_order_is_refused(featurizer, X, folder):
    table = X.metadata.sort_values("site", ascending=False, key=lambda x: x.astype(int))
    with pytest.raises(ValueError, match=r"pass metadata\.sort_index\(\)"):
        embed(featurizer, X, folder, metadata=table)


def test_names_in_the_index_of_metadata_stay(featurizer, X, folder):
    indexed = X.metadata.set_index("plate")
    embed(featurizer, X, folder, metadata=indexed)
    expected = whole(featurizer, X)
    assert_frame_equal(read_profiles(folder), expected, check_like=True)
    numbered = X.metadata.rename_axis(index="number")
    embed(featurizer, X, folder.with_name("numbered"), metadata=numbered)
    found = read_profiles(folder.with_name("numbered"))
    assert found["Metadata_number"].tolist() == list(range(N))


def test_metadata_of_polars(featurizer, X, folder):
    polars = pytest.importorskip("polars")
    embed(featurizer, X, folder, metadata=polars.from_pandas(X.metadata))
    assert_frame_equal(read_profiles(folder), whole(featurizer, X))


def test_what_is_there_is_not_computed_again(featurizer, X, folder):
    embed(featurizer, X, folder)
    path = folder / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    before = times(folder)
    assert embed(featurizer, X, folder) == [1]
    after = times(folder)
    assert {name for name in before if before[name] != after[name]} == {path.name}
    assert_frame_equal(read_profiles(folder), whole(featurizer, X))


KILLED = """
import sys, time
import joblib, pandas
from gandl import embed_to_parquet

def write_half(table, part, **how):
    if part.name.startswith(".part-00001"):
        write(table, part, **how)
        part.write_bytes(part.read_bytes()[:1000])
        print("writing", flush=True)
        time.sleep(600)
    write(table, part, **how)

write, pandas.DataFrame.to_parquet = pandas.DataFrame.to_parquet, write_half
embed_to_parquet(*joblib.load(sys.argv[1]), sys.argv[2], rows_per_partition=4)
"""


def test_a_killed_process_leaves_whole_partitions(featurizer, X, folder, tmp_path):
    joblib.dump((featurizer, X), tmp_path / "work")
    command = [sys.executable, "-c", KILLED, tmp_path / "work", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.kill()
    before = times(folder)
    assert list(before) == ["part-00000.parquet"]
    (left,) = folder.glob(".part-*")
    assert len(pd.read_parquet(folder)) == 4
    with pytest.raises(ValueError, match=r"2 of 3 partitions .* 'part-00001.parquet'"):
        read_profiles(folder)
    assert embed(featurizer, X, folder) == [1, 2]
    assert before.items() <= times(folder).items()
    assert_frame_equal(read_profiles(folder), whole(featurizer, X), check_exact=True)
    # It might have been of a process at work; an hour later it is of none.
    assert left.exists()
    os.utime(left, (0, 0))
    folder.joinpath("part-00001.parquet").unlink()
    assert embed(featurizer, X, folder) == [1]
    assert not list(folder.glob(".*"))
    assert_frame_equal(read_profiles(folder), whole(featurizer, X), check_exact=True)


def test_processes_take_their_share(featurizer, X, folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert embed(featurizer, X, folder) == [1]
    monkeypatch.setenv("RANK", "0")
    assert embed(featurizer, X, folder) == [0, 2]
    assert_frame_equal(read_profiles(folder), whole(featurizer, X))
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match=r"RANK='2' and WORLD_SIZE='2'"):
        embed(featurizer, X, folder)


def test_torchrun(featurizer, X, root, folder, tmp_path):
    featurizer.save(tmp_path / "model.safetensors")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    work = ["-m", "gandl", "embed", tmp_path / "model.safetensors", root]
    how = ["--pattern", "{plate}_{site}.tif", "--rows-per-partition", "2"]
    command = [sys.executable, *launch, *work, *how, "--out", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, expected = read_profiles(folder), whole(featurizer, X)
    names = list(featurizer.get_feature_names_out())
    assert_frame_equal(found[names], expected[names], check_exact=True)
    assert list(found["Metadata_Site"]) == list(expected["Metadata_Site"])


@pytest.fixture(scope="module")
def client():
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**how) as cluster, Client(cluster) as client:
        yield client


def test_dask(featurizer, X, root, folder, client):
    (root / "P0_5.tif").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Partition 1 could not .*P0_5\.tif"):
        embed(featurizer, X, folder, client=client)
    before = times(folder)
    assert sorted(before) == ["part-00000.parquet", "part-00002.parquet"]
    write_channels(root / "P0_5.tif", X[4])
    mended = collection(root)
    assert embed(featurizer, mended, folder, client=client) == [1]
    assert embed(featurizer, mended, folder, client=client) == []
    assert before.items() <= times(folder).items()
    found = read_profiles(folder)
    assert_frame_equal(found, whole(featurizer, mended), check_exact=True)


@pytest.mark.parametrize("how", ["here", "Dask"])
def test_images_of_other_units_are_warned_of_once(featurizer, folder, how, request):
    pixels = np.random.default_rng(0).random((48, 2, 32, 32), dtype="float32")
    X = ImageCollection.from_array(pixels)
    client = request.getfixturevalue("client") if how == "Dask" else None
    with pytest.warns(UserWarning, match="Of 16 images, next to no pixel") as told:
        made = embed(featurizer, X, folder, rows_per_partition=16, client=client)
    assert made == [0, 1, 2]
    (message,) = (str(w.message) for w in told if w.category is UserWarning)
    assert message.startswith("Partition ")
    assert told[0].filename.endswith("test_partitions.py")


def test_dask_maps_over_the_table_of_a_collection(featurizer, X, client):
    def embedded(part):
        return pd.DataFrame(featurizer.transform(X[part.index]), part.index)

    table = dd.from_pandas(X.metadata, chunksize=4)
    meta = embedded(X.metadata[:1])
    found = table.map_partitions(embedded, meta=meta).compute()
    assert np.array_equal(found, featurizer.transform(X))


def test_a_client_needs_the_extra(featurizer, X, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.dataframe", None)
    with pytest.raises(ImportError, match=r"gandl\[dask\]"):
        embed(featurizer, X, folder, client=object())


def test_a_file_that_cannot_be_read_holds_up_no_other_partition(
    featurizer, X, root, folder
):
    for name in ("P0_1.tif", "P0_5.tif"):
        (root / name).unlink()
    message = r"Partition 0 could not be embedded: .*P0_1\.tif.* with 1 other partition"
    with pytest.raises(ValueError, match=message):
        embed(featurizer, X, folder)
    assert list(times(folder)) == ["part-00002.parquet"]
    for name, pixels in (("P0_1.tif", X[0]), ("P0_5.tif", X[2])):
        write_channels(root / name, pixels)
    mended = collection(root)
    assert embed(featurizer, mended, folder) == [0, 1]
    assert_frame_equal(read_profiles(folder), whole(featurizer, mended))


def test_images_that_were_left_out_are_left_out(featurizer, root, folder):
    (root / "P0_1.tif").write_bytes(b"no image")
    X = collection(root, on_error="skip")
    embed(featurizer, X, folder)
    found = read_profiles(folder)
    assert len(found) == N - 1
    assert_frame_equal(found, whole(featurizer, X), check_exact=True)


def test_a_full_disk_ends_it(featurizer, X, folder, monkeypatch):
    def full(*args, **how):
        calls.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    calls = []
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(
        OSError, match=r"No space left on device: .*part-00000.parquet'"
    ):
        embed(featurizer, X, folder)
    assert len(calls) == 1


def other_weights(featurizer):
    weights = {name: np.array(a) for name, a in featurizer.weights_.items()}
    next(a for name, a in weights.items() if name.startswith("disc")).flat[0] += 1
    featurizer.weights_ = weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weights, r"featurizer weights was '\w+', is '\w+'\. Embed"),
        (lambda f: f.set_params(features=8), "featurizer features was 'pooled', is 8"),
        (lambda f: f.set_params(n_views=3), "featurizer n_views was 2, is 3"),
        (lambda f: f.set_params(whiten=False), "featurizer whitening was"),
        (lambda f: f.set_params(intensity="image"), "was fitted with another"),
        (lambda f: f.set_params(precision="bfloat16"), "'float32', is 'bfloat16'"),
        (lambda f: setattr(f, "intensity_range_", f.intensity_range_ + 1), "range was"),
    ],
)
def test_another_featurizer_is_refused(featurizer, X, folder, change, message):
    embed(featurizer, X[:2], folder)
    other = joblib.load(joblib.dump(featurizer, folder.with_name("copy"))[0])
    assert embed(other, X[:2], folder) == []
    change(other)
    with pytest.raises(ValueError, match=message):
        embed(other, X[:2], folder)


def touched(X, root):
    os.utime(root / "P0_5.tif", (0, 0))
    return {"X": collection(root)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, _: {"X": X[1:]}, r"images shape was \[11, .*, is \[10, 2, 32, 32\]"),
        (lambda X, _: {"X": X[::-1]}, r"part-00000\.parquet' .* other images"),
        (touched, r"'.*part-00001\.parquet' was made of other images than partition 1"),
        (lambda X, _: {"metadata": X.metadata[["site"]]}, r"columns was \['plate', 's"),
        (lambda X, _: {"metadata": X.metadata.assign(site="3")}, "of other metadata"),
        (lambda X, _: {"metadata": X.metadata[1:]}, "metadata has 10 rows for 11"),
        (lambda X, _: {"rows_per_partition": 3}, "rows per partition was 4, is 3"),
    ],
)
def test_other_images_are_refused(featurizer, X, root, folder, change, message):
    embed(featurizer, X, folder)
    before = times(folder)
    with pytest.raises(ValueError, match=message):
        embed(featurizer, **{"X": X, "folder": folder} | change(X, root))
    assert times(folder) == before


def test_only_what_embeds_is_taken(X, folder, featurizer):
    with pytest.raises(ValueError, match="GANDLFeaturizer embeds, got a str"):
        embed("model.safetensors", X, folder)
    with pytest.raises(ValueError, match="not fitted"):
        embed(GANDLFeaturizer(), X, folder)
    with pytest.raises(ValueError, match="rows_per_partition == 0, must be >= 1"):
        embed(featurizer, X, folder, rows_per_partition=0)
    with pytest.raises(ValueError, match="1 channels"):
        embed(featurizer, X.with_channels("channel_0"), folder)
    assert not folder.exists()


def test_tiles_of_an_image_stay_together(featurizer, folder, tmp_path, monkeypatch):
    def counting(path, *args):
        read[path] += 1
        return original(path, *args)

    for k in range(3):
        tifffile.imwrite(
            tmp_path / f"P_{k}.tif",
            np.full((2, 64, 64), k, "uint16"),
            metadata={"axes": "CYX"},
        )
    tiles = collection(tmp_path).tile(32)
    read, original = Counter(), gandl.images._sources.read_planes
    monkeypatch.setattr(gandl.images._sources, "read_planes", counting)
    assert embed(featurizer, tiles, folder, rows_per_partition=6) == [0, 1, 2]
    assert set(read.values()) == {1}
    assert_frame_equal(read_profiles(folder), whole(featurizer, tiles))


@pytest.mark.parametrize(
    ("most", "bounds"),
    [(10, [0, 8, 16, 24]), (8, [0, 8, 16, 24]), (3, [0, 4, 8, 12, 16, 20, 24])],
)
def test_bounds_between_images(most, bounds):
    X = ImageCollection.from_array(np.zeros((6, 1, 8, 8), "uint8")).tile(4)
    assert partition_bounds(X, most).tolist() == bounds


def test_bounds_of_whole_images():
    X = ImageCollection.from_array(np.zeros((7, 1, 8, 8), "uint8"))
    assert partition_bounds(X, 3).tolist() == [0, 3, 6, 7]
    # Of rows in any order, none is left out.
    assert partition_bounds(X[[3, 1, 1, 0]], 2).tolist() == [0, 1, 3, 4]


def test_a_damaged_partition_is_named(featurizer, X, folder):
    embed(featurizer, X, folder)
    path = folder / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-00001.parquet' is damaged: .* Delete"):
        read_profiles(folder)
    path.unlink()
    assert embed(featurizer, X, folder) == [1]


@pytest.mark.parametrize("text", ["{}", "[]", "3"])
def test_a_folder_whose_record_is_none_is_told(featurizer, X, folder, text):
    embed(featurizer, X, folder)
    (folder / "_gandl.json").write_text(text)
    with pytest.raises(ValueError, match=r"_gandl.json' is broken"):
        read_profiles(folder)


def test_a_partition_that_cannot_be_read_is_not_called_damaged(
    featurizer, X, folder, monkeypatch
):
    embed(featurizer, X, folder)

    def fails(*paths, **how):
        raise OSError(116, "Stale file handle", str(folder / "part-00000.parquet"))

    monkeypatch.setattr("pyarrow.parquet.read_table", fails)
    with pytest.raises(OSError, match=r"Stale file handle.*part-00000"):
        read_profiles(folder)
    monkeypatch.setattr("pyarrow.parquet.read_metadata", fails)
    with pytest.raises(OSError, match=r"Stale file handle.*part-00000"):
        embed(featurizer, X, folder)
