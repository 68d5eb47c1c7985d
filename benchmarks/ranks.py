"""How training speeds up with the number of processes under torchrun.

    OMP_NUM_THREADS=1 python benchmarks/ranks.py [--ranks 1 2] [--out ranks.json]

Takes steps of the default preset on noise, the whole batch the same for every number of
ranks, which take turns. "images_per_second" is the median over repetitions, "together"
the share of a step in which a rank computes nothing: it waits for the others, or
gradients travel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from _record import machine, write

from gandl._presets import PRESETS, make_config
from gandl._tensors import activation_dtype
from gandl.gan import Trainer
from gandl.gan._ranks import ProcessRanks, joined
from gandl.images import ImageCollection


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=32, help="of a repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--width", type=int, default=1024, help="the channel_base")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        work(arguments)
        return
    runs: dict[int, list[dict[str, float]]] = {n: [] for n in arguments.ranks}
    for _ in range(arguments.repetitions):
        for n in arguments.ranks:
            runs[n].append(launched(n))
    results = [
        {"ranks": n}
        | {key: float(np.median([r[key] for r in of_n])) for key in of_n[0]}
        for n, of_n in runs.items()
    ]
    report = {
        "batch_size": arguments.batch_size,
        "width": arguments.width,
        "threads_of_a_rank": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine(),
        "results": results,
        "repetitions": runs,
    }
    for row in results:
        print(*(f"{key} {value:.4g}" for key, value in row.items()))
    write(report, arguments.out)


def launched(n: int) -> dict[str, float]:
    """What the first of n ranks has measured."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command = [sys.executable, *launcher, __file__, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def work(arguments: argparse.Namespace) -> None:
    """Take steps as one of several ranks; the first prints how fast they were."""
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    settings = PRESETS["default"] | {"image_size": 64, "channel_base": arguments.width}
    images = ImageCollection.from_array(np.zeros((arguments.batch_size, 3, 64, 64)))
    config = make_config(settings.__getitem__, images)
    dtype = activation_dtype("auto", arguments.device)
    waited = 0.0

    def timed(ranks: ProcessRanks, tensors: list[torch.Tensor]) -> None:
        nonlocal waited
        start = time.perf_counter()
        mean_(ranks, tensors)
        waited += time.perf_counter() - start

    mean_ = ProcessRanks.mean_
    with joined(device) as ranks, patch.object(ProcessRanks, "mean_", timed):
        trainer = Trainer(config, 0, device=device, dtype=dtype, ranks=ranks)
        whole = torch.randn(images.shape).clamp(-1, 1)
        batch = ranks.share(whole).to(device)
        for _ in range(4):  # the first ones warm up
            trainer.step(batch)
        waited, start = 0.0, time.perf_counter()
        for _ in range(arguments.steps):
            trainer.step(batch)
        trainer.is_finite()  # waits for the device
        seconds = time.perf_counter() - start
        speed = arguments.steps * arguments.batch_size / seconds
        if ranks.rank == 0:
            measured = {"images_per_second": speed, "together": waited / seconds}
            print(json.dumps(measured))


if __name__ == "__main__":
    main()
