"""What training on RxRx19a and embedding it cost: hours, money, disk and network.

    OMP_NUM_THREADS=1 python benchmarks/cost.py [--price-a100 2.0] [--out cost.json]

Counts what a training step does without doing it (multiplications of matrices, bytes
that pass through memory, operations that are launched; double backward included), and
fits three rates to StyleGAN2's published speed on 1 to 8 GPUs: the share of a GPU's
matrix peak, the share of its memory bandwidth, and the host's time for an operation.
Says by how much the fit misses what it has not seen. Measures one thread of this
machine in processor time. No figure of a GPU here was measured with gandl.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _flops import is_filter
from _record import write
from PIL import Image
from scipy.optimize import nnls
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gandl._batches import tile_starts
from gandl._embedding import at_once
from gandl._presets import PRESETS, make_config
from gandl._tensors import activation_dtype
from gandl.gan import GANConfig, Trainer, _training
from gandl.images import ImageCollection

N_SITES, N_STAINS, SIDE = 305_520, 5, 1024
ADAM_BYTES = 28  # a weight: itself, its gradient, two moments; three of them written
INTERVAL = 16  # steps of the game after which penalties come round


@dataclass(frozen=True)
class GPU:
    """Published peaks: TFLOP/s in 16 bits and in float32, GB/s of memory."""

    half: float
    single: float
    memory: float


# NVIDIA's data sheets, without sparsity: V100 SXM2, A100 SXM 40 GB, H100 SXM.
GPUS = {"V100": GPU(125, 15.7, 900), "A100": GPU(312, 19.5, 1555)}
GPUS["H100"] = GPU(989, 67, 3350)
# Side, GPUs, batch: seconds for a thousand images on V100 and A100, of StyleGAN2 by
# `--cfg=stylegan2 --map-depth=2`: NVlabs/stylegan3, docs/configs.md, "Old StyleGAN2-ADA
# configurations". Numbers only: that code's licence forbids more.
PUBLISHED = {
    (128, 1, 32): (12.51, 6.79),
    (128, 2, 64): (6.43, 3.45),
    (128, 4, 64): (3.82, 2.23),
    (256, 1, 16): (20.84, 12.53),
    (256, 2, 32): (10.93, 6.36),
    (256, 4, 64): (5.39, 3.20),
    (256, 8, 64): (3.89, 2.38),
    (512, 1, 8): (71.59, 41.06),
    (512, 2, 16): (36.79, 20.83),
    (512, 4, 32): (18.12, 10.45),
    (512, 8, 64): (9.09, 5.24),
    (1024, 1, 4): (141.83, 90.39),
    (1024, 2, 8): (73.13, 46.04),
    (1024, 4, 16): (36.95, 23.15),
    (1024, 8, 32): (18.47, 11.66),
}


@dataclass
class Work:
    """Of a step: multiply-adds of matrices times two, bytes, operations, weights."""

    half: float = 0  # FLOP in 16 bits
    single: float = 0  # FLOP in float32
    memory: float = 0  # bytes read and written
    ops: float = 0
    weights: int = 0

    def plus(self, other: Work, times: float) -> Work:
        names = ("half", "single", "memory", "ops")
        sums = (getattr(self, k) + times * getattr(other, k) for k in names)
        return Work(*sums, self.weights)


class Counter(TorchDispatchMode):
    """Counts operations as they are dispatched, those of double backward as well."""

    def __init__(self, single_below: int) -> None:
        super().__init__()
        self.single_below, self.work = single_below, Work()

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = op(*args, **(kwargs or {}))
        if op.is_view:
            return out
        tensors = [
            t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)
        ]
        self.work.ops += 1
        self.work.memory += sum(t.numel() * t.element_size() for t in tensors)
        count = flop_registry.get(op.overloadpacket)
        shapes = [a.shape for a in args if isinstance(a, torch.Tensor)]
        if count is None or is_filter(shapes):
            return out
        flop = count(*args, **(kwargs or {}), out_val=out)
        side = max((t.shape[-1] for t in tensors if t.ndim == 4), default=0)
        name = "half" if side > self.single_below else "single"
        setattr(self.work, name, getattr(self.work, name) + flop)
        return out


def nothing(*_: Any) -> None:
    """Adam has no kernel without values: its bytes are added."""


@cache
def count_step(config: GANConfig, batch: int, single_below: int = 0) -> Work:
    """A step's work on average over the penalties' interval; nothing is computed."""
    # Random numbers come from the processor: a device without values has none.
    shared, cpu = _training.SharedGenerator, torch.device("cpu")
    with patch.object(
        _training, "SharedGenerator", lambda ranks, _: shared(ranks, cpu)
    ):
        trainer = Trainer(config, 0, device="meta", dtype=torch.bfloat16)
    shape = (batch, config.n_channels, config.size, config.size)
    real = torch.zeros(shape, device="meta")
    found = Work()
    # Of sixteen steps of the game twelve are plain, three have the penalty of path
    # length, and one has both; between them are steps of contrast alone.
    every = config.adversarial_interval
    kinds = [(every, 12), (4 * every, 3), (0, 1)]
    if every > 1:
        kinds.append((1, INTERVAL * (every - 1)))
    for first, times in kinds:
        trainer.n_steps = first
        with Counter(single_below) as counter, patch.object(Adam, "step", nothing):
            trainer.step(real)
        found = found.plus(counter.work, times / INTERVAL / every)
    weights = {
        name: sum(p.numel() for g in optimizer.param_groups for p in g["params"])
        for name, optimizer in trainer.optimizers.items()
    }
    found.weights = (weights["generator"] + weights["discriminator"]) // every
    if config.contrast_learning_rate:
        found.weights += weights["contrast"]
    found.memory += ADAM_BYTES * found.weights
    return found


def count_embedding(config: GANConfig, features: str, batch: int) -> Work:
    """Of one crop."""
    network = config.discriminator(torch.Generator().manual_seed(0)).to("meta")
    network.dtype = torch.bfloat16
    shape = (batch, config.n_channels, config.size, config.size)
    with Counter(0) as counter, torch.no_grad():
        network.embed(torch.zeros(shape, device="meta"), features)
    return Work().plus(counter.work, 1 / batch)


def stylegan2(size: int, batch: int) -> GANConfig:
    return GANConfig(
        n_channels=3,
        size=size,
        latent_dim=512,
        n_mapping_layers=2,
        channel_base=16_384 if size < 512 else 32_768,
        channel_max=512,
        contrast_learning_rate=0.0,
        adversarial_batch=batch,
        augment=0.5,
    )


def preset(name: str, size: int) -> tuple[GANConfig, dict[str, Any]]:
    settings = PRESETS[name] | {"image_size": size, "augment": 0.2}
    shape = (settings["batch_size"], N_STAINS, size, size)
    images = ImageCollection.from_array(np.zeros(shape, np.uint8))
    return make_config(settings.__getitem__, images), settings


def terms(work: Work, gpu: GPU) -> np.ndarray:
    """Seconds of a step if each rate were at its peak, and the operations."""
    matrices = work.half / gpu.half + work.single / gpu.single
    return np.array([matrices / 1e12, work.memory / gpu.memory / 1e9, work.ops])


def published_steps() -> list[tuple[str, int, np.ndarray, float]]:
    """Card, side, terms and seconds of a step of each published configuration."""
    found, steps = {}, []
    for (size, n_gpus, batch), measured in PUBLISHED.items():
        each = batch // n_gpus
        if (size, each) not in found:
            # 16 bits in the four highest resolutions alone, as in the original.
            config = stylegan2(size, each)
            found[size, each] = count_step(config, each, single_below=size // 16)
        for name, seconds in zip(("V100", "A100"), measured, strict=True):
            row = terms(found[size, each], GPUS[name])
            steps.append((name, size, row, seconds * batch / 1000))
    return steps


def fit(steps: list[tuple[str, int, np.ndarray, float]]) -> np.ndarray:
    """What a unit of each term takes, not negative, by least relative squares."""
    return nnls(np.stack([row / s for *_, row, s in steps]), np.ones(len(steps)))[0]


def errors(steps: list[Any]) -> dict[str, list[float]]:
    """Predicted over published, less one, of what was fitted and of what was not."""
    unseen: dict[str, Callable[[Any], Any]] = {
        "fitted": lambda step: None,
        "other card": lambda step: step[0],
        "other side": lambda step: step[1],
    }
    found: dict[str, list[float]] = {}
    for name, key in unseen.items():
        found[name] = []
        for value in {key(step) for step in steps}:
            rest = [s for s in steps if key(s) != value] or steps
            rates = fit(rest)
            held = [s for s in steps if key(s) == value]
            found[name] += [float(row @ rates / s - 1) for *_, row, s in held]
    return found


def seconds_of(function: Callable[[], Any], least: float) -> float:
    """Processor seconds of a call: the shortest of three, after one to warm up."""
    function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < least and len(times) < 50):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """One thread: matrix peak, training and embedding by the default preset, PNG."""
    torch.set_num_threads(1)
    least, size = arguments.seconds, arguments.default_size
    dtype = activation_dtype("auto", "cpu")
    a = torch.randn(arguments.matrix, arguments.matrix).to(dtype)
    peak = 2 * arguments.matrix**3 / seconds_of(lambda: a @ a, least)
    config, settings = preset("default", size)
    trainer = Trainer(config, 0, dtype=dtype)
    n = settings["batch_size"]
    real = torch.zeros(n, N_STAINS, size, size)
    whole = INTERVAL * config.adversarial_interval if least else 1

    def steps() -> None:
        for _ in range(whole):
            trainer.step(real)

    # One interval is long enough for its penalties to weigh what they do.
    trainer.step(real)
    start = time.process_time()
    steps()
    image = (time.process_time() - start) / whole / n
    network = trainer.discriminator
    crops = torch.zeros(32, N_STAINS, size, size)

    def embed() -> None:
        with torch.inference_mode():
            network.embed(crops, "pooled")

    crop = seconds_of(embed, least) / 32
    step, of_crop = count_step(config, n), count_embedding(config, "pooled", 32)
    return {
        "type": str(dtype).removeprefix("torch."),
        "peak GFLOP/s": peak / 1e9,
        "training, images/s": 1 / image,
        "training, share of peak": (step.half + step.single) / n / image / peak,
        "embedding, crops/s": 1 / crop,
        "embedding, share of peak": (of_crop.half + of_crop.single) / crop / peak,
        **measure_png(least),
    }


def measure_png(least: float) -> dict[str, float]:
    """Seconds to decode a stain of a site, and its bytes: noise on a smooth image."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    mean = 20 + 60 * np.sin(8 * x) ** 2 * np.sin(7 * y) ** 2
    pixels = np.random.default_rng(0).poisson(mean).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    data = file.getvalue()
    decode = seconds_of(lambda: np.asarray(Image.open(io.BytesIO(data))), least)
    return {"PNG, s": decode, "PNG, bytes": float(len(data))}


