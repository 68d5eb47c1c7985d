import numpy as np
import pytest

from gandl.images import (
    ImageCollection,
    image_range,
    percentile_range,
    scale_intensity,
)

DTYPES = ["bool", "uint8", "uint16", "int16", "int64", "float16", "float32", "float64"]


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.gamma(1.0, 300.0, (7, 2, 9, 8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_percentile_range_is_that_of_all_pixels(images, dtype):
    images = images.astype(dtype)
    expected = [np.percentile(images[:, c].astype(float), [1, 99]) for c in range(2)]
    ranges = percentile_range(images, low=1, high=99)
    assert ranges.dtype == np.float64
    np.testing.assert_allclose(ranges, expected, rtol=1e-12)


def test_percentile_range_of_evenly_spaced_images():
    images = np.arange(101, dtype=np.float32).reshape(-1, 1, 1, 1)
    kept = [0, 25, 50, 75, 100]
    ranges = percentile_range(images, low=20, high=60, max_images=5)
    np.testing.assert_allclose(ranges, [np.percentile(kept, [20, 60])])
    assert percentile_range(images, low=0, high=100, max_images=1).tolist() == [[0, 0]]


def test_percentile_range_of_many_pixels(monkeypatch):
    # A gradient along x: a step in tune with the width would see one column.
    images = np.tile(np.arange(64.0), (2, 1, 64, 1))
    monkeypatch.setattr("gandl.images._intensity._MAX_PIXELS", 128)
    ranges = percentile_range(images, low=5, high=95)
    np.testing.assert_allclose(ranges, [[3.15, 59.85]], atol=2)


def test_percentile_range_takes_collection_memmap_and_list(images, tmp_path):
    expected = percentile_range(images)
    path = tmp_path / "images.npy"
    np.save(path, images)
    X = ImageCollection.from_array(images)
    for other in (X, np.load(path, mmap_mode="r"), images.tolist()):
        np.testing.assert_array_equal(percentile_range(other), expected)


def test_image_range_is_that_of_each_image(images):
    expected = [
        [np.percentile(channel, [2, 98]) for channel in image] for image in images
    ]
    np.testing.assert_allclose(image_range(images, 2, 98), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("each", [False, True])
def test_scale_intensity_against_a_naive_loop(images, dtype, each):
    images = images.astype(dtype)
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 100, (7, 2) if each else (2,))
    ranges = np.stack([low, low + rng.uniform(0.5, 500, low.shape)], axis=-1)
    scaled = scale_intensity(images, ranges)
    assert scaled.dtype == np.float32
    for (i, c, y, x), value in np.ndenumerate(images):
        a, b = ranges[i, c] if each else ranges[c]
        expected = 2 * (float(value) - a) / (b - a) - 1
        assert scaled[i, c, y, x] == pytest.approx(min(max(expected, -1), 1), abs=1e-6)


def test_scale_intensity_is_exact_for_large_offsets():
    images = np.array([1e9, 1e9 + 5, 1e9 + 10]).reshape(1, 1, 1, 3)
    scaled = scale_intensity(images, [[1e9, 1e9 + 10]])
    assert scaled.ravel().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("high", [5.0, 4.0, 5.0 + 1e-300])
def test_constant_channel_is_never_nan(high):
    images = np.full((2, 1, 3, 3), 5, dtype=np.uint16)
    assert (scale_intensity(images, [[5.0, high]]) == -1).all()
    images[:] = 9
    assert (scale_intensity(images, [[5.0, high]]) == -1).all()


def test_tiny_range_is_never_nan():
    images = np.array([0, 1], dtype=np.uint8).reshape(1, 1, 1, 2)
    assert scale_intensity(images, [[0.0, 5e-324]]).ravel().tolist() == [-1, 1]


def test_row_depends_on_row_alone(images):
    ranges = image_range(images)
    whole = scale_intensity(images, ranges)
    for i in range(len(images)):
        one = scale_intensity(images[i : i + 1], ranges[i : i + 1])
        np.testing.assert_array_equal(one[0], whole[i])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_non_finite_values_name_the_row(images, value, dtype):
    images = (images / 100).astype(dtype)
    images[3, 1, 2, 2] = value
    found = "NaN" if np.isnan(value) else "infinity"
    message = f"Input X contains {found}: image 3, channel 1"
    with pytest.raises(ValueError, match=message):
        percentile_range(images)
    with pytest.raises(ValueError, match=message):
        image_range(images)
    with pytest.raises(ValueError, match=message):
        scale_intensity(images, [[0, 1], [0, 1]])
    with pytest.raises(ValueError, match=f"contains {found}: image 33"):
        scale_intensity(images, [[0, 1], [0, 1]], rows=range(30, 37))


@pytest.mark.parametrize(("low", "high"), [(-1, 50), (50, 50), (60, 50), (0, 101)])
def test_invalid_percentiles(images, low, high):
    with pytest.raises(ValueError, match=rf"low={low} and high={high}"):
        percentile_range(images, low=low, high=high)
    with pytest.raises(ValueError, match=rf"low={low} and high={high}"):
        image_range(images, low, high)


def test_invalid_ranges(images):
    with pytest.raises(ValueError, match=r"\(2, 2\) or \(7, 2, 2\)"):
        scale_intensity(images, np.zeros((3, 2)))
    for bad in ([0, np.nan], [0, np.inf], [-1.7e308, 1.7e308]):
        with pytest.raises(ValueError, match="finite"):
            scale_intensity(images, [[0, 1], bad])


def test_invalid_images():
    with pytest.raises(ValueError, match=r"\(n, C, H, W\).*\(4, 5\)"):
        percentile_range(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="complex128"):
        scale_intensity(np.zeros((1, 1, 4, 5), complex), [[0, 1]])
    with pytest.raises(ValueError, match="No images"):
        percentile_range(np.zeros((0, 1, 4, 5)))
    with pytest.raises(ValueError, match="max_images"):
        percentile_range(np.zeros((2, 1, 4, 5)), max_images=0)
