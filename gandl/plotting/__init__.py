"""A picture of every result. Needs matplotlib, the extra "plot"."""

from gandl.plotting._dose_response import DoseResponseDisplay
from gandl.plotting._embedding import EmbeddingDisplay
from gandl.plotting._montage import MontageDisplay
from gandl.plotting._perturbation import PerturbationDisplay
from gandl.plotting._plate import PlateDisplay
from gandl.plotting._training import TrainingDisplay

__all__ = [
    "DoseResponseDisplay",
    "EmbeddingDisplay",
    "MontageDisplay",
    "PerturbationDisplay",
    "PlateDisplay",
    "TrainingDisplay",
]
