"""Intervals of a curve's parameters and of its responses, by profile likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gandl.scoring._logistic import ByDose, best_plateaus, curve_at, share_risen

MIDDLE, SLOPE = 2, 3  # among a curve's parameters


class Region(NamedTuple):
    """The curves that leave no more squares than allowed, by midpoint and slope."""

    data: ByDose
    best: np.ndarray
    allowed: float
    lower: np.ndarray
    upper: np.ndarray
    middles: np.ndarray  # (n,)
    first: np.ndarray  # (n,), of each midpoint the first slope that fits, and
    last: np.ndarray  # the last

    def responses(self, x: np.ndarray) -> np.ndarray:
        """The least and the largest of their responses (n, 2) at x.

        Given midpoint and slope, a curve is a straight line in its risen share, and
        the squares that it may have more than the best one are those of its response
        at x, divided by their variance.
        """
        data = self.data
        middle, slope = self._points()
        n = data.counts.sum()
        mean = data.means @ data.counts / n
        risen = share_risen(data.x, middle[:, None], slope[:, None])
        centre = risen @ data.counts / n
        away = risen - centre[:, None]
        spread = np.maximum(away**2 @ data.counts, 1e-300)
        rise = away @ (data.counts * (data.means - mean)) / spread
        squares = (data.means - mean) ** 2 @ data.counts - rise**2 * spread
        more = np.maximum(self.allowed - squares, 0)
        ends = np.empty((len(x), 2))
        for k, at in enumerate(x):
            there = share_risen(at, middle, slope) - centre
            half = np.sqrt(more * (1 / n + there**2 / spread))
            response = mean + rise * there
            ends[k] = (response - half).min(), (response + half).max()
        best = curve_at(self.best, x)[0]
        low, high = np.minimum(ends[:, 0], best), np.maximum(ends[:, 1], best)
        low[low < self.lower[0]] = -math.inf
        high[high > self.upper[0]] = math.inf
        return np.stack([low, high], axis=1)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """Midpoints and slopes (k,) of curves that fit: closer where they are few."""
        everywhere = np.geomspace(self.lower[SLOPE], self.upper[SLOPE], 24)
        slope = np.concatenate(
            [
                np.tile(everywhere, (len(self.middles), 1)),
                np.geomspace(self.first, self.last, 24, axis=1),
            ],
            axis=1,
        )
        middle = np.broadcast_to(self.middles[:, None], slope.shape)
        fits = self.fits(middle, slope)
        fits[:, [len(everywhere), -1]] = True  # the first and the last do
        return middle[fits], slope[fits]

    def fits(self, middle: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Whether there is such a curve of each midpoint and slope."""
        squares = best_plateaus(self.data, middle, slope, self.lower, self.upper)[2]
        return squares <= self.allowed

    def last_slopes(self, fitting: np.ndarray, bound: float) -> np.ndarray:
        """How far from one that fits towards a bound the slopes (n,) fit."""
        inside, beyond = np.log(fitting), np.full(len(fitting), math.log(bound))
        whole = self.fits(self.middles, np.exp(beyond))
        for _ in range(12):
            between = (inside + beyond) / 2
            fits = self.fits(self.middles, np.exp(between))
            inside = np.where(fits, between, inside)
            beyond = np.where(fits, beyond, between)
        return np.where(whole, bound, np.exp(inside))


def curves_that_fit(
    data: ByDose,
    best: np.ndarray,
    allowed: float,
    lower: np.ndarray,
    upper: np.ndarray,
) -> tuple[Region, tuple[float, float], tuple[float, float]]:
    """The region, and the intervals of midpoints and of slopes."""
    of_middles, of_slopes = (
        _Profile(data, k, float(best[k]), allowed, lower, upper)
        for k in (MIDDLE, SLOPE)
    )
    ends = of_middles.interval()
    first, last = np.clip(ends, lower[MIDDLE], upper[MIDDLE])
    middles = np.union1d(np.linspace(first, last, 128), best[MIDDLE])
    squares, slopes = of_middles.least(middles)
    slopes = np.where(middles == best[MIDDLE], best[SLOPE], np.exp(slopes))
    fits = (squares <= allowed) | (middles == best[MIDDLE])
    middles, slopes = middles[fits], slopes[fits]
    region = Region(data, best, allowed, lower, upper, middles, slopes, slopes)
    low, high = (region.last_slopes(slopes, bounds[SLOPE]) for bounds in (lower, upper))
    first, last = of_slopes.interval()
    region = region._replace(first=low, last=high)
    return region, ends, (max(first, 0.0), last)


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
        spaced = np.geomspace if self.k == SLOPE else np.linspace
        values = spaced(self.lower[self.k], self.upper[self.k], 60)
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
        """With which of them (n,) some curve leaves no more squares than allowed."""
        return (self.least(values)[0] <= self.allowed) | (values == self.best)

    def least(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The squares that the best curve of each leaves, and where that is.

        By the logarithms of slopes, or by midpoints; closer and closer about the best,
        until it is decided which fit.
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
        squares, where = np.full((2, len(values)), math.inf)
        for _ in range(14):
            found = self._squares(values[:, None], others)
            best = np.take_along_axis(others, found.argmin(axis=1)[:, None], axis=1)
            # Between the best and its neighbours, a parabola falls by less than this.
            lowest = np.partition(found, 2, axis=1)
            where = np.where(lowest[:, 0] < squares, best[:, 0], where)
            squares = np.minimum(squares, lowest[:, 0])
            doubt = lowest[:, 2] - lowest[:, 0]
            unsure = (squares > self.allowed) & (squares - doubt <= self.allowed)
            if not unsure.any():
                break
            low, high = np.maximum(best - step, least), np.minimum(best + step, most)
            others = low + (high - low) * np.linspace(0, 1, 9)
            step /= 4
        return squares, where

    def _squares(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        middle, slope = values, np.exp(others)
        if self.k == SLOPE:
            middle, slope = others, values
        return best_plateaus(self.data, middle, slope, self.lower, self.upper)[2]
