"""Folders named as microscopes and archives name them."""

import numpy as np
import pytest

from gandl.images import ImageCollection

GUIDS = ["2DE5D0E6-1639-40D4-8654-9A6247B4B8CD", "E7E91F39-2BB5-4B83-B769-5BB151301A34"]


def values(X):
    return np.asarray(X)[:, :, 0, 0].tolist()


def harmony(folder, wells=("r01c02", "r16c24"), ends=("sk1fk1fl1.tiff",)):
    return [
        f"{folder}/{well}f01p01-ch{channel}{end}"
        for well in wells
        for channel in (1, 2, 10)
        for end in ends
    ]


LAYOUTS = {
    "rxrx": (
        [
            f"HRCE-1/Plate{p}/{w}_s{s}_w{c}.png"
            # Site 10 is no well S10 of ImageXpress.
            for p, w, s in (("2", "AA02", 1), ("2", "AA02", 10), ("10", "B03", 1))
            for c in (1, 2)
        ],
        {
            "experiment": ["HRCE-1"] * 3,
            "plate": ["HRCE-1_2", "HRCE-1_2", "HRCE-1_10"],
            "plate_number": ["2", "2", "10"],
            "well": ["AA02", "AA02", "B03"],
            "site": ["1", "10", "1"],
        },
        ("1", "2"),
    ),
    "phenix": (
        harmony("BR00117011__2020-11-08T19_57_47-Measurement 1/Images"),
        {
            "plate": ["BR00117011"] * 2,
            "measurement": ["2020-11-08T19_57_47-Measurement 1"] * 2,
            "well": ["A02", "P24"],
            "site": ["1", "1"],
        },
        ("1", "2", "10"),
    ),
    "operetta": (
        harmony("P1/images/r01c02", ["r01c02"], ["t01.tiff"])
        + harmony("P1/images/r16c24", ["r16c24"], ["t01.tiff"]),
        {
            "plate": ["P1"] * 2,
            "well": ["A02", "P24"],
            "site": ["1", "1"],
        },
        ("1", "2", "10"),
    ),
    "imagexpress": (
        # The channel ends where the GUID begins, be it with a digit.
        [
            f"Week1_22123/TimePoint_1/Week 1_150607_B02_s{s}_w{c}{GUIDS[c - 1]}.TIF"
            for s in (1, 10)
            for c in (1, 2)
        ],
        {
            "experiment": ["Week 1_150607"] * 2,
            "plate": ["Week1_22123"] * 2,
            "well": ["B02"] * 2,
            "site": ["1", "10"],
        },
        ("1", "2"),
    ),
    "cellvoyager": (
        [
            f"P7/AssayPlate_Greiner_#655090_{w}_T0001F{s:03}L01A0{c}Z01C0{c}.tif"
            for w, s in (("B04", 2), ("B04", 12))
            for c in (1, 2)
        ],
        {
            "experiment": ["AssayPlate_Greiner_#655090"] * 2,
            "plate": ["P7"] * 2,
            "well": ["B04"] * 2,
            "site": ["2", "12"],
        },
        ("1", "2"),
    ),
}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(make, name, given):
    names, metadata, channels = LAYOUTS[name]
    X = ImageCollection.from_folder(make(*names), name if given else None)
    assert X.channels == channels
    assert X.metadata.to_dict("list") == metadata
    n = len(channels)
    assert values(X) == [[n * k + c for c in range(n)] for k in range(len(X))]


def stack(planes=(1, 2, 3), times=(1, 2)):
    return [
        f"P1/Images/r01c02f01p{z:02}-ch{channel}sk{t}fk1fl1.tiff"
        for channel in (1, 2)
        for t in times
        for z in planes
    ]


