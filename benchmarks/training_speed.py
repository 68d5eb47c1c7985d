"""How many images a second training and embedding take, and where a step's time goes.

    python benchmarks/training_speed.py [--quick] [--profile] [--out speed.json]

Each configuration trains on made images for whole R1 intervals, which spreads the
penalties as a long training does: without instruments for speed, then with a clock that
books each moment to one part. A loss's part has its backward pass too; "data" is what a
step waits for the thread that reads ahead. Cases take turns; medians of repetitions.
``--profile`` adds, with backward passes apart, the floating-point operations of each
part and of embedding, the fraction it reaches of what a product of matrices reaches
here, and the time of the step and of embedding by kinds of operators.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _flops import CountFlops, matmul_peak
from _profile import by_kind
from _record import machine, write

from gandl._batches import training_batches
from gandl._embedding import embed
from gandl._presets import PRESETS, make_config
from gandl._tensors import activation_dtype
from gandl.gan import Generator, Trainer, _training
from gandl.images import ImageCollection, percentile_range

DEFAULT, WIDTHS = PRESETS["default"], ("latent_dim", "channel_base", "channel_max")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "no-contrast": DEFAULT | {"contrast_learning_rate": 0.0},
    "contrast-only": DEFAULT | {"adversarial_batch": 0},
    "paper-narrow": PRESETS["paper"] | {k: DEFAULT[k] for k in WIDTHS},
    "paper": PRESETS["paper"],
}
AUGMENT_P = 0.2  # where adaptation is taken to have come to
NUMBERS = {"size": 64, "channels": 3, "images": 512, "repetitions": 3}
MARGIN = 16  # pixels by which the made images exceed the crops

# Parts and the functions whose time they have, less that of others called in them.
WATCHED: list[tuple[str, Any, tuple[str, ...]]] = [
    ("dihedral, augmentation", _training, ("dihedral", "adaptive_augment")),
    ("views", _training, ("random_view",)),
    ("generator forward", Generator, ("styles", "synthesize")),
    ("adversarial loss", Trainer, ("_discriminator_loss",)),
    ("contrast", Trainer, ("_contrastive_loss",)),
    ("R1", Trainer, ("_r1",)),
    ("generator's update", Trainer, ("_update_generator",)),
    ("path length", Trainer, ("_path_length",)),
    ("average", Trainer, ("_update_average", "_update_embedder")),
    ("optimisers", torch.optim.Adam, ("step", "zero_grad")),
]
PARTS = ("data", *(part for part, _, _ in WATCHED), "other")
TRAINERS = [part for part, owner, _ in WATCHED if owner is Trainer]


class Clock:
    """Seconds of each part, each moment counted once: for the innermost part.

    ``read`` is the clock, or another meter; ``apart`` books backward passes apart.
    """

    def __init__(
        self,
        device: str,
        read: Callable[[], float] = time.perf_counter,
        *,
        apart: bool = False,
    ) -> None:
        self.wait = torch.cuda.synchronize if device.startswith("cuda") else None
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.stack, self.loss = ["other"], "other"
        self.apart, self.read, self.last = apart, read, read()

    def turn(self) -> None:
        if self.wait:
            self.wait()
        now, part = self.read(), self.stack[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def timed(self, function: Callable, part: str | None = None) -> Callable:
        """Book calls under ``part``, or, as a backward pass, under its loss's part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            name = part or self.loss
            if self.stack[-1] == "path length":  # it draws images of its own
                name = "path length"
            if name in TRAINERS:
                self.loss = name
            if part is None and self.apart:
                name += ", backward"
            self.turn()
            self.stack.append(name)
            result = function(*args, **kwargs)
            self.turn()
            self.stack.pop()
            return result

        return call

    def watch(self, stack: ExitStack) -> None:
        """Time the parts of training steps until ``stack`` is left."""
        for part, owner, names in [*WATCHED, (None, torch.Tensor, ("backward",))]:
            for name in names:
                timed = self.timed(getattr(owner, name), part)
                stack.enter_context(patch.object(owner, name, timed))


