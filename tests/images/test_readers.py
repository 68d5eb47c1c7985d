import contextlib
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from gandl.images import ImageCollection, read_image

DTYPES = ["uint8", "int8", "uint16", "int32", "float16", "float32", "float64"]


def values(shape, dtype):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (3, 6, 5), (7, 6, 5)])
def test_tiff_stays_as_stored(tmp_path, shape, dtype, byteorder):
    image = values(shape, dtype)
    path = tmp_path / "an imagé.tif"
    tifffile.imwrite(path, image, byteorder=byteorder, photometric="minisblack")
    read = read_image(path)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, image.reshape(-1, 6, 5))


@pytest.mark.parametrize(
    "how", [{"compression": "zlib"}, {"compression": "lzw"}, {"bigtiff": True}]
)
def test_compressed_and_big_tiff(tmp_path, how):
    image = values((2, 40, 30), "uint16")
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image, photometric="minisblack", **how)
    np.testing.assert_array_equal(read_image(path), image)


def test_tiff_axes(tmp_path):
    rgb = values((6, 5, 3), "uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    planes = rgb.transpose(2, 0, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif"), planes)
    tifffile.imwrite(
        tmp_path / "planar.tif", planes, photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "planar.tif"), planes)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for page in planes:
            writer.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "pages.tif"), planes)
    tifffile.imwrite(tmp_path / "imagej.tif", planes, imagej=True)
    np.testing.assert_array_equal(read_image(tmp_path / "imagej.tif"), planes)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), planes)
    one_row = values((3, 1, 5), "uint8")
    tifffile.imwrite(tmp_path / "row.tif", one_row, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "row.tif"), one_row)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_png_stays_as_stored(tmp_path, shape, dtype):
    import imagecodecs

    image = values(shape, dtype) * np.dtype(dtype).type(251)
    path = tmp_path / "an imagé.png"
    path.write_bytes(imagecodecs.png_encode(image))
    read = read_image(path)
    assert read.dtype == image.dtype
    expected = np.moveaxis(image.reshape(6, 5, -1), -1, 0)
    np.testing.assert_array_equal(read, expected)


def test_pillow_formats(tmp_path):
    image = values((6, 5), "uint8")
    Image.fromarray(image).save(tmp_path / "image.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "image.bmp"), image[None])
    Image.fromarray(image > 12).save(tmp_path / "mask.png")
    mask = read_image(tmp_path / "mask.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, image[None] > 12)


def test_palette_becomes_colours(tmp_path):
    indices = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.putdata(indices.ravel().tolist())
    picture.save(tmp_path / "palette.png")
    read = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(read[0], [[10, 40], [70, 40]])
    np.testing.assert_array_equal(read[2], [[30, 60], [90, 60]])


@pytest.mark.parametrize("name", ["grey.png", "colour.png", "colour.tif"])
def test_alpha_is_told_unless_it_is_named(tmp_path, name):
    n = 2 if name == "grey.png" else 4
    image = values((6, 5, n), "uint8")
    if name == "colour.tif":
        tifffile.imwrite(tmp_path / name, image, photometric="rgb")
    else:
        Image.fromarray(image).save(tmp_path / name)

    def collection(**how):
        table = pd.DataFrame({"path": [name]})
        return ImageCollection.from_table(table, root=tmp_path, **how)

    with pytest.warns(UserWarning, match=f"{name}' calls its last") as told:
        X = collection()
    # The command line names channels of folders alone.
    assert "--channels" not in str(told[0].message)
    np.testing.assert_array_equal(X[0], np.moveaxis(image, -1, 0))
    assert collection(channels=list("abcd")[:n]).channels[-1] == "abcd"[n - 1]


def test_colours_without_alpha_are_not_told_of(tmp_path):
    Image.fromarray(values((6, 5, 3), "uint8")).save(tmp_path / "a.png")
    X = ImageCollection.from_folder(tmp_path, "{well}.png")
    tifffile.imwrite(tmp_path / "a.tif", values((6, 5, 3), "uint8"), photometric="rgb")
    Y = ImageCollection.from_folder(tmp_path, "{well}.tif")
    assert X.shape == Y.shape == (1, 3, 6, 5)


def test_animation(tmp_path):
    frames = [Image.fromarray(values((6, 5), "uint8") + i) for i in range(3)]
    path = tmp_path / "film.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"film\.gif.*3 frames"):
        read_image(path)


def truncations(path):
    content = path.read_bytes()
    return [content[: len(content) * k // 20] for k in range(20)]


@pytest.mark.parametrize("shape", [(40, 30), (3, 40, 30)])
@pytest.mark.parametrize(
    "kwargs", [{}, {"compression": "zlib"}, {"imagej": True}, {"ome": True}]
)
def test_truncated_tiff(tmp_path, shape, kwargs):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, shape).astype("uint16")
    path = tmp_path / "whole.tif"
    if "imagej" not in kwargs:
        kwargs = kwargs | {"photometric": "minisblack"}
    tifffile.imwrite(path, image, **kwargs)
    for content in truncations(path):
        damaged = tmp_path / "damaged.tif"
        damaged.write_bytes(content)
        if "ome" in kwargs and len(content) > image.nbytes:
            # Cut in the description behind the pixels: all or nothing.
            with contextlib.suppress(ValueError):
                np.testing.assert_array_equal(
                    read_image(damaged), image.reshape(-1, 40, 30)
                )
            continue
        with pytest.raises(ValueError, match=r"damaged\.tif.*leave it out"):
            read_image(damaged)


OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{}">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8"
SizeX="5" SizeY="6" SizeC="2" SizeZ="1" SizeT="1">
<Channel ID="Channel:0:0" SamplesPerPixel="1"/>
<Channel ID="Channel:0:1" SamplesPerPixel="1"/>
<TiffData FirstC="0" PlaneCount="1"><UUID FileName="0.ome.tif">urn:uuid:0</UUID>
</TiffData>
<TiffData FirstC="1" PlaneCount="1"><UUID FileName="1.ome.tif">urn:uuid:1</UUID>
</TiffData></Pixels></Image></OME>"""


def test_ome_tiff_of_several_files_gives_each_its_own_pages(tmp_path):
    image = values((2, 6, 5), "uint8")
    for c in range(2):
        tifffile.imwrite(
            tmp_path / f"{c}.ome.tif",
            image[c],
            description=OME.format(c),
            metadata=None,
        )
    with tifffile.TiffFile(tmp_path / "0.ome.tif") as tif:
        assert tif.series[0].shape == (2, 6, 5)
    for c in range(2):
        np.testing.assert_array_equal(
            read_image(tmp_path / f"{c}.ome.tif"), image[c : c + 1]
        )


def test_truncated_png(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "whole.png"
    Image.fromarray(rng.integers(0, 255, (40, 30)).astype("uint8")).save(path)
    for content in truncations(path):
        damaged = tmp_path / "damaged.png"
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.png.*leave it out"):
            read_image(damaged)


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_not_an_image(tmp_path, suffix, content):
    path = tmp_path / f"note.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"note\.{suffix}"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_missing_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=rf"gone\.{suffix}"):
        read_image(tmp_path / f"gone.{suffix}")


def test_byte_limit(tmp_path):
    image = values((100, 100), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib")
    Image.fromarray(image).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        assert read_image(tmp_path / name, byte_limit=20_000).nbytes == 20_000
        with pytest.raises(ValueError, match=rf"{name}.*promises.*GiB"):
            read_image(tmp_path / name, byte_limit=19_999)


def test_missing_pillow_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    Image.fromarray(values((6, 5), "uint8")).save(path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "gandl\[io\]"'):
        read_image(path)
