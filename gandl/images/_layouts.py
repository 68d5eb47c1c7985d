"""Tables and folders of image files -> paths, channels and metadata."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import string
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gandl._tables import USUAL, composed, usual_name, with_index
from gandl._warnings import warn
from gandl.images._microscopes import GUID, files_below, list_microscope
from gandl.images._planes import PROJECTIONS, Choice, Planes, as_planes, labels_of

_IN_METAXPRESS = ("well", "site", "channel")  # which a GUID may follow
_FIELD = re.compile(r"[A-Za-z_]\w*")
_N_EXAMPLES = 3
_N_LOOKED_AT = 10_000
_N_EXAMINED = 100  # folders of a kind, and files in them: there may be very many


class FileTable(NamedTuple):
    paths: np.ndarray  # (n, K) or (n, K, T, Z), K = 1 or C with one file a channel
    channels: tuple[str, ...] | None
    metadata: pd.DataFrame
    inside: Planes = Planes()  # of the planes in a file
    among: Planes = Planes()  # of the files of an image
    functions: np.ndarray | None = None  # (n, C) of illumination, "" for none
    unused: tuple[str, ...] = ()  # labels of channels that were not asked for


def list_table(
    table: pd.DataFrame,
    path: str | Sequence[str] | Mapping[str, str],
    root: str | os.PathLike[str] | None,
    channels: Sequence[str] | None,
    z: Choice,
    t: Choice,
) -> FileTable:
    columns = [path] if isinstance(path, str) else list(path)
    if isinstance(path, Mapping):
        if channels is not None:
            raise ValueError(
                "`path` as a mapping names the channels: leave out `channels`."
            )
        channels, columns = list(path), list(path.values())
    elif not isinstance(path, str) and channels is None:
        channels = columns
    if isinstance(table, pd.DataFrame):
        table = with_index(table)
    _check_table(table, columns)
    _refuse_rows_of_channels(table, columns)
    # Worker processes may have another working directory: absolute paths.
    folder = os.path.abspath("" if root is None else os.fsdecode(root))
    paths = np.empty((len(table), len(columns)), dtype=object)
    for k, column in enumerate(columns):
        paths[:, k] = [
            os.path.normpath(os.path.join(folder, os.fsdecode(name)))
            for name in table[column]
        ]
    names = None if channels is None else tuple(channels)
    metadata = table.drop(columns=columns)
    return FileTable(paths, names, metadata, as_planes(z, t))


def _check_table(table: pd.DataFrame, columns: list[str]) -> None:
    if not isinstance(table, pd.DataFrame):
        remedy = (
            " Read it: pd.read_csv(...)."
            if isinstance(table, str | os.PathLike)
            else ""
        )
        raise TypeError(
            f"`table` must be a pandas DataFrame, got {type(table)}.{remedy}"
        )
    if not table.columns.is_unique:
        raise ValueError("The table has several columns of one name.")
    unknown = [name for name in columns if name not in table.columns]
    if unknown or not columns:
        raise ValueError(
            f"The table has no columns {unknown}; it has {list(table.columns)}. Name "
            "the column of paths with `path`."
        )
    if not len(table):
        raise ValueError("The table has no rows.")
    for name in columns:
        check_paths(table[name], name)


def _refuse_rows_of_channels(table: pd.DataFrame, columns: list[str]) -> None:
    bare: dict[str, Any] = {usual_name(name).lower(): name for name in table}
    keys = [bare[name] for name in USUAL if name in bare]
    channel = bare.get("channel")
    if len(columns) > 1 or channel is None or columns == [channel]:
        return
    if keys and (table.groupby(keys)[channel].nunique() > 1).any():
        raise ValueError(
            "The table has a row for each file of an image, told apart by its column "
            f"{channel!r}: give each channel a column of paths, as in table.pivot("
            f"index={keys}, columns={channel!r}, values={columns[0]!r}).reset_index(), "
            "and name these as `path`."
        )


def check_paths(paths: pd.Series, name: str) -> None:
    missing = np.flatnonzero(paths.isna())
    if len(missing):
        raise ValueError(
            f"Row {missing[0]} of the table has no path in column {name!r} "
            f"({len(missing)} such rows). Fill them in or drop them."
        )


# What is found in the folder, without opening a file.
def list_folder(
    root: str | os.PathLike[str],
    pattern: str | None,
    channels: Sequence[str] | Mapping[str, str] | None,
    *,
    z: Choice,
    t: Choice,
    lenient: bool,
) -> FileTable:
    planes = as_planes(z, t)
    root = os.path.abspath(os.fsdecode(root))
    if pattern is None or re.fullmatch(r"\w+", pattern):
        named = list_microscope(root, pattern)
        fields, found, path = named.fields, named.values(), named.path
    else:
        fields = _field_names(pattern)
        _tell_misspelt(fields)
        found = _matching_files(root, pattern)
        path = partial(_path, root, pattern)
    if "channel" not in fields and isinstance(channels, Mapping):
        raise ValueError(
            "A mapping of channels needs the field {channel} in the pattern, got "
            f"{pattern!r}."
        )
    parts = {}  # what the files of one image differ in, and the values to read
    unused: tuple[str, ...] = ()
    if "channel" in fields:
        known = _known(found, "channel")
        parts["channel"] = _chosen_channels(channels, known)
        unused = tuple(label for label in known if label not in parts["channel"])
        if not isinstance(channels, Mapping):
            channels = parts["channel"]
    for axis in [axis for axis in ("t", "z") if axis in fields]:
        parts[axis] = labels_of(axis, getattr(planes, axis), _known(found, axis))
    paths, metadata = _group_files(path, fields, found, parts, lenient)
    names = list(channels.values()) if isinstance(channels, Mapping) else channels
    names = None if names is None else tuple(names)
    inside, among = _by_field(planes, parts)
    return FileTable(paths, names, metadata, inside, among, unused=unused)


# What is left to do within files, and what among the files that fields tell apart.
def _by_field(planes: Planes, parts: Container[str]) -> tuple[Planes, Planes]:
    fields = [axis for axis in ("z", "t") if axis in parts]
    projected = {
        axis: getattr(planes, axis)
        for axis in fields
        if getattr(planes, axis) in PROJECTIONS
    }
    return planes._replace(**dict.fromkeys(fields)), Planes(**projected)


def natural_key(text: str) -> tuple[list[str | int], str]:
    # Numbers by value: "s2" before "s10". Odd places are digits, even ones are not.
    parts = re.split(r"(\d+)", text)
    return [int(p) if k % 2 else p for k, p in enumerate(parts)], text


def _field_names(pattern: str) -> list[str]:
    try:
        parsed = list(string.Formatter().parse(pattern))
    except ValueError as exc:
        raise ValueError(f"Invalid pattern {pattern!r}: {exc}.") from exc
    fields: list[str] = []
    before = None  # a field that has just ended, if only what follows tells where
    for literal, field, spec, conversion in parsed:
        if before and field and not literal and field not in fields:
            raise ValueError(
                f"Nothing stands between {{{before}}} and {{{field}}} in the "
                f"pattern {pattern!r}: where one ends is not to be known. Make them "
                "one field."
            )
        before = None if field in fields else field
        if field is None or field in fields:
            continue
        if spec or conversion or not _FIELD.fullmatch(field):
            raise ValueError(
                f"Invalid field {{{field}}} in the pattern {pattern!r}: a field is a "
                "name in braces, such as {well}."
            )
        fields.append(field)
    return fields


def _tell_misspelt(fields: list[str]) -> None:
    known = ["channel", "z", "t", *USUAL]
    for field in fields:
        if field in known or field.lower() in USUAL:  # plates may be Plates
            continue
        meant = difflib.get_close_matches(field.lower(), known, 1, cutoff=0.85)
        if meant and meant[0] not in fields:
            warn(
                f"{{{field}}} in the pattern becomes a column of that name: is "
                f"{{{meant[0]}}} meant?"
            )


def _compile(pattern: str) -> re.Pattern[str]:
    regex, seen = "", set()
    for literal, field, _, _ in string.Formatter().parse(pattern):
        regex += re.escape(literal)
        if field is not None:
            regex += f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)"
            seen.add(field)
    return re.compile(regex)


def _matching_files(root: str, pattern: str) -> list[dict[str, str]]:
    if not os.path.isdir(root):
        raise NotADirectoryError(f"root is not a folder: {root!r}.")
    parts = pattern.split("/")
    # One expression for each depth, so that folders that cannot match stay closed.
    levels = [_compile("/".join(parts[: k + 1])) for k in range(len(parts))]
    left_out = _LeftOut([], [])
    found = list(_walk(root, "", levels, left_out))
    if not found:
        raise ValueError(_no_match(root, pattern))
    for field in filter(found[0].get, _IN_METAXPRESS):
        value = found[0][field]
        if re.fullmatch(f".+{GUID}", value):
            raise ValueError(
                f"{{{field}}} in the pattern {pattern!r} takes in the GUID that "
                f"MetaXpress ends names in, as in {value!r}, which differs in every "
                'file. Its files have a pattern of their own: pass "imagexpress".'
            )
    _tell_left_out(root, pattern, left_out)
    return found


class _LeftOut(NamedTuple):
    alike: list[str]  # files and folders but for upper and lower case, .tif and .tiff
    barren: list[str]  # folders of the pattern without a file that fits


def _tell_left_out(root: str, pattern: str, left_out: _LeftOut) -> None:
    """Warn of files that may have been meant, beside those that fit a pattern."""
    told = []
    if names := left_out.alike:
        told.append(
            f"{len(names)} that differ by upper and lower case, or .tif and .tiff, "
            f"alone, such as {names[0]!r}"
        )
    name = _loose(_compile(pattern.rpartition("/")[2]))
    deeper = [
        found
        for folder in left_out.barren[:_N_EXAMINED]
        if (found := _deeper(root, folder, name))
    ]
    if deeper:
        told.append(
            f"all of {_depth(len(deeper))}, where they lie one folder deeper, such as "
            f"{deeper[0]!r}"
        )
    if told:
        warn(
            f"Files that do not fit the pattern {pattern!r} are left out: "
            f"{'; '.join(told)}. Rename those that are meant."
        )


def _deeper(root: str, folder: str, name: re.Pattern[str]) -> str | None:
    """A file in a folder's own folders that is called as a pattern has it."""
    for entry in islice(_entries(root, folder), _N_EXAMINED):
        if entry.is_dir():
            inner = f"{folder}{entry.name}/"
            for file in islice(_entries(root, inner), _N_EXAMINED):
                if _fits_loosely(name, file.name):
                    return inner + file.name
    return None


