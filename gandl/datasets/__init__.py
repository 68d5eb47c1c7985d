"""Images to learn from and to try things on."""

from gandl.datasets._fetch_rxrx import fetch_rxrx1, fetch_rxrx19a
from gandl.datasets._rxrx import load_rxrx, load_rxrx_embeddings
from gandl.datasets._screen import make_screen

__all__ = [
    "fetch_rxrx1",
    "fetch_rxrx19a",
    "load_rxrx",
    "load_rxrx_embeddings",
    "make_screen",
]
