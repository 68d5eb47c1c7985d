"""Archives from elsewhere: unpacked whole and inside their folder, or not at all."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from gandl.datasets._http import RemoteFile, Web
from gandl.datasets._write import new_folder

# Tables shrink to a tenth, images not at all.
_MOST_RATIO = 100
_SMALL = 2**30  # bytes that any archive may hold
_MEMBER_LIMIT = 2**26  # bytes of one image
_LOCAL_HEADER = struct.Struct("<26xHH")
_SLACK = 512  # bytes that a local header usually has room in
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression or version that zipfile does not know
    UnicodeError,
)


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file to a folder that does not exist yet.

    Refused are members whose path leaves the folder, links, devices, what is there
    twice, what is encrypted, and archives that promise out of proportion much. The
    folder is then not there.
    """
    most = max(_SMALL, _MOST_RATIO * archive.stat().st_size)
    try:
        with new_folder(folder, overwrite=False) as part, _members(archive) as members:
            _unpack_members(archive, members, part, most)
    except _DAMAGE as error:
        raise ValueError(
            f"Cannot unpack {str(archive)!r}: {error or type(error).__name__}. Fetch "
            "it again."
        ) from error


def _unpack_members(
    archive: Path, members: Iterator[_Member], folder: Path, most: int
) -> None:
    promised, seen = 0, set()
    for member in members:
        parts = _safe_parts(archive, member)
        promised += member.size
        if promised > most:
            raise ValueError(
                f"{str(archive)!r} promises more than {most / 2**30:.4g} GiB, at "
                f"{member.name!r}, out of all proportion: it was not unpacked."
            )
        target = folder.joinpath(*parts)
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        if target in seen or target.exists():
            raise _refused(archive, member, "is there twice")
        seen.add(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        if source is None:
            raise _refused(archive, member, "is no file")
        with source, target.open("xb") as file:
            shutil.copyfileobj(source, file)


def _safe_parts(archive: Path, member: _Member) -> list[str]:
    name = member.name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    leaves = name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name)
    if leaves or "\0" in name:
        raise _refused(archive, member, "has a path that leaves the folder")
    if not (member.is_file or member.is_folder):
        raise _refused(archive, member, "is a link or a device, or is encrypted")
    return parts


def _refused(archive: Path, member: _Member, why: str) -> ValueError:
    return ValueError(
        f"{str(archive)!r} was not unpacked: its member {member.name!r} {why}. Such an "
        "archive is not to be trusted."
    )


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield (_tar_member(tar, info) for info in tar)
    else:
        raise tarfile.ReadError("it is no zip or tar file")


def _zip_member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    # The name as stored: zipfile cuts it at a null character.
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_plain = kind in (0, stat.S_IFREG) and not info.flag_bits & 1
    return _Member(
        info.orig_filename,
        info.file_size,
        is_folder=info.is_dir(),
        is_file=is_plain,
        open=lambda: zipped.open(info),
    )


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    return _Member(
        info.name,
        info.size,
        is_folder=info.isdir(),
        is_file=info.isreg(),
        open=lambda: tar.extractfile(info),
    )


class RemoteZip:
    """A zip file on a server, of which single members are taken.

    Its list of members is read once; each member is then one request.
    """

    def __init__(self, web: Web, url: str) -> None:
        self.url = url
        self._file = RemoteFile(web, url)
        try:
            with zipfile.ZipFile(self._file) as zipped:
                self.members = {info.filename: info for info in zipped.infolist()}
        except _DAMAGE as error:
            raise ValueError(f"{url} is no zip file: {error}.") from error

    def read(self, name: str) -> bytes:
        info = self.members[name]
        if max(info.file_size, info.compress_size) > _MEMBER_LIMIT:
            raise self._damaged(name, f"it promises {info.file_size} bytes")
        if info.flag_bits & 1:
            raise self._damaged(name, "it is encrypted")
        header = _LOCAL_HEADER.size
        start = info.header_offset
        likely = start + header + len(name) + _SLACK + info.compress_size
        block = self._file.read_at(start, likely)
        if block[:4] != b"PK\3\4" or len(block) < header:
            raise self._damaged(name, "it is not where the list of members has it")
        begin = header + sum(_LOCAL_HEADER.unpack_from(block))
        end = begin + info.compress_size
        if len(block) < end:
            block = self._file.read_at(start, start + end)
        data = self._inflate(info, block[begin:end])
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise self._damaged(name, "its length or check sum is wrong")
        return data

    def _inflate(self, info: zipfile.ZipInfo, data: bytes) -> bytes:
        if info.compress_type == zipfile.ZIP_STORED:
            return data
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise self._damaged(info.filename, "it is packed in an unusual way")
        try:
            # Not more than is promised, whatever it grows to.
            return zlib.decompressobj(-15).decompress(data, info.file_size + 1)
        except zlib.error as error:
            raise self._damaged(info.filename, str(error)) from error

    def _damaged(self, name: str, why: str) -> ValueError:
        return ValueError(f"Cannot take {name!r} out of {self.url}: {why}.")