def reduction(weights: int, n: int, link: float) -> float:
    """Seconds in which the gradients of n ranks, float32, go round a ring."""
    return 2 * (n - 1) / n * 4 * weights / (link * 1e9)


def predict(arguments: argparse.Namespace, rates: np.ndarray, here: dict) -> list[dict]:
    """Hours and money of training and embedding, and what it asks of the disk."""
    # As well as the published code's fused operations, and without any fused: every
    # byte counted goes through memory.
    eager = np.array([rates[0], 1 / arguments.bandwidth, rates[2]])
    rows = []
    plans = [
        ("default", arguments.default_size, PRESETS["default"]["max_kimg"]),
        ("default", arguments.default_size, arguments.long_kimg),
        ("paper", arguments.paper_size, PRESETS["paper"]["max_kimg"]),
    ]
    for name, size, kimg in plans:
        config, settings = preset(name, size)
        batch, what = settings["batch_size"], f"{name}, {size} px, {kimg:,.0f} kimg"
        n_tiles = len(tile_starts(SIDE, size)) ** 2
        # In the batches in which it is done, since launches are a batch's.
        site = ImageCollection.from_array(np.zeros((1, N_STAINS, SIDE, SIDE), np.uint8))
        crops = [
            count_embedding(config, settings["features"], at_once(site, size, where)[1])
            for where in ("cpu", "cuda")
        ]
        for n_gpus in (1, 8):
            each = batch // n_gpus
            step = count_step(preset_of(config, settings, each), each)
            for card, gpu in GPUS.items():
                comm = reduction(step.weights, n_gpus, arguments.link)
                own = terms(step, gpu)
                per_site = terms(crops[1], gpu) * n_tiles / n_gpus
                sites = [1 / float(per_site @ r) for r in (rates, eager)]
                steps = [float(own @ r) + comm for r in (rates, eager)]
                price = n_gpus * getattr(arguments, f"price_{card.lower()}")
                hours = [s * kimg * 1000 / batch / 3600 for s in steps]
                rows.append(
                    row_of(what, f"{n_gpus} {card}", hours, sites, price, price)
                )
        rows.append(
            on_processors(what, kimg, config, settings, crops[0], here, arguments)
        )
    return [row | io_rates(row["sites/s"], here, arguments) for row in rows]


