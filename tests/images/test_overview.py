"""What a notebook shows of a collection."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from gandl.images import ImageCollection


def pictures(html):
    data = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d in data]


def test_counts_and_thumbnails():
    images = np.zeros((5, 2, 200, 120), np.uint16)
    images[0, 1, :100] = 1000
    metadata = {"plate": ["P1", "P1", "P1", "<b>", "<b>"], "well": list("AABCC")}
    X = ImageCollection.from_array(images, channels=["DNA", "a&b"], metadata=metadata)
    html = X._repr_html_()
    for text in (
        "5 images, 2 channels (DNA, a&amp;b), 200 x 120 pixels, uint16, 469 KiB",
        "<tr><th>plate</th><th>images</th><th>wells</th></tr>",
        "<tr><td>P1</td><td>3</td><td>2</td></tr>",
        "<tr><td>&lt;b&gt;</td><td>2</td><td>1</td></tr>",
        "Image 0: plate P1, well A",
        "Image 2: plate P1, well B",
    ):
        assert text in html
    shown = pictures(html)
    assert len(shown) == 4
    assert shown[1].shape == (66, 40)
    assert (shown[1][:33] == 255).all()
    assert not shown[1][34:].any()
    assert not shown[0].any()
    assert "<b>" not in html.replace("<b>ImageCollection</b>", "")


def test_it_stays_small_and_reads_little(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 65536, (30, 12, 90, 90)).astype(np.uint16)
    X = ImageCollection.from_array(
        images, metadata={"plate": [f"P{k}" for k in range(30)]}
    )
    read = []
    monkeypatch.setattr(
        type(X), "load_batch", lambda X, places: read.extend(places) or images[places]
    )
    html = X._repr_html_()
    assert read == [0]
    assert len(pictures(html)) == 8
    assert len(html) < 60_000
    assert "and 20 more plates" in html


def test_images_that_cannot_be_read(tmp_path):
    for name in ("a.tif", "<b>.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((8, 8), "uint16"))
    table = pd.DataFrame({"path": ["a.tif", "<b>.tif"]})
    X = ImageCollection.from_table(table, root=tmp_path)
    (tmp_path / "<b>.tif").unlink()
    html = X._repr_html_()
    assert len(pictures(html)) == 1
    assert "No such image file" in html
    assert "&lt;b&gt;.tif" in html
    assert "<b>.tif" not in html


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 1, 8, 8)),
        np.full((1, 1, 1, 300), np.nan),
        np.array([[[[np.inf, -np.inf], [1.0, 1e300]]]]),
        np.ones((2, 1, 8, 8), bool),
        np.zeros((3, 1, 81, 7), "uint8"),
    ],
)
def test_anything_has_an_overview(images):
    html = ImageCollection.from_array(images)._repr_html_()
    assert f"{len(images)} image" in html
    assert "</div>" in html


def test_what_is_left_out_is_told(tmp_path):
    for name in ("a", "b", "c"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((8, 8), "uint16"))
    (tmp_path / "b.tif").write_bytes(b"")
    X = ImageCollection.from_folder(tmp_path, "{well}.tif", on_error="skip")
    assert "1 left out" in X._repr_html_()
