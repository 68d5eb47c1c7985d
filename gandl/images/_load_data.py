"""CellProfiler's load_data.csv, as the Cell Painting Gallery has it -> paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import numpy as np
import pandas as pd

from gandl._tables import as_text, read_table, with_index, with_usual_names
from gandl.images._layouts import FileTable, check_paths
from gandl.images._planes import Choice, as_planes

_FILE, _FOLDER, _URL = "FileName_", "PathName_", "URL_"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]|\\\\")


def list_load_data(
    table: str | os.PathLike[str] | pd.DataFrame,
    root: str | os.PathLike[str] | None,
    channels: Sequence[str] | Mapping[str, str] | None,
    *,
    illumination: bool,
    z: Choice,
    t: Choice,
    lenient: bool,
) -> FileTable:
    """Paths of images, and of illumination functions, as they are on this machine.

    If lenient, files may be missing, as long as some are found.
    """
    inside = as_planes(z, t)
    beside = None
    if not isinstance(table, pd.DataFrame):
        beside = os.path.dirname(os.path.abspath(os.fsdecode(table)))
        table = read_table(table)
    if not len(table):
        raise ValueError("The table has no rows.")
    table = as_text(with_index(table))
    of_channel, functions = _roles(table)
    _check_frames(table)
    labels = list(of_channel) if channels is None else list(channels)
    unknown = [label for label in labels if label not in of_channel]
    if unknown or not labels:
        raise ValueError(
            f"The table has no channels {unknown}; it has {list(of_channel)}."
        )
    find = _Finder(root, beside, lenient)
    paths = find.columns(table, [of_channel[label] for label in labels])
    _check_own(paths, labels)
    used = [functions.get(label) if illumination else None for label in labels]
    fields = None
    if any(used):
        fields = find.columns(table, used)
    mentioned = [
        name for name in map(str, table) if name.startswith((_FILE, _FOLDER, _URL))
    ]
    metadata = with_usual_names(table.drop(columns=mentioned))
    names = channels.values() if isinstance(channels, Mapping) else labels
    unused = tuple(label for label in of_channel if label not in labels)
    return FileTable(
        paths, tuple(names), metadata, inside, functions=fields, unused=unused
    )


def _check_frames(table: pd.DataFrame) -> None:
    """Refuse a place in each file that differs from row to row: one is for all."""
    for name in map(str, table):
        if name.startswith(("Frame_", "Series_")) and table[name].nunique() > 1:
            raise ValueError(
                f"{name!r} names another page of its file in each row, which is not "
                "read. Split the files, one image a file, and delete the column; or "
                "keep the rows of one page, and choose it by `z` or `t`."
            )


def _check_own(paths: np.ndarray, labels: Sequence[str]) -> None:
    """Refuse one file for two channels: one would be read for the other."""
    channel_of: dict[str, str] = {}
    for row, files in enumerate(paths):
        for path, label in zip(files, labels, strict=True):
            other = channel_of.setdefault(path, label)
            if other != label:
                raise ValueError(
                    f"Row {row} of the table: {path!r} would be both {other!r} and "
                    f"{label!r}. Keep folders of channels apart below `root`, which "
                    "is the folder above both. Files that hold several channels are "
                    "for from_table."
                )


def _roles(table: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Of each channel, the name in its columns of images, and in those of functions.

    The gallery calls them OrigDNA and IllumDNA.
    """
    names = dict.fromkeys(
        name.partition("_")[2]
        for name in map(str, table)
        if name.startswith((_FILE, _URL))
    )
    channels = {name.removeprefix("Orig") for name in names}
    functions = {
        name.removeprefix("Illum"): name
        for name in names
        if name.startswith("Illum") and name.removeprefix("Illum") in channels
    }
    images: dict[str, str] = {}
    for name in names:
        channel = name.removeprefix("Orig")
        if name in functions.values():
            continue
        if channel in images:
            raise ValueError(f"There are two columns of images of {channel!r}.")
        images[channel] = name
    if not images:
        raise ValueError(
            "The table has no column FileName_DNA, or URL_DNA, of a channel DNA, say; "
            f"it has {list(table)}."
        )
    return images, functions


class _Finder:
    """Where files lie that a table of another machine names."""

    def __init__(
        self, root: str | os.PathLike[str] | None, beside: str | None, lenient: bool
    ) -> None:
        self.lenient = lenient
        self.given = root is not None
        base = beside or "" if root is None else os.fsdecode(root)
        self.root = os.path.abspath(base)
        if self.given and not os.path.isdir(self.root):
            raise NotADirectoryError(f"root is not a folder: {self.root!r}.")

    def columns(self, table: pd.DataFrame, names: Sequence[str | None]) -> np.ndarray:
        paths = np.full((len(table), len(names)), "", dtype=object)
        for k, name in enumerate(names):
            if name is not None:
                paths[:, k] = self._column(table, name)
        return paths

    def _column(self, table: pd.DataFrame, name: str) -> list[str]:
        if _FILE + name in table:
            files = table[_FILE + name]
            folders = table.get(_FOLDER + name, pd.Series("", index=files.index))
            folders = folders.fillna("")
            check_paths(files, _FILE + name)
        else:
            check_paths(table[_URL + name], _URL + name)
            urls = [_local(url) for url in table[_URL + name]]
            parts = [re.fullmatch(r"(.*[\\/])?(.*)", url) for url in urls]
            folders = pd.Series([part[1] or "" for part in parts if part])
            files = pd.Series([part[2] for part in parts if part])
        places, lost = {}, []
        for folder in folders.unique():
            try:
                place = self._place(_local(folder), files[folders == folder].to_list())
            except FileNotFoundError as error:
                lost.append(error)
                # A path at which there is none.
                place = os.path.join(self.root, *_parts(_local(folder)))
            places[folder] = place
        if lost and (not self.lenient or len(lost) == len(places)):
            raise lost[0]
        self._check_different(places, name)
        return [
            os.path.normpath(os.path.join(places[folder], file))
            for folder, file in zip(folders, files, strict=True)
        ]

    def _place(self, folder: str, files: list[str]) -> str:
        """The folder on this machine: as it is called, or the end of it below root."""
        remote = _SCHEME.match(folder)
        if not remote and not _ABSOLUTE.match(folder):
            return os.path.join(self.root, folder.replace("\\", "/"))
        parts = _parts(folder[remote.end() :] if remote else folder)
        ends = [os.path.join(self.root, *parts[k:]) for k in range(len(parts) + 1)]
        here = [] if remote else [folder]
        places = [*ends, *here] if self.given else [*here, *ends]
        for place in places:
            if any(os.path.isfile(os.path.join(place, file)) for file in files):
                return place
        raise FileNotFoundError(
            f"There is no {files[0]!r} in {folder!r}, nor where an end of that path "
            f"lies below {self.root!r}. Tell the folder that holds them by `root`; "
            "nothing is downloaded."
        )

    def _check_different(self, places: Mapping[str, str], name: str) -> None:
        """Refuse one folder for two of the table: images of one name would mix."""
        found: dict[str, str] = {}
        for folder, place in places.items():
            before = found.setdefault(os.path.normpath(place), folder)
            if _parts(before) != _parts(folder):
                raise ValueError(
                    f"{name}: {before!r} and {folder!r} would both be {place!r}. Keep "
                    "the folders of the table apart below `root`."
                )


def _local(url: str) -> str:
    # CellProfiler writes file:/home/...
    if url.startswith("file:"):
        return "/" + unquote(url.removeprefix("file:")).lstrip("/")
    return url


def _parts(folder: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", folder) if part]