class Case:
    """One configuration at one number of threads, and what was measured of it."""

    def __init__(self, name: str, n_threads: int, arguments: argparse.Namespace):
        self.name, self.n_threads, self.device = name, n_threads, arguments.device
        settings = CONFIGURATIONS[name] | {"image_size": arguments.size}
        for key in ("batch_size", "channel_base", "channel_max"):
            settings[key] = getattr(arguments, key) or settings[key]
        self.images = made_images(arguments.images, arguments)
        self.range = percentile_range(self.images)
        self.batch_size = min(settings["batch_size"], len(self.images))
        self.features = settings["features"]
        self.config = make_config(settings.__getitem__, self.images)
        self.interval = self.config.r1_interval * self.config.adversarial_interval
        self.dtype = activation_dtype(arguments.precision, self.device)
        self.trainer = Trainer(self.config, 0, device=self.device, dtype=self.dtype)
        self.speeds: dict[str, list[float]] = {"training": [], "embedding": []}
        self.shares: list[np.ndarray] = []

    def measure(self, n_steps: int) -> None:
        torch.set_num_threads(self.n_threads)
        training, embedding = self.speeds.values()
        seconds = self.train(n_steps)
        training.append(n_steps * self.batch_size / sum(seconds.values()))
        seconds = self.train(n_steps, self.clock())
        self.shares.append(np.array([*seconds.values()]) / sum(seconds.values()))
        start = time.perf_counter()
        self.embed()
        embedding.append(len(self.images) / (time.perf_counter() - start))

    def clock(self, *meter: Callable[[], float], apart: bool = False) -> Clock:
        return Clock(self.device, *meter, apart=apart)

    def embed(self) -> np.ndarray:
        network, how = self.trainer.discriminator, {"device": self.device}
        how |= {"features": self.features, "size": self.config.size}
        return embed(network, self.images, self.range, **how)

    def train(self, n_steps: int, watch: Clock | None = None) -> dict[str, float]:
        """Seconds, or what else the clock reads, of each part; all "other" without."""
        how = {"size": self.config.size, "batch_size": self.batch_size}
        batches = training_batches(self.images, self.range, seed=[0], **how)

        def read() -> torch.Tensor:
            return torch.from_numpy(next(batches)).to(self.device)

        with closing(batches), ExitStack() as stack:
            read()  # the thread that reads ahead starts
            if self.config.augment is None:
                self.trainer.augment_p = AUGMENT_P
            clock = watch or self.clock()
            clock.last = clock.read()
            if watch:
                read = clock.timed(read, "data")
                clock.watch(stack)
            for _ in range(n_steps):
                self.trainer.step(read())
            clock.turn()
        return clock.seconds

    def profile(self, n_steps: int) -> dict[str, Any]:
        torch.set_num_threads(self.n_threads)
        peak = matmul_peak(self.dtype, self.device)
        seconds = self.train(n_steps, self.clock(apart=True))
        with CountFlops() as counted:
            flops = self.train(n_steps, self.clock(lambda: counted.flops, apart=True))
            counted.flops = 0
            self.embed()
        start = time.perf_counter()
        self.embed()
        embedding = time.perf_counter() - start
        n_images, total = n_steps * self.batch_size, sum(seconds.values())

        def of(flops: float, seconds: float, n_images: int) -> dict[str, float]:
            of_peak = flops / seconds / peak
            return {"gflop_per_image": flops / n_images / 1e9, "of_peak": of_peak}

        return {
            "peak": peak,
            "parts": {
                part: {"share": seconds[part] / total}
                | of(flops.get(part, 0), seconds[part], n_images)
                for part in sorted(seconds, key=lambda part: part.split(",")[0])
                if seconds[part]
            },
            "whole_embedding": of(counted.flops, embedding, len(self.images)),
            "step": by_kind(lambda: self.train(n_steps), self.device),
            "embedding": by_kind(self.embed, self.device),
        }

    def record(self) -> dict[str, Any]:
        speeds = {key: values[1:] for key, values in self.speeds.items()}
        shares = np.median(self.shares[1:], axis=0)  # the first warmed up
        return {
            "configuration": self.name,
            "threads": self.n_threads,
            "batch_size": self.batch_size,
            "features": self.features,
            "augment_p": self.trainer.augment_p,
            "dtype": str(self.dtype).removeprefix("torch."),
            "config": asdict(self.config),
            "images_per_second": {k: float(np.median(v)) for k, v in speeds.items()},
            "repetitions": speeds,
            "shares": dict(zip(PARTS, (shares / shares.sum()).tolist(), strict=True)),
        }


