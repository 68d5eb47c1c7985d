"""Packages that are there only if an extra was installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(told: str) -> Iterator[None]:
    """Import in the block; where that fails, say what to install."""
    try:
        yield
    except ImportError as error:
        raise ImportError(told) from error
