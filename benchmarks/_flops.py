"""Floating-point operations of what runs, and how many the machine could do."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class CountFlops(TorchDispatchMode):
    """Count those of products of matrices and convolutions, backward ones too.

    Not by FlopCounterMode, which fails where a gradient is differentiated. Those of
    filters, one channel at a time, are of no account and would be counted wrongly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        count = flop_registry.get(func._overloadpacket)
        if count is None:  # in inference mode, operators come as they were called
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        shapes = [a.shape for a in args if isinstance(a, torch.Tensor)]
        if count and not is_filter(shapes):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def is_filter(shapes: list) -> bool:
    """Whether the tensors of a convolution are those of a filter's."""
    weights = [s for s in shapes[:3] if len(s) == 4][-1:]
    return any(s[1] == 1 and s[2] in (3, 4) for s in weights)


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of the product of two large square matrices, the best of six."""
    size = 8192 if device.startswith("cuda") else 1024
    a = torch.randn((size, size), device=device).to(dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
