"""Stacks and time points, chosen or projected, in files that Pillow wrote."""

import pickle
import re

import joblib
import numpy as np
import pandas as pd
import pytest
from _images import stack
from PIL import Image

from gandl.images import ImageCollection, read_image


def save(path, pages, description=None):
    frames = [Image.fromarray(page) for page in pages]
    info = {} if description is None else {270: description}
    frames[0].save(path, "TIFF", save_all=True, append_images=frames[1:], tiffinfo=info)


def hyperstack(path, image):
    """ImageJ's stack (T, Z, C, H, W)."""
    t, z, c = image.shape[:3]
    text = f"ImageJ=1.53k\nimages={t * z * c}\nchannels={c}\nslices={z}\nframes={t}\n"
    pages = image.reshape(-1, *image.shape[3:])
    save(path, pages, f"{text}hyperstack=true\nmode=grayscale\n")


def from_table(folder, name="a.tif", **choice):
    table = pd.DataFrame({"path": [name]})
    return ImageCollection.from_table(table, root=folder, **choice)


CHOICES = [
    ({"z": 2, "t": 1}, lambda x: x[1, 2]),
    ({"z": "max", "t": 0}, lambda x: x[0].max(axis=0)),
    ({"z": 1, "t": "max"}, lambda x: x[:, 1].max(axis=0)),
    ({"z": "max", "t": "max"}, lambda x: x.max(axis=(0, 1))),
    ({"z": "mean", "t": 1}, lambda x: x[1].mean(axis=0).astype("float32")),
    ({"z": "max", "t": "mean"}, lambda x: x.max(axis=1).mean(axis=0, dtype="float32")),
]
CHOICE_NAMES = [str(choice) for choice, _ in CHOICES]


@pytest.mark.parametrize(("choice", "expected"), CHOICES, ids=CHOICE_NAMES)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_stack_in_one_file(tmp_path, n_channels, choice, expected):
    image = stack(2, 3, n_channels, 8, 6)
    hyperstack(tmp_path / "a.tif", image)
    X = from_table(tmp_path, **choice)
    np.testing.assert_array_equal(X[0], expected(image))
    assert X.dtype == X[0].dtype == expected(image).dtype
    folder = ImageCollection.from_folder(tmp_path, "{well}.tif", **choice)
    np.testing.assert_array_equal(folder[0], X[0])


@pytest.mark.parametrize(("choice", "expected"), CHOICES, ids=CHOICE_NAMES)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_stack_in_many_files(tmp_path, same, n_channels, choice, expected):
    images = [stack(2, 3, n_channels, 8, 6), stack(2, 3, n_channels, 8, 6)[::-1]]
    for k, image in enumerate(images):
        for t, z, c in np.ndindex(image.shape[:3]):
            name = f"A0{k + 1}_t{t}_z{z:02}_w{c + 1}.tif"
            save(tmp_path / name, [image[t, z, c]])
    pattern = "{well}_t{t}_z{z}_w{channel}.tif"
    X = ImageCollection.from_folder(tmp_path, pattern, **choice)
    np.testing.assert_array_equal(np.asarray(X), [expected(image) for image in images])
    assert X.metadata.to_dict("list") == {"well": ["A01", "A02"]}
    assert X.channels == tuple("12"[:n_channels])
    assert X.dtype == X[0].dtype == expected(images[0]).dtype
    same(pickle.loads(pickle.dumps(X[1:])), X[1:])
    others = ImageCollection.from_folder(tmp_path, pattern, z="max", t="max")
    other = ImageCollection.from_folder(tmp_path, pattern, z="mean", t="max")
    assert joblib.hash(others) != joblib.hash(other)


def test_planes_are_never_guessed(tmp_path):
    hyperstack(tmp_path / "a.tif", stack(2, 3, 1, 8, 6))
    message = (
        r"a\.tif' holds 3 planes in z\. Pass z=0 to 2 for one of them, or z=\"max\""
    )
    with pytest.raises(ValueError, match=message):
        from_table(tmp_path, t=0)
    with pytest.raises(
        ValueError, match=r"a\.tif' holds 2 time points\. Pass t=0 to 1"
    ):
        from_table(tmp_path, z=0)
    with pytest.raises(ValueError, match=r"holds 3 planes in z, numbered.* no z=3"):
        from_table(tmp_path, z=3, t=0)
    with pytest.raises(ValueError, match=r"not files that are called z='02'"):
        from_table(tmp_path, z="02", t=0)
    for wrong in (-1, 1.5, True, ["max"]):
        with pytest.raises(ValueError, match=re.escape(f"got {wrong!r}")):
            from_table(tmp_path, z=wrong, t=0)


