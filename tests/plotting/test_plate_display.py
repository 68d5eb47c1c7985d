"""Each value lies where its well is."""

import numpy as np
import pandas as pd
import pytest

from gandl.plotting import PlateDisplay


@pytest.mark.parametrize(
    ("well", "shape", "position"),
    [
        ("H12", (8, 12), (7, 11)),
        ("i1", (16, 24), (8, 0)),
        ("A13", (16, 24), (0, 12)),
        ("AF48", (32, 48), (31, 47)),
    ],
)
def test_formats(well, shape, position):
    display = PlateDisplay.from_predictions([1.0, 2.0], ["A01", well])
    (plate,) = display.values.values()
    assert plate.shape == shape
    assert plate[0, 0] == 1
    assert plate[position] == 2
    assert np.isnan(plate).sum() == plate.size - 2
    shown = display.axes_[0].get_images()[0].get_array()
    np.testing.assert_array_equal(shown.filled(np.nan), plate)


def test_plates_share_a_scale_and_sites_are_averaged():
    display = PlateDisplay.from_predictions(
        [0.0, 2.0, 5.0, -3.0],
        ["A1", "A01", "B2", "B2"],
        plate=[2, 2, 2, 1],
        label="on-perturbation",
    )
    assert list(display.values) == ["1", "2"]
    assert display.values["2"][0, 0] == 1
    assert [ax.get_title() for ax in display.axes_] == ["1", "2"]
    limits = {ax.get_images()[0].get_clim() for ax in display.axes_}
    assert limits == {(-3.0, 5.0)}
    assert display.figure_.axes[-1].get_ylabel() == "on-perturbation"


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_any_number_of_plates(n):
    plates = [f"P{k}" for k in range(n)]
    display = PlateDisplay.from_predictions(range(n), ["A1"] * n, plate=plates)
    assert len(display.axes_) == n
    assert len(display.figure_.axes) == n + 1


def test_rows_of_all_formats_are_named():
    ax = PlateDisplay.from_predictions([1.0], ["AF1"]).axes_[0]
    assert [label.get_text() for label in ax.get_yticklabels()][-2:] == ["Y", "AC"]
    ax = PlateDisplay.from_predictions([1.0], ["A1"]).axes_[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == list("ABCDEFGH")


def test_a_plate_without_any_value():
    display = PlateDisplay.from_predictions([np.nan], ["A1"])
    display.figure_.canvas.draw()


def test_errors():
    with pytest.raises(ValueError, match="'A99' is no well"):
        PlateDisplay.from_predictions([1.0], ["A99"])
    with pytest.raises(ValueError, match="no well to draw"):
        PlateDisplay.from_predictions([], [])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        PlateDisplay.from_predictions([1.0, 2.0], ["A1"])
    wells = pd.Series(["A1", "A2"])
    with pytest.raises(ValueError, match="well has the rows of values in another"):
        PlateDisplay.from_predictions(pd.Series([1.0, 2.0], [1, 0]), wells)


def test_what_is_infinite_is_at_an_end_of_the_scale():
    values = [1.0, 2.0, np.inf, -np.inf, np.nan]
    display = PlateDisplay.from_predictions(values, ["A1", "A2", "A3", "A4", "A5"])
    image = display.axes_[0].get_images()[0]
    assert image.get_clim() == (1.0, 2.0)
    assert image.get_array()[0, :4].tolist() == [1.0, 2.0, 2.0, 1.0]
    assert image.get_array().mask[0, 4]


def test_plates_are_in_order_of_their_numbers():
    plates = list(range(12, 0, -1))
    display = PlateDisplay.from_predictions([1.0] * 12, ["A1"] * 12, plate=plates)
    assert [ax.get_title() for ax in display.axes_] == [str(k) for k in range(1, 13)]


def test_a_row_without_a_plate_is_named():
    with pytest.raises(ValueError, match="Row 1 has no plate"):
        PlateDisplay.from_predictions([1.0, 2.0], ["A01", "A02"], plate=["P1", None])