def _loose(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """A pattern for which upper and lower case are one, and .tif and .tiff."""
    return re.compile(
        re.sub(r"(?i)\\\.tiff$", r"\\.tif", pattern.pattern), re.IGNORECASE
    )


def _fits_loosely(loose: re.Pattern[str], name: str) -> bool:
    return bool(loose.fullmatch(re.sub(r"(?i)\.tiff$", ".tif", name)))


def _entries(root: str, folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(os.path.join(root, folder)) as scan:
        return sorted(scan, key=lambda entry: entry.name)


def _no_match(root: str, pattern: str) -> str:
    """Why no file may fit the pattern: its case, its folders, or another kind."""
    names = list(islice(files_below(root), _N_LOOKED_AT))
    suffix = os.path.splitext(pattern)[1].lower()
    alike = [n for n in names if os.path.splitext(n)[1].lower() == suffix]
    loose = re.compile(_compile(pattern).pattern, re.IGNORECASE)
    cased = [n for n in names if loose.fullmatch(n)]
    depths = sorted({name.count("/") for name in alike})
    reason = "A pattern is the whole path below that folder, without wildcards."
    if cased:
        reason = "They differ by upper and lower case."
    elif depths and pattern.count("/") not in depths:
        reason += f" Files are {_depth(depths[0])} below it, those of the pattern"
        reason += f" {_depth(pattern.count('/'))}."
    shown = (cased or alike or names)[:_N_EXAMPLES]
    seen = ", ".join(map(repr, shown)) or "nothing"
    return (
        f"No file in {root!r} matches the pattern {pattern!r}. The folder holds, for "
        f"example: {seen}. {reason} Names of the common microscopes need no pattern."
    )


def _depth(n: int) -> str:
    return f"{n} folder{'s' * (n != 1)}"


def _walk(
    root: str, folder: str, levels: list[re.Pattern[str]], left_out: _LeftOut
) -> Iterator[dict[str, str]]:
    level = levels[folder.count("/")]
    loose = _loose(level)
    is_last, is_barren = level is levels[-1], True
    for entry in _entries(root, folder):
        name = folder + entry.name
        # macOS leaves "._" files, which are no images, beside those on other disks.
        if entry.is_dir() == is_last or entry.name.startswith("._"):
            continue
        if match := level.fullmatch(name):
            is_barren = False
            if is_last:
                yield match.groupdict()
            else:
                yield from _walk(root, name + "/", levels, left_out)
        elif _fits_loosely(loose, name):
            left_out.alike.append(name)
    if is_barren:
        left_out.barren.append(folder)


# Fields and literals together are the whole name, so the name can be put together
# again from the fields.
def _path(root: str, pattern: str, values: Mapping[str, str]) -> str:
    return os.path.join(root, pattern.format(**values).replace("/", os.sep))


def _known(found: list[dict[str, str]], field: str) -> list[str]:
    return sorted({values[field] for values in found}, key=natural_key)


def _chosen_channels(
    channels: Sequence[str] | Mapping[str, str] | None, known: list[str]
) -> list[str]:
    # What is read from a name is text: channel 1 is "1".
    labels = known if channels is None else list(map(str, channels))
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"No file has the channels {unknown}; found are {known}.")
    return labels


def _group_files(
    path: Callable[[Mapping[str, str]], str],
    fields: list[str],
    found: list[dict[str, str]],
    parts: dict[str, list[str]],
    lenient: bool,
) -> tuple[np.ndarray, pd.DataFrame]:
    rest = [f for f in fields if f not in parts]
    images: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for values in found:
        image = tuple(values[f] for f in rest)
        images.setdefault(image, set()).add(tuple(values[f] for f in parts))
    # Values are few, images many: each value's place is looked up.
    known = sorted({value for image in images for value in image}, key=natural_key)
    _refuse_other_text(known, found, path)
    place = {value: k for k, value in enumerate(known)}
    keys = sorted(images, key=lambda image: [place[value] for value in image])
    rows = [dict(zip(rest, image, strict=True)) for image in keys]
    paths = []
    for row, image in zip(rows, keys, strict=True):
        for labels in itertools.product(*parts.values()):
            part = dict(zip(parts, labels, strict=True))
            paths.append(path(row | part))
            if labels not in images[image] and not lenient:
                has = [key for key in keys if labels in images[key]]
                if 2 * len(has) < len(keys):  # they are odd, not those without
                    odd = path(dict(zip(rest, has[0], strict=True)) | part)
                    raise _stray(odd, part, len(has), len(keys))
                raise _lacking(row, part, paths[-1])
    shape = [len(parts.get(part, [""])) for part in ("channel", "t", "z")]
    columns = {field: [row[field] for row in rows] for field in rest}
    metadata = composed(pd.DataFrame(columns, index=pd.RangeIndex(len(rows))))
    return np.array(paths, dtype=object).reshape(-1, *shape), metadata


def _refuse_other_text(
    known: list[str],
    found: list[dict[str, str]],
    path: Callable[[Mapping[str, str]], str],
) -> None:
    """Refuse what no table could hold: text of a name that is not UTF-8."""
    for value in known:
        try:
            value.encode()
        except UnicodeError:
            first = next(values for values in found if value in values.values())
            raise ValueError(
                f"The name of {path(first)!r} is not UTF-8, as after unpacking an "
                "archive of another system: rename it."
            ) from None


def _stray(path: str, part: dict[str, str], n: int, of: int) -> OSError:
    named = ", ".join(f"{field} {label!r}" for field, label in part.items())
    chosen = ", ".join(part).replace("channel", "channels")
    return FileNotFoundError(
        f"Of {of} images, {n} have a file of {named}, such as {path!r}: rename or "
        f"remove what is no such image, or choose by {chosen}."
    )


def _lacking(row: dict[str, str], part: dict[str, str], path: str) -> OSError:
    named = ", ".join(f"{field} {label!r}" for field, label in part.items())
    remedy = "leave the channel out with `channels`"
    if list(part) != ["channel"]:
        remedy = f"choose others with {', '.join(part)}".replace("channel", "channels")
    return FileNotFoundError(
        f"Image {row} has no file of {named}: {path!r} is missing. Restore it, remove "
        f"the image's other files, or {remedy}."
    )


def channel_names(channels: Sequence[str] | None, n: int) -> tuple[str, ...]:
    if channels is None:
        return tuple(f"channel_{k}" for k in range(n))
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    if len(names) != n or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`channels` must be {n} strings, a name for each channel, got {names}."
        )
    if len(set(names)) < n:
        raise ValueError(f"Channels must have different names, got {names}.")
    return names
