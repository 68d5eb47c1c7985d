"""Whether `torch.compile` pays: speed with and without it, and its own time.

    python benchmarks/compiling.py [--threads 2] [--out compiling.json]

Compiles the discriminator's blocks, which embedding, contrast and the adversarial game
all go through. Times embedding, and training steps without a penalty (R1 differentiates
twice, which compiled graphs cannot), with and without, in turns. Compiling is the time
of the first calls, less that of as many later ones. Where compiled code is faster, says
after how many seconds compiling has earned itself back; a fit of ten minutes has 600.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, write
from cost import preset

from gandl._tensors import activation_dtype
from gandl.gan import Trainer

CALLS = 3  # at a time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="of crops")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 64  # blocks and modes share their code
    print("| | images/s | compiled | faster by | compiling, s | earned back after, s |")
    print(f"|{'---|' * 6}", flush=True)
    results = {}
    for part in arguments.parts:
        results[part] = measure(PARTS[part], arguments)
        print(row(part, results[part], arguments.batch_size), flush=True)
    asked = {k: v for k, v in vars(arguments).items() if k != "out"}
    report = {"machine": machine(), "arguments": asked, "results": results}
    write(report, arguments.out)


def row(part: str, found: dict[str, Any], batch_size: int) -> str:
    ratios = np.array(found["as it is"]) / found["compiled"]
    gain, took = float(np.median(ratios)), found["compiling"]
    speeds = [
        f"{batch_size / np.median(found[way]):.1f}" for way in ("as it is", "compiled")
    ]
    share = f"{gain:.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    # In t seconds of it, gain * t seconds' work is done.
    back = f"{took * gain / (gain - 1):.0f}" if gain > 1 else "never"
    return f"| {' | '.join([part, *speeds, share, f'{took:.0f}', back])} |"


def measure(
    make: Callable[..., Callable[[], Any]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a call, round by round, as it is and compiled; those of compiling."""
    plain, compiled = make(arguments, False), make(arguments, True)
    seconds(plain)
    first = seconds(compiled)
    found: dict[str, Any] = {"as it is": [], "compiled": []}
    for _ in range(arguments.rounds):
        found["as it is"].append(seconds(plain) / CALLS)
        found["compiled"].append(seconds(compiled) / CALLS)
    later = CALLS * float(np.median(found["compiled"]))
    return found | {"compiling": max(0.0, first - later)}


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def make_trainer(
    arguments: argparse.Namespace, compiled: bool
) -> tuple[Trainer, torch.Tensor]:
    config, _ = preset("default", arguments.size)
    dtype = activation_dtype("auto", arguments.device)
    trainer = Trainer(config, 0, device=arguments.device, dtype=dtype)
    if compiled:
        blocks: Any = trainer.discriminator.blocks
        for block in blocks:
            block.compile(backend=arguments.backend)
    shape = (arguments.batch_size, config.n_channels, config.size, config.size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return trainer, images.to(arguments.device) * 2 - 1


def embedding(arguments: argparse.Namespace, compiled: bool) -> Callable[[], Any]:
    trainer, images = make_trainer(arguments, compiled)

    def embed() -> None:
        with torch.inference_mode():
            trainer.discriminator.embed(images, "pooled")

    return embed


def training(arguments: argparse.Namespace, compiled: bool) -> Callable[[], Any]:
    trainer, images = make_trainer(arguments, compiled)

    def step() -> None:
        trainer.n_steps = trainer.config.adversarial_interval  # has no penalty
        trainer.step(images)

    return step


PARTS = {"embedding": embedding, "training": training}

if __name__ == "__main__":
    main()
