"""What `test_simulated_gpu.py` runs: gandl on a device that only looks like a GPU.

Its tensors are computed on the CPU, and an operation that mixes them with others is an
error, as on a GPU. What there makes the processor wait, or moves data to it or from it,
is counted. Registered with PyTorch for good, hence in a process of its own.
"""

import pickle
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from gandl import GANDLFeaturizer
from gandl.gan import GANConfig, Trainer
from gandl.gan._ranks import SharedGenerator

backend_registration._setup_privateuseone_for_python_backend("gpu")
torch.gpu.get_amp_supported_dtype = lambda: [torch.bfloat16]
HERE, THERE = torch.device("cpu"), torch.device("gpu:0")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_READS = {
    _aten._local_scalar_dense.default,
    _aten._unique2.default,
    _aten.allclose.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
    _aten.unique_dim.default,
}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
waited = Counter()  # for what, since it was last cleared


class Remote(torch.Tensor):
    """A tensor of that device, whose numbers lie in ``own``."""

    @staticmethod
    def __new__(cls, own):
        layout = {"strides": own.stride(), "storage_offset": own.storage_offset()}
        remote = torch.Tensor._make_wrapper_subclass(
            cls, own.shape, dtype=own.dtype, device=THERE, **layout
        )
        remote.own = own
        return remote

    def tolist(self):
        waited["tolist"] += 1
        return self.own.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


def _computed(function, args, kwargs):
    tensors = [
        x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)
    ]
    remote = [x for x in tensors if isinstance(x, Remote)]
    where = kwargs.get("device") or (THERE if remote else HERE)
    if function is _aten.copy_.default:
        where = args[0].device
    masks = function in _INDEXING and any(x.dtype == torch.bool for x in tensors[1:])
    # A number may lie on the CPU, where it is added to each and the like.
    of_each = torch.Tag.pointwise in function.tags
    local = [x for x in tensors if not isinstance(x, Remote)]
    if (function in _READS or masks) and remote:
        waited[str(function)] += 1
    elif function in _COPIES:
        waited[str(function)] += (
            len({x.device.type for x in tensors} | {where.type}) > 1
        )
    elif remote and any(x.dim() or not of_each for x in local):
        raise RuntimeError(f"{function} was given tensors of two devices")
    if "device" in kwargs:
        kwargs = kwargs | {"device": HERE}
    args, kwargs = pytree.tree_map_only(Remote, lambda x: x.own, (args, kwargs))
    results = function(*args, **kwargs)
    if where.type == "cpu":
        return results
    known = {id(x.own): x for x in remote}  # what is changed in place stays what it is
    return pytree.tree_map_only(
        torch.Tensor, lambda x: known[id(x)] if id(x) in known else Remote(x), results
    )


_new_generator = torch.Generator.__new__


class _Generator(torch.Generator):
    """Random numbers are those of the CPU."""

    def __new__(cls, device="cpu"):
        return _new_generator(cls, "cpu")


def _shared_generator(cls, ranks, device):
    rng = _new_generator(cls, "cpu")
    rng.ranks = ranks
    return rng


@contextmanager
def simulated_gpu():
    """Let the device "gpu" be used."""
    with (
        _Everywhere(),
        patch.object(torch, "Generator", _Generator),
        patch.object(SharedGenerator, "__new__", _shared_generator),
        # Such tensors cannot be made in it.
        patch.object(torch, "inference_mode", _no_grad),
    ):
        yield


def _no_grad(mode=True):
    return torch.no_grad() if mode else nullcontext()


def steps():
    """Steps with all penalties are the CPU's, and nobody waits."""
    network = {"n_channels": 3, "size": 32, "latent_dim": 16, "channel_max": 16}
    network |= {"channel_base": 512, "adversarial_batch": 8, "detail": True}
    every = {"r1_interval": 4, "path_length_interval": 2}
    rng = torch.Generator().manual_seed(0)
    images = [2 * torch.rand((8, 3, 32, 32), generator=rng) - 1 for _ in range(9)]
    for loss in ("logistic", "wgan-gp", "r3gan"):
        # Adaptive, a GPU draws numbers from the start, a CPU once it augments.
        config = GANConfig(**network, **every, loss=loss, augment=0.2)
        trainer = Trainer(config, 0)
        expected = [trainer.step(real.clone()) for real in images]
        with simulated_gpu():
            trainer = Trainer(config, 0, device="gpu")
            for step, (real, here) in enumerate(zip(images, expected, strict=True)):
                real = real.to("gpu")
                waited.clear()
                there = trainer.step(real)
                assert step == 0 or not waited.total(), waited  # kernels are kept
                assert there.keys() == here.keys()
                rounding = 1e-4
                if loss == "wgan-gp":  # grows threefold a step
                    rounding = 1e-5 * 3**step
                for name, value in here.items():
                    value_there = there[name].item()
                    np.testing.assert_allclose(value_there, value, rtol=rounding)


def the_device():
    """What moves and waits is counted, and what is mixed refused."""
    with simulated_gpu():
        waited.clear()
        assert torch.ones(3).to("gpu").sum().item() == 3
        assert waited.total() == 2
        values = torch.ones(3, device="gpu")
        assert values[values > 2].shape == (0,)
        assert waited.total() == 3
        with pytest.raises(RuntimeError, match="two devices"):
            torch.ones(3, device="gpu") + torch.ones(3)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.stack([torch.ones((), device="gpu"), torch.ones(())])


def featurizer(preset):
    """What a featurizer learns, embeds, draws and keeps is the CPU's."""
    images = np.random.default_rng(0).integers(
        0, 4096, (264, 2, 40, 40), dtype="uint16"
    )
    options = {"channel_base": 256, "channel_max": 8, "latent_dim": 8, "image_size": 32}
    options |= {"preset": preset, "precision": "float32", "random_state": 0}
    options |= {"batch_size": 8, "max_kimg": 0.032, "augment": 0.2}

    def used(device):
        with TemporaryDirectory() as folder:
            own = GANDLFeaturizer(**options, device=device, checkpoint_dir=folder)
            own.fit(images)
            own.set_params(max_kimg=0.064).fit(images)  # continues
        found = [
            own.transform(images[:40]),
            own.generate(2, random_state=0),
            own.score(images[:40]),
        ]
        own.partial_fit(images[:8])
        own = pickle.loads(pickle.dumps(own)).set_params(device="cpu")
        return [*found, own.transform(images[:3]), *own.weights_.values()]

    here = used("cpu")
    with simulated_gpu():
        there = used("gpu")
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