def test_planes_and_time_points_are_chosen_or_projected(make):
    root = make(*stack())
    with pytest.raises(ValueError, match=r"2 planes in \{t\}: 1, 2\. Pass t="):
        ImageCollection.from_folder(root, z="max")
    with pytest.raises(ValueError, match=r"3 planes in \{z\}: 1, 2, 3\. Pass z="):
        ImageCollection.from_folder(root, "phenix", t=1)
    assert values(ImageCollection.from_folder(root, z="max", t=2)) == [[5, 11]]
    as_written = ImageCollection.from_folder(root, z="02", t="mean")  # in the names
    X = ImageCollection.from_folder(root, z=2, t="mean")
    assert values(as_written) == values(X)
    assert values(X) == [[2.5, 8.5]]
    assert list(X.metadata) == ["plate", "well", "site"]


def test_a_plane_that_is_missing(make):
    root = make(*stack(times=[1]))
    (root / "P1/Images/r01c02f01p02-ch2sk1fk1fl1.tiff").unlink()
    (root / "P1/Images/r01c02f01p02-ch1sk1fk1fl1.tiff").unlink()
    root = make("P1/Images/r03c02f01p02-ch1sk1fk1fl1.tiff")  # another well has it
    with pytest.raises(FileNotFoundError, match=r"r01c02f01p02-ch1sk1fk1fl1\.tiff. is"):
        ImageCollection.from_folder(root, channels=["1"], z="max")


def test_the_same_from_any_folder_above_the_files(make):
    names = harmony("batch/BR1__2020-Measurement1/Images")
    root = make(*names)
    whole = ImageCollection.from_folder(root, "jump")
    for folder in ("batch", "batch/BR1__2020-Measurement1", *[names[0][:-31]]):
        X = ImageCollection.from_folder(root / folder)
        assert X.metadata.equals(whole.metadata), folder
    assert set(whole.metadata["plate"]) == {"BR1"}


def test_other_files_are_passed_over(make):
    others = ["P1/Images/Index.idx.xml", "P1/Assaylayout/layout.xml", "notes.png"]
    X = ImageCollection.from_folder(make(*harmony("P1/Images"), *others))
    assert X.metadata["plate"].tolist() == ["P1", "P1"]
    assert values(X) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (harmony("P1/Images") + harmony("P1/Images/corrected"), "P1' and .*corrected'"),
        (harmony("P1/Images") + harmony("P1/old/Images"), "P1' and .*P1/old'"),
        (harmony("s") + harmony("s/P1/Images") + harmony("s/P2"), "s' and .*s/P1'"),
        (["x_A01_s1_w1.tif", "P1/x_A01_s1_w1.tif"], "' and .*P1'"),
    ],
)
def test_plates_within_a_plate_are_not_left_out_silently(make, names, folders):
    with pytest.raises(ValueError, match=folders + r", which lies in it.* `pattern`"):
        ImageCollection.from_folder(make(*names))


def test_plates_at_several_depths_are_all_found(make):
    X = ImageCollection.from_folder(make(*harmony("P1"), *harmony("batch/P2/Images")))
    assert X.metadata["plate"].tolist() == ["P1", "P1", "P2", "P2"]


def test_thumbnails_and_projections_are_passed_over(make):
    stem = "P1/TimePoint_1"
    X = ImageCollection.from_folder(
        make(
            f"{stem}/ZStep_1/x_A01_s1_w1{GUIDS[0]}.tif",
            f"{stem}/ZStep_1/x_A01_s1_w1_thumb{GUIDS[1]}.tif",
            f"{stem}/ZStep_0/x_A01_s1_w1{GUIDS[1]}.tif",
            f"{stem}/x_A01_s1_w1{GUIDS[1]}.tif",
            f"{stem}/ZStep_1/._x_A01_s1_w1{GUIDS[0]}.tif",
            f"{stem}/x_A02_s1_w1{GUIDS[0]}.tif",
        )
    )
    # A02 has a projection alone, which is no reason to lose it.
    assert X.metadata["well"].tolist() == ["A01", "A02"]
    assert values(X) == [[0], [5]]


