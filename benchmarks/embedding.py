"""What an embedding sees: methods side by side, on the same images, splits and minutes.

    GANDL_DATA=folder python benchmarks/embedding.py --data mitocheck --minutes 20

Prints a table, a row a method, of the mean and standard deviation over folds and seeds,
and writes every fold's score at every checkpoint of training to a JSON file. Learning
methods have the same minutes each, of processor time.
"gandl" and "paper" take parameters of the featurizer that are to differ:
``--methods "gandl,gandl adversarial_batch=8 detail=false"``; "ImageNet", "SimCLR",
"VICReg" and "untrained" take ``features``, "pooled" or "central":
``'untrained features="central"'``.

All of it takes many hours. Runs that were made before for the same minutes, in one file
or several, join the table by ``--join``, and are not made again; ``--methods ""`` then
only prints.

What it measures: a linear SVM whose C is chosen inside the training folds, 20 nearest
neighbours by cosine, the SVM on 1, 5 and 20 labels a class, with groups held out;
mechanisms of action by nearest profile of another compound; the share of controls'
variance that is plate, well position, brightness or focus, before and after
`TypicalVariationNormalizer`. On MitoCheck, BBBC021 (each crop's brightness removed),
and `make_screen`; on "bbbc021 by stain" and "screen by stain" one network learns from
stains as images of one channel, and embeds each.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import warnings
from contextlib import suppress
from pathlib import Path

import _methods
import numpy as np
import pandas as pd
import torch
from _methods import DTYPE, METHODS, find_method, is_fixed
from _tasks import Data, load

from gandl._diagnostics import mean_average_precision
from gandl._files import whole_file

# The score of a task by which embeddings are held against the untrained one's: the
# first that it has.
LABELLED = ("AUC", "balanced accuracy", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mitocheck,bbbc021,screen", help="data sets")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods")
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="earlier runs")
    parser.add_argument("--minutes", type=float, default=20.0, help="of one core, each")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a method")
    parser.add_argument(
        "--until",
        type=float,
        default=1.0,
        help="end at this share of the minutes, by the schedule of all of them: what "
        "another machine had after as many images in fewer",
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("embedding.json"))
    arguments = parser.parse_args()
    methods = [m for m in arguments.methods.split(",") if m]
    for name in methods:
        find_method(name)  # or there is none
    _methods.CHECKPOINTS = tuple(
        c for c in _methods.CHECKPOINTS if c <= arguments.until
    )
    # A fold may lack a rare class.
    warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
    results = [r for file in arguments.join for r in json.loads(file.read_text())]
    made = {(r["data"], r["method"], r["seed"]) for r in results}
    for name in arguments.data.split(","):
        data = load(name) if methods else None
        for method in methods:
            last = arguments.first_seed + arguments.seeds
            seeds = range(arguments.first_seed, last)
            for seed in [0] if is_fixed(method) else seeds:
                if data and (name, method, seed) not in made:
                    results += measure(data, method, arguments.minutes, seed)
                    save(results, arguments.out)
        print(f"\n{name}\n{table(results, name)}\n", flush=True)
        if told := unlike(results, name):
            print(f"{told}\n", flush=True)
        if ranks := label_free(results, name):
            print(f"Rank correlation of scores without labels\n{ranks}\n", flush=True)


def measure(data: Data, name: str, minutes: float, seed: int) -> list[dict]:
    """Every score of a method, at each checkpoint of one training."""
    results = []
    asked = data.replicates.notna().to_numpy()
    machine = processor()
    for embedding in find_method(name)(data, minutes, seed):
        agreement = mean_average_precision(
            embedding.features[asked], data.replicates[asked].tolist()
        )
        for task in data.tasks:
            folds = task.score(embedding.features[task.rows])
            results.append(
                {
                    "data": data.name,
                    "task": task.name,
                    "method": name,
                    "seed": seed,
                    "minutes": round(embedding.minutes, 2),
                    "images seen": embedding.n_images,
                    "d": embedding.features.shape[1],
                    "replicate agreement": agreement,
                    "Fréchet distance": embedding.frechet,
                    "folds": [{k: round(v, 4) for k, v in f.items()} for f in folds],
                    "threads": torch.get_num_threads(),
                    "machine": machine,
                }
            )
            means = pd.DataFrame(folds).mean().round(3).to_dict()
            print(name, seed, round(embedding.minutes, 1), task.name, means, flush=True)
    return results


def processor() -> str:
    """Name of the processor, and the type that networks compute in."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        name = found[1] if found else name
    return f"{name}, {str(DTYPE).removeprefix('torch.')}"