def made_images(n: int, arguments: argparse.Namespace) -> ImageCollection:
    shape = n, arguments.channels, *[arguments.size + MARGIN] * 2
    images = np.random.default_rng(0).integers(0, 4096, shape, dtype="uint16")
    return ImageCollection.from_array(images)


def table(cases: list[dict[str, Any]]) -> str:
    rows: dict[str, list[str]] = {"": [case["configuration"] for case in cases]}
    rows["threads, type"] = [f"{case['threads']}, {case['dtype']}" for case in cases]
    for key in ("training", "embedding"):
        speeds = [case["images_per_second"][key] for case in cases]
        rows[f"{key}, images/s"] = [f"{speed:.1f}" for speed in speeds]
    for part in PARTS:
        rows[part] = [f"{case['shares'][part]:.1%}" for case in cases]
    line = "{:22}" + "{:>15}" * len(cases)
    return "\n".join(line.format(label, *row) for label, row in rows.items())


def profile_tables(case: dict[str, Any]) -> str:
    found = case["profile"]
    lines = [
        f"{case['configuration']}, {case['threads']} threads, {case['dtype']}: a "
        f"product of matrices reaches {found['peak'] / 1e9:.0f} GFLOP/s",
        "",
        "| part | of the step | GFLOP an image | of the peak |",
        "|---|---|---|---|",
    ]
    for part, row in [*found["parts"].items(), ("embedding", found["whole_embedding"])]:
        share = f"{row['share']:.1%}" if "share" in row else "–"
        numbers = f"{row['gflop_per_image']:.3f} | {row['of_peak']:.0%}"
        lines.append(f"| {part} | {share} | {numbers} |")
    lines += ["", "| operators | step | embedding |", "|---|---|---|"]
    for kind, share in found["step"].items():
        lines.append(f"| {kind} | {share:.1%} | {found['embedding'][kind]:.1%} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/training_speed.json"))
    add("--quick", action="store_true", help="tiny, one thread: does it run?")
    add("--profile", action="store_true", help="operations, and time by operators")
    but_last = [*CONFIGURATIONS][:-1]
    add("--configurations", nargs="+", choices=CONFIGURATIONS, default=but_last)
    add("--threads", type=int, nargs="+", help="default: 1, and what torch would take")
    for name, default in NUMBERS.items():
        add(f"--{name}", type=int, default=default)
    for name in ("--batch-size", "--channel-base", "--channel-max"):
        add(name, type=int, help="default: the configuration's")
    add("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    add("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"size": 32, "images": 64, "batch_size": 8, "repetitions": 2}
        vars(arguments).update(quick, channel_base=512, channel_max=64, threads=[1])
    arguments.threads = arguments.threads or sorted({1, torch.get_num_threads()})
    return arguments


def main() -> None:
    arguments = parse()
    asked = {key: value for key, value in vars(arguments).items() if key != "out"}
    record: dict[str, Any] = {"machine": machine(), "arguments": asked}
    if record["machine"]["load_at_start"] > 0.5:
        print("The machine is busy: these are no figures to keep.")
    pairs = product(arguments.configurations, arguments.threads)
    cases = [Case(*pair, arguments) for pair in pairs]
    for repetition in range(arguments.repetitions + 1):
        for case in cases:
            case.measure(case.interval if repetition else 1)
    record["cases"] = [case.record() for case in cases]
    if arguments.profile:
        for case, found in zip(cases, record["cases"], strict=True):
            found["profile"] = case.profile(case.interval)
            print(profile_tables(found) + "\n")
    write(record, arguments.out)
    print(f"{table(record['cases'])}\nJSON: {arguments.out}")


if __name__ == "__main__":
    main()
