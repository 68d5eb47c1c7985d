"""OME-TIFF: files that Pillow wrote, with OME-XML written by hand."""

import os
import pickle
import struct

import joblib
import numpy as np
import pandas as pd
import pytest
import tifffile
from _images import assert_read_by_threads, stack, write_channels
from PIL import Image

from gandl.images import ImageCollection, read_image

HEAD = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{}">'
)
PLATE = """<Plate ID="Plate:0" Name="1053597806">
<Well ID="Well:0:0:0" Row="1" Column="2">
<WellSample ID="WellSample:0:0:0:0" Index="0"><ImageRef ID="Image:0"/></WellSample>
<WellSample ID="WellSample:0:0:0:1" Index="1"><ImageRef ID="Image:1"/></WellSample>
</Well><Well ID="Well:0:0:1" Row="26" Column="10">
<WellSample ID="WellSample:0:0:1:0" Index="2"><ImageRef ID="Image:2"/></WellSample>
</Well></Plate>"""
PIXEL_SIZE = 'PhysicalSizeX="650" PhysicalSizeXUnit="nm" '


def described(
    k, shape, data, *, names=("DNA", "actin"), order="XYCZT", extra=PIXEL_SIZE
):
    """The OME-XML of one image (T, Z, C, H, W)."""
    t, z, c, height, width = shape
    channels = "".join(
        f'<Channel ID="Channel:{k}:{i}" SamplesPerPixel="1" Name="{name}"/>'
        for i, name in enumerate(names)
    )
    return (
        f'<Image ID="Image:{k}" Name="field {k}"><Pixels ID="Pixels:{k}" '
        f'DimensionOrder="{order}" Type="uint16" SizeX="{width}" SizeY="{height}" '
        f'SizeC="{c}" SizeZ="{z}" SizeT="{t}" {extra}>{channels}{data}</Pixels></Image>'
    )


def save(path, pages, xml, compression=None):
    frames = [Image.fromarray(page) for page in pages]
    frames[0].save(
        path,
        "TIFF",
        save_all=True,
        append_images=frames[1:],
        tiffinfo={270: xml},
        compression=compression,
    )


def write(path, images, plate="", compression=None, **options):
    """One file of several series, pages in the order of C, then Z, then T."""
    xml, ifd = HEAD.format(0) + plate, 0
    for k, image in enumerate(images):
        n = int(np.prod(image.shape[:3]))
        data = f'<TiffData IFD="{ifd}" PlaneCount="{n}"/>'
        xml, ifd = xml + described(k, image.shape, data, **options), ifd + n
    pages = [page for image in images for page in image.reshape(-1, *image.shape[3:])]
    save(path, pages, xml + "</OME>", compression)


