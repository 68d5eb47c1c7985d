"""A log-logistic curve to the responses of a compound, by least squares."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

_LN10 = math.log(10)
_SLOPES = np.geomspace(0.1, 20, 12)  # to start from; the first and last are the bounds
_BEYOND = 1.0  # decades by which a midpoint may lie outside the tested concentrations


def share_risen(x: Any, middle: Any, slope: Any) -> Any:
    """How far, from 0 to 1, a curve has come from its left to its right plateau."""
    return expit(_LN10 * slope * (x - middle))


def curve_at(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Responses (n,) at x, and their gradient (n, 4) by the parameters.

    The parameters are the plateaus at the left and at the right, the midpoint and the
    steepness, positive.
    """
    left, right, middle, slope = parameters
    risen = share_risen(x, middle, slope)
    change = (right - left) * risen * (1 - risen) * _LN10
    away = np.where(np.isfinite(x), x - middle, 0.0)
    gradient = np.stack([1 - risen, risen, -slope * change, away * change], axis=1)
    return left + (right - left) * risen, gradient


class ByDose(NamedTuple):
    """Responses by dose: the curve that fits their means, weighted, fits them all.

    Squares within doses depend on no curve, and thousands of controls cost nothing.
    """

    x: np.ndarray  # decadic logarithms, ascending
    means: np.ndarray
    counts: np.ndarray
    within: float  # sum of squares about the means


def by_dose(x: np.ndarray, y: np.ndarray) -> ByDose:
    doses, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(group, y) / counts
    return ByDose(doses, means, counts, float(((y - means[group]) ** 2).sum()))


def bounds(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest parameters."""
    tested, spread = x[np.isfinite(x)], 2 * np.ptp(y)
    lower = [y.min() - spread] * 2 + [tested.min() - _BEYOND, _SLOPES[0]]
    upper = [y.max() + spread] * 2 + [tested.max() + _BEYOND, _SLOPES[-1]]
    return np.array(lower), np.array(upper)


def fit_curve_to(data: ByDose, lower: np.ndarray, upper: np.ndarray) -> Any:
    """The best fit; its cost is of the means alone."""
    weights = np.sqrt(data.counts)

    def solve(start: np.ndarray, tolerance: float, most: int) -> Any:
        return least_squares(
            lambda p: weights * (curve_at(p, data.x)[0] - data.means),
            start,
            jac=lambda p: weights[:, None] * curve_at(p, data.x)[1],
            bounds=(lower, upper),
            method="dogbox",
            max_nfev=most,
            x_scale="jac",
            ftol=tolerance,
            xtol=tolerance,
            gtol=tolerance,
        )

    # Nearly there, it is seen which is the best; it alone goes all the way.
    starts = _starts(data, lower, upper)
    near = min((solve(p, 1e-4, 12) for p in starts), key=lambda fit: fit.cost)
    return solve(near.x, 1e-12, 60)


def _starts(data: ByDose, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Four of parameters (4, 4) from a grid of midpoints and slopes."""
    inside = (upper - lower) * 1e-6
    lower, upper = lower + inside, upper - inside
    middle, slope = np.meshgrid(
        np.linspace(lower[2], upper[2], 40),
        np.clip(_SLOPES, lower[3], upper[3]),
        indexing="ij",
    )
    left, right, squares = best_plateaus(data, middle, slope, lower, upper)
    order = np.argsort(squares.min(axis=0))[:4]  # the best midpoint of the best slopes
    chosen = squares.argmin(axis=0)[order], order
    return np.stack([p[chosen] for p in (left, right, middle, slope)], axis=1)


def best_plateaus(
    data: ByDose,
    middle: np.ndarray,
    slope: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best plateaus of each midpoint and slope, and the squares that they leave.

    A linear regression of two coefficients between bounds: where one lies beyond its
    own, the best has that one at it, or else the other at its.
    """
    risen = share_risen(data.x, middle[..., None], slope[..., None])
    shares = [1 - risen, risen]  # of the left and of the right plateau
    (aa, ab), (_, bb) = [[(s * t) @ data.counts for t in shares] for s in shares]
    ay, by = (s @ (data.counts * data.means) for s in shares)
    tiny = 1e-12 * data.counts.sum()

    def of_left(right: np.ndarray) -> np.ndarray:
        return np.clip((ay - ab * right) / np.maximum(aa, tiny), lower[0], upper[0])

    def of_right(left: np.ndarray) -> np.ndarray:
        return np.clip((by - ab * left) / np.maximum(bb, tiny), lower[1], upper[1])

    determinant = np.maximum(aa * bb - ab**2, tiny**2)
    left = np.clip((ay * bb - by * ab) / determinant, lower[0], upper[0])
    right = np.clip((by * aa - ay * ab) / determinant, lower[1], upper[1])
    both = np.stack([[left, of_right(left)], [of_left(right), right]])
    fitted = both[:, 0, ..., None] * shares[0] + both[:, 1, ..., None] * shares[1]
    squares = (fitted - data.means) ** 2 @ data.counts
    second = squares[1] < squares[0]
    left, right = np.where(second, both[1], both[0])
    return left, right, np.where(second, squares[1], squares[0])
