"""Profiles keep what is known of their rows, through averages and files."""

import gzip
import sys

import numpy as np
import pandas as pd
import pytest
from copairs import map as copairs_map
from pycytominer import aggregate as pycytominer_aggregate
from pycytominer import feature_select, normalize

from gandl.profiles import (
    aggregate,
    feature_columns,
    make_profiles,
    read_profiles,
    write_profiles,
)


@pytest.fixture
def images():
    """Two plates, four wells each, two sites of unequal number of images."""
    rows = [
        (plate, well, site, "DMSO" if well < "A03" else "taxol")
        for plate in ("007", "008")
        for well in ("A01", "A02", "A03", "A04")
        for site in ("1", "2", "2")
    ]
    metadata = pd.DataFrame(rows, columns=["plate", "well", "site", "compound"])
    metadata["concentration"] = np.where(metadata["compound"] == "taxol", 0.3, np.nan)
    X = np.random.default_rng(0).normal(size=(len(rows), 3))
    return make_profiles(X, metadata, names=["gandl0", "gandl1", "gandl2"])


def test_names(images):
    assert list(images) == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Site",
        "Metadata_compound",
        "Metadata_concentration",
        "gandl0",
        "gandl1",
        "gandl2",
    ]
    assert feature_columns(images) == ["gandl0", "gandl1", "gandl2"]


def test_rows_go_by_position_not_by_index():
    metadata = pd.DataFrame({"well": ["A01", "A02"]}, index=[7, 3])
    X = pd.DataFrame({"area": [1.0, 2.0]}, index=[3, 8])
    profiles = make_profiles(X, metadata)
    assert profiles.to_numpy().tolist() == [["A01", 1.0], ["A02", 2.0]]
    # The same rows in another order are hardly meant.
    X = X.set_axis([3, 7])
    with pytest.raises(ValueError, match="metadata has the rows of X in another order"):
        make_profiles(X, metadata)
    profiles = make_profiles(X, metadata.loc[X.index])
    assert profiles.to_numpy().tolist() == [["A02", 1.0], ["A01", 2.0]]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["a", "b"], dtype="string"),
        pd.MultiIndex.from_tuples([("P1", "A01"), ("P1", "A02")]),
        pd.Index(["b", "b"]),
        pd.Index(["b", "c"]),
    ],
)
def test_other_indexes_go_by_position(index):
    metadata = pd.DataFrame({"well": ["A01", "A02"]}, index=index)
    X = pd.DataFrame({"area": [1.0, 2.0]}, index=pd.Index(["a", "b"], dtype=object))
    profiles = make_profiles(X, metadata)
    assert profiles.to_numpy().tolist() == [["A01", 1.0], ["A02", 2.0]]


def test_names_that_are_metadata_already_stay():
    known = pd.DataFrame({"Metadata_Plate": ["1"], "Metadata_batch": ["b"]})
    assert list(make_profiles([[1.0]], known))[:2] == list(known)


@pytest.mark.parametrize("how", ["mean", "median"])
def test_image_to_site_to_well_to_treatment(images, how):
    sites = aggregate(images, ["plate", "well", "site"], how=how)
    wells = aggregate(sites, ["plate", "Metadata_Well"], how=how)
    treatments = aggregate(wells, "compound", how=how)
    assert (len(sites), len(wells)) == (16, 8)
    # By hand: the second and third image are of one site.
    average = getattr(np, how)
    first = images[["gandl0", "gandl1", "gandl2"]].to_numpy()[:3]
    by_site = [first[0], average(first[1:], axis=0)]
    expected = average(by_site, axis=0)
    features = feature_columns(wells)
    np.testing.assert_allclose(wells.loc[0, features].astype(float), expected)
    assert sites["Metadata_n_rows"].tolist() == [1, 2] * 8
    assert wells["Metadata_n_rows"].tolist() == [2] * 8
    # What differs within a group is no longer known; what does not, stays.
    assert "Metadata_Site" not in wells
    assert wells["Metadata_compound"].tolist() == ["DMSO", "DMSO", "taxol", "taxol"] * 2
    assert (
        wells["Metadata_concentration"].isna().tolist()
        == [True, True, False, False] * 2
    )
    assert treatments["Metadata_compound"].tolist() == ["DMSO", "taxol"]
    assert not {"Metadata_Plate", "Metadata_Well"} & set(treatments)
    np.testing.assert_allclose(
        treatments[features],
        [
            average(wells.loc[wells["Metadata_compound"] == name, features], axis=0)
            for name in ("DMSO", "taxol")
        ],
    )


