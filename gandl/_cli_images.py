"""Images, and what is known of each, that the command line names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gandl._cli_arguments import WITHOUT_IMAGES, refuse_unused, tell
from gandl._cli_wells import UNITS
from gandl._plate_map import join_plate_map, named, read_plate_map
from gandl._tables import (
    USUAL,
    as_text,
    composed,
    no_column,
    query_rows,
    read_table,
    with_usual_names,
)
from gandl.images import ImageCollection
from gandl.images._layouts import FileTable, list_folder
from gandl.images._load_data import list_load_data
from gandl.images._ome import only_ome
from gandl.images._ome_tiff import ENDS
from gandl.images._readers import BYTE_LIMIT

# Of objects and images, as CellProfiler counts them: no measurements.
_NUMBERS = ("ImageNumber", "ObjectNumber", "TableNumber", "Number_Object_Number")


def collect(options: argparse.Namespace) -> tuple[ImageCollection, pd.DataFrame]:
    """The selected images of a folder or a table, and what is known of each."""
    source = options.images
    if not source.exists():
        raise FileNotFoundError(f"There is no {str(source)!r}.")
    is_ome_tiff, stores = source.name.lower().endswith(ENDS), list[str]()
    if source.is_dir():
        is_ome_tiff, stores = (False, []) if options.pattern else only_ome(str(source))
    if stores:
        images = _from_ome(ImageCollection.from_ome_zarr, stores, options)
    elif is_ome_tiff:
        images = _from_ome(ImageCollection.from_ome_tiff, [str(source)], options)
    elif source.is_dir():
        refuse_unused(options, "a folder", "path", "root")
        files = list_folder(
            source,
            options.pattern,
            _channel_names(options),
            z=options.z,
            t=options.t,
            lenient=options.on_error == "skip",
        )
        images = _from_files(files, options)
    else:
        images = _from_table(source, options)
    if len(skipped := images.skipped):
        first = skipped.iloc[0]
        tell(
            f"Images left out: {len(skipped)}; the first: {first['path']!r}: "
            f"{first['reason']}"
        )
    known = composed(with_usual_names(images.metadata))
    ask_as_headed(options, known)
    known = with_plate_map(known, options)
    known = with_plates(known, options)
    if options.illumination:
        images = images.with_illumination(by=known["plate"])
    rows = selected(known, options)
    return images[rows], known.iloc[rows]


def with_plate_range(
    images: ImageCollection, known: pd.DataFrame, intensity: str
) -> ImageCollection:
    """Take each plate's intensity range from its images, if ``intensity`` is that."""
    if intensity != "plate":
        return images
    return images.with_intensity_range(by=known["plate"])


def selected(known: pd.DataFrame, options: argparse.Namespace) -> np.ndarray:
    """Numbers of the rows that --select takes."""
    if not options.select:
        return np.arange(len(known))
    try:
        rows = query_rows(known, options.select)
    except ValueError as error:
        raise ValueError(f"--select {error}") from None
    if not len(rows):
        raise ValueError(f"--select {options.select!r} takes no row.")
    tell(f"--select takes {len(rows)} of {len(known)} rows.")
    return rows


def _from_files(files: FileTable, options: argparse.Namespace) -> ImageCollection:
    """As `ImageCollection.from_folder` does, and tell of channels that are left out."""
    _tell_left_out(files.unused)
    return ImageCollection._from_files(files, BYTE_LIMIT, options.on_error)


def _tell_left_out(names: Sequence[str]) -> None:
    if names:
        tell(f"Channels that --channels leaves out: {', '.join(names)}.")


def _from_ome(
    read: Callable[..., ImageCollection], paths: list[str], options: argparse.Namespace
) -> ImageCollection:
    refuse_unused(options, "OME files", "pattern", "path", "root")
    return read(
        paths,
        channels=_channel_names(options),
        z=options.z,
        t=options.t,
        on_error=options.on_error,
    )


def _from_table(source: Path, options: argparse.Namespace) -> ImageCollection:
    refuse_unused(options, "a table", "pattern")
    table = read_table(source)
    root = options.root or source.parent
    names = _channel_names(options)
    how: Any = {"z": options.z, "t": options.t}
    if any(name.startswith(("FileName_", "URL_")) for name in map(str, table)):
        refuse_unused(options, "load_data.csv", "path")
        how |= {"illumination": True, "lenient": options.on_error == "skip"}
        return _from_files(list_load_data(source, options.root, names, **how), options)
    columns = options.path or ["path"]
    path: Any = columns if len(columns) > 1 else columns[0]
    if isinstance(names, dict):
        if unknown := [old for old in names if old not in columns]:
            raise ValueError(
                "--channels of a table renames columns of --path, where each channel "
                f"is a file, and {unknown[0]!r} is none of these: {columns}."
            )
        _tell_left_out([name for name in columns if name not in names])
        path, names = {new: old for old, new in names.items()}, None
    how["on_error"] = options.on_error
    images = ImageCollection.from_table(table, path=path, root=root, **how)
    if not names:
        return images
    chosen = images.with_channels(names)
    _tell_left_out([name for name in images.channels if name not in names])
    return chosen


