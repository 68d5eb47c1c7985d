import os
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile

from gandl.images import ImageCollection


def test_fields_become_columns_of_strings(make):
    root = make("1053597806/A01_s1.tif", "0042/B02_s10.tif", "0042/B02_s2.tif")
    X = ImageCollection.from_folder(root, "{plate}/{well}_s{site}.tif")
    assert X.metadata.to_dict("list") == {
        "plate": ["0042", "0042", "1053597806"],
        "well": ["B02", "B02", "A01"],
        "site": ["2", "10", "1"],
    }
    assert np.asarray(X)[:, 0, 0, 0].tolist() == [2, 1, 0]
    assert X.channels == ("channel_0",)
    assert repr(X).endswith("uint8, 2 plates)")


def test_numbers_sort_by_value(make):
    root = make(*(f"s{i}.tif" for i in (10, 9, 1, 100, 2)))
    X = ImageCollection.from_folder(root, "s{site}.tif")
    assert X.metadata["site"].tolist() == ["1", "2", "9", "10", "100"]


def test_channels_are_grouped(make):
    names = [f"p1/{w}_s1_w{c}.tif" for w in ("A01", "A02") for c in (1, 2, 10)]
    X = ImageCollection.from_folder(
        make(*names), "{plate}/{well}_s{site}_w{channel}.tif"
    )
    assert X.channels == ("1", "2", "10")
    assert list(X.metadata) == ["plate", "well", "site"]
    np.testing.assert_array_equal(np.asarray(X)[:, :, 0, 0], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("channels", "names"),
    [(["2", "1"], ("2", "1")), ({"2": "actin", "1": "dna"}, ("actin", "dna"))],
)
def test_chosen_channels(make, channels, names):
    # The unused channel 3 of the second image is missing: no matter.
    root = make("A1_w1.tif", "A1_w2.tif", "A1_w3.tif", "A2_w1.tif", "A2_w2.tif")
    X = ImageCollection.from_folder(root, "{well}_w{channel}.tif", channels=channels)
    assert X.channels == names
    np.testing.assert_array_equal(np.asarray(X)[:, :, 0, 0], [[1, 0], [4, 3]])


def test_missing_channel_file_is_named(make):
    root = make("A1_w1.tif", "A1_w2.tif", "A2_w1.tif")
    with pytest.raises(FileNotFoundError, match=r"'A2'.*channel '2'.*A2_w2\.tif"):
        ImageCollection.from_folder(root, "{well}_w{channel}.tif")


def test_unknown_channel(make):
    with pytest.raises(ValueError, match=r"\['5'\].*\['1', '2'\]"):
        ImageCollection.from_folder(
            make("A1_w1.tif", "A1_w2.tif"), "{well}_w{channel}.tif", channels=["5"]
        )


def test_numbers_name_channels_as_well(make):
    root = make(*(f"A01_w{c}.tif" for c in (1, 2, 10)))
    X = ImageCollection.from_folder(root, "{well}_w{channel}.tif", channels=[10, 1])
    assert X.channels == ("10", "1")
    names = {10: "actin", 1: "DNA"}
    X = ImageCollection.from_folder(root, "{well}_w{channel}.tif", channels=names)
    assert X.channels == ("actin", "DNA")


def test_mapping_needs_a_channel_field(make):
    with pytest.raises(ValueError, match=r"\{channel\}"):
        ImageCollection.from_folder(make("A1.tif"), "{well}.tif", channels={"1": "a"})


def test_repeated_field_matches_the_same_text(make):
    root = make("p1/p1_A01.tif", "p1/p2_A02.tif", "p2/p2_A03.tif")
    X = ImageCollection.from_folder(root, "{plate}/{plate}_{well}.tif")
    assert X.metadata["well"].tolist() == ["A01", "A03"]


def test_field_stays_in_one_component_and_takes_the_most(make):
    root = make("Week4_27801_A01.tif", "deep/Week4_27801_A02.tif", "note.txt")
    X = ImageCollection.from_folder(root, "{plate}_{well}.tif")
    assert X.metadata.to_dict("list") == {"plate": ["Week4_27801"], "well": ["A01"]}