def test_a_value_beside_a_missing_one_is_not_one_value():
    profiles = pd.DataFrame(
        {
            "Metadata_Well": ["A01", "A01"],
            "Metadata_compound": [None, "taxol"],
            "x": [1.0, 2.0],
        }
    )
    assert "Metadata_compound" not in aggregate(profiles, "well")


def test_aggregate_errors(images):
    with pytest.raises(ValueError, match="no metadata column 'batch', but"):
        aggregate(images, ["batch"])
    with pytest.raises(ValueError, match="no metadata column 'gandl0'"):
        aggregate(images, "gandl0")
    with pytest.raises(ValueError, match='"mean" or "median", got \'mode\''):
        aggregate(images, "well", how="mode")
    with pytest.raises(ValueError, match="names no column"):
        aggregate(images, [])
    with pytest.raises(ValueError, match="Row 0 has no 'Metadata_concentration'"):
        aggregate(images, "concentration")
    n = len(images)
    images.loc[4, "gandl1"] = np.nan
    with pytest.raises(ValueError, match=f"Row 4 has no 'gandl1': .*, 1 of {n}"):
        aggregate(images, "well")
    images.loc[3, "gandl1"] = -np.inf
    with pytest.raises(ValueError, match=f"Row 3 has -inf in 'gandl1': .*, 2 of {n}"):
        aggregate(images, "well")
    many = {f"more{k}": images["gandl1"] for k in range(7)}
    with pytest.raises(ValueError, match=r"in: more0, .*, more4 and 2 more\.$"):
        aggregate(images.assign(**many), "well")
    images["gandl1"] = np.nan
    with pytest.raises(ValueError, match="No row has a number in 'gandl1'"):
        aggregate(images, "well")


def test_an_index_with_names_is_metadata(images, tmp_path):
    keys = ["Metadata_Plate", "Metadata_Well"]
    indexed = images.set_index(keys)
    by_well = aggregate(images, ["plate", "well"])
    pd.testing.assert_frame_equal(aggregate(indexed, ["plate", "well"]), by_well)
    for name in ("wells.parquet", "wells.csv"):
        write_profiles(indexed, tmp_path / name)
        assert list(read_profiles(tmp_path / name))[:2] == keys
    indexed.to_parquet(tmp_path / "pandas.parquet")
    pd.testing.assert_frame_equal(read_profiles(tmp_path / "pandas.parquet"), images)
    known = pd.DataFrame({"compound": ["DMSO"]}, pd.Index(["P1"], name="plate"))
    made = make_profiles([[0.5]], known)
    assert list(made) == ["Metadata_Plate", "Metadata_compound", "feature_0"]
    known = known.assign(Plate="P2")
    assert make_profiles([[0.5]], known)["Metadata_Plate"].tolist() == ["P2"]
    images.rename_axis("id").to_parquet(tmp_path / "id.parquet")
    read = read_profiles(tmp_path / "id.parquet")
    assert read["Metadata_id"].tolist() == images.index.tolist()
    write_profiles(read, tmp_path / "again.csv")
    with pytest.raises(ValueError, match="index has 'id', which a file of profiles"):
        write_profiles(images.rename_axis("id"), tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([np.nan, np.nan], "Missing"),
        ([np.inf, -np.inf], "Infinite"),
        ([np.nan, np.inf], "Missing or infinite"),
    ],
)
def test_other_features_without_numbers_are_told_as_they_are(images, values, kind):
    images.loc[2, "gandl0"] = np.nan
    images.loc[[3, 4], "gandl1"] = values
    with pytest.raises(ValueError, match=rf"24\. {kind} too in: gandl1\.$"):
        aggregate(images, "well")


