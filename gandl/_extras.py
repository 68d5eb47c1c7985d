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


def require_safetensors() -> None:
    """Tell the extra to install if safetensors is not there."""
    told = 'Models and checkpoints are kept by safetensors: pip install "gandl[hub]".'
    with needed(told):
        import safetensors.numpy  # noqa: F401
