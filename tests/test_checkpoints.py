"""Interrupted trainings end with the weights of those that were not."""

import math
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from sklearn.exceptions import ConvergenceWarning

import gandl
from gandl import GANDLFeaturizer, ImageCollection, _checkpoints
from gandl._interrupts import deferred_interrupts
from gandl._storage import read_safetensors, write_safetensors

pytestmark = pytest.mark.usefixtures("ctrl_c")

PARAMETERS = {
    "max_kimg": 0.16,
    "batch_size": 8,
    "channel_max": 8,
    "latent_dim": 8,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 4096, (20, 2, 32, 32), dtype="uint16")


@pytest.fixture(scope="module")
def undisturbed(images):
    return GANDLFeaturizer(**PARAMETERS).fit(images)


def featurizer(folder, **changes):
    return GANDLFeaturizer(checkpoint_dir=folder, **PARAMETERS | changes)


def assert_same_fit(ours, theirs):
    for name in ("weights_", "whitening_", "loss_curve_"):
        np.testing.assert_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.n_images_seen_ == theirs.n_images_seen_


class InterruptAfter:
    """Send a signal to this process after so many steps."""

    def __init__(self, monkeypatch, n_steps, number):
        self.waiting, self.number = n_steps, number
        self.step = gandl.gan.Trainer.step
        monkeypatch.setattr(gandl.gan.Trainer, "step", lambda *a, **k: self(*a, **k))

    def __call__(self, *arguments, **options):
        losses = self.step(*arguments, **options)
        self.waiting -= 1
        if self.waiting == 0:
            signal.raise_signal(self.number)
        return losses


def test_a_file_is_no_folder_for_checkpoints(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"take a folder, and .*file' is a file"):
        featurizer(tmp_path / "file").fit(images)