def _channel_names(options: argparse.Namespace) -> list[str] | dict[str, str] | None:
    """The channels to use: as they are, or renamed by "1=DNA 2=actin"."""
    given: list[str] | None = options.channels
    if not given or not any("=" in name for name in given):
        return given
    pairs = [name.partition("=") for name in given]
    if not all(new for _, _, new in pairs):
        raise ValueError(f"--channels {' '.join(given)}: rename all or none, as 1=DNA.")
    old_names = [old for old, _, _ in pairs]
    twice = [old for old in old_names if old_names.count(old) > 1]
    if twice:
        raise ValueError(f"--channels {' '.join(given)}: {twice[0]} is there twice.")
    new_names = [new for _, _, new in pairs]
    if len(set(new_names)) < len(new_names):
        raise ValueError(f"--channels {' '.join(given)}: one name for two channels.")
    return {old: new for old, _, new in pairs}


def ask_as_headed(options: argparse.Namespace, table: pd.DataFrame) -> None:
    """Ask for columns as a table spells them: µ is two characters that look alike."""

    def spelled_one_way(name: object) -> str:
        return str(name).replace("\u03bc", "\u00b5")

    headings = {spelled_one_way(heading): heading for heading in table}
    for option in ("control", "compound", "concentration"):
        name = getattr(options, option, None)
        if name is not None and name not in table:
            setattr(options, option, headings.get(spelled_one_way(name), name))


def with_plate_map(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    path = getattr(options, "plate_map", None)
    if path is None:
        return known
    plate_map = read_plate_map(path, sheet=options.sheet)
    ask_as_headed(options, plate_map)
    known = _without_told(known, plate_map, options)
    joined, unused = join_plate_map(known, plate_map)
    if len(unused):
        first = named(unused, list(map(str, unused)), np.arange(len(unused)))
        tell(f"In the plate map, but without images: {first}.")
        WITHOUT_IMAGES.extend(_places(unused, joined))
    batch = getattr(options, "batch", None) or []
    lacking = [name for name in batch if name not in plate_map]
    if lacking and "plate" in plate_map:
        tell(
            f"The plate map has no column {lacking[0]!r}: plates that differ in it "
            "alone have the same wells, and count as replicates. Of one plate that was "
            "imaged several times, keep one by --select."
        )
    return joined


def _places(unused: pd.DataFrame, known: pd.DataFrame) -> list[dict[Any, Any]]:
    """Wells without images, and plates of which no well has any."""
    names = [name for name in unused if name not in ("well", "site")]
    if not names:
        return unused.to_dict("records")
    plates = pd.MultiIndex.from_frame(unused[names])
    is_known = plates.isin(pd.MultiIndex.from_frame(known[names]))
    others = unused.loc[~is_known, names].drop_duplicates()
    return [*unused[is_known].to_dict("records"), *others.to_dict("records")]


def with_own_plates(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Undo `with_plates` in a table that has been through it."""
    columns = getattr(options, "batch", None) or []
    if len(columns) < 2 or "plate" not in columns or not set(columns) <= set(known):
        return known
    k = columns.index("plate")
    rows = known[columns].astype(str).to_numpy()
    before = ["".join(f"{name}/" for name in row[:k]) for row in rows]
    after = ["".join(f"/{name}" for name in row[k + 1 :]) for row in rows]
    plates = [
        plate.removeprefix(start).removesuffix(end)
        for plate, start, end in zip(rows[:, k], before, after, strict=True)
    ]
    joined = [a + b + c for a, b, c in zip(before, plates, after, strict=True)]
    return known.assign(plate=plates) if joined == rows[:, k].tolist() else known


def _without_told(
    known: pd.DataFrame, plate_map: pd.DataFrame, options: argparse.Namespace
) -> pd.DataFrame:
    """Leave out what the plate map tells of wells, where it is known by an earlier one.

    Other columns in common tell wells apart, as plate and well do, and so do those
    without which the map has a well twice.
    """
    told = [getattr(options, n, None) for n in ("control", "compound", "concentration")]
    told += [name for name in plate_map if str(name).casefold() in UNITS]
    places = [*USUAL, *(getattr(options, "batch", None) or [])]
    both = [name for name in known if name in plate_map and name not in places]
    again = [name for name in both if name in told or known[name].isna().any()]
    keys = [name for name in plate_map if name in known and name not in again]
    if keys and "well" in plate_map and plate_map.duplicated(keys).any():
        again = [name for name in again if name in told]
    if again:
        names = ", ".join(map(str, again))
        tell(f"Taken from the plate map, not from the table: {names}.")
    return known.drop(columns=again)


def names_as_text(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """What names plates, wells and kinds of wells as text, as csv has it anyway."""
    names = {*USUAL, options.control, options.compound, *(options.batch or [])}
    known = known.copy()
    for name in names & set(known):
        known[name] = as_text(known[[name]])
    return known


def refuse_mistaken(features: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse features whose names are those of what is known of a row."""
    told = (options.control, options.compound, options.concentration)
    known = {*USUAL, *_NUMBERS, *told, *(options.batch or [])}
    known = {str(name).casefold() for name in known}
    for name in map(str, features):
        if name.casefold() in known:
            raise ValueError(
                f"The column {name!r} would be taken for a feature, as all numbers are "
                f"but those of Metadata_ columns: name it 'Metadata_{name}', or leave "
                "it out."
            )


def with_plates(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Make sure of a column of plates, of one name a plate."""
    columns = getattr(options, "batch", None) or ["plate"]
    if columns == ["plate"] and "plate" not in known:
        return known.assign(plate="1")
    missing = [name for name in columns if name not in known]
    if missing:
        raise ValueError(no_column(missing[0], known))
    names = known[columns]
    without = np.flatnonzero(names.isna().any(axis=1))
    if len(without):
        raise ValueError(f"Row {without[0]} has no {' and '.join(columns)}.")
    return known.assign(plate=names.astype(str).agg("/".join, axis=1))
