"""OME-Zarr: stores that TensorStore wrote, with metadata written by hand."""

import json
import os
import pickle
import shutil
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from _images import assert_read_by_threads, stack

from gandl.images import ImageCollection

tensorstore = pytest.importorskip("tensorstore")

AXES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
V04, V05 = "0.4", "0.5"


def write_array(path, pixels, version, chunks=None, **metadata):
    chunks = list(chunks or (*[1] * (pixels.ndim - 2), 8, 8))
    if version == V04:
        metadata = {"chunks": chunks, "dimension_separator": "/"} | metadata
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        metadata = {"chunk_grid": grid} | metadata
    store = tensorstore.open(
        {
            "driver": "zarr" if version == V04 else "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": metadata,
        },
        dtype=pixels.dtype.name,
        shape=pixels.shape,
        create=True,
    ).result()
    store[...] = pixels


def write_group(path, attributes, version):
    path.mkdir(parents=True, exist_ok=True)
    if version == V04:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps(attributes))
    else:
        ome = {"ome": {"version": V05} | attributes}
        content = {"zarr_format": 3, "node_type": "group", "attributes": ome}
        (path / "zarr.json").write_text(json.dumps(content))


def write_image(
    path, pixels, version, axes="cyx", names=("DNA", "actin"), unit="micrometer", **how
):
    """Two levels of resolution, the pixels of the first 0.5 wide."""
    described = [{"name": a, "type": AXES[a]} for a in axes]
    for axis in described:
        if axis["type"] == "space" and unit:
            axis["unit"] = unit
    levels = []
    for k, image in enumerate([pixels, pixels[..., ::2, ::2]]):
        write_array(path / str(k), image, version, **how)
        scale = [0.5 * 2**k if axis in "yx" else 1.0 for axis in axes]
        transformation = {"type": "scale", "scale": scale}
        level = {"path": str(k), "coordinateTransformations": [transformation]}
        levels.append(level)
    multiscale = {"axes": described, "datasets": levels}
    if version == V04:
        multiscale["version"] = V04
    attributes = {"multiscales": [multiscale]}
    if names:
        attributes["omero"] = {"channels": [{"label": name} for name in names]}
    write_group(path, attributes, version)


def write_plate(path, wells, version, **options):
    """``wells`` maps "B/3" to the images of its fields."""
    described = {"name": "1053597806", "wells": [{"path": well} for well in wells]}
    write_group(path, {"plate": described | {"version": version}}, version)
    for well, images in wells.items():
        fields = [{"path": str(k), "acquisition": 7} for k in range(len(images))]
        write_group(path / well, {"well": {"images": fields}}, version)
        for k, image in enumerate(images):
            write_image(path / well / str(k), image, version, **options)


@pytest.fixture(params=[V04, V05])
def version(request):
    return request.param


@pytest.fixture
def wells():
    pixels = stack(4, 2, 20, 12)
    return {"B/3": list(pixels[:2]), "AA/11": list(pixels[2:])}


@pytest.fixture
def plate(tmp_path, wells, version):
    path = tmp_path / "screen.ome.zarr"
    write_plate(path, wells, version)
    return path


@pytest.fixture
def X(plate):
    return ImageCollection.from_ome_zarr(plate)


def test_a_plate(X, wells):
    np.testing.assert_array_equal(np.asarray(X), wells["B/3"] + wells["AA/11"])
    assert X.channels == ("DNA", "actin")
    assert X.dtype == np.uint16
    expected = pd.DataFrame(
        {
            "store": "screen.ome.zarr",
            "plate": "1053597806",
            "well": ["B03", "B03", "AA11", "AA11"],
            "site": ["0", "1", "0", "1"],
            "acquisition": "7",
            "pixel_size": 0.5,
        }
    )
    pd.testing.assert_frame_equal(X.metadata, expected)
    actin = np.asarray(X.with_channels("actin")[[2, 0]])
    assert np.array_equal(actin[:, 0], [wells["AA/11"][0][1], wells["B/3"][0][1]])