def test_checkpoints_change_nothing_and_two_are_kept(
    images, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(_checkpoints, "_SECONDS", 0)
    assert_same_fit(featurizer(tmp_path).fit(images), undisturbed)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000019.safetensors", "step-000000020.safetensors"]


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_leaves_what_was_fitted_and_a_checkpoint(
    images, undisturbed, tmp_path, monkeypatch, number, error
):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    stopped = featurizer(tmp_path)
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 13, number)
        with pytest.raises(error):
            stopped.fit(images)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert stopped.n_iter_ == 13
    assert np.isfinite(stopped.transform(images)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000013.safetensors"]
    assert_same_fit(featurizer(tmp_path).fit(images), undisturbed)


def test_ctrl_c_without_checkpoints_leaves_what_was_fitted(images, monkeypatch):
    stopped = featurizer(None)
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 13, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(images)
    assert stopped.n_iter_ == 13
    assert np.isfinite(stopped.transform(images)).all()


def test_a_signal_that_is_passed_on_does_not_end_the_step():
    """A cluster signals torchrun, which signals its processes, and these too."""
    ended = []
    try:
        with deferred_interrupts():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            ended.append("the step")
    except SystemExit as error:
        ended.append(error.code)
    assert ended == ["the step", 143]


def test_a_second_ctrl_c_acts_at_once():
    with deferred_interrupts() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signal
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupt.signal = None


def test_a_handler_of_the_users_own_is_called_and_the_fit_returns(images, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        InterruptAfter(monkeypatch, 3, signal.SIGTERM)
        assert featurizer(None).fit(images).n_iter_ == 3
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_training_in_a_thread_leaves_signals_alone(images, undisturbed):
    fitted = featurizer(None)
    thread = threading.Thread(target=fitted.fit, args=(images,))
    thread.start()
    thread.join()
    assert_same_fit(fitted, undisturbed)


def test_a_finished_training_is_not_taken_up_again(images, undisturbed, tmp_path):
    featurizer(tmp_path).fit(images)
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert_same_fit(featurizer(tmp_path).fit(images), undisturbed)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == written


def test_a_training_goes_on_for_longer(images, undisturbed, tmp_path):
    featurizer(tmp_path, max_kimg=0.08).fit(images)
    longer = featurizer(tmp_path).fit(images)
    np.testing.assert_equal(longer.weights_, undisturbed.weights_)
    assert longer.n_images_seen_ == 160
    assert longer.loss_curve_["n_images"][-1] == 160
    assert (np.diff(longer.loss_curve_["n_images"]) > 0).all()
    # By another kind of budget, too.
    minutes = {"max_kimg": None, "max_minutes": 0.02}
    once = featurizer(tmp_path / "timed", **minutes).fit(images)
    assert featurizer(tmp_path / "timed", **minutes).fit(images).n_iter_ == once.n_iter_
    more = minutes | {"max_minutes": 0.03}
    assert featurizer(tmp_path / "timed", **more).fit(images).n_iter_ > once.n_iter_


@pytest.mark.filterwarnings("ignore:128 images into training")
def test_steps_that_were_dropped_at_an_end_are_looked_at_when_it_goes_on(
    images, tmp_path, monkeypatch
):
    step = gandl.gan.Trainer.step

    def broken(trainer, real):
        bad = trainer.n_steps in (14, 15)
        return step(trainer, real * math.nan if bad else real)

    monkeypatch.setattr(gandl.gan.Trainer, "step", broken)
    undisturbed = featurizer(None, max_kimg=0.2).fit(images)
    featurizer(tmp_path, max_kimg=0.128).fit(images)  # 16 steps
    longer = featurizer(tmp_path, max_kimg=0.2).fit(images)
    np.testing.assert_equal(longer.weights_, undisturbed.weights_)


def test_a_training_of_less_than_was_done_is_refused(images, tmp_path):
    featurizer(tmp_path).fit(images)
    written = sorted(tmp_path.iterdir())
    for budget in ({"max_kimg": 0.08}, {"max_kimg": 0}, {"max_minutes": 1e-9}):
        with pytest.raises(ValueError, match="training of 160 images in"):
            featurizer(tmp_path, **budget).fit(images)
    assert sorted(tmp_path.iterdir()) == written


def test_minutes_that_were_spent_count(images, tmp_path, monkeypatch):
    InterruptAfter(monkeypatch, 5, signal.SIGINT)
    limits = {"max_kimg": None, "max_minutes": 0.05}
    with pytest.raises(KeyboardInterrupt):
        featurizer(tmp_path, **limits).fit(images)
    (path,) = tmp_path.iterdir()
    arrays, header = read_safetensors(path)
    position = next(v for k, v in header["state"]["dict"] if k == "position")["dict"]
    spent = next(pair for pair in position if pair[0] == "minutes")
    spent[1] = 0.0499
    write_safetensors(path, arrays, header)
    assert featurizer(tmp_path, **limits).fit(images).n_iter_ < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.003}, "learning_rate was 0.006, is 0.003"),
        ({"random_state": 1}, "random_state was 0, is 1"),
        ({"intensity": "image"}, "intensity was 'dataset', is 'image'"),
    ],
)
def test_a_checkpoint_of_other_parameters_is_refused(
    images, tmp_path, checkpoint, change, message
):
    with pytest.raises(ValueError, match=message):
        featurizer(checkpoint, **change).fit(images)


@pytest.fixture
def checkpoint(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            featurizer(tmp_path).fit(images)
    return tmp_path


def test_a_checkpoint_of_other_images_is_refused(images, checkpoint):
    with pytest.raises(ValueError, match=r"shape was \[20, 2, 32, 32\], is \[19, 2"):
        featurizer(checkpoint).fit(images[1:])
    for other in (images[::-1], np.where(np.arange(20) == 7, 0, images.T).T):
        with pytest.raises(ValueError, match="digest of pixels was"):
            featurizer(checkpoint).fit(other)


def test_data_of_another_illumination_are_other_data(tmp_path):
    for name in range(60):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((8, 8), 100, "uint16"))
    for name, light in (("even", 1.0), ("bright", 2.0)):
        np.save(tmp_path / f"{name}.npy", np.full((8, 8), light))
    table = pd.DataFrame({"FileName_DNA": [f"{k}.tif" for k in range(60)]})
    identities = []
    for odd in ("even", "bright"):  # one image of 60, as a plate of its own
        functions = [odd if k == 1 else "even" for k in range(60)]
        table["FileName_IllumDNA"] = [f"{name}.npy" for name in functions]
        X = ImageCollection.from_load_data(table, root=tmp_path)
        identities.append(_checkpoints.data_identity(X, None))
    assert identities[0] != identities[1]


