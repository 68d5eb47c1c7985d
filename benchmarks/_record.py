"""What a benchmark leaves: the machine that it ran on, and its results as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from gandl._files import whole_file


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")  # Linux
    found = re.search("model name.*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def write(record: dict[str, Any], path: Path | None) -> None:
    """Write a record, if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
