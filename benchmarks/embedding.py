"""What an embedding sees: methods side by side, on the same images, splits and minutes.

    GANDL_DATA=folder python benchmarks/embedding.py --data mitocheck --minutes 20

Prints a table, a row a method, of the mean and standard deviation over folds and seeds,
and writes every fold's score at every checkpoint of training to a JSON file, as it
comes to them. Learning methods have the same minutes each, of processor time.
"gandl" and "paper" take parameters of the featurizer that are to differ:
``--methods "gandl,gandl adversarial_batch=8 detail=false"``; "ImageNet", "SimCLR",
"VICReg" and "untrained" take ``features``, "pooled" or "central":
``'untrained features="central"'``.

All of it takes many hours. Runs that were made before, in one file or several, join the
table by ``--join``, and are not made again, not even where they were interrupted;
``--methods ""`` then only prints. A longer training begins as a shorter one:
``--minutes 120 --checkpoints 40``, joined later with ``--until 40``, has the row of
forty minutes. ``--over gandl`` gives each score's difference from that method's too,
fold by fold, since folds differ in difficulty.

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
import warnings
from collections.abc import Iterator
from pathlib import Path

import _methods
import _record
import numpy as np
import pandas as pd
import torch
from _methods import METHODS, Embedding, find_method, is_fixed
from _tasks import Data, Task, load

from gandl._diagnostics import mean_average_precision
from gandl._files import whole_file
from gandl._tensors import activation_dtype

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
    parser.add_argument(
        "--until",
        type=float,
        default=float("inf"),
        metavar="MINUTES",
        help="leaves out what joined runs had after more",
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of one core, each")
    parser.add_argument(
        "--checkpoints",
        type=float,
        nargs="+",
        metavar="MINUTES",
        help="when to look on the way; else after 10, 25 and 50 %% of --minutes",
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a method")
    kinds = ["auto", "bfloat16", "float32"]
    parser.add_argument(
        "--precision", default="auto", choices=kinds, help="of activations"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--over", help="a method: differences from its scores")
    parser.add_argument("--out", type=Path, default=Path("embedding.json"))
    arguments = parser.parse_args()
    _methods.DTYPE = activation_dtype(arguments.precision, "cpu")
    if arguments.checkpoints:
        shares = {m / arguments.minutes for m in arguments.checkpoints}
        _methods.CHECKPOINTS = (*sorted(s for s in shares if s < 1), 1.0)
    methods = [m for m in arguments.methods.split(",") if m]
    for name in methods:
        find_method(name)  # or there is none
    # A fold may lack a rare class.
    warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
    joined = [r for file in arguments.join for r in json.loads(file.read_text())]
    longest = arguments.until + 0.1  # a step may end after its time
    results = [r for r in joined if r["minutes"] <= longest]
    made = {(r["data"], r["method"], r["seed"]) for r in results}
    for name in arguments.data.split(","):
        data = load(name) if methods else None
        for method in methods:
            last = arguments.first_seed + arguments.seeds
            seeds = range(arguments.first_seed, last)
            for seed in [0] if is_fixed(method) else seeds:
                if data and (name, method, seed) not in made:
                    for rows in measure(data, method, arguments.minutes, seed):
                        results += rows
                        save(results, arguments.out)  # of hours, what is done
        print(f"\n{name}\n{table(results, name)}\n", flush=True)
        if over := arguments.over:
            print(f"Over {over}\n{differences(results, name, over)}\n", flush=True)
        if told := unlike(results, name):
            print(f"{told}\n", flush=True)
        if ranks := label_free(results, name):
            print(f"Rank correlation of scores without labels\n{ranks}\n", flush=True)


def measure(data: Data, name: str, minutes: float, seed: int) -> Iterator[list[dict]]:
    """Every score of a method, checkpoint by checkpoint of one training."""
    asked = data.replicates.notna().to_numpy()
    for embedding in find_method(name)(data, minutes, seed):
        agreement = mean_average_precision(
            embedding.features[asked], data.replicates[asked].tolist()
        )
        more = {"replicate agreement": agreement, "Fréchet distance": embedding.frechet}
        yield scored(embedding, data.tasks, {"data": data.name}, name, seed, more)


def scored(
    embedding: Embedding,
    tasks: list[Task],
    of: dict[str, str],
    method: str,
    seed: int,
    more: dict[str, float | None],
) -> list[dict]:
    """A row a task: every fold's scores, printed too."""
    results = []
    for task in tasks:
        folds = task.score(embedding.features[task.rows])
        results.append(
            {
                **of,
                "task": task.name,
                "method": method,
                "seed": seed,
                "minutes": round(embedding.minutes, 2),
                "images seen": embedding.n_images,
                "d": embedding.features.shape[1],
                **more,
                "folds": [{k: round(v, 4) for k, v in f.items()} for f in folds],
                "threads": torch.get_num_threads(),
                "machine": processor(),
            }
        )
        means = pd.DataFrame(folds).mean().round(3).to_dict()
        print(method, seed, round(embedding.minutes, 1), task.name, means, flush=True)
    return results


