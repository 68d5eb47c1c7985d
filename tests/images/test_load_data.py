"""load_data.csv, and illumination functions with it."""

import pickle
import shutil

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from gandl.images import ImageCollection

BUCKET = "/home/ubuntu/bucket/projects/jump/images"
PLATES = ("BR1__2020", "BR2__2021")


@pytest.fixture
def gallery(tmp_path):
    """Two plates of two sites and two channels, as downloaded, with functions."""
    rng = np.random.default_rng(0)
    rows = []
    for plate in PLATES:
        (tmp_path / "images" / plate).mkdir(parents=True)
        (tmp_path / "illum" / plate).mkdir(parents=True)
        for channel in ("DNA", "ER"):
            field = rng.uniform(1, 2, (6, 8))
            np.save(tmp_path / "illum" / plate / f"{plate}_Illum{channel}.npy", field)
        for site in (1, 2):
            row = {}
            for c, channel in enumerate(("DNA", "ER")):
                name = f"r01c0{site}f01p01-ch{c + 1}sk1fk1fl1.tiff"
                pixels = rng.integers(0, 65536, (6, 8)).astype(np.uint16)
                Image.fromarray(pixels).save(tmp_path / "images" / plate / name)
                row[f"FileName_Orig{channel}"] = name
                row[f"PathName_Orig{channel}"] = f"{BUCKET}/images/{plate}/"
            row |= {"Metadata_Plate": plate[:3], "Metadata_Well": f"A0{site}"}
            row |= {"Metadata_Site": site, "Metadata_Batch": "007"}
            for channel in ("DNA", "ER"):
                row[f"FileName_Illum{channel}"] = f"{plate}_Illum{channel}.npy"
                row[f"PathName_Illum{channel}"] = f"{BUCKET}/illum/{plate}"
            rows.append(row)
    return pd.DataFrame(rows)


def expected(root, table, *, corrected=True):
    images = np.empty((len(table), 2, 6, 8), np.float32 if corrected else np.uint16)
    for k, row in enumerate(table.to_dict("records")):
        for c, channel in enumerate(("DNA", "ER")):
            plate = row["PathName_OrigDNA"].rstrip("/").rpartition("/")[2]
            name = row[f"FileName_Orig{channel}"]
            pixels = np.asarray(Image.open(root / "images" / plate / name))
            field = np.load(root / "illum" / plate / f"{plate}_Illum{channel}.npy")
            images[k, c] = pixels / field if corrected else pixels
    return images


@pytest.mark.parametrize("name", ["load_data.csv", "load_data.csv.gz", "l.parquet"])
def test_files_of_the_gallery(gallery, tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        gallery.to_parquet(path)
    else:
        gallery.to_csv(path, index=False)
    X = ImageCollection.from_load_data(path)
    assert X.channels == ("DNA", "ER")
    assert X.dtype == np.float32
    np.testing.assert_allclose(X, expected(tmp_path, gallery), rtol=1e-6)
    assert X.metadata.to_dict("list") == {
        "plate": ["BR1", "BR1", "BR2", "BR2"],
        "well": ["A01", "A02"] * 2,
        "site": ["1", "2"] * 2,
        "Batch": ["007"] * 4,
    }


def test_without_illumination(gallery, tmp_path):
    X = ImageCollection.from_load_data(gallery, root=tmp_path, illumination=False)
    assert X.dtype == np.uint16
    np.testing.assert_array_equal(X, expected(tmp_path, gallery, corrected=False))


def test_one_channel_alone_has_a_function(gallery, tmp_path):
    table = gallery.drop(columns=["FileName_IllumER", "PathName_IllumER"])
    X = np.asarray(ImageCollection.from_load_data(table, root=tmp_path))
    np.testing.assert_allclose(X[:, 0], expected(tmp_path, gallery)[:, 0], rtol=1e-6)
    raw = expected(tmp_path, gallery, corrected=False)
    np.testing.assert_array_equal(X[:, 1], raw[:, 1])


def test_channels_are_chosen_and_renamed(gallery, tmp_path):
    channels = {"ER": "reticulum"}
    X = ImageCollection.from_load_data(gallery, root=tmp_path, channels=channels)
    assert X.channels == ("reticulum",)
    np.testing.assert_allclose(X, expected(tmp_path, gallery)[:, 1:], rtol=1e-6)
    with pytest.raises(ValueError, match=r"no channels \['RNA'\]; it has \['DNA', 'ER"):
        ImageCollection.from_load_data(gallery, root=tmp_path, channels=["RNA"])


def test_views_hashes_and_pickles(gallery, tmp_path, same):
    X = ImageCollection.from_load_data(gallery, root=tmp_path)
    whole = np.asarray(X)
    np.testing.assert_array_equal(X[[3, 0]], whole[[3, 0]])
    np.testing.assert_array_equal(X.with_channels(["ER"])[1:], whole[1:, 1:])
    tiles = X[2:].tile(4)
    np.testing.assert_array_equal(tiles[0], whole[2, :, :4, :4])
    np.testing.assert_array_equal(tiles[-1], whole[3, :, 2:, 4:])
    same(pickle.loads(pickle.dumps(X[2:])), X[2:])
    same(X[[0, 1, 2]][[2]], X[[2]])
    both = X[[3, 0, 1]]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(both)), whole[[3, 0, 1]])
    assert joblib.hash(X[2:]) != joblib.hash(X[:2])
    raw = ImageCollection.from_load_data(gallery, root=tmp_path, illumination=False)
    assert joblib.hash(raw) != joblib.hash(X)
    np.testing.assert_array_equal(X.load_batch(slice(None), n_jobs=2), whole)


