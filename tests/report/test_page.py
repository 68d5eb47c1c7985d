"""What the page shows: the numbers of the table, and the wells that it names."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from test_report import INERT, RESCUES, fitted, screen

from gandl import ImageCollection
from gandl.plotting import (
    DoseResponseDisplay,
    MontageDisplay,
    PerturbationDisplay,
    PlateDisplay,
)
from gandl.report import write_report
from gandl.report._by_dose import draw_by_dose
from gandl.report._html import number
from gandl.report._report import _Page
from gandl.scoring import DoseResponseRegressor


def page_of(X, wells, images=None):
    return _Page(fitted(X, wells), X, wells, images, "µM", None)


def shown(page):
    """The table on the page: its headings, and each row by name."""
    html = page.compounds(50)
    head = re.findall(r'<button type="button">([^<]*)<', html)
    rows = {}
    for row in re.findall(r"<tr data-call=.*?</tr>", html):
        cells = re.findall(r"<td[^>]*>(?:<a[^>]*>)?([^<]*)<", row)
        values = re.findall(r'data-value="([^"]*)"', row)
        rows[cells[0]] = (dict(zip(head, cells, strict=True)), values)
    return rows


def test_numbers_on_the_page_are_those_of_the_table():
    page = page_of(*screen())
    rows = shown(page)
    row = page.table.set_index("compound").loc[RESCUES]
    cells, values = rows["&lt;b&gt;rescue &amp; co&lt;/b&gt;"]
    expected = {
        "EC50": row["ec50"],
        "EC50 from": row["ec50_low"],
        "EC50 to": row["ec50_high"],
        "q": row["q_value"],
        "on, top dose": row["on"][-1],
        "off, top dose": row["off"][-1],
        "toxic from": row["toxic_from"],
        "wells": row["n_rows"],
    }
    assert values == ["" if np.isnan(v) else repr(float(v)) for v in expected.values()]
    for name in ("q", "on, top dose", "off, top dose", "wells"):
        assert cells[name] == number(expected[name])
    works = [
        d
        for d, c in zip(row["concentrations"], row["calls"], strict=True)
        if c == "hit"
    ]
    assert 0 < len(works) < len(row["calls"])
    assert cells["works at"] == ", ".join(map(number, works))


def test_a_curve_that_rises_has_no_ec50_on_the_page():
    X, wells = screen()
    mine = (wells["compound"] == INERT).to_numpy()
    X[mine, 0] += 12 / (1 + (0.5 / wells["concentration"][mine]) ** 2)
    page = page_of(X, wells)
    row = page.table.set_index("compound").loc[INERT]
    assert row["slope"] > 0
    assert row["q_value"] < 0.05
    assert shown(page)[INERT][1][:3] == [""] * 3


def test_typical_off_is_the_mean_of_control_scores():
    page = page_of(*screen())
    axis = page.scorer.perturbation_
    off = [axis.control_scores_[axis.control_kinds_ == k, 1].mean() for k in (0, 1)]
    assert (
        page.typical_off()
        == f"{number(off[0])} of mock ones and {number(off[1])} of infected ones"
    )


def spied(monkeypatch, display, name):
    seen = []
    original = getattr(display, name)
    monkeypatch.setattr(
        display, name, lambda *a, **k: seen.append((a, k)) or original(*a, **k)
    )
    return seen


def test_the_curve_that_is_drawn_is_that_of_the_table(monkeypatch):
    """Of the compound's own plates' controls, toxic doses left out."""
    X, wells = screen()
    hit = (wells["compound"] == RESCUES).to_numpy()
    X[hit & (wells["concentration"] == 3.0), 1] += 40  # toxic at the highest
    X[hit, 0] += np.where(wells["concentration"][hit] == 3.0, 12, 0)
    keep = ~(hit & (wells["plate"] == "P2").to_numpy())
    X, wells = X[keep], wells[keep].reset_index(drop=True)
    seen = spied(monkeypatch, DoseResponseDisplay, "from_estimator")
    page = page_of(X, wells)
    row = page.table.set_index("compound").loc[RESCUES]
    assert (row["call"], row["toxic_from"]) == ("hit", 3.0)
    page.hits(50)
    (((curve, dose, _), _),) = seen
    assert 10**curve.log_ec50_ == pytest.approx(row["ec50"], rel=1e-9)
    assert curve.bottom_ == pytest.approx(row["bottom"], rel=1e-9)
    assert (dose == 3.0).any()  # toxic doses are drawn all the same
    assert (dose == 0).sum() == 12  # infected wells of that plate alone


def test_montages_run_from_control_over_falling_doses_to_control(monkeypatch):
    """Each of the well of median on-perturbation on the compound's first plate."""
    X, wells = screen()
    pixels = np.broadcast_to(
        np.arange(len(X), dtype="uint16")[:, None, None, None], (len(X), 1, 16, 16)
    )
    images = ImageCollection.from_array(pixels.copy())
    seen = spied(monkeypatch, MontageDisplay, "from_images")
    page = page_of(X, wells, images)
    page.hits(50)
    (((tiles,), how),) = seen
    assert how["titles"] == ["mock", "3 µM", "1 µM", "0.3 µM", "0.1 µM", "infected"]
    on, p1 = page.scores[:, 0], wells["plate"] == "P1"
    for tile, title in zip(tiles, how["titles"], strict=True):
        mine = wells["kind"] == title
        if title not in ("mock", "infected"):
            mine = (wells["compound"] == RESCUES) & (
                wells["concentration"] == float(title.split()[0])
            )
        rows = np.flatnonzero(mine & p1)
        expected = rows[np.argsort(on[rows])][(len(rows) - 1) // 2]
        assert (tile == expected).all()


def test_points_of_wells_are_coloured_by_the_calls_of_the_table(monkeypatch):
    seen = spied(monkeypatch, PerturbationDisplay, "from_predictions")
    X, wells = screen()
    mine = (wells["compound"] == INERT) & (wells["concentration"] == 0.1)
    X[mine.to_numpy(), 0] -= 6  # one dose alone: no falling curve
    page = page_of(X, wells)
    row = page.table.set_index("compound").loc[INERT]
    assert row["call"] == "inactive"
    assert "hit" in row["calls"]
    page.scatter()
    (((_, controls), how),) = seen
    calls = pd.Series(how["calls"]).groupby(np.asarray(how["names"])).unique()
    assert set(calls[INERT]) == {"inactive"}
    assert set(calls[RESCUES]) == {"hit", "inactive"}
    assert controls["mock"][:, 0].mean() == pytest.approx(0, abs=0.3)
    assert controls["infected"][:, 0].mean() == pytest.approx(1, abs=0.3)


def test_colours_of_plates_reach_no_further_than_the_scores(monkeypatch):
    seen = spied(monkeypatch, PlateDisplay, "from_predictions")
    X, wells = screen()
    page = page_of(X, wells)
    page.plates()
    X[0, 0] = -1000
    page_of(X, wells).plates()
    (_, first), (_, second) = seen
    on = page.scores[:, 0]
    assert (first["vmin"], first["vmax"]) == pytest.approx((on.min(), on.max()))
    assert second["vmin"] == -1
    assert "as these" in second["label"]
    assert "as these" not in first["label"]


def test_zero_is_drawn_a_decade_to_the_left():
    page = page_of(*screen())
    table = page.table[:1].copy()
    table.at[table.index[0], "concentrations"] = [0.0, 0.3, 1.0, 3.0]
    ax = draw_by_dose(table, "µM").axes[0]
    np.testing.assert_allclose(ax.lines[2].get_xdata(), [0.03, 0.3, 1, 3])


def test_what_is_called_by_means_alone_is_counted():
    X, wells = screen()
    wells.loc[wells["compound"] == INERT, "concentration"] = 1.0
    # One dose and zero.
    assert "called by their means: 1." in page_of(X, wells).summary()
    assert "by their means" not in page_of(*screen()).summary()


def test_curves_that_fall_by_chance_have_no_ec50_on_the_page():
    """By q, as calls are, not by p."""
    page = page_of(*screen())
    row = page.table.index[page.table["compound"] == INERT][0]
    page.table.loc[
        row, ["p_value", "q_value", "slope", "ec50", "ec50_low", "ec50_high"]
    ] = [0.04, 0.06, -1.0, 1.0, 0.5, 2.0]
    assert shown(page)[INERT][1][:3] == [""] * 3


def test_too_few_controls_are_not_told_as_poor_ones():
    X, wells = screen()
    keep = ((wells["plate"] != "P2") | (wells["kind"] != "mock")).to_numpy().copy()
    keep[np.flatnonzero(~keep)[0]] = True  # one of P2, which tells no spread
    page = page_of(X[keep], wells[keep].reset_index(drop=True))
    words = page.summary()
    assert "Too few controls to say whether they separate in 1 of 2 plates." in words
    assert "do not separate" not in words
    assert page.quality().count("not known") == 1


def test_brightness_of_montages_is_that_of_nearly_all_pixels(monkeypatch):
    X, wells = screen()
    pixels = np.tile(np.arange(1024.0).reshape(32, 32), (len(X), 1, 1, 1))
    seen = spied(monkeypatch, MontageDisplay, "from_images")
    page_of(X, wells, ImageCollection.from_array(pixels)).hits(50)
    ((_, how),) = seen
    np.testing.assert_allclose(how["ranges"], [[0.005 * 1023, 0.998 * 1023]], atol=1)


def test_what_is_toxic_is_shaded_from_its_onset(monkeypatch):
    X, wells = screen()
    hit = (wells["compound"] == RESCUES).to_numpy()
    X[hit & (wells["concentration"] == 3.0), 1] += 40
    figures = []
    monkeypatch.setattr(
        "gandl.report._report.picture", lambda f, words: figures.append(f) or ""
    )
    page = page_of(X, wells)
    assert page.table.set_index("compound").loc[
        RESCUES, ["call", "toxic_from"]
    ].tolist() == ["hit", 3.0]
    page.hits(50)
    (shade,) = [p for p in figures[0].axes[0].patches if p.get_alpha() == 0.15]
    left, right = (
        shade.get_extents()
        .transformed(figures[0].axes[0].transData.inverted())
        .intervalx
    )
    assert 1.0 < left < 3.0 < right


def test_level_of_the_intervals_is_that_of_the_curve(tmp_path):
    X, wells = screen()
    keep = ~wells["compound"].isin([RESCUES]).to_numpy()
    scorer = clone(fitted(X, wells)).set_params(curve=DoseResponseRegressor(alpha=0.1))
    scorer.fit(X, wells["kind"], batch=wells["batch"])
    path = tmp_path / "page.html"
    write_report(path, scorer, X[keep], wells[keep].drop(columns=["plate", "well"]))
    assert "with its 90 % confidence interval" in path.read_text(encoding="utf-8")
