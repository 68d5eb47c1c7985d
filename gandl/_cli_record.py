"""The record of what a command has run, kept beside its output."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib

import gandl
from gandl._cli_arguments import TOLD, WITHOUT_IMAGES
from gandl._files import whole_file
from gandl.images import ImageCollection

_PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "torch", "tifffile")


def inputs(options: argparse.Namespace) -> dict[str, Path]:
    """What the command reads, by the names of its arguments."""
    given = {
        name: getattr(options, name, None)
        for name in ("images", "profiles", "model", "plate_map")
    }
    return {name: path for name, path in given.items() if path is not None}


def beside(out: Path) -> Path:
    """Where the record of one file lies."""
    return out.with_name(out.name + ".run.json")


def make_record(
    options: argparse.Namespace,
    model: Any = None,
    images: ImageCollection | None = None,
) -> dict[str, Any]:
    """What is run: versions, parameters, seed, data."""
    given = vars(options)
    record: dict[str, Any] = {
        "told": TOLD,  # with what will be told until it is written
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in given.items()},
        # An editable install may name the version that it was made of.
        "versions": {
            "gandl": gandl.__version__,
            **{name: version(name) for name in _PACKAGES},
        },
        "python": platform.python_version(),
        "machine": platform.platform(),
        "sha256": {
            name: _sha256(path)
            for name, path in inputs(options).items()
            if path.is_file()
        },
    }
    if given.get("plate_map") is not None:
        record["wells_without_images"] = list(WITHOUT_IMAGES)
    if images is not None:
        # Of names, sizes and times of the files, which is what notices a changed one.
        record["data"] = {"images": len(images), "fingerprint": joblib.hash(images)}
        skipped = images.skipped.astype(object)
        skipped = skipped.where(skipped.notna(), None)  # JSON has no NaN
        record["data"]["skipped"] = skipped.to_dict("records")
    if model is not None:
        record["model"] = {
            "parameters": model.get_params(),
            "images_seen": model.n_images_seen_,
            "activations": _activations(model),
            "channels": list(model.channels_in_ or ()),
        }
    return record


def _activations(model: Any) -> str:
    """The type that this machine computes in: by it embeddings differ a little."""
    from gandl._tensors import activation_dtype
    from gandl._trained import device_of

    dtype = activation_dtype(model.precision, device_of(model))
    return str(dtype).removeprefix("torch.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write what was run beside its output, when it has ended."""
    ended = {"ended": datetime.now(UTC).isoformat(timespec="seconds")}
    text = json.dumps(ended | record, indent=2, default=str)
    with whole_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
