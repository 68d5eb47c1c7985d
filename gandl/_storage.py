"""A featurizer as one file: weights as safetensors, all else as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

import gandl
from gandl.gan import GANConfig

_FORMAT = 2
_ATTRIBUTES = (
    "n_channels_in_",
    "channels_in_",
    "image_shape_in_",
    "n_features_in_",
    "n_iter_",
    "n_images_seen_",
    "augment_p_",
)


def write_model(featurizer: Any, path: Path, overwrite: bool) -> None:
    """Write a fitted featurizer to a temporary name, and rename it."""
    save = _safetensors("save")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{str(path)!r} exists: name another file, or pass overwrite=True."
        )
    parameters = featurizer.get_params(deep=False)
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None  # a generator's state is no parameter
    header = {
        "format": _FORMAT,
        "version": gandl.__version__,
        "parameters": parameters,
        "config": dataclasses.asdict(featurizer.config_),
        "attributes": {
            name: getattr(featurizer, name)
            for name in _ATTRIBUTES
            if hasattr(featurizer, name)
        },
    }
    names = getattr(featurizer, "feature_names_in_", None)
    if names is not None:
        header["feature_names_in_"] = list(names)
    arrays = {f"weights.{name}": a for name, a in featurizer.weights_.items()}
    arrays |= {
        f"loss_curve.{k}": np.asarray(a) for k, a in featurizer.loss_curve_.items()
    }
    for name, (mean, matrix) in featurizer.whitening_.items():
        arrays |= {f"whitening_mean.{name}": mean, f"whitening_matrix.{name}": matrix}
    if featurizer.intensity_range_ is not None:
        arrays["intensity_range"] = featurizer.intensity_range_
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(header, default=lambda value: value.item())
    part = path.with_name(f".{uuid.uuid4().hex}.safetensors")
    try:
        part.write_bytes(save(arrays, metadata={"gandl": text}))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_model(cls: type, path: Path) -> Any:
    """Make a featurizer of what `write_model` wrote."""
    load, metadata = _safetensors("load"), {}
    data = path.read_bytes()
    try:
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:
        raise ValueError(f"{str(path)!r} is no safetensors file: {error}") from None
    if "gandl" not in metadata:
        raise ValueError(f"{str(path)!r} was not written by GANDLFeaturizer.save.")
    header = json.loads(metadata["gandl"])
    if header["format"] != _FORMAT:
        raise ValueError(
            f"{str(path)!r} has format {header['format']}, of gandl "
            f"{header['version']}; gandl {gandl.__version__} reads {_FORMAT}."
        )
    featurizer = cls(**_tuples(header["parameters"]))
    featurizer.config_ = GANConfig(**header["config"])
    for name, value in _tuples(header["attributes"]).items():
        setattr(featurizer, name, value)
    if "feature_names_in_" in header:
        featurizer.feature_names_in_ = np.array(header["feature_names_in_"], object)
    featurizer.intensity_range_ = arrays.get("intensity_range")
    featurizer.weights_ = _under("weights.", arrays)
    featurizer.loss_curve_ = _under("loss_curve.", arrays)
    means = _under("whitening_mean.", arrays)
    matrices = _under("whitening_matrix.", arrays)
    featurizer.whitening_ = {name: (means[name], matrices[name]) for name in means}
    return featurizer


def _under(start: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _safetensors(name: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            'To save and load models takes safetensors: pip install "gandl[hub]".'
        ) from None
    return getattr(safetensors.numpy, name)
