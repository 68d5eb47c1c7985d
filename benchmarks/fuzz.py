"""Feed the readers and the plate-map parser nonsense, for a bounded time.

    python benchmarks/fuzz.py --minutes 5
    python benchmarks/fuzz.py --minutes 5 --engine atheris

Takes good files of several kinds and plate maps, changes, cuts and swaps their bytes,
and lets them be read. An array, a table, or an error that names the file is right; any
other error, and more than ten seconds or 4 GiB, is a find, which is printed and becomes
a test. Changes are drawn at random (hypothesis), or led by what lines of gandl and
tifffile they reach (atheris, which ends a kind of file at its first find).
"""

from __future__ import annotations

import argparse
import inspect
import io
import logging
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from gandl._plate_map import join_plate_map
from gandl.images import ImageCollection, read_image, read_plate_map

GREY = np.arange(256, dtype="uint16").reshape(16, 16)
MEMORY = 4 * 2**30
INSTRUMENTED = ("gandl.images.", "gandl._plate", "gandl._tables", "tifffile.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--engine", choices=["hypothesis", "atheris"])
    parser.add_argument("--one", help="a kind of file; by default all, in turn")
    arguments = parser.parse_args()
    kinds = [arguments.one] if arguments.one else [*images(), OF_SERIES, "plate map"]
    seconds = 60 * arguments.minutes / len(kinds)
    if arguments.engine == "atheris" and not arguments.one:
        # It ends its process: one for each kind.
        command = [sys.executable, __file__, "--engine", "atheris"]
        command += ["--minutes", str(seconds / 60), "--one"]
        sys.exit(sum([led(kind, [*command, kind]) for kind in kinds]) > 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        n_found = 0
        for kind in kinds:
            target = target_of(kind, Path(folder))
            if arguments.engine == "atheris":
                fuzz_led(target, Path(folder) / "corpus", seconds)
            n_found += fuzz(kind, target, seconds)
    sys.exit(n_found > 0)


PLATE_MAP = b"plate,well,state,dose\nP1,A01,healthy,0.1\nP1,B12,infected,\n"
OF_SERIES = "OME-TIFF, collection"
KNOWN = pd.DataFrame({"plate": ["P1", "P1"], "well": ["A1", "B12"]})


def read_and_join(path: Path) -> None:
    join_plate_map(KNOWN, read_plate_map(path))


def read_series(path: Path) -> None:
    np.asarray(ImageCollection.from_ome_tiff(path))


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


class Target(NamedTuple):
    """A good file, where changed ones are put, and what reads them."""

    good: bytes
    path: Path
    read: Callable[[Path], object]

    def judge(self, data: bytes) -> str:
        """Let bytes be read; returns what is wrong with the answer."""
        self.path.write_bytes(data)
        start = time.monotonic()
        try:
            self.read(self.path)
        except (ValueError, OSError) as error:
            if isinstance(error.__cause__, MemoryError):
                return f"memory: {error}"
            if self.read is not read_and_join and self.path.name not in str(error):
                return f"does not name the file: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - start
        return f"{seconds:.0f} s" if seconds > 10 else ""


def target_of(kind: str, folder: Path) -> Target:
    if kind == "plate map":
        return Target(PLATE_MAP, folder / "fuzzed.csv", read_and_join)
    if kind == OF_SERIES:
        good, _ = images()["OME-TIFF"]
        return Target(good, folder / "fuzzed.ome.tif", read_series)
    good, suffix = images()[kind]
    return Target(good, folder / f"fuzzed{suffix}", read_image)


def fuzz(name: str, target: Target, seconds: float) -> int:
    """Read changed bytes for some seconds; returns the number of kinds of find."""
    found: dict[str, bytes] = {}
    good, n_read = target.good, 0
    end = time.monotonic() + seconds
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
        n_read += 1
        if text := target.judge(bytes(data)):
            found.setdefault(text[:200], bytes(data))

    while time.monotonic() < end:
        run()
    print(f"{name}: {n_read} read, {len(found)} finds", flush=True)
    for text, data in found.items():
        print(f"  {text}\n  {data!r}")
    return len(found)


def led(name: str, command: list[str]) -> bool:
    """Run atheris in a process of its own; returns whether it found something."""
    ran = subprocess.run(command, capture_output=True, text=True)
    n_read = re.search(r"number_of_executed_units: (\d+)", ran.stderr)
    if ran.returncode and not ran.stdout:
        sys.exit(ran.stderr)
    told = f"{n_read[1]} read, 0 finds" if n_read else f"1 find\n  {ran.stdout}"
    print(f"{name}: {told}", flush=True)
    return ran.returncode != 0


def fuzz_led(target: Target, corpus: Path, seconds: float) -> NoReturn:
    """Read bytes chosen by atheris, which ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")

    def one(data: bytes) -> None:
        if text := target.judge(data):
            print(f"{text}\n  {data!r}", flush=True)
            os._exit(1)

    for module in [m for n, m in sys.modules.items() if n.startswith(INSTRUMENTED)]:
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                value.__code__ = atheris.instrument_func(value).__code__
    corpus.mkdir()
    (corpus / "good").write_bytes(target.good)
    flags = ["-rss_limit_mb=0", "-max_len=4096", "-print_final_stats=1"]
    flags.append(f"-max_total_time={math.ceil(seconds)}")
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()
    raise AssertionError("atheris has returned")


if __name__ == "__main__":
    main()
