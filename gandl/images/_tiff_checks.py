"""What is checked of a TIFF file before tifffile takes memory or fills in zeros."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

import numpy as np

# tifffile takes memory for every plane that is announced; these take little.
_FEW_PLANES = 1_000_000


def check_directories(path: str) -> int:
    """Follow the chain of pages; returns how many there are.

    Where it breaks off, tifffile would leave pages out.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = b"+" in head[2:4]
        n_format, n_size = (order + "Q", 8) if is_big else (order + "H", 2)
        offset_format, offset_size = (order + "Q", 8) if is_big else (order + "I", 4)
        entry_size = 20 if is_big else 12
        seen: set[int] = set()
        try:
            (offset,) = struct.unpack_from(offset_format, head, offset_size)
            while offset and offset not in seen:
                seen.add(offset)
                file.seek(offset)
                (n_entries,) = struct.unpack(n_format, file.read(n_size))
                file.seek(n_entries * entry_size, os.SEEK_CUR)
                (offset,) = struct.unpack(offset_format, file.read(offset_size))
        except (struct.error, OSError, OverflowError) as exc:
            raise ValueError(
                f"the file is truncated: page {len(seen)} is not in it"
            ) from exc
        if offset:
            raise ValueError("its pages are chained in a circle")
        return len(seen)


def check_extent(tif: Any, pages: Iterable[Any]) -> None:
    """Refuse pages whose strips are not all there; zeros would stand for them."""
    for page in pages:
        if page is None:
            continue
        n_parts = int(np.prod(page.chunked, dtype=object))
        offsets, counts = page.dataoffsets, page.databytecounts
        if len(offsets) < n_parts:
            raise ValueError(
                f"the file is truncated: it holds {len(offsets)} of the {n_parts} "
                "strips or tiles of a page"
            )
        if n_empty := sum(count == 0 for count in counts):
            raise ValueError(
                f"{n_empty} of the {n_parts} strips or tiles of a page are missing: "
                "the file is sparse, as GDAL writes them"
            )
        ends = map(sum, zip(offsets, counts, strict=False))
        check_held(tif, max(ends, default=0))


def check_held(tif: Any, end: int) -> None:
    n_held = tif.filehandle.size
    if end > n_held:
        raise ValueError(
            f"the file is truncated: it holds {n_held} of at least {end} bytes"
        )


def check_announced(tif: Any) -> ElementTree.Element | None:
    """Refuse OME-XML that announces far more planes than there are; returns it."""
    try:
        root = parse_xml(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return None  # tifffile leaves it aside
    n = _n_planes(tif, root)
    if n <= _FEW_PLANES:
        return root
    path = tif.filehandle.path
    files = {path, *filter(os.path.isfile, other_files(path, root))}
    n_held = sum(map(check_directories, files))
    if n > n_held:
        raise ValueError(
            f"its OME-XML announces {n} planes, of which there are at most {n_held}"
        )
    return root


def parse_xml(xml: str) -> ElementTree.Element:
    # OME-XML has none, and those of a hostile file grow without bound.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError("its OME-XML defines entities, which no OME-XML needs")
    return ElementTree.fromstring(xml)


def other_files(path: str, root: ElementTree.Element) -> Iterator[str]:
    """The other files of the set that the file describes."""
    for uuid in root.iterfind(".//{*}UUID"):
        if uuid.get("FileName") and uuid.text != root.get("UUID"):
            yield os.path.join(os.path.dirname(path), uuid.get("FileName", ""))


# How many planes tifffile would make room for.
def _n_planes(tif: Any, root: ElementTree.Element) -> int:
    n = 0
    for pixels in root.iterfind("*/*"):
        if not pixels.tag.endswith("Pixels"):
            continue
        data = [one for one in pixels if one.tag.endswith("TiffData")]
        counts = [int(d.get("PlaneCount", d.get("NumPlanes", 0))) for d in data]
        sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in "CZTYX"]
        n_values = int(np.prod(sizes, dtype=object))
        n += max([n_values // _page_size(tif, data), *counts])
    for along in root.iter():
        if along.tag[:-1].endswith("Along") and "Start" in along.attrib:
            start, end, step = (
                float(along.get(name, "1")) for name in ("Start", "End", "Step")
            )
            n += int((end - start) / step)
    return n


# Pixels of the page that tifffile measures an image by: the file's first if the image
# has it, or the image's own.
def _page_size(tif: Any, data: list[ElementTree.Element]) -> int:
    numbers = [int(one.get("IFD", 0)) for one in data]
    page = tif.pages.first
    if numbers and 0 not in numbers:
        with suppress(IndexError):
            page = tif.pages[numbers[0]]
    return max(1, page.size)
