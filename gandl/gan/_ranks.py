"""Processes that train together, each on its share of every batch.

Double backward breaks the hooks of DistributedDataParallel, so gradients are averaged
by hand, in one piece. All ranks draw the same random numbers, for the whole batch, and
take their share: what is learned does not depend on how many they are.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# Neighbours in a batch that stay together: a group of the minibatch standard deviation.
GROUP = 4
# A rank that has died is noticed at once; this is for one that hangs.
_TIMEOUT = timedelta(minutes=30)


class LostRankError(ConnectionError):
    """Another process does not answer any more."""


class Ranks:
    """One process alone, and what several have to agree on."""

    rank, size = 0, 1

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """What is this rank's of something that counts the whole batch's images.

        Groups of four neighbours are dealt out in turn: the first n images of a batch
        are the first of each rank, and no group is split.
        """
        return whole

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, float32 on the device, by their means over ranks."""

    def gather(self, own: Tensor) -> Tensor:
        """Put the rows of all ranks together, for a loss that all compute alike."""
        return own

    def largest(self, *values: float) -> tuple[float, ...]:
        """Each value the largest of any rank, so that all decide alike."""
        return values

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first rank computes, on every rank."""
        return compute()


class SharedGenerator(torch.Generator):
    """A generator of random numbers for batches that ranks share."""

    ranks: Ranks

    def __new__(cls, ranks: Ranks, device: torch.device) -> SharedGenerator:
        rng = super().__new__(cls, device)  # type: ignore[call-arg]
        rng.ranks = ranks
        return rng


def _drawn(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    rng: torch.Generator,
    device: torch.device | str,
    dim: int = 0,
) -> Tensor:
    """Draw numbers for this rank's images, which dimension ``dim`` counts."""
    ranks = rng.ranks if isinstance(rng, SharedGenerator) else ALONE
    whole = [n * (ranks.size if k == dim else 1) for k, n in enumerate(shape)]
    return ranks.share(draw(whole, generator=rng, device=device), dim)


rand, randn = partial(_drawn, torch.rand), partial(_drawn, torch.randn)
ALONE = Ranks()


class ProcessRanks(Ranks):
    """The processes of the default group of ``torch.distributed``."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # What is decided on the CPU is not to wait for a GPU.
        with self._told():
            self.group = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        together = math.gcd(GROUP, whole.shape[dim] // self.size)
        dealt = whole.unflatten(dim, (-1, self.size, together))
        return dealt.select(dim + 1, self.rank).flatten(dim, dim + 1)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._told():
            dist.all_reduce(flat)
        means = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def gather(self, own: Tensor) -> Tensor:
        with self._told():
            return _Gather.apply(own, self.rank, self.size)

    def largest(self, *values: float) -> tuple[float, ...]:
        agreed = torch.tensor(values, dtype=torch.float64)
        with self._told():
            dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.group)
        return tuple(agreed.tolist())

    def from_first(self, compute: Callable[[], T]) -> T:
        sent: list[Any] = [compute() if self.rank == 0 else None]
        with self._told():
            dist.broadcast_object_list(sent, group=self.group)
        return sent[0]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LostRankError(
                f"Rank {self.rank} of {self.size} has lost another, which failed, was "
                "killed or hung: look for its error, which came first. Training with "
                "the same parameters continues from checkpoint_dir, if one was given, "
                "on any number of ranks that divides the batch. PyTorch says: "
                f"{error}"
            ) from error


class _Gather(torch.autograd.Function):
    """Rows of all ranks, (N, d) to (size * N, d), rank by rank.

    Each rank goes on to compute the same loss from them. Its gradient by the rank's own
    rows is then known without asking, and ``size`` times what the mean of gradients
    over ranks is to have.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        parts = [torch.empty_like(own) for _ in range(size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.size * grad.chunk(ctx.size)[ctx.rank], None, None


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun, or an own process group, has this process train with.

    A group is made, for as long as the block lasts, where there is none.
    """
    if not dist.is_available() or not (dist.is_initialized() or _is_launched()):
        yield ALONE
        return
    ours = not dist.is_initialized()
    if ours:
        _make_group(device)
    try:
        if dist.get_world_size() == 1:
            yield ALONE
            return
        ranks = ProcessRanks()
        try:
            yield ranks
        finally:
            dist.destroy_process_group(ranks.group)
    finally:
        if ours:
            dist.destroy_process_group()


def _is_launched() -> bool:
    """Whether torchrun, or what sets its variables, has started several processes."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _make_group(device: torch.device) -> None:
    if multiprocessing.parent_process() is not None:
        raise RuntimeError(
            f"This process was started by rank {os.environ['RANK']} of "
            f"{os.environ['WORLD_SIZE']}, all of which train one model together: a "
            "search or cross-validation under torchrun takes n_jobs=None."
        )
    if device.type == "cuda" and device.index is None:
        raise ValueError(
            "Several processes train together, and none knows its own GPU: set "
            "LOCAL_RANK for each, as torchrun does, or device."
        )
    if "MASTER_ADDR" not in os.environ:
        raise ValueError(
            "RANK and WORLD_SIZE are set, and MASTER_ADDR is not: start by torchrun, "
            "which sets all, or unset both to train in this process alone."
        )
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=_TIMEOUT)))
    # Addresses of an earlier group of these processes are still in the store.
    n_before = store.add(f"gandl/{rank}", 1)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"gandl/{n_before}", store),
            rank=rank,
            world_size=size,
            timeout=_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        raise ConnectionError(
            f"Rank {rank} of {size} cannot connect to the others. On several machines, "
            "each is to find the others by name; where a machine's own name stands for "
            "127.0.0.1 or 127.0.1.1, set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME for "
            "GPUs) to the network interface that leads to the others, such as eth0. "
            f"PyTorch says: {error}"
        ) from error


def check_batch(batch_size: int, adversarial_batch: int, ranks: Ranks) -> None:
    """Refuse a batch that ranks cannot share without splitting a group of four."""
    step = GROUP * ranks.size
    if ranks.size > 1 and (batch_size % step or adversarial_batch % step):
        raise ValueError(
            f"{ranks.size} ranks are to share batches of {batch_size} (batch_size, or "
            f"all images where they are fewer) and {adversarial_batch} images "
            f"(adversarial_batch): both are to be multiples of {step}, four images a "
            f"rank. batch_size={4 * step} alone will do, of no fewer images than that."
        )
