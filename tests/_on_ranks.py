"""What `test_ranks.py` has torchrun run: a function of this file, and a folder."""

import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import gandl._presets
from gandl import GANDLFeaturizer, _checkpoints
from gandl.cli import main
from gandl.gan import GANConfig, Trainer
from gandl.gan._ranks import ALONE, joined

TINY = {"latent_dim": 8, "channel_max": 8, "channel_base": 256}
PARAMETERS = {
    **TINY,
    "max_kimg": 0.128,
    "batch_size": 16,
    "adversarial_batch": 8,
    "random_state": 0,
    "contrast_learning_rate": 0.005,  # rounding grows with the steps
    "precision": "float32",
    "device": "cpu",
}
CASES = {
    "logistic": {"augment": None, "augment_kimg": 1.0},
    "wgan-gp": {"augment": 0.5, "detail": True},
    "r3gan": {"augment": 0.5},
}


def some_images():
    return np.random.default_rng(0).integers(0, 4096, (24, 2, 40, 40), dtype="uint16")


def trained(loss, ranks):
    """Steps in float64 with all penalties: rounding is not to hide a difference."""
    config = GANConfig(
        n_channels=2,
        size=16,
        loss=loss,
        adversarial_batch=8,
        r1_interval=2,
        path_length_interval=2,
        **TINY,
        **CASES[loss],
    )
    trainer = Trainer(config, 0, dtype=torch.float64, ranks=ranks)
    if config.augment is None:
        trainer.augment_p = 0.5
    rng = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(5 if config.augment is None else 2):
        whole = 2 * torch.rand(16, 2, 16, 16, generator=rng) - 1
        losses.append(trainer.step(ranks.share(whole)))
    return losses, trainer.state() | {"device": None}


def steps(folder):
    """Losses and state of trainers on ranks, and of one alone."""
    torch.set_default_dtype(torch.float64)
    with joined(torch.device("cpu")) as ranks:
        for loss in CASES:
            torch.save(trained(loss, ranks), folder / f"{loss}-{ranks.rank}.pt")
            if ranks.rank == 0:
                torch.save(trained(loss, ALONE), folder / f"{loss}-alone.pt")
    torch.set_default_dtype(torch.float32)


def fits(folder):
    """Several fits one after another, as a user's script has them."""
    steps(folder)
    images, rank = some_images(), int(os.environ["RANK"])
    seen = {}
    fitted = GANDLFeaturizer(checkpoint_dir=folder / "night", verbose=True)
    fitted.set_params(**PARAMETERS).fit(images)
    seen["weights"], seen["whitening"] = fitted.weights_, fitted.whitening_
    seen["loss_curve"] = fitted.loss_curve_
    seen["group left"] = dist.is_initialized()
    try:
        GANDLFeaturizer(**PARAMETERS | {"batch_size": 12}).fit(images)
    except ValueError as error:
        seen["refused"] = str(error)
    others = {"images": (images[: 24 - 3 * rank], {}), "rate": (images, {})}
    others["rate"][1]["learning_rate"] = 0.001 * (1 + rank)
    for name, (part, changes) in others.items():
        try:
            GANDLFeaturizer(**PARAMETERS | changes).fit(part)
        except ValueError as error:
            seen[f"other {name}"] = str(error)
    seeded = GANDLFeaturizer(**PARAMETERS | {"random_state": None, "max_kimg": 0.016})
    seen["drawn"] = seeded.fit(images).weights_
    timed = GANDLFeaturizer(**PARAMETERS | {"max_kimg": None, "max_minutes": 0.01})
    seen["timed"] = timed.fit(images).n_iter_
    further = timed.partial_fit(images)
    seen["further"] = further.n_iter_, further.training_state_
    kept = GANDLFeaturizer(**PARAMETERS | {"memory": str(folder / f"kept{rank}")})
    seen["kept"] = kept.set_params(max_kimg=0.016).fit(images).weights_
    if rank == 1:
        shutil.rmtree(folder / "kept1")
    seen["kept by one"] = kept.set_params(features=8).fit(images).weights_
    stopped = GANDLFeaturizer(**PARAMETERS)
    if rank == 1:
        before_step(5, lambda: signal.raise_signal(signal.SIGTERM))
    try:
        stopped.fit(images)
    except SystemExit as error:
        seen["stopped"] = error.code, stopped.n_iter_
    preset = gandl._presets.PRESETS["default"]
    preset |= TINY | {"batch_size": 8, "adversarial_batch": 8}
    command = ["fit", folder / "images", "--pattern", "{well}_w{channel}.tif"]
    command += ["--minutes", 0.005, "--out", folder / "model.safetensors"]
    seen["exit status"] = main(list(map(str, command)))
    (folder / f"rank{rank}.pickle").write_bytes(pickle.dumps(seen))


def before_step(number, act):
    right, calls = Trainer.step, iter(range(1, 10**6))

    def step(*arguments):
        if next(calls) == number:
            act()
        return right(*arguments)

    Trainer.step = step


def death(folder):
    """The second rank is killed at its fifth step; each step leaves a checkpoint.

    The first is then sent the signal by which torchrun ends it.
    """
    _checkpoints._SECONDS = 0
    if os.environ["RANK"] == "1":
        before_step(5, lambda: os._exit(9))
    else:
        before_step(5, lambda: signal.raise_signal(signal.SIGTERM))
    GANDLFeaturizer(checkpoint_dir=folder, **PARAMETERS).fit(some_images())


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"fits": fits, "death": death}[sys.argv[1]](Path(sys.argv[2]))
