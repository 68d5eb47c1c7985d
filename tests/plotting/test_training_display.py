"""Every loss that was measured, in its panel."""

import itertools

import numpy as np
import pytest

from gandl import GANDLFeaturizer
from gandl.plotting import TrainingDisplay


def test_losses_of_a_fit():
    images = np.random.default_rng(0).integers(0, 255, size=(32, 1, 32, 32))
    model = GANDLFeaturizer(
        max_kimg=0.128, batch_size=8, channel_max=8, latent_dim=8, random_state=0
    ).fit(images)
    display = TrainingDisplay.from_estimator(model)
    labels = [ax.get_ylabel() for ax in display.axes_]
    assert labels == ["contrast and its penalty", "adversarial loss", "R1 penalty"]
    lines = {line.get_label(): line for ax in display.axes_ for line in ax.get_lines()}
    assert set(lines) == {"contrast", "discriminator", "generator", "r1"}
    curve = model.loss_curve_
    np.testing.assert_array_equal(
        lines["contrast"].get_xydata(), np.c_[curve["n_images"], curve["contrast"]]
    )
    # The game is played now and then, and its penalty comes more seldom still.
    assert len(lines["generator"].get_xydata()) == 4
    assert not np.isnan(lines["generator"].get_ydata()).any()
    assert not np.isnan(lines["r1"].get_ydata()).any()


def test_parts_that_were_left_out_have_no_panel():
    curve = {"n_images": np.array([1, 2]), "contrast": np.array([2.0, 1.0])}
    display = TrainingDisplay(loss_curve=curve).plot()
    assert [ax.get_ylabel() for ax in display.axes_] == ["contrast and its penalty"]


@pytest.mark.parametrize(
    ("n", "label", "tick"),
    [(9_000_000, "images seen", "2,000,000"), (16e6, "millions of images seen", "2")],
)
def test_numbers_of_images_do_not_overlap(n, label, tick):
    curve = {"n_images": np.linspace(1, n, 5), "contrast": np.arange(5.0)}
    display = TrainingDisplay(loss_curve=curve).plot()
    display.figure_.draw_without_rendering()
    ax = display.axes_[-1]
    assert ax.get_xlabel() == label
    assert tick in [text.get_text() for text in ax.get_xticklabels()]
    low, high = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    boxes = [text.get_window_extent() for at, text in ticks if low <= at <= high]
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
    assert min(gaps) > 0


def test_nothing_was_trained():
    with pytest.raises(ValueError, match="nothing was trained"):
        TrainingDisplay(loss_curve={}).plot()


def test_a_loss_that_was_measured_once_is_a_dot():
    curve = {"n_images": np.array([1, 2]), "r1": np.array([np.nan, 1.0])}
    display = TrainingDisplay(loss_curve=curve).plot()
    (line,) = display.axes_[0].get_lines()
    assert line.get_marker() == "o"
