"""Between PyTorch and what an estimator keeps: NumPy arrays and plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_arrays(tree: Any) -> Any:
    """Replace every tensor in nested dicts and lists by a NumPy array of its own."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().contiguous().numpy().copy()
    if isinstance(tree, dict):
        return {key: to_arrays(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(to_arrays(value) for value in tree)
    return tree


def to_tensors(tree: Any) -> Any:
    """Undo `to_arrays`, on the CPU; the arrays are copied."""
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.array(tree))
    if isinstance(tree, dict):
        return {key: to_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(to_tensors(value) for value in tree)
    return tree


def activation_dtype(precision: str, device: str) -> torch.dtype:
    """Type of activations; "auto" is bfloat16 where it is multiplied natively."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Elsewhere on the CPU, bfloat16 is emulated: hundreds of times slower.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device == "cpu" and any(
            getattr(torch.cpu, probe, lambda: False)() for probe in probes
        )
    return torch.bfloat16 if native else torch.float32
