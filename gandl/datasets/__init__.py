"""Images to learn from and to try things on."""

from gandl.datasets._screen import make_screen

__all__ = ["make_screen"]
