"""Tiles, crops and batches."""

import itertools
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from gandl._batches import (
    _crops_at,
    _random_corners,
    pad_to,
    read_ahead,
    reading_order,
    regrouped,
    shuffled_rows,
    tile_starts,
    tiles,
    training_batches,
)
from gandl.images import ImageCollection, scale_intensity


@pytest.mark.parametrize("size", [32, 64])
def test_tiles_lie_inside_and_leave_out_little(size):
    for extent in range(size, 10 * size):
        starts = tile_starts(extent, size)
        assert starts[0] >= 0
        assert starts[-1] + size <= extent
        assert starts[0] <= size / 8
        assert extent - (starts[-1] + size) <= size / 8 + 1
        assert (np.diff(starts) <= size).all()  # no gap


@pytest.mark.parametrize(("extent", "n_tiles"), [(64, 1), (80, 1), (81, 2), (1024, 16)])
def test_number_of_tiles(extent, n_tiles):
    assert len(tile_starts(extent, 64)) == n_tiles


def test_tiles_equal_naive_crops():
    image = np.arange(2 * 96 * 64).reshape(2, 96, 64)
    cut = tiles(image, 32)
    expected = [image[:, y : y + 32, x : x + 32] for y in (0, 32, 64) for x in (0, 32)]
    assert np.array_equal(cut, expected)


def test_small_images_are_surrounded_by_darkness():
    padded = pad_to(np.ones((1, 2, 3, 8), dtype="float32"), 8)
    assert padded.shape == (1, 2, 8, 8)
    assert padded.sum() == 2 * (3 * 8 - 5 * 8)
    assert (padded[0, 0, 2:5] == 1).all()


def test_crops_are_parts_of_their_image_at_all_places():
    image = np.arange(36.0).reshape(1, 1, 6, 6)
    corners = _random_corners(500, (6, 6), 4, np.random.default_rng(0))
    crops = _crops_at(corners, image.repeat(500, axis=0), 4)
    corners = {int(crop[0, 0, 0]) for crop in crops}
    assert corners == {y * 6 + x for y in range(3) for x in range(3)}
    for crop in crops:
        y, x = divmod(int(crop[0, 0, 0]), 6)
        assert np.array_equal(crop, image[0, :, y : y + 4, x : x + 4])


def test_each_row_once_in_every_pass():
    rows = np.concatenate(list(itertools.islice(shuffled_rows(10, 4, [0]), 5)))
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])


def test_a_batch_depends_on_its_number_alone():
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 40, 40), dtype="uint8")

    def taken(first, n):
        batches = training_batches(
            ImageCollection.from_array(images),
            np.array([[0.0, 255.0]]),
            size=32,
            batch_size=4,
            seed=[3],
            first=first,
        )
        with closing(batches):
            return list(itertools.islice(batches, n))

    assert np.array_equal(taken(0, 9)[6:], taken(6, 3))


@pytest.mark.parametrize("read_bytes", [2**25, 2 * 40 * 40])
def test_a_share_of_a_batch_is_read_alone_and_cropped_the_same(monkeypatch, read_bytes):
    monkeypatch.setattr("gandl._batches._READ_BYTES", read_bytes)
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 40, 40), dtype="uint8")
    collection = ImageCollection.from_array(images)
    read = []
    load = ImageCollection.load_batch

    def counted(self, rows, **options):
        read.extend(rows)
        return load(self, rows, **options)

    monkeypatch.setattr(ImageCollection, "load_batch", counted)

    def first_batch(**options):
        read.clear()
        batches = training_batches(
            collection,
            np.array([[0.0, 255.0]]),
            size=32,
            batch_size=8,
            seed=[3],
            **options,
        )
        with closing(batches):
            return next(batches), list(read[: len(options.get("share", range(8)))])

    whole, rows = first_batch()
    for share in (np.array([0, 1, 4, 5]), np.array([2, 3, 6, 7])):
        part, of_part = first_batch(share=share)
        assert np.array_equal(part, whole[share])
        assert of_part == [rows[k] for k in share]


