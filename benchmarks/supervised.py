"""What labels would teach: the discriminator's trunk, trained on those of the folds.

    GANDL_DATA=folder python benchmarks/supervised.py --data mitocheck --minutes 10

The paper compares its features with a supervised network's. Here that is the trunk of
the default preset with a linear layer on the mean and maximum of its last block,
trained from scratch on the labels of a task's training folds, under the augmentations
that contrast has, and asked for the held-out fold: mean over eight flips and turns; and
the SVM of ``embedding.py`` on its trunk's embedding, which is that of the other methods
there. Rates and the average that embeds are SimCLR's there; 0.02 was the best of
0.0005, 0.002, 0.008 and 0.02 on a part of the training rows of MitoCheck's first fold.
The folds are those of ``embedding.py``; the minutes, of one core's processor time, are
those of each fold. Prints mean and standard deviation over folds, and writes every
fold's scores to a JSON file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import _tasks
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _methods import DTYPE, Descent, _gandl, _size, embed_all
from embedding import processor, save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from gandl._batches import load_scaled, pad_to, tiles
from gandl._embedding import turned
from gandl.gan._augment import dihedral, random_view

BATCH = 64


class Classifier(nn.Module):
    """Logits (N, n_classes) of images, by a trunk and one linear layer."""

    def __init__(self, data: _tasks.Data, n_classes: int, seed: int) -> None:
        super().__init__()
        config, _ = _gandl(data, "default")
        self.trunk = config.discriminator(torch.Generator().manual_seed(seed))
        self.trunk.dtype = DTYPE
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.last = nn.Linear(2 * config.block_widths[4], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk.trunk(x)[-1].float()
        return self.last(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))


def fit(
    data: _tasks.Data,
    rows: np.ndarray,
    y: np.ndarray,
    minutes: float,
    learning_rate: float,
    seed: int,
) -> tuple[Classifier, int]:
    """Train on labelled rows; returns the average network and the images seen."""
    descent = Descent(Classifier(data, int(y.max()) + 1, seed), learning_rate)
    weight = torch.from_numpy(len(y) / np.bincount(y) / (y.max() + 1)).float()
    rng = torch.Generator().manual_seed(seed)
    order = np.random.default_rng(seed)
    images, size = data.images[rows], _size(data)
    start = time.process_time()
    while time.process_time() - start < 60 * minutes:
        chosen = order.integers(0, len(rows), BATCH)
        x = torch.from_numpy(_crops(data, images, chosen, size))
        x = random_view(dihedral(x, rng), rng, size=size)
        y_chosen = torch.from_numpy(y[chosen])
        descent.step(F.cross_entropy(descent.module(x), y_chosen, weight))
    return descent.average, descent.n_steps * BATCH


def _crops(data: _tasks.Data, images: Any, rows: np.ndarray, size: int) -> np.ndarray:
    scaled = pad_to(load_scaled(images, rows, data.intensity_range), size)
    return np.stack([tiles(image, size)[0] for image in scaled])


@torch.inference_mode()
def logits(network: Classifier, data: _tasks.Data, rows: np.ndarray) -> np.ndarray:
    """Mean logits (n, n_classes) over the eight flips and turns of images."""
    parts = []
    for some in np.array_split(rows, -(-len(rows) // BATCH)):
        x = torch.from_numpy(_crops(data, data.images, some, _size(data)))
        parts.append(torch.stack([network(v) for v in turned(x, 8)]).mean(dim=0))
    return torch.cat(parts).numpy()


def measure(
    name: str, minutes: float, learning_rate: float, seed: int
) -> dict[str, Any]:
    """Scores of a network a fold of the first task of a data set."""
    seen: list[int] = []
    by_svm = _tasks._fold_scores

    def of_fold(
        rows: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
    ) -> dict[str, float]:
        labels, codes = np.unique(y, return_inverse=True)
        network, n = fit(data, rows[train], codes[train], minutes, learning_rate, seed)
        seen.append(n)
        found = logits(network, data, rows[test])
        scores = _tasks._agreement(y[test], labels[found.argmax(axis=1)])
        if len(labels) == 2:
            scores["AUC"] = roc_auc_score(codes[test], found[:, 1] - found[:, 0])
        # All of its training rows' labels are in the embedding: few are none here.
        features = embed_all(data, lambda x: network.trunk.embed(x, "pooled"))[rows]
        for key, score in by_svm(features, y, groups, train, test).items():
            if not key.endswith("a class"):
                scores[f"SVM on its embedding: {key}"] = score
        print(name, {k: round(v, 3) for k, v in scores.items()}, flush=True)
        return scores

    with patch.object(_tasks, "_fold_scores", of_fold):
        data = _tasks.load(name)
    task = data.tasks[0]
    folds = task.score(task.rows)
    return {
        "data": name,
        "task": task.name,
        "method": "supervised",
        "seed": seed,
        "minutes": minutes,
        "learning rate": learning_rate,
        "images seen": int(np.mean(seen)),
        "folds": [{k: round(v, 4) for k, v in f.items()} for f in folds],
        "threads": torch.get_num_threads(),
        "machine": processor(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mitocheck,bbbc021", help="data sets")
    parser.add_argument("--minutes", type=float, default=10.0, help="of one core, each")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("supervised.json"))
    arguments = parser.parse_args()
    results = []
    for name in arguments.data.split(","):
        results.append(
            measure(name, arguments.minutes, arguments.learning_rate, arguments.seed)
        )
        save(results, arguments.out)
        scores = pd.DataFrame(results[-1]["folds"])
        texts = [
            f"{key} {column.mean():.3f} ± {column.std(ddof=0):.3f}"
            for key, column in scores.items()
        ]
        seen = f"{results[-1]['images seen']:,} images seen"
        print(f"\n{name}, {results[-1]['task']}, {seen}: {', '.join(texts)}\n")


if __name__ == "__main__":
    main()
