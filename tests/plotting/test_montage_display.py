"""Images as they are: one scale for all, each stain its colour."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gandl import ImageCollection
from gandl.plotting import MontageDisplay


def shown(display):
    return [ax.get_images()[0].get_array() for ax in display.axes_]


def test_one_scale_for_all():
    images = np.zeros((3, 1, 4, 4), dtype=np.uint16)
    images[0], images[1] = 1000, 500
    display = MontageDisplay.from_images(images, ranges=[[0, 1000]])
    assert [image.max() for image in shown(display)] == [1.0, 0.5, 0.0]
    for image in shown(display):
        assert (image == image[..., :1]).all()  # one stain is grey


def test_plates_are_as_bright_as_their_ranges_say():
    images = np.zeros((4, 1, 4, 4), dtype=np.uint16)
    images[:2, :, :2], images[2:, :, :2] = 1000, 100
    X = ImageCollection.from_array(images, metadata=pd.DataFrame({"plate": [*"AABB"]}))
    X = X.with_intensity_range(by="plate")
    together, apart = shown(MontageDisplay.from_images(X[1:3]))
    np.testing.assert_allclose(together, apart, atol=1e-6)
    plt.close("all")


def test_colours_add_up():
    images = np.zeros((1, 3, 1, 4))
    for channel in range(3):
        images[0, channel, 0, channel] = 1
    images[0, :2, 0, 3] = 1
    (pixels,) = shown(MontageDisplay.from_images(images, ranges=[[0, 1]] * 3))
    cyan, magenta, yellow = [0, 1, 1], [1, 0, 1], [1, 1, 0]
    np.testing.assert_array_equal(pixels[0], [cyan, magenta, yellow, [1, 1, 1]])


def test_without_ranges_the_images_shown_set_the_scale():
    rng = np.random.default_rng(0)
    images = rng.normal(100, 10, size=(4, 2, 32, 32))
    display = MontageDisplay.from_images(images)
    expected = np.percentile(images[:, 1], [0.5, 99.8])
    np.testing.assert_allclose(display.ranges[1], expected)


def test_titles_channels_and_scale_bar():
    pixels = np.random.default_rng(0).integers(0, 99, size=(5, 2, 60, 100))
    images = ImageCollection.from_array(pixels, channels=["DNA", "actin"])
    display = MontageDisplay.from_images(
        images, titles=list("abcde"), pixel_size=0.65, n_columns=2
    )
    assert [ax.get_title() for ax in display.axes_] == list("abcde")
    legend = display.figure_.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["DNA", "actin"]
    (bar,) = display.axes_[-1].artists
    # At most a third of 65 um, a round number: 20 um are 30.8 pixels.
    assert bar.txt_label.get_text() == "20 µm"
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(20 / 0.65)
    assert not display.axes_[0].artists
    display.figure_.canvas.draw()


def test_channels_with_an_underscore_are_in_the_legend():
    pixels = np.random.default_rng(0).integers(0, 99, size=(2, 2, 6, 6))
    images = ImageCollection.from_array(pixels, channels=["_DNA", "_nolegend_"])
    display = MontageDisplay.from_images(images)
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert [text.strip() for text in texts] == ["_DNA", "_nolegend_"]


def test_a_constant_stain():
    display = MontageDisplay.from_images(np.full((2, 2, 4, 4), 7))
    assert all((image == 0).all() for image in shown(display))


def test_errors():
    pixels = np.zeros((2, 2, 4, 4))
    with pytest.raises(ValueError, match=r"not \(n, C, H, W\)"):
        MontageDisplay.from_images(pixels[:0])
    with pytest.raises(ValueError, match="7 stains and 6 colours"):
        MontageDisplay.from_images(np.zeros((1, 7, 4, 4)))
    with pytest.raises(ValueError, match="2 images, but 1 titles"):
        MontageDisplay.from_images(pixels, titles=["a"])
    with pytest.raises(ValueError, match="2 stains, but 1 channels"):
        MontageDisplay.from_images(pixels, channels=["a"])
    with pytest.raises(ValueError, match=r"ranges have shape \(1, 2\)"):
        MontageDisplay.from_images(pixels, ranges=[[0, 1]])
    assert not plt.get_fignums()


def test_titles_go_by_place_not_by_index():
    table = pd.DataFrame({"compound": ["a", "b", "c"], "score": [0.1, 0.3, 0.2]})
    order = table.sort_values("score", ascending=False)
    images = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    display = MontageDisplay.from_images(images, titles=order["compound"])
    assert [ax.get_title() for ax in display.axes_] == ["b", "c", "a"]


def test_a_pixel_that_is_no_number_is_named():
    images = np.zeros((2, 1, 4, 4))
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN: image 1, channel 0"):
        MontageDisplay.from_images(images)


def test_masks():
    masks = np.zeros((1, 1, 4, 4), dtype=bool)
    masks[..., :2] = True
    (pixels,) = shown(MontageDisplay.from_images(masks))
    assert (pixels[..., :2, :] == 1).all()
    assert (pixels[..., 2:, :] == 0).all()


def test_many_stains_together_are_no_white_blob():
    for n in range(2, 7):
        images = np.broadcast_to([[[[0, 1]]]], (1, n, 1, 2))
        display = MontageDisplay.from_images(images, ranges=[[0, 1]] * n)
        shown = display.axes_[0].images[0].get_array()
        assert not shown[0, 0].any()
        assert shown[0, 1].max() == 1
        if n > 3:  # two of them leave room for the others
            pair = MontageDisplay.from_images(
                images * (np.arange(n) < 2)[:, None, None], ranges=[[0, 1]] * n
            )
            assert pair.axes_[0].images[0].get_array()[0, 1].min() < 1
