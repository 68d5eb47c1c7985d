"""Profiles to scores: which compound works, at which dose. Never imports torch."""

from gandl.scoring._dose_response import DoseResponseRegressor

__all__ = ["DoseResponseRegressor"]
