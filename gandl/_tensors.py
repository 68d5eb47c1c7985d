"""Between PyTorch and what an estimator keeps: NumPy arrays and plain Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# OpenMP's threads do not live on in a forked process, which would wait for them for
# ever: it computes in one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


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


def upload(batch: Tensor, device: str | torch.device) -> Tensor:
    """Copy a batch to a device; to a GPU out of pinned memory, so that nobody waits."""
    if torch.device(device).type != "cuda":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


@contextmanager
def learning_mode(device: torch.device) -> Iterator[None]:
    """Gradients, and types as they are chosen, whatever the caller's modes are."""
    own_types = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), own_types:
        yield


def activation_dtype(precision: str, device: str) -> torch.dtype:
    """Type of activations; "auto" is bfloat16 where that is faster."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.startswith("cuda"):
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = device == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if faster else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Whether bfloat16 is faster than float32 on this processor.

    Where it is emulated it is hundreds of times slower. Intel's processors since
    Sapphire Rapids (avx512_fp16) multiply it in AMX; where a virtual machine hides
    that, AVX-512's instruction for it is slower: 0.8 times the speed of float32 in the
    training step (benchmarks/training_speed.py).
    """
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if has.get("avx512_fp16"):
        return bool(has.get("amx_bf16"))
    return bool(has.get("avx512_bf16"))
