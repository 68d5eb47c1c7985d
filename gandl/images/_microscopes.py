"""How microscopes and archives name the files of a plate."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from gandl._warnings import warn
from gandl._wells import well_name

_WELL = r"(?P<well>[A-Za-z]{1,2}\d{2})"
GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SUFFIX = r"\.(?:tiff?|TIFF?|png|PNG)"
IMAGE = re.compile(r"\.(?:tiff?|png)$", re.IGNORECASE)
HIDDEN = re.compile(r"[.@#$]|__")  # folders of systems, not of plates
# The experiment is what the name of a file begins with, as short as can be, lest site
# s10 be a well; "._" are macOS's own files.
_EXPERIMENT = r"(?P<experiment>(?!\._)[^/]+?)_"


class Microscope(NamedTuple):
    names: tuple[str, ...]  # what it is called by `pattern`
    shape: str  # for people to read
    path: re.Pattern[str]  # of the absolute path of a file


def _microscope(names: str, shape: str, path: str) -> Microscope:
    # The leftmost folder that fits is the plate's, not one below it.
    return Microscope(
        tuple(names.split()), shape, re.compile(f"(?:.*?/)?{path}{_SUFFIX}")
    )


MICROSCOPES = (
    # https://github.com/recursionpharma/rxrx-datasets
    _microscope(
        "rxrx",
        "{experiment}/Plate{plate_number}/{well}_s{site}_w{channel}.png",
        r"(?P<experiment>[^/]+)/Plate(?P<plate_number>\d+)/"
        + _WELL
        + r"_s(?P<site>\d+)_w(?P<channel>\d+)",
    ),
    # Revvity's Harmony, and what the Cell Painting Gallery has of JUMP. Up to
    # version 4 a name ends in sk1fk1fl1, later in t01; some exports have a folder
    # for each well.
    _microscope(
        "phenix operetta jump",
        "{plate}__{measurement}/Images/{well}f{site}p{z}-ch{channel}sk{t}fk1fl1.tiff",
        r"(?P<plate>[^/]+?)(?:__(?P<measurement>(?:(?!__)[^/])+))?/(?:[Ii]mages/)?"
        r"(?:r\d+c\d+/)?r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<z>\d+)"
        r"-ch(?P<channel>\d+)(?:sk|t)(?P<t>\d+)(?:fk\d+fl\d+)?",
    ),
    # MetaXpress: a GUID may follow; sites and wavelengths are left out where there is
    # one. Thumbnails, "_thumb" before the GUID, do not fit.
    _microscope(
        "imagexpress",
        "{plate}/TimePoint_{t}/ZStep_{z}/{experiment}_{well}_s{site}_w{channel}.tif",
        r"(?P<plate>[^/]+)/(?:[Tt]ime[Pp]oint_(?P<t>\d+)/)?(?:ZStep_(?P<z>\d+)/)?"
        + _EXPERIMENT
        + r"(?!s\d)"  # a site
        + _WELL
        + f"(?=_[sw]\\d|{GUID})"
        + f"(?:_s(?P<site>\\d+))?(?:_w(?P<channel>\\d+))?(?:{GUID})?",
    ),
    # Yokogawa's CV6000 to CV8000: T, F, L, A, Z, C are time, field, line of time,
    # action, plane and channel.
    _microscope(
        "cellvoyager",
        "{plate}/{experiment}_{well}_T{t}F{site}L{line}A{action}Z{z}C{channel}.tif",
        r"(?P<plate>[^/]+)/"
        + _EXPERIMENT
        + _WELL
        + r"_T(?P<t>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+)",
    ),
)
_NUMBERS = ("site", "channel", "z", "t")
_ORDER = (
    *("experiment", "plate", "plate_number", "measurement", "well", "site"),
    *("z", "t", "channel"),
)
_PARTS = ("channel", "t", "z")  # that files of one image differ in
_N_EXAMPLES = 3


@dataclass(frozen=True)
class Found:
    fields: list[str]
    files: dict[tuple[str, ...], str]  # values of the fields -> path
    named: re.Pattern[str]  # how

    def values(self) -> list[dict[str, str]]:
        return [dict(zip(self.fields, key, strict=True)) for key in self.files]

    def path(self, values: Mapping[str, str]) -> str:
        """The path of the file of these values, or where it would be."""
        key = tuple(values[field] for field in self.fields)
        if key in self.files:
            return self.files[key]
        # By that of another file of the image, numbers with as many digits.
        path = self._of_image[self._image(key)].replace(os.sep, "/")
        match = self.named.fullmatch(path)
        assert match
        known = [f for f in _PARTS if f in self.fields and match[f] is not None]
        for field in sorted(known, key=match.start, reverse=True):
            number = values[field].zfill(len(match[field]))
            path = path[: match.start(field)] + number + path[match.end(field) :]
        return path.replace("/", os.sep)

    def _image(self, key: tuple[str, ...]) -> tuple[str, ...]:
        named = zip(self.fields, key, strict=True)
        return tuple(value for field, value in named if field not in _PARTS)

    @cached_property
    def _of_image(self) -> dict[tuple[str, ...], str]:
        return {self._image(key): path for key, path in self.files.items()}


def list_microscope(root: str, name: str | None) -> Found:
    """Files below a folder that are named as by a microscope, found out if None."""
    if not os.path.isdir(root):
        raise NotADirectoryError(f"root is not a folder: {root!r}.")
    tried = MICROSCOPES if name is None else (_called(name),)
    paths = list(files_below(root))
    fitting = [_matches(root, paths, microscope) for microscope in tried]
    found = [k for k, matches in enumerate(fitting) if matches]
    if len(found) != 1:
        counts = "; ".join(
            f"{' or '.join(microscope.names)} ({microscope.shape}): {len(matches)}"
            for microscope, matches in zip(tried, fitting, strict=True)
        )
        # Of each that fits one; where none does, of images if there are any.
        fit = [os.path.relpath(matches[0].path, root) for matches in fitting if matches]
        images = [path for path in paths if re.search(f"{_SUFFIX}$", path)]
        shown = fit or images or paths
        examples = ", ".join(map(repr, islice(shown, _N_EXAMPLES))) or "nothing"
        remedy = (
            "Name the one to use"
            if found
            else "Describe the names of the files, with fields in braces"
        )
        if name is not None:
            remedy = f"Leave it out to have all microscopes' tried, or {remedy.lower()}"
        raise ValueError(
            f"{'Several patterns fit' if found else 'No pattern fits'} the files in "
            f"{root!r}, such as {examples}. Tried, with the number of files that fit: "
            f"{counts}. {remedy}, by `pattern`."
        )
    matches = fitting[found[0]]
    _tell_folders_without(root, paths, matches)
    return _fields(tried[found[0]], matches)


def _tell_folders_without(root: str, paths: list[str], matches: list[_Match]) -> None:
    """Warn of folders beside those of plates that have images, none of which fits."""
    above = _above(root)
    taken = {
        match.plate_folder.removeprefix(above)
        for match in matches
        if match.plate_folder.startswith(above)
    }
    depths = sorted({folder.count("/") + 1 for folder in taken})
    fit = {match.path for match in matches}
    without: dict[str, str] = {}
    for path in paths:
        if above + path in fit or not IMAGE.search(path):
            continue
        *folders, _ = path.split("/")
        at = ["/".join(folders[:depth]) for depth in depths if depth <= len(folders)]
        if taken.isdisjoint(at) and not any(map(HIDDEN.match, folders)):
            for folder in at:
                without.setdefault(folder, path)
    for folder in taken:  # what lies above a plate is none
        for depth in depths:
            without.pop("/".join(folder.split("/")[:depth]), None)
    if without:
        first = dict.fromkeys(without.values())  # of each folder
        examples = ", ".join(map(repr, islice(first, _N_EXAMPLES)))
        warn(
            f"{len(first)} folders beside those of plates have images of which no "
            f"name fits, such as {examples}. They are left out: if they are plates, "
            "rename these files, or describe all by a `pattern` of your own."
        )


def _called(name: str) -> Microscope:
    for microscope in MICROSCOPES:
        if name.lower() in microscope.names:
            return microscope
    known = ", ".join(name for microscope in MICROSCOPES for name in microscope.names)
    raise ValueError(
        f"No pattern is called {name!r}: there are {known}, or your own with fields in "
        'braces, such as "{plate}/{well}_w{channel}.tif".'
    )


def files_below(root: str) -> Iterator[str]:
    """Paths below a folder, "/" between folders."""
    for folder, _, names in folders_below(root):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        start = "" if below == "." else below + "/"
        yield from (start + name for name in names)


def folders_below(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders, those in them, and files; links are followed, but not round.

    What is taken out of the second is left out.
    """
    seen = {os.path.realpath(root)}
    for folder, inner, names in os.walk(root, followlinks=True):
        targets = [os.path.realpath(os.path.join(folder, name)) for name in inner]
        inner[:] = sorted(
            name
            for name, target in zip(inner, targets, strict=True)
            if target not in seen
        )
        seen.update(targets)
        yield folder, inner, sorted(names)


