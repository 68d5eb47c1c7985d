"""Every loss that was measured, in its panel."""

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
    assert labels == ["contrastive loss", "adversarial loss", "R1 penalty"]
    lines = {line.get_label(): line for ax in display.axes_ for line in ax.get_lines()}
    assert set(lines) == {"contrast", "discriminator", "generator", "r1"}
    curve = model.loss_curve_
    np.testing.assert_array_equal(
        lines["generator"].get_xydata(), np.c_[curve["n_images"], curve["generator"]]
    )
    assert not np.isnan(lines["r1"].get_ydata()).any()


def test_parts_that_were_left_out_have_no_panel():
    curve = {"n_images": np.array([1, 2]), "contrast": np.array([2.0, 1.0])}
    display = TrainingDisplay(loss_curve=curve).plot()
    assert [ax.get_ylabel() for ax in display.axes_] == ["contrastive loss"]


def test_nothing_was_trained():
    with pytest.raises(ValueError, match="nothing was trained"):
        TrainingDisplay(loss_curve={}).plot()


def test_a_loss_that_was_measured_once_is_a_dot():
    curve = {"n_images": np.array([1, 2]), "r1": np.array([np.nan, 1.0])}
    display = TrainingDisplay(loss_curve=curve).plot()
    (line,) = display.axes_[0].get_lines()
    assert line.get_marker() == "o"
