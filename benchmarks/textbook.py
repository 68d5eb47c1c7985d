"""gandl beside StyleGAN2 as the papers have it, and what each of its means is worth.

    python benchmarks/textbook.py [--quick] [--threads 2] [--out build/textbook.json]

Both train networks of one shape from the same weights, which is checked first: of the
same images they make the same logits and the same embedding, of the same styles the
same images. Compared is the adversarial game alone, with the same lazy penalties on
either side: contrast, augmentation, amplified detail are no part of StyleGAN2.

Each round times every case in turn: a step of each kind (with both penalties, with the
path length's, with none), which are weighted as they come in a training. Ratios are
taken within a round; the table has their median, and the least and the most. "undone"
is gandl with one of its means turned back to the textbook's form.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import _stylegan2_pytorch
import _textbook
import numpy as np
import torch
import torch.nn.functional as F
from _flops import CountFlops, matmul_peak
from _record import machine, write
from training_speed import MARGIN, made_images

from gandl import _batches
from gandl._tensors import activation_dtype
from gandl.gan import GANConfig, Trainer, _discriminator, _generator, _operators
from gandl.gan._layers import ModulatedConv2d
from gandl.gan._losses import discriminator_loss
from gandl.images import percentile_range

Undo = Callable[[ExitStack], None]


def channels_last(stack: ExitStack) -> None:
    stack.enter_context(patch.object(torch, "channels_last", torch.contiguous_format))


def modulation(stack: ExitStack) -> None:
    def grouped(self: ModulatedConv2d, x: Any, w: Any) -> tuple[Any, Any]:
        style, weight = self.style(w), self.weight * self.gain
        how = {"demodulate": self.demodulate, "up": self.up}
        x = _textbook.modulated_convolution(
            x, weight, style, **how, smooth=lambda x: _operators.blur(x, padding=1)
        )
        return x, x.new_ones(x.shape[:2]) if self.demodulate else None

    stack.enter_context(patch.object(ModulatedConv2d, "unscaled", grouped))


def filters(stack: ExitStack) -> None:
    for name in ("_Blur", "_Downsample", "_Upsample"):
        forward = getattr(_operators, name).forward

        def apply(*arguments: Any, forward: Callable = forward) -> Any:
            return forward(SimpleNamespace(), *arguments)

        by_autograd = SimpleNamespace(apply=apply)
        stack.enter_context(patch.object(_operators, name, by_autograd))


def activations(stack: ExitStack) -> None:
    def two_passes(x: Any) -> Any:
        return F.leaky_relu(x, 0.2) * 1.0

    for module in (_discriminator, _generator):
        stack.enter_context(patch.object(module, "leaky_relu_", two_passes))


def float32_penalties(stack: ExitStack) -> None:
    for name in ("_r1", "_path_length"):
        penalty = getattr(Trainer, name)

        def widened(self: Trainer, x: Any, penalty: Callable = penalty) -> Any:
            networks = (self.generator, self.discriminator)
            dtypes = [network.dtype for network in networks]
            for network in networks:
                network.dtype = torch.float32
            result = penalty(self, x)
            for network, dtype in zip(networks, dtypes, strict=True):
                network.dtype = dtype
            return result

        stack.enter_context(patch.object(Trainer, name, widened))


def fused(stack: ExitStack) -> None:
    class Plain(torch.optim.Adam):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"fused": False})

        def step(self) -> None:  # only a fused one can drop a step unasked
            self.found_inf = None
            super().step()

    stack.enter_context(patch.object(torch.optim, "Adam", Plain))


def reuse(stack: ExitStack) -> None:
    def adversarial_step(self: Trainer, real: Any) -> dict:
        def draw() -> Any:
            mixing = self.config.style_mixing
            ws = self.generator.styles(
                len(real), self.rng, mixing=mixing, step=self.n_steps
            )
            return self.generator.synthesize(ws, self.rng)

        with torch.no_grad():
            fake = draw()
        losses = self._update_discriminator(real, fake)
        losses["generator"] = self._update_generator(draw(), real)
        self._update_average(len(real))
        return losses

    stack.enter_context(patch.object(Trainer, "_adversarial_step", adversarial_step))


def one_batch(stack: ExitStack) -> None:
    def two_passes(self: Trainer, real: Any, fake: Any) -> Any:
        network = self.discriminator
        maps = network.trunk(real)[-1]
        network.track_stddev(maps, self.n_steps)
        return discriminator_loss("logistic", network.head(maps), network(fake))

    stack.enter_context(patch.object(Trainer, "_discriminator_loss", two_passes))


def read_ahead(stack: ExitStack) -> None:
    def in_line(function: Callable, items: Any, *_: Any) -> Iterator[Any]:
        return (function(item) for item in items)

    stack.enter_context(patch.object(_batches, "read_ahead", in_line))


def nothing(stack: ExitStack) -> None:
    pass


# What is turned back, and whether the embedding has it too.
UNDONE: dict[str, tuple[Undo, bool]] = {
    "channels_last": (channels_last, True),
    "modulation of maps": (modulation, False),
    "filter's own adjoint": (filters, False),
    "activations in a pass": (activations, True),
    "bfloat16": (nothing, True),  # a case in float32
    "bfloat16 in penalties": (float32_penalties, False),
    "lazy penalties": (nothing, False),  # intervals of one
    "fused optimiser": (fused, False),
    "reuse of fakes": (reuse, False),
    "real and fake at once": (one_batch, False),
    "reading ahead": (read_ahead, False),
}
OF_BFLOAT16 = ("bfloat16", "bfloat16 in penalties")
PEER = "stylegan2-pytorch"


class Case:
    """One way of training, and the seconds of its steps and embeddings by round."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name, self.device = name, arguments.device
        self.images, self.clock = made_images(128, arguments), CLOCKS[arguments.clock]
        self.batch_size, config = arguments.batch_size, make_config(arguments)
        self.dtype = activation_dtype(arguments.precision, self.device)
        self.undo, self.embeds, *_ = *UNDONE.get(name, (nothing, True)), None
        if name == "bfloat16":
            self.dtype = torch.float32
        if name == "lazy penalties":
            intervals = {"r1_interval": 1, "path_length_interval": 1}
            config = dataclasses.replace(config, **intervals)
        self.intervals = sorted([config.path_length_interval, config.r1_interval])
        if name == PEER:
            self.intervals, self.embeds = sorted(PEER_INTERVALS), False
        with self.undone():
            self.trainer = self.make(config)
        self.seconds: dict[str, list[float]] = {"training": [], "embedding": []}

    def make(self, config: GANConfig) -> Any:
        if self.name == PEER:
            self.dtype = torch.float32
            return _stylegan2_pytorch.Trainer(config, self.device)
        ours = Trainer(config, 0, device=self.device, dtype=self.dtype)
        if self.name != "textbook":
            return ours
        self.dtype = torch.float32
        trainer = _textbook.Trainer(config, self.device)
        trainer.load(ours.generator, ours.discriminator)
        return trainer

    @contextmanager
    def undone(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.name == "textbook":
                read_ahead(stack)
            self.undo(stack)
            yield

    def measure(self, *, warm_up: bool = False) -> None:
        with self.undone():
            by_kind = self.train()
            embedding = self.embed() if self.embeds else float("nan")
        short, long = self.intervals
        weights = np.array([1 / long, 1 / short - 1 / long, 1 - 1 / short])
        if not warm_up:
            self.seconds["training"].append(float(weights @ by_kind))
            self.seconds["embedding"].append(embedding)

    def train(self) -> list[float]:
        """Seconds of a step with both penalties, the more frequent one, and none."""
        how = {"size": self.images.shape[2] - MARGIN, "batch_size": self.batch_size}
        wide = percentile_range(self.images)
        batches = _batches.training_batches(self.images, wide, seed=[0], **how)
        seconds = []
        next(batches)  # the thread that reads ahead starts
        for n_steps in (0, self.intervals[0], 1):
            start = self.clock()
            self.trainer.n_steps = n_steps
            self.trainer.step(torch.from_numpy(next(batches)).to(self.device))
            self.wait()
            seconds.append(self.clock() - start)
        batches.close()
        return seconds

    def embed(self) -> float:
        """Seconds of embedding a batch, the network alone."""
        network, n = self.trainer.discriminator, 4
        features = () if self.name == "textbook" else ("pooled",)
        images = made_batch(self.trainer.config, self.batch_size).to(self.device)
        start = self.clock()
        with torch.inference_mode():
            for _ in range(n):
                network.embed(images, *features)
        self.wait()
        return (self.clock() - start) / n

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def record(self, first: Case) -> dict[str, Any]:
        """Images a second, and the ratio to another case's, round by round."""
        record: dict[str, Any] = {"case": self.name, "dtype": str(self.dtype)}
        for what, seconds in self.seconds.items():
            ratios = np.array(seconds) / np.array(first.seconds[what])
            speeds = self.batch_size / np.array(seconds)
            record[what] = {
                "images_per_second": np.median(speeds).item(),
                "times_as_slow": np.median(ratios).item(),
                "least": ratios.min().item(),
                "most": ratios.max().item(),
                "rounds": speeds.tolist(),
            }
        return record


PEER_INTERVALS = _stylegan2_pytorch.INTERVALS.values()
# Of a busy machine with one thread, the processor's time says more.
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def make_config(arguments: argparse.Namespace) -> GANConfig:
    return GANConfig(
        n_channels=arguments.channels,
        size=arguments.size,
        n_mapping_layers=arguments.mapping_layers,
        channel_base=arguments.channel_base,
        channel_max=arguments.channel_max,
        adversarial_batch=arguments.batch_size,
        contrast_learning_rate=0.0,
        augment=0.0,
    )


def made_batch(config: GANConfig, n: int) -> torch.Tensor:
    shape = n, config.n_channels, config.size, config.size
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def differences(config: GANConfig, device: str = "cpu") -> dict[str, float]:
    """How far gandl's outputs are from the textbook's, by the largest of either."""
    ours, theirs = Trainer(config, 0, device=device), _textbook.Trainer(config, device)
    for conv in ours.generator.convs:
        conv.noise_strength.fill_(0.3)  # at first it is zero
    theirs.load(ours.generator, ours.discriminator)
    images = made_batch(config, 8).to(device)
    ws = ours.generator.styles(8, ours.rng, mixing=0.9)
    state = ours.rng.get_state()
    outputs = []
    for trainer in (ours, theirs):
        network, features = trainer.discriminator, ("pooled",)
        embedded = network.embed(images, *features[: trainer is ours])
        trainer.rng.set_state(state)
        made = trainer.generator.synthesize(ws, trainer.rng)
        outputs.append([network(images), embedded, made])
    return {
        name: ((a - b).abs().max() / a.abs().max()).item()
        for name, a, b in zip(("logits", "embedding", "images"), *outputs, strict=True)
    }


def fraction_of_peak(case: Case) -> dict[str, float]:
    """FLOPs an image of gandl's step and embedding, and FLOP/s of matrix products."""
    found = {"peak": matmul_peak(case.dtype, case.device)}
    with case.undone(), CountFlops() as counted:
        case.trainer.n_steps = 1
        images = made_batch(case.trainer.config, case.batch_size).to(case.device)
        case.trainer.step(images)
    found["plain step"] = counted.flops / case.batch_size
    with torch.no_grad(), CountFlops() as counted:  # inference hides convolutions
        case.trainer.discriminator.embed(images, "pooled")
    return found | {"embedding": counted.flops / case.batch_size}


def table(cases: list[dict[str, Any]], what: str) -> str:
    def spread(case: dict[str, Any]) -> list[str]:
        numbers = [case[what][k] for k in ("images_per_second", "times_as_slow")]
        return [f"{n:.2f}" for n in numbers] + [
            f"{case[what]['least']:.2f} to {case[what]['most']:.2f}"
        ]

    rows = [["", "type", "images/s", "gandl is faster by", "over rounds"]]
    for case in cases:
        if case[what]["images_per_second"] > 0:
            kind = case["dtype"].removeprefix("torch.")
            undone = " undone" if case["case"] in UNDONE else ""
            rows.append([case["case"] + undone, kind, *spread(case)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return f"{what}:\n" + "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/textbook.json"))
    add("--quick", action="store_true", help="tiny, one thread: does it run?")
    every = ["textbook", PEER, *UNDONE]
    add("--cases", nargs="*", choices=every, default=every, help="beside gandl")
    numbers = {"rounds": 3, "threads": torch.get_num_threads(), "batch-size": 32}
    network = {"size": 64, "channels": 3, "channel-base": 2048, "channel-max": 256}
    for name, default in {**numbers, **network, "mapping-layers": 8}.items():
        add(f"--{name}", type=int, default=default)
    add("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    add("--clock", choices=CLOCKS, default="wall")
    add("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"size": 32, "channel_base": 256, "channel_max": 32, "threads": 1}
        vars(arguments).update(quick, batch_size=8, rounds=1, mapping_layers=2)
    return arguments


def make_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    kind = activation_dtype(arguments.precision, arguments.device)
    for name in ["gandl", *arguments.cases]:
        if name in OF_BFLOAT16 and kind != torch.bfloat16:
            print(f"{name}: left out, all is in {kind}")
            continue
        try:
            yield Case(name, arguments)
        except ImportError as error:
            print(f"Left out: {error}")


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    asked = {key: value for key, value in vars(arguments).items() if key != "out"}
    record: dict[str, Any] = {"machine": machine(), "arguments": asked}
    if record["machine"]["load_at_start"] > 0.5 and arguments.clock == "wall":
        print("The machine is busy: these are no figures to keep.")
    record["differences"] = differences(make_config(arguments), arguments.device)
    assert max(record["differences"].values()) < 1e-4, record["differences"]
    cases = list(make_cases(arguments))
    for case in cases:
        case.measure(warm_up=True)
    for number in range(arguments.rounds):
        # There and back: a load that grows or falls favours none.
        for case in cases[:: 1 if number % 2 else -1]:
            case.measure()
    record["flops"] = fraction_of_peak(cases[0])
    record["cases"] = [case.record(cases[0]) for case in cases]
    write(record, arguments.out)
    for what in ("training", "embedding"):
        print(table(record["cases"], what) + "\n")
    print(f"Matrix products: {record['flops']['peak'] / 1e9:.0f} GFLOP/s")
    print(f"JSON: {arguments.out}")


if __name__ == "__main__":
    main()
