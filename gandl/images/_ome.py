"""Making collections of OME-TIFF and OME-Zarr."""

from __future__ import annotations

import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import pandas as pd
from joblib import Parallel, delayed

from gandl.images._chunks import ZarrSource
from gandl.images._layouts import channel_names
from gandl.images._microscopes import HIDDEN, IMAGE, folders_below
from gandl.images._ome_tiff import ENDS, list_ome_tiff
from gandl.images._ome_zarr import list_ome_zarr
from gandl.images._pages import PageSource
from gandl.images._planes import as_planes
from gandl.images._readers import BYTE_LIMIT
from gandl.images._sources import Source
from gandl.images._unreadable import Seen, Unlisted, examine, is_lenient, sort_out
from gandl.images._view import ImageView

Channels = Sequence[str] | Mapping[str, str] | None


def _rows_by_plate(found: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
    rows = [image.row for image in found if "plate" in image.row]
    for plate in {row["plate"] for row in rows}:
        yield [row for row in rows if row["plate"] == plate]


# A store is a plate: of several with one name, the path is the plate's name.
def _tell_stores_apart(found: Sequence[Any]) -> None:
    for rows in list(_rows_by_plate(found)):
        if len({row["store"] for row in rows}) > 1:
            for row in rows:
                row["plate"] = row["store"]


# Files of one plate hold different sites. Where they do not, they are of several plates
# with one name, which are called by as much of the path as it takes.
def _tell_files_apart(found: Sequence[Any]) -> None:
    for rows in list(_rows_by_plate(found)):
        paths = [row["file"].split("/") for row in rows]
        for depth in range(max(map(len, paths)) + 1):
            plates = ["/".join(path[:depth]) for path in paths]
            sites: dict[Any, set[str]] = {}
            for plate, row in zip(plates, rows, strict=True):
                place = plate, row["well"], row["site"]
                sites.setdefault(place, set()).add(row["file"])
            if max(map(len, sites.values())) == 1:
                break
        if depth:
            for plate, row in zip(plates, rows, strict=True):
                row["plate"] = plate


def _chosen(image: Any, channels: Channels, lenient: bool) -> Any:
    """The image with the channels asked for, which each has in an order of its own."""
    if isinstance(image, Unlisted):
        return image
    known = list(image.channels)
    asked = known if channels is None else channels
    labels = [asked] if isinstance(asked, str) else list(asked)
    names = list(asked.values()) if isinstance(asked, Mapping) else labels
    twice = [label for label in labels if known.count(label) > 1]
    unknown = [label for label in labels if label not in known]
    # Names that tell nothing apart give way to those asked for, in order.
    poor = all(map(_is_number, known)) or len(set(known)) < len(known)
    if unknown and len(labels) == len(known) and poor:
        channel_names(names, len(names))
        return image.with_channels(range(len(known)), names)
    if unknown or twice or not labels:
        reason = f"{image.path!r} has no channels {unknown}; it has {known}."
        if twice:
            reason = (
                f"{image.path!r} has several channels {twice[0]!r}: pass names for "
                f"all {len(known)} of {known}, in order, as `channels`."
            )
        if not lenient:
            raise ValueError(reason)
        return Unlisted(image.path, image.row, reason)
    channel_names(names, len(names))
    return image.with_channels([known.index(label) for label in labels], names)


def _is_number(name: str) -> bool:
    return re.fullmatch(r"(c|ch|channel)?[\s_:-]*\d+(:\d+)*", name.lower()) is not None


def _usual_channels(found: Sequence[Any]) -> tuple[str, ...] | None:
    counts = Counter(one.channels for one in found if not isinstance(one, Unlisted))
    return counts.most_common(1)[0][0] if counts else None


def _seen(
    image: Any, make: Callable[[Sequence[Any]], Source], usual: tuple[str, ...] | None
) -> Seen:
    if isinstance(image, Unlisted):
        return Seen(None, image.path, image.reason)
    if image.channels != usual:
        reason = f"It has channels {image.channels}, where others have {usual}."
        return Seen(None, image.path, reason)
    every = list(range(len(image.channels)))
    return examine(image.path, lambda: (make([image]).reader(every)(0), ()))


def _check_like(image: Any, first: Any) -> None:
    for what, of in (
        ("channels", lambda one: one.channels),
        ("size", lambda one: one.size),
        ("type", lambda one: str(one.dtype)),
        ("axes", lambda one: getattr(one, "axes", None)),
    ):
        if of(image) != of(first):
            row = {k: v for k, v in image.row.items() if k != "pixel_size"}
            raise ValueError(
                f"Image {row} of {image.path!r} has {what} {of(image)}, where the "
                f"first image has {of(first)}. Read images of one kind at a time, or "
                'pass on_error="skip" to leave out those that are not like most.'
            )


def only_ome(root: str) -> tuple[bool, list[str]]:
    """Whether all images below a folder are OME-TIFFs; or its Zarr stores, without any.

    What is hidden does not count. Ends at the first other image: plates have many.
    """
    stores: list[str] = []
    any_images = False
    for folder, inner, names in folders_below(root):
        if ".zattrs" in names or "zarr.json" in names:
            stores.append(folder)
            inner.clear()
            continue
        inner[:] = [name for name in inner if not HIDDEN.match(name)]
        images = [n for n in names if IMAGE.search(n) and not n.startswith(".")]
        if not all(name.lower().endswith(ENDS) for name in images):
            return False, []
        any_images |= bool(images)
    return any_images and not stores, [] if any_images else stores


class OmeView(ImageView):
    """The constructors of collections from OME files."""

    __slots__ = ()

    @classmethod
    def from_ome_tiff(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        channels: Sequence[str] | Mapping[str, str] | None = None,
        z: int | str | None = None,
        t: int | str | None = None,
        byte_limit: int = BYTE_LIMIT,
        on_error: str = "raise",
    ) -> Self:
        """Make a collection of the images in OME-TIFF files, one row a series.

        Parameters
        ----------
        paths : str, path-like or sequence of these
            Files, folders (with all OME-TIFF files below) or patterns such as
            ``"plates/**/*.ome.tif"``. Of a set of files that share their OME-XML, or
            have it in a companion file, naming one is enough.
        channels : sequence of str or mapping of str to str, default=None
            The channels to use, in this order, whatever the order in each file, or a
            mapping from them to other names; by default all. Where channels have no
            names, or numbers, as many names as there are channels name them. Names are
            those in the OME-XML.
        z, t : int, "max" or "mean", default=None
            Of several planes or time points: the one to take, counted from 0, or a
            projection; the mean becomes float32 (float64 if of 32 bits or more).
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array, and an
            image to be read.
        on_error : {"raise", "skip"}, default="raise"
            What becomes of an image that cannot be used: its file is missing or broken,
            its channels, shape or type are not those of most, or it holds NaN. "raise":
            an error. "skip": all images are read now, and such ones left out and listed
            in :attr:`skipped`.

        Returns
        -------
        ImageCollection
            A collection in the order of the files' names and their series. Its
            metadata has "file", "series" (from 0), "image_name", "plate", "well" and
            "site" (the place in the well, from "1") where the OME-XML has them, and
            "pixel_size", the width of a pixel in µm. Plates of one name that hold the
            same site are several, called by their files' paths.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file has no OME-XML, or is broken; if it lacks a channel asked for; if
            images differ in channels, shape or type; if they have several planes and
            neither is chosen.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import tifffile
        >>> from gandl.images import ImageCollection
        >>> about = {"axes": "CYX", "Channel": {"Name": ["dna", "actin"]}}
        >>> about |= {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with tifffile.TiffWriter(f"{root}/a.ome.tif") as file:
        ...         for _ in range(3):
        ...             file.write(np.zeros((2, 8, 8), "uint16"), metadata=about)
        ...     X = ImageCollection.from_ome_tiff(root)
        >>> X
        ImageCollection(3 images, channels: dna, actin, 8 x 8 pixels, uint16)
        >>> X.metadata["pixel_size"].tolist()
        [0.65, 0.65, 0.65]
        """
        planes, lenient = as_planes(z, t), is_lenient(on_error)
        found = list_ome_tiff(paths, planes, lenient=lenient)
        _tell_files_apart(found)
        make = partial(PageSource.from_images, planes=planes, byte_limit=byte_limit)
        return cls._from_listed(found, make, channels, byte_limit, lenient)

    @classmethod
    def from_ome_zarr(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        channels: Sequence[str] | Mapping[str, str] | None = None,
        level: int = 0,
        z: int | str | None = None,
        t: int | str | None = None,
        fill_missing: bool = False,
        byte_limit: int = BYTE_LIMIT,
        on_error: str = "raise",
    ) -> Self:
        """Make a collection of OME-Zarr plates or images, read chunk by chunk.

        Parameters
        ----------
        paths : str, path-like or sequence of these
            Folders of OME-Zarr 0.4 or 0.5: plates, single images, or what
            bioformats2raw writes.
        channels : sequence of str or mapping of str to str, default=None
            The channels to use, in this order, whatever the order in each file, or a
            mapping from them to other names; by default all. Where channels have no
            names, or numbers, as many names as there are channels name them. Names are
            the labels in the metadata.
        level : int, default=0
            The level of resolution; 0 is the full one.
        z, t : int, "max" or "mean", default=None
            Of several planes or time points: the one to take, counted from 0, or a
            projection; the mean becomes float32 (float64 if of 32 bits or more).
        fill_missing : bool, default=False
            Whether a chunk that is not there stands for a chunk of the fill value, as
            the format has it, instead of being an error.
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array, and an
            image or a chunk to be read.
        on_error : {"raise", "skip"}, default="raise"
            What becomes of an image that cannot be used: a chunk is missing or broken,
            its channels, shape or type are not those of most, or it holds NaN. "raise":
            an error. "skip": all images are read now, and such ones left out and listed
            in :attr:`skipped`.

        Returns
        -------
        ImageCollection
            A collection in the order of the stores and, in a plate, of its wells and
            their fields. Its metadata has "store" (its path below the folder common to
            all), of plates "plate" (the store's path too if several have one name),
            "well" (such as "A01"), "site" (the field's name) and "acquisition" where
            there is one, and "pixel_size", the width of a pixel in µm at that level,
            where stated.

        Raises
        ------
        FileNotFoundError
            If a folder or a chunk is missing.
        ImportError
            If zarr 3 is not installed.
        ValueError
            If a store is of another version, or broken; if it lacks a channel asked
            for; if images differ in channels, shape or type; if they have several
            planes and neither is chosen.

        Notes
        -----
        What a changed store is noticed by are the sizes and the latest modification
        time of each channel's chunks and of the array's metadata.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import zarr
        >>> from gandl.images import ImageCollection
        >>> axes = [{"name": name, "type": "space"} for name in "yx"]
        >>> scale = {"axes": axes, "datasets": [{"path": "0"}]}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     image = zarr.create_group(root)
        ...     image.attrs["ome"] = {"version": "0.5", "multiscales": [scale]}
        ...     pixels = image.create_array("0", shape=(8, 8), dtype="uint16")
        ...     pixels[:] = np.ones((8, 8))
        ...     X = ImageCollection.from_ome_zarr(root)
        >>> X
        ImageCollection(1 image, channels: channel_0, 8 x 8 pixels, uint16)
        """
        planes, lenient = as_planes(z, t), is_lenient(on_error)
        found = list_ome_zarr(paths, operator.index(level), planes, lenient=lenient)
        _tell_stores_apart(found)
        make = partial(
            ZarrSource.from_images,
            planes=planes,
            byte_limit=byte_limit,
            fill_missing=fill_missing,
        )
        return cls._from_listed(found, make, channels, byte_limit, lenient)

    @classmethod
    def _from_listed(
        cls,
        found: Sequence[Any],
        make: Callable[[Sequence[Any]], Source],
        channels: Channels,
        byte_limit: int,
        lenient: bool,
    ) -> Self:
        found = [_chosen(image, channels, lenient) for image in found]
        metadata = pd.DataFrame([image.row for image in found], dtype=object)
        skipped = None
        if lenient:
            usual = _usual_channels(found)
            seen = Parallel(require="sharedmem")(
                delayed(_seen)(image, make, usual) for image in found
            )
            good, skipped = sort_out(seen, metadata)
            found = [image for image, kept in zip(found, good, strict=True) if kept]
            metadata = metadata[good]
        for image in found:
            _check_like(image, found[0])
        metadata = metadata.dropna(axis=1, how="all").infer_objects()
        return cls._from_source(  # type: ignore[attr-defined]
            make(found), found[0].channels, metadata, byte_limit, skipped
        )
