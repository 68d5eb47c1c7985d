"""What goes wrong while files are written: nothing is lost, nobody's files go."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from gandl import GANDLFeaturizer
from gandl._cli_arguments import tell
from gandl._cli_outputs import free_file, new_folder, save_model
from gandl._files import whole_file
from gandl._progress import TrainingProgress, progress_line
from gandl.cli import main


class FullDisk:
    def write(self, text):
        raise OSError(28, "No space left on device")

    def isatty(self):
        return False


def options(out, *, overwrite=False):
    return argparse.Namespace(
        out=out, overwrite=overwrite, positive=None, plate_map=None, images=None
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_came_meanwhile_stays(overwrite, tmp_path, capsys):
    out = tmp_path / "results"

    def work():
        with new_folder(options(out, overwrite=overwrite)) as part:
            (part / "run.json").write_text("{}")
            out.mkdir()
            (out / "notes.txt").write_text("three weeks")

    with pytest.raises(FileExistsError):
        work()
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (part,) = tmp_path.glob("results.incomplete.*")
    assert (part / "run.json").is_file()
    assert f"What was done so far is in {part}" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["pyarrow", "matplotlib.pyplot"])
def test_extras_that_are_missing_are_told_at_once(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    asked = options(tmp_path / "results")
    asked.positive = "infected"
    with pytest.raises(ImportError, match="pip install"), new_folder(asked):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["fit", "screen"])
def test_without_safetensors_nothing_is_trained(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    out = str(tmp_path / "out" / "model.safetensors")
    how = ["--control", "a", "--negative", "b"] if command == "screen" else []
    assert main([command, str(tmp_path), *how, "--out", out]) == 1
    assert 'pip install "gandl[hub]"' in capsys.readouterr().err


def test_what_is_left_of_an_earlier_run_does_not_come_back(tmp_path):
    out = tmp_path / "results"
    (tmp_path / "results.incomplete.old").mkdir()
    (tmp_path / "results.incomplete.old" / "run.json").write_text("stale")
    for text in ("first", "second"):
        with new_folder(options(out, overwrite=True)) as part:
            (part / "run.json").write_text(text)
    assert (out / "run.json").read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_replaced_stays_where_that_fails(tmp_path, monkeypatch):
    out = tmp_path / "results"
    out.mkdir()
    (out / "run.json").write_text("old")
    rename = Path.rename

    def failing(path, target):
        if "incomplete" in path.name and path.suffix != ".old":
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError), new_folder(options(out, overwrite=True)) as to:
        (to / "run.json").write_text("new")
    assert (out / "run.json").read_text() == "old"


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", FullDisk())
    tell("hello")
    line = progress_line(True)
    line(0.5, "half")
    line.close()


def test_losses_stay_in_the_line_where_steps_have_none(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    progress = TrainingProgress(object(), None, verbose=True)
    game = {"discriminator": 1.25, "generator": 0.75}
    progress.update(0.1, 8, {"contrast": 2.0} | game, 0.0)
    progress.update(0.2, 16, {"contrast": 1.0}, 0.0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "contrast 1.00 D 1.25 G 0.75" in last


@pytest.fixture(scope="module")
def model():
    images = np.random.default_rng(0).integers(0, 255, (8, 1, 16, 16), dtype=np.uint8)
    small = {"channel_max": 4, "latent_dim": 4, "batch_size": 4, "adversarial_batch": 4}
    return GANDLFeaturizer(max_kimg=0.008, random_state=0, **small).fit(images)


def test_a_model_that_cannot_be_saved_is_kept(model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "model.safetensors"
    out.write_text("came meanwhile")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileExistsError):
        save_model(model, options(out))
    (kept,) = tmp_path.glob("gandl-*/model.safetensors")
    assert f"The model is in {kept}" in capsys.readouterr().err
    assert GANDLFeaturizer.load(kept).n_iter_ == model.n_iter_


def test_a_link_into_a_folder_that_is_gone_is_told_at_once(tmp_path):
    out = tmp_path / "model.safetensors"
    out.symlink_to(tmp_path / "gone" / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"is a link into '.*gone', which is"):
        free_file(options(out))


def test_a_missing_folder_is_told_by_the_name_that_was_asked_for(tmp_path):
    path = tmp_path / "gone" / "wells.csv"
    with pytest.raises(FileNotFoundError) as told, whole_file(path) as part:
        part.write_text("")
    assert told.value.filename == str(path)
