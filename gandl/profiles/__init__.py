"""Embeddings to comparable profiles. Works on tables: never imports torch."""

from gandl.profiles._activity import energy_distance, replicate_consistency
from gandl.profiles._control_scaler import ControlScaler
from gandl.profiles._tables import (
    aggregate,
    feature_columns,
    make_profiles,
    read_profiles,
    write_profiles,
)
from gandl.profiles._typical_variation import TypicalVariationNormalizer

__all__ = [
    "ControlScaler",
    "TypicalVariationNormalizer",
    "aggregate",
    "energy_distance",
    "feature_columns",
    "make_profiles",
    "read_profiles",
    "replicate_consistency",
    "write_profiles",
]
