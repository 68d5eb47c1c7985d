"""Displays of several axes draw on those that they are given, one each."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gandl.plotting import MontageDisplay, PlateDisplay, TrainingDisplay


def montage(ax):
    images = np.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4)
    return MontageDisplay.from_images(images, ax=ax)


def plates(ax):
    return PlateDisplay.from_predictions(
        [1.0, 2.0, 3.0], ["A1", "B2", "C3"], plate=["p", "q", "r"], ax=ax
    )


def training(ax):
    names = ("n_images", "contrast", "generator", "r1")
    curve = {name: np.arange(3.0) for name in names}
    return TrainingDisplay(loss_curve=curve).plot(ax=ax)


@pytest.mark.parametrize("draw", [montage, plates, training])
def test_axes_of_ones_own(draw):
    figure, axes = plt.subplots(2, 2)
    display = draw(axes.ravel()[:3])
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes.ravel()[:3])
    for ax in display.axes_:
        assert ax.has_data()
    assert not axes[1, 1].has_data()
    # Nothing of the figure's own, which may hold other things.
    assert not figure.legends
    with pytest.raises(ValueError, match="ax has 4 axes, this draws on 3"):
        draw(axes)
