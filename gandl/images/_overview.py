"""What a notebook shows of a collection."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from gandl.images._view import ImageView

_SIDE = 80  # pixels of a thumbnail
_MAX_PLATES = 10
_MAX_CHANNELS = 8
_MAX_BYTES = 2**28  # of an image that is read to be looked at
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def overview(images: ImageView) -> str:
    """HTML: counts by plate, and two images, or one of many channels, by channel."""
    n, n_channels, height, width = images.shape
    named = ", ".join(images.channels)
    facts = [
        f"{n:,} {'image' if n == 1 else 'images'}",
        f"{n_channels} {'channel' if n_channels == 1 else 'channels'} ({named})",
        f"{height} x {width} pixels",
        str(images.dtype),
        f"{_size(images.nbytes)} as an array",
    ]
    if len(images.skipped):
        facts.append(f"{len(images.skipped):,} left out (see skipped)")
    parts = [
        f"<b>{escape(type(images).__name__)}</b>",
        f"<div>{escape(', '.join(facts))}</div>",
        _plates(images.metadata),
        *_thumbnails(images),
    ]
    return f"<div>{''.join(parts)}</div>"


def _size(n_bytes: float) -> str:
    unit = 0
    while n_bytes >= 1024 and unit < len(_UNITS) - 1:
        n_bytes, unit = n_bytes / 1024, unit + 1
    return f"{n_bytes:.3g} {_UNITS[unit]}" if unit else f"{n_bytes} bytes"


def _plates(metadata: pd.DataFrame) -> str:
    if "plate" not in metadata or not len(metadata):
        return ""
    plates = metadata.groupby("plate", sort=False, dropna=False, observed=True)
    table = pd.DataFrame({"images": plates.size()})
    if "well" in metadata:
        table["wells"] = plates["well"].nunique()
    rows = [
        _row("td", [plate, *counts])
        for plate, counts in zip(
            table.index[:_MAX_PLATES], table[:_MAX_PLATES].to_numpy(), strict=True
        )
    ]
    more = len(table) - _MAX_PLATES
    tail = f"<div>and {more:,} more plates</div>" if more > 0 else ""
    head = _row("th", ["plate", *table])
    return f"<table>{head}{''.join(rows)}</table>{tail}"


def _row(tag: str, cells: list[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"


def _thumbnails(images: ImageView) -> list[str]:
    n, n_channels = images.shape[:2]
    if not n or images.nbytes // n > _MAX_BYTES:
        return []
    places = [0] if n == 1 or n_channels > _MAX_CHANNELS // 2 else [0, n // 2]
    return [_image(images, place) for place in places]


def _image(images: ImageView, place: int) -> str:
    known = images.metadata.iloc[place]
    names = [
        f"{name} {known[name]}" for name in ("plate", "well", "site") if name in known
    ]
    title = f"Image {place}{': ' if names else ''}{', '.join(names)}"
    try:
        pixels = images.load_batch([place])[0]
    except Exception as error:  # a notebook shows the rest, whatever is wrong
        return f"<div>{escape(title)}: {escape(str(error))}</div>"
    figures = "".join(
        '<div style="display: inline-block; margin: 4px 8px 4px 0; text-align: center">'
        f'<img src="data:image/png;base64,{_png(channel)}" alt="{escape(name)}" '
        f'style="display: block; height: {_SIDE}px">{escape(name)}</div>'
        for name, channel in list(zip(images.channels, pixels, strict=True))[
            :_MAX_CHANNELS
        ]
    )
    return f"<div>{escape(title)}</div><div>{figures}</div>"


def _png(pixels: np.ndarray) -> str:
    """An image as grey PNG of 8 bits in base64, at most 80 pixels wide and high."""
    step = max(1, -(-max(pixels.shape) // _SIDE))
    height, width = (max(n // step, 1) for n in pixels.shape)
    blocks = pixels[: height * step, : width * step].astype(np.float64)
    if min(pixels.shape) >= step:
        blocks = blocks.reshape(height, step, width, step).mean(axis=(1, 3))
    blocks = np.nan_to_num(blocks, posinf=0.0, neginf=0.0)
    low, high = np.percentile(blocks, [0.5, 99.8])
    scaled = np.clip((blocks - low) / max(high - low, 1e-12), 0.0, 1.0)
    grey = np.round(255 * scaled).astype(np.uint8)
    height, width = grey.shape
    lines = np.hstack([np.zeros((height, 1), np.uint8), grey]).tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return base64.b64encode(data).decode()
