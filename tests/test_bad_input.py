"""A table of bad input: each kind is one clear error, or is known to be harmless.

An error names the file, row or value. Nothing half-written stays behind.
"""

import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import gandl._presets
from gandl import GANDLFeaturizer, ImageCollection
from gandl.cli import main
from gandl.gan import Trainer
from gandl.images._intensity import MAX_IMAGES, spaced

GREY = np.arange(1024, dtype="uint16").reshape(32, 32)


def tiff(path, image=GREY):
    tifffile.imwrite(path, image, photometric="minisblack")


def png(path, image):
    from PIL import Image

    Image.fromarray(image).save(path)


def bomb(path):
    """A TIFF of a terabyte, by its header."""
    tiff(path)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for tag in ("ImageWidth", "ImageLength"):
            at = file.pages[0].tags[tag].valueoffset
            data[at : at + 4] = struct.pack("<I", 1_000_000)
    path.write_bytes(data)


def taller(path):
    """A TIFF that has four strips, by its header, and holds one."""
    tiff(path)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["ImageLength"].valueoffset
    data[at : at + 4] = struct.pack("<I", 128)
    path.write_bytes(data)


def png_bomb(path):
    png(path, GREY.astype("uint8"))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 1_000_000, 1_000_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def circle(path):
    """Pages that are chained to themselves."""
    tiff(path)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].offset
    data = bytearray(path.read_bytes())
    (n,) = struct.unpack_from("<H", data, offset)
    struct.pack_into("<I", data, offset + 2 + 12 * n, offset)
    path.write_bytes(data)


def loop(path):
    path.symlink_to(path)


def series(path):
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, photometric="minisblack")
        file.write(GREY[:8], photometric="minisblack")


FILES = {
    "truncated": (lambda p: (tiff(p), os.truncate(p, 900)), "bad.tif.*truncated"),
    "empty": (lambda p: p.write_bytes(b""), "Cannot read .*bad.tif.*empty"),
    "text as TIFF": (lambda p: p.write_text("well,A\n"), "bad.tif.*no TIFF.*well"),
    "PNG named TIFF": (lambda p: png_named(p), "bad.tif.*no TIFF.*PNG"),
    "missing": (lambda p: None, "No such image file: .*bad.tif.*Restore"),
    "folder": (lambda p: p.mkdir(), "Cannot read .*bad.tif.*directory.*leave it out"),
    "symlink loop": (loop, "Cannot read .*bad.tif.*symbolic links.*leave it out"),
    "dangling symlink": (lambda p: p.symlink_to("none"), "No such image.*bad.tif"),
    "three channels": (lambda p: tiff(p, np.stack([GREY] * 3)), r"bad.*\(3, 32, 32\)"),
    "another size": (lambda p: tiff(p, GREY[:16]), r"bad.tif.*\(1, 16, 32\).*Crop"),
    "another type": (lambda p: tiff(p, GREY.astype("uint8")), "bad.tif.*type uint8"),
    "terabyte in the header": (bomb, "bad.tif.*promises .* GiB"),
    "strips that are missing": (taller, "bad.tif.*1 of the 4 strips"),
    "chained in a circle": (circle, "bad.tif.*circle"),
    "several series": (series, "bad.tif.*2 image series"),
    "complex numbers": (lambda p: tiff(p, GREY.astype("complex64")), "bad.*complex64"),
    "four axes": (
        lambda p: tiff(p, np.zeros((2, 3, 32, 32), "uint16")),
        r"bad.tif.*QQYX.*\(2, 3, 32, 32\)",
    ),
    "no pixels": (lambda p: p.write_bytes(b"II*\0\0\0\0\0"), "bad.tif"),
}


def png_named(path):
    png(path.with_suffix(".png"), GREY.astype("uint8"))
    path.with_suffix(".png").rename(path)


@pytest.mark.parametrize("kind", FILES)
def test_a_file(kind, tmp_path):
    make, message = FILES[kind]
    tiff(tmp_path / "good.tif")
    make(tmp_path / "bad.tif")
    table = pd.DataFrame({"path": ["good.tif", "bad.tif"]})
    with pytest.raises((ValueError, OSError), match=message):
        np.asarray(ImageCollection.from_table(table, root=tmp_path))
    X = ImageCollection.from_table(table, root=tmp_path, on_error="skip")
    assert X.shape == (1, 1, 32, 32)
    assert X.skipped["path"][0].endswith("bad.tif")


