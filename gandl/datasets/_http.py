"""Files from the web: downloads that go on where they broke off, parts of files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from gandl._extras import needed

INSTALL = 'pip install "gandl[fetch]"'
N_CONNECTIONS = 8
_TIMEOUT = (20, 60)  # seconds to connect, and from one byte to the next
_LONGEST_WAIT = 60.0
_CHUNK = 2**18
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # another try may succeed


class Version(NamedTuple):
    """What a server says of a file, to tell whether it is still the same."""

    size: int | None
    tag: str
    md5: str | None

    def is_same(self, other: Version) -> bool:
        sizes = {self.size, other.size} - {None}
        return self.tag == other.tag and len(sizes) < 2


class _Reply(NamedTuple):
    response: Any
    first: int  # the place in the file of the first byte of the answer
    version: Version
    is_part: bool

    # requests' own iter_content loses what came of a chunk before a break.
    def chunks(self) -> Iterator[bytes]:
        return self.response.raw.stream(_CHUNK, decode_content=False)


class _Broken(OSError):
    """A failure that may pass."""


class Web:
    """GET, again after failures that may pass, from where the last answer broke off.

    Retries are counted from the last one that brought anything.
    """

    def __init__(self, *, n_retries: int, delay: float) -> None:
        self.n_retries = n_retries
        self.delay = delay
        self._session: Any = None

    def __enter__(self) -> Self:
        requests = import_fetch("requests")
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=N_CONNECTIONS)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    # As pooch calls a downloader.
    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        self.download(url, Path(output_file))

    def download(self, url: str, path: Path) -> None:
        """Download a file; what has come of it stays beside it until all has come."""
        part = path.with_name(f".{url.rpartition('/')[2]}.part")
        note = part.with_suffix(".json")
        self._persist(url, lambda: self._continue(url, part, note), lambda: _size(part))
        version = _read_note(note)
        if version and version.md5 and _md5(part) != version.md5:
            part.unlink()
            note.unlink()
            raise OSError(
                f"What came of {url} is not what the server has, by its MD5 sum. It "
                "was deleted: fetch it again."
            )
        os.replace(part, path)
        note.unlink(missing_ok=True)

    def _continue(self, url: str, part: Path, note: Path) -> None:
        begun = _read_note(note)
        start = _size(part) if begun else 0
        if begun and start and start == begun.size:
            return
        with self._get(url, start) as reply:
            if reply is None or (
                reply.first and begun and not reply.version.is_same(begun)
            ):
                note.unlink()  # so that the next try begins anew
                raise _Broken("the file has changed on the server")
            if not reply.first:
                part.unlink(missing_ok=True)
                note.write_text(json.dumps(reply.version))
            with part.open("r+b" if reply.first else "wb") as file:
                file.seek(reply.first)
                for chunk in reply.chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        size = reply.version.size
        if size is not None and _size(part) != size:
            raise _Broken(f"it ended after {_size(part)} of {size} bytes")

    def read(self, url: str, start: int, stop: int, version: Version) -> bytes:
        """Bytes start to stop of a file, which must still be the same."""
        data = bytearray()

        def go_on() -> None:
            with self._get(url, start + len(data), stop) as reply:
                if reply is None or not reply.version.is_same(version):
                    raise OSError(f"{url} has changed while it was read: fetch again.")
                for chunk in reply.chunks():
                    data.extend(chunk)
            if len(data) != stop - start:
                raise _Broken(f"it ended after {len(data)} of {stop - start} bytes")

        if stop > start:
            self._persist(url, go_on, lambda: len(data))
        return bytes(data)

    def look(self, url: str) -> Version:
        """What the server says of a file of which it serves parts."""
        versions: list[Version] = []

        def ask() -> None:
            with self._get(url, 0, 1) as reply:
                if reply is not None:
                    versions.append(reply.version)

        self._persist(url, ask, lambda: 0)
        if not versions or versions[0].size is None:
            raise OSError(f"The server does not tell how long {url} is.")
        return versions[0]

    # None where the file has no such bytes.
    @contextmanager
    def _get(
        self, url: str, start: int, stop: int | None = None
    ) -> Iterator[_Reply | None]:
        requests, urllib3 = import_fetch("requests"), import_fetch("urllib3")
        # Unpacked on the way, a file would have another length.
        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            last = "" if stop is None else stop - 1
            headers["Range"] = f"bytes={start}-{last}"
        try:
            with self._session.get(
                url, headers=headers, stream=True, timeout=_TIMEOUT
            ) as response:
                reply = None if response.status_code == 416 else _reply(response, start)
                if reply is not None and stop is not None and not reply.is_part:
                    raise OSError(
                        f"The server of {url} does not serve parts of files: name a "
                        "mirror that does with base_url, or choose another source."
                    )
                yield reply
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ValueError):
                raise ValueError(f"{url!r} is no address of a file: {error}") from None
            raise _Broken(str(error)) from error

    def _persist(
        self, url: str, attempt: Callable[[], None], progress: Callable[[], int]
    ) -> None:
        failures, furthest = 0, progress()
        while True:
            try:
                return attempt()
            except _Broken as error:
                if progress() > furthest:
                    failures, furthest = 0, progress()
                failures += 1
                if failures > self.n_retries:
                    raise OSError(
                        f"Cannot fetch {url}: {error}. Tried {failures} times; fetch "
                        "again to go on from there."
                    ) from error
            time.sleep(min(self.delay * 2 ** (failures - 1), _LONGEST_WAIT))


class RemoteFile(io.RawIOBase):
    """A file on a server to seek in, for readers that read little of it."""

    def __init__(self, web: Web, url: str) -> None:
        self.url = url
        self.version = web.look(url)
        self.size = self.version.size or 0
        self._web = web
        self._place = 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}
        place = origin[whence] + offset
        if place < 0:
            raise OSError(f"There is nothing before the beginning of {self.url}.")
        self._place = place
        return place

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self._place, 0)
        n = left if size is None or size < 0 else min(size, left)
        data = self.read_at(self._place, self._place + n)
        self._place += n
        return data

    def read_at(self, start: int, stop: int) -> bytes:
        return self._web.read(self.url, start, min(stop, self.size), self.version)


def import_fetch(name: str) -> Any:
    """pooch, or what comes with it."""
    with needed(f"Fetching data sets needs pooch. Install it: {INSTALL}."):
        return importlib.import_module(name)


def _reply(response: Any, start: int) -> _Reply:
    status, headers = response.status_code, response.headers
    if status in _PASSING:
        raise _Broken(f"the server answers {status} ({response.reason})")
    if status not in (200, 206):
        raise OSError(
            f"The server answers {status} ({response.reason}) to {response.url}. Is "
            "base_url right, and the file there?"
        )
    packing = headers.get("Content-Encoding", "identity")
    if packing != "identity":
        raise OSError(f"The server sends {response.url} packed ({packing}).")
    tag = headers.get("ETag") or headers.get("Last-Modified") or ""
    md5 = _stated_md5(headers.get("x-goog-hash", ""))
    if status == 200:
        length = headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        return _Reply(response, 0, Version(size, tag, md5), is_part=False)
    span = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip()
    )
    if span is None or int(span[1]) != start:
        raise OSError(f"{response.url}: the server serves other bytes than asked for.")
    size = None if span[2] == "*" else int(span[2])
    return _Reply(response, start, Version(size, tag, md5), is_part=True)


# Of Google Cloud Storage: "crc32c=n03x6A==, md5=Ojk9c3dhfxgoKVVHYwFbHQ==".
def _stated_md5(header: str) -> str | None:
    for item in header.split(","):
        name, _, value = item.strip().partition("=")
        if name == "md5":
            try:
                return base64.b64decode(value, validate=True).hex()
            except binascii.Error:
                return None
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def _read_note(note: Path) -> Version | None:
    try:
        return Version(*json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
