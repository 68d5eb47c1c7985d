"""Images that tests write and read."""

import threading

import numpy as np
import tifffile


def write_channels(path, pixels):
    """Write an image (C, H, W)."""
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})


def stack(*shape):
    rng = np.random.default_rng(sum(shape))
    return rng.integers(1, 60_000, shape).astype(np.uint16)


def assert_read_by_threads(X):
    expected, wrong = np.asarray(X), []

    def read():
        for _ in range(10):
            if not np.array_equal(X.load_batch(range(len(X)), n_jobs=2), expected):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