def test_reading_ahead_keeps_order_and_passes_errors_on():
    assert list(read_ahead(lambda k: k * k, range(5))) == [0, 1, 4, 9, 16]
    results = read_ahead(lambda k: 1 / k, [1, 2, 0, 3])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_training_batches_are_scaled_crops():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 40, 50), dtype="uint8")
    batches = training_batches(
        ImageCollection.from_array(images),
        np.array([[0.0, 255.0], [0.0, 510.0]]),
        size=32,
        batch_size=4,
        seed=[0],
    )
    batch = next(batches)
    batches.close()
    assert batch.shape == (4, 2, 32, 32)
    assert batch.dtype == np.float32
    assert batch[:, 0].max() > 0.9
    assert -1 <= batch[:, 1].min() <= batch[:, 1].max() <= 0


def test_order_and_crops_do_not_depend_on_the_speed_of_reading(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 40, 40), dtype="uint8")
    ranges = np.array([[0.0, 255.0]])

    def first_batches(delay):
        def slow(*args, **options):
            time.sleep(delay)
            return scale_intensity(*args, **options)

        monkeypatch.setattr("gandl._batches.scale_intensity", slow)
        batches = training_batches(
            ImageCollection.from_array(images),
            ranges,
            size=32,
            batch_size=5,
            seed=[0],
        )
        taken = list(itertools.islice(batches, 8))
        batches.close()
        return taken

    assert np.array_equal(first_batches(0), first_batches(0.02))


def test_several_threads_read_ahead_and_memory_stays_bounded():
    together = threading.Barrier(3)  # breaks unless three load at the same time
    begun = []

    def load(k):
        begun.append(k)
        together.wait(timeout=20)
        return k

    results = read_ahead(load, range(9), n_threads=3, n_ahead=4)
    assert next(results) == 0
    time.sleep(0.05)
    assert max(begun) <= 5
    assert list(results) == list(range(1, 9))


def test_what_was_not_read_yet_is_not_read_when_closed():
    begun = []

    def load(k):
        begun.append(k)
        time.sleep(0.02)

    results = read_ahead(load, range(50), n_ahead=20)
    next(results)
    results.close()
    assert len(begun) < 10


@pytest.mark.parametrize("n", [1, 3, 4, 20])
def test_regrouping_keeps_order_and_leaves_nothing_out(n):
    parts = [np.arange(k, k + 4) for k in (0, 4, 8)]
    groups = list(regrouped(parts, n))
    assert np.array_equal(np.concatenate(groups), np.arange(12))
    assert [len(group) for group in groups[:-1]] == [n] * (len(groups) - 1)


def test_tiles_of_an_image_are_read_together():
    X = ImageCollection.from_array(np.zeros((5, 1, 64, 64), "uint8"))
    assert [len(rows) for rows in reading_order(X, 2, 8)] == [2, 2, 1]
    assert [len(rows) for rows in reading_order(X.tile(16), 2, 8)] == [8] * 10
    assert [len(rows) for rows in reading_order(X.tile(16), 2, 99)] == [16] * 5


def some(images, ranges, n, size=32, batch_size=1):
    batches = training_batches(
        ImageCollection.from_array(images),
        ranges,
        size=size,
        batch_size=batch_size,
        seed=[3],
    )
    with closing(batches):
        return list(itertools.islice(batches, n))


def test_crops_of_an_image_differ_from_pass_to_pass():
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64), dtype="uint8")
    crops = some(images, np.array([[0.0, 255.0]]), 12)
    assert len({crop.tobytes() for crop in crops}) > 8


def test_an_image_s_own_range_is_that_of_all_of_it():
    images = np.tile(
        np.arange(64, dtype="uint8"), (1, 1, 64, 1)
    )  # brighter to the right
    for crop in some(images, None, 8):
        low, high = crop.min(), crop.max()
        assert high - low == pytest.approx(2 * 31 / 63, abs=1e-3)
