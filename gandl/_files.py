"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Full, over its quota, broken, or the file too large: told without a name.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


@contextmanager
def whole_file(path: Path, *, new: bool = False) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` once all of it is on disk.

    Whatever goes wrong, what stood at ``path`` before stays, and nothing is left over.
    ``new``: FileExistsError if something stands there, even if it came meanwhile.
    """
    # Of the name that was asked for, by which formats go.
    suffix = "".join(path.suffixes)[-32:]
    name = path.name.removesuffix(suffix)[:64]
    path = Path(os.path.realpath(path))  # a link stays one
    part = path.with_name(f".{name}.{uuid.uuid4().hex}{suffix}")
    try:
        yield part
        _flush(part, os.O_RDWR)
        if new:
            _put(part, path)
        else:
            os.replace(part, path)
        with suppress(OSError):  # not every system opens folders
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        nameless = error.errno in _OF_DISKS and error.filename is None
        if nameless or error.filename == str(part):
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def put_folder(part: Path, path: Path) -> None:
    """Give a folder its name; what has it goes, or stays if that fails."""
    old = part.with_name(f"{part.name}.old")
    try:
        if path.exists():
            path.rename(old)
        part.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put(part: Path, path: Path) -> None:
    """Give a file its name, unless another has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # not every disk has links
        if path.exists():
            raise FileExistsError(f"{str(path)!r} exists.") from None
        os.replace(part, path)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
