"""DoseResponseDisplay: a compound's responses and its curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from gandl._row_labels import check_order
from gandl.plotting._style import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    label_doses,
    new_axes,
    plain,
)
from gandl.scoring import DoseResponseRegressor


class DoseResponseDisplay:
    """Responses of one compound, their means by dose, curve, and EC50.

    Made by `from_estimator`.

    Parameters
    ----------
    concentration, response : array-like of shape (n,)
        What was measured. A concentration of zero is drawn left of all others.
    grid, curve : array-like of shape (m,)
        Concentrations above zero, rising, and the fitted curve there.
    band : array-like of shape (2, m), default=None
        Lower and upper end of the curve's confidence band.
    ec50 : tuple of 3 float, default=None
        Estimate, lower and upper end of its confidence interval; None: the compound
        is inactive.
    name : str, default=None
        The compound, for the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes drawn on.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    gandl.scoring.DoseResponseRegressor : Fits the curve.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.plotting import DoseResponseDisplay
    >>> from gandl.scoring import DoseResponseRegressor
    >>> concentration = np.repeat([0.01, 0.03, 0.1, 0.3, 1, 3], 3)[:, None]  # uM
    >>> noise = np.random.default_rng(0).normal(scale=0.05, size=18)
    >>> response = 1 / (1 + concentration[:, 0] / 0.1) + noise
    >>> fitted = DoseResponseRegressor().fit(concentration, response)
    >>> display = DoseResponseDisplay.from_estimator(fitted, concentration, response)
    >>> display.ax_.get_xscale()
    'log'
    """

    def __init__(
        self,
        *,
        concentration: Any,
        response: Any,
        grid: Any,
        curve: Any,
        band: Any = None,
        ec50: tuple[float, float, float] | None = None,
        name: str | None = None,
    ) -> None:
        self.concentration = concentration
        self.response = response
        self.grid = grid
        self.curve = curve
        self.band = band
        self.ec50 = ec50
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: DoseResponseRegressor,
        X: Any,
        y: Any,
        *,
        name: str | None = None,
        unit: str = "µM",
        ax: Any = None,
    ) -> DoseResponseDisplay:
        """Draw responses and the curve that was fitted to them.

        Parameters
        ----------
        estimator : DoseResponseRegressor
            Fitted.
        X : array-like of shape (n, n_columns)
            Concentrations, as in its ``fit``.
        y : array-like of shape (n,)
            Responses, missing ones NaN.
        name : str, default=None
            The compound, for the title.
        unit : str, default="µM"
            Of the concentrations.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        DoseResponseDisplay
            Drawn.

        Raises
        ------
        ValueError
            If no concentration is above zero, or X and y do not fit each other or the
            estimator.
        """
        check_is_fitted(estimator)
        check_order(X, y=y)
        X = validate_data(estimator, X, dtype=np.float64, reset=False)
        dose, response = estimator._concentrations(X), column_or_1d(y, dtype=np.float64)
        check_consistent_length(dose, response)
        tested = dose[dose > 0]
        if not len(tested):
            raise ValueError("No concentration is above zero: there is no curve.")
        grid = np.geomspace(tested.min() / 1.5, tested.max() * 1.5, 200)
        curve = estimator._response_at(np.log10(grid))
        band, ec50 = None, None
        if not estimator.inactive_:
            band = estimator._interval_at(np.log10(grid)).T
            ec50 = estimator._ec50_and_ends()
        display = cls(
            concentration=dose,
            response=response,
            grid=grid,
            curve=curve,
            band=band,
            ec50=ec50,
            name=name,
        )
        return display.plot(unit=unit, ax=ax)

    def plot(self, *, unit: str = "µM", ax: Any = None) -> DoseResponseDisplay:
        """Draw.

        Parameters
        ----------
        unit : str, default="µM"
            Of the concentrations.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        DoseResponseDisplay
            Itself.
        """
        self.figure_, self.ax_ = new_axes(ax, figsize=(4.5, 3.4))
        dose, response = np.asarray(self.concentration), np.asarray(self.response)
        known = ~np.isnan(response)
        dose, response = dose[known], response[known]
        grid = np.asarray(self.grid)
        # Zero has no place on a logarithmic axis: half a decade left of the curve.
        zero = grid[0] / 10**0.5
        at = np.where(dose > 0, dose, zero)
        ax = self.ax_
        ax.set_xscale("log")
        label_doses(ax, dose[dose > 0], dose[dose > 0])
        ax.plot(at, response, "o", color=GREY, ms=4, alpha=0.7, mew=0, label="wells")
        doses, position = np.unique(at, return_inverse=True)
        means = np.bincount(position, response) / np.bincount(position)
        ax.plot(doses, means, "_", color=BLACK, ms=12, mew=1.5, label="mean")
        seen = np.concatenate([response, self.curve])
        margin = 0.3 * (np.ptp(seen) or 1)
        ends = seen.min() - margin, seen.max() + margin
        ax.set_ylim(ends)
        if self.band is not None:
            band = np.clip(
                self.band, *ends
            )  # it may be endless, and is drawn all the same
            ax.fill_between(grid, *band, color=BLUE, alpha=0.2, lw=0)
        dashes, label = ("-", "curve") if self.ec50 else ("--", "mean of all")
        ax.plot(grid, self.curve, dashes, color=BLUE, label=label)
        if self.ec50:
            self._draw_ec50(unit, grid)
        if (dose == 0).any():
            ax.axvspan(zero / 10**0.2, zero * 10**0.2, color="0.93", lw=0, zorder=0)
            ax.text(zero, 0.02, "0", ha="center", transform=ax.get_xaxis_transform())
        ax.set(xlabel=f"concentration ({plain(unit)})", ylabel="response")
        pad = 20 if self.ec50 else None  # points, above the line of the EC50
        ax.set_title(plain(self.name or ""), loc="left", pad=pad)
        ax.legend(fontsize="small", frameon=False)
        return self

    def _draw_ec50(self, unit: str, grid: np.ndarray) -> None:
        assert self.ec50 is not None
        ax, (middle, low, high) = self.ax_, self.ec50
        if grid[0] <= middle <= grid[-1]:
            ax.axvline(middle, color=VERMILION, lw=1, ls=":")
        tested = np.asarray(self.concentration)
        tested = tested[tested > 0]
        value, *ends = (within(end, tested) for end in (middle, low, high))
        if tested.min() <= middle <= tested.max():
            value += f" ({ends[0]} to {ends[1]})"
        # Above the axes, where it hides no point.
        ax.text(
            0.99,
            1.01,
            f"EC50 {value} {plain(unit)}",
            color=VERMILION,
            ha="right",
            va="bottom",
            fontsize="small",
            transform=ax.transAxes,
        )


def within(concentration: float, tested: np.ndarray) -> str:
    """A concentration as text; outside the tested ones (above zero), their limit."""
    if concentration > tested.max():
        return f"> {tested.max():.6g}"
    if concentration < tested.min():
        return f"< {tested.min():.6g}"
    return np.format_float_positional(
        concentration, precision=2, fractional=False, trim="-"
    )
