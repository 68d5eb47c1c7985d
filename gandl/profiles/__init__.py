"""Embeddings to comparable profiles. Works on tables: never imports torch."""

from gandl.profiles._typical_variation import TypicalVariationNormalizer

__all__ = ["TypicalVariationNormalizer"]
