"""Cells never seen: featurizers of one collection, classifiers on another.

    GANDL_DATA=folder python benchmarks/zero_shot.py --pairs "bbbc021 -> mitocheck"

Each network trains on the images of one collection (the source) without labels, and
embeds those of another (the target) through `ChannelAdapter`, which learns their
intensity range without labels; a linear SVM (the paper's protocol) and
`ZeroShotClassifier` then learn the target's classes on the frozen embedding, from 1, 5,
20 and all labels a class, with groups held out. Prints a table, a row a method, of the
mean and standard deviation over folds and seeds of balanced accuracy, and writes every
fold's scores to a JSON file.

Beside the network of the source: the same before training, statistics and pixels of
the target, an ImageNet network, the featurizer trained on the target itself (the
ceiling; it saw the images of held-out groups too, without labels), and chance.

Pairs: "bbbc021 -> mitocheck" (the DNA stain of MCF-7 cells; 16 phenotypes of HeLa
nuclei), "mitocheck -> bbbc021" (HeLa nuclei; DMSO against cycloheximide, each crop's
brightness removed, and mechanisms of action, by the DNA stain alone), the same "by
stain", each of three embedded on its own and put side by side, "screen -> screen"
(one line of `make_screen`; which of four other lines cells are, and whether they are
infected), and the same "by stain", trained on the first of its stains.

Rows are "source:" or "target:" and a method of `embedding.py`, which may take
parameters of the featurizer: "source: gandl detail=false".

Learning methods have the same minutes each, of one core's processor time. Runs that
were made before for the same minutes join the table by ``--join``, and are not made
again; ``--methods ""`` then only prints. ``--over "source: gandl"`` gives each score's
difference from that row's too, fold by fold.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _methods
import numpy as np
import pandas as pd
from _methods import Embedding, find_method, is_fixed
from _tasks import (
    BUDGETS,
    DRAWS,
    Data,
    Task,
    classification,
    draw,
    linear_svm,
    mechanisms,
    read_folder,
    with_cycloheximide,
)
from embedding import differences, save, scored
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from gandl import ChannelAdapter, ImageCollection, ZeroShotClassifier
from gandl.datasets import make_screen

Pair = tuple[Data, Data]  # the network of the source; networks of the target itself

TRAINED_LINE = "cobblestone"
HELD_OUT_LINES = ("colony", "spindle", "spread", "round")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default=",".join(PAIRS), help="source -> target")
    parser.add_argument("--methods", default=",".join(ROWS), help="rows of the table")
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="earlier runs")
    parser.add_argument("--minutes", type=float, default=20.0, help="of one core, each")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a method")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--over", help="a row: differences from its scores")
    parser.add_argument("--out", type=Path, default=Path("zero_shot.json"))
    arguments = parser.parse_args()
    _methods.CHECKPOINTS = (1.0,)  # only the end is asked
    methods = [m for m in arguments.methods.split(",") if m]
    names = arguments.pairs.split(",")
    for method in methods:
        find_row(method)  # or there is none
    for name in names:
        if name not in PAIRS:
            raise SystemExit(f"No pair {name!r}; there are {list(PAIRS)}.")
    # A fold may lack a rare class.
    warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
    results = [r for file in arguments.join for r in json.loads(file.read_text())]
    made = {(r["pair"], r["method"], r["seed"]) for r in results}
    for name in names:
        pair = load_pair(name) if methods else None
        for method in methods:
            last = arguments.first_seed + arguments.seeds
            fixed = method == "chance" or is_fixed(method.removeprefix("target: "))
            for seed in [0] if fixed else range(arguments.first_seed, last):
                if pair and (name, method, seed) not in made:
                    results += measure(name, pair, method, arguments.minutes, seed)
                    save(results, arguments.out)
        print(f"\n{name}\n{table(results, name)}\n", flush=True)
        if over := arguments.over:
            mine = [r | {"data": r["pair"]} for r in results]
            print(f"Over {over}\n{differences(mine, name, over)}\n", flush=True)


def measure(
    name: str, pair: Pair, method: str, minutes: float, seed: int
) -> list[dict]:
    """Every score of a row, at the end of one training."""
    results = []
    for embedding in find_row(method)(pair, minutes, seed):
        results += scored(embedding, pair[0].tasks, {"pair": name}, method, seed, {})
    return results


def table(results: list[dict], name: str) -> str:
    """Mean ± standard deviation over folds and seeds at the end of training."""
    texts = []
    chosen = [r for r in results if r["pair"] == name]
    for task in dict.fromkeys(r["task"] for r in chosen):
        rows = {}
        for method in dict.fromkeys(r["method"] for r in chosen):
            mine = [r for r in chosen if (r["task"], r["method"]) == (task, method)]
            scores = pd.DataFrame([fold for r in mine for fold in r["folds"]])
            rows[method] = {
                "d": mine[-1]["d"],
                "images seen": int(np.mean([r["images seen"] for r in mine])),
            } | {k: f"{v.mean():.3f} ± {v.std(ddof=0):.3f}" for k, v in scores.items()}
        texts.append(f"{task}\n{pd.DataFrame(rows).T.to_string()}")
    return "\n\n".join(texts)


# Pairs of collections


def tell(*task: Any, **options: Any) -> Task:
    """Tell a label in groups that were held out, by few labels and by all."""
    return classification(*task, scores=fold_scores, **options)


def load_pair(name: str) -> Pair:
    """Source and target by name; see the head of this file."""
    return PAIRS[name]()


def _pair(
    name: str,
    source: ImageCollection,
    target: ImageCollection,
    tasks: list[Task],
    *,
    stains: Sequence[Sequence[str]],
    intensity: str = "dataset",
) -> Pair:
    """The source's network on groups of the target's stains, which play its channels.

    Of the target, only these stains are looked at by any method.
    """
    embedded = []
    for group in stains:
        adapter = ChannelAdapter(
            channels=dict(zip(source.channels, group, strict=True)), mismatch="ignore"
        )
        embedded.append(adapter.fit_transform(target))
    own = target.with_channels([stain for group in stains for stain in group])
    nothing = pd.Series(index=range(len(target)), dtype=object)
    of_target = Data(name, own, intensity, tasks, nothing)
    return replace(of_target, images=source, embedded=embedded), of_target


def _from_bbbc021() -> Pair:
    source, _ = read_folder("bbbc021")
    target, table = read_folder("mitocheck")
    groups = table["plate"] + "/" + table["well"]
    task = tell("16 phenotypes", table, "phenotype", groups, n_folds=5)
    return _pair(
        "mitocheck",
        source.with_channels("channel_0"),
        target,
        [task],
        stains=[target.channels],
    )


def _from_mitocheck(*stains: str) -> Pair:
    source, _ = read_folder("mitocheck")
    target, table = read_folder("bbbc021")
    chosen = with_cycloheximide(table)
    plates = chosen["plate"]
    tasks = [
        tell("cycloheximide", chosen, "compound", plates, n_folds=2),
        mechanisms(table),
    ]
    return _pair(
        "bbbc021",
        source,
        target,
        tasks,
        stains=[[stain] for stain in stains],
        intensity="image",  # brightness alone nearly solves the first
    )


def _screens(n_controls: int = 16, *, by_stain: bool = False) -> Pair:
    """Control wells alone, since compounds change what a line looks like."""
    source, target = (
        make_screen(
            n_plates=4,
            n_compounds=0,
            n_controls=n_controls,
            cell_types=lines,
            n_jobs=2,
            random_state=seed,
        )[0]
        for seed, lines in enumerate([[TRAINED_LINE], HELD_OUT_LINES])
    )
    table = target.metadata
    tasks = [
        tell("four lines", table, "cell_type", table["plate"]),
        tell("infection", table, "disease_condition", table["plate"]),
    ]
    stains: Sequence[Sequence[str]] = [target.channels]
    if by_stain:
        source = source.with_channels(source.channels[0])
        stains = [[stain] for stain in target.channels]
    return _pair("screen", source, target, tasks, stains=stains)


PAIRS: dict[str, Callable[[], Pair]] = {
    "bbbc021 -> mitocheck": _from_bbbc021,
    "mitocheck -> bbbc021": lambda: _from_mitocheck("channel_0"),
    "mitocheck -> bbbc021 by stain": lambda: _from_mitocheck(
        "channel_0", "channel_1", "channel_2"
    ),
    "screen -> screen": _screens,
    "screen -> screen by stain": lambda: _screens(by_stain=True),
}


# Rows of the table

ROWS = (
    "chance",
    "target: intensity statistics",
    "target: PCA of pixels",
    "target: ImageNet",
    "source: untrained",
    "source: gandl",
    "target: gandl",
)


def find_row(name: str) -> Callable[[Pair, float, int], Iterator[Embedding]]:
    """A method of the source or of the target, such as "source: gandl"."""
    if name == "chance":
        return _chance
    side, _, method = name.partition(": ")
    if side not in ("source", "target"):
        raise SystemExit(f"No row {name!r}; there are {list(ROWS)}.")
    learn, which = find_method(method), ("source", "target").index(side)
    return lambda pair, minutes, seed: learn(pair[which], minutes, seed)


def _chance(pair: Pair, minutes: float, seed: int) -> Iterator:
    """Noise."""
    n = len(pair[1].images)
    yield Embedding(np.random.default_rng(seed).normal(size=(n, 2)))


# Scores


def fold_scores(
    X: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> dict[str, float]:
    """Balanced accuracy by classifier and labels a class, mean over draws of labels.

    Features are standardised on all training rows, which takes no labels.
    """
    z = StandardScaler().fit(X[train]).transform(X).astype(np.float64)
    rng = np.random.default_rng(0)
    scores: dict[str, float] = {}
    for budget in (*BUDGETS, None):
        draws = [draw(rng, y, train, budget) for _ in range(DRAWS if budget else 1)]
        labels = f"{budget} a class" if budget else "all"
        for name, predict in (("SVM", _svm), ("prototypes", _prototypes)):
            found = [
                balanced_accuracy_score(
                    y[test], predict(z, y, groups if budget is None else None, d, test)
                )
                for d in draws
            ]
            scores[f"{name}, {labels}"] = float(np.mean(found))
    order = sorted(scores, key=lambda key: key.split(",")[0] == "prototypes")
    return {key: scores[key] for key in order}


def _svm(
    z: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None,
    chosen: np.ndarray,
    test: np.ndarray,
) -> np.ndarray:
    """Linear; C is chosen inside the training folds where all labels are there."""
    svm = linear_svm(1 if groups is None else len(np.unique(groups[chosen])))
    by_group = {} if groups is None else {"groups": groups[chosen]}
    svm.fit(
        z[chosen] @ z[chosen].T,
        y[chosen],
        **(by_group if isinstance(svm, GridSearchCV) else {}),
    )
    return svm.predict(z[test] @ z[chosen].T)


def _prototypes(
    z: np.ndarray, y: np.ndarray, groups: object, chosen: np.ndarray, test: np.ndarray
) -> np.ndarray:
    return ZeroShotClassifier().fit(z[chosen], y[chosen]).predict(z[test])


if __name__ == "__main__":
    main()