def test_special_characters(make):
    root = make("a+b (é) [1]/{x} A01.tif")
    X = ImageCollection.from_folder(root, "a+b (é) [{run}]/{{x}} {well}.tif")
    assert X.metadata.to_dict("list") == {"run": ["1"], "well": ["A01"]}
    assert X[0].shape == (1, 4, 5)


def test_files_that_may_have_been_meant_are_told(make):
    root = make(
        *("P1/A01_w1.tif", "P1/A02_w1.TIF", "P2/a/A01_w1.tif", "P2/b/A01_w1.tif"),
        *("P3/a/A01_w1.tif", "P4/A01_w1.tiff", "P5/masks.tif", "P6/a/mask.tif"),
    )
    with pytest.warns(UserWarning, match="left out") as told:
        found = ImageCollection.from_folder(root, "{plate}/{well}_w{channel}.tif")
    assert len(found) == 1
    (message,) = (str(warning.message) for warning in told)
    assert "2 that differ by upper and lower case" in message
    assert "alone, such as 'P1/A02_w1.TIF'; all of 2 folders, where" in message
    assert "one folder deeper, such as 'P2/a/A01_w1.tif'." in message
    assert told[0].filename == __file__


def test_the_same_in_capitals(make):
    root = make("A01.TIFF", "A02.tif")
    with pytest.warns(UserWarning, match=r"1 that differ.*such as 'A02\.tif'"):
        assert len(ImageCollection.from_folder(root, "{Well}.TIFF")) == 1


def test_a_field_that_is_misspelt_is_told(make):
    with pytest.warns(UserWarning, match="{chanel} .*is {channel} meant"):
        ImageCollection.from_folder(make("A01_w1.tif"), "{well}_w{chanel}.tif")


def test_symbolic_links_are_followed(make, tmp_path_factory):
    root, outside = make("p1/A01.tif"), tmp_path_factory.mktemp("outside")
    (outside / "A02.tif").write_bytes((root / "p1/A01.tif").read_bytes())
    (root / "p2").symlink_to(outside, target_is_directory=True)
    X = ImageCollection.from_folder(root, "{plate}/{well}.tif")
    assert X.metadata["plate"].tolist() == ["p1", "p2"]


def test_no_match_shows_pattern_and_examples(make):
    root = make("p1/A01.tif", "p1/A02.tif", "README.txt")
    with pytest.raises(ValueError, match=r"\{plate\}/\{well\}\.png.*p1/A01\.tif"):
        ImageCollection.from_folder(root, "{plate}/{well}.png")
    # Files below folders too, since it is they that the pattern is to name.
    with pytest.raises(
        ValueError, match=r"'p1/A01\.tif', 'p1/A02.*1 folder below it, "
    ):
        ImageCollection.from_folder(root, "{well}.tif")
    with pytest.raises(ValueError, match=r"'p1/A02\.tif'\. .* without wildcards\. N"):
        ImageCollection.from_folder(root, "*/{well}.tif")
    root = make("p1/1.tif", "p1/2.tif", "p1/3.tif", "p1/P_A01.TIF")
    with pytest.raises(ValueError, match=r"for example: 'p1/P_A01\.TIF'\. They differ"):
        ImageCollection.from_folder(root, "{plate}/P_{well}.tif")


