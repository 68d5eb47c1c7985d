import joblib
import numpy as np
import pandas as pd
import pytest
from _images import write_channels
from PIL import Image

from gandl.images import ImageCollection

N_IMAGES, N_CHANNELS, HEIGHT, WIDTH = 24, 3, 12, 10


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    shape = (N_IMAGES, N_CHANNELS, HEIGHT, WIDTH)
    return rng.integers(0, 60_000, shape).astype(np.uint16)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "plate": [f"105359780{i % 3}" for i in range(N_IMAGES)],
            "well": [f"A{i:02d}" for i in range(N_IMAGES)],
            "dose": np.linspace(0, 1, N_IMAGES),
            "path": [f"plate é {i % 3}/image {i}.tif" for i in range(N_IMAGES)],
        }
    )


@pytest.fixture
def folder(tmp_path, pixels, table):
    for image, path in zip(pixels, table["path"], strict=True):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_channels(tmp_path / path, image)
    return tmp_path


@pytest.fixture
def make(tmp_path):
    """Files of one pixel's value each, 0, 1, ..., in the order of their names."""

    def write(*names):
        for value, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in (".png", ".tif", ".tiff"):
                Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
            else:
                path.write_text("no image")
        return tmp_path

    return write


@pytest.fixture
def X(folder, table):
    return ImageCollection.from_table(table, root=folder, channels=["a", "b", "c"])


@pytest.fixture
def mapped(tmp_path, pixels):
    np.save(tmp_path / "pixels.npy", pixels)
    return np.load(tmp_path / "pixels.npy", mmap_mode="r")


@pytest.fixture
def same():
    return assert_same


def assert_same(X, Y):
    np.testing.assert_array_equal(np.asarray(X), np.asarray(Y))
    pd.testing.assert_frame_equal(X.metadata, Y.metadata)
    assert X.channels == Y.channels
    assert joblib.hash(X) == joblib.hash(Y)