def _above(root: str) -> str:
    return root.replace(os.sep, "/").rstrip("/") + "/"


class _Match(NamedTuple):
    path: str
    plate_folder: str
    values: dict[str, str | None]


def _matches(root: str, paths: list[str], microscope: Microscope) -> list[_Match]:
    # The names of the root and of what lies above it may be those of the plate.
    above = _above(root)
    matches = []
    for path in paths:
        if match := microscope.path.fullmatch(above + path):
            end = max(
                match.end(name)
                for name in ("plate", "plate_number", "measurement")
                if name in match.re.groupindex
            )
            folder = match.string[:end]
            matches.append(_Match(match.string, folder, match.groupdict()))
    return matches


def _check_apart(matches: list[_Match]) -> None:
    """Refuse a plate's folder below another's: copies, or plates below a stray file."""
    first: dict[str, str] = {}
    for match in matches:
        first.setdefault(match.plate_folder, match.path)
    for folder, path in first.items():
        above = folder
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in first:
                raise ValueError(
                    f"{above!r} and {folder!r}, which lies in it, both have files "
                    f"named as a plate's, such as {first[above]!r} and {path!r}: move "
                    "those that are no plate of their own, such as copies, out of the "
                    "folder, or say by a `pattern` of your own which files to take."
                )


