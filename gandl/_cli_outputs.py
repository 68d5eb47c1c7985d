"""Files and folders that the command line writes, whole or not at all."""

from __future__ import annotations

import argparse
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gandl._cli_arguments import tell
from gandl._cli_record import inputs
from gandl._files import put_folder
from gandl.plotting._style import pyplot
from gandl.profiles._tables import check_pyarrow

# What scoring and screening leave in their folder.
_OUTPUTS = {
    "compounds.csv",
    "controls.csv",
    "effects.csv",
    "images.parquet",
    "model.safetensors",
    "report.html",
    "run.json",
    "wells.parquet",
}


def _free(options: argparse.Namespace) -> Path:
    out: Path = options.out
    if out.exists() and not options.overwrite:
        raise FileExistsError(f"{str(out)!r} exists: name another, or --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def free_file(options: argparse.Namespace) -> Path:
    """Where a file is to be written; what forbids it is told before hours of work."""
    out = _free(options)
    if out.is_dir():
        raise IsADirectoryError(f"{str(out)!r} is a folder: name a file in it.")
    folder = Path(os.path.realpath(out)).parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{str(out)!r} is a link into {str(folder)!r}, which is not there."
        )
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{str(folder)!r} cannot be written to.")
    return out


def save_model(model: Any, options: argparse.Namespace) -> None:
    """Save a model that took hours; where that fails, in a temporary folder."""
    try:
        model.save(options.out, overwrite=options.overwrite)
    except OSError:
        with suppress(OSError):
            kept = Path(tempfile.mkdtemp(prefix="gandl-")) / options.out.name
            model.save(kept)
            tell(f"The model is in {kept}: move it to where it is to stay.")
        raise


def _check_replaced(options: argparse.Namespace) -> None:
    """Refuse to take the place of what gandl did not write, or is to read."""
    folder = _free(options)
    if not folder.exists():
        return
    if os.path.ismount(folder):
        raise FileExistsError(
            f"{str(folder)!r} is a disk of its own: name a folder in it by --out."
        )
    others = sorted({entry.name for entry in folder.iterdir()} - _OUTPUTS)
    if others:
        raise FileExistsError(
            f"{str(folder)!r} has {others[0]!r}, which was not written by gandl: it "
            "is not overwritten. Name another folder."
        )
    for path in inputs(options).values():
        if folder.resolve() in path.resolve().parents:
            raise FileExistsError(
                f"{str(path)!r} is to be read, and lies in --out, which is to be "
                "overwritten: name another folder."
            )


@contextmanager
def new_folder(options: argparse.Namespace) -> Iterator[Path]:
    """A folder that takes its place once it is complete."""
    check_pyarrow()
    if options.positive is not None:  # there is a report
        pyplot()
    final: Path = options.out
    _check_replaced(options)
    part = final.with_name(f"{final.name}.incomplete.{uuid.uuid4().hex[:8]}")
    part.mkdir()
    try:
        yield part
        _check_replaced(options)  # something may have come meanwhile
        put_folder(part, final)
    except BaseException:
        # Hours of training may be in it.
        if any(part.iterdir()):
            tell(f"What was done so far is in {part}")
        else:
            part.rmdir()
        raise
    print(f"Results: {final}")
    if (final / "report.html").is_file():
        print(f"Report:  {final / 'report.html'}")