@pytest.fixture
def three():
    return [stack(1, 1, 2, 12, 10) + np.uint16(k) for k in range(3)]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_series_of_a_plate(tmp_path, three, compression):
    write(tmp_path / "a.ome.tif", three, PLATE, compression)
    X = ImageCollection.from_ome_tiff(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(np.asarray(X), [image[0, 0] for image in three])
    assert X.channels == ("DNA", "actin")
    assert X.dtype == np.uint16
    expected = pd.DataFrame(
        {
            "file": "a.ome.tif",
            "series": range(3),
            "image_name": [f"field {k}" for k in range(3)],
            "plate": "1053597806",
            "well": ["B03", "B03", "AA11"],
            "site": ["1", "2", "1"],
            "pixel_size": 0.65,
        }
    )
    pd.testing.assert_frame_equal(X.metadata, expected)
    actin = X.with_channels("actin")[[2, 0]]
    np.testing.assert_array_equal(
        np.asarray(actin)[:, 0], [three[2][0, 0, 1], three[0][0, 0, 1]]
    )


def test_a_view_is_a_reference(tmp_path, three, same):
    for name in "ab":
        write(tmp_path / f"{name}.ome.tif", three)
    X = ImageCollection.from_ome_tiff(tmp_path)
    same(pickle.loads(pickle.dumps(X)), X)
    view = X[[4, 1]]
    same(pickle.loads(pickle.dumps(view)), view)
    assert len(pickle.dumps(view)) < 3_000
    assert joblib.hash(view) != joblib.hash(X[[4, 2]])
    assert joblib.hash(X[3:]) == joblib.hash(X[2:][1:])


def test_read_by_threads(tmp_path, three):
    write(tmp_path / "a.ome.tif", three)
    X = ImageCollection.from_ome_tiff(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(X, [image[0, 0] for image in three])
    assert_read_by_threads(X)


def test_each_file_is_opened_once_an_image(tmp_path, three, monkeypatch):
    write(tmp_path / "a.ome.tif", three)
    X = ImageCollection.from_ome_tiff(tmp_path / "a.ome.tif")
    opened = []

    class Counting(tifffile.TiffFile):
        def __init__(self, *args, **kwargs):
            opened.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(tifffile, "TiffFile", Counting)
    np.asarray(X.tile(4))
    assert len(opened) == 3


def test_planes_are_chosen_or_projected(tmp_path):
    image = stack(2, 3, 2, 12, 10)
    write(tmp_path / "a.ome.tif", [image])

    def read(**choice):
        return np.asarray(ImageCollection.from_ome_tiff(tmp_path, **choice))[0]

    np.testing.assert_array_equal(read(z=2, t=1), image[1, 2])
    np.testing.assert_array_equal(read(z="max", t=0), image[0].max(axis=0))
    np.testing.assert_array_equal(read(z="max", t="max"), image.max(axis=(0, 1)))
    mean = read(z="mean", t=1)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, image[1].mean(axis=0).astype("float32"))
    both = read(z="mean", t="max")
    np.testing.assert_allclose(both, image.mean(axis=1).max(axis=0), rtol=1e-6)
    message = r"a\.ome\.tif', series 0, holds 3 planes in z\. Pass z=0 to 2 .*z=\"max\""
    with pytest.raises(ValueError, match=message):
        read(t=0)
    with pytest.raises(ValueError, match=r"holds 2 time points\. Pass t=0 to 1"):
        read(z=0)
    with pytest.raises(ValueError, match=r"3 planes in z, numbered from 0.*no z=3"):
        read(z=3, t=0)
    with pytest.raises(ValueError, match=r"z is the number of a plane.*got -1"):
        read(z=-1, t=0)


def test_stacks_of_different_depth_are_projected(tmp_path):
    images = [stack(1, 3, 2, 12, 10), stack(1, 2, 2, 12, 10)]
    write(tmp_path / "a.ome.tif", images)
    X = ImageCollection.from_ome_tiff(tmp_path, z="max")
    expected = [image[0].max(axis=0) for image in images]
    np.testing.assert_array_equal(np.asarray(X), expected)


def test_planes_in_another_order(tmp_path):
    image = stack(1, 3, 2, 12, 10)
    data = '<TiffData IFD="0" PlaneCount="6"/>'
    xml = HEAD.format(0) + described(0, image.shape, data, order="XYZCT") + "</OME>"
    save(tmp_path / "a.ome.tif", image[0].swapaxes(0, 1).reshape(-1, 12, 10), xml)
    X = ImageCollection.from_ome_tiff(tmp_path, z=1)
    np.testing.assert_array_equal(X[0], image[0, 1])


def spread(folder, image, master=None):
    """A file for each channel, all with the whole OME-XML or a reference to it."""
    data = "".join(
        f'<TiffData FirstC="{c}" PlaneCount="1"><UUID FileName="c{c}.ome.tif">'
        f"urn:uuid:{c}</UUID></TiffData>"
        for c in range(2)
    )
    body = described(0, image.shape, data) + "</OME>"
    for c in range(2):
        xml = HEAD.format(c) + body
        if master:
            reference = f'<BinaryOnly MetadataFile="{master}" UUID="urn:uuid:m"/>'
            xml = f"{HEAD.format(c)}{reference}</OME>"
        save(folder / f"c{c}.ome.tif", [image[0, 0, c]], xml)
    if master:
        (folder / master).write_text(HEAD.format("m") + body)


@pytest.mark.parametrize("master", [None, "set.companion.ome"])
def test_a_set_of_files_is_listed_once(tmp_path, master):
    image = stack(1, 1, 2, 12, 10)
    spread(tmp_path, image, master)
    for paths in (tmp_path, tmp_path / "c1.ome.tif", f"{tmp_path}/c*.ome.tif"):
        X = ImageCollection.from_ome_tiff(paths)
        np.testing.assert_array_equal(np.asarray(X), image[0])
    (tmp_path / "c0.ome.tif").unlink()
    with pytest.raises((ValueError, OSError), match=r"missing|No such"):
        ImageCollection.from_ome_tiff(tmp_path)


def test_a_companion_that_is_gone(tmp_path):
    spread(tmp_path, stack(1, 1, 2, 12, 10), "set.companion.ome")
    (tmp_path / "set.companion.ome").unlink()
    with pytest.raises(
        ValueError, match=r"c0\.ome\.tif.*'set\.companion\.ome'.*not beside"
    ):
        ImageCollection.from_ome_tiff(tmp_path)


def test_copies_are_images_of_their_own(tmp_path):
    image = stack(1, 1, 1, 12, 10)
    data = '<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:0</UUID></TiffData>'
    xml = HEAD.format(0) + described(0, image.shape, data, names=("DNA",)) + "</OME>"
    for name in "ab":
        save(tmp_path / f"{name}.ome.tif", image[0, 0], xml)
    X = ImageCollection.from_ome_tiff(tmp_path)
    assert X.metadata["file"].tolist() == ["a.ome.tif", "b.ome.tif"]


def test_series_that_differ(tmp_path, three):
    write(tmp_path / "a.ome.tif", [*three[:2], three[2][..., :8, :]])
    message = (
        r"'series': 2.*a\.ome\.tif' has size \(8, 10\), where the first.*\(12, 10\)"
    )
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_ome_tiff(tmp_path)
    X = ImageCollection.from_ome_tiff(tmp_path, on_error="skip")
    assert X.metadata["series"].tolist() == [0, 1]
    assert X.skipped["series"].tolist() == [2]
    assert "2 x 8 x 10 uint16, where others" in X.skipped["reason"][0]
    write(tmp_path / "b.ome.tif", three, names=("DNA", "ER"))
    pair = [tmp_path / "b.ome.tif", tmp_path / "a.ome.tif"]
    with pytest.raises(
        ValueError, match=r"channels \('DNA', 'actin'\).*\('DNA', 'ER'\)"
    ):
        ImageCollection.from_ome_tiff(pair)
    X = ImageCollection.from_ome_tiff(pair, on_error="skip")
    assert X.channels == ("DNA", "ER")
    assert len(X.skipped) == 3


def test_what_is_no_ome_tiff(tmp_path):
    Image.fromarray(np.zeros((8, 8), "uint8")).save(tmp_path / "plain.tif")
    with pytest.raises(ValueError, match=r"plain\.tif.*no OME-XML.*from_table"):
        ImageCollection.from_ome_tiff(tmp_path / "plain.tif")
    with pytest.raises(ValueError, match=r"No OME-TIFF file in .*\.ome\.tif"):
        ImageCollection.from_ome_tiff(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No such image file.*gone\.ome\.tif"):
        ImageCollection.from_ome_tiff(tmp_path / "gone.ome.tif")
    save(tmp_path / "bad.ome.tif", stack(1, 8, 8), HEAD.format(0) + "<Image></OME>")
    with pytest.raises(ValueError, match=r"bad\.ome\.tif.*OME-XML is broken"):
        ImageCollection.from_ome_tiff(tmp_path)
    save(tmp_path / "bad.ome.tif", stack(1, 8, 8), HEAD.format(0) + "</OME>")
    with pytest.raises(ValueError, match=r"bad\.ome\.tif.*describes 0 images"):
        ImageCollection.from_ome_tiff(tmp_path)


def test_fewer_pages_than_described(tmp_path, three):
    data = '<TiffData IFD="0" PlaneCount="2"/>'
    xml = HEAD.format(0) + described(0, (1, 1, 2, 12, 10), data) + "</OME>"
    save(tmp_path / "a.ome.tif", three[0][0, 0, :1], xml)
    with pytest.raises(
        ValueError, match=r"a\.ome\.tif.*plane of channel 1, z=0, t=0 is"
    ):
        ImageCollection.from_ome_tiff(tmp_path)


def test_a_truncated_file_and_one_that_changed(tmp_path, three):
    write(tmp_path / "a.ome.tif", three)
    write_channels(tmp_path / "b.ome.tif", three[0][0, 0])
    whole = (tmp_path / "b.ome.tif").read_bytes()
    X = ImageCollection.from_ome_tiff(tmp_path, channels=["DNA", "actin"])
    assert len(X) == 4
    os.truncate(tmp_path / "b.ome.tif", len(whole) - 100)
    with pytest.raises(ValueError, match=r"b\.ome\.tif' has changed"):
        X[3]
    for k in range(20):
        (tmp_path / "b.ome.tif").write_bytes(whole[: len(whole) * k // 20])
        with pytest.raises(ValueError, match=r"b\.ome\.tif"):
            np.asarray(
                ImageCollection.from_ome_tiff(tmp_path, channels=["DNA", "actin"])
            )
        X = ImageCollection.from_ome_tiff(
            tmp_path, channels=["DNA", "actin"], on_error="skip"
        )
        assert X.metadata["series"].tolist() == [0, 1, 2]
        assert X.skipped["file"].tolist() == ["b.ome.tif"]


def test_byte_limit(tmp_path, three):
    write(tmp_path / "a.ome.tif", three)
    assert ImageCollection.from_ome_tiff(tmp_path, byte_limit=480)[0].nbytes == 480
    with pytest.raises(ValueError, match=r"a\.ome\.tif.*promises"):
        ImageCollection.from_ome_tiff(tmp_path, byte_limit=479)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ('PhysicalSizeX="0.325"', 0.325),
        ('PhysicalSizeX="0.325" PhysicalSizeXUnit="&#181;m"', 0.325),
        ('PhysicalSizeX="0.000325" PhysicalSizeXUnit="mm"', 0.325),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"', None),
        ('PhysicalSizeX="0"', None),
        ("", None),
    ],
)
def test_pixel_size(tmp_path, three, written, size):
    write(tmp_path / "a.ome.tif", three, extra=written)
    metadata = ImageCollection.from_ome_tiff(tmp_path).metadata
    if size is None:
        assert "pixel_size" not in metadata
    else:
        np.testing.assert_allclose(metadata["pixel_size"], size)


def lose_strips(path, n_left=None):
    """Leave the last two strips of every page out of its lists, or mark them sparse."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            for name in ("StripOffsets", "StripByteCounts"):
                tag = page.tags[name]
                if n_left is not None:
                    content[tag.offset + 4 : tag.offset + 8] = struct.pack("<I", n_left)
                    continue
                size = 2 if tag.dtype.name == "SHORT" else 4
                at = tag.valueoffset + (tag.count - 2) * size
                content[at : at + 2 * size] = bytes(2 * size)
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("n_left", "message"),
    [(3, "truncated: it holds 3 of the 5"), (None, "2 of the 5 strips .* missing")],
)
def test_strips_that_are_not_there(tmp_path, compression, n_left, message):
    whole, path = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    for file in (whole, path):
        tifffile.imwrite(
            file,
            np.full((2, 50, 50), 7, "uint16"),
            metadata={"axes": "CYX"},
            rowsperstrip=10,
            compression=compression,
            photometric="minisblack",
        )
    lose_strips(path, n_left)
    with pytest.raises(ValueError, match=rf"b\.ome\.tif.*{message}"):
        np.asarray(ImageCollection.from_ome_tiff(path))
    with pytest.raises(ValueError, match=rf"b\.ome\.tif.*{message}"):
        read_image(path)
    X = ImageCollection.from_ome_tiff([whole, path], on_error="skip")
    assert X.skipped["file"].tolist() == ["b.ome.tif"]


ONE = '<TiffData IFD="0" PlaneCount="1"/>'
MANY = '<TiffData IFD="0" PlaneCount="40000000"/>'
MODULO = """<StructuredAnnotations><XMLAnnotation ID="A:0"
Namespace="openmicroscopy.org/omero/dimension/modulo"><Value><Modulo><ModuloAlongZ
Type="phase" Start="0" End="40000000" Step="1"/></Modulo></Value></XMLAnnotation>
</StructuredAnnotations>"""


@pytest.mark.parametrize(
    ("shape", "data", "more"),
    [
        ((20_000_000, 1, 2, 8, 8), ONE, ""),
        ((1, 1, 1, 80_000, 32_000), ONE, ""),
        ((1, 1, 1, 8, 8), MANY, ""),
        ((1, 1, 1, 8, 8), ONE, MODULO),
    ],
)
def test_planes_that_are_only_announced(tmp_path, shape, data, more):
    path = tmp_path / "a.ome.tif"
    xml = HEAD.format(0) + more + described(0, shape, data) + "</OME>"
    save(path, stack(1, 8, 8), xml)
    message = r"a\.ome\.tif'.*announces 4\d{7} planes, of which there are at most 1\."
    for read in (ImageCollection.from_ome_tiff, read_image):
        with pytest.raises(ValueError, match=message):
            read(path)


def test_entities_are_refused(tmp_path):
    path = tmp_path / "a.ome.tif"
    declared = '<!DOCTYPE OME [<!ENTITY a "aaaa">]>'
    body = described(0, (1, 1, 1, 8, 8), ONE, names=("&a;",))
    save(path, stack(1, 8, 8), f"{declared}{HEAD.format(0)}{body}</OME>")
    for read in (ImageCollection.from_ome_tiff, read_image):
        with pytest.raises(ValueError, match=r"a\.ome\.tif'.*defines entities"):
            read(path)


def test_channels_are_selected_by_name(tmp_path, three):
    write(tmp_path / "a.ome.tif", three[:1])
    write(tmp_path / "b.ome.tif", three[1:2], names=("actin", "DNA"))
    expected = [three[0][0, 0], three[1][0, 0, ::-1]]

    def read(channels, **options):
        return ImageCollection.from_ome_tiff(tmp_path, channels=channels, **options)

    X = read(["actin", "DNA"])
    assert X.channels == ("actin", "DNA")
    np.testing.assert_array_equal(np.asarray(X)[:, ::-1], expected)
    X = read({"DNA": "nuclei"})
    assert X.channels == ("nuclei",)
    np.testing.assert_array_equal(np.asarray(X), np.array(expected)[:, :1])
    with pytest.raises(ValueError, match=r"a\.ome\.tif' has no channels \['ER'\]; it"):
        read(["ER", "DNA"])
    write(tmp_path / "b.ome.tif", three[1:2], names=("ER", "DNA"))
    X = read(["ER", "DNA"], on_error="skip")
    assert X.skipped["file"].tolist() == ["a.ome.tif"]
    assert "no channels ['ER']" in X.skipped["reason"][0]


@pytest.mark.parametrize("names", [(), ("1", "2"), ("Ch1", "Ch2")])
def test_channels_without_names_are_named(tmp_path, three, names):
    write(tmp_path / "a.ome.tif", three, names=names)
    X = ImageCollection.from_ome_tiff(tmp_path, channels=["DNA", "actin"])
    assert X.channels == ("DNA", "actin")
    np.testing.assert_array_equal(np.asarray(X), [image[0, 0] for image in three])
    with pytest.raises(ValueError, match=r"no channels \['DNA'\]; it has"):
        ImageCollection.from_ome_tiff(tmp_path, channels=["DNA"])


def test_channels_of_one_name(tmp_path, three):
    write(tmp_path / "a.ome.tif", three[:1], names=("DNA", "DNA"))
    message = r"a\.ome\.tif' has several channels 'DNA': pass names for all 2 of"
    for channels in (None, ["DNA"]):
        with pytest.raises(ValueError, match=message):
            ImageCollection.from_ome_tiff(tmp_path, channels=channels)
    X = ImageCollection.from_ome_tiff(tmp_path, channels=["DNA", "DNA in far red"])
    assert X.channels == ("DNA", "DNA in far red")
    np.testing.assert_array_equal(np.asarray(X), three[0][:, 0])
    write(tmp_path / "b.ome.tif", three[:1])
    X = ImageCollection.from_ome_tiff(tmp_path, on_error="skip")
    assert X.skipped["file"].tolist() == ["a.ome.tif"]


def test_plates_of_one_name(tmp_path, three):
    def plates(*files):
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            write(tmp_path / file, three, PLATE)
        metadata = ImageCollection.from_ome_tiff(tmp_path).metadata
        return metadata.drop_duplicates("file")["plate"].tolist()

    assert plates("day1/a.ome.tif") == ["1053597806"]
    assert plates("day2/a.ome.tif") == ["day1", "day2"]
    assert plates("day2/b.ome.tif") == [
        "day1/a.ome.tif",
        "day2/a.ome.tif",
        "day2/b.ome.tif",
    ]


def test_a_plate_with_a_file_for_each_well(tmp_path, three):
    for folder in ("day1", "day2"):
        for k, column in enumerate(("2", "3")):
            (tmp_path / folder).mkdir(exist_ok=True)
            plate = PLATE.replace('Column="2"', f'Column="{column}"')
            write(tmp_path / folder / f"{k}.ome.tif", three[:2], plate)
    X = ImageCollection.from_ome_tiff(tmp_path / "day1")
    assert X.metadata["plate"].unique().tolist() == ["1053597806"]
    X = ImageCollection.from_ome_tiff(tmp_path)
    assert X.metadata["plate"].tolist() == ["day1"] * 4 + ["day2"] * 4


@pytest.fixture
def named(tmp_path):
    """Two wells, the channels of the second in another order: DNA is 1, actin 2."""

    def write(name, channels, *, told=True):
        values = {"DNA": 1, "actin": 2, "ER": 3, "Hoechst": 1}
        pixels = [np.full((4, 5), values[channel], "uint16") for channel in channels]
        about = {"axes": "CYX"} | ({"Channel": {"Name": channels}} if told else {})
        tifffile.imwrite(tmp_path / name, np.stack(pixels), metadata=about)

    write("A01.ome.tif", ["DNA", "actin"])
    write("A02.ome.tif", ["actin", "DNA"])
    return write


@pytest.mark.parametrize(
    ("asked", "expected", "values"),
    [
        (None, ("DNA", "actin"), [1, 2]),
        (["actin", "DNA"], ("actin", "DNA"), [2, 1]),
        (["nuclei", "fibres"], ("nuclei", "fibres"), [1, 2]),
    ],
)
@pytest.mark.parametrize("how", ["folder", "table", "skip"])
def test_by_file_names_too_channels_go_by_their_own_names(
    asked, expected, values, how, named, tmp_path
):
    on_error = "skip" if how == "skip" else "raise"
    if how == "table":
        table = pd.DataFrame({"path": ["A01.ome.tif", "A02.ome.tif"]})
        X = ImageCollection.from_table(table, root=tmp_path, channels=asked)
    else:
        X = ImageCollection.from_folder(
            tmp_path, "{well}.ome.tif", channels=asked, on_error=on_error
        )
    assert X.channels == expected
    assert np.asarray(X)[:, :, 0, 0].tolist() == [values, values]
    assert np.asarray(pickle.loads(pickle.dumps(X[1:])))[0, :, 0, 0].tolist() == values


def by_name(folder, pattern="{well}.ome.tif", **how):
    return ImageCollection.from_folder(folder, pattern, **how)


def test_names_that_contradict_those_of_the_files_are_refused(named, tmp_path):
    with pytest.raises(ValueError, match=r"'DNA' is another\. Name all as the file"):
        by_name(tmp_path, channels=["actin2", "DNA"])
    named("A03.ome.tif", ["ER", "DNA"])
    with pytest.raises(ValueError, match=r"A03.*calls \['ER', 'DNA'\], where the"):
        np.asarray(by_name(tmp_path))
    X = by_name(tmp_path, on_error="skip")
    assert len(X) == 2
    assert X.skipped["well"].tolist() == ["A03"]
    assert "(DNA, ER), where others hold" in X.skipped["reason"][0]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_names_of_the_users_own_stand_for_those_of_any_file(named, tmp_path, on_error):
    named("A00.ome.tif", ["DNA", "actin"], told=False)
    named("A03.ome.tif", ["Hoechst", "actin"])
    X = by_name(tmp_path, channels=["nuclei", "fibres"], on_error=on_error)
    # The first file has no names: what A02 calls its channels, nothing contradicts.
    assert np.asarray(X)[:, 0, 0, 0].tolist() == [1, 1, 2, 1]
    X = by_name(tmp_path, channels=["DNA", "actin"], on_error=on_error)
    assert np.asarray(X)[:, :, 0, 0].tolist() == [[1, 2]] * 4
    (tmp_path / "A00.ome.tif").unlink()
    X = by_name(tmp_path, channels=["nuclei", "fibres"], on_error=on_error)
    assert np.asarray(X)[:, :, 0, 0].tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("told", ["first", "later"])
def test_names_in_some_files_alone_are_no_order(told, named, tmp_path):
    plain = "A00.ome.tif" if told == "later" else "A03.ome.tif"
    named(plain, ["DNA", "actin"], told=False)
    with pytest.raises(ValueError, match="name channels by `channels`, as no"):
        np.asarray(by_name(tmp_path))
    assert len(by_name(tmp_path, on_error="skip")) == 2


def test_time_points_in_files_go_by_name(named, tmp_path):
    for well in ("B01", "B02"):
        for t, names in enumerate((["DNA", "actin"], ["actin", "DNA"])):
            named(f"{well}_t{t}.ome.tif", names)
    pattern = "{well}_t{t}.ome.tif"
    for on_error in ("raise", "skip"):
        X = by_name(tmp_path, pattern, t="max", on_error=on_error)
        assert np.asarray(X)[:, :, 0, 0].tolist() == [[1, 2]] * 2
    named("B02_t1.ome.tif", ["DNA", "ER"])
    X = by_name(tmp_path, pattern, t="max", on_error="skip")
    assert X.skipped["well"].tolist() == ["B02"]
    assert np.asarray(X)[:, :, 0, 0].tolist() == [[1, 2]]


def test_names_of_the_planes_of_another_file_are_not_those_of_a_file_s_pages(tmp_path):
    """As in a file that was renamed: where the planes are, only the old name tells."""
    data = "".join(
        f'<TiffData FirstC="{1 - c}" IFD="{c}" PlaneCount="1">'
        '<UUID FileName="old.ome.tif">urn:uuid:1</UUID></TiffData>'
        for c in (0, 1)
    )
    pages = [np.full((4, 5), value, "uint16") for value in (2, 1)]
    head = HEAD.format(2)
    xml = f"{head}{described(0, (1, 1, 2, 4, 5), data)}</OME>"
    save(tmp_path / "A01.ome.tif", pages, xml)
    with pytest.warns(UserWarning, match="does not say what its 2 pages are"):
        X = by_name(tmp_path)
    assert X.channels == ("channel_0", "channel_1")
    save(tmp_path / "A01.ome.tif", pages, xml.replace("uuid:2", "uuid:1"))
    X = by_name(tmp_path)
    assert X.channels == ("DNA", "actin")
    assert np.asarray(X)[0, :, 0, 0].tolist() == [1, 2]
