"""Profiles to scores: which compound works, at which dose. Never imports torch."""

from gandl.scoring._dose_response import DoseResponseRegressor
from gandl.scoring._dose_response_scorer import DoseResponseScorer
from gandl.scoring._hits import HitCaller
from gandl.scoring._perturbation import PerturbationScorer

__all__ = [
    "DoseResponseRegressor",
    "DoseResponseScorer",
    "HitCaller",
    "PerturbationScorer",
]
