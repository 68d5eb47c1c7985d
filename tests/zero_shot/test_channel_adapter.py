"""ChannelAdapter: stains matched, filled and dropped, intensities as they were."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import tifffile
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from gandl import ChannelAdapter, GANDLFeaturizer, ImageCollection
from gandl.images import percentile_range, scale_intensity
from gandl.testing import parametrize_with_image_checks

STAINS = ("DNA", "ER", "actin")


def tiny(**options):
    network = {"channel_max": 8, "latent_dim": 8, "batch_size": 8}
    return GANDLFeaturizer(**network, max_kimg=0.016, random_state=0, **options)


@parametrize_with_checks([ChannelAdapter()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


class Brightness(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Mean and deviation of adapted channels: what image checks can look at."""

    def fit(self, X, y=None):
        self.adapter_ = ChannelAdapter().fit(X)
        self._n_features_out = 2 * self.adapter_.n_channels_in_
        return self

    def transform(self, X):
        check_is_fitted(self)
        images = self.adapter_.transform(X)
        unit = np.tile([0, 1], (images.shape[1], 1))
        scaled = (
            scale_intensity(image[None], unit, rows=[row])[0]
            for row, image in enumerate(images)
        )
        return np.stack(
            [np.concatenate([x.mean((1, 2)), x.std((1, 2))]) for x in scaled]
        )


@parametrize_with_image_checks([Brightness()])
def test_image_checks(estimator, check):
    check(estimator)


