"""A featurizer as one file: weights as safetensors, all else as JSON in its header."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import InvalidParameterError

import gandl
from gandl._extras import require_safetensors
from gandl._files import whole_file
from gandl.gan import GANConfig
from gandl.gan._training import under

_KIND = "model"
_FORMAT = 3
_ATTRIBUTES = {
    "n_channels_in_",
    "channels_in_",
    "illumination_corrected_",
    "image_shape_in_",
    "n_features_in_",
    "n_iter_",
    "n_images_seen_",
    "augment_p_",
    "n_whitening_crops_",
}


# What parameters and shapes that were tampered with lead to.
_NOT_UNDERSTOOD = (
    ArithmeticError,
    AttributeError,
    InvalidParameterError,
    LookupError,
    RuntimeError,
    TypeError,
)


def write_model(featurizer: Any, path: Path, overwrite: bool) -> None:
    """Write a fitted featurizer to a temporary name, and rename it."""
    require_safetensors()
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{str(path)!r} exists: name another file, or pass overwrite=True."
        )
    parameters = featurizer.get_params(deep=False)
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None  # a generator's state is no parameter
    # Places on this machine.
    parameters["checkpoint_dir"] = parameters["memory"] = None
    header = {
        "kind": _KIND,
        "format": _FORMAT,
        "version": gandl.__version__,
        "parameters": parameters,
        "config": dataclasses.asdict(featurizer.config_),
        "attributes": {
            name: getattr(featurizer, name)
            for name in sorted(_ATTRIBUTES)
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
    write_safetensors(path, arrays, header)


def read_model(cls: type, path: Path) -> Any:
    """Make a featurizer of what `write_model` wrote."""
    arrays, header = read_safetensors(path)
    if header.get("kind", _KIND) != _KIND:
        raise ValueError(
            f"{str(path)!r} is a {header['kind']}, no model: fit with its folder as "
            "checkpoint_dir, then save."
        )
    if header["format"] != _FORMAT:
        raise ValueError(
            f"{str(path)!r} has format {header['format']}, of gandl "
            f"{header['version']}; gandl {gandl.__version__} reads {_FORMAT}."
        )
    try:
        return _restored(cls, arrays, header, path)
    except _NOT_UNDERSTOOD as error:
        raise ValueError(
            f"{str(path)!r} is no model that gandl {gandl.__version__} understands: "
            f"{type(error).__name__}: {error}."
        ) from error


def _restored(
    cls: type, arrays: dict[str, np.ndarray], header: dict[str, Any], path: Path
) -> Any:
    featurizer = cls(**_tuples(header["parameters"]))
    featurizer._validate_params()
    featurizer.config_ = GANConfig(**header["config"])
    attributes = _tuples(header["attributes"])
    for name in _ATTRIBUTES & attributes.keys():
        setattr(featurizer, name, attributes[name])
    if "feature_names_in_" in header:
        featurizer.feature_names_in_ = np.array(header["feature_names_in_"], object)
    featurizer.intensity_range_ = arrays.get("intensity_range")
    featurizer.weights_ = under("weights", arrays)
    _check_weights(featurizer.weights_, featurizer.config_, path)
    featurizer.loss_curve_ = under("loss_curve", arrays)
    means = under("whitening_mean", arrays)
    matrices = under("whitening_matrix", arrays)
    featurizer.whitening_ = {name: (means[name], matrices[name]) for name in means}
    shapes = {
        f"whitening_matrix.{k}": (matrices[k].shape, 2 * means[k].shape) for k in means
    }
    if featurizer.intensity_range_ is not None:
        found = featurizer.intensity_range_.shape
        shapes["intensity_range"] = (found, (featurizer.n_channels_in_, 2))
    for name, (seen, expected) in shapes.items():
        if seen != expected:
            raise ValueError(
                f"{str(path)!r} has {name!r} of shape {seen}, not {expected}: it was "
                "tampered with."
            )
    return featurizer


def _check_weights(
    weights: dict[str, np.ndarray], config: GANConfig, path: Path
) -> None:
    """Refuse weights that networks of this configuration do not have."""
    if config.n_mapping_layers > len(weights):  # before they are built one by one
        raise ValueError(
            f"{str(path)!r} names {config.n_mapping_layers} mapping layers, and has "
            f"{len(weights)} weights: it was tampered with."
        )
    rng = torch.Generator()
    with torch.device("meta"):  # shapes alone: no size that is named takes memory
        networks = {
            "discriminator": config.discriminator(rng),
            "generator": config.generator(rng),
        }
    expected = {
        f"{part}.{name}": tuple(weight.shape)
        for part, network in networks.items()
        for name, weight in network.state_dict().items()
    }
    found = {name: weight.shape for name, weight in weights.items()}
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{str(path)!r} has a weight {name!r} of shape {found.get(name)}, "
                f"where its networks have {expected.get(name)}: it was tampered with."
            )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def write_safetensors(
    path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any]
) -> None:
    """Write arrays, and a header as JSON, to a file that is whole or not there."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(header, default=lambda value: value.item())
    metadata = {"gandl": text, "sha256": _digest(arrays, text)}
    with whole_file(path) as part:
        part.write_bytes(save(arrays, metadata=metadata))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_safetensors` wrote."""
    require_safetensors()
    from safetensors.numpy import load

    metadata: dict[str, str] = {}
    data = path.read_bytes()
    try:
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} is no safetensors file, or cut off: {error}."
        ) from None
    if "gandl" not in metadata:
        raise ValueError(f"{str(path)!r} was not written by gandl.")
    if metadata.get("sha256") != _digest(arrays, metadata["gandl"]):
        raise ValueError(
            f"{str(path)!r} is broken: it is not what was written. Copy it again."
        )
    return arrays, json.loads(metadata["gandl"])


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
