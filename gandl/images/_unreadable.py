"""Leaving out images that cannot be read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from gandl.images._layouts import FileTable
from gandl.images._readers import INSTALL, read_image


def split_unreadable(
    files: FileTable, byte_limit: int
) -> tuple[FileTable, pd.DataFrame]:
    """Read every file once; returns the images that can be used, and the others.

    Those are a table of their metadata, the first file at fault and the reason. An
    image of another shape or type than most is left out as well.
    """
    seen = Parallel(require="sharedmem")(
        delayed(_examine)(row, byte_limit) for row in files.paths
    )
    kinds = Counter(kind for kind, _, _ in seen if kind is not None)
    if not kinds:
        _, path, reason = seen[0]
        raise ValueError(f"None of {len(seen)} images can be used. {path!r}: {reason}")
    usual = kinds.most_common(1)[0][0]
    faults: list[tuple[str, str]] = []
    for k, (kind, path, reason) in enumerate(seen):
        if kind is None:
            faults.append((path, reason))
        elif kind != usual:
            reason = f"It holds {_text(kind)}, where others hold {_text(usual)}."
            faults.append((files.paths[k][0], reason))
        else:
            faults.append(("", ""))
    bad = np.array([bool(reason) for _, reason in faults])
    columns = {"path": 0, "reason": 1}
    skipped = files.metadata[bad].rename(columns={k: f"{k}_" for k in columns})
    skipped = skipped.assign(
        **{name: [f[k] for f in faults if f[1]] for name, k in columns.items()}
    )
    metadata = files.metadata[~bad].reset_index(drop=True)
    functions = None if files.functions is None else files.functions[~bad]
    kept = files._replace(
        paths=files.paths[~bad], metadata=metadata, functions=functions
    )
    return kept, skipped.reset_index(drop=True)


Kind = tuple[tuple[int, ...], str]


def _examine(row: np.ndarray, byte_limit: int) -> tuple[Kind | None, str, str]:
    """What the files of an image hold, or which one is at fault and why."""
    kind: Kind | None = None
    for path in row:
        try:
            image = read_image(path, byte_limit=byte_limit)
        except (OSError, ValueError) as error:
            if INSTALL in str(error):
                raise  # the package is at fault, not the image
            return None, path, str(error)
        if not np.isfinite(image).all():
            return None, path, "It holds NaN or infinity."
        if kind is not None and kind != (image.shape, str(image.dtype)):
            reason = f"It holds {_text((image.shape, str(image.dtype)))}, "
            return None, path, f"{reason}other channels of the image {_text(kind)}."
        kind = (image.shape, str(image.dtype))
    return kind, "", ""


def _text(kind: Kind) -> str:
    shape, dtype = kind
    return f"{' x '.join(map(str, shape))} {dtype}"
