"""Warnings that name the line of whoever called the package."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("gandl", "sklearn", "joblib")


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside the package, however deep within it this is told.

    scikit-learn counts as within: its pipelines and wrappers call for the user.
    """
    # As skip_file_prefixes does from Python 3.12 on.
    level, frame = 2, sys._getframe(1)
    while frame.f_back and _is_inside(frame.f_globals.get("__name__") or ""):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def _is_inside(module: str) -> bool:
    return module.partition(".")[0] in _INSIDE