def unlike(results: list[dict], name: str) -> str:
    """What sets trained rows of a table apart but their methods, if anything does."""
    ends: dict[tuple, float] = {}
    for r in results:
        if r["data"] == name and r["images seen"]:
            key = (r["method"], r["seed"], r["machine"], r["threads"])
            ends[key] = max(r["minutes"], ends.get(key, 0.0))
    machines = sorted({f"{machine}, {n} threads" for _, _, machine, n in ends})
    texts = [f"machines: {'; '.join(machines)}"] if len(machines) > 1 else []
    if ends and max(ends.values()) > 1.1 * min(ends.values()):
        told = {f"{key[0]} {minutes:.0f}" for key, minutes in ends.items()}
        texts.append(f"minutes: {', '.join(sorted(told))}")
    return f"Compare with care, rows differ in {' and in '.join(texts)}." * bool(texts)


def table(results: list[dict], name: str) -> str:
    """Mean ± standard deviation over folds and seeds at the end of training.

    "over untrained" is of the first score of ``LABELLED`` that a task has.
    """
    texts = []
    chosen = [r for r in results if r["data"] == name]
    for task in dict.fromkeys(r["task"] for r in chosen):
        rows = {}
        plain = [r for r in chosen if (r["task"], r["method"]) == (task, "untrained")]
        for method in dict.fromkeys(r["method"] for r in chosen):
            mine = [r for r in chosen if (r["task"], r["method"]) == (task, method)]
            last = max(r["minutes"] for r in mine)
            ends = {r["seed"]: r for r in mine}  # the last of each seed
            scores = pd.DataFrame([fold for r in ends.values() for fold in r["folds"]])
            rows[method] = {
                "d": mine[-1]["d"],
                "minutes": round(last, 1),
                "images seen": int(np.mean([r["images seen"] for r in ends.values()])),
            } | {k: f"{v.mean():.3f} ± {v.std(ddof=0):.3f}" for k, v in scores.items()}
            if plain and task != "nuisances":
                rows[method]["over untrained"] = gain(list(ends.values()), plain)
        texts.append(f"{task}\n{pd.DataFrame(rows).T.to_string()}")
    return "\n\n".join(texts)


def gain(ours: list[dict], plain: list[dict]) -> str:
    """By how much the first labelled score is above the untrained network's.

    Fold by fold, since folds differ in difficulty: that is no uncertainty of a gain.
    """
    score = next(s for s in LABELLED if s in plain[0]["folds"][0])
    folds = [[fold[score] for fold in r["folds"]] for r in plain]
    more = [
        fold[score] - base
        for r in ours
        for fold, base in zip(r["folds"], np.mean(folds, axis=0), strict=True)
    ]
    return f"{np.mean(more):+.3f} ± {np.std(more):.3f}"


def label_free(results: list[dict], name: str) -> str:
    """How well scores without labels rank embeddings by their scores with labels.

    Spearman's rank correlation of replicate agreement, and of minus the Fréchet
    distance, with each score's mean over folds: over the checkpoints of a method, all
    seeds together, and over all embeddings of all methods.
    """
    rows = []
    chosen = [r for r in results if r["data"] == name and r["task"] != "nuisances"]
    for task in dict.fromkeys(r["task"] for r in chosen):
        mine = [r for r in chosen if r["task"] == task]
        among = {"all": mine}
        for method in dict.fromkeys(r["method"] for r in mine):
            among[method] = [r for r in mine if r["method"] == method]
        for method, some in among.items():
            labelled = pd.DataFrame([pd.DataFrame(r["folds"]).mean() for r in some])
            for free, sign in (("replicate agreement", 1), ("Fréchet distance", -1)):
                values = pd.Series([r[free] for r in some], dtype=float)
                if len(some) < 4 or values.isna().any():
                    continue
                row = {"task": task, "of": method, "embeddings": len(some), "by": free}
                rows.append(
                    row
                    | (sign * labelled.corrwith(values, method="spearman")).to_dict()
                )
    return pd.DataFrame(rows).round(2).to_string(index=False) if rows else ""


def save(results: list[dict], file: Path) -> None:
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in results)
    with whole_file(file) as part:
        part.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
