"""Planes of stacks and of time series: chosen or projected, never guessed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from numbers import Integral
from typing import NamedTuple

import numpy as np

Choice = int | str | None
PROJECTIONS = ("max", "mean")


class PlaneError(ValueError):
    """Planes that were not asked for, or are not there; says what to do."""


class Planes(NamedTuple):
    """What is taken of several planes: one of them, a projection, or all there is."""

    z: Choice = None
    t: Choice = None

    def indices(self, axis: str, n: int) -> range:
        """The places to read of n planes along "z" or "t"."""
        choice = getattr(self, axis)
        noun = f"plane{'s' if n > 1 else ''} in z" if axis == "z" else "time points"
        noun = "time point" if axis == "t" and n == 1 else noun
        if choice is None and n > 1:
            raise PlaneError(
                f"holds {n} {noun}. Pass {axis}=0 to {n - 1} for one of them, or "
                f'{axis}="max" or {axis}="mean" to project them.'
            )
        if choice is None or choice in PROJECTIONS:
            return range(n)
        if not isinstance(choice, int):
            raise PlaneError(
                f"holds planes, not files that are called {axis}={choice!r}. Pass "
                f'{axis}=0 to {n - 1}, "max" or "mean".'
            )
        if choice >= n:
            raise PlaneError(
                f"holds {n} {noun}, numbered from 0: there is no {axis}={choice}."
            )
        return range(choice, choice + 1)

    def projected_dtype(self, dtype: np.dtype) -> np.dtype:
        """The type of what is taken: of means, floating point numbers."""
        if "mean" not in self or dtype in (np.float32, np.float64):
            return np.dtype(dtype)
        # Whole numbers of up to 16 bits are exact in 32.
        return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)


def as_planes(z: Choice, t: Choice) -> Planes:
    """Check what was passed as ``z`` and ``t``."""
    for name, choice in (("z", z), ("t", t)):
        whole = isinstance(choice, Integral) and not isinstance(choice, bool)
        valid = whole and int(choice) >= 0  # type: ignore[arg-type]
        if choice is not None and not valid and not isinstance(choice, str):
            raise ValueError(
                f'{name} is the number of a plane from 0, "max", "mean" or None, got '
                f"{choice!r}."
            )
    z, t = (int(c) if isinstance(c, Integral) else c for c in (z, t))
    return Planes(z, t)


def project(planes: Iterable[np.ndarray], how: Choice) -> np.ndarray:
    """The maximum or the mean of planes, taken in one by one; or the only one."""
    if how == "max":
        return functools.reduce(np.maximum, planes)
    if how != "mean":
        (only,) = planes
        return only
    total, n = None, 0
    for plane in planes:
        if total is None:
            total = np.zeros(plane.shape, np.float64)
        total += plane
        n += 1
    assert total is not None
    return (total / n).astype(Planes(how).projected_dtype(plane.dtype))


def labels_of(axis: str, choice: Choice, known: list[str]) -> list[str]:
    """Those of the texts of a field ``{z}`` or ``{t}`` in file names to read."""
    if choice is None and len(known) > 1:
        raise ValueError(
            f"The images have {len(known)} planes in {{{axis}}}: {_some(known)}. Pass "
            f'{axis}= the number or the text of one of them, or {axis}="max" or '
            f'{axis}="mean" to project them. To make an image of each, give the field '
            "another name."
        )
    if choice is None or choice in PROJECTIONS:
        return known
    # Text as it is written, or else the same number: "01" and 1 are one.
    number = int(choice) if str(choice).isdecimal() else None
    fitting = [label for label in known if label == choice] or [
        label for label in known if label.isdecimal() and int(label) == number
    ]
    if len(fitting) != 1:
        raise ValueError(
            f"{axis}={choice!r} is the {{{axis}}} of {len(fitting)} of {len(known)} "
            f"planes in the file names: {_some(known)}. Pass one of these texts, "
            '"max" or "mean".'
        )
    return fitting


def _some(known: list[str]) -> str:
    shown = known if len(known) <= 6 else [*known[:5], "...", known[-1]]
    return ", ".join(shown)
