"""Leaving out images that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from gandl._warnings import warn
from gandl.images._channel_order import Names, arranged, names_of_first
from gandl.images._layouts import FileTable
from gandl.images._planes import Planes
from gandl.images._readers import INSTALL, read_planes

Kind = tuple[tuple[int, ...], str, Names]  # shape, type, names of channels


class Seen(NamedTuple):
    """What an image holds, or which of its files is at fault and why."""

    kind: Kind | None
    path: str
    reason: str


class Unlisted(NamedTuple):
    """A file whose images are not known, and why."""

    path: str
    row: dict[str, Any]  # of the metadata
    reason: str


def is_lenient(on_error: str) -> bool:
    """Whether images that cannot be read are left out."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip", got {on_error!r}.')
    return on_error == "skip"


def split_unreadable(
    files: FileTable, byte_limit: int
) -> tuple[FileTable, pd.DataFrame]:
    """Read every file once; returns the images that can be used, and the others.

    Those are a table of their metadata, the first file at fault and the reason. An
    image of another shape or type than most is left out as well.
    """
    seen = Parallel(require="sharedmem")(
        delayed(_examine)(row.ravel(), files.inside, byte_limit) for row in files.paths
    )
    if files.paths.shape[1] == 1:
        seen = _by_names(seen, files.channels or ())
    good, skipped = sort_out(seen, files.metadata)
    metadata = files.metadata[good].reset_index(drop=True)
    functions = None if files.functions is None else files.functions[good]
    kept = files._replace(
        paths=files.paths[good], metadata=metadata, functions=functions
    )
    return kept, skipped


def sort_out(
    seen: Sequence[Seen], metadata: pd.DataFrame
) -> tuple[np.ndarray, pd.DataFrame]:
    """Which images are like most, and the table of the others."""
    kinds = Counter(one.kind for one in seen if one.kind is not None)
    if not kinds:
        _, path, reason = seen[0]
        raise ValueError(f"None of {len(seen)} images can be used. {path!r}: {reason}")
    usual = kinds.most_common(1)[0][0]
    good = np.array([one.kind == usual for one in seen])
    own = {name: f"{name}_" for name in ("path", "reason")}
    skipped = metadata[~good].rename(columns=own)
    bad = [one for one in seen if one.kind != usual]
    odd = "It holds {}, where others hold {}."
    skipped = skipped.assign(
        path=[one.path for one in bad],
        reason=[o.reason or odd.format(_text(o.kind), _text(usual)) for o in bad],
    )
    if 2 * len(bad) > len(seen):
        warn(
            f"{len(bad)} of {len(seen)} images are left out, and listed in `skipped`; "
            f"the first: {bad[0].path!r}: {skipped['reason'].iloc[0]} Where sizes "
            "differ, bring all images to one size first."
        )
    return good, skipped.reset_index(drop=True)


def examine(path: str, read: Callable[[], tuple[np.ndarray, Names]]) -> Seen:
    """Read an image and its channels' names, or note why that is not possible."""
    try:
        image, names = read()
    except (OSError, ValueError) as error:
        if INSTALL in str(error):
            raise  # the package is at fault, not the image
        return Seen(None, path, str(error))
    if not np.isfinite(image).all():
        return Seen(None, path, "It holds NaN or infinity.")
    return Seen((image.shape, str(image.dtype), names), path, "")


def _examine(paths: np.ndarray, inside: Planes, byte_limit: int) -> Seen:
    """What the files of an image hold, which are all to hold the same."""
    first: Seen | None = None
    for path in paths:
        seen = examine(path, partial(read_planes, path, inside, byte_limit))
        if seen.kind is None:
            return seen
        if first is not None and _unordered(first.kind) != _unordered(seen.kind):
            reason = f"It holds {_text(seen.kind)}, other channels of the image "
            return Seen(None, path, f"{reason}{_text(first.kind)}.")
        first = first or seen
    assert first is not None
    return first


def _by_names(seen: list[Seen], asked: Names) -> list[Seen]:
    """Take images for of one kind whose channels are told by name, or by the user's."""
    good = [(one, one.kind) for one in seen if one.kind is not None]
    if not good:
        return seen
    told, asked = names_of_first(good[0][0].path, good[0][1][2], asked)

    def told_alike(one: Seen) -> Seen:
        if one.kind is None:
            return one
        shape, dtype, own = one.kind
        known = arranged(np.arange(shape[0]), own, told, asked) is not None
        names = told if known else tuple(sorted(own))
        return one._replace(kind=(shape, dtype, names))

    return [told_alike(one) for one in seen]


def _unordered(kind: Kind | None) -> Kind | None:
    return kind and (*kind[:2], tuple(sorted(kind[2])))


def _text(kind: Kind | None) -> str:
    shape, dtype, names = kind or ((), "", ())
    text = f"{' x '.join(map(str, shape))} {dtype}"
    return f"{text} ({', '.join(names)})" if names else text