def test_a_checkpoint_of_another_version_is_refused(images, checkpoint, monkeypatch):
    monkeypatch.setattr(gandl, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"of gandl .*, this is 9\.9"):
        featurizer(checkpoint).fit(images)


def test_a_model_is_no_checkpoint_and_the_other_way_round(
    images, undisturbed, checkpoint
):
    (path,) = checkpoint.iterdir()
    with pytest.raises(ValueError, match="is a checkpoint, no model"):
        GANDLFeaturizer.load(path)
    undisturbed.save(path, overwrite=True)
    with pytest.raises(ValueError, match="is no checkpoint"):
        featurizer(checkpoint).fit(images)


def test_a_broken_checkpoint_is_named_and_the_one_before_serves(
    images, undisturbed, checkpoint
):
    (path,) = checkpoint.iterdir()
    last = path.with_name("step-000000003.safetensors")
    last.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(RuntimeWarning, match="step-000000003.*before it serves"):
        assert_same_fit(featurizer(checkpoint).fit(images), undisturbed)
    for path in checkpoint.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"step-000000020.*Remove them"):
        featurizer(checkpoint).fit(images)


def test_a_folder_serves_one_training_at_a_time(
    images, undisturbed, tmp_path, monkeypatch
):
    step, refused = gandl.gan.Trainer.step, []

    def try_another(trainer, *arguments):
        monkeypatch.setattr(gandl.gan.Trainer, "step", step)
        with pytest.raises(ValueError, match="Another training is at work in"):
            featurizer(tmp_path).fit(images)
        refused.append(True)
        return step(trainer, *arguments)

    monkeypatch.setattr(gandl.gan.Trainer, "step", try_another)
    assert_same_fit(featurizer(tmp_path).fit(images), undisturbed)
    assert refused
    assert_same_fit(featurizer(tmp_path).fit(images), undisturbed)


def test_other_files_in_the_folder_stay(images, checkpoint):
    (checkpoint / ".mine.safetensors").write_text("mine")
    (checkpoint / ".step-000000001.abc.safetensors").write_text("unfinished")
    featurizer(checkpoint).fit(images)
    assert {path.name for path in checkpoint.glob(".*")} == {".mine.safetensors"}


def test_numbers_of_numpy_are_the_same_parameters(images, undisturbed, checkpoint):
    same = featurizer(checkpoint, batch_size=np.int64(8), random_state=np.int64(0))
    assert_same_fit(same.fit(images), undisturbed)


def with_bad_steps(monkeypatch, steps):
    right = gandl.gan.Trainer._contrastive_loss

    def loss(trainer, real):
        return right(trainer, real) * (math.nan if trainer.n_steps in steps else 1)

    monkeypatch.setattr(gandl.gan.Trainer, "_contrastive_loss", loss)


def test_a_training_that_was_taken_back_continues_as_well(
    images, tmp_path, monkeypatch
):
    with_bad_steps(monkeypatch, {28, 29, 30})
    with pytest.warns(ConvergenceWarning, match="half the learning rate"):
        undisturbed = featurizer(None, max_kimg=0.4).fit(images)
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 25, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            featurizer(tmp_path, max_kimg=0.4).fit(images)
    with pytest.warns(ConvergenceWarning, match="half the learning rate"):
        assert_same_fit(featurizer(tmp_path, max_kimg=0.4).fit(images), undisturbed)


