"""Whether two fits at once share the processors, or get in each other's way.

    python benchmarks/sharing.py

Fits two featurizers, and lets each embed the images, one after the other, in two
threads and in two processes, as ``n_jobs=2`` does with joblib's "threading" and "loky";
prints the seconds that both take, and how many threads PyTorch has in each. Processes
have half of the processors each; threads share what PyTorch has. Wants an idle machine.
"""

from __future__ import annotations

import argparse
import time

import joblib
import numpy as np
import pandas as pd
import torch

from gandl import GANDLFeaturizer

WAYS = {
    "one after the other": ("sequential", 1),
    "two threads": ("threading", 2),
    "two processes": ("loky", 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4096, (arguments.images, 3, 64, 64), dtype="uint16")
    rows = []
    for _ in range(arguments.repetitions):  # interleaved, since machines are noisy
        for name, (backend, n_jobs) in WAYS.items():
            with joblib.Parallel(n_jobs=n_jobs, backend=backend) as parallel:
                # What starting a process takes is not measured.
                parallel(joblib.delayed(fit)(images[:4]) for _ in range(2))
                start = time.perf_counter()
                threads = parallel(joblib.delayed(fit)(images) for _ in range(2))
            seconds = time.perf_counter() - start
            rows.append({"way": name, "seconds": seconds, "threads": threads[0]})
    table = pd.DataFrame(rows).groupby("way", sort=False).median()
    table["ratio"] = table["seconds"] / table["seconds"].iloc[0]
    print(table.round(2).to_string())


def fit(images: np.ndarray) -> int:
    """Fit, an epoch, and embed; returns how many threads PyTorch has here."""
    epoch = len(images) / 1000
    GANDLFeaturizer(max_kimg=epoch, random_state=0).fit_transform(images)
    return torch.get_num_threads()


if __name__ == "__main__":
    main()
