"""What all displays share: matplotlib, if it is there, axes and colours."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gandl._extras import needed
from gandl.images._layouts import natural_key

# Okabe and Ito (2008), "Color universal design": told apart by colour-blind readers.
# Without their yellow, which is lost on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE = "#E69F00", "#56B4E9", "#CC79A7"
BLACK, GREY = "#000000", "#999999"
CATEGORIES = (BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, BLACK)
# One kind of control looks the same in every picture.
NEGATIVE, POSITIVE = GREEN, VERMILION
_DECIMAL = re.compile(r"-?\d*\.?\d+(e-?\d+)?")
_LONGEST = 18  # characters of a name where there is little room


def pyplot() -> Any:
    """Import ``matplotlib.pyplot``, or say which extra has it."""
    with needed('Plots need matplotlib: pip install "gandl[plot]".'):
        import matplotlib.pyplot as plt
    return plt


def new_axes(ax: Any, *, figsize: tuple[float, float]) -> tuple[Any, Any]:
    """Figure and axes to draw on; None: new ones."""
    if ax is not None:
        return ax.figure, ax
    return pyplot().subplots(figsize=figsize, layout="constrained")


def new_grid(ax: Any, n: int, n_columns: int, **options: Any) -> tuple[Any, np.ndarray]:
    """Figure and n axes to draw on; None: new ones, row by row.

    Raises ValueError if there are other than n axes.
    """
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != n:
            raise ValueError(f"ax has {len(given)} axes, this draws on {n}.")
        return given[0].figure, given
    figure, axes = pyplot().subplots(
        -(-n // n_columns), n_columns, squeeze=False, layout="constrained", **options
    )
    for spare in axes.ravel()[n:]:
        spare.remove()
    return figure, axes.ravel()[:n]


def sorted_categories(values: np.ndarray) -> list[Any]:
    """The values, each once, missing ones left out, numbers in names by value."""

    def key(value: Any) -> tuple[str, Any]:
        return str(type(value)), natural_key(value) if isinstance(value, str) else value

    names = {value for value in values if value is not None}
    if all(isinstance(name, str) and _DECIMAL.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))  # doses of a file
    return sorted(names, key=key)


def plain(text: Any) -> str:
    """A name as it is: matplotlib takes what stands between dollars for a formula."""
    return str(text).replace("$", r"\$")


def in_legend(name: Any) -> str:
    """A name that is shown: matplotlib leaves out those that begin with "_"."""
    text = plain(name)
    return f" {text}" if text.startswith("_") else text


def shortened(name: Any) -> str:
    """A name where there is little room: its beginning and its end."""
    text = str(name)
    return text if len(text) <= _LONGEST else f"{text[:11]}…{text[-6:]}"


def label_doses(ax: Any, dose: np.ndarray, at: np.ndarray) -> None:
    """Label the lowest and the highest dose where powers of ten are too few for that.

    ``at`` is where each dose is drawn, on a logarithmic axis.
    """
    if not len(at) or at.max() >= 100 * at.min():
        return
    ends = [at.argmin(), at.argmax()]
    ax.set_xticks(at[ends], [f"{dose[k]:g}" for k in ends])
    ax.minorticks_off()
