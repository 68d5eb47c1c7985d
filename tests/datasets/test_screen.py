"""`make_screen`: what it promises of images, tables and files."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gandl.datasets import make_screen
from gandl.images import ImageCollection

SMALL = {
    "n_plates": 1,
    "n_compounds": 0,
    "n_replicates": 1,
    "n_controls": 2,
    "image_size": 32,
    "random_state": 0,
}
COLUMNS = [
    "site_id",
    "well_id",
    "experiment",
    "cell_type",
    "plate",
    "well",
    "site",
    "well_type",
    "disease_condition",
    "compound",
    "concentration",
    "perturbation",
    "infected_fraction",
    "toxicity",
]


def small(**changes):
    images, truth = make_screen(**(SMALL | changes))
    return np.asarray(images), images.metadata, truth


@pytest.fixture(scope="module")
def treated():
    images, truth = make_screen(
        n_plates=2,
        n_compounds={"rescue": 2, "inert": 1, "toxic": 2},
        concentrations=(0.1, 1.0, 10.0),
        n_replicates=3,
        n_controls=3,
        image_size=32,
        stains=("DNA",),
        random_state=1,
    )
    return np.asarray(images), images.metadata, truth


@pytest.fixture(scope="module")
def controls():
    images, _ = make_screen(
        n_plates=3, n_compounds=0, n_controls=16, image_size=96, random_state=3
    )
    return np.asarray(images).astype(float), images.metadata


def test_images_and_metadata_have_the_promised_form():
    images, truth = make_screen(**(SMALL | {"n_sites": 2, "image_size": (32, 48)}))
    assert isinstance(images, ImageCollection)
    assert images.shape == (8, 3, 32, 48)
    assert images.dtype == np.uint16
    assert list(images.channels) == ["DNA", "ER", "actin"]
    assert list(images.metadata) == COLUMNS
    pixels = np.asarray(images)
    assert pixels.max() <= 4095
    assert pixels.std(axis=(2, 3)).min() > 5
    assert images.metadata["site_id"].is_unique
    assert (
        images.metadata.groupby("well_id")["site"].apply(list).tolist() == [[1, 2]] * 4
    )
    assert images.metadata["well"].str.fullmatch(r"[A-H](0[1-9]|1[0-2])").all()
    assert list(truth) == ["compound", "kind", "ec50", "slope", "max_effect"]
    assert len(truth) == 0


def test_same_seed_same_screen_and_no_two_images_alike():
    one, metadata, truth = small(n_compounds=3, n_sites=2)
    again, metadata_again, truth_again = small(n_compounds=3, n_sites=2)
    np.testing.assert_array_equal(one, again)
    pd.testing.assert_frame_equal(metadata, metadata_again)
    pd.testing.assert_frame_equal(truth, truth_again)
    assert len({image.tobytes() for image in one}) == len(one)
    other, *_ = small(n_compounds=3, n_sites=2, random_state=1)
    assert not np.array_equal(one, other)


def test_random_state_may_be_an_instance():
    first, *_ = small(random_state=np.random.RandomState(7))
    second, *_ = small(random_state=np.random.RandomState(7))
    np.testing.assert_array_equal(first, second)
    state = np.random.RandomState(7)
    small(random_state=state)
    third, *_ = small(random_state=state)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_random_state_is_untouched(random_state):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    small(random_state=random_state)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_without_a_seed_screens_differ():
    assert not np.array_equal(small(random_state=None)[0], small(random_state=None)[0])


def test_images_do_not_depend_on_n_jobs():
    one, *_ = small(n_sites=2, n_jobs=1)
    two, *_ = small(n_sites=2, n_jobs=2)
    np.testing.assert_array_equal(one, two)


def test_a_stain_does_not_depend_on_the_others():
    names = ("mitochondria", "DNA", "ER", "actin", "RNA", "membrane")
    six, *_ = small(stains=names)
    assert six.shape[1] == 6
    two, *_ = small(stains=("RNA", "DNA"))
    np.testing.assert_array_equal(two, six[:, [4, 1]])
    channels = six[0].reshape(6, -1)
    assert np.abs(np.corrcoef(channels) - np.eye(6)).max() < 0.98


def test_wells_hold_what_was_asked_for(treated):
    _, metadata, truth = treated
    assert len(metadata) == 2 * 2 * 3 + 5 * 3 * 3
    assert metadata["well_id"].is_unique
    controls = metadata[metadata["well_type"] != "treatment"]
    assert (controls.groupby(["plate", "well_type"]).size() == 3).all()
    assert set(controls["compound"]) == {"DMSO"}
    assert set(controls["concentration"]) == {0.0}
    doses = metadata[metadata["well_type"] == "treatment"].groupby(
        ["compound", "concentration"]
    )
    assert (doses.size() == 3).all()
    assert len(doses) == 5 * 3
    # Three replicates on two plates: two on the first, one on the second.
    treatments = metadata[metadata["well_type"] == "treatment"]
    assert treatments.groupby("plate").size().to_dict() == {1: 30, 2: 15}
    assert set(treatments["disease_condition"]) == {"infected"}
    assert truth["kind"].value_counts().to_dict() == {
        "rescue": 2,
        "toxic": 2,
        "inert": 1,
    }


def test_wells_follow_the_curves_of_the_truth(treated):
    _, metadata, truth = treated
    healthy = metadata["well_type"] == "negative control"
    infected = metadata["well_type"] == "positive control"
    assert (metadata.loc[healthy, "perturbation"] == 0).all()
    assert (metadata.loc[healthy, "infected_fraction"] == 0).all()
    assert (metadata.loc[infected, "perturbation"] == 1).all()
    merged = metadata.merge(truth, on="compound")
    assert len(merged) == 45
    ratio = (merged["ec50"] / merged["concentration"]) ** merged["slope"]
    effect = (merged["max_effect"] / (1 + ratio)).fillna(0.0)
    rescue, toxic = merged["kind"] == "rescue", merged["kind"] == "toxic"
    np.testing.assert_allclose(merged["perturbation"], 1 - effect * rescue)
    np.testing.assert_allclose(merged["toxicity"], effect * toxic)
    fraction = merged["infected_fraction"] - 0.7 * merged["perturbation"]
    assert 0 < fraction.abs().max() < 0.2
    low = merged[rescue & (merged["concentration"] == 0.1)]["perturbation"].min()
    high = merged[rescue & (merged["concentration"] == 10)]["perturbation"].max()
    assert low > 0.5 > high
    assert truth["ec50"].dropna().between(0.1, 10).all()
    assert truth["ec50"].isna().equals(truth["kind"] == "inert")


def test_toxic_compounds_cost_cells(treated):
    images, metadata, _ = treated
    light = images[:, 0].astype(float).sum(axis=(1, 2)) - images[0, 0].size * 100
    poisoned = metadata["toxicity"] > 0.55
    assert poisoned.sum() >= 6
    assert light[poisoned].mean() < 0.7 * light[metadata["toxicity"] == 0].mean()


def balanced_accuracy(features, metadata):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return cross_val_score(
        model,
        features,
        metadata["disease_condition"] == "infected",
        groups=metadata["plate"],
        cv=LeaveOneGroupOut(),
        scoring="balanced_accuracy",
    ).mean()


def test_brightness_does_not_tell_infected_from_healthy(controls):
    images, metadata = controls
    infected = (metadata["disease_condition"] == "infected").to_numpy()
    mean = images.mean(axis=(2, 3))
    difference = mean[infected].mean(axis=0) - mean[~infected].mean(axis=0)
    assert (np.abs(difference) < 0.5 * mean[~infected].std(axis=0)).all()
    assert balanced_accuracy(mean, metadata) < 0.65
    light = images - 100
    light /= light.mean(axis=(2, 3), keepdims=True)
    spread = np.percentile(light, (5, 25, 50, 75, 95), axis=(2, 3))
    spread = np.concatenate([*spread, light.std(axis=(2, 3))], axis=1)
    assert balanced_accuracy(spread, metadata) < 0.88


def test_texture_tells_infected_from_healthy(controls):
    images, metadata = controls
    light = images - 100
    light /= light.mean(axis=(2, 3), keepdims=True)
    features = []
    for sigma in (0.7, 1.5, 3.0):
        smooth = [
            ndimage.gaussian_filter(light, (0, 0, s, s)) for s in (sigma, 1.6 * sigma)
        ]
        band = smooth[0] - smooth[1]
        band /= band.std(axis=(2, 3), keepdims=True)
        features += [np.abs(band).mean(axis=(2, 3)), (band**3).mean(axis=(2, 3))]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            features.append((band[:, a] * band[:, b]).mean(axis=(1, 2))[:, None])
    assert balanced_accuracy(np.concatenate(features, axis=1), metadata) > 0.85


def test_brightness_effect_makes_infected_cells_brighter():
    same, metadata, _ = small(image_size=64, plate_effect=0.0)
    bright, *_ = small(image_size=64, plate_effect=0.0, brightness_effect=1.0)
    infected = (metadata["disease_condition"] == "infected").to_numpy()
    np.testing.assert_array_equal(same[~infected], bright[~infected])
    gain = (bright[infected].mean() - 125) / (same[infected].mean() - 125)
    assert 1.3 < gain < 2.0


def test_noise_can_be_turned_off():
    clean, *_ = small(noise=0.0)
    noisy, *_ = small(noise=1.0)
    difference = noisy.astype(float) - clean
    assert 3 < difference.std() < 40
    assert abs(difference.mean()) < 1


def test_cell_types_differ_and_have_plates_of_their_own():
    names = ("cobblestone", "colony", "spindle", "spread", "round")
    images, metadata, _ = small(
        cell_types=names, image_size=160, stains=("DNA",), plate_effect=0.0
    )
    plates = metadata.groupby("cell_type", sort=False)["plate"].unique()
    assert list(plates.index) == list(names)
    assert [list(plate) for plate in plates] == [[1], [2], [3], [4], [5]]
    assert set(metadata["experiment"]) == {f"{name}-1" for name in names}
    healthy = (metadata["disease_condition"] == "healthy").to_numpy()
    nuclei = {}
    for name in names:
        chosen = images[healthy & (metadata["cell_type"] == name).to_numpy(), 0]
        smooth = ndimage.gaussian_filter(chosen.astype(float), (0, 3.5, 3.5))
        peak = smooth == ndimage.maximum_filter(smooth, (1, 9, 9))
        nuclei[name] = np.count_nonzero(peak & (smooth > 250))
    assert nuclei["spread"] < 0.7 * nuclei["cobblestone"]
    assert nuclei["round"] > 1.3 * nuclei["cobblestone"]


def test_edge_wells_are_dimmer():
    images, metadata, _ = small(
        n_controls=48, image_size=48, stains=("DNA",), plate_effect=3.0
    )
    edge = metadata["well"].str[0].isin(["A", "H"]) | metadata["well"].str[1:].isin(
        ["01", "12"]
    )
    level = images.mean(axis=(1, 2, 3)) - 100
    assert level[edge].mean() < 0.8 * level[~edge].mean()


def test_a_large_plate_is_taken_where_a_small_one_is_full():
    _, metadata, _ = small(n_controls=49, image_size=16, stains=("DNA",))
    assert metadata["well"].str.fullmatch(r"[A-P]([01][0-9]|2[0-4])").all()
    assert metadata["well"].str[0].max() > "H"
    with pytest.raises(ValueError, match="need 386 wells"):
        make_screen(n_controls=193, n_compounds=0)


def test_images_without_a_cell_are_background():
    images, *_ = small(cell_types="colony", n_controls=40, image_size=16)
    assert images.mean(axis=(2, 3)).min() > 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_plates", 0),
        ("n_plates", 1.5),
        ("n_compounds", -1),
        ("n_compounds", {"cure": 1}),
        ("n_compounds", {"rescue": -2}),
        ("n_replicates", 0),
        ("n_controls", True),
        ("n_sites", 0),
        ("image_size", 8),
        ("image_size", (64,)),
        ("image_size", "large"),
        ("stains", ("DNA", "gold")),
        ("stains", ()),
        ("stains", ("DNA", "DNA")),
        ("cell_types", ("HeLa",)),
        ("concentrations", (0.0, 1.0)),
        ("concentrations", ()),
        ("concentrations", (1.0, 1.0)),
        ("concentrations", 3),
        ("infected_fraction", 1.2),
        ("brightness_effect", -1.0),
        ("plate_effect", float("nan")),
        ("noise", -0.1),
        ("pixel_size", 0),
        ("random_state", "seed"),
    ],
)
def test_invalid_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}.*"):
        make_screen(**(SMALL | {name: value}))


def test_an_empty_screen_is_refused():
    with pytest.raises(ValueError, match="empty"):
        make_screen(n_controls=0, n_compounds=0)


def test_files_hold_the_images_bit_for_bit(tmp_path):
    changes = {"n_compounds": {"rescue": 1}, "n_sites": 2, "n_plates": 2}
    images, metadata, truth = small(**changes)
    folder = tmp_path / "new" / "screen"
    lazy, truth_again = make_screen(**(SMALL | changes), folder=folder, n_jobs=2)
    np.testing.assert_array_equal(np.asarray(lazy), images)
    assert list(lazy.channels) == ["DNA", "ER", "actin"]
    pd.testing.assert_frame_equal(lazy.metadata, metadata)
    pd.testing.assert_frame_equal(truth, truth_again)
    for row in (0, len(metadata) - 1):
        at = metadata.loc[row]
        stem = f"images/{at.experiment}/Plate{at.plate}/{at.well}_s{at.site}"
        for channel in range(3):
            pixels = tifffile.imread(folder / f"{stem}_w{channel + 1}.tif")
            np.testing.assert_array_equal(pixels, images[row, channel])
    assert len(list(folder.rglob("*.tif"))) == 3 * len(metadata)
    assert [path.name for path in folder.parent.iterdir()] == ["screen"]


def test_tables_on_disk_are_the_tables_in_memory(tmp_path):
    changes = {"n_compounds": 3, "folder": tmp_path / "screen"}
    images, truth = make_screen(**(SMALL | changes))
    table = pd.read_csv(tmp_path / "screen" / "metadata.csv")
    pd.testing.assert_frame_equal(table[COLUMNS], images.metadata, check_dtype=False)
    treated = table["well_type"] == "treatment"
    assert (table["treatment"].isna() == ~treated).all()
    assert table.loc[treated, "treatment"].equals(table.loc[treated, "compound"])
    stored = pd.read_csv(tmp_path / "screen" / "truth.csv")
    pd.testing.assert_frame_equal(stored, truth, check_dtype=False)
    channels = pd.read_csv(tmp_path / "screen" / "channels.csv")
    assert list(channels["stain"]) == ["DNA", "ER", "actin"]


def test_an_existing_screen_is_replaced_only_when_told(tmp_path):
    folder = tmp_path / "screen"
    first, _ = make_screen(**SMALL, folder=folder)
    before = np.asarray(first)
    other = SMALL | {"random_state": 1}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        make_screen(**other, folder=folder)
    np.testing.assert_array_equal(np.asarray(first), before)
    second, _ = make_screen(**other, folder=folder, overwrite=True)
    assert not np.array_equal(np.asarray(second), before)
    assert len(list(folder.rglob("*.tif"))) == 3 * len(second)


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        make_screen(**SMALL, folder=tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        make_screen(**SMALL, folder=tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_screen_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="disk full"):
        make_screen(**SMALL, folder=tmp_path / "screen")
    assert list(tmp_path.iterdir()) == []
