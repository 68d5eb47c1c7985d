"""Train on two machines: their weights are to be those of one process.

    sudo .venv/bin/python benchmarks/machines.py

The machines are network namespaces of this one (Linux, root, iproute2), with names,
addresses and working folders of their own: what they tell each other passes between
them as over a cable. Then all processes of one are killed. The other is to end with an
error, and to finish alone with the same weights. Makes and removes `/etc/netns/gandl1`
and `gandl2`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCRIPT = """
import numpy as np, torch
torch.set_num_threads(1)
from gandl import GANDLFeaturizer, _checkpoints
_checkpoints._SECONDS = 0
images = np.random.default_rng(0).integers(0, 4096, (64, 2, 32, 32), dtype="uint16")
network = {"channel_max": 32, "latent_dim": 32}
options = {"max_kimg": 0.25, "batch_size": 16, "adversarial_batch": 8, **network}
fitted = GANDLFeaturizer(checkpoint_dir="night", random_state=0, **options).fit(images)
np.savez("weights.npz", **fitted.weights_)
"""
HOSTS = {"gandl1": "10.77.0.1", "gandl2": "10.77.0.2"}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = [root / folder for folder in ("alone", "gandl1", "gandl2")]
        for folder in folders:
            folder.mkdir()
        alone, first, second = folders
        (root / "train.py").write_text(SCRIPT)
        subprocess.run([sys.executable, "../train.py"], cwd=alone, check=True)
        connect()
        try:
            processes = [start(first), start(second)]
            codes = [process.wait() for process in processes]
            print(f"Two machines: exit status {codes}; {compared(alone, first)}")
            print(f"Checkpoints on the second: {len([*second.glob('night/*')])}")
            shutil.rmtree(first / "night")
            processes = [start(first), start(second)]
            while len([*first.glob("night/*")]) < 2:
                if processes[0].poll() is not None:
                    sys.exit((first / "log").read_text())
                time.sleep(0.01)
            kill("gandl2")
            killed = time.monotonic()
            codes = [process.wait() for process in processes]
            seconds = time.monotonic() - killed
            told = "LostRankError" in (first / "log").read_text()
            print(f"One killed: {codes} after {seconds:.1f} s; told: {told}")
        finally:
            for host in HOSTS:
                kill(host)
                ip(f"netns delete {host}")
                shutil.rmtree(Path("/etc/netns") / host)
        (first / "weights.npz").unlink()
        subprocess.run([sys.executable, "../train.py"], cwd=first, check=True)
        print(f"Finished by the first alone: {compared(alone, first)}")


def connect() -> None:
    """Two namespaces, a cable between them, and names."""
    names = "".join(f"{address} {host}\n" for host, address in HOSTS.items())
    for host in HOSTS:
        ip(f"netns add {host}")
        folder = Path("/etc/netns") / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    ip("link add eth0 netns gandl1 type veth peer name eth0 netns gandl2")
    for host, address in HOSTS.items():
        ip(f"-n {host} addr add {address}/24 dev eth0")
        ip(f"-n {host} link set lo up")
        ip(f"-n {host} link set eth0 up")


def ip(arguments: str) -> str:
    command = ["ip", *arguments.split()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def kill(host: str) -> None:
    """End all processes of a machine at once."""
    for pid in ip(f"netns pids {host}").split():
        os.kill(int(pid), signal.SIGKILL)


def start(folder: Path) -> subprocess.Popen:
    """The machine of a folder's name takes its part in the training."""
    host = folder.name
    torchrun = (
        "-m torch.distributed.run --nnodes=2 --nproc-per-node=1 --rdzv-id=7 "
        "--rdzv-backend=c10d --rdzv-endpoint=gandl1:29500 ../train.py"
    )
    named = ["sh", "-c", f'hostname {host}; exec "$@"', "sh"]
    command = ["ip", "netns", "exec", host, "unshare", "--uts", *named]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*command, sys.executable, *torchrun.split()],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def compared(expected: Path, found: Path) -> str:
    """The largest difference of weights, relative to the largest weight."""
    ours, theirs = (np.load(folder / "weights.npz") for folder in (found, expected))
    largest = max(np.abs(weight).max() for weight in theirs.values())
    differences = [np.abs(ours[key] - theirs[key]).max() for key in theirs]
    return f"weights differ by {max(differences) / largest:.0e} of the largest"


if __name__ == "__main__":
    main()