def test_a_png_that_promises_a_terabyte(tmp_path):
    png_bomb(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=r"bad\.png"):
        ImageCollection.from_folder(tmp_path, "{site}.png")


def test_a_png_whose_data_are_said_to_go_on(tmp_path):
    """Found by fuzzing: the rest, of up to 4 GiB, was read into memory."""
    path = tmp_path / "bad.png"
    png(path, GREY.astype("uint8"))
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = struct.pack(">I", 0xFFFFFF00)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.png.*truncated.*of at least 4294"):
        ImageCollection.from_folder(tmp_path, "{site}.png")


def test_colours_where_grey_is_expected(tmp_path):
    for name in ("A01_1", "A01_2"):
        png(tmp_path / f"{name}.png", np.zeros((8, 8, 3), "uint8"))
    with pytest.raises(ValueError, match=r"A01_1\.png' holds 3 channels, where one"):
        ImageCollection.from_folder(tmp_path, "{well}_{channel}.png")


def test_a_file_without_permission(tmp_path):
    tiff(tmp_path / "bad.tif")
    (tmp_path / "bad.tif").chmod(0)
    before = os.geteuid()
    if before == 0:  # whom nothing is forbidden
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"Cannot read '.*bad\.tif"):
            ImageCollection.from_table(pd.DataFrame({"path": [tmp_path / "bad.tif"]}))
    finally:
        os.seteuid(before)


def images(n=12, dtype="uint16"):
    rng = np.random.default_rng(0)
    return rng.integers(0, 4096, (n, 2, 32, 32)).astype(dtype)


def with_pixels(value, *, whole=False):
    X = images(dtype="float32")
    X[7, 1, slice(None) if whole else 3] = value
    return X


ARRAYS = {
    "one NaN": (with_pixels(np.nan), "NaN: image 7, channel 1"),
    "all NaN": (with_pixels(np.nan, whole=True), "NaN: image 7, channel 1"),
    "infinity": (with_pixels(np.inf), "infinity: image 7, channel 1"),
    "no images": (images(0), r"0 sample\(s\)"),
    "one dimension less": (images()[:, 0], r"4 dimensions, got 3.*X\[:, None\]"),
    "one more": (images()[None], "4 dimensions, got 5"),
    "channels last": (
        np.moveaxis(images(), 1, -1),
        r"32 channels.*channels come last.*np\.moveaxis\(X, -1, 1\)",
    ),
    "the same in a collection": (
        ImageCollection.from_array(np.moveaxis(images(), 1, -1)),
        "channels come last.*moveaxis",
    ),
    "text": (np.full((4, 1, 32, 32), "x"), "real numbers"),
    "complex": (images().astype("complex64"), "real numbers"),
    "objects": (images().astype(object), "real numbers"),
    "a path": (Path("plates"), r"X is a path, 'plates'\. ImageCollection\.from_fol"),
    "paths": (["a.tif", "b.tif"], "X has paths, such as 'a.tif': pass a table"),
    "one image": (images(1), "1 sample, and a minimum of 2"),
    "None": (None, "array=None"),
    "a number": (np.array(5.0), "got scalar array"),
}


def test_nan_is_told_before_the_first_step(monkeypatch):
    X = np.zeros((600, 1, 32, 32), "float32")
    looked_at = spaced(np.arange(len(X)), MAX_IMAGES)
    row = int(np.setdiff1d(np.arange(len(X)), looked_at)[-1])
    X[row, 0, 3, 3] = np.nan
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match=f"NaN: image {row}, channel 0"):
        tiny().fit(X)


