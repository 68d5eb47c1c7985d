"""`load_rxrx` and `load_rxrx_embeddings` on simulated copies of what is published."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
from served import (
    csv,
    embeddings,
    image_files,
    pixels,
    rxrx1_table,
    rxrx19a_table,
)

from gandl.datasets import load_rxrx, load_rxrx_embeddings
from gandl.profiles import aggregate, feature_columns

STAINS = ("Hoechst", "ConA", "phalloidin", "Syto14", "WGA")
SIX_STAINS = ("Hoechst", "ConA", "phalloidin", "Syto14", "MitoTracker", "WGA")


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture
def rxrx19a(tmp_path):
    table = rxrx19a_table()
    return write(tmp_path, {"metadata.csv": csv(table)} | image_files(table, 5))


def write_rxrx1(root, scheme):
    table = rxrx1_table()
    return write(root, {"metadata.csv": csv(table)} | image_files(table, 6, scheme))


def test_every_image_is_that_of_its_row(rxrx19a):
    images = load_rxrx(rxrx19a)
    assert images.shape == (18, 5, 8, 8)
    assert images.dtype == np.uint8
    assert images.channels == STAINS
    for image, site_id in zip(images, images.metadata["site_id"], strict=True):
        expected = [pixels(site_id, w) for w in range(1, 6)]
        np.testing.assert_array_equal(image, expected)
    assert len(pickle.dumps(images)) < 20_000


def test_metadata_are_as_published(rxrx19a):
    metadata = load_rxrx(rxrx19a).metadata
    published = rxrx19a_table()
    assert list(metadata) == [
        "site_id",
        "well_id",
        "cell_type",
        "experiment",
        "plate",
        "plate_number",
        "well",
        "site",
        "disease_condition",
        "treatment",
        "treatment_conc",
        "SMILES",
    ]
    for name in ("site_id", "well_id", "cell_type", "experiment", "well"):
        assert metadata[name].tolist() == published[name].tolist()
    assert metadata["plate_number"].tolist() == published["plate"].astype(str).tolist()
    assert metadata["site"].tolist() == ["1", "2"] * 9
    # Empty is missing; a compound of the name NA is not.
    assert metadata["treatment"].isna().tolist() == [True, True, *[False] * 4] * 3
    assert metadata["treatment"][2] == "NA"
    assert metadata["disease_condition"].isna()[2]
    assert metadata["treatment_conc"].dtype == float
    assert metadata["treatment_conc"].isna()[0]
    assert metadata["treatment_conc"][2] == 0.3


def test_plates_of_one_number_are_told_apart(rxrx19a):
    images = load_rxrx(rxrx19a)
    assert images.metadata.groupby("plate").size().to_dict() == {
        "HRCE-1_1": 6,
        "HRCE-1_2": 6,
        "VERO-1_1": 6,
    }
    assert "3 plates" in repr(images)
    ranges = images.with_intensity_range("plate", low=0, high=100).intensity_range
    assert len(np.unique(ranges, axis=0)) == 3


@pytest.mark.parametrize(
    ("choice", "n"),
    [
        ({"experiments": "HRCE-1"}, 12),
        ({"experiments": ["HRCE-1", "VERO-1"]}, 18),
        ({"plates": 1}, 12),
        ({"plates": ["1", 2]}, 18),
        ({"plates": np.array([2])}, 6),
        ({"plates": "HRCE-1_1"}, 6),
        ({"plates": 1, "experiments": "VERO-1"}, 6),
        ({"wells": "AA02"}, 6),
        ({"wells": pd.Series(["HRCE-1_1_AA02", "VERO-1_1_B04"])}, 4),
        ({"wells": ["AA02", "HRCE-1_1_B04"], "plates": "HRCE-1_1"}, 4),
        ({"cell_types": "VERO"}, 6),
    ],
)
def test_what_is_chosen(rxrx19a, choice, n):
    images = load_rxrx(rxrx19a, **choice)
    assert len(images) == n
    site_id = images.metadata["site_id"].iloc[-1]
    np.testing.assert_array_equal(images[n - 1][0], pixels(site_id, 1))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"experiments": "HRCE"}, "experiments: there is no 'HRCE' in the metadata"),
        ({"plates": 3}, "plates: there is no '3' in the metadata, but '1', '2'."),
        ({"wells": ["AA02", "A02"]}, "wells: there is no 'A02'"),
        ({"cell_types": "hrce"}, "there is no 'hrce' in the metadata, but 'HRCE', "),
        (
            {"plates": 2, "experiments": "VERO-1"},
            "No image is as chosen: {'experiments': 'VERO-1', 'plates': 2}",
        ),
        ({"wells": []}, "No image is as chosen: {'wells': []}"),
        ({"missing": "skip"}, 'missing is "raise" or "drop", got \'skip\''),
    ],
)
def test_what_cannot_be_chosen(rxrx19a, choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_rxrx(rxrx19a, **choice)


@pytest.mark.parametrize(
    "scheme",
    ["images/{experiment}", "images/{dataset}/{experiment}", "{dataset}/{experiment}"],
)
def test_rxrx1_in_its_path_schemes(tmp_path, scheme):
    images = load_rxrx(write_rxrx1(tmp_path, scheme))
    assert images.shape == (8, 6, 8, 8)
    assert images.channels == SIX_STAINS
    for image, site_id in zip(images, images.metadata["site_id"], strict=True):
        expected = [pixels(site_id, w) for w in range(1, 7)]
        np.testing.assert_array_equal(image, expected)
    metadata = images.metadata
    assert metadata["sirna"].tolist() == ["EMPTY"] * 2 + ["s21721"] * 2 + [
        "EMPTY",
        "EMPTY",
        "s21721",
        "s21721",
    ]
    assert metadata["sirna_id"].tolist() == [1138, 1138, 747, 747] * 2
    assert metadata["dataset"].tolist() == ["train"] * 4 + ["test"] * 4


@pytest.mark.parametrize("name", ["RxRx19a", "rxrx1"])
def test_archives_unpacked_in_one_folder(tmp_path, name):
    if name == "rxrx1":
        write_rxrx1(tmp_path / "rxrx1", "images/{experiment}")
    else:
        table = rxrx19a_table()
        files = {"metadata.csv": csv(table)} | image_files(table, 5)
        write(tmp_path / "RxRx19a", files)
    assert load_rxrx(tmp_path).shape == load_rxrx(tmp_path / name).shape


def test_both_sets_in_one_folder(tmp_path):
    write(tmp_path / "RxRx19a", {"metadata.csv": csv(rxrx19a_table())})
    write_rxrx1(tmp_path / "rxrx1", "images/{experiment}")
    with pytest.raises(ValueError, match="holds RxRx19a and RxRx1: name one"):
        load_rxrx(tmp_path)
    assert len(load_rxrx(tmp_path / "rxrx1")) == 8


def test_an_image_that_is_missing(rxrx19a):
    lost = rxrx19a / "images/VERO-1/Plate1/AA03_s2_w4.png"
    lost.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_rxrx(rxrx19a)
    assert "1 of 18 images in the metadata are not whole" in str(error.value)
    assert str(lost) in str(error.value)
    with pytest.warns(UserWarning, match=r"1 images lack some .*AA03_s2_w4.png"):
        images = load_rxrx(rxrx19a, missing="drop")
    assert len(images) == 17
    assert "VERO-1_1_AA03_2" not in set(images.metadata["site_id"])
    np.testing.assert_array_equal(images[16][4], pixels("VERO-1_1_B04_2", 5))
    assert len(load_rxrx(rxrx19a, experiments="HRCE-1")) == 12


def test_images_that_were_never_fetched_are_dropped_where_asked(tmp_path):
    table = rxrx19a_table()
    some = image_files(table[table["plate"] == 2], 5)
    write(tmp_path, {"metadata.csv": csv(table)} | some)
    with pytest.raises(FileNotFoundError, match='pass missing="drop"'):
        load_rxrx(tmp_path)
    assert len(load_rxrx(tmp_path, missing="drop")) == 6
    for missing in ("raise", "drop"):
        with pytest.raises(FileNotFoundError, match="6 of 6 images"):
            load_rxrx(tmp_path, cell_types="VERO", missing=missing)


def test_a_folder_without_metadata(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no "metadata.csv".*fetch_rxrx'):
        load_rxrx(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'holds no "metadata.csv"'):
        load_rxrx(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="SMILES"), "is of neither RxRx19a nor RxRx1"),
        (lambda t: t.drop(columns="site"), "is of neither RxRx19a nor RxRx1"),
        (
            lambda t: t.assign(experiment=["../../x"] + ["HRCE-1"] * 17),
            "Row 0 .* has the experiment '../../x'",
        ),
        (
            lambda t: t.assign(well=["AA02", "A/B"] + ["AA02"] * 16),
            "Row 1 .* has the well 'A/B'",
        ),
        (
            lambda t: t.assign(plate=[*[1] * 17, None]).astype({"plate": "Int64"}),
            "Row 17 .* has the plate nan",
        ),
        (
            lambda t: t.assign(treatment_conc=["high"] + [None] * 17),
            "Row 0 .* has the treatment_conc 'high', which is no number",
        ),
        (lambda t: pd.concat([t, t[:1]]), "has 'HRCE-1_1_AA02_1' twice"),
    ],
)
def test_metadata_that_are_not_as_published(rxrx19a, change, message):
    (rxrx19a / "metadata.csv").write_bytes(csv(change(rxrx19a_table())))
    with pytest.raises(ValueError, match=message) as error:
        load_rxrx(rxrx19a)
    assert "metadata.csv" in str(error.value)


def test_embeddings_are_profiles_in_the_order_of_the_metadata(tmp_path):
    table = rxrx19a_table()
    values = embeddings(table, 1024)
    shuffled = csv(values.sample(frac=1, random_state=0))
    write(tmp_path, {"metadata.csv": csv(table), "embeddings.csv": shuffled})
    profiles = load_rxrx_embeddings(tmp_path)
    assert profiles["Metadata_site_id"].tolist() == table["site_id"].tolist()
    assert profiles["Metadata_Plate"].unique().tolist() == [
        "HRCE-1_1",
        "HRCE-1_2",
        "VERO-1_1",
    ]
    features = profiles[feature_columns(profiles)]
    assert features.shape == (18, 1024)
    assert (features.dtypes == np.float32).all()
    np.testing.assert_allclose(features, values.drop(columns="site_id"), rtol=1e-6)
    wells = aggregate(profiles, ["plate", "well"])
    assert len(wells) == 9
    assert wells["Metadata_treatment"].isna().sum() == 3
    some = load_rxrx_embeddings(tmp_path, cell_types="VERO", wells="AA02")
    pd.testing.assert_frame_equal(some, profiles[12:14].reset_index(drop=True))


def test_embeddings_are_read_a_part_at_a_time(tmp_path, monkeypatch):
    table = rxrx19a_table()
    values = csv(embeddings(table, 3))
    write(tmp_path, {"metadata.csv": csv(table), "embeddings.csv": values})
    whole = load_rxrx_embeddings(tmp_path)
    monkeypatch.setattr("gandl.datasets._rxrx._ROWS_AT_ONCE", 5)
    pd.testing.assert_frame_equal(load_rxrx_embeddings(tmp_path), whole)


def test_sites_without_an_embedding(tmp_path):
    table = rxrx19a_table()
    values = embeddings(table, 3)
    write(tmp_path, {"metadata.csv": csv(table), "embeddings.csv": csv(values[3:])})
    with pytest.warns(UserWarning, match=r"3 of 18 sites .*'HRCE-1_1_AA02_1' the f"):
        assert len(load_rxrx_embeddings(tmp_path)) == 15
    with pytest.raises(ValueError, match="has no embedding of what was chosen"):
        load_rxrx_embeddings(tmp_path, wells="HRCE-1_1_AA02")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.drop(columns="site_id"), "is no table of embeddings: site_id"),
        (lambda v: v[["site_id"]], "is no table of embeddings: site_id"),
        (lambda v: v.assign(feature_0="x"), "is no table of embeddings: could not"),
        (lambda v: pd.concat([v, v[:1]]), "has 'HRCE-1_1_AA02_1' twice"),
    ],
)
def test_embeddings_that_are_not_as_published(tmp_path, change, message):
    table = rxrx19a_table()
    values = csv(change(embeddings(table, 3)))
    write(tmp_path, {"metadata.csv": csv(table), "embeddings.csv": values})
    with pytest.raises(ValueError, match=message) as error:
        load_rxrx_embeddings(tmp_path)
    assert "embeddings.csv" in str(error.value)


def test_no_embeddings(rxrx19a):
    with pytest.raises(FileNotFoundError, match=r"embeddings.csv'.*embeddings=True"):
        load_rxrx_embeddings(rxrx19a)
