"""Embeddings of microscopy images, learned without labels, for scikit-learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gandl._partitions import embed_to_parquet
    from gandl.featurizer import GANDLFeaturizer
    from gandl.images import ImageCollection
    from gandl.zero_shot import ChannelAdapter, ZeroShotClassifier

__version__ = "0.1.0.dev6"
__all__ = [
    "ChannelAdapter",
    "GANDLFeaturizer",
    "ImageCollection",
    "ZeroShotClassifier",
    "__version__",
    "embed_to_parquet",
]

# Loaded on first use: `import gandl` and work on tables never import torch.
_MODULE_OF = {
    "ChannelAdapter": "gandl.zero_shot",
    "GANDLFeaturizer": "gandl.featurizer",
    "ImageCollection": "gandl.images",
    "ZeroShotClassifier": "gandl.zero_shot",
    "embed_to_parquet": "gandl._partitions",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'gandl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
