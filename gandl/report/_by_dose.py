"""On- and off-perturbation of many compounds by dose, one small plot each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gandl.plotting._style import (
    BLACK,
    BLUE,
    ORANGE,
    label_doses,
    new_grid,
    plain,
    shortened,
)

_COLUMNS = 5
_COLOURS = {"hit": BLUE, "toxic": ORANGE, "inactive": BLACK}


def draw_by_dose(table: pd.DataFrame, unit: str) -> Any:
    """Draw the means of a table of compounds, and what they are called by; a figure.

    Dotted lines are the thresholds of their replicates.
    """
    figure, axes = new_grid(
        None,
        len(table),
        _COLUMNS,
        figsize=(11, 0.6 + 1.9 * -(-len(table) // _COLUMNS)),
        sharey=True,
    )
    for ax, (_, row) in zip(axes, table.iterrows(), strict=True):
        dose = np.array(row["concentrations"])
        lowest = dose[dose > 0].min(initial=np.inf)
        if not np.isfinite(lowest):
            lowest = 1.0
        at = np.where(dose > 0, dose, lowest / 10)  # zero: a decade to the left
        for limits, colour in (("hit_below", BLUE), ("toxic_above", ORANGE)):
            ax.plot(*_across(at, np.array(row[limits])), color=colour, ls=":", lw=1)
        ax.plot(at, row["on"], "o-", color=BLUE, ms=3.5, lw=1, label="on")
        ax.plot(at, row["off"], "X-", color=ORANGE, ms=4, lw=1, label="off")
        ax.set_xscale("log")
        label_doses(ax, dose, at)
        ax.tick_params(labelsize="small")
        name = plain(shortened(row["compound"]))
        ax.set_title(
            f"{name}: {row['call']}", color=_COLOURS[row["call"]], fontsize="small"
        )
    axes[0].legend(fontsize="x-small", frameon=False)
    figure.supxlabel(f"concentration ({plain(unit)})", fontsize="small")
    figure.supylabel("on- and off-perturbation", fontsize="small")
    return figure


def _across(at: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line of limits by dose, that of a single dose half a decade to either side."""
    if len(at) > 1:
        return at, limits
    return at * [10**-0.5, 10**0.5], limits.repeat(2)
