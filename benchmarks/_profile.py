"""Where the time of what runs goes, by kinds of operators."""

from __future__ import annotations

import re
from collections.abc import Callable

from _flops import is_filter
from torch.profiler import ProfilerActivity, profile

# The first whose pattern is found in an operator's name.
KINDS = {
    "convolution, backward": "convolution_backward",
    "convolution, forward": "convolution|cudnn",
    "matrix products": "mm|dot|linear",
    "optimiser": "adam|Optimizer|lerp",
    "copies and formats": "copy|contiguous|cat|to$|pad|flip|index|select",
    "random numbers": "normal|uniform|rand",
    "views' geometry": "grid_sample|affine",
    "resizing": "upsample",
    "sums and means": "sum|mean|std|norm|amax|max",
    "elementwise": r"mul|add|sub|div|relu|sqrt|pow|square|exp|where|clamp|neg|soft|fill"
    "|lt|floor|zero|isfinite",
}


def by_kind(function: Callable[[], object], device: str) -> dict[str, float]:
    """Share of each kind of operator in the time of a call; "filter" has its own."""
    activities, measure = [ProfilerActivity.CPU], "self_cpu_time_total"
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
        measure = "self_device_time_total"
    with profile(activities=activities, record_shapes=True) as profiled:
        function()
    seconds = dict.fromkeys(["filter", *KINDS, "other"], 0.0)
    for event in profiled.key_averages(group_by_input_shape=True):
        kind = next((k for k, p in KINDS.items() if re.search(p, event.key)), "other")
        if kind.startswith("convolution") and is_filter(event.input_shapes):
            kind = "filter"
        seconds[kind] += getattr(event, measure)
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}
