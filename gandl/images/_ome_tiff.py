"""OME-TIFF files -> images of several series, with what their OME-XML says of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile

from gandl._wells import row_letters
from gandl.images._layouts import natural_key
from gandl.images._planes import PlaneError, Planes
from gandl.images._readers import named, unreadable
from gandl.images._tiff_checks import (
    check_announced,
    check_directories,
    other_files,
    parse_xml,
)
from gandl.images._unreadable import Unlisted

ENDS = (
    ".ome.tif",
    ".ome.tiff",
    ".ome.tf2",
    ".ome.tf8",
    ".ome.btf",
    ".companion.ome",
)
_XML_ENDS = (".companion.ome", ".ome.xml", ".ome")
_MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}
_MICROMETRES |= {"m": 1e6, "Å": 1e-4, "pm": 1e-6, "in": 25_400.0}


class OmeImage(NamedTuple):
    """An image in OME-TIFF files: what is known of it, and where its pages begin."""

    path: str
    row: dict[str, Any]  # of the metadata
    channels: tuple[str, ...]
    size: tuple[int, int]
    dtype: np.dtype
    files: np.ndarray  # (C, T, Z) paths
    offsets: np.ndarray  # (C, T, Z) bytes

    def with_channels(self, places: Sequence[int], names: Sequence[str]) -> OmeImage:
        places = list(places)
        return self._replace(
            channels=tuple(names),
            files=self.files[places],
            offsets=self.offsets[places],
        )


def list_ome_tiff(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    planes: Planes,
    *,
    lenient: bool,
) -> list[OmeImage | Unlisted]:
    """The images of all series of the files; reads headers alone.

    Files that belong to one set are listed once, with the first of them.
    """
    listed = _listed(paths)
    folder = os.path.commonpath([os.path.dirname(path) for path in listed])
    found: list[OmeImage | Unlisted] = []
    seen: set[str] = set()
    for path in listed:
        if path in seen:
            continue
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        try:
            images = list(_images(path, name, planes, seen))
        except (OSError, ValueError) as exc:
            if not lenient:
                raise
            found.append(Unlisted(path, {"file": name}, str(exc)))
        else:
            found += images
    return found


def _listed(paths: Any) -> list[str]:
    single = isinstance(paths, str | os.PathLike)
    listed: list[str] = []
    for given in [paths] if single else list(paths):
        path = os.path.abspath(os.fsdecode(given))
        if os.path.isdir(path):
            inner = glob.glob("**", root_dir=path, recursive=True)
            fitting = [name for name in inner if name.lower().endswith(ENDS)]
            found = [os.path.join(path, name) for name in fitting]
        elif glob.has_magic(path) and not os.path.exists(path):
            found = glob.glob(path, recursive=True)
        else:
            found = [path]
        if not found:
            raise ValueError(
                f"No OME-TIFF file in {path!r}: their names end in {', '.join(ENDS)}. "
                "Name the files themselves if theirs do not."
            )
        listed += sorted(found, key=natural_key)
    if not listed:
        raise ValueError("No OME-TIFF file was named.")
    return listed


def _images(path: str, name: str, planes: Planes, seen: set[str]) -> Iterator[OmeImage]:
    try:
        source, xml = _described(path)
        if source in seen:
            return
        root = _parsed(xml)
        seen.update((path, source), other_files(source, root))
        first = source
        if source.lower().endswith(_XML_ENDS):
            first = next(other_files(source, root), "")
            if not first:
                raise ValueError("its OME-XML names no TIFF file")
        check_directories(first)
        with tifffile.TiffFile(first, omexml=xml) as tif:
            check_announced(tif)
            yield from _series(tif, root, path, name, planes)
    except OSError as exc:
        if exc.strerror is None:
            raise
        raise named(exc, os.fsdecode(exc.filename or path)) from exc
    except PlaneError as exc:
        raise ValueError(f"{path!r}, {exc}") from exc
    # The libraries answer a damaged file with errors of any type.
    except Exception as exc:
        raise unreadable(path, exc) from exc


# The OME-XML that describes a file, and the file it stands in.
def _described(path: str) -> tuple[str, str]:
    if path.lower().endswith(_XML_ENDS):
        with open(path, encoding="utf-8") as file:
            return path, file.read()
    check_directories(path)
    with tifffile.TiffFile(path) as tif:
        xml = tif.ome_metadata
    if xml is None:
        raise ValueError(
            "it has no OME-XML in its first description; from_table and from_folder "
            "read plain TIFF files"
        )
    reference = _parsed(xml).find("{*}BinaryOnly")
    if reference is None:
        return path, xml
    file_name = reference.get("MetadataFile", "")
    described = os.path.join(os.path.dirname(path), file_name)
    if not os.path.isfile(described):
        raise ValueError(
            f"its OME-XML is in another file, {file_name!r}, which is not beside it"
        )
    if described.lower().endswith(_XML_ENDS):
        return _described(described)
    with tifffile.TiffFile(described) as tif:
        return described, tif.ome_metadata or ""


def _parsed(xml: str) -> ElementTree.Element:
    try:
        return parse_xml(xml)
    except ElementTree.ParseError as exc:
        raise ValueError(f"its OME-XML is broken: {exc}") from exc


def _series(
    tif: Any, root: ElementTree.Element, path: str, name: str, planes: Planes
) -> Iterator[OmeImage]:
    described = list(root.iterfind("{*}Image"))
    if len(described) != len(tif.series) or not described:
        raise ValueError(
            f"its OME-XML describes {len(described)} images, of which the files hold "
            f"{len(tif.series)} as described"
        )
    wells = _wells(root)
    for k, (image, series) in enumerate(zip(described, tif.series, strict=True)):
        row = {"file": name, "series": k, "image_name": image.get("Name", "")}
        row |= wells.get(image.get("ID", ""), {})
        row["pixel_size"] = _pixel_size(image)
        try:
            pages = _pages(series, planes)
        except PlaneError as exc:
            raise PlaneError(f"series {k}, {exc}") from exc
        except ValueError as exc:
            raise ValueError(f"series {k}: {exc}") from exc
        files = [os.path.abspath(page.parent.filehandle.path) for page in pages.flat]
        offsets = [page.offset for page in pages.flat]
        yield OmeImage(
            path,
            row,
            _channel_names(image, len(pages)),
            series.keyframe.shape,
            series.keyframe.dtype.newbyteorder("="),
            np.array(files, dtype=object).reshape(pages.shape),
            np.array(offsets, dtype=np.int64).reshape(pages.shape),
        )


# The pages of a series (C, T, Z) that were asked for.
def _pages(series: Any, planes: Planes) -> np.ndarray:
    height_width = series.keyframe.shape
    n_outer = len(series.shape) - len(height_width)
    axes, shape = series.axes[:n_outer], series.shape[:n_outer]
    if "S" in series.axes:
        raise ValueError("it holds colours; from_table and from_folder read those")
    if series.axes[n_outer:] != "YX" or not set(axes) <= set("CTZ"):
        raise ValueError(f"axes {series.axes!r} are more than T, C, Z, Y and X")
    pages: np.ndarray = np.empty(int(np.prod(shape, dtype=int)), dtype=object)
    if len(series.pages) != len(pages):
        raise ValueError(f"it has {len(series.pages)} pages for {len(pages)} planes")
    pages[:] = list(series.pages)
    for axis in "CTZ":
        if axis not in axes:
            axes, shape = axes + axis, (*shape, 1)
    pages = pages.reshape(shape).transpose([axes.index(axis) for axis in "CTZ"])
    n_times, n_depths = pages.shape[1:]
    t, z = planes.indices("t", n_times), planes.indices("z", n_depths)
    pages = pages[:, t.start : t.stop, z.start : z.stop]
    for (c, at_t, at_z), page in np.ndenumerate(pages):
        if page is None:
            raise ValueError(
                f"the plane of channel {c}, z={z[at_z]}, t={t[at_t]} is missing, or "
                "the file that holds it is"
            )
    return pages


def _channel_names(image: ElementTree.Element, n: int) -> tuple[str, ...]:
    found = [one.get("Name") for one in image.iterfind("{*}Pixels/{*}Channel")]
    found += [None] * (n - len(found))
    return tuple(name or f"channel_{k}" for k, name in enumerate(found[:n]))


def _pixel_size(image: ElementTree.Element) -> float:
    pixels = image.find("{*}Pixels")
    assert pixels is not None
    unit = _MICROMETRES.get(pixels.get("PhysicalSizeXUnit", "µm"), np.nan)
    try:
        size = float(pixels.get("PhysicalSizeX", "nan")) * unit
    except ValueError:
        return np.nan
    return size if 0 < size < np.inf else np.nan


# Plate, well and site of the images that are in one, by the image's ID.
def _wells(root: ElementTree.Element) -> dict[str, dict[str, str]]:
    places = {}
    for plate in root.iterfind("{*}Plate"):
        for well in plate.iterfind("{*}Well"):
            row, column = (int(well.get(axis, "0")) for axis in ("Row", "Column"))
            name = f"{row_letters(row)}{column + 1:02}"
            for k, sample in enumerate(well.iterfind("{*}WellSample")):
                image = sample.find("{*}ImageRef")
                if image is not None:
                    places[image.get("ID", "")] = {
                        "plate": plate.get("Name", plate.get("ID", "")),
                        "well": name,
                        "site": str(k + 1),
                    }
    return places
