"""Training by several processes: the weights of one, whoever lives and dies."""

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from _on_ranks import CASES, PARAMETERS, some_images

from gandl import GANDLFeaturizer
from gandl.gan._ranks import ProcessRanks, check_batch, joined

SCRIPT = Path(__file__).with_name("_on_ranks.py")
CPU = torch.device("cpu")


def torchrun(what, folder, n=2):
    """Run a function of the script in n processes; what they wrote to stderr."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    done = subprocess.run(
        [sys.executable, *launcher, SCRIPT, what, folder],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    (folder / "images").mkdir()
    for k, image in enumerate(some_images()):
        for channel, plane in enumerate(image):
            name = f"A{k:02d}_w{channel}.tif"
            tifffile.imwrite(folder / "images" / name, plane)
    told = torchrun("fits", folder)
    seen = [pickle.loads(p.read_bytes()) for p in sorted(folder.glob("*.pickle"))]
    return folder, told, seen


@pytest.fixture(scope="module")
def alone():
    return GANDLFeaturizer(**PARAMETERS).fit(some_images())


@pytest.mark.parametrize("loss", CASES)
def test_two_ranks_at_half_the_batch_train_as_one_at_the_whole(fitted, loss):
    expected, first, second = (
        torch.load(fitted[0] / f"{loss}-{who}.pt") for who in ("alone", 0, 1)
    )
    names = set().union(*expected[0])
    assert {"contrast", "discriminator", "generator"} <= names
    torch.testing.assert_close(first, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-3, atol=1e-4)


def test_under_torchrun_every_process_has_the_fit_of_one(fitted, alone):
    _, _, (first, second) = fitted
    ours, theirs = (
        {name: value for name, value in seen.items() if not name.startswith("other")}
        for seen in (first, second)
    )
    np.testing.assert_equal(ours, theirs)
    assert_close(first["weights"], alone.weights_)
    assert_close(first["loss_curve"], alone.loss_curve_)
    for name, (mean, matrix) in alone.whitening_.items():
        ours = dict(zip("ab", first["whitening"][name], strict=True))
        assert_close(ours, {"a": mean, "b": matrix})


def test_the_first_alone_writes(fitted):
    folder, told, _ = fitted
    names = [path.name for path in (folder / "night").iterdir()]
    assert names == ["step-000000008.safetensors"]
    assert told.count("50% ") == 1


def test_the_command_line_trains_on_all_and_writes_once(fitted):
    folder, told, seen = fitted
    assert [each["exit status"] for each in seen] == [0, 0], told
    model = GANDLFeaturizer.load(folder / "model.safetensors")
    assert model.transform(some_images()).shape == (24, 48)
    assert [p.name for p in folder.glob("*.run.json")] == ["model.safetensors.run.json"]


def test_where_one_rank_has_lost_what_was_kept_all_train(fitted):
    for seen in fitted[2]:
        assert_close(seen["kept"], seen["kept by one"])
    assert_close(fitted[2][0]["kept by one"], fitted[2][1]["kept by one"])
    assert (fitted[0] / "kept1").exists()


def test_a_fit_leaves_no_process_group(fitted):
    assert not fitted[2][0]["group left"]


def test_a_batch_that_ranks_cannot_share_is_refused(fitted):
    text = fitted[2][1]["refused"]
    assert "2 ranks are to share batches of 12 (batch_size, " in text
    assert "batch_size=32 alone will do" in text


def test_ranks_of_other_images_or_parameters_are_refused(fitted):
    first, second = fitted[2]
    assert "another rank has other images" in first["other images"]
    assert (
        "X is ((21, 2, 40, 40), 'uint16') on this rank, and ((24"
        in (second["other images"])
    )
    assert "another rank has other images, or other parameters" in first["other rate"]
    assert "learning_rate is 0.002 on this rank, and 0.001" in second["other rate"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(fitted):
    assert [seen["stopped"] for seen in fitted[2]] == [(143, 5)] * 2


def test_a_rank_that_dies_ends_the_others_and_one_continues(tmp_path, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "death", tmp_path],
            env={**os.environ, **place, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 9]
    assert "Rank 0 of 2 has lost another" in told[0]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000003.safetensors", "step-000000004.safetensors"]
    continued = GANDLFeaturizer(checkpoint_dir=tmp_path, **PARAMETERS)
    continued.fit(some_images())
    assert continued.n_iter_ == alone.n_iter_
    assert_close(continued.weights_, alone.weights_)


def test_processes_that_a_rank_starts_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    with pytest.raises(RuntimeError, match="n_jobs=None"), joined(CPU):
        pass


def test_machines_that_do_not_find_each_other_are_told_how(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="MASTER_ADDR is not"), joined(CPU):
        pass
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-interface")
    store = torch.distributed.HashStore()
    monkeypatch.setattr(
        torch.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)])
    )
    with pytest.raises(ConnectionError, match="GLOO_SOCKET_IFNAME"), joined(CPU):
        pass
    assert not torch.distributed.is_initialized()


def test_torchrun_with_one_process_is_no_group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(CPU) as ranks:
        assert ranks.size == 1
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("n", "size"), [(16, 2), (16, 4), (24, 3), (8, 4)])
def test_shares_keep_groups_whole_and_the_first_images_first(n, size):
    def share(images, rank):
        ranks = ProcessRanks.__new__(ProcessRanks)
        ranks.rank, ranks.size = rank, size
        return ranks.share(images)

    whole = torch.arange(n)
    shares = [share(whole, rank) for rank in range(size)]
    assert torch.equal(torch.cat(shares).sort().values, whole)
    if n % (4 * size) == 0:
        groups = torch.cat(shares).unflatten(0, (-1, 4)) // 4
        assert (groups == groups[:, :1]).all()
        first = whole[: 4 * size]
        for rank in range(size):
            assert torch.equal(share(first, rank), shares[rank][:4])


def test_a_batch_for_one_rank_may_be_of_any_size():
    with joined(CPU) as alone:
        check_batch(7, 3, alone)