def test_levels(plate, wells):
    X = ImageCollection.from_ome_zarr([plate], level=1)
    np.testing.assert_array_equal(X[0], wells["B/3"][0][:, ::2, ::2])
    assert X.metadata["pixel_size"].tolist() == [1.0] * 4
    with pytest.raises(
        ValueError, match=r"2 levels of resolution.*there is no level=2"
    ):
        ImageCollection.from_ome_zarr(plate, level=2)


def test_a_view_is_a_reference(X, same):
    same(pickle.loads(pickle.dumps(X)), X)
    view = X[[3, 1]]
    same(pickle.loads(pickle.dumps(view)), view)
    assert len(pickle.dumps(view)) < 3_000
    assert joblib.hash(view) != joblib.hash(X[[3, 2]])
    assert joblib.hash(X[2:]) == joblib.hash(X[1:][1:])


def test_read_by_threads(X):
    assert_read_by_threads(X)


def test_a_single_image(tmp_path, version):
    image = stack(20, 12).astype("float32")
    write_image(tmp_path / "a.zarr", image, version, "yx", names=None, unit="nanometer")
    write_image(tmp_path / "b.zarr", image, version, "yx", names=None, unit=None)
    X = ImageCollection.from_ome_zarr([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    np.testing.assert_array_equal(np.asarray(X), [[image], [image]])
    assert X.channels == ("channel_0",)
    assert X.metadata["store"].tolist() == ["a.zarr", "b.zarr"]
    np.testing.assert_allclose(X.metadata["pixel_size"], [5e-4, np.nan])


def test_what_bioformats2raw_writes(tmp_path):
    images = stack(2, 2, 20, 12)
    write_group(tmp_path, {"bioformats2raw.layout": 3}, V04)
    for k, image in enumerate(images):
        write_image(tmp_path / str(k), image, V04)
    X = ImageCollection.from_ome_zarr(tmp_path)
    np.testing.assert_array_equal(np.asarray(X), images)
    assert X.metadata["series"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "chunks", [(1, 1, 1, 8, 8), (1, 2, 2, 20, 5), (2, 2, 3, 20, 12)]
)
def test_planes_are_chosen_or_projected(tmp_path, version, chunks):
    image = stack(2, 2, 3, 20, 12)
    write_image(tmp_path, image, version, "tczyx", chunks=chunks)

    def read(**choice):
        return np.asarray(ImageCollection.from_ome_zarr(tmp_path, **choice))[0]

    np.testing.assert_array_equal(read(z=2, t=1), image[1, :, 2])
    np.testing.assert_array_equal(read(z="max", t=0), image[0].max(axis=1))
    np.testing.assert_array_equal(read(z="max", t="max"), image.max(axis=(0, 2)))
    mean = read(z="mean", t=1)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, image[1].mean(axis=1).astype("float32"))
    message = r"holds 3 planes in z\. Pass z=0 to 2 .*z=\"max\""
    with pytest.raises(ValueError, match=message):
        read(t=0)
    with pytest.raises(ValueError, match=r"holds 2 time points\. Pass t=0 to 1"):
        read(z=0)
    with pytest.raises(ValueError, match=r"3 planes in z, numbered from 0.*no z=3"):
        read(z=3, t=0)


def test_only_the_chunks_that_are_needed(tmp_path, version):
    image = stack(2, 3, 20, 12)
    write_image(tmp_path, image, version, "czyx")
    X = ImageCollection.from_ome_zarr(tmp_path, z=1)
    chunks = tmp_path / "0" if version == V04 else tmp_path / "0" / "c"
    for channel, depth in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]:
        shutil.rmtree(chunks / str(channel) / str(depth))
    np.testing.assert_array_equal(X.with_channels("DNA")[0], image[:1, 1])
    with pytest.raises(FileNotFoundError, match=r"no chunk '(c/)?1/1/0/0'"):
        X[0]


def test_shards(tmp_path):
    image = stack(2, 16, 16)
    inner = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [1, 4, 4], "codecs": [inner]},
    }
    write_image(tmp_path, image, V05, codecs=[sharding], chunks=(2, 8, 16))
    np.testing.assert_array_equal(ImageCollection.from_ome_zarr(tmp_path)[0], image)


