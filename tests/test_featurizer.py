"""GANDLFeaturizer: invariants, inputs, and the ways it is used."""

import copy
import functools
import itertools
import math
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import tifffile
import torch
from _images import write_channels
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

import gandl.gan._training
from gandl import GANDLFeaturizer, ImageCollection, embed_to_parquet
from gandl._inputs import _compare_plates
from gandl._presets import PRESETS
from gandl._tensors import activation_dtype
from gandl.gan import Generator, Trainer
from gandl.testing import parametrize_with_image_checks
from gandl.zero_shot import ChannelAdapter


def tiny(**options):
    network = {"channel_base": 256, "channel_max": 8, "latent_dim": 8}
    budget = {"max_kimg": 0.016, "batch_size": 8, "random_state": 0}
    return GANDLFeaturizer(**{**network, **budget, **options})


@parametrize_with_checks([tiny(), tiny(preset="paper"), tiny(intensity="image")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@parametrize_with_image_checks([tiny(), tiny(preset="paper")])
def test_image_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def images():
    """Two kinds of texture in two stains, 24 images of 4 plates."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 1000, size=(24, 2, 32, 32))
    images[12:] = images[12:].cumsum(axis=3) // 16
    return images.astype("uint16")


@pytest.fixture(scope="module")
def fitted(images):
    return tiny().fit(images)


def clone_fitted(fitted, **parameters):
    return pickle.loads(pickle.dumps(fitted)).set_params(**parameters)


LABELS = np.repeat(["treated", "control"], 12)
PLATES = np.tile(["p1", "p2", "p3", "p4"], 6)


@pytest.mark.parametrize(
    ("features", "length"),
    [("pooled", 48), ("central", 48), ("penultimate", 8), (16, 16), (4, 16)],
)
def test_choice_of_embedding(images, fitted, features, length):
    """The choice is made at transform: training does not depend on it."""
    other = clone_fitted(fitted, features=features)
    assert other.transform(images).shape == (24, length)
    assert len(other.get_feature_names_out()) == length
    same = tiny(features=features).fit(images)
    assert np.array_equal(same.transform(images), other.transform(images))


def test_central_features_are_not_those_of_tiles(images, tmp_path):
    X = np.tile(images, (1, 1, 2, 2))
    tiled = tiny(image_size=32, memory=str(tmp_path / "kept"))
    with pytest.raises(ValueError, match=r"64 x 64 pixels .* by tiles of 32: .* image"):
        clone(tiled).set_params(features="central").fit(X)
    tiled.fit(X).set_params(features="central")
    asked = (tiled.transform, clone(tiled).fit)  # the latter from what was kept
    for ask in (*asked, lambda X: embed_to_parquet(tiled, X, tmp_path / "parts")):
        with pytest.raises(ValueError, match="embedded by tiles of 32"):
            ask(X)
    assert not (tmp_path / "parts").exists()
    # An eighth of a tile is left out at either border.
    cells = X[..., :40, :40]
    assert tiled.set_params(max_kimg=0).fit(cells).transform(cells).shape == (24, 48)


def test_a_block_that_is_not_there_is_named(images, fitted):
    with pytest.raises(ValueError, match=r"features=32 .* \[4, 8, 16\]"):
        clone(fitted).set_params(features=32).fit(images)


def test_image_size_is_a_power_of_two(images):
    with pytest.raises(ValueError, match="power of two, got 48"):
        tiny(image_size=48).fit(images)


@pytest.mark.parametrize("shape", [(20, 20), (32, 70), (70, 33), (100, 64)])
def test_any_height_and_width(shape):
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, *shape), dtype=np.float32)
    embedding = tiny(image_size=32).fit_transform(images)
    assert embedding.shape == (6, 48)
    assert np.isfinite(embedding).all()


def test_large_images_are_the_mean_of_their_tiles(images, fitted):
    fitted = clone_fitted(fitted, n_views=1)
    tiles = fitted.transform(images[:4])
    left, right = (
        np.concatenate(images[:2], axis=2),
        np.concatenate(images[2:4], axis=2),
    )
    mosaic = np.concatenate([left, right], axis=1)[None]
    assert mosaic.shape == (1, 2, 64, 64)
    np.testing.assert_allclose(
        fitted.transform(mosaic)[0], tiles.mean(axis=0), atol=1e-5
    )


def test_views_are_flips_and_turns_where_tiles_are_too_few(images, fitted):
    turns = [np.rot90(images, k, axes=(2, 3)) for k in range(4)]
    turns += [turned[..., ::-1] for turned in turns]
    single = clone_fitted(fitted, n_views=1)
    each = np.stack([single.transform(turned) for turned in turns])

    def views(n, images=images):
        return clone_fitted(fitted, n_views=n).transform(images)

    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    assert np.array_equal(views(1), each[0])
    close(views(2), each[[0, 2]].mean(axis=0))
    close(views(4), each[:4].mean(axis=0))
    close(views(8), each.mean(axis=0))
    close(views(8, turns[5]), views(8))
    assert np.abs(each[5] - each[0]).max() > 0.01  # a turn alone would differ
    # Four tiles are four views: more of them are the tiles upside down too.
    large = np.tile(images, (1, 1, 2, 2))
    assert np.array_equal(views(4, large), views(1, large))
    close(views(8, large), views(2))


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("loss", ["logistic", "wgan-gp", "r3gan"])
def test_losses(images, preset, loss):
    featurizer = tiny(preset=preset, loss=loss, path_length_weight=2.0).fit(images)
    curve = featurizer.loss_curve_
    assert {"n_images", "discriminator", "generator"} <= set(curve)
    assert ("contrast" in curve) == (preset == "default")
    first = [values[0] for values in curve.values()]  # the game: now and then
    assert np.isfinite(first).all()
    always = "contrast" if preset == "default" else "generator"
    assert np.isfinite(curve[always]).all()
    assert np.isfinite(featurizer.transform(images)).all()


def test_presets(images):
    paper = tiny(preset="paper", latent_dim=None, channel_max=None, channel_base=None)
    config = paper.set_params(max_kimg=0).fit(images).config_
    assert (config.latent_dim, config.n_mapping_layers) == (512, 3)
    assert config.block_widths == {16: 512, 8: 512, 4: 512}
    assert config.contrast_learning_rate == 0
    assert config.r1_gamma == pytest.approx(0.0002 * 32**2 / 8)
    assert (config.path_length_weight, config.style_mixing) == (2, 0.9)
    assert config.augment == 0
    assert paper.transform(images).shape == (24, 512)
    default = GANDLFeaturizer(max_kimg=0, random_state=0).fit(images)
    assert default.config_.contrast_learning_rate > 0
    assert default.config_.n_mapping_layers == 3


def test_no_training_is_the_untrained_network(images):
    featurizer = tiny(max_kimg=0).fit(images)
    assert (featurizer.n_iter_, featurizer.n_images_seen_) == (0, 0)
    assert featurizer.transform(images).std(axis=0).max() > 0


def test_budget_in_images_and_in_minutes(images):
    assert tiny(max_kimg=0.02).fit(images).n_images_seen_ == 24  # whole batches
    short = tiny(max_kimg=1000, max_minutes=1e-6).fit(images)
    assert short.n_iter_ == 1


def test_minutes_alone_are_the_whole_budget(images, monkeypatch):
    none = PRESETS["default"] | {"max_kimg": 0.0}
    monkeypatch.setitem(PRESETS, "default", none)
    assert tiny(max_kimg=None).fit(images).n_iter_ == 0
    assert tiny(max_kimg=None, max_minutes=1e-6).fit(images).n_iter_ == 1


@pytest.mark.parametrize("factor", [1, 3.5])
def test_intensity_of_each_image_hides_brightness(images, factor):
    images = images.astype("float32")
    brighter = images * np.float32(factor) + 10
    featurizer = tiny(intensity="image").fit(images)
    assert featurizer.intensity_range_ is None
    np.testing.assert_allclose(
        featurizer.transform(brighter), featurizer.transform(images), atol=1e-3
    )


def test_another_intensity_than_that_of_fit_is_refused(images):
    for first, second in (("dataset", "image"), ("image", "dataset")):
        featurizer = tiny(intensity=first).fit(images).set_params(intensity=second)
        with pytest.raises(ValueError, match=f'intensity is "{second}", and this est'):
            featurizer.transform(images)


def test_names_of_a_block_that_is_none(images):
    featurizer = tiny().fit(images).set_params(features=64)
    with pytest.raises(ValueError, match="features=64 is no block"):
        featurizer.get_feature_names_out()


def test_a_first_partial_fit_that_fails_leaves_nothing(images):
    featurizer = tiny(features=64)
    with pytest.raises(ValueError, match="features=64 is no block"):
        featurizer.partial_fit(images)
    assert not [name for name in vars(featurizer) if name.endswith("_")]


def test_intensity_of_the_dataset_keeps_brightness(images, fitted):
    assert fitted.intensity_range_.shape == (2, 2)
    darker = fitted.transform(images // 2)
    assert np.abs(darker - fitted.transform(images)).max() > 0.01


def test_intensity_of_each_plate(images):
    plate_gain = np.where(PLATES == "p2", 5, 1)[:, None, None, None]
    uneven = (images.astype("float32") * plate_gain).astype("float32")
    table = pd.DataFrame({"plate": PLATES})
    collection = ImageCollection.from_array(uneven, metadata=table)
    featurizer = tiny(intensity="plate")
    with pytest.raises(ValueError, match="with_intensity_range"):
        featurizer.fit(collection)
    ranged = collection.with_intensity_range(by="plate")
    featurizer.fit(ranged)
    embedding = featurizer.transform(ranged)
    # A row carries its plate's range: alone, it gives the same.
    assert np.array_equal(featurizer.transform(ranged[5:6]), embedding[5:6])
    # Plates that differ by a gain alone embed alike.
    even = ImageCollection.from_array(images.astype("float32"), metadata=table)
    np.testing.assert_allclose(
        featurizer.transform(even.with_intensity_range(by="plate")),
        embedding,
        atol=1e-3,
    )


def test_generate(images, fitted):
    generated = fitted.generate(40, random_state=0)
    assert generated.shape == (40, 2, 32, 32)
    assert generated.dtype == np.float32
    low, high = fitted.intensity_range_[:, 0], fitted.intensity_range_[:, 1]
    assert (generated.min(axis=(0, 2, 3)) >= low - 1e-3).all()
    assert (generated.max(axis=(0, 2, 3)) <= high + 1e-3).all()
    assert np.array_equal(generated, fitted.generate(40, random_state=0))
    assert not np.array_equal(generated, fitted.generate(40, random_state=1))
    scaled = tiny(intensity="image").fit(images).generate(2)
    assert 0 <= scaled.min() <= scaled.max() <= 1
    with pytest.raises(NotFittedError):
        tiny().generate()
    with pytest.raises(ValueError, match="n_samples == 0"):
        fitted.generate(0)


def test_latents_do_not_repeat_the_draws_of_the_weights(images, monkeypatch):
    """Not even where fit and generate have the same seed."""
    drawn, latents = [], Generator.latents
    monkeypatch.setattr(
        Generator, "latents", lambda *a: drawn.append(latents(*a)) or drawn[-1]
    )
    fitted = tiny(latent_dim=32, max_kimg=0, random_state=0).fit(images)
    fitted.generate(8, random_state=0)
    weights = fitted.weights_["generator.mapping.layers.0.weight"]
    correlation = np.corrcoef(np.vstack([drawn[-1], weights]))[:8, 8:]
    assert np.abs(correlation).max() < 0.8


def test_partial_fit_trains_on_each_image_once_more(images):
    featurizer = tiny()
    for k in range(1, 4):
        featurizer.partial_fit(images)
        assert featurizer.n_images_seen_ == 24 * k
        assert featurizer.loss_curve_["n_images"][-1] == 24 * k


def test_partial_fit_continues_over_a_pickle(images):
    straight = tiny().partial_fit(images).partial_fit(images)
    broken = pickle.loads(pickle.dumps(tiny().partial_fit(images)))
    broken.partial_fit(images)
    assert np.array_equal(straight.transform(images), broken.transform(images))


def test_partial_fit_draws_anew(images, fitted, monkeypatch):
    """Also where only weights are left of the training before."""
    seeds = []
    monkeypatch.setattr(
        "gandl._learning._train",
        lambda featurizer, trainer, *rest: seeds.append(trainer.rng.initial_seed()),
    )
    again = copy.copy(fitted)
    for n in (again.n_iter_, again.n_iter_, again.n_iter_ + 1):
        again.n_iter_ = n
        again.partial_fit(images)
    assert seeds[0] == seeds[1] != seeds[2]
    of_fit = check_random_state(0).randint(2**31 - 1)
    assert of_fit not in seeds
    assert abs(seeds[2] - seeds[1]) != 1  # nor those of the next random_state


def test_partial_fit_continues_a_fit(images):
    featurizer = tiny().fit(images)
    before = featurizer.transform(images)
    featurizer.partial_fit(images)
    assert featurizer.n_images_seen_ == 16 + 24
    change = np.abs(featurizer.transform(images) - before).max()
    assert 0 < change < np.abs(before).max()
    with pytest.raises(ValueError, match=r"3 channels.*2 channels"):
        featurizer.partial_fit(images[:, [0, 1, 1]])


def test_flat_rows_and_image_shape(images, fitted):
    rows = images.reshape(24, -1)
    flat = tiny(image_shape=(2, 32, 32)).fit(rows)
    assert np.array_equal(flat.transform(rows), fitted.transform(images))
    with pytest.raises(ValueError, match=r"image_shape=\(3, 32, 32\).*2048"):
        tiny(image_shape=(3, 32, 32)).fit(rows)
    # Without a shape: one channel, the least square that holds a row.
    assert tiny().fit(rows[:, :1000]).image_shape_in_ == (1, 32, 32)


def test_table_of_paths(images, fitted, tmp_path):
    for k, image in enumerate(images):
        write_channels(tmp_path / f"{k}.tif", image)
        for c, stain in enumerate(("dna", "actin")):
            tifffile.imwrite(tmp_path / f"{k}_{stain}.tif", image[c])
    whole = pd.DataFrame({"path": [str(tmp_path / f"{k}.tif") for k in range(24)]})
    by_stain = pd.DataFrame(
        {
            stain: [str(tmp_path / f"{k}_{stain}.tif") for k in range(24)]
            for stain in ("dna", "actin")
        }
    )
    expected = fitted.transform(images)
    for table in (whole, by_stain):
        assert np.array_equal(tiny().fit(table).transform(table), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_cuda_device_that_is_not_there(images):
    with pytest.raises(ValueError, match="device='cuda:0', but PyTorch sees no CUDA"):
        tiny(device="cuda:0").fit(images)


def test_precision_bfloat16(images, fitted):
    half, full = (
        clone_fitted(fitted, precision=precision)
        for precision in ("bfloat16", "float32")
    )
    exact, rounded = full.transform(images), half.transform(images)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
    trained = tiny(precision="bfloat16").fit(images)
    assert all(w.dtype == np.float32 for w in trained.weights_.values())


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "avx512_fp16": True}, torch.float32),
        (
            {"avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True},
            torch.bfloat16,
        ),
    ],
)
def test_precision_auto_is_bfloat16_where_that_is_faster(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert activation_dtype("auto", "cpu") is expected


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_line(images, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    tiny(verbose=True).fit(images)
    shown = "".join(capsys.readouterr())
    for word in ("16 images", "/s", "min left", "contrast", "D ", "G ", "augment"):
        assert word in " ".join(shown.split())
    tiny().fit(images)
    assert "".join(capsys.readouterr()) == ""


class Counter:
    """Count the hundredths that a fit tells; stop it at one if asked."""

    def __init__(self, stop_at=None):
        self.stop_at, self.ended = stop_at, 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ended += context.task_name == "images"
        return self.ended == self.stop_at


def test_callbacks_of_scikit_learn(images):
    counter = Counter()
    tiny().set_callbacks(counter).fit(images)
    assert counter.ended == 100
    stopped = tiny(max_kimg=0.8).set_callbacks(Counter(stop_at=3)).fit(images)
    assert 3 <= stopped.n_iter_ < 10


def pipeline(**options):
    return Pipeline(
        [
            ("gandl", tiny(**options)),
            ("scale", StandardScaler()),
            ("svm", LinearSVC(random_state=0)),
        ]
    )


def test_pipeline_with_a_linear_svm(images):
    train, test = PLATES != "p4", PLATES == "p4"
    model = pipeline().fit(images[train], LABELS[train])
    assert model.score(images[test], LABELS[test]) > 0.8


def test_cross_validation_with_groups(images):
    scores = cross_val_score(
        pipeline(), images, LABELS, groups=PLATES, cv=GroupKFold(2)
    )
    assert len(scores) == 2
    assert scores.mean() > 0.6


def test_fitted_pipeline_in_a_new_process(images, tmp_path):
    model = pipeline().fit(images, LABELS)
    joblib.dump(model, tmp_path / "model.joblib")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import joblib, numpy as np\n"
        "model = joblib.load('model.joblib')\n"
        "np.save('decision.npy', model.decision_function(np.load('images.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "decision.npy"), model.decision_function(images), atol=1e-4
    )


def test_memory_spares_a_gan_for_each_candidate(images, tmp_path, monkeypatch):
    fits = []
    original = GANDLFeaturizer.fit
    monkeypatch.setattr(
        GANDLFeaturizer, "fit", lambda *a, **k: fits.append(1) or original(*a, **k)
    )
    search = GridSearchCV(
        pipeline().set_params(memory=str(tmp_path)), {"svm__C": [0.1, 1, 10]}, cv=2
    )
    search.fit(images, LABELS)
    assert len(fits) == 3  # one a fold, one for the final refit


def counted_steps(monkeypatch):
    steps = []
    original = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda *a, **k: steps.append(1) or original(*a, **k)
    )
    return steps


def test_its_own_memory_spares_a_gan_for_each_embedding(images, tmp_path, monkeypatch):
    steps = counted_steps(monkeypatch)
    tiny().fit(images)
    one_fit = len(steps)
    model = pipeline().set_params(gandl__memory=str(tmp_path))
    layers = {
        "gandl__features": ["pooled", "central", 8, "penultimate"],
        "gandl__n_views": [1, 2],
        "gandl__whiten": [False, True],
        "svm__C": [0.1, 1],
    }
    search = GridSearchCV(model, layers, cv=2, error_score="raise")
    search.fit(images, LABELS)
    # The one above, one of each fold, and one of the final refit.
    assert len(steps) == one_fit * 4
    kept = search.best_estimator_.named_steps["gandl"]
    alone = clone(kept).set_params(memory=None).fit(images)
    assert np.array_equal(kept.transform(images), alone.transform(images))
    assert kept.get_feature_names_out().tolist() == (
        alone.get_feature_names_out().tolist()
    )


def test_labels_of_other_rows_are_refused_of_what_was_kept_too(images, tmp_path):
    kept = tiny(memory=str(tmp_path), random_state=0)
    kept.fit(images, np.zeros(len(images)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        kept.fit(images, np.zeros(3))


@pytest.mark.parametrize("broken", ["labels", "pixels", "one image"])
def test_a_fit_that_is_refused_leaves_what_was_fitted(images, broken):
    fitted = tiny(random_state=0).fit(images)
    expected = fitted.transform(images)
    X, y = images.astype(float), None
    if broken == "labels":
        y = np.zeros(3)
    elif broken == "pixels":
        X[5, 0, 0, 0] = np.nan
    else:
        X = X[:1]
    with pytest.raises(ValueError, match=r"inconsistent|NaN|minimum of 2"):
        fitted.fit(X, y)
    assert np.array_equal(fitted.transform(images), expected)


def test_a_fit_that_is_refused_of_what_was_kept_leaves_what_was_fitted(
    images, tmp_path
):
    fitted = tiny(memory=str(tmp_path)).fit(images)
    fitted.fit(images[:, :1]).set_params(features=999)
    with pytest.raises(ValueError, match="no block"):
        fitted.fit(images)
    assert fitted.n_channels_in_ == 1


@pytest.mark.parametrize(
    ("scale", "told"),
    [(1 / 4096, "next to no pixel"), (1 / 16, "next to no pixel"), (16, "% of chann")],
)
def test_images_of_other_units_are_warned_of(images, fitted, scale, told):
    with pytest.warns(UserWarning, match=f"Of 24 images, .*{told}") as warned:
        fitted.transform(images * scale)
    assert warned[0].filename == __file__
    fitted.transform(images[:4] * scale)  # a few may be of empty wells


def test_a_channel_that_was_empty_hides_no_other_units(images):
    X = images.copy()
    X[:, 1] = 0
    with pytest.warns(UserWarning, match="one value"):
        fitted = tiny().fit(X)
    with pytest.warns(UserWarning, match="of channel_0"):
        fitted.transform(16 * X)


def test_a_stain_that_is_missing_is_told(images, fitted):
    X = images.copy()
    X[:, 1] = 0
    with pytest.warns(UserWarning, match="all pixels of channel_1 have one value. If"):
        fitted.transform(X)
    # What an adapter fills is said by itself.
    channels = {"channel_0": "channel_0", "channel_1": None}
    how = {"channels": channels, "mismatch": "ignore"}
    adapter = ChannelAdapter(featurizer=FrozenEstimator(fitted), **how)
    fitted.transform(adapter.fit(images).transform(images))


@pytest.mark.parametrize("kind", ["sparse", "white background", "most are dark"])
def test_images_of_fit_are_none_of_other_units(images, kind):
    X = images.copy()
    if kind == "sparse":
        X[:, :, 4:] = 0
    elif kind == "white background":
        X[:, :, 4:] = 1500
    else:
        X[:20] = 0
    tiny().fit(X).transform(X)


def test_channels_without_anything_in_them_are_warned_of(images):
    X = images.copy()
    X[:, 1] = 7
    with pytest.warns(UserWarning, match="one value: channel_1 7"):
        tiny().fit(X)


@pytest.mark.parametrize("column", ["plate", "Metadata_Plate"])
def test_plates_of_another_exposure_are_warned_of(images, column):
    X = images.astype("uint32")
    X[12:, 1] *= 5
    plates = {column: np.repeat(["P1", "P2"], 12)}
    told = r"Plates differ in brightness.*: channel_1 \S+ \(P1\) to \S+ \(P2\)\. "
    with pytest.warns(UserWarning, match=told):
        tiny().fit(ImageCollection.from_array(X, metadata=plates))
    tiny(intensity="image").fit(ImageCollection.from_array(X, metadata=plates))
    tiny().fit(X)  # of an array no plate is known


def test_plates_that_differ_by_chance_are_not_warned_of():
    """Images of one distribution, whose brightness varies: few a plate, or many."""
    rng = np.random.default_rng(0)
    for n_plates, n_images in ((50, 8), (100, 2), (500, 1), (4, 100)):
        names = np.repeat([f"P{k}" for k in range(n_plates)], n_images).astype(object)
        names[0] = None  # of which nothing is known
        brightness = np.exp(rng.normal(0, 0.4, len(names)))
        pixels = rng.random((1, len(names), 200)) * brightness[:, None]
        assert _compare_plates(("DNA",), pixels, names) == ""
        if n_images > 1:
            pixels[:, names == "P1"] *= 0.05
            assert "(P1) to" in _compare_plates(("DNA",), pixels, names)
    assert _compare_plates(("DNA",), 0 * pixels, names) == ""


@pytest.mark.parametrize("in_fit", [True, False])
def test_images_of_other_illumination_are_warned_of(images, tmp_path, in_fit):
    for k, image in enumerate(images):
        axes = {"axes": "CYX"}
        tifffile.imwrite(tmp_path / f"A{k + 1:02}.tif", image, metadata=axes)
    raw = ImageCollection.from_folder(tmp_path, "{well}.tif")
    corrected = raw.with_illumination(by=None)
    same, other = (corrected, raw) if in_fit else (raw, corrected)
    fitted = tiny().fit(same)
    fitted.save(tmp_path / "model.safetensors")
    fitted = GANDLFeaturizer.load(tmp_path / "model.safetensors")
    fitted.transform(same)
    fitted.transform(images)  # of an array who made it knows
    with pytest.warns(UserWarning, match="illumination: emb|--illum") as warned:
        fitted.transform(other)
    assert warned[0].filename == __file__
    adapter = ChannelAdapter(featurizer=FrozenEstimator(fitted)).fit(same)
    fitted.transform(adapter.transform(same))
    with pytest.warns(UserWarning, match="--illumination"):
        fitted.transform(adapter.transform(other))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_scores_are_numbers_whatever_transform_gives_out(images, library):
    pytest.importorskip(library)
    fitted = tiny(random_state=0).fit(images)
    groups = np.arange(len(images)) // 2
    expected = fitted.score(images), fitted.score(images, groups=groups)
    with sklearn.config_context(transform_output=library):
        found = fitted.score(images), fitted.score(images, groups=groups)
    assert found == expected


def test_memory_tells_trainings_apart(images, tmp_path, monkeypatch):
    kept = tiny(memory=str(tmp_path)).fit(images)
    steps = counted_steps(monkeypatch)
    again = tiny(memory=str(tmp_path), features=4).fit(images)
    assert not steps
    assert again.n_iter_ == kept.n_iter_
    assert again.loss_curve_.keys() == kept.loss_curve_.keys()
    for changes in ({"random_state": 7}, {"r1_gamma": 3.0}, {"intensity": "image"}):
        n = len(steps)
        tiny(memory=str(tmp_path), **changes).fit(images)
        assert len(steps) > n
    n = len(steps)
    again.fit(images[1:])
    assert len(steps) > n
    # Nothing of an earlier fit stays where the result is taken from memory.
    again.partial_fit(images).fit(images)
    assert not hasattr(again, "training_state_")


def test_memory_sees_that_files_have_changed(images, tmp_path):
    paths = [str(tmp_path / f"{k}.tif") for k in range(len(images))]
    kept = tiny(memory=str(tmp_path / "kept"))
    for shift in (0, 500):
        for path, image in zip(paths, images + shift * np.eye(32), strict=True):
            write_channels(path, image.astype("uint16"))
        fitted = kept.fit(pd.DataFrame({"path": paths}))
        alone = tiny().fit((images + shift * np.eye(32)).astype("uint16"))
        assert np.array_equal(fitted.intensity_range_, alone.intensity_range_)


def test_memory_draws_from_a_random_state_as_ever(images, tmp_path):
    drawn = []
    for _ in range(2):
        rng = np.random.RandomState(0)
        tiny(memory=str(tmp_path), random_state=rng).fit(images)
        drawn.append(rng.randint(2**31 - 1))
    assert drawn[0] == drawn[1]
    unseeded = tiny(memory=str(tmp_path), random_state=None)
    first, second = (unseeded.fit(images).weights_ for _ in range(2))
    assert any(not np.array_equal(first[k], second[k]) for k in first)


def test_frozen_featurizer_is_not_trained_again(images, fitted):
    model = make_pipeline(FrozenEstimator(fitted), StandardScaler(), LinearSVC())
    search = GridSearchCV(model, {"linearsvc__C": [0.1, 1]}, cv=2).fit(images, LABELS)
    inside = search.best_estimator_[0].estimator
    assert np.array_equal(inside.transform(images), fitted.transform(images))


def test_contrast_alone_has_no_generator_and_no_penultimate_layer(images):
    featurizer = tiny(adversarial_batch=0).fit(images)
    assert set(featurizer.loss_curve_) == {"n_images", "contrast"}
    with pytest.raises(ValueError, match="adversarial_batch=0"):
        featurizer.generate()
    with pytest.raises(ValueError, match="adversarial_batch=0"):
        featurizer.set_params(features="penultimate").transform(images)


def test_channels_in_another_order_are_refused(images):
    named = ImageCollection.from_array(images, channels=["dna", "actin"])
    featurizer = tiny().fit(named)
    with pytest.raises(ValueError, match=r"\('actin', 'dna'\).*\('dna', 'actin'\)"):
        featurizer.transform(named.with_channels(["actin", "dna"]))
    # An array has no names to differ by.
    assert np.array_equal(featurizer.transform(images), featurizer.transform(named))


def test_divergence_is_an_error_after_one_return(images):
    with (
        pytest.warns(ConvergenceWarning, match="half the learning rate"),
        pytest.raises(
            FloatingPointError,
            match=r"has diverged.*Lower contrast_learning_rate and learning_rate",
        ),
    ):
        tiny(learning_rate=1e30, max_kimg=0.5).fit(images)


def broken_losses(monkeypatch, steps):
    """Contrastive losses that are not finite at certain calls."""
    calls, right = itertools.count(), gandl.gan._training.contrastive_loss

    def loss(*views):
        return right(*views) * (math.nan if next(calls) in steps else 1)

    monkeypatch.setattr(gandl.gan._training, "contrastive_loss", loss)


def test_one_bad_step_is_dropped(images, monkeypatch):
    broken_losses(monkeypatch, {3, 36})
    fitted = tiny(max_kimg=0.32).fit(images)
    assert all(np.isfinite(weight).all() for weight in fitted.weights_.values())
    assert np.isfinite(fitted.loss_curve_["contrast"]).sum() == 38


def test_several_bad_steps_take_training_back(images, monkeypatch):
    broken_losses(monkeypatch, {20, 21, 22})
    with pytest.warns(
        ConvergenceWarning, match=r"3 steps.*\(of contrast\).*contrast_learning_rat"
    ):
        fitted = tiny(max_kimg=0.32).fit(images)
    assert fitted.n_iter_ == 40
    assert all(np.isfinite(weight).all() for weight in fitted.weights_.values())


def test_a_penalty_that_is_never_finite_is_an_error(images):
    with (
        pytest.warns(ConvergenceWarning, match=r"2 steps \(of discriminator\)"),
        pytest.raises(FloatingPointError, match=r"diverged: .*\(of discriminator\)"),
    ):
        tiny(max_kimg=1.8, r1_gamma=1e39).fit(images)


def test_one_bad_batch_is_no_repetition(images, monkeypatch):
    right = gandl.gan.Trainer.step

    def step(trainer, batch):
        return right(trainer, batch * (math.nan if trainer.n_steps == 5 else 1))

    monkeypatch.setattr(gandl.gan.Trainer, "step", step)
    fitted = tiny(max_kimg=0.32).fit(images)  # and no warning
    assert all(np.isfinite(weight).all() for weight in fitted.weights_.values())


def test_bad_steps_at_the_end_do_not_undo_the_training(images, monkeypatch):
    undisturbed = tiny(max_kimg=0.08).fit(images)
    broken_losses(monkeypatch, {8, 9})
    with pytest.warns(ConvergenceWarning, match="the last ones, were dropped"):
        fitted = tiny(max_kimg=0.08).fit(images)
    start = tiny(max_kimg=0).fit(images)
    name = "discriminator.conv.weight"
    moved = np.abs(fitted.weights_[name] - start.weights_[name]).mean()
    assert moved > np.abs(undisturbed.weights_[name] - fitted.weights_[name]).mean()


def test_all_later_images_play_where_the_first_were_few(images, monkeypatch):
    first = tiny(preset="paper").partial_fit(images[:4])
    played, right = [], Trainer._update_discriminator

    def update(trainer, real, fake):
        played.append(len(real))
        return right(trainer, real, fake)

    monkeypatch.setattr(Trainer, "_update_discriminator", update)
    before = first.n_images_seen_
    first.partial_fit(images)
    assert sum(played) == first.n_images_seen_ - before


def test_bad_steps_in_partial_fit_are_told(images, monkeypatch):
    broken_losses(monkeypatch, range(99))
    featurizer = tiny(adversarial_batch=0, batch_size=24).partial_fit(images)
    with pytest.warns(ConvergenceWarning, match="were dropped"):
        featurizer.partial_fit(images)


def test_bad_pixel_is_named_by_its_row_where_some_are_kept_from_training():
    many = np.random.default_rng(0).random((300, 1, 32, 32), dtype="float32")
    many[200, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN: image 200, channel 0"):
        tiny(intensity="image", max_kimg=0.6).fit(many)


def test_a_fit_that_fails_leaves_what_was_fitted(images, monkeypatch):
    fitted, new = tiny().fit(images), tiny()
    expected = fitted.transform(images)
    monkeypatch.setattr("gandl.gan.Trainer.step", lambda *a: 1 / 0)
    for featurizer in (fitted, new):
        with pytest.raises(ZeroDivisionError):
            featurizer.fit(images)
    assert np.array_equal(fitted.transform(images), expected)
    with pytest.raises(NotFittedError):
        new.transform(images)


def test_bad_pixel_is_named_by_its_row(images):
    broken = images.astype("float32")
    broken[17, 0, 3, 3] = np.nan
    for intensity in ("dataset", "image"):
        featurizer = tiny(intensity=intensity).fit(images.astype("float32"))
        with pytest.raises(ValueError, match=r"17.*NaN|NaN.*17"):
            featurizer.transform(broken)


def test_channel_base_of_the_paper_grows_with_the_size():
    images = np.zeros((2, 1, 512, 512), dtype="uint8")
    images[:, :, ::2] = 1
    large = GANDLFeaturizer(preset="paper", image_size=512, channel_max=1, max_kimg=0)
    assert large.fit(images).config_.channel_base == 32768
    assert large.set_params(image_size=256).fit(images).config_.channel_base == 16384


@pytest.mark.parametrize(
    ("size", "base"), [(32, 1024), (64, 1024), (128, 2048), (256, 4096)]
)
def test_large_crops_have_no_fewer_maps(size, base):
    """All stains and their detail pass through the first ones."""
    images = np.zeros((2, 1, 256, 256), dtype="uint8")
    images[:, :, ::2] = 1
    network = GANDLFeaturizer(image_size=size, channel_max=1, max_kimg=0)
    assert network.fit(images).config_.channel_base == base


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"contrast_learning_rate": 0, "adversarial_batch": 0}, "nothing to learn by"),
        ({"batch_size": 1}, "batch_size=1, but contrast"),
    ],
)
def test_what_would_learn_nothing_is_refused(images, parameters, message):
    with pytest.raises(ValueError, match=message):
        tiny(**parameters).fit(images)


@pytest.mark.parametrize(
    "parameters", [{"preset": "paper"}, {"contrast_learning_rate": 0}]
)
def test_without_contrast_all_images_play_the_game(images, parameters):
    fitted = tiny(**parameters, batch_size=24, max_kimg=0.024, r1_gamma="auto")
    config = fitted.fit(images).config_
    assert config.adversarial_batch == 24
    assert config.adversarial_interval == 1
    assert config.r1_gamma == 0.0002 * config.size**2 / 24
    half = tiny(batch_size=24, adversarial_batch=12, max_kimg=0, r1_gamma="auto")
    assert half.fit(images).config_.r1_gamma == 0.0002 * config.size**2 / 12


@pytest.mark.parametrize(
    ("batch_size", "in_game"), [(4, 4), (16, 16), (24, 16), (32, 16), (64, 32)]
)
def test_half_of_the_batch_plays_the_game(images, batch_size, in_game):
    many = np.concatenate([images, images, images])
    fitted = GANDLFeaturizer(batch_size=batch_size, max_kimg=0).fit(many)
    assert fitted.config_.adversarial_batch == in_game
    assert fitted.config_.adversarial_interval == 4


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")]
)
def test_the_modes_of_the_caller_change_nothing(images, mode):
    expected = tiny().fit(images)
    with mode():
        fitted = tiny().fit(images)
        embedded = fitted.transform(images)
    np.testing.assert_equal(fitted.weights_, expected.weights_)
    np.testing.assert_array_equal(embedded, expected.transform(images))


def test_an_image_of_another_shape_is_named():
    pixels = [np.zeros((1, 32, 32)), np.zeros((1, 32, 33))]
    with pytest.raises(ValueError, match=r"Image 1 has shape \(1, 32, 33\)"):
        tiny().fit(pixels)
