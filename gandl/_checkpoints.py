"""Checkpoints of a training: all that a later step depends on, in safetensors files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import gandl
from gandl._extras import require_safetensors
from gandl._storage import read_safetensors, write_safetensors
from gandl._tensors import to_arrays, to_tensors
from gandl._warnings import warn
from gandl.images import ImageCollection
from gandl.images._illumination import illumination_groups
from gandl.images._intensity import spaced

_KIND = "checkpoint"
_FORMAT = 1
_PREFIX, _SUFFIX = "step-", ".safetensors"
_KEPT = 2
_SECONDS = 300.0  # between two checkpoints
_N_DIGESTED = 16  # images of those on disk that stand for all


@contextmanager
def checkpoints_in(folder: Path, identity: dict[str, Any]) -> Iterator[Checkpoints]:
    """The checkpoints of one training in a folder, which is its own meanwhile.

    Raises
    ------
    ValueError
        If another training, of this process or another, is at work in the folder.
    """
    require_safetensors()  # told now, not after hours
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"Checkpoints take a folder, and {str(folder)!r} is a file: name another "
            "checkpoint_dir (--checkpoint)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"{str(folder)!r} cannot be written to: name another checkpoint_dir "
            "(--checkpoint)."
        )
    with _own(folder):
        yield Checkpoints(folder, identity)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Lock a folder, where the system can; a lock ends with its process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(
            f"Another training is at work in {str(folder)!r}: wait for its end, or "
            "name another checkpoint_dir. Each training takes a folder of its own."
        ) from None
    except OSError:  # some network disks lock no folders
        pass
    try:
        yield
    finally:
        os.close(descriptor)


class Checkpoints:
    """The checkpoints of one training in a folder of its own.

    Parameters
    ----------
    folder : Path
        Where they are.
    identity : dict
        What a training is told from others by, as JSON has it: its parameters, under
        "parameters", and its data, under "data".
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity, default=_plain))
        # Of a process that was killed while it wrote.
        for unfinished in folder.glob(f".{_PREFIX}*{_SUFFIX}"):
            unfinished.unlink()
        self.saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one was saved long enough ago."""
        return time.monotonic() - self.saved >= _SECONDS

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, and remove all but the last two.

        Where that fails, for a full disk say, a warning tells so and earlier ones stay.
        """
        self.saved = time.monotonic()
        arrays: dict[str, np.ndarray] = {}
        header = {
            "kind": _KIND,
            "format": _FORMAT,
            "version": gandl.__version__,
            "identity": self.identity,
            "state": _described(to_arrays(state), arrays),
        }
        path = self.folder / f"{_PREFIX}{step:09d}{_SUFFIX}"
        try:
            write_safetensors(path, arrays, header)
        except OSError as error:
            remedy = " Make room there." * (error.errno == errno.ENOSPC)
            warn(
                f"No checkpoint was written at step {step}: {error}. Nothing else is "
                f"lost: what {str(self.folder)!r} holds from before is whole."
                f"{remedy}",
                RuntimeWarning,
            )
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, tensors on the CPU, if there is one.

        Where the last one is broken, it is told, and the one before serves.

        Raises
        ------
        ValueError
            If it is of another training or version, or all are broken.
        """
        broken = []
        for path in reversed(self._paths()):
            try:
                arrays, header = read_safetensors(path)
            except ValueError as error:
                broken.append(str(error))
                continue
            self._check(header, path)
            for text in broken:
                warn(
                    f"{text} The checkpoint before it serves.",
                    RuntimeWarning,
                )
            return to_tensors(_restored(header["state"], arrays))
        if broken:
            raise ValueError(
                f"No checkpoint can be read: {' '.join(broken)} Remove them from "
                f"{str(self.folder)!r} to begin anew."
            )
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*{_SUFFIX}"))

    def _check(self, header: dict[str, Any], path: Path) -> None:
        if header.get("kind") != _KIND:
            raise ValueError(f"{str(path)!r} is no checkpoint: name another folder.")
        version = header["version"]
        if (header["format"], version) != (_FORMAT, gandl.__version__):
            raise ValueError(
                f"{str(path)!r} is a checkpoint of gandl {version}, this is "
                f"{gandl.__version__}: finish the training with that version, or name "
                "another checkpoint_dir to begin anew."
            )
        then, now = header["identity"], self.identity
        differences = [
            f"{name} was {then[part].get(name)!r}, is {now[part].get(name)!r}"
            for part in ("parameters", "data")
            for name in {**then[part], **now[part]}
            if then[part].get(name) != now[part].get(name)
        ]
        if differences:
            raise ValueError(
                f"{str(path)!r} is a checkpoint of another training: "
                f"{'; '.join(differences)}. Fit with what it was begun with, or name "
                "another checkpoint_dir."
            )


def data_identity(
    images: ImageCollection, intensity_range: np.ndarray | None
) -> dict[str, Any]:
    """What tells a collection from others: its shape, and digests.

    Of images in memory, all pixels; of files, all sizes and the pixels of a few, some
    of each group of one illumination among them. Not their paths, which differ from one
    node of a cluster to the next.
    """
    pixels, ranges, rows = hashlib.sha256(), hashlib.sha256(), np.arange(len(images))
    sizes = images._source.file_sizes()
    if sizes is not None:
        pixels.update(sizes[images._rows].tobytes())
    if sizes is not None or images.nbytes > images.byte_limit:
        rows = spaced(rows, _N_DIGESTED)
        if (groups := illumination_groups(images._source)) is not None:
            _, first = np.unique(groups[images._rows], return_index=True)
            rows = np.union1d(rows, first)
    for row in rows:
        pixels.update(images.load_batch([row]).tobytes())
    if intensity_range is not None:
        ranges.update(np.ascontiguousarray(intensity_range, np.float64).tobytes())
    return {
        "shape": list(images.shape),
        "dtype": str(images.dtype),
        "channels": list(images.channels),
        "digest of pixels": pixels.hexdigest()[:16],
        "digest of intensity ranges": ranges.hexdigest()[:16],
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _described(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Nested dicts and lists as JSON, their arrays put aside and named."""
    if isinstance(tree, np.ndarray):
        name = str(len(arrays))
        arrays[name] = tree
        return {"array": name}
    if isinstance(tree, dict):  # pairs, since keys may be numbers
        return {"dict": [[k, _described(v, arrays)] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_described(value, arrays) for value in tree]
    return tree


def _restored(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_restored(value, arrays) for value in tree]
    if isinstance(tree, dict) and "array" in tree:
        return arrays[tree["array"]]
    if isinstance(tree, dict):
        return {k: _restored(value, arrays) for k, value in tree["dict"]}
    return tree
