"""Images on the way from files to the network."""

import multiprocessing
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

import gandl._batches
import gandl._embedding
import gandl.images._sources
from gandl._batches import n_readers, tile_starts
from gandl._embedding import at_once, embed
from gandl.images import ImageCollection

SIZE = 32


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 60_000, (9, 2, 96, 64)).astype("uint16")


@pytest.fixture
def X(tmp_path, pixels):
    for k, image in enumerate(pixels):
        for c, channel in enumerate(image):
            tifffile.imwrite(tmp_path / f"{k}_{c}.tif", channel, compression="zlib")
    return ImageCollection.from_folder(tmp_path, "{site}_{channel}.tif")


@pytest.fixture
def read(monkeypatch):
    """How often each file is read."""
    counts = Counter()

    def counting(path, *args):
        counts[path] += 1
        return original(path, *args)

    original = gandl.images._sources.read_planes
    monkeypatch.setattr(gandl.images._sources, "read_planes", counting)
    return counts


def embedded(images):
    network = SimpleNamespace(embed=lambda x, _: x.flatten(2).std(dim=2))
    ranges = np.array([[0.0, 60_000.0]] * 2)
    how = {"features": "", "size": SIZE, "device": "cpu"}
    return embed(network, images, ranges, **how)


@pytest.mark.parametrize("images_at_once", [1, 2, 4, 100])
@pytest.mark.parametrize("cut", [False, True])
def test_each_file_is_read_once(X, pixels, read, monkeypatch, images_at_once, cut):
    image_bytes = 4 * pixels[0].size
    monkeypatch.setattr(gandl._embedding, "_CHUNK_BYTES", images_at_once * image_bytes)
    # Four tiles, which is no whole number of images.
    monkeypatch.setattr(gandl._embedding, "_PIECE_BYTES", image_bytes * 4 // 6)
    monkeypatch.setattr(gandl._embedding, "_AHEAD_BYTES", 3 * image_bytes)
    images, expected = X, ImageCollection.from_array(pixels)
    if cut:
        images, expected = X.tile(SIZE), expected.tile(SIZE)
    embedding = embedded(images)
    assert len(read) == 18
    assert set(read.values()) == {1}
    assert np.array_equal(embedding, embedded(expected))
    if cut:
        means = embedding.reshape(9, 6, 2).mean(axis=1)
        np.testing.assert_allclose(means, embedded(X), rtol=1e-6)


@pytest.mark.parametrize("cut", [False, True])
def test_embedding_is_the_same_with_as_much_at_once_as_on_a_gpu(X, monkeypatch, cut):
    images = X.tile(SIZE) if cut else X
    expected = embedded(images)
    on_a_gpu = at_once(images, SIZE, "cuda")
    monkeypatch.setattr(gandl._embedding, "at_once", lambda *_: on_a_gpu)
    monkeypatch.setattr(gandl._batches, "READERS", (16, 16))
    assert np.array_equal(embedded(images), expected)


def test_as_many_threads_read_as_there_are_cores(X, monkeypatch):
    expected = {1: 4, 2: 4, 6: 6, 64: 16}
    for cores, n in expected.items():
        monkeypatch.setattr(gandl._batches, "cpu_count", lambda cores=cores: cores)
        assert n_readers(X) == n
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert n_readers(X) == 8
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "another")
    assert n_readers(X) == 4
    assert n_readers(ImageCollection.from_array(np.zeros((2, 1, 8, 8)))) == 1


@pytest.mark.parametrize("shape", [(3, 68, 68), (5, 1080, 1080), (1, 2160, 2560)])
@pytest.mark.parametrize("size", [32, 64])
def test_a_gpu_sees_more_at_once_and_little_of_it_is_filling(shape, size):
    images = ImageCollection.from_array(np.zeros((1, *shape), np.uint8))
    n_images, n_tiles = at_once(images, size, "cuda")
    on_the_cpu = at_once(images, size, "cpu")
    assert n_images * n_tiles >= 8 * np.prod(on_the_cpu)
    n_seen = n_images * np.prod([len(tile_starts(n, size)) for n in shape[1:]])
    assert -(-n_seen // n_tiles) * n_tiles <= 1.15 * n_seen


def test_a_file_that_cannot_be_read_is_named(X, tmp_path):
    (tmp_path / "6_1.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"6_1\.tif"):
        embedded(X)