def test_missing_numbers_and_names_of_compounds_in_csv(tmp_path):
    text = "Metadata_compound,a,b\nNA,1.5,NA\ntaxol,nan,2\n"
    (tmp_path / "r.csv").write_text(text)
    profiles = read_profiles(tmp_path / "r.csv")
    assert profiles["Metadata_compound"].tolist() == ["NA", "taxol"]
    np.testing.assert_array_equal(profiles[["a", "b"]], [[1.5, np.nan], [np.nan, 2]])


def test_lists_are_metadata_too():
    wells = ["A01", "A01", "A02"]
    targets = [["TUBB"], ["TUBB"], ["EGFR", "ERBB2"]]
    profiles = pd.DataFrame({"Metadata_Well": wells, "Metadata_targets": targets})
    profiles["x"] = [1.0, 2.0, 3.0]
    assert aggregate(profiles, "well")["Metadata_targets"].tolist() == targets[1:]


def test_features_of_nullable_types_are_numbers():
    X = pd.DataFrame({"a": [0.5, None], "b": [1, 2]}).convert_dtypes()
    profiles = make_profiles(X, pd.DataFrame({"well": ["A01", "A01"]}))
    assert feature_columns(profiles) == ["a", "b"]
    np.testing.assert_array_equal(profiles[["a", "b"]], [[0.5, 1], [np.nan, 2]])