def test_folders_of_another_machine(gallery, tmp_path):
    want = expected(tmp_path, gallery)
    paths = [name for name in gallery if name.startswith("PathName_")]
    for change in (
        lambda p: p.replace("/home/ubuntu/bucket", "s3://cellpainting-gallery"),
        lambda p: p.replace(BUCKET, str(tmp_path)),
        lambda p: p.replace(BUCKET + "/", ""),
        lambda p: "D:" + p.replace("/", "\\"),
        lambda p: p.replace(BUCKET, "file:" + str(tmp_path)),
    ):
        table = gallery.assign(**{name: gallery[name].map(change) for name in paths})
        X = ImageCollection.from_load_data(table, root=tmp_path)
        np.testing.assert_allclose(X, want, rtol=1e-6)


def test_a_root_that_is_given_comes_first(gallery, tmp_path):
    """A copy on a faster disk, of files that are also where the table says."""
    paths = [name for name in gallery if name.startswith("PathName_")]
    here = {n: gallery[n].str.replace(BUCKET, str(tmp_path)) for n in paths}
    table = gallery.assign(**here)
    shutil.copytree(tmp_path / "images", tmp_path / "fast" / "images")
    X = ImageCollection.from_load_data(table, root=tmp_path / "fast")
    shutil.rmtree(tmp_path / "images")
    assert np.asarray(X).shape == (4, 2, 6, 8)


def test_urls(gallery, tmp_path):
    table = gallery.filter(like="Metadata").copy()
    for name in ("OrigDNA", "OrigER", "IllumDNA", "IllumER"):
        folder = gallery[f"PathName_{name}"].str.rstrip("/")
        folder = folder.str.replace("/home", "s3://bucket")
        table[f"URL_{name}"] = folder + "/" + gallery[f"FileName_{name}"]
    X = ImageCollection.from_load_data(table, root=tmp_path)
    assert list(X.metadata) == ["plate", "well", "site", "Batch"]
    np.testing.assert_allclose(X, expected(tmp_path, gallery), rtol=1e-6)


def test_images_of_two_plates_are_not_taken_for_each_other(gallery, tmp_path):
    """Where files of one name lie in a folder that is the end of both paths."""
    table = gallery.assign(PathName_OrigDNA=["/a/Images"] * 2 + ["/b/Images"] * 2)
    (tmp_path / "Images").mkdir()
    for path in (tmp_path / "images" / PLATES[0]).iterdir():
        (tmp_path / "Images" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"OrigDNA: '/a/Images' and '/b/Images' would"):
        ImageCollection.from_load_data(table, root=tmp_path)


def test_broken_images_are_skipped_with_their_functions(gallery, tmp_path):
    (tmp_path / "images" / PLATES[0] / gallery["FileName_OrigER"][0]).write_bytes(b"II")
    (tmp_path / "images" / PLATES[1] / gallery["FileName_OrigER"][0]).unlink()
    X = ImageCollection.from_load_data(gallery, root=tmp_path, on_error="skip")
    assert X.skipped["plate"].tolist() == ["BR1", "BR2"]
    rest = gallery.iloc[[1, 3]].reset_index()
    np.testing.assert_allclose(X, expected(tmp_path, rest), rtol=1e-6)