def test_one_site_and_one_wavelength(make):
    root = make(f"P1/x_A01{GUIDS[0]}.tif", f"P1/x_A02{GUIDS[1]}.tif")
    X = ImageCollection.from_folder(root, channels=["DNA"])
    assert X.channels == ("DNA",)
    assert list(X.metadata) == ["experiment", "plate", "well"]


def test_folders_of_one_name_are_several_plates(make):
    names = [f"{day}/Assay/Assay_A01_T0001F001L01A01Z01C01.tif" for day in "ab"]
    X = ImageCollection.from_folder(make(*names))
    assert X.metadata["plate"].tolist() == ["a/Assay", "b/Assay"]


def test_plates_of_one_name_in_several_experiments(make):
    names = [f"{e}/Plate1/A01_s1_w1.png" for e in ("HRCE-1", "VERO-1")]
    X = ImageCollection.from_folder(make(*names))
    assert X.metadata["plate"].tolist() == ["HRCE-1_1", "VERO-1_1"]
    ranges = X.with_intensity_range("plate", low=0, high=100).intensity_range
    assert ranges[:, 0, 1].tolist() == [0, 1]


def test_folders_of_one_name_and_files_of_others_are_several_plates(make):
    names = [f"{day}/Plate1/exp{day}_A01_s1_w1.tif" for day in "ab"]
    X = ImageCollection.from_folder(make(*names))
    assert X.metadata["plate"].tolist() == ["a/Plate1", "b/Plate1"]


def test_planes_that_count_from_zero(make):
    root = make(*stack(planes=(0, 1), times=[1]))
    assert values(ImageCollection.from_folder(root, z=0)) == [[0, 2]]
    assert values(ImageCollection.from_folder(root, z="max")) == [[1, 3]]


def test_two_files_of_one_image(make):
    names = [f"P/x_A01_T0001F001L0{line}A01Z01C01.tif" for line in (1, 2)]
    with pytest.raises(ValueError, match=r"L01A01.*L02A01.*both .*'well': 'A01'"):
        ImageCollection.from_folder(make(*names))
    root = make("Q/x_A01_s1_w1.tif", "Q/x_A01_s01_w1.tif") / "Q"
    with pytest.raises(ValueError, match=r"s01_w1\.tif' and .*s1_w1\.tif' are both"):
        ImageCollection.from_folder(root)


def test_channels_are_chosen_and_missing_ones_named(make):
    root = make(*harmony("P1")[:-1])
    X = ImageCollection.from_folder(root, "phenix", channels={"2": "ER", "1": "DNA"})
    assert X.channels == ("ER", "DNA")
    assert values(X) == [[1, 0], [4, 3]]
    with pytest.raises(FileNotFoundError, match=r"'P24'.*no file of channel '10'.*r16"):
        ImageCollection.from_folder(root, "phenix")
    X = ImageCollection.from_folder(root, "phenix", on_error="skip")
    assert X.metadata["well"].tolist() == ["A02"]
    assert "-ch10sk1" in X.skipped["path"][0]


def test_a_plate_that_was_measured_twice_is_told(make):
    again = [name.replace("P1", "P1__2") for name in harmony("P1")]
    root = make(*(name.replace("P1", "P1__1") for name in harmony("P1")), *again)
    with pytest.warns(UserWarning, match="from several measurements, '1' and '2'") as w:
        X = ImageCollection.from_folder(root, "phenix")
    assert w[0].filename == __file__
    first = X[X.metadata["measurement"] == "1"]  # as the warning says
    assert len(first) == len(X) / 2
    root = make("F/early_A01_s1_w1.tif", "F/late_A01_s1_w1.tif")
    with pytest.warns(UserWarning, match="of plate 'F' is there from several exper"):
        ImageCollection.from_folder(root / "F", "imagexpress")
    root = make("G/left_A01_s1_w1.tif", "G/right_A02_s1_w1.tif")  # halves of a plate
    assert len(ImageCollection.from_folder(root / "G", "imagexpress")) == 2


