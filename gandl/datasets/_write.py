"""A simulated screen on disk, one TIFF a channel, under Recursion's file names."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from gandl._files import put_folder

METADATA, TRUTH, CHANNELS = "metadata.csv", "truth.csv", "channels.csv"


# A temporary folder that takes its place only once it is complete.
@contextmanager
def new_folder(folder: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    final = Path(folder).absolute()
    check_free(final, overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    part.mkdir()
    try:
        yield part
        check_free(final, overwrite)
        put_folder(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# Refuse to touch what is there, unless it is a screen and may be replaced.
def check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"folder={str(folder)!r} is a file.")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"folder={str(folder)!r} exists: name another, or pass overwrite=True."
        )
    known = {METADATA, TRUTH, CHANNELS, "images"}
    if {entry.name for entry in folder.iterdir()} != known:
        raise FileExistsError(
            f"folder={str(folder)!r} does not hold a screen that make_screen wrote, "
            "and is not overwritten: remove it yourself, or name another."
        )


# The files of each row, relative to the folder, one column a channel.
def image_paths(metadata: pd.DataFrame, n_channels: int) -> pd.DataFrame:
    stem = [
        f"images/{row.experiment}/Plate{row.plate}/{row.well}_s{row.site}"
        for row in metadata.itertuples()
    ]
    return pd.DataFrame(
        {f"w{c + 1}": [f"{s}_w{c + 1}.tif" for s in stem] for c in range(n_channels)}
    )


# Write images ``(n, C, H, W)`` to paths ``(n, C)`` under the root.
def write_images(root: Path, paths: np.ndarray, images: np.ndarray) -> None:
    for names, channels in zip(paths, images, strict=True):
        for name, channel in zip(names, channels, strict=True):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, channel, metadata=None, software=False)


# Write the tables beside the images; treatments also under Recursion's names.
def write_tables(
    root: Path, metadata: pd.DataFrame, truth: pd.DataFrame, stains: tuple[str, ...]
) -> None:
    treated = metadata["well_type"] == "treatment"
    table = metadata.assign(
        treatment=metadata["compound"].where(treated),
        treatment_conc=metadata["concentration"].where(treated),
    )
    channels = pd.DataFrame({"channel": range(1, len(stains) + 1), "stain": stains})
    table.to_csv(root / METADATA, index=False)
    truth.to_csv(root / TRUTH, index=False)
    channels.to_csv(root / CHANNELS, index=False)