def _fields(microscope: Microscope, matches: list[_Match]) -> Found:
    _check_apart(matches)
    rows = [_row(match) for match in matches]
    if "imagexpress" in microscope.names:
        rows = _without_projections(rows)
    _tell_plates_apart(rows)
    fields = [f for f in _ORDER if any(row.get(f) is not None for row in rows)]
    files: dict[tuple[str, ...], str] = {}
    for row in rows:
        # What a name leaves out where there is only one, is the first.
        key = tuple(str(row.get(field) or "1") for field in fields)
        path = str(row["path"]).replace("/", os.sep)
        if key in files:
            image = dict(zip(fields, key, strict=True))
            raise ValueError(
                f"{files[key]!r} and {path!r} are both {image}: keep one of them, or "
                "say by a `pattern` of your own how they differ."
            )
        files[key] = path
    _tell_measured_twice(rows, {"experiment", "measurement"} & set(fields))
    return Found(fields, files, microscope.path)


_Row = dict[str, str | None]


def _tell_measured_twice(rows: list[_Row], fields: set[str]) -> None:
    """Warn of a well that one plate has from several measurements or experiments."""
    for field in fields:
        seen: dict[tuple[str | None, ...], str | None] = {}
        for row in rows:
            first = seen.setdefault((row["plate"], row["well"]), row.get(field))
            if first != row.get(field):
                warn(
                    f"Well {row['well']} of plate {row['plate']!r} is there from "
                    f"several {field}s, {first!r} and {row.get(field)!r}. Where each "
                    f'is a plate of its own, group by "{field}" too, or keep one: '
                    f'X[X.metadata["{field}"] == {first!r}].'
                )
                break


def _row(match: _Match) -> _Row:
    row = dict(match.values)
    if "row" in row:
        row["well"] = f"r{row.pop('row')}c{row.pop('column')}"
    try:
        row["well"] = well_name(row["well"])
    except ValueError as error:
        raise ValueError(f"{match.path!r}: {error}") from None
    if "plate_number" in row:  # unique in its experiment alone
        row["plate"] = f"{row['experiment']}_{row['plate_number']}"
    for name in _NUMBERS:
        number = row.get(name)
        row[name] = None if number is None else str(int(number))
    return row | {"path": match.path, "folder": match.plate_folder}


def _without_projections(rows: list[_Row]) -> list[_Row]:
    # MetaXpress puts them beside the planes that they are of, in the folder above or
    # in ZStep_0.
    names = [name for name in _ORDER if name != "z"]
    images = [(row["folder"], *(row.get(name) for name in names)) for row in rows]
    planes = [row["z"] not in (None, "0") for row in rows]
    stacks = {image for image, plane in zip(images, planes, strict=True) if plane}
    return [
        row
        for row, image, plane in zip(rows, images, planes, strict=True)
        if plane or image not in stacks
    ]


def _tell_plates_apart(rows: list[_Row]) -> None:
    """Name plates by their path where folders of different places have one name."""
    folders: dict[tuple[str | None, ...], set[str]] = {}
    for row in rows:
        key = row["plate"], row.get("measurement")
        folders.setdefault(key, set()).add(str(row["folder"]))
    if all(len(places) == 1 for places in folders.values()):
        return
    common = os.path.commonpath([str(row["folder"]) for row in rows])
    for row in rows:
        row["plate"] = os.path.relpath(str(row["folder"]), common).replace(os.sep, "/")