def test_stacks_that_are_not_asked_for_are_errors_later_too(tmp_path):
    save(tmp_path / "a.tif", stack(1, 8, 6))
    hyperstack(tmp_path / "b.tif", stack(1, 3, 1, 8, 6))
    X = ImageCollection.from_folder(tmp_path, "{well}.tif")
    with pytest.raises(ValueError, match=r"b\.tif' holds 3 planes in z"):
        X[1]
    X = ImageCollection.from_folder(tmp_path, "{well}.tif", on_error="skip")
    assert X.skipped["well"].tolist() == ["b"]
    assert "holds 3 planes" in X.skipped["reason"][0]
    # A single plane is its own maximum.
    X = ImageCollection.from_folder(tmp_path, "{well}.tif", z="max")
    assert np.asarray(X).shape == (2, 1, 8, 6)


def test_pages_without_a_name(tmp_path):
    image = stack(3, 8, 6)
    save(tmp_path / "a.tif", image)
    with pytest.warns(UserWarning, match=r"a.tif' does not say what its 3 pages are"):
        X = from_table(tmp_path)
    np.testing.assert_array_equal(X[0], image)
    named = from_table(tmp_path, channels=["DNA", "ER", "actin"])
    np.testing.assert_array_equal(named[0], image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    np.testing.assert_array_equal(from_table(tmp_path, z=1)[0], image[1:2])
    np.testing.assert_array_equal(from_table(tmp_path, t="max")[0, ...], [image.max(0)])
    with pytest.raises(ValueError, match=r"3 pages without names.*not both"):
        from_table(tmp_path, z=1, t=0)


def test_a_stack_as_one_image_of_channels(tmp_path):
    """What `read_image` is asked for is the file as it is."""
    image = stack(1, 3, 1, 8, 6)
    hyperstack(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image[0, :, 0])


def test_formats_of_one_plane(tmp_path):
    Image.fromarray(np.zeros((8, 6), "uint8")).save(tmp_path / "a.png")
    assert from_table(tmp_path, "a.png", z="max", t=0).shape == (1, 1, 8, 6)
    with pytest.raises(ValueError, match=r"a\.png' holds 1 plane in z.*no z=1"):
        from_table(tmp_path, "a.png", z=1)


@pytest.fixture
def planes(tmp_path):
    for z in ("z01", "z02", "z10"):
        save(tmp_path / f"A01_{z}.tif", [np.full((8, 6), int(z[1:]), "uint8")])
    return tmp_path


def test_planes_of_a_pattern_are_called_by_number_or_text(planes):
    def first(pattern, z):
        return ImageCollection.from_folder(planes, pattern, z=z)[0][0, 0, 0]

    assert first("{well}_z{z}.tif", 10) == 10
    assert first("{well}_z{z}.tif", "02") == 2
    assert first("{well}_{z}.tif", "z10") == 10
    assert first("{well}_z{z}.tif", "2") == 2
    for wrong in (3, "3", "min"):
        with pytest.raises(
            ValueError, match=rf"z={wrong!r} is the .* 0 of 3.*01, 02, 10"
        ):
            first("{well}_z{z}.tif", wrong)
    message = r"have 3 planes in \{z\}: 01, 02, 10\. Pass z=.*give the field another"
    with pytest.raises(ValueError, match=message):
        first("{well}_z{z}.tif", None)
    X = ImageCollection.from_folder(planes, "{well}_{plane}.tif")
    assert X.metadata["plane"].tolist() == ["z01", "z02", "z10"]


def test_an_image_that_lacks_a_plane(planes):
    save(planes / "A02_z01.tif", [np.zeros((8, 6), "uint8")])
    with pytest.raises(FileNotFoundError, match=r"no file of z '02': .*A02_z02\.tif"):
        ImageCollection.from_folder(planes, "{well}_z{z}.tif", z="max")
    how = {"z": "max", "on_error": "skip"}
    X = ImageCollection.from_folder(planes, "{well}_z{z}.tif", **how)
    assert X.metadata["well"].tolist() == ["A01"]
    assert X.skipped["well"].tolist() == ["A02"]


def test_a_plane_that_changed(planes):
    X = ImageCollection.from_folder(planes, "{well}_z{z}.tif", z="max")
    save(planes / "A01_z02.tif", [np.zeros((9, 6), "uint8")])
    with pytest.raises(ValueError, match=r"A01_z02\.tif' has changed"):
        X[0]
