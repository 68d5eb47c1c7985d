"""Feed the readers and the plate-map parser nonsense, for a bounded time.

    python benchmarks/fuzz.py --minutes 5

Takes good files of several kinds and plate maps, changes, cuts and swaps their bytes
(hypothesis), and lets them be read. An array, a table, or an error that names the file
is right; any other error, and more than ten seconds or 4 GiB, is a find, which is
printed and becomes a test.
"""

from __future__ import annotations

import argparse
import io
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from gandl._plate_map import join_plate_map
from gandl.images import read_image, read_plate_map

GREY = np.arange(256, dtype="uint16").reshape(16, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    arguments = parser.parse_args()
    limit = 4 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        targets = {
            name: (good, read_image, path / f"fuzzed{suffix}")
            for name, (good, suffix) in images().items()
        }
        targets["plate map"] = (PLATE_MAP, read_and_join, path / "fuzzed.csv")
        seconds = 60 * arguments.minutes / len(targets)
        n_found = sum(fuzz(name, *t, seconds) for name, t in targets.items())
    sys.exit(n_found > 0)


PLATE_MAP = b"plate,well,state,dose\nP1,A01,healthy,0.1\nP1,B12,infected,\n"
KNOWN = pd.DataFrame({"plate": ["P1", "P1"], "well": ["A1", "B12"]})


def read_and_join(path: Path) -> None:
    join_plate_map(KNOWN, read_plate_map(path))


def images() -> dict[str, tuple[bytes, str]]:
    """A good file of each kind, and its suffix."""
    made: dict[str, tuple[bytes, str]] = {}
    for name, options in {
        "TIFF": {},
        "BigTIFF": {"bigtiff": True},
        "TIFF, deflate": {"compression": "zlib"},
        "OME-TIFF": {"ome": True},
        "ImageJ's TIFF": {"imagej": True},
    }.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.stack([GREY, GREY]), **options)
        made[name] = (buffer.getvalue(), ".tif")
    for name, pixels in {"PNG": GREY.astype("uint8"), "PNG, 16 bits": GREY}.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        made[name] = (buffer.getvalue(), ".png")
    return made


def fuzz(
    name: str,
    good: bytes,
    read: Callable[[Path], object],
    path: Path,
    seconds: float,
) -> int:
    """Read changed bytes for some seconds; returns the number of kinds of find."""
    found: dict[str, bytes] = {}
    end, n_read = time.monotonic() + seconds, 0
    places = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))

    # Finds are kept, not raised, so that there are several.
    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(places, max_size=8), st.integers(0, len(good)), st.binary())
    def run(changes: list[tuple[int, int]], cut: int, more: bytes) -> None:
        nonlocal n_read
        data = bytearray(good)
        for place, value in changes:
            data[place] = value
        data = data[:cut] + more if cut % 4 == 0 else data
        path.write_bytes(data)
        n_read += 1
        start, text = time.monotonic(), ""
        try:
            read(path)
        except (ValueError, OSError) as error:
            if isinstance(error.__cause__, MemoryError):
                text = f"memory: {error}"
            elif read is read_image and path.name not in str(error):
                text = f"does not name the file: {error}"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        if time.monotonic() - start > 10:
            text = f"{time.monotonic() - start:.0f} s"
        if text:
            found.setdefault(text[:200], bytes(data))

    while time.monotonic() < end:
        run()
    print(f"{name}: {n_read} read, {len(found)} finds", flush=True)
    for text, data in found.items():
        print(f"  {text}\n  {data!r}")
    return len(found)


if __name__ == "__main__":
    main()