def test_make_profiles_errors():
    metadata = pd.DataFrame({"plate": ["1", "2"]})
    with pytest.raises(ValueError, match="X has 1 rows, metadata 2"):
        make_profiles([[1.0]], metadata)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        make_profiles([1.0, 2.0], metadata)
    with pytest.raises(ValueError, match="1 columns, but 2 names"):
        make_profiles([[1.0], [2.0]], metadata, names=["a", "b"])
    with pytest.raises(ValueError, match="'Metadata_Plate' is a name of metadata"):
        make_profiles([[1.0], [2.0]], metadata, names=["Metadata_Plate"])
    with pytest.raises(ValueError, match="'Metadata_Well' is a name of metadata"):
        make_profiles(pd.DataFrame({"Metadata_Well": ["A01", "A02"]}), metadata)
    with pytest.raises(ValueError, match="'a' would be there twice"):
        make_profiles([[1.0, 1.0], [2.0, 1.0]], metadata, names=["a", "a"])
    with pytest.raises(ValueError, match="'compound' is not numeric"):
        feature_columns(pd.DataFrame({"compound": ["DMSO"], "x": [1.0]}))
    with pytest.raises(ValueError, match="The column 0 has no text for a name"):
        feature_columns(pd.DataFrame({0: [1.0]}))
    with pytest.raises(ValueError, match="There is no feature"):
        feature_columns(pd.DataFrame({"Metadata_Well": ["A01"]}))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_files_give_back_what_they_were_given(images, tmp_path, suffix):
    path = tmp_path / f"ä profiles{suffix}"
    images["Metadata_compound"] = images["Metadata_compound"].replace("taxol", "NA")
    write_profiles(images, path)
    again = read_profiles(path)
    if suffix != ".parquet":  # text then, as the docstring says
        number = pd.to_numeric(again["Metadata_concentration"])
        again["Metadata_concentration"] = number
    pd.testing.assert_frame_equal(again, images)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nothing_is_overwritten_or_half_written(images, tmp_path):
    path = tmp_path / "wells.parquet"
    write_profiles(images, path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"wells\.parquet' exists"):
        write_profiles(images, path)
    broken = images.assign(Metadata_odd=[object() for _ in range(len(images))])
    with pytest.raises(Exception, match="object"):
        write_profiles(broken, path, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    write_profiles(images.iloc[:2], path, overwrite=True)
    assert len(read_profiles(path)) == 2


def test_file_errors(images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"does not end in \.parquet"):
        write_profiles(images, tmp_path / "wells.xlsx")
    with pytest.raises(FileNotFoundError):
        read_profiles(tmp_path / "wells.csv")
    (tmp_path / "map.csv").write_text("well,compound\nA01,DMSO\n")
    with pytest.raises(ValueError, match=r"map\.csv': The column 'well' is not numer"):
        read_profiles(tmp_path / "map.csv")
    images.to_csv(tmp_path / "with_index.csv")
    with pytest.raises(ValueError, match=r"index\.csv': column 1 has no name, .*False"):
        read_profiles(tmp_path / "with_index.csv")
    for name, damage in {
        "html.parquet": b"<html>",
        "zero.csv": b"",
        "latin.csv": "Metadata_µ,f\n".encode("latin-1"),
        "cut.csv.gz": gzip.compress(b"Metadata_Well,f\n" * 99)[:30],
    }.items():
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ValueError, match=f"{name}' is no table: "):
            read_profiles(tmp_path / name)
    (tmp_path / "comma.csv").write_text("Metadata_compound,f\n2,4-dinitrophenol,1\n")
    with pytest.raises(ValueError, match=r"comma\.csv' is no table: a row has more"):
        read_profiles(tmp_path / "comma.csv")
    (tmp_path / "twice.csv").write_text("Metadata_Well,f,f\nA01,1,2\n")
    with pytest.raises(ValueError, match=r"twice\.csv' has several columns 'f'"):
        read_profiles(tmp_path / "twice.csv")
    images.to_csv(tmp_path / "semicolons.csv", sep=";", index=False)
    assert list(read_profiles(tmp_path / "semicolons.csv")) == list(images)
    images.to_csv(tmp_path / "commas.csv", sep=";", decimal=",", index=False)
    found = read_profiles(tmp_path / "commas.csv")[feature_columns(images)]
    pd.testing.assert_frame_equal(found, images[feature_columns(images)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"gandl\[profiles\]"):
        write_profiles(images, tmp_path / "wells.parquet")
    assert not (tmp_path / "wells.parquet").exists()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_pycytominer_and_copairs_take_them_as_they_are(images, tmp_path, suffix):
    path = str(tmp_path / f"images{suffix}")
    write_profiles(images, path)
    features = feature_columns(images)
    profiles = read_profiles(path)
    theirs = pycytominer_aggregate(profiles, features=features, operation="mean")
    ours = aggregate(profiles, ["plate", "well"])
    np.testing.assert_allclose(theirs[features], ours[features])
    assert theirs["Metadata_Well"].tolist() == ours["Metadata_Well"].tolist()
    # From the file itself, by its name.
    normal = normalize(path, features=features, samples="Metadata_compound == 'DMSO'")
    dmso = normal.loc[normal["Metadata_compound"] == "DMSO", features]
    np.testing.assert_allclose(dmso.mean(), 0, atol=1e-12)
    kept = feature_select(normal, features=features, operation="variance_threshold")
    assert set(features) <= set(kept)
    found = copairs_map.average_precision(
        ours.filter(like="Metadata_"),
        ours[features].to_numpy(),
        pos_sameby=["Metadata_compound"],
        pos_diffby=[],
        neg_sameby=[],
        neg_diffby=["Metadata_compound"],
        progress_bar=False,
    )
    assert found["average_precision"].between(0, 1).all()


def test_a_csv_file_gives_back_the_same_bits(tmp_path):
    profiles = pd.DataFrame({"f": np.random.default_rng(0).normal(size=2000)})
    write_profiles(profiles, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(
        read_profiles(tmp_path / "a.csv"), profiles, check_exact=True
    )


def test_names_of_folders_are_no_columns(tmp_path):
    folder = tmp_path / "Metadata_Plate=7"
    folder.mkdir()
    profiles = pd.DataFrame({"Metadata_Plate": ["P1"], "f": [0.5]})
    write_profiles(profiles, folder / "a.parquet")
    pd.testing.assert_frame_equal(read_profiles(folder / "a.parquet"), profiles)


def test_a_feature_that_is_there_twice_is_named():
    twice = pd.DataFrame([["A01", 1.0, 2.0]], columns=["Metadata_Well", "f", "f"])
    with pytest.raises(ValueError, match="several columns 'f'"):
        aggregate(twice, "well")