def test_none_fits(make):
    with pytest.raises(ValueError, match="such as nothing"):
        ImageCollection.from_folder(make())
    root = make("P1/image 1.tif", "P1/image 2.tif")
    message = (
        r"No pattern fits .*'P1/image 1\.tif', 'P1/image 2\.tif'.* rxrx \(.*\): 0; "
        r"phenix or operetta or jump \(.*\): 0; imagexpress .*: 0; cellvoyager .*: 0\. "
        r"Describe"
    )
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_folder(root)
    with pytest.raises(
        ValueError, match=r"No pattern fits .*rxrx \(.*\): 0\. Leave it out"
    ):
        ImageCollection.from_folder(root, "rxrx")


def test_several_fit(make):
    root = make(*harmony("P1"), "X-1/Plate1/B02_s1_w1.png")
    (root / "0_notes.txt").touch()
    message = (
        r"Several patterns fit .*such as 'X-1/Plate1/B02_s1_w1\.png', '.*\.tiff'\. .*"
        r"rxrx .*: 1; phenix .*: 6; .*Name the one"
    )
    with pytest.raises(ValueError, match=message):
        ImageCollection.from_folder(root)
    assert len(ImageCollection.from_folder(root, "rxrx")) == 1


def test_unknown_names_and_folders(make):
    root = make(*harmony("P1"))
    with pytest.raises(ValueError, match=r"called 'phoenix': there are rxrx, phenix"):
        ImageCollection.from_folder(root, "phoenix")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        ImageCollection.from_folder(root / "nowhere")
    with pytest.raises(ValueError, match=r"P1/r33c01f01.*tiff': 'r33c01' is no well"):
        ImageCollection.from_folder(make(*harmony("P1", ["r33c01"])))


def test_links_in_a_circle(make):
    root = make(*harmony("P1"))
    (root / "P1" / "again").symlink_to(root, target_is_directory=True)
    assert len(ImageCollection.from_folder(root)) == 2


def test_plates_named_with_two_underscores(make):
    plates = ["Screen__P2", "Screen__P3"]
    names = [name for p in plates for name in harmony(f"{p}__2024-M 1/Images")]
    X = ImageCollection.from_folder(make(*names))
    assert X.metadata["plate"].unique().tolist() == plates
    assert X.metadata["measurement"].unique().tolist() == ["2024-M 1"]


def test_plates_of_which_no_file_fits_are_told(make):
    whole = [f"day/{p}/TimePoint_1/E_A01_s1.TIF" for p in ("P1", "P2")]
    others = [
        "day/P3/TimePoint_1/E_A01.TIF",  # one site, one wavelength, no GUID
        "day/P3/TimePoint_1/E_A02.TIF",
        "day/P1/TimePoint_1/shading.tif",
        "day/P1/thumbs/E_A01.TIF",
        "day/.hidden/a.tif",
        "day/overview.png",
        "__MACOSX/P1/a.tif",
    ]
    with pytest.warns(UserWarning, match=r"1 folders beside .*P3/TimePoint_1/E_A01\."):
        X = ImageCollection.from_folder(make(*whole, *others))
    assert X.metadata["plate"].tolist() == ["P1", "P2"]


def test_a_guid_in_a_field_is_named(make):
    root = make(*(f"P1/x_A01_w{c}{GUIDS[c - 1]}.tif" for c in (1, 2)))
    with pytest.raises(
        ValueError, match=r"{channel} in the pattern.* takes in the GUID"
    ):
        ImageCollection.from_folder(root, "{plate}/x_{well}_w{channel}.tif")
    assert ImageCollection.from_folder(root, "imagexpress").shape[:2] == (1, 2)
    make(f"Q/cell_{GUIDS[0]}.tif")  # which may be part of another name
    X = ImageCollection.from_folder(root / "Q", "{image}.tif")
    assert X.metadata["image"].tolist() == [f"cell_{GUIDS[0]}"]
