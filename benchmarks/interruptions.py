"""Kill a training again and again: its weights are to be those of an undisturbed one.

    python benchmarks/interruptions.py --kills 20

Trains on noise with a checkpoint after every step, sends SIGKILL at random moments,
continues, and compares the finished weights bit for bit. Prints how many kills fell
into the writing of a checkpoint, which leaves an unfinished file behind.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCRIPT = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from gandl import GANDLFeaturizer, _checkpoints
_checkpoints._SECONDS = 0
images = np.random.default_rng(0).integers(0, 4096, (64, 2, 32, 32), dtype="uint16")
network = {"channel_max": 32, "latent_dim": 32}
options = {"max_kimg": 4.0, "batch_size": 8, "random_state": 0, **network}
folder = sys.argv[1] or None
fitted = GANDLFeaturizer(checkpoint_dir=folder, **options).fit(images)
np.savez(sys.argv[2], **fitted.weights_)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, n_killed, n_writing, reached = random.Random(arguments.seed), 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole, pieces, folder = (root / k for k in ("whole.npz", "pieces.npz", "kept"))
        subprocess.run([sys.executable, "-c", SCRIPT, "", whole], check=True)
        command = [sys.executable, "-c", SCRIPT, folder, pieces]
        while n_killed < arguments.kills and not pieces.exists():
            process, before = subprocess.Popen(command), steps(folder)
            while process.poll() is None and steps(folder) == before:
                time.sleep(0.01)
            if n_killed % 2:
                time.sleep(rng.uniform(0, 1))
            else:  # while the next one is written
                while process.poll() is None and not [*folder.glob(".step-*")]:
                    pass
            process.send_signal(signal.SIGKILL)
            process.wait()
            n_killed += 1
            n_writing += bool([*folder.glob(".*")])
            reached.append(steps(folder))
        subprocess.run(command, check=True)
        with np.load(whole) as ours, np.load(pieces) as theirs:
            same = all(np.array_equal(ours[k], theirs[k]) for k in ours)
    print(
        f"killed {n_killed} times, {n_writing} of them while a checkpoint was written"
    )
    print(f"steps reached: {' '.join(map(str, reached))}")
    print(f"weights are those of an undisturbed run, bit for bit: {same}")
    sys.exit(not (same and n_killed == arguments.kills and n_writing))


def steps(folder: Path) -> int:
    """Step of the last checkpoint."""
    kept = sorted(path.stem for path in folder.glob("step-*"))
    return int(kept[-1].removeprefix("step-")) if kept else 0


if __name__ == "__main__":
    main()
