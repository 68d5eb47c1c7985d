"""Illumination estimated from the plate itself."""

import pickle

import joblib
import numpy as np
import pytest

from gandl.images import ImageCollection

SIZE = 64


def cells(n, seed, background=200.0, n_cells=120):
    """Images of Gaussian cells, anywhere, also across the edges."""
    rng = np.random.default_rng(seed)
    at = np.arange(SIZE)
    images = np.full((n, SIZE, SIZE), background)
    for image in images:
        for _ in range(n_cells):
            y, x = rng.uniform(-15, SIZE + 15, 2)
            width = rng.uniform(1.5, 3)
            rows, columns = (np.exp(-((at - c) ** 2) / 2 / width**2) for c in (y, x))
            image += rng.uniform(200, 2000) * np.outer(rows, columns)
    return images


def vignette(y=30.0, x=36.0):
    """Fall-off of a lens, cos^4 of the angle, whose axis is beside the centre."""
    at = np.arange(SIZE)
    distance = np.hypot(*np.meshgrid(at - y, at - x, indexing="ij"))
    field = np.cos(np.arctan(distance / 50)) ** 4
    return field / field.mean()


@pytest.fixture(scope="module")
def screen():
    """Plate a under a vignette, plate b evenly lit in its first channel."""
    flat = np.concatenate([cells(240, 0).reshape(120, 2, SIZE, SIZE)] * 2)
    lit = flat.copy()
    lit[:120] *= vignette()
    lit[120:, 1] *= vignette(50.0, 10.0)
    metadata = {"plate": ["a"] * 120 + ["b"] * 120}
    return flat, lit.round().astype(np.uint16), metadata


@pytest.fixture(scope="module")
def X(screen):
    return ImageCollection.from_array(screen[1], metadata=screen[2])


def test_a_known_vignette_is_recovered_and_even_light_is_left(screen, X):
    flat, lit, _ = screen
    corrected = np.asarray(X.with_illumination())
    assert corrected.dtype == np.float32
    error = corrected / flat - 1
    before = lit / flat - 1
    for plate, channel in ((0, 0), (0, 1), (1, 1)):
        rows = slice(120 * plate, 120 * plate + 120)
        assert np.sqrt((before[rows, channel] ** 2).mean()) > 0.2
        assert np.sqrt((error[rows, channel] ** 2).mean()) < 0.05
    assert np.sqrt((error[120:, 0] ** 2).mean()) < 0.02
    np.testing.assert_allclose(corrected.mean(), flat.mean(), rtol=0.03)


def test_cells_on_black(screen):
    flat = cells(120, 2, background=0.0, n_cells=40)
    lit = (flat * vignette()).round().astype(np.uint16)
    X = ImageCollection.from_array(lit[:, None]).with_illumination(by=None)
    bright = flat > 500
    error = np.asarray(X)[:, 0][bright] / flat[bright] - 1
    assert np.sqrt((error**2).mean()) < 0.1


def test_the_field_is_of_the_group_alone(X):
    both, alone = X.with_illumination(), X[120:].with_illumination()
    np.testing.assert_allclose(both[120:], alone, rtol=1e-6)
    together = X.with_illumination(by=None)
    assert np.abs(np.asarray(together[:1]) / np.asarray(both[:1]) - 1).max() > 0.05


def test_views_tiles_channels_and_pickles(X, same):
    Y = X.with_illumination()
    whole = np.asarray(Y)
    np.testing.assert_array_equal(Y[[130, 2]], whole[[130, 2]])
    np.testing.assert_array_equal(Y[7], whole[7])
    np.testing.assert_array_equal(Y.with_channels("channel_1")[3], whole[3, 1:])
    np.testing.assert_array_equal(Y.tile(32)[5], whole[1, :, :32, 32:])
    view = Y[100:140:3]
    same(pickle.loads(pickle.dumps(view)), view)
    same(view[[4]], Y[[112]])
    assert joblib.hash(Y) != joblib.hash(X)
    only = X.with_channels("channel_1").with_illumination()
    np.testing.assert_allclose(only, whole[:, 1:], rtol=1e-6)


def test_rows_that_repeat_and_views_of_views(X):
    Y = X[[3, 3, 200, 5]].with_illumination()
    np.testing.assert_array_equal(Y[0], Y[1])
    assert Y[[2]].shape == (1, 2, SIZE, SIZE)
    again = X.with_illumination().with_illumination()
    np.testing.assert_allclose(again[0], X.with_illumination()[0], rtol=0.03)


def test_few_images_are_read(X, monkeypatch):
    read = []
    kind = type(X._source)
    reader = kind.reader

    def counted(source, channels):
        inner = reader(source, channels)
        return lambda row: read.append(row) or inner(row)

    monkeypatch.setattr(kind, "reader", counted)
    X.with_illumination(max_images=10)
    assert len(read) == 20
    assert sum(row < 120 for row in read) == 10


def test_intensity_ranges_are_of_corrected_images(screen, X):
    ranges = X.with_illumination().with_intensity_range(low=0, high=100).intensity_range
    corrected = np.asarray(X.with_illumination())[:120, 0]
    np.testing.assert_allclose(ranges[0, 0], [corrected.min(), corrected.max()])


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (3, 2, 2, 30), (1, 1, 17, 33)])
def test_small_and_black_images_stay_finite(shape):
    images = np.full(shape, 7, np.uint8)
    X = ImageCollection.from_array(images).with_illumination(by=None)
    np.testing.assert_allclose(X, images, rtol=1e-5)
    black = ImageCollection.from_array(np.zeros(shape, np.uint8))
    assert not np.asarray(black.with_illumination(by=None)).any()


def test_types():
    for given, made in (("u1", "f4"), ("u2", "f4"), ("f2", "f4"), ("u4", "f8")):
        images = np.ones((2, 1, 8, 8), given)
        X = ImageCollection.from_array(images).with_illumination(by=None)
        assert X.dtype == np.dtype(made)
        assert X[0].dtype == np.dtype(made)


def test_errors(X):
    with pytest.raises(ValueError, match=r"no columns \['sheet'\].*'plate'"):
        X.with_illumination(by="sheet")
    with pytest.raises(ValueError, match="before tile"):
        X.tile(32).with_illumination()
    with pytest.raises(ValueError, match="before tile and with_intensity_range"):
        X[:4].with_intensity_range().with_illumination()
    with pytest.raises(ValueError, match="No images"):
        X[:0].with_illumination()
    with pytest.raises(ValueError, match="max_images must be at least 1"):
        X.with_illumination(max_images=0)
    images = np.ones((3, 1, 8, 8))
    images[1, 0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="NaN: image 1, channel 0"):
        ImageCollection.from_array(images).with_illumination(by=None)
    with pytest.raises(ValueError, match="NaN: image 0, channel 0"):
        ImageCollection.from_array(images)[[1, 0]].with_illumination(by=None)
