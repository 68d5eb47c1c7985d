"""Intervals of a curve's parameters and of its responses, by profile likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gandl.scoring._logistic import ByDose, best_plateaus, share_risen

MIDDLE, SLOPE = 2, 3  # among a curve's parameters


class Region(NamedTuple):
    """The curves that leave no more squares than allowed, by midpoint and slope."""

    data: ByDose
    allowed: float
    lower: np.ndarray
    upper: np.ndarray
    middles: np.ndarray
    slopes: np.ndarray

    def fits(self) -> np.ndarray:
        """With which midpoints (rows) and slopes (columns) there is such a curve."""
        middle, slope = np.meshgrid(self.middles, self.slopes, indexing="ij")
        squares = best_plateaus(self.data, middle, slope, self.lower, self.upper)[2]
        return squares <= max(self.allowed, squares.min())

    def responses(self, x: np.ndarray) -> np.ndarray:
        """The least and the largest of their responses (n, 2) at x.

        Given midpoint and slope, a curve is a straight line in its risen share, and
        the squares that it may have more than the best one are those of its response
        at x, divided by their variance.
        """
        data, (row, column) = self.data, np.nonzero(self.fits())
        middle, slope = self.middles[row, None], self.slopes[column, None]
        share = data.counts / data.counts.sum()
        risen = share_risen(data.x, middle, slope)
        away = risen - (risen @ share)[:, None]
        spread = np.maximum(away**2 @ data.counts, 1e-300)
        mean = data.means @ share
        rise = away @ (data.counts * (data.means - mean)) / spread
        left = (data.means - mean) ** 2 @ data.counts - rise**2 * spread
        more = np.maximum(self.allowed - left, 0)
        ends = np.empty((len(x), 2))
        for k, at in enumerate(x):
            there = share_risen(at, middle, slope)[:, 0] - risen @ share
            half = np.sqrt(more * (1 / data.counts.sum() + there**2 / spread))
            response = mean + rise * there
            ends[k] = (response - half).min(), (response + half).max()
        ends[ends[:, 0] < self.lower[0], 0] = -math.inf
        ends[ends[:, 1] > self.upper[0], 1] = math.inf
        return ends


def curves_that_fit(
    data: ByDose,
    best: np.ndarray,
    allowed: float,
    lower: np.ndarray,
    upper: np.ndarray,
) -> tuple[Region, tuple[float, float], tuple[float, float]]:
    """The region, and the intervals of midpoints and of slopes."""
    grids, intervals = [], []
    for k in (MIDDLE, SLOPE):
        profile = _Profile(data, k, float(best[k]), allowed, lower, upper)
        intervals.append(profile.interval())
        first, last = np.clip(intervals[-1], lower[k], upper[k])
        grids.append(np.union1d(_grid(k, first, last, 48), best[k]))
    middles, (low, high) = intervals
    return Region(data, allowed, lower, upper, *grids), middles, (max(low, 0.0), high)


def _grid(k: int, first: float, last: float, n: int) -> np.ndarray:
    return (np.geomspace if k == SLOPE else np.linspace)(first, last, n)


class _Profile(NamedTuple):
    """What the best curves of each midpoint, or of each slope, leave of squares."""

    data: ByDose
    k: int  # MIDDLE or SLOPE
    best: float
    allowed: float
    lower: np.ndarray
    upper: np.ndarray

    def interval(self) -> tuple[float, float]:
        """The first and the last whose best curve leaves no more than allowed."""
        values = _grid(self.k, self.lower[self.k], self.upper[self.k], 60)
        values = np.union1d(values, self.best)
        inside = np.flatnonzero(self.fits(values))
        first, last = inside[0], inside[-1]
        return (
            self._end(values[first], values[first - 1]) if first else -math.inf,
            self._end(values[last], values[last + 1])
            if last + 1 < len(values)
            else math.inf,
        )

    def _end(self, inside: float, beyond: float) -> float:
        for _ in range(12):
            if abs(beyond - inside) < 1e-3 * abs(inside - self.best):
                break
            between = np.linspace(inside, beyond, 17)
            last = np.flatnonzero(self.fits(between[1:-1])).max(initial=-1) + 1
            inside, beyond = between[last], between[last + 1]
        return float(inside)

    def fits(self, values: np.ndarray) -> np.ndarray:
        """With which of them (n,) some curve leaves no more squares than allowed.

        Of slopes, or of midpoints, closer and closer about the best, until all is
        decided.
        """
        if self.k == MIDDLE:
            least, most, n = (
                math.log(self.lower[SLOPE]),
                math.log(self.upper[SLOPE]),
                16,
            )
        else:
            least, most, n = self.lower[MIDDLE], self.upper[MIDDLE], 32
        others = np.tile(np.linspace(least, most, n), (len(values), 1))
        step = (most - least) / (n - 1)
        squares = np.full(len(values), math.inf)
        for _ in range(14):
            found = self._squares(values[:, None], others)
            best = np.take_along_axis(others, found.argmin(axis=1)[:, None], axis=1)
            # Between the best and its neighbours, a parabola falls by less than this.
            lowest = np.partition(found, 2, axis=1)
            squares = np.minimum(squares, lowest[:, 0])
            doubt = lowest[:, 2] - lowest[:, 0]
            unsure = (squares > self.allowed) & (squares - doubt <= self.allowed)
            if not unsure.any():
                break
            low, high = np.maximum(best - step, least), np.minimum(best + step, most)
            others = low + (high - low) * np.linspace(0, 1, 9)
            step /= 4
        return (squares <= self.allowed) | (values == self.best)

    def _squares(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        middle, slope = values, np.exp(others)
        if self.k == SLOPE:
            middle, slope = others, values
        return best_plateaus(self.data, middle, slope, self.lower, self.upper)[2]
