"""OME-Zarr stores, plates among them -> images, with what their metadata say."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gandl._extras import needed
from gandl.images._planes import PlaneError, Planes
from gandl.images._readers import INSTALL, REMEDY, unreadable
from gandl.images._unreadable import Unlisted

_VERSIONS = ("0.4", "0.5")
_GROUP = (".zgroup", "zarr.json")  # metadata, of Zarr 2 and 3
_MICROMETRES = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25_400.0,
}


class ZarrImage(NamedTuple):
    """An image in an OME-Zarr store: what is known of it, and which array it is."""

    path: str  # of the array
    row: dict[str, Any]  # of the metadata
    channels: tuple[str, ...]
    places: tuple[int, ...]  # of the channels in the array
    size: tuple[int, int]
    dtype: np.dtype
    axes: str  # of the array, such as "tczyx"

    def with_channels(self, places: Sequence[int], names: Sequence[str]) -> ZarrImage:
        kept = tuple(self.places[k] for k in places)
        return self._replace(channels=tuple(names), places=kept)


def open_array(path: str) -> Any:
    """The array in a folder, opened for reading."""
    zarr = _zarr(path)
    try:
        return zarr.open_array(path, mode="r")
    except Exception as exc:
        raise unreadable(path, exc) from exc


def chunk_keys(array: Any, at: Sequence[range]) -> Iterator[tuple[str, tuple]]:
    """The names of the files that hold a part of an array, and the part in each."""
    sizes = array.shards or array.chunks
    grid = [
        range(indices.start // size, (indices.stop - 1) // size + 1)
        for indices, size in zip(at, sizes, strict=True)
    ]
    for place in itertools.product(*grid):
        part = tuple(
            slice(k * size, min((k + 1) * size, length))
            for k, size, length in zip(place, sizes, array.shape, strict=True)
        )
        yield array.metadata.encode_chunk_key(place), part


def _zarr(path: str) -> Any:
    with needed(f"Reading {path!r} needs zarr 3. Install it: {INSTALL}."):
        import zarr
    return zarr


def list_ome_zarr(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    level: int,
    planes: Planes,
    *,
    lenient: bool,
) -> list[ZarrImage | Unlisted]:
    """The images of plates and of single stores; reads metadata alone."""
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    stores = list(dict.fromkeys(os.path.abspath(os.fsdecode(path)) for path in given))
    folders = [os.path.dirname(store) for store in stores]
    found: list[ZarrImage | Unlisted] = []
    for store in stores:
        name = os.path.relpath(store, os.path.commonpath(folders))
        row = {"store": name.replace(os.sep, "/")}
        for member in _members(store, row, lenient):
            if isinstance(member, Unlisted):
                found.append(member)
                continue
            path, known = member
            try:
                found.append(_image(path, known, level, planes))
            except (OSError, ValueError) as exc:
                if not lenient:
                    raise
                found.append(Unlisted(path, known, str(exc)))
    if not found:
        raise ValueError(f"No image in {paths!r}.")
    return found


Member = tuple[str, dict[str, Any]]  # the group of an image, its metadata so far


def _members(
    store: str, row: dict[str, Any], lenient: bool
) -> Iterator[Member | Unlisted]:
    try:
        attributes = _attributes(store)
        if "plate" in attributes:
            yield from _fields(store, attributes["plate"], row, lenient)
        elif "multiscales" in attributes:
            yield store, row
        elif "bioformats2raw.layout" in attributes:
            for k in itertools.count():
                if not os.path.isdir(os.path.join(store, str(k))):
                    return
                yield os.path.join(store, str(k)), row | {"series": k}
        else:
            raise ValueError(
                f"{store!r} holds neither a plate nor a multiscale image of OME-Zarr "
                f"{' or '.join(_VERSIONS)}; its metadata has {sorted(attributes)}. "
                "Name the folder of a plate or of an image itself."
            )
    except (OSError, ValueError) as exc:
        if not lenient:
            raise
        yield Unlisted(store, row, str(exc))


def _fields(
    store: str, plate: dict[str, Any], row: dict[str, Any], lenient: bool
) -> Iterator[Member | Unlisted]:
    wells = _entry(plate, "wells", store)
    stem = os.path.basename(store).removesuffix(".zarr").removesuffix(".ome")
    for well in wells:
        place = _entry(well, "path", store)
        folder = os.path.join(store, *place.split("/"))
        known = {"plate": str(plate.get("name") or stem), "well": _well_name(place)}
        try:
            members = list(_sites(folder, row | known))
        except (OSError, ValueError) as exc:
            if not lenient:
                raise
            yield Unlisted(folder, row | known, str(exc))
        else:
            yield from members


def _sites(folder: str, row: dict[str, Any]) -> Iterator[Member]:
    described = _entry(_attributes(folder), "well", folder)
    for field in _entry(described, "images", folder):
        site = _entry(field, "path", folder)
        known = {"site": site}
        if field.get("acquisition") is not None:
            known["acquisition"] = str(field["acquisition"])
        yield os.path.join(folder, *site.split("/")), row | known


def _well_name(place: str) -> str:
    letters, _, column = place.partition("/")
    return letters + (f"{int(column):02}" if column.isdecimal() else column)


def _entry(described: Any, key: str, path: str) -> Any:
    if not isinstance(described, dict) or key not in described:
        raise ValueError(f"{path!r} is no OME-Zarr: its metadata lack {key!r}.")
    return described[key]


def _attributes(path: str) -> dict[str, Any]:
    zarr = _zarr(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"No such OME-Zarr folder: {path!r}. {REMEDY}")
    if not any(os.path.exists(os.path.join(path, name)) for name in _GROUP):
        inner = sorted(name for name in os.listdir(path) if name.endswith(".zarr"))
        if inner:
            raise ValueError(
                f"{path!r} is a folder of stores, such as {inner[0]!r}: pass those, as "
                "a list."
            )
    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except Exception as exc:
        raise unreadable(path, exc) from exc
    return attributes.get("ome", attributes)


def _image(path: str, row: dict[str, Any], level: int, planes: Planes) -> ZarrImage:
    attributes = _attributes(path)
    scales = _entry(attributes, "multiscales", path)
    try:
        scale = scales[0]
        version = str(scale.get("version", attributes.get("version", "0.4")))
        if not version.startswith(_VERSIONS):
            raise ValueError(
                f"it is OME-Zarr {version}; {' and '.join(_VERSIONS)} are read"
            )
        described, levels = scale["axes"], scale["datasets"]
        if not 0 <= level < len(levels):
            raise ValueError(
                f"it has {len(levels)} levels of resolution, numbered from 0: there is "
                f"no level={level}"
            )
        axes = "".join(axis["name"] for axis in described)
        if not set("yx") <= set(axes) <= set("tczyx") or len(set(axes)) < len(axes):
            raise ValueError(f"axes {axes!r} are not of t, c, z, y and x")
        row = row | {"pixel_size": _pixel_size(scale, levels[level], axes)}
        names = [
            c.get("label") for c in attributes.get("omero", {}).get("channels", [])
        ]
        folder = os.path.join(path, *levels[level]["path"].split("/"))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise unreadable(path, exc) from exc
    array = open_array(folder)
    if array.ndim != len(axes):
        raise unreadable(path, ValueError(f"axes {axes!r} for shape {array.shape}"))
    if array.dtype.kind not in "buif" or 0 in array.shape:
        raise unreadable(
            path, ValueError(f"shape {array.shape}, {array.dtype} make no image")
        )
    length = dict(zip(axes, array.shape, strict=True))
    n_channels = length.get("c", 1)
    names = (names + [None] * n_channels)[:n_channels]
    try:
        for axis in "tz":  # told now, not when pixels are read
            planes.indices(axis, length.get(axis, 1))
    except PlaneError as exc:
        raise ValueError(f"{path!r} {exc}") from exc
    return ZarrImage(
        folder,
        row,
        tuple(name or f"channel_{k}" for k, name in enumerate(names)),
        tuple(range(n_channels)),
        (length["y"], length["x"]),
        array.dtype.newbyteorder("="),
        axes,
    )


def _pixel_size(scale: dict[str, Any], dataset: dict[str, Any], axes: str) -> float:
    """Width of a pixel in µm, or NaN."""
    x = axes.index("x")
    size = _MICROMETRES.get(scale["axes"][x].get("unit"), np.nan)
    for transformations in (dataset, scale):
        for one in transformations.get("coordinateTransformations") or ():
            if one.get("type") == "scale":
                size *= float(one["scale"][x])
    return size if 0 < size < np.inf else np.nan
