"""How fast files are read and embedded, and what share of the time is spent waiting.

    OMP_NUM_THREADS=1 python benchmarks/reading.py [--out reading.json]

Makes sites of 5 x 1024 x 1024 pixels and 16 bits in a temporary folder, one TIFF file a
channel, plain and compressed. Times, in sites a second, reading alone (with scaling and
cutting to tiles, by one thread and by all that read ahead), the network alone (on sites
in memory), and both together, as `transform` has them. "Waiting" is the share of the
last that the network waits for pixels. Reading is at full speed where that share is
near zero, or "both" as fast as reading alone. All of it in turns, again and again:
medians, and "both" over the slower of its two parts, the least and the most of it.
Files were just written, so that a disk is seldom asked: what is measured is decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tifffile
import torch
from _record import machine
from _record import write as write_record

from gandl import GANDLFeaturizer, ImageCollection, _batches, _embedding

COMPRESSIONS = {"plain": None, "deflate": "zlib", "LZW": "lzw"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64, help="the channel_base")
    parser.add_argument(
        "--files", nargs="+", choices=COMPRESSIONS, default=COMPRESSIONS
    )
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    results = []
    for files in arguments.files:
        with tempfile.TemporaryDirectory() as folder:
            X = write(Path(folder), arguments.sites, arguments.size, files)
            measured = measure(X, arguments.width, arguments.repetitions)
            results.append({"files": files, **measured})
    report = {
        "sites": arguments.sites,
        "size": arguments.size,
        "width": arguments.width,
        "torch_threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine(),
        "results": results,
    }
    print(json.dumps(report))
    columns = ("one thread", "reading", "network", "both")
    names = " | ".join((*columns, "both over the slower", "waiting"))
    print(f"| files | {names} |\n|{'---|' * 7}")
    for row in results:
        speeds = " | ".join(f"{np.median(row[column]):.2f}" for column in columns)
        reading, network, both = (np.array(row[column]) for column in columns[1:])
        shares = both / np.minimum(reading, network)
        share = f"{np.median(shares):.2f} ({shares.min():.2f} to {shares.max():.2f})"
        waiting = f"{100 * np.median(row['waiting']):.0f} %"
        print(f"| {row['files']} | {speeds} | {share} | {waiting} |")
    write_record(report, arguments.out)


def write(folder: Path, n_sites: int, size: int, files: str) -> ImageCollection:
    """Noise on a smooth image, which compresses about as well as a micrograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    for site in range(n_sites):
        for channel in range(5):
            mean = 300 + 2000 * np.sin((5 + channel) * x) ** 2 * np.sin(7 * y) ** 2
            tifffile.imwrite(
                folder / f"s{site}_w{channel}.tif",
                rng.poisson(mean).astype(np.uint16),
                compression=COMPRESSIONS[files],
            )
    return ImageCollection.from_folder(folder, "s{site}_w{channel}.tif")


def measure(X: ImageCollection, width: int, repetitions: int) -> dict[str, Any]:
    """Sites a second of each part alone and of both, and the share of waiting."""
    found: dict[str, list[float]] = defaultdict(list)
    featurizer = GANDLFeaturizer(
        channel_base=width, max_kimg=0, whiten=False, random_state=0
    ).fit(X[:2])
    read = _embedding._cut

    def reading_alone() -> None:
        ranges = np.array([[0.0, 65535.0]] * 5)
        for _ in read(X, ranges, featurizer.config_.size, 6):
            pass

    kept = ImageCollection.from_array(np.asarray(X[:6]))
    waited = 0.0

    def watched(*args: Any) -> Iterator[np.ndarray]:
        nonlocal waited
        parts = read(*args)
        while True:
            start = time.perf_counter()
            part = next(parts, None)
            waited += time.perf_counter() - start
            if part is None:
                return
            yield part

    featurizer.transform(kept[:1])  # warm
    for _ in range(repetitions):
        with patch.object(_batches, "READERS", (1, 1)):
            found["one thread"].append(len(X) / seconds(reading_alone))
        found["reading"].append(len(X) / seconds(reading_alone))
        network = seconds(lambda: featurizer.transform(kept))
        found["network"].append(len(kept) / network)
        waited = 0.0
        with patch.object(_embedding, "_cut", watched):
            both = seconds(lambda: featurizer.transform(X))
        found["both"].append(len(X) / both)
        found["waiting"].append(waited / both)
    return found


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