def processor() -> str:
    """Name of the processor, and the type that networks compute in."""
    return f"{_record.processor()}, {str(_methods.DTYPE).removeprefix('torch.')}"


def unlike(results: list[dict], name: str) -> str:
    """What sets trained rows of a table apart but their methods, if anything does."""
    minutes_of: dict[tuple, float] = {}
    for r in results:
        if r["data"] == name and r["images seen"]:
            key = (r["method"], r["seed"], r["machine"], r["threads"])
            minutes_of[key] = max(r["minutes"], minutes_of.get(key, 0.0))
    machines = sorted({f"{machine}, {n} threads" for _, _, machine, n in minutes_of})
    texts = [f"machines: {'; '.join(machines)}"] if len(machines) > 1 else []
    if minutes_of and max(minutes_of.values()) > 1.1 * min(minutes_of.values()):
        told = {f"{key[0]} {minutes:.0f}" for key, minutes in minutes_of.items()}
        texts.append(f"minutes: {', '.join(sorted(told))}")
    return f"Compare with care, rows differ in {' and in '.join(texts)}." * bool(texts)


def table(results: list[dict], name: str) -> str:
    """Mean ± standard deviation over folds and seeds at the end of training.

    "over untrained" is of the first score of ``LABELLED`` that a task has.
    """
    texts = []
    for task, methods in ends(results, name).items():
        rows = {}
        for method, mine in methods.items():
            scores = pd.DataFrame([fold for r in mine for fold in r["folds"]])
            rows[method] = {
                "d": mine[-1]["d"],
                "minutes": round(max(r["minutes"] for r in mine), 1),
                "images seen": int(np.mean([r["images seen"] for r in mine])),
            } | {k: f"{v.mean():.3f} ± {v.std(ddof=0):.3f}" for k, v in scores.items()}
            if "untrained" in methods and task != "nuisances":
                score = next(s for s in LABELLED if s in scores)
                more = gains(mine, methods["untrained"])[score]
                rows[method]["over untrained"] = more
        texts.append(f"{task}\n{pd.DataFrame(rows).T.to_string()}")
    return "\n\n".join(texts)


def differences(results: list[dict], name: str, over: str) -> str:
    """Each score less that of the method ``over``, by `gains`."""
    texts = []
    for task, methods in ends(results, name).items():
        if over in methods and task != "nuisances":
            rows = {m: gains(mine, methods[over]) for m, mine in methods.items()}
            texts.append(f"{task}\n{pd.DataFrame(rows).T.to_string()}")
    return "\n\n".join(texts)


def ends(results: list[dict], name: str) -> dict[str, dict[str, list[dict]]]:
    """Of each task and method, what each seed's training came to at its end."""
    last: dict[str, dict[str, dict[int, dict]]] = {}
    for r in results:
        if r["data"] == name:
            of_method = last.setdefault(r["task"], {}).setdefault(r["method"], {})
            of_method[r["seed"]] = r
    return {
        task: {method: list(seeds.values()) for method, seeds in methods.items()}
        for task, methods in last.items()
    }


def gains(ours: list[dict], theirs: list[dict]) -> dict[str, str]:
    """By how much our scores are above theirs, mean ± standard deviation.

    Fold by fold, since folds differ in difficulty: that is no uncertainty of a gain.
    """
    base = sum(pd.DataFrame(r["folds"]) for r in theirs) / len(theirs)
    more = pd.concat([pd.DataFrame(r["folds"]) - base for r in ours])
    return {k: f"{v.mean():+.3f} ± {v.std(ddof=0):.3f}" for k, v in more.items()}


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
