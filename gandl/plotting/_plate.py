"""PlateDisplay: one value a well, where the well is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length

from gandl._row_labels import check_order
from gandl._wells import FORMATS, row_letters, well_position
from gandl.plotting._style import new_grid, plain, sorted_categories


class PlateDisplay:
    """Heat maps of plates of 96, 384 or 1536 wells, one scale for all.

    Made by `from_predictions`.

    Parameters
    ----------
    values : dict of str to ndarray of shape (n_rows, n_columns)
        The value of each well, NaN where there is none, by plate.
    label : str, default=None
        What the values are, for the colour bar.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One a plate.
    figure_ : matplotlib Figure
        Their figure.

    See Also
    --------
    gandl.scoring.PerturbationScorer : Scores whose plate effects are worth a look.

    Examples
    --------
    >>> from gandl.plotting import PlateDisplay
    >>> display = PlateDisplay.from_predictions([0.1, 0.9], ["A01", "H12"])
    >>> [plate.shape for plate in display.values.values()]
    [(8, 12)]
    """

    def __init__(
        self, *, values: dict[str, np.ndarray], label: str | None = None
    ) -> None:
        self.values = values
        self.label = label

    @classmethod
    def from_predictions(
        cls,
        values: Any,
        well: Any,
        *,
        plate: Any = None,
        label: str | None = None,
        cmap: str = "viridis",
        vmin: float | None = None,
        vmax: float | None = None,
        ax: Any = None,
    ) -> PlateDisplay:
        """Draw values of wells; the mean where a well has several.

        Parameters
        ----------
        values : array-like of shape (n,)
            A value of each row: a score, a count, an intensity.
        well : array-like of shape (n,)
            The well of each row: "A1" or "A01", rows to "AF", columns to 48.
        plate : array-like of shape (n,), default=None
            The plate of each row; None: all are of one.
        label : str, default=None
            What the values are, for the colour bar.
        cmap : str, default="viridis"
            A colour map of matplotlib's.
        vmin, vmax : float, default=None
            Ends of the scale; None: those of the values.
        ax : array-like of n_plates matplotlib Axes, default=None
            Where to draw, one a plate, by name; None: a new figure.

        Returns
        -------
        PlateDisplay
            Drawn. All plates have the smallest format that holds all wells.

        Raises
        ------
        ValueError
            If there is no row, a name is no well, a row has no plate, or there are
            more or fewer axes than plates.
        """
        plate = np.full(len(well), "") if plate is None else plate
        check_consistent_length(values, well, plate)
        check_order(values, of="values", well=well, plate=plate)
        if not len(well):
            raise ValueError("There is no well to draw.")
        without = np.flatnonzero(pd.isna(np.asarray(plate, dtype=object)))
        if len(without):
            raise ValueError(f"Row {without[0]} has no plate.")
        positions = np.array([well_position(name) for name in well])
        highest = positions.max(axis=0)
        shape = next(shape for shape in FORMATS if (highest < shape).all())
        table = pd.DataFrame(positions, columns=["row", "column"])
        table["plate"] = np.asarray(plate).astype(str)
        table["value"] = np.asarray(values, dtype=np.float64)
        maps = {}
        plates = table.groupby("plate")
        for name in sorted_categories(table["plate"].to_numpy()):
            means = plates.get_group(name).groupby(["row", "column"])["value"].mean()
            maps[name] = np.full(shape, np.nan)
            maps[name][tuple(zip(*means.index, strict=True))] = means
        return cls(values=maps, label=label).plot(
            cmap=cmap, vmin=vmin, vmax=vmax, ax=ax
        )

    def plot(
        self,
        *,
        cmap: str = "viridis",
        vmin: float | None = None,
        vmax: float | None = None,
        ax: Any = None,
    ) -> PlateDisplay:
        """Draw.

        Parameters
        ----------
        cmap : str, default="viridis"
            A colour map of matplotlib's.
        vmin, vmax : float, default=None
            Ends of the scale; None: those of the values.
        ax : array-like of n_plates matplotlib Axes, default=None
            Where to draw, one a plate, by name; None: a new figure.

        Returns
        -------
        PlateDisplay
            Itself.
        """
        n_columns = min(3, math.ceil(math.sqrt(len(self.values))))
        n_rows = math.ceil(len(self.values) / n_columns)
        figsize = (4.2 * n_columns + 1.2, 3.0 * n_rows)
        self.figure_, self.axes_ = new_grid(
            ax, len(self.values), n_columns, figsize=figsize
        )
        known = [plate[np.isfinite(plate)] for plate in self.values.values()]
        pooled = np.concatenate(known)
        if len(pooled):
            vmin = pooled.min() if vmin is None else vmin
            vmax = pooled.max() if vmax is None else vmax
        for at, (name, plate) in zip(self.axes_, self.values.items(), strict=True):
            at.set_facecolor("0.92")  # wells without a value
            # What is infinite is drawn at an end of the scale.
            ends = np.clip(plate, vmin, vmax) if len(pooled) else plate
            shown = at.imshow(ends, cmap=cmap, vmin=vmin, vmax=vmax)
            # Every row and column is named where names have room.
            step = max(1, plate.shape[1] // 12)
            columns = np.arange(0, plate.shape[1], step)
            rows = np.arange(0, plate.shape[0], step)
            at.set_xticks(columns, [str(c + 1) for c in columns])
            at.set_yticks(rows, [row_letters(r) for r in rows])
            at.tick_params(length=0, labelsize="small", top=True, bottom=False)
            at.tick_params(labeltop=True, labelbottom=False)
            at.set_title(**_title(name))
        self.figure_.colorbar(shown, ax=list(self.axes_), label=self.label, shrink=0.8)
        return self


def _title(name: str) -> dict[str, Any]:
    """A plate's name in the room there is: small, and then its end, which differs."""
    size = min(12.0, max(7.0, 12 * 36 / max(1, len(name))))
    return {
        "label": plain(name if len(name) <= 60 else f"…{name[-59:]}"),
        "fontsize": size,
    }