def test_weights_that_are_not_finite_reach_no_checkpoint(images, tmp_path, monkeypatch):
    right = gandl.gan.Trainer.step

    def step(trainer, *arguments):
        losses = right(trainer, *arguments)
        if trainer.n_steps == 10:
            trainer.discriminator.conv.weight.data.fill_(math.inf)
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(gandl.gan.Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt) as caught:
        featurizer(tmp_path).fit(images)
    assert isinstance(caught.value.__context__, FloatingPointError)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_partial_fit_loses_nothing(images, monkeypatch):
    learner = featurizer(None).partial_fit(images)
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            learner.partial_fit(images)
    assert learner.n_iter_ == learner.training_state_["n_steps"] == 5


def test_what_training_does_not_depend_on_may_change(images, undisturbed, checkpoint):
    changed = featurizer(checkpoint, features=4, n_views=1, verbose=True, whiten=False)
    np.testing.assert_equal(changed.fit(images).weights_, undisturbed.weights_)


def test_a_full_disk_leaves_the_checkpoint_before(
    images, undisturbed, checkpoint, monkeypatch
):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}

    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:1000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.warns(RuntimeWarning, match="No space left on device.*Make room"):
            assert_same_fit(featurizer(checkpoint).fit(images), undisturbed)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


# Checkpoints after every step, so that some signals fall into their writing.
KILLED = """
import sys, numpy as np
from gandl import GANDLFeaturizer, ImageCollection, _checkpoints
from gandl._interrupts import deferred_interrupts
_checkpoints._SECONDS = 0
parameters, folder, images, out = eval(sys.argv[1]), *sys.argv[2:]
fitted = GANDLFeaturizer(checkpoint_dir=folder, **parameters).fit(np.load(images))
np.savez(out, **fitted.weights_)
"""


def test_killed_at_random_the_weights_are_those_of_an_undisturbed_run(
    images, undisturbed, tmp_path
):
    np.save(tmp_path / "images.npy", images)
    folder, out = tmp_path / "checkpoints", tmp_path / "weights.npz"
    command = [sys.executable, "-c", KILLED, repr(PARAMETERS), folder]
    command += [tmp_path / "images.npy", out]
    rng = random.Random(0)
    for _ in range(2):
        before = [*folder.glob("step-*")]
        process = subprocess.Popen(command)
        while [*folder.glob("step-*")] == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    with np.load(out) as weights:
        np.testing.assert_equal(dict(weights), undisturbed.weights_)


# On a disk of its own, which is full from step 3 to 6.
FULL_DISK = """
import os, subprocess, sys, warnings, numpy as np
parameters, folder, images, out = eval(sys.argv[1]), *sys.argv[2:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
from gandl import GANDLFeaturizer, ImageCollection, _checkpoints
from gandl.gan import Trainer
_checkpoints._SECONDS = 0
step, filler = Trainer.step, f"{folder}/filler"
def fill(trainer, *arguments):
    if trainer.n_steps == 3:
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    if trainer.n_steps == 6:
        print(sorted(os.listdir(folder)))
        os.remove(filler)
    return step(trainer, *arguments)
Trainer.step = fill
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fitted = GANDLFeaturizer(checkpoint_dir=folder, **parameters).fit(np.load(images))
for warning in caught:
    print(warning.message)
print(sorted(os.listdir(folder)))
np.savez(out, **fitted.weights_)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux's unshare")
def test_on_a_disk_that_is_full_for_a_while(images, undisturbed, tmp_path):
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "disk").mkdir()
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c"]
    command += [FULL_DISK, repr(PARAMETERS), tmp_path / "disk"]
    command += [tmp_path / "images.npy", tmp_path / "weights.npz"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if "Operation not permitted" in ran.stderr or "mount" in ran.stderr:
        pytest.skip(f"no disk of one's own: {ran.stderr[-200:]}")
    assert ran.returncode == 0, ran.stderr
    full, *messages, end = ran.stdout.splitlines()
    assert "step-000000003.safetensors" in full
    assert "step-000000004" not in full
    assert [text[:37] for text in messages] == [
        f"No checkpoint was written at step {step}: " for step in (4, 5, 6)
    ]
    assert "No space left on device" in messages[0]
    assert end == "['step-000000019.safetensors', 'step-000000020.safetensors']"
    with np.load(tmp_path / "weights.npz") as weights:
        np.testing.assert_equal(dict(weights), undisturbed.weights_)