def test_big_endian(tmp_path):
    image = stack(2, 16, 16)
    write_image(tmp_path, image, V04, dtype=">u2", compressor=None)
    X = ImageCollection.from_ome_zarr(tmp_path)
    assert X[0].dtype.isnative
    np.testing.assert_array_equal(X[0], image)


def chunk_of(plate, version):
    place = "c/1/2/0" if version == V05 else "1/2/0"
    return plate / "AA/11/0/0" / place, place


def test_a_missing_chunk(plate, wells, version):
    chunk, key = chunk_of(plate, version)
    chunk.unlink()
    message = f"'.*AA.11.0.0' has no chunk '{key}'. Restore.*fill_missing=True"
    with pytest.raises(FileNotFoundError, match=message):
        ImageCollection.from_ome_zarr(plate)
    X = ImageCollection.from_ome_zarr(plate, on_error="skip")
    assert X.skipped[["well", "site"]].to_numpy().tolist() == [["AA11", "0"]]
    assert len(X) == 3
    filled = ImageCollection.from_ome_zarr(plate, fill_missing=True)[2]
    expected = wells["AA/11"][0].copy()
    expected[1, 16:, :8] = 0
    np.testing.assert_array_equal(filled, expected)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_broken_chunk(plate, version, content):
    chunk, key = chunk_of(plate, version)
    chunk.write_bytes(content)
    X = ImageCollection.from_ome_zarr(plate)
    with pytest.raises(ValueError, match=f"AA.11.0.0': chunk '{key}' is broken"):
        X[2]
    X = ImageCollection.from_ome_zarr(plate, on_error="skip")
    assert X.skipped[["well", "site"]].to_numpy().tolist() == [["AA11", "0"]]


def test_a_chunk_that_changed(X, plate, version):
    chunk, _ = chunk_of(plate, version)
    os.utime(chunk, ns=(0, 2**62))
    assert joblib.hash(X) != joblib.hash(ImageCollection.from_ome_zarr(plate))
    X.with_channels("DNA")[2]
    with pytest.raises(ValueError, match=r"AA.11.0.0' has changed since"):
        X[2]


def test_images_that_differ(tmp_path, version):
    wells = {"A/1": [stack(2, 20, 12)] * 2, "A/2": [stack(2, 16, 12)]}
    write_plate(tmp_path, wells, version)
    message = r"'A02'.*has size \(16, 12\), where the first image has \(20, 12\)"
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_ome_zarr(tmp_path)
    X = ImageCollection.from_ome_zarr(tmp_path, on_error="skip")
    assert X.metadata["well"].tolist() == ["A01", "A01"]
    assert "2 x 16 x 12 uint16, where others" in X.skipped["reason"][0]


def test_what_is_no_ome_zarr(tmp_path, version):
    with pytest.raises(FileNotFoundError, match=r"No such OME-Zarr.*gone\.zarr"):
        ImageCollection.from_ome_zarr(tmp_path / "gone.zarr")
    with pytest.raises(ValueError, match="Cannot read"):
        ImageCollection.from_ome_zarr(tmp_path)
    write_group(tmp_path / "plates" / "P1.zarr", {"labels": []}, version)
    with pytest.raises(ValueError, match=r"folder of stores, such as 'P1\.zarr': pass"):
        ImageCollection.from_ome_zarr(tmp_path / "plates")
    write_group(tmp_path, {"labels": []}, version)
    with pytest.raises(ValueError, match="neither a plate nor a multiscale"):
        ImageCollection.from_ome_zarr(tmp_path)
    write_group(tmp_path, {"plate": {}}, version)
    with pytest.raises(ValueError, match="metadata lack 'wells'"):
        ImageCollection.from_ome_zarr(tmp_path)
    write_group(tmp_path, {"plate": {"wells": [{"path": "A/1"}]}}, version)
    with pytest.raises(FileNotFoundError, match=r"A.1"):
        ImageCollection.from_ome_zarr(tmp_path)
    write_group(tmp_path, {"multiscales": [{"version": "0.3"}]}, version)
    with pytest.raises(ValueError, match=r"it is OME-Zarr 0\.3; 0\.4 and 0\.5 are"):
        ImageCollection.from_ome_zarr(tmp_path)
    axes = [{"name": name} for name in ("c", "w", "x")]
    scale = {"version": version, "axes": axes, "datasets": [{"path": "0"}]}
    write_group(tmp_path, {"multiscales": [scale]}, version)
    with pytest.raises(ValueError, match="axes 'cwx' are not"):
        ImageCollection.from_ome_zarr(tmp_path)


