"""Zip files from elsewhere: single members, whole or not at all."""

from __future__ import annotations

import shutil
import struct
import zipfile
import zlib
from pathlib import Path

from gandl._files import whole_file
from gandl.datasets._http import RemoteFile, Web

# Tables shrink to a tenth, images not at all.
_MOST_RATIO = 100
_SMALL = 2**30  # bytes that any archive may hold
_MEMBER_LIMIT = 2**26  # bytes of one image
_LOCAL_HEADER = struct.Struct("<26xHH")
_SLACK = 512  # bytes that a local header usually has room in
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression or version that zipfile does not know
    UnicodeError,
)


def extract(archive: Path, name: str, target: Path) -> None:
    """Take the one file of a name, in whatever folder, out of a zip file."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            found = [
                info
                for info in zipped.infolist()
                if not info.is_dir() and info.filename.rpartition("/")[2] == name
            ]
            if len(found) != 1:
                raise ValueError(
                    f"{str(archive)!r} holds {len(found)} files {name!r}, where one is "
                    "expected."
                )
            most = max(_SMALL, _MOST_RATIO * archive.stat().st_size)
            if found[0].file_size > most:
                raise ValueError(
                    f"{str(archive)!r} promises more than {most / 2**30:.4g} GiB, at "
                    f"{found[0].filename!r}, out of all proportion: it is not unpacked."
                )
            with (
                whole_file(target) as part,
                zipped.open(found[0]) as source,
                part.open("xb") as file,
            ):
                shutil.copyfileobj(source, file)
    # RuntimeError: it is encrypted.
    except (*_DAMAGE, RuntimeError) as error:
        raise ValueError(
            f"Cannot unpack {str(archive)!r}: {error or type(error).__name__}. Fetch "
            "it again."
        ) from error


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