def row_of(
    what: str,
    where: str,
    hours: list[float],
    sites: list[float],
    price: float,
    price_of_embedding: float,
) -> dict[str, Any]:
    embedding = [N_SITES / s / 3600 for s in sites]
    return {
        "preset": what,
        "on": where,
        "training, h": hours,
        "training, $": [h * price for h in hours],
        "embedding, h": embedding,
        "embedding, $": [h * price_of_embedding for h in embedding],
        "sites/s": sites,
    }


def preset_of(config: GANConfig, settings: dict[str, Any], batch: int) -> GANConfig:
    share = config.adversarial_batch * batch // settings["batch_size"]
    return GANConfig(**asdict(config) | {"adversarial_batch": share})


def on_processors(
    what: str,
    kimg: float,
    config: GANConfig,
    settings: dict[str, Any],
    crop: Work,
    here: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Cores as those here: two images a rank in training, all cores in embedding."""
    batch, cores = settings["batch_size"], arguments.cores
    n_ranks = max(1, batch // 2)
    step = count_step(config, batch)
    peak = here["peak GFLOP/s"] * 1e9
    second = (step.half + step.single) / peak / here["training, share of peak"]
    second = second / n_ranks + reduction(step.weights, n_ranks, arguments.network)
    site = (crop.half + crop.single) / peak / here["embedding, share of peak"]
    site = site * len(tile_starts(SIDE, config.size)) ** 2 + N_STAINS * here["PNG, s"]
    hours = second * kimg * 1000 / batch / 3600
    where = f"{n_ranks}; {cores} cores"
    price = arguments.price_core
    return row_of(what, where, [hours], [cores / site], n_ranks * price, cores * price)


def io_rates(
    sites: list[float], here: dict, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """What reading so many sites a second takes."""
    files = np.array(sites) * N_STAINS
    return {
        "MB/s": (files * here["PNG, bytes"] / 1e6).tolist(),
        "cores to decode": (files * here["PNG, s"]).tolist(),
        "requests at once": (files * arguments.latency_ms / 1000).tolist(),
    }


def short(x: float) -> str:
    """Three digits, without exponents."""
    return f"{x:.3g}" if x < 1000 else f"{float(f'{x:.3g}'):,.0f}"


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [
            v if isinstance(v, str) else " to ".join(map(short, sorted(v)))
            for v in row.values()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--default-size", type=int, default=64, help="crops of the default preset")
    add("--paper-size", type=int, default=256, help="crops of the paper's: assumed")
    add("--long-kimg", type=float, default=5000.0, help="a long default training")
    for name, price in (("v100", 1.0), ("a100", 2.0), ("h100", 3.0), ("core", 0.04)):
        add(f"--price-{name}", type=float, default=price, help="$ an hour: assumed")
    add("--cores", type=int, default=1000, help="of a cluster, for embedding")
    add("--link", type=float, default=50.0, help="GB/s between GPUs: assumed")
    add("--network", type=float, default=1.25, help="GB/s between nodes: assumed")
    add("--bandwidth", type=float, default=0.7, help="share of, unfused: assumed")
    add("--latency-ms", type=float, default=50.0, help="of an object store: assumed")
    add("--seconds", type=float, default=2.0, help="to measure each thing for")
    add("--matrix", type=int, default=2048, help="side of the matrices of the peak")
    add("--quick", action="store_true", help="does it run?")
    add("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.default_size = arguments.paper_size = 32
        arguments.seconds, arguments.matrix = 0.0, 256
        for key in [key for key in PUBLISHED if key[0] > 256]:
            del PUBLISHED[key]
    return arguments


def main() -> None:
    arguments = parse()
    here = measure_here(arguments)
    steps = published_steps()
    rates = fit(steps)
    misses = errors(steps)
    for name, value in here.items():
        print(f"{name}: {value if isinstance(value, str) else f'{value:.4g}'}")
    with np.errstate(divide="ignore"):
        matrix, memory = 1 / rates[:2]
    print(f"Share of matrix peak {matrix:.2f}, of bandwidth {memory:.2f}, ", end="")
    print(f"{1e6 * rates[2]:.0f} us an operation")
    for name, found in misses.items():
        size = np.abs(found)
        print(f"Error, {name}: median {np.median(size):.0%}, largest {size.max():.0%}")
    rows = predict(arguments, rates, here)
    print(table(rows))
    asked = {k: v for k, v in vars(arguments).items() if k != "out"}
    report = {"arguments": asked, "here": here, "rates": rates.tolist()}
    write(report | {"errors": misses, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