def test_a_file_is_not_taken_for_two_channels(gallery, tmp_path):
    """Where files of one name lie in a folder for each channel, and one is root."""
    table = gallery.iloc[:1].assign(PathName_OrigDNA="/a/DNA", PathName_OrigER="/a/ER")
    table["FileName_OrigER"] = table["FileName_OrigDNA"]
    image = tmp_path / "images" / PLATES[0] / table["FileName_OrigDNA"][0]
    for channel in ("DNA", "ER"):
        (tmp_path / channel).mkdir()
        shutil.copy(image, tmp_path / channel)
    options = {"illumination": False}
    assert len(ImageCollection.from_load_data(table, root=tmp_path, **options)) == 1
    message = r"Row 0 .*DNA/r01.*tiff' would be both 'DNA' and 'ER'.*`root`"
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_load_data(table, root=tmp_path / "DNA", **options)


def test_channels_may_share_a_function(gallery, tmp_path):
    same = {f"{n}_IllumER": gallery[f"{n}_IllumDNA"] for n in ("FileName", "PathName")}
    X = ImageCollection.from_load_data(gallery.assign(**same), root=tmp_path)
    raw = expected(tmp_path, gallery, corrected=False)
    name = f"{PLATES[0]}_IllumDNA.npy"
    field = np.load(tmp_path / "illum" / PLATES[0] / name)
    np.testing.assert_allclose(X[0], raw[0] / field, rtol=1e-6)


def test_planes_of_stacks(gallery, tmp_path):
    table = gallery.iloc[:1]
    stack = np.arange(96, dtype=np.uint16).reshape(2, 6, 8)
    for name in ("FileName_OrigDNA", "FileName_OrigER"):
        first, second = (Image.fromarray(plane) for plane in stack)
        path = tmp_path / "images" / PLATES[0] / table[name][0]
        first.save(path, save_all=True, append_images=[second])
    given = {"root": tmp_path, "illumination": False}
    for options, plane in (({"z": 1}, stack[1]), ({"t": "mean"}, stack.mean(0))):
        X = ImageCollection.from_load_data(table, **given, **options)
        np.testing.assert_array_equal(X[0], [plane, plane])
    with pytest.raises(ValueError, match=r"z is the number"):
        ImageCollection.from_load_data(table, **given, z=-1)


def test_an_rgb_file_is_no_channel(gallery, tmp_path):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "rgb.tiff")
    table = gallery.assign(FileName_OrigDNA="rgb.tiff", PathName_OrigDNA=".")
    with pytest.raises(ValueError, match=r"rgb\.tiff' holds 3 channels.*'DNA'.*RGB"):
        ImageCollection.from_load_data(table, root=tmp_path, channels=["DNA"])


def test_a_plate_whose_folder_is_missing_is_skipped(gallery, tmp_path):
    shutil.rmtree(tmp_path / "images" / PLATES[1])
    with pytest.raises(FileNotFoundError, match=r"BR2__2021.*by `root`"):
        ImageCollection.from_load_data(gallery, root=tmp_path)
    shutil.rmtree(tmp_path / "illum" / PLATES[1])
    X = ImageCollection.from_load_data(gallery, root=tmp_path, on_error="skip")
    assert X.skipped["plate"].tolist() == ["BR2", "BR2"]
    assert all("BR2__2021/r01c0" in path for path in X.skipped["path"])
    np.testing.assert_allclose(X, expected(tmp_path, gallery[:2]), rtol=1e-6)
    # Nothing at all is found where root is a wrong one.
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="by `root`"):
        ImageCollection.from_load_data(
            gallery, root=tmp_path / "empty", on_error="skip"
        )


def test_functions_are_kept_while_a_batch_is_read(gallery, tmp_path, monkeypatch):
    X = ImageCollection.from_load_data(gallery, root=tmp_path)
    read, load = [], np.load
    monkeypatch.setattr(np, "load", lambda p, **o: read.append(p) or load(p, **o))
    batch = X.load_batch(slice(None))
    assert len(read) == len(set(read)) == 4
    monkeypatch.undo()
    np.testing.assert_allclose(batch, expected(tmp_path, gallery), rtol=1e-6)