def test_metadata_without_an_image(plate, version):
    shutil.rmtree(plate / "B/3/1")
    with pytest.raises(FileNotFoundError, match=r"No such OME-Zarr folder: .*B.3.1"):
        ImageCollection.from_ome_zarr(plate)
    X = ImageCollection.from_ome_zarr(plate, on_error="skip")
    assert X.skipped[["well", "site"]].to_numpy().tolist() == [["B03", "1"]]


def test_byte_limit(plate):
    assert ImageCollection.from_ome_zarr(plate, byte_limit=960)[0].nbytes == 960
    with pytest.raises(ValueError, match="promises"):
        ImageCollection.from_ome_zarr(plate, byte_limit=959)


def test_missing_zarr_names_the_extra(plate, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r'pip install "gandl\[io\]"'):
        ImageCollection.from_ome_zarr(plate)


def test_stores_of_one_name(tmp_path, wells, version):
    for name in ("x", "y"):
        write_plate(tmp_path / name / "p.zarr", wells, version)
    stores = [tmp_path / "x/p.zarr", f"{tmp_path}/y/p.zarr/", tmp_path / "x/p.zarr"]
    metadata = ImageCollection.from_ome_zarr(stores).metadata
    assert metadata["store"].tolist() == ["x/p.zarr"] * 4 + ["y/p.zarr"] * 4
    assert metadata["plate"].tolist() == metadata["store"].tolist()


def test_a_missing_well_and_a_missing_store(tmp_path, plate, wells):
    shutil.rmtree(plate / "B/3")
    stores = [plate, tmp_path / "gone.zarr"]
    with pytest.raises(FileNotFoundError, match=r"B.3'"):
        ImageCollection.from_ome_zarr(plate)
    with pytest.raises(FileNotFoundError, match=r"gone\.zarr'"):
        ImageCollection.from_ome_zarr(stores[1:])
    X = ImageCollection.from_ome_zarr(stores, on_error="skip")
    np.testing.assert_array_equal(np.asarray(X), wells["AA/11"])
    assert X.skipped["store"].tolist() == ["screen.ome.zarr", "gone.zarr"]
    assert X.skipped["well"][0] == "B03"
    assert X.skipped["reason"].str.startswith("No such OME-Zarr folder").all()


@pytest.mark.parametrize("chunks", [(1, 8, 8), (2, 8, 8)])
def test_channels_are_selected_by_name(tmp_path, version, chunks, same):
    images = stack(2, 3, 20, 12)
    orders = [("DNA", "ER", "actin"), ("actin", "DNA", "ER")]
    for k, names in enumerate(orders):
        write_image(tmp_path / str(k), images[k], version, names=names, chunks=chunks)
    stores = [tmp_path / "0", tmp_path / "1"]
    X = ImageCollection.from_ome_zarr(stores, channels=["actin", "DNA"])
    assert X.channels == ("actin", "DNA")
    expected = np.array([images[0][[2, 0]], images[1][[0, 1]]])
    np.testing.assert_array_equal(np.asarray(X), expected)
    np.testing.assert_array_equal(X.with_channels("DNA")[1], expected[1, 1:])
    np.testing.assert_array_equal(np.asarray(X[[1]]), expected[1:])
    same(pickle.loads(pickle.dumps(X)), X)
    X = ImageCollection.from_ome_zarr(stores, channels={"DNA": "nuclei"})
    assert X.channels == ("nuclei",)
    np.testing.assert_array_equal(np.asarray(X), expected[:, 1:])
    with pytest.raises(ValueError, match=r"has no channels \['ER2'\]; it has \['DNA'"):
        ImageCollection.from_ome_zarr(stores, channels=["ER2"])
    with pytest.raises(ValueError, match=r"has channels \('actin', 'DNA', 'ER'\)"):
        ImageCollection.from_ome_zarr(stores)
