"""The curve, its band and EC50 as fitted; every response, wherever it lies."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gandl.plotting import DoseResponseDisplay
from gandl.plotting._dose_response import within
from gandl.scoring import DoseResponseRegressor


def measured(ec50=0.1, zero=False):
    doses = [*([0.0] if zero else []), 0.01, 0.03, 0.1, 0.3, 1, 3]
    dose = np.repeat(doses, 3)
    noise = np.random.default_rng(0).normal(scale=0.05, size=len(dose))
    return dose[:, None], 1 / (1 + dose / ec50) + noise


def lines(display):
    return {line.get_label(): line for line in display.ax_.get_lines()}


def test_what_is_drawn():
    X, y = measured()
    fitted = DoseResponseRegressor().fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y, name="drug", unit="nM")
    drawn = lines(display)
    np.testing.assert_allclose(drawn["wells"].get_xydata(), np.c_[X, y])
    np.testing.assert_allclose(drawn["mean"].get_ydata(), y.reshape(6, 3).mean(axis=1))
    grid = drawn["curve"].get_xdata()
    np.testing.assert_allclose(
        drawn["curve"].get_ydata(), fitted.predict(grid[:, None])
    )
    assert grid[0] < 0.01
    assert grid[-1] > 3
    assert display.ax_.get_xlabel() == "concentration (nM)"
    assert display.ax_.get_title(loc="left") == "drug"
    assert display.figure_ is display.ax_.figure


def test_ec50_and_its_interval():
    X, y = measured()
    fitted = DoseResponseRegressor().fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    low, high = 10 ** np.array(fitted.confidence_intervals_["log_ec50"])
    middle = 10**fitted.log_ec50_
    text = display.ax_.texts[0].get_text()
    assert text == f"EC50 {middle:.2g} ({low:.2g} to {high:.2g}) µM"
    assert any(
        np.allclose(line.get_xdata(), middle) for line in display.ax_.get_lines()
    )


def test_band_is_the_interval_of_the_curve():
    X, y = measured()
    fitted = DoseResponseRegressor(alpha=0.1).fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    _, interval = fitted.predict(display.grid[:, None], return_interval=True)
    np.testing.assert_array_equal(display.band.T, interval)
    inside = (display.band[0] < display.curve) & (display.curve < display.band[1])
    assert inside.all()


def test_an_endless_band_is_drawn_to_its_end():
    X = np.repeat([[0.01], [0.03], [0.1], [0.3], [1], [3]], 3, axis=0)
    y = np.repeat([1, 1, 1, 1, 1, 0.5], 3) + 0.1 * np.tile([-1, 0, 1], 6)
    fitted = DoseResponseRegressor().fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    assert display.band[0, -1] == -np.inf
    (drawn,) = display.ax_.collections
    corners = drawn.get_paths()[0].vertices
    assert corners[:, 0].max() == pytest.approx(display.grid[-1])
    assert corners[:, 1].min() == pytest.approx(display.ax_.get_ylim()[0])


def test_an_inactive_compound_has_no_ec50_and_no_band():
    X, _ = measured()
    y = np.random.default_rng(1).normal(size=len(X))
    fitted = DoseResponseRegressor().fit(X, y)
    assert fitted.inactive_
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    assert display.band is None
    assert not display.ax_.texts
    assert lines(display)["mean of all"].get_linestyle() == "--"


def test_a_narrow_range_of_doses_is_labelled_by_its_ends():
    X = np.repeat([[3.0], [10.0], [20.0]], 2, axis=0)
    y = np.arange(6.0)
    ax = DoseResponseDisplay.from_estimator(DoseResponseRegressor().fit(X, y), X, y).ax_
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "20"]
    assert not len(ax.xaxis.get_minorticklocs())


def test_zero_concentration_is_drawn_left_of_all_others():
    X, y = measured(zero=True)
    fitted = DoseResponseRegressor().fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    x = lines(display)["wells"].get_xdata()
    assert len(x) == len(y)
    assert (x[:3] > 0).all()
    assert x[:3].max() < lines(display)["curve"].get_xdata().min()
    assert "0" in [text.get_text() for text in display.ax_.texts]
    display.figure_.canvas.draw()


def test_missing_responses_are_left_out():
    X, y = measured()
    y[4] = np.nan
    fitted = DoseResponseRegressor().fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y)
    assert len(lines(display)["wells"].get_xdata()) == len(y) - 1
    assert np.isfinite(lines(display)["mean"].get_ydata()).all()


def test_axes_of_ones_own_and_again():
    X, y = measured()
    fitted = DoseResponseRegressor().fit(X, y)
    figure, ax = plt.subplots()
    display = DoseResponseDisplay.from_estimator(fitted, X, y, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert display.plot() is display
    assert display.ax_ is not ax


def test_errors(monkeypatch):
    X, y = measured()
    fitted = DoseResponseRegressor().fit(X, y)
    with pytest.raises(ValueError, match="No concentration is above zero"):
        DoseResponseDisplay.from_estimator(fitted, 0 * X, y)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"gandl\[plot\]"):
        DoseResponseDisplay.from_estimator(fitted, X, y)


@pytest.mark.parametrize(("middle", "text"), [(30, "EC50 > 3 µM"), (0.002, "< 0.01")])
def test_an_ec50_outside_the_tested_doses_is_told_as_a_limit(middle, text):
    dose = np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 3)
    noise = np.random.default_rng(0).normal(scale=0.005, size=18)
    y = 1 / (1 + (dose / middle) ** 1) + noise
    curve = DoseResponseRegressor().fit(dose[:, None], y)
    assert curve.extrapolated_
    display = DoseResponseDisplay.from_estimator(curve, dose[:, None], y)
    assert any(text in t.get_text() for t in display.ax_.texts)


def test_a_table_is_held_against_the_one_that_was_fitted():
    names = ["hours", "dose"]
    X = pd.DataFrame(
        np.repeat([[1.0, 0.1], [2.0, 1.0], [3.0, 10.0]], 3, 0), columns=names
    )
    y = np.repeat([1.0, 0.5, 0.0], 3)
    fitted = DoseResponseRegressor(column=1).fit(X, y)
    display = DoseResponseDisplay.from_estimator(fitted, X, y[:, None])
    assert display.concentration.tolist() == X["dose"].tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        DoseResponseDisplay.from_estimator(fitted, X[names[::-1]], y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        DoseResponseDisplay.from_estimator(fitted, X, y[:4])


def test_concentrations_are_written_out():
    tested = np.array([0.125, 1e6])
    assert within(6789.0, tested) == "6800"
    assert within(0.456, tested) == "0.46"
    assert within(2e6, tested) == "> 1e+06"
    assert within(0.1, tested) == "< 0.125"