def collection(n=12, channels=STAINS, seed=0, gain=1.0, offset=0, dtype="uint16"):
    """Channels of images that differ in brightness, 4 plates."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (n, len(channels), 32, 32)).cumsum(axis=3) // 16
    pixels = pixels * np.arange(1, len(channels) + 1)[:, None, None]
    return ImageCollection.from_array(
        (gain * pixels + offset).astype(dtype),
        channels=channels,
        metadata={"plate": np.arange(n) % 4},
    )


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(collection())


def test_stains_in_another_order_and_other_units_embed_alike(fitted):
    """The point of it: the same cells behind another camera have the same features."""
    expected = fitted.transform(collection())
    names = ["actin", "mitochondria", "DNA", "ER"]
    old = np.asarray(collection())
    new = np.stack([old[:, 2], old[:, 0], old[:, 0], old[:, 1]], axis=1)
    new = new * np.array([3.0, 1.0, 0.5, 2.0])[:, None, None] + 100
    X = ImageCollection.from_array(new, channels=names)
    adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
    found = fitted.transform(adapter.transform(X))
    np.testing.assert_allclose(found, expected, atol=1e-2)
    unscaled = fitted.transform(X.with_channels(STAINS))
    assert np.abs(unscaled - expected).max() > 1  # or the test could not fail


def test_what_is_learned(fitted):
    X = collection(channels=("ER", "DNA", "actin"), gain=2, offset=7)
    adapter = ChannelAdapter(featurizer=fitted).fit(X)
    assert adapter.channel_map_ == dict(zip(STAINS, STAINS, strict=True))
    assert adapter.dropped_ == ()
    expected = percentile_range(X.with_channels(STAINS))
    np.testing.assert_array_equal(adapter.intensity_range_, expected)
    adapted = percentile_range(adapter.transform(X))
    np.testing.assert_allclose(adapted, fitted.intensity_range_, rtol=1e-5)


def test_names_indices_and_order_say_the_same(fitted):
    X = collection(channels=("Hoechst", "ConA", "phalloidin"))
    by_place = ChannelAdapter(featurizer=fitted, mismatch="ignore")
    expected = np.asarray(by_place.fit_transform(unnamed(X)))
    for channels in [
        {"DNA": "Hoechst", "ER": "ConA", "actin": "phalloidin"},
        {0: 0, "ER": 1, 2: "phalloidin"},
        ["Hoechst", "ConA", "phalloidin"],
        (0, 1, 2),
        np.array(["Hoechst", "ConA", "phalloidin"]),
    ]:
        adapter = ChannelAdapter(featurizer=fitted, channels=channels)
        adapted = adapter.fit_transform(X)
        assert adapted.channels == STAINS
        np.testing.assert_array_equal(np.asarray(adapted), expected)


def test_a_number_that_is_another_channels_name(fitted):
    X = collection(channels=("1", "2", "3"))
    ask = {"DNA": 1, "ER": "2", "actin": "3"}
    with pytest.raises(ValueError, match=r"'1' for the one of that name, '2' for the"):
        ChannelAdapter(featurizer=fitted, channels=ask).fit(X)
    adapter = ChannelAdapter(featurizer=fitted, channels=ask | {"DNA": "1"}).fit(X)
    assert adapter.channel_map_ == {"DNA": "1", "ER": "2", "actin": "3"}


def test_what_a_mapping_leaves_out_plays_those_of_its_name(fitted):
    X = collection(channels=("Hoechst", "ER", "actin"))
    adapter = ChannelAdapter(
        featurizer=fitted, channels={"DNA": "Hoechst"}, mismatch="raise"
    )
    expected = {"DNA": "Hoechst", "ER": "ER", "actin": "actin"}
    assert adapter.fit(X).channel_map_ == expected
    # One that plays another already is not taken twice.
    adapter.set_params(channels={"DNA": "ER"}, mismatch="ignore")
    assert adapter.fit(X).channel_map_ == {"DNA": "ER", "ER": None, "actin": "actin"}


def unnamed(X):
    return ImageCollection.from_array(np.asarray(X), metadata=X.metadata)


def test_channels_without_names_play_those_of_their_place(fitted):
    X = unnamed(collection(channels=("a", "b")))
    with pytest.warns(UserWarning, match="fills actin.* in order.* of X have no na"):
        adapter = ChannelAdapter(featurizer=fitted).fit(X)
    expected = {"DNA": "channel_0", "ER": "channel_1", "actin": None}
    assert adapter.channel_map_ == expected


def test_channels_of_one_side_alone_without_names_are_told(fitted):
    with pytest.raises(ValueError, match="takes channels in order, as those of X have"):
        ChannelAdapter(featurizer=fitted, mismatch="raise").fit(unnamed(collection()))


def test_channels_that_are_called_by_numbers_alone_are_told():
    numbered = collection(channels=("1", "2", "3"))
    featurizer = tiny().fit(numbered)
    with pytest.warns(UserWarning, match="takes 1, 2 and 3 for the same stains in bo"):
        ChannelAdapter(featurizer=featurizer).fit(numbered)
    with pytest.warns(UserWarning, match="takes 2 for the same stains in both"):
        ChannelAdapter(featurizer=featurizer, channels={"1": "3", "3": "1"}).fit(
            numbered
        )
    # Said, or without names on either side, nothing is guessed.
    ChannelAdapter(featurizer=featurizer, channels=["1", "2", "3"]).fit(numbered)
    array = np.asarray(numbered)
    ChannelAdapter(featurizer=tiny().fit(array)).fit(array)


def test_a_channel_that_is_chosen_twice():
    with pytest.raises(ValueError, match=r"\['DNA', 'DNA'\] names a channel twice"):
        ChannelAdapter(channels=["DNA", "DNA"]).fit(collection())


def test_dark_is_the_lower_end_that_the_featurizer_learned(fitted):
    X = collection(channels=("DNA", "actin"))
    adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
    adapted = np.asarray(adapter.transform(X))
    assert (adapted[:, 1] == np.float32(fitted.intensity_range_[1, 0])).all()
    assert np.isnan(adapter.intensity_range_[1]).all()


@pytest.mark.parametrize("gain", [1.0, 40.0])
def test_mean_is_that_of_the_others_each_in_its_range(fitted, gain):
    X = collection(channels=("DNA", "actin"), gain=gain)
    adapter = ChannelAdapter(featurizer=fitted, missing="mean", mismatch="ignore")
    adapted = np.asarray(adapter.fit(X).transform(X))
    low, high = (e[:, None, None] for e in fitted.intensity_range_.T)
    unit = (adapted - low) / (high - low)
    np.testing.assert_allclose(unit[:, 1], (unit[:, 0] + unit[:, 2]) / 2, atol=1e-5)
    assert unit[:, 1].std() > 0.1


def test_a_word_about_what_nobody_spoke_of(fitted):
    X = collection(channels=("DNA", "ER", "tubulin", "RNA"))
    told = "drops tubulin and RNA, .* fills actin, .* missing='dark'"
    with pytest.warns(UserWarning, match=told) as caught:
        ChannelAdapter(featurizer=fitted).fit(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=told):
        ChannelAdapter(featurizer=fitted, mismatch="raise").fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
        assert adapter.dropped_ == ("tubulin", "RNA")
        # None is a word of the user's own.
        for channels in ({"DNA": 0, "actin": None, "ER": "ER"}, ["DNA", "ER", None]):
            told = ChannelAdapter(featurizer=fitted, channels=channels)
            told.fit(X.with_channels(["DNA", "ER"]))
            assert told.channel_map_["actin"] is None


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"DNA": "DAPI"}, "There is no channel 'DAPI' in X: it has \\['DNA', 'ER'"),
        ({"nuclei": "DNA"}, "no channel 'nuclei' in the featurizer: it has \\['DNA'"),
        ({"DNA": 3}, "no channel 3 in X.*numbered from 0 to 2"),
        ({"DNA": -1}, "no channel -1 in X"),
        ({"DNA": "ER", 0: "actin"}, "names 'DNA' twice"),
        ({"DNA": True}, "no channel True in X"),
        (["DNA", "ER"], "has 2 entries for the featurizer's 3 channels.*None where"),
        ([None, None, None], "None of the channels of X.*channels={'DNA': 'DNA'}"),
        ("DNA", "The 'channels' parameter"),
    ],
)
def test_wrong_channels(fitted, channels, message):
    with pytest.raises(ValueError, match=message):
        ChannelAdapter(featurizer=fitted, channels=channels).fit(collection())


def test_no_name_in_common(fitted):
    X = collection(channels=("GFP", "RFP", "CFP"))
    with pytest.raises(ValueError, match=r"None of the channels of X.*'DNA': 'GFP'"):
        ChannelAdapter(featurizer=fitted).fit(X)


def test_range_of_controls_alone(fitted):
    dim, bright = collection(6), collection(6, gain=9)
    both = np.concatenate([np.asarray(dim), np.asarray(bright)])
    X = ImageCollection.from_array(both, channels=STAINS)
    y = np.repeat(["DMSO", "drug"], 6)
    adapter = ChannelAdapter(featurizer=fitted, control="DMSO").fit(X, y)
    np.testing.assert_array_equal(adapter.intensity_range_, percentile_range(dim))
    with pytest.raises(ValueError, match="No row of y is 'mock'"):
        ChannelAdapter(featurizer=fitted, control="mock").fit(X, y)
    with pytest.raises(ValueError, match="needs y"):
        ChannelAdapter(featurizer=fitted, control="DMSO").fit(X)


@pytest.mark.parametrize("missing", ["dark", "mean"])
def test_a_featurizer_that_scales_images_itself_gets_them_as_they_are(missing):
    fitted = tiny(intensity="image").fit(collection())
    X = collection(channels=("actin", "DNA"), gain=3)
    adapter = ChannelAdapter(featurizer=fitted, missing=missing, mismatch="ignore")
    adapted = np.asarray(adapter.fit(X).transform(X))
    np.testing.assert_array_equal(adapted[:, [2, 0]], np.asarray(X))
    if missing == "dark":
        assert (adapted[:, 1] == 0).all()
    else:
        assert 0 <= adapted[:, 1].min() < adapted[:, 1].max() <= 1.01
    assert np.isfinite(fitted.transform(adapted)).all()


def test_ranges_of_plates_go_with_the_images():
    fitted = tiny(intensity="plate").fit(collection().with_intensity_range("plate"))
    X = collection(channels=("actin", "DNA"), gain=3).with_intensity_range("plate")
    adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
    ranges = adapter.transform(X).intensity_range
    np.testing.assert_array_equal(ranges[:, [2, 0]], X.intensity_range)
    assert (ranges[:, 1] == 0).all()
    assert np.isfinite(fitted.transform(adapter.transform(X))).all()


def test_without_a_featurizer_channels_go_from_0_to_1():
    X = collection(gain=5, offset=3)
    adapter = ChannelAdapter(channels=["actin", "DNA"], mismatch="ignore")
    adapted = adapter.fit_transform(X)
    assert adapted.channels == ("actin", "DNA")
    np.testing.assert_allclose(percentile_range(adapted), [[0, 1], [0, 1]], atol=1e-6)
    swapped = ChannelAdapter(channels={1: "actin", 0: "ER"}, mismatch="ignore").fit(X)
    assert swapped.channel_map_ == {"1": "actin", "0": "ER"}
    renamed = ChannelAdapter(channels={"F-actin": 2}, mismatch="ignore").fit(X)
    assert renamed.transform(X).channels == ("F-actin",)


def test_a_channel_without_any_range_is_dark(fitted):
    pixels = np.asarray(collection()).copy()
    pixels[:, 1] = 42
    X = ImageCollection.from_array(pixels, channels=STAINS)
    with pytest.warns(UserWarning, match=f"blanks {STAINS[1]}, .* of the images have"):
        adapted = np.asarray(ChannelAdapter(featurizer=fitted).fit_transform(X))
    assert (adapted[:, 1] == np.float32(fitted.intensity_range_[1, 0])).all()


def test_a_stain_that_controls_lack_is_told(fitted):
    pixels = np.asarray(collection()).copy()
    pixels[:2, 1] = 0
    X = ImageCollection.from_array(pixels, channels=STAINS)
    kind = np.where(np.arange(len(X)) < 2, "mock", "infected")
    adapter = ChannelAdapter(featurizer=fitted, control="mock", mismatch="raise")
    with pytest.raises(ValueError, match=r"of the controls .* unless control=None"):
        adapter.fit(X, kind)
    adapter.set_params(control=None).fit(X, kind)


@pytest.fixture
def on_disk(tmp_path):
    rows = []
    for k, image in enumerate(np.asarray(collection(channels=("actin", "x", "DNA")))):
        row = {c: f"{k}_{c}.tif" for c in ("actin", "x", "DNA")} | {"plate": k % 4}
        for c, channel in zip(("actin", "x", "DNA"), image, strict=True):
            tifffile.imwrite(tmp_path / row[c], channel)
        rows.append(row)
    table = pd.DataFrame(rows)
    columns = ["actin", "x", "DNA"]
    return ImageCollection.from_table(table, path=columns, root=tmp_path), tmp_path


def test_collections_stay_on_disk_and_dropped_channels_are_not_read(fitted, on_disk):
    X, folder = on_disk
    for file in folder.glob("*_x.tif"):
        file.write_bytes(b"no image" * 300)  # noticed, if it were read
    adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
    adapted = adapter.transform(X)
    assert isinstance(adapted, ImageCollection)
    assert adapted.metadata["plate"].tolist() == X.metadata["plate"].tolist()
    assert len(pickle.dumps(adapted)) < 10_000
    whole = np.asarray(adapted)
    part = pickle.loads(pickle.dumps(adapted[[7, 2]]))
    np.testing.assert_array_equal(np.asarray(part), whole[[7, 2]])
    tiles = np.asarray(adapted.tile(16))
    np.testing.assert_array_equal(tiles[3], whole[0, :, 16:, 16:])
    some = np.asarray(adapted.with_channels(["actin", "ER"]))
    np.testing.assert_array_equal(some, whole[:, [2, 1]])
    assert joblib.hash(adapted[:3]) == joblib.hash(adapter.transform(X[:3]))


def test_nan_is_told_of_the_channel_that_has_it(fitted):
    X = np.array(collection(), dtype=np.float64)
    adapter = ChannelAdapter(featurizer=fitted, mismatch="ignore").fit(X)
    X[3, 1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN: image 3, channel 1"):
        fitted.transform(adapter.transform(X))


def test_flat_rows(fitted):
    X = np.asarray(collection())
    order = {"featurizer": fitted, "channels": [0, 1, 2]}
    adapter = ChannelAdapter(**order, image_shape=(3, 32, 32))
    flat = adapter.fit_transform(X.reshape(len(X), -1))
    assert flat.dtype == np.float32
    expected = ChannelAdapter(**order).fit_transform(X)
    np.testing.assert_array_equal(flat, np.asarray(expected))


def test_channels_are_held_against_those_of_fit(fitted):
    adapter = ChannelAdapter(featurizer=fitted).fit(collection())
    with pytest.raises(ValueError, match="2 channels, but ChannelAdapter was fitted"):
        adapter.transform(collection(channels=("DNA", "ER")))
    with pytest.raises(ValueError, match="with_channels"):
        adapter.transform(collection(channels=("ER", "DNA", "actin")))
    larger = np.zeros((1, 3, 80, 40), "uint16")
    assert adapter.transform(larger).shape == larger.shape


def test_featurizer_that_is_not_fitted_or_has_no_channels():
    with pytest.raises(NotFittedError, match=r"FrozenEstimator\(featurizer\)"):
        ChannelAdapter(featurizer=tiny()).fit(collection())
    knows_none = LogisticRegression()
    with pytest.raises(ValueError, match="'featurizer' parameter"):
        ChannelAdapter(featurizer=knows_none).fit(collection())
    pipeline = make_pipeline(ChannelAdapter()).fit(collection())
    with pytest.raises(ValueError, match="Pipeline has no channels_in_"):
        ChannelAdapter(featurizer=pipeline).fit(collection())


def test_in_cross_validation_the_featurizer_stays_as_it_is(fitted):
    frozen = FrozenEstimator(fitted)
    X = collection(channels=("actin", "DNA", "ER"), gain=2)
    y = np.arange(12) // 2 % 2
    model = make_pipeline(
        ChannelAdapter(featurizer=frozen), frozen, LogisticRegression()
    )
    before = {name: w.copy() for name, w in fitted.weights_.items()}
    scores = cross_val_score(
        model, X, y, groups=X.metadata["plate"], cv=GroupKFold(2), error_score="raise"
    )
    assert scores.shape == (2,)
    for name, weights in fitted.weights_.items():
        np.testing.assert_array_equal(weights, before[name])


def test_each_stain_on_its_own():
    """A featurizer of one channel on all channels of the new images, side by side."""
    fitted = tiny().fit(collection(channels=("DNA",)))
    X, frozen = collection(), FrozenEstimator(fitted)
    each = [
        make_pipeline(
            ChannelAdapter(featurizer=frozen, channels=[c], mismatch="ignore"), frozen
        )
        for c in X.channels
    ]
    features = make_union(*each).fit_transform(X)
    assert features.shape == (12, 3 * fitted.transform(X.with_channels("DNA")).shape[1])
    assert not np.allclose(*np.split(features, 3, axis=1)[:2], atol=0.1)


def test_a_table_of_paths_stays_on_disk(fitted, tmp_path):
    polars = pytest.importorskip("polars")
    X = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    tifffile.imwrite(tmp_path / "a.tif", X[0, 0])
    table = polars.DataFrame({"path": [str(tmp_path / "a.tif")]})
    adapter = ChannelAdapter().fit(table)
    assert isinstance(adapter.transform(table), ImageCollection)
