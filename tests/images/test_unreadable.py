"""Images that cannot be used are left out on demand, and listed."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import tifffile
from _images import write_channels

from gandl.images import ImageCollection


@pytest.fixture
def root(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 999, (6, 2, 8, 8), dtype="uint16")
    for k, image in enumerate(pixels):
        write_channels(tmp_path / f"A{k + 1:02}.tif", image)
    (tmp_path / "A01.tif").write_bytes(b"no image")
    cut = (tmp_path / "A03.tif").read_bytes()[:150]
    (tmp_path / "A03.tif").write_bytes(cut)
    write_channels(tmp_path / "A04.tif", pixels[0, :, :4])
    (tmp_path / "A05.tif").unlink()
    return tmp_path


WELLS = [f"A{k + 1:02}" for k in range(6)]


def test_listed_with_reasons_and_in_no_batch(root):
    table = pd.DataFrame({"well": WELLS, "path": [f"{well}.tif" for well in WELLS]})
    with pytest.raises(FileNotFoundError, match=r"A05\.tif"):
        ImageCollection.from_table(table, root=root)
    told = r"4 of 6 images are left out.*A01\.tif.*bring all images to one size first"
    with pytest.warns(UserWarning, match=told):
        X = ImageCollection.from_table(table, root=root, on_error="skip")
    assert X.metadata["well"].tolist() == ["A02", "A06"]
    assert np.asarray(X).shape == (2, 2, 8, 8)
    skipped = X.skipped
    assert list(skipped) == ["well", "path", "reason"]
    assert skipped["well"].tolist() == ["A01", "A03", "A04", "A05"]
    assert skipped["path"].map(os.path.basename).tolist() == [
        "A01.tif",
        "A03.tif",
        "A04.tif",
        "A05.tif",
    ]
    reasons = [
        "Cannot read",
        "truncated",
        "4 x 8 uint16, wh",
        "No such image",
    ]
    for reason, expected in zip(skipped["reason"], reasons, strict=True):
        assert expected in reason
    for view in (X[:1], X.with_channels(["channel_1"]), pickle.loads(pickle.dumps(X))):
        pd.testing.assert_frame_equal(view.skipped, skipped)


def test_an_image_that_lacks_a_channel(tmp_path):
    for name in ("A01_1", "A01_2", "A02_1", "A03_1", "A03_2"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((8, 8), "uint8"))
    tifffile.imwrite(tmp_path / "A03_2.tif", np.ones((8, 8), "uint16"))
    pattern = "{well}_{channel}.tif"
    with pytest.raises(FileNotFoundError, match=r"A02_2\.tif"):
        ImageCollection.from_folder(tmp_path, pattern)
    with pytest.warns(UserWarning, match="2 of 3 images are left out"):
        X = ImageCollection.from_folder(tmp_path, pattern, on_error="skip")
    assert X.metadata["well"].tolist() == ["A01"]
    assert "A02_2.tif" in X.skipped["reason"][0]
    assert "8 x 8 uint16, other channels of the image" in X.skipped["reason"][1]


def test_pixels_that_are_not_finite(tmp_path):
    for k in range(3):
        image = np.full((8, 8), np.nan if k == 1 else 1.0, "float32")
        tifffile.imwrite(tmp_path / f"{k}.tif", image)
    X = ImageCollection.from_folder(tmp_path, "{site}.tif", on_error="skip")
    assert X.metadata["site"].tolist() == ["0", "2"]
    assert X.skipped["reason"].tolist() == ["It holds NaN or infinity."]


def test_when_none_is_left_the_first_is_told(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of 1 images.*a\.tif"):
        ImageCollection.from_folder(tmp_path, "{site}.tif", on_error="skip")


def test_nothing_is_skipped_by_default(root):
    X = ImageCollection.from_array(np.zeros((2, 1, 8, 8)))
    assert X.skipped.empty
    with pytest.raises(ValueError, match='on_error is "raise" or "skip"'):
        ImageCollection.from_folder(root, "{well}.tif", on_error="ignore")