def test_empty_and_missing_root(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        ImageCollection.from_folder(tmp_path, "{well}.tif")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        ImageCollection.from_folder(tmp_path / "nowhere", "{well}.tif")


def test_fields_without_text_between_them(make):
    root = make("001002-1.tif")
    with pytest.raises(ValueError, match=r"stands between \{row\} and \{col\}"):
        ImageCollection.from_folder(root, "{row}{col}-{site}.tif")
    # A field that stood before ends where it did there, and braces are text.
    again = make("P1/P1A01.tif")
    X = ImageCollection.from_folder(again, "{plate}/{plate}{well}.tif")
    assert X.metadata["well"].tolist() == ["A01"]
    X = ImageCollection.from_folder(make("{P1}.tif"), "{{{plate}}}.tif")
    assert X.metadata["plate"].tolist() == ["P1"]


def test_names_of_macos(make):
    """It takes letters and their dots apart, and leaves files that are no images."""
    apart = "Pla\N{COMBINING DIAERESIS}tte"  # after the a
    root = make(f"{apart}/A01.tif", f"{apart}/._A01.tif")
    X = ImageCollection.from_folder(root, "{plate}/{well}.tif")
    assert X.metadata["well"].tolist() == ["A01"]
    assert X.metadata["plate"].tolist() == [
        "Pl\N{LATIN SMALL LETTER A WITH DIAERESIS}tte"
    ]
    assert np.asarray(X).shape == (1, 1, 4, 5)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (  # IN Cell Analyzer
            "{plate}/{well}(fld {site} wv {channel}).tif",
            [
                "P1/B - 03(fld 1 wv DAPI - DAPI).tif",
                "P1/B - 03(fld 1 wv Cy3 - Cy3).tif",
            ],
        ),
        (  # Columbus
            "{plate}/{well}-{site}-001001{channel}.tif",
            ["P1/002003-1-001001001.tif", "P1/002003-1-001001002.tif"],
        ),
    ],
)
def test_patterns_of_docs_go_with_a_plate_map(make, pattern, names):
    X = ImageCollection.from_folder(make(*names), pattern)
    assert X.shape[:2] == (1, 2)
    layout = pd.DataFrame({"plate": ["P1"], "well": ["B3"], "compound": ["taxol"]})
    joined = X.with_plate_map(layout).metadata
    assert joined[["well", "compound"]].to_numpy().tolist() == [["B03", "taxol"]]


def test_a_table_with_a_row_a_channel(make):
    root = make("a.tif", "b.tif")
    table = pd.DataFrame({"well": "A01", "channel": ["DNA", "actin"]})
    table["path"] = ["a.tif", "b.tif"]
    with pytest.raises(ValueError, match=r"table\.pivot\(.*values='path'\)"):
        ImageCollection.from_table(table, path="path", root=root)
    names = {"well": "Metadata_Well", "channel": "Metadata_Channel"}
    for other in (table.rename(columns=names), table.rename(columns=str.title)):
        path = "Path" if "Path" in other else "path"
        with pytest.raises(ValueError, match=r"\['.*Well'\], columns='.*Channel'"):
            ImageCollection.from_table(other, path=path, root=root)
    for allowed in (table.drop(columns="well"), table.assign(well=["A01", "A02"])):
        X = ImageCollection.from_table(allowed, path="path", root=root)
        assert X.shape[0] == 2


@pytest.mark.parametrize("pattern", ["{}.tif", "{a b}.tif", "{a:3}.tif", "{a.tif"])
def test_invalid_pattern(make, pattern):
    with pytest.raises(ValueError, match=r"Invalid .*tif"):
        ImageCollection.from_folder(make("a.tif"), pattern)


def test_a_stray_file_is_named_itself(make):
    names = [
        f"{well}_w{channel}.tif" for well in ("A1", "A2", "A3") for channel in "12"
    ]
    root = make(*names, "A2_w2 (1).tif")
    with pytest.raises(FileNotFoundError, match=r"Of 3 images, 1 .*A2_w2 \(1\).tif'"):
        ImageCollection.from_folder(root, "{well}_w{channel}.tif")


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_not_utf8_are_refused(tmp_path):
    folder = os.fsencode(tmp_path) + b"/10\xb5M"
    os.mkdir(folder)
    tifffile.imwrite(os.fsdecode(folder + b"/A01.tif"), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"10.*A01\.tif' is not UTF-8, .* rename it"):
        ImageCollection.from_folder(tmp_path, "{dose}/{well}.tif")
