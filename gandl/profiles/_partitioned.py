"""Profiles as a folder of parquet files, each of which is whole or not there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gandl._files import whole_file
from gandl._tables import is_of_disk
from gandl.profiles._tables import check_pyarrow, make_profiles

# Readers of folders of parquet leave out names that begin so.
_MANIFEST = "_gandl.json"
_ABANDONED = 3600.0  # seconds since a process last wrote to a file
_KEY = b"gandl"  # of a file's own metadata: of what it was made


class PartitionedProfiles:
    """A folder of profiles in partitions, for one identity.

    Parameters
    ----------
    folder : Path
        The folder; made, with a manifest in it, if it is not there.
    n_partitions : int
        How many there are to be.
    identity : dict of str to dict
        What the profiles are of, as JSON has it.

    Raises
    ------
    ValueError
        If the folder holds profiles of something else.
    FileExistsError
        If the folder holds what is no partition, or is a file.
    """

    def __init__(
        self, folder: Path, n_partitions: int, identity: dict[str, dict[str, Any]]
    ) -> None:
        check_pyarrow()
        self.folder, self.n_partitions = folder, n_partitions
        own = {**identity, "partitions": n_partitions}
        own = json.loads(json.dumps(own, default=lambda number: number.item()))
        if folder.is_file():
            raise FileExistsError(f"{str(folder)!r} is a file: name a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        # Of several processes that begin at once, one has its manifest there; the
        # others find it. It comes before all partitions.
        names = set(os.listdir(folder))
        foreign = sorted(name for name in names if not name.startswith("."))
        if _MANIFEST not in names and foreign:
            raise FileExistsError(
                f"{str(folder)!r} has {foreign[0]!r}, which is no partition of "
                "embeddings: name a new folder, or an empty one."
            )
        if _MANIFEST not in names:
            self._write_manifest(own)
        self._check(_manifest(folder), own)

    def path(self, number: int) -> Path:
        """Return where a partition is, or is to be."""
        return _partition(self.folder, number, self.n_partitions)

    def is_finished(self, number: int, origin: dict[str, Any]) -> bool:
        """Whether a partition is there; one that is cut off is not.

        Raises
        ------
        ValueError
            If it was made of something else than ``origin``.
        """
        path = self.path(number)
        found = _origin(path)
        if found is None:
            return False
        differ = [name for name in origin if found.get(name) != origin[name]]
        if differ:
            raise ValueError(
                f"{str(path)!r} was made of other {' and '.join(differ)} than "
                f"partition {number} has now. Name another folder, or delete the file "
                "to have it computed again."
            )
        return True

    def write(
        self, number: int, profiles: pd.DataFrame, schema: Any, origin: dict[str, Any]
    ) -> None:
        """Write a partition, and note in it what it was made of."""
        path = self.path(number)
        for left in self.folder.glob(f".{path.stem}.*"):
            with suppress(FileNotFoundError):
                # Of a process that was killed, not of one at work.
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()
        schema = schema.with_metadata({_KEY: json.dumps(origin)})
        with whole_file(path) as part:
            profiles.to_parquet(part, index=False, schema=schema)

    def _write_manifest(self, own: dict[str, Any]) -> None:
        text = json.dumps(own, indent=2) + "\n"
        try:
            with whole_file(self.folder / _MANIFEST, new=True) as part:
                part.write_text(text, encoding="utf-8")
        except FileExistsError:  # another process was faster
            pass

    def _check(self, then: dict[str, Any], now: dict[str, Any]) -> None:
        differences = [
            f"{name} was {before!r}, is {after!r}"
            for name, before, after in _differences(then, now)
        ]
        if differences:
            raise ValueError(
                f"{str(self.folder)!r} holds other embeddings: "
                f"{'; '.join(differences)}. Embed with what they were begun with, or "
                "name another folder."
            )


def read_partitions(folder: Path) -> pd.DataFrame:
    """Read all partitions of a folder as one table.

    Raises
    ------
    ValueError
        If the folder has none, or some are not there yet.
    """
    check_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / _MANIFEST).is_file():
        raise ValueError(
            f"{str(folder)!r} is a folder without {_MANIFEST!r}: no embeddings were "
            "written to it."
        )
    paths = partition_paths(folder)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(paths)} partitions are not in {str(folder)!r} "
            f"yet, the first: {missing[0].name!r}. Embed with what they were begun "
            "with, which computes those alone."
        )
    try:
        # Not what else may lie there, nor what the names of folders above may say.
        return pq.read_table(paths, partitioning=None).to_pandas()
    except (OSError, pa.ArrowInvalid):
        for path in paths:
            try:
                pq.read_table(path, partitioning=None)
            except (OSError, pa.ArrowInvalid) as error:
                if is_of_disk(error):
                    raise
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{str(path)!r} is damaged: {reason} Delete it, and embed again: "
                    "it alone is computed."
                ) from None
        raise


def partition_paths(folder: Path) -> list[Path]:
    """Where all partitions of a folder are, or are to be."""
    n = _manifest(folder)["partitions"]
    return [_partition(folder, number, n) for number in range(n)]


def profiles_schema(metadata: pd.DataFrame, names: list[str]) -> Any:
    """Types of all columns, so that partitions are alike where some hold no value.

    Raises
    ------
    ValueError
        If a column of metadata holds values of several kinds.
    """
    check_pyarrow()
    import pyarrow as pa

    known = make_profiles(np.empty((len(metadata), 0)), metadata, names=[])
    fields = []
    for name, column in known.items():
        try:
            type_ = pa.Array.from_pandas(column).type
        except pa.ArrowException as error:
            raise ValueError(
                f"The column {name!r} cannot be stored: {error}. Make its values of "
                "one kind, text say."
            ) from None
        fields.append(pa.field(str(name), type_))
    return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in names)])


def _partition(folder: Path, number: int, n_partitions: int) -> Path:
    width = max(5, len(str(n_partitions - 1)))  # sorted by name, as readers do
    return folder / f"part-{number:0{width}d}.parquet"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "partitions" not in manifest:
            raise ValueError("it lacks the number of partitions")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is broken: {error}. Name another folder."
        ) from None
    return manifest


def _origin(path: Path) -> dict[str, Any] | None:
    """What a partition was made of; None if it is not there or cut off."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        if is_of_disk(error):
            raise
        return None
    return json.loads(metadata.get(_KEY, b"{}"))


def _differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Names and values of what differs, inside nested dicts."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        if then != now:
            yield name, then, now
        return
    for key in {**then, **now}:
        inner = f"{name} {key}".strip()
        yield from _differences(then.get(key), now.get(key), inner)