AT_ONCE = ["missing", "alone missing", "empty", "of another size", "objects"]
FUNCTIONS = {
    "missing": (None, "There is no 'BR1__2020_IllumDNA.npy'.*by `root`"),
    "alone missing": (None, "no illumination function.*IllumDNA.npy'.*=False"),
    "empty": (b"", "Cannot read the illumination function.*IllumDNA.npy"),
    "of another size": (np.ones((3, 8)), r"\(3, 8\).*numbers of \(6, 8\)"),
    "zero somewhere": (np.eye(6, 8), "not above zero"),
    "NaN": (np.full((6, 8), np.nan), "not above zero and finite"),
    "objects": (np.full((6, 8), None), "Cannot read the illumination function"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_bad_functions(gallery, tmp_path, kind):
    content, message = FUNCTIONS[kind]
    path = tmp_path / "illum" / PLATES[0] / f"{PLATES[0]}_IllumDNA.npy"
    if content is None:
        path.unlink()
        if kind == "alone missing":  # of the files that its folder has
            names = [path.name, *["x.npy"] * 3]
            gallery = gallery.assign(
                FileName_IllumDNA=names,
                PathName_IllumDNA=gallery["PathName_IllumDNA"][0],
            )
            np.save(path.with_name("x.npy"), np.ones((6, 8)))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    if kind in AT_ONCE:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            ImageCollection.from_load_data(gallery, root=tmp_path)
        with pytest.raises((ValueError, FileNotFoundError), match=r"function.*=False"):
            ImageCollection.from_load_data(gallery, root=tmp_path, on_error="skip")
    else:
        X = ImageCollection.from_load_data(gallery, root=tmp_path)
        with pytest.raises(ValueError, match=message + ".*=False"):
            np.asarray(X)


def test_a_function_that_changes(gallery, tmp_path):
    X = ImageCollection.from_load_data(gallery, root=tmp_path)
    np.save(tmp_path / "illum" / PLATES[0] / f"{PLATES[0]}_IllumDNA.npy", np.ones(99))
    with pytest.raises(ValueError, match=r"IllumDNA\.npy' has changed since"):
        X[0]


def test_a_function_that_is_an_image(gallery, tmp_path):
    field = np.random.default_rng(0).uniform(1, 2, (6, 8)).astype(np.float32)
    Image.fromarray(field).save(tmp_path / "field.tiff")
    table = gallery.assign(FileName_IllumDNA="field.tiff", PathName_IllumDNA=".")
    X = ImageCollection.from_load_data(table, root=tmp_path)
    raw = expected(tmp_path, gallery, corrected=False)
    np.testing.assert_allclose(X[0][0], raw[0, 0] / field, rtol=1e-6)


def test_table_errors(gallery, tmp_path):
    def load(table, **options):
        return ImageCollection.from_load_data(table, **{"root": tmp_path} | options)

    with pytest.raises(ValueError, match="no column FileName_DNA"):
        load(pd.DataFrame({"path": ["a.tif"]}))
    with pytest.raises(ValueError, match="has no rows"):
        load(gallery[:0])
    table = gallery.assign(FileName_OrigER=[*gallery["FileName_OrigER"][:3], None])
    with pytest.raises(
        ValueError, match=r"Row 3 .* no path in column 'FileName_OrigER"
    ):
        load(table)
    with pytest.raises(ValueError, match="two columns of images of 'DNA'"):
        load(gallery.assign(FileName_DNA="a.tif"))
    with pytest.raises(NotADirectoryError, match="nowhere"):
        load(gallery, root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"There is no .*load\.csv"):
        load(tmp_path / "load.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"bad\.parquet' is no table"):
        load(tmp_path / "bad.parquet")


def test_a_function_of_matlab(gallery, tmp_path):
    """As CellProfiler's SaveImages writes it."""
    field = np.random.default_rng(0).uniform(1, 2, (6, 8))
    path = tmp_path / "field.mat"
    savemat(path, {"Image": field}, format="5")
    table = gallery.assign(FileName_IllumDNA="field.mat", PathName_IllumDNA=".")
    X = ImageCollection.from_load_data(table, root=tmp_path)
    raw = expected(tmp_path, gallery, corrected=False)
    np.testing.assert_allclose(X[0][0], raw[0, 0] / field, rtol=1e-6)
    whole = path.read_bytes()
    savemat(path, {"other": field})
    for content, why in (
        (path.read_bytes(), r'its variable "Image" has the shape None'),
        (whole[:200], "it is no file of MATLAB, or damaged"),
        (b"", "it is no file of MATLAB, or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"field\.mat': {why}.*=False"):
            ImageCollection.from_load_data(table, root=tmp_path)


def test_a_page_that_differs_from_row_to_row_is_refused(gallery, tmp_path):
    pages = gallery.assign(Frame_DNA=np.arange(len(gallery)))
    with pytest.raises(ValueError, match=r"'Frame_DNA' names another page of its file"):
        ImageCollection.from_load_data(pages, root=tmp_path)
    one = gallery.assign(Frame_DNA=0, Series_DNA="0")
    assert len(ImageCollection.from_load_data(one, root=tmp_path)) == len(gallery)