def tiny(**changes):
    network = {"channel_max": 8, "latent_dim": 8, "batch_size": 4}
    return GANDLFeaturizer(**network, max_kimg=0.008, random_state=0, **changes)


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array(kind):
    X, message = ARRAYS[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        tiny().fit(X)


HARMLESS = {
    "constant": np.full((4, 1, 32, 32), 7, "uint8"),
    "negative": -images(4).astype("int32"),
    "booleans": images(4) > 2000,
    "tiny numbers": images(4) * 1e-30,
    "half precision": images(4).astype("float16"),
    "another byte order": images(4).astype(">u2"),
    "one pixel is hot": np.where(np.arange(32) == 5, 65535, images(4)),
}


@pytest.mark.filterwarnings("ignore:.*(one value|eighth)")
@pytest.mark.parametrize("kind", HARMLESS)
def test_an_array_that_is_harmless(kind):
    assert np.isfinite(tiny().fit(HARMLESS[kind]).transform(HARMLESS[kind])).all()


def test_paths_in_a_column_of_another_name():
    table = pd.DataFrame({"file": ["a.tif", "b.tif"], "concentration": [1.0, 3.0]})
    with pytest.raises(ValueError, match=r"'a.tif' .*from_table\(X, path='file'\)"):
        tiny().fit(table)


def test_labels_of_other_rows():
    """Before hours of training, not after."""
    for learn in (tiny().fit, tiny().partial_fit):
        with pytest.raises(ValueError, match=r"inconsistent numbers.*12.*11"):
            learn(images(), np.zeros(11))
    with pytest.raises(ValueError, match="X is a path"):
        tiny().fit("plates", np.zeros(11))


OTHER = {
    "fewer channels": (images()[:, :1], "1 channels, but .* 2 channels"),
    "smaller": (images()[:, :, :16], "16 x 32 pixels, but .* of 32 x 32 .* at least"),
    "flat rows": (images().reshape(12, -1)[:, :99], "99|image_shape"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_images_other_than_those_of_fit(kind):
    fitted = tiny().fit(images())
    with pytest.raises(ValueError, match=OTHER[kind][1]):
        fitted.transform(OTHER[kind][0])


# Plate maps, by the command that a screener runs: five wells of three kinds.


WELLS = ["A01", "A02", "A03", "A04", "A05", "A06", "B01", "B02"]
STATES = ["healthy"] * 3 + ["infected"] * 3 + ["infected"] * 2


def plate_map():
    return pd.DataFrame(
        {
            "plate": "P1",
            "well": WELLS,
            "state": STATES,
            "compound": [None] * 6 + ["drug", "drug"],
            "concentration": [None] * 6 + ["0.1", "1"],
        }
    )


@pytest.fixture
def screen(tmp_path, monkeypatch):
    tiny = {"channel_max": 8, "latent_dim": 8, "batch_size": 8}
    default = gandl._presets.PRESETS["default"] | tiny
    monkeypatch.setitem(gandl._presets.PRESETS, "default", default)
    folder = tmp_path / "plates"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for well in WELLS:
        tiff(folder / f"P1_{well}.tif", rng.permutation(GREY))

    def run(text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "map.csv").write_bytes(data)
        before = sorted(path.name for path in tmp_path.iterdir())
        command = ["screen", str(folder), "--pattern", "{plate}_{well}.tif"]
        command += ["--plate-map", str(tmp_path / "map.csv"), "--control", "state"]
        command += ["--negative", "healthy", "--positive", "infected"]
        command += ["--minutes", "0.002", "--out", str(tmp_path / "results")]
        status = main(command)
        if status:
            assert sorted(path.name for path in tmp_path.iterdir()) == before
        return status

    return run


def changed(row, column, value):
    table = plate_map()
    table.loc[row, column] = value
    return table.to_csv(index=False)


def grid(title, height, width):
    lines = [[title, *range(1, width + 1)]]
    lines += [["ABCDEFGH"[row], *["x"] * width] for row in range(height)]
    return "\n".join(",".join(map(str, line)) for line in lines) + "\n"


PLATE_MAPS = {
    "empty file": ("", "map.csv' is no table"),
    "ragged rows": ("well,state\nA01,healthy,3\nA02,x\n", "more fields than"),
    "Latin letters": (
        "well,état\nA01,µ\n".encode("latin-1"),
        "map.csv' is no table.*UTF-8",
    ),
    "UTF-16": (
        plate_map().to_csv(index=False).encode("utf-16"),
        "map.csv' is no table: its text is not UTF-8",
    ),
    "no wells": (plate_map().drop(columns="well").to_csv(), 'no column "well"'),
    "columns of one name": ("well,Well,state\nA01,A01,x\n", "several columns 'well'"),
    "a column twice": ("well,state,state\nA01,a,b\n", "several columns 'state'"),
    "a well twice": (changed(1, "well", "A01"), "well A01 twice"),
    "a well twice, spelled A1": (changed(1, "well", "A1"), "well A01 twice"),
    "no well's name": (changed(1, "well", "row 1"), "row 1"),
    "well missing": (changed(1, "well", "C01"), "lacks .*A02, which has images"),
    "other plate names": (
        plate_map().assign(plate="Plate 1").to_csv(index=False),
        r"No plate of the images, \['P1'\].*Plate 1",
    ),
    "a grid of 24 wells": (grid("state", 4, 6), "map.csv' line 1: a grid of 4 x 6"),
    "a grid that begins at 2": (
        grid("state", 8, 12).replace(",1,2,", ",0,2,"),
        'no column "well".*letters down',
    ),
    "no controls": (plate_map().assign(state="x").to_csv(index=False), "'healthy'"),
    "no positive controls": (
        plate_map().replace({"state": {"infected": "sick"}}).to_csv(index=False),
        "No well is a control 'infected'.*--positive",
    ),
    "two negative controls": (changed(0, "state", ""), "three"),
    "no column of states": (
        plate_map().drop(columns="state").to_csv(index=False),
        "no column 'state'.*--control",
    ),
    "no column of compounds": (
        plate_map().drop(columns="compound").to_csv(index=False),
        "no column 'compound'.*--compound",
    ),
    "no compound": (plate_map().assign(compound="").to_csv(index=False), "treated"),
    "dose with a unit": (changed(7, "concentration", "100 nM"), "'100 nM': a number"),
    "dose missing": (changed(7, "concentration", ""), "well B02.*a number from 0"),
    "decimal comma": (changed(7, "concentration", "0,5"), "'0,5': a number"),
}


@pytest.mark.parametrize("kind", PLATE_MAPS)
def test_a_plate_map(kind, screen, capsys):
    text, message = PLATE_MAPS[kind]
    assert screen(text) == 1
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("gandl screen: ")
    assert re.search(message, told), told


FINE = {
    "as it is": plate_map().to_csv(index=False).encode(),
    "a mark at the start": plate_map().to_csv(index=False).encode("utf-8-sig"),
    "line ends of Windows": plate_map()
    .to_csv(index=False, lineterminator="\r\n")
    .encode(),
    "blanks around": plate_map().to_csv(index=False).replace(",", " , ").encode(),
    "unsorted": plate_map().iloc[::-1].to_csv(index=False).encode(),
    "wells spelled a1": plate_map()
    .assign(well=[f"{w[0].lower()}{int(w[1:])}" for w in WELLS])
    .to_csv(index=False)
    .encode(),
    "wells without images": plate_map().to_csv(index=False).encode() + b"P1,H12,,,\n",
    "a compound at one dose": changed(7, "concentration", "0.1").encode(),
    "names with spaces and letters of all kinds": changed(7, "compound", "Ω <b> ß")
    .replace("drug", "Ω <b> ß")
    .encode(),
}


@pytest.mark.parametrize("kind", FINE)
def test_a_plate_map_that_is_fine(kind, screen, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert screen(FINE[kind]) == 0
    assert (tmp_path / "results" / "report.html").is_file()


def test_a_compound_called_script_stays_text(screen, tmp_path):
    evil = "<script>alert(1)</script>"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert screen(changed(7, "compound", evil).replace("drug", evil)) == 0
    page = (tmp_path / "results" / "report.html").read_text()
    assert evil not in page
    assert "&lt;script&gt;alert(1)" in page


def test_spaces_and_letters_of_all_kinds_in_paths(tmp_path):
    folder = tmp_path / "Plätze 板 #1 %20"
    folder.mkdir()
    tiff(folder / "µ {x} ß.tif")
    X = ImageCollection.from_folder(tmp_path, "{plate}/{well}.tif")
    assert np.array_equal(np.asarray(X)[0, 0], GREY)
    assert X.metadata["well"].tolist() == ["µ {x} ß"]


def test_folders_that_contain_themselves(tmp_path):
    tiff(tmp_path / "A01.tif")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(ImageCollection.from_folder(tmp_path, "{well}.tif")) == 1
    assert len(ImageCollection.from_folder(tmp_path, "{plate}/{well}.tif")) == 1
    with pytest.raises(ValueError, match="No file in"):
        ImageCollection.from_folder(tmp_path, "{plate}/{well}.png")
