"""How much memory embedding and fitting take, of large images on disk.

    python benchmarks/memory.py --images 10000 --width 64

Images of 5 x 1024 x 1024 pixels, 16 bits, as Recursion has them: a few simulated files
in a temporary folder, named again and again in one table, so that a hundred gigabytes
need no disk. Prints the peak resident size of the process, and the resident size at
each tenth of the way, which must not grow. Takes about a second an image and core; a
narrow network (``--width``, its channel_base) is several times as fast, and what images
take is the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from gandl import GANDLFeaturizer, ImageCollection

N_FILES = 16
LIMITS = {"fit": 3.0, "embed": 2.0}  # GiB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=5.0, help="of fitting")
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        names = [f"{k % N_FILES}.tif" for k in range(arguments.images)]
        images = ImageCollection.from_table(pd.DataFrame({"path": names}), root=folder)
        # A process each: the peak is of one part alone.
        model = str(Path(folder) / "model.safetensors")
        spawn = multiprocessing.get_context("spawn")
        for part, how in (("fit", arguments.minutes), ("embed", 0.0)):
            given = (part, images, model, how, arguments.width)
            process = spawn.Process(target=measure, args=given)
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(N_FILES):
        image = rng.poisson(300, size=(5, 1024, 1024)).astype(np.uint16)
        tifffile.imwrite(folder / f"{k}.tif", image, photometric="minisblack")


def measure(
    part: str, images: ImageCollection, model: str, minutes: float, width: int
) -> None:
    start, sizes = time.perf_counter(), [resident()]
    if part == "fit":
        budget = {"max_minutes": minutes, "random_state": 0}
        fitted = GANDLFeaturizer(channel_base=width, **budget)
        fitted.fit(images)
        sizes.append(resident())
        fitted.save(model, overwrite=True)
        done = f"{fitted.n_images_seen_:,} crops"
    else:
        fitted = GANDLFeaturizer.load(model)
        for rows in np.array_split(np.arange(len(images)), 10):
            fitted.transform(images[rows])
            sizes.append(resident())
            print(f"{rows[-1] + 1:,} images: {sizes[-1]:.2f} GiB", flush=True)
        done = f"{len(images):,} images"
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = " ".join(f"{size:.2f}" for size in sizes)
    limit = LIMITS[part]
    verdict = "below" if peak < limit else "NOT BELOW"
    print(
        f"{part}: {done}, {seconds:.0f} s, peak {peak:.2f} GiB, {verdict} {limit} GiB; "
        f"on the way {told} GiB",
        flush=True,
    )


def resident() -> float:
    """Resident size of this process in GiB, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


if __name__ == "__main__":
    main()
