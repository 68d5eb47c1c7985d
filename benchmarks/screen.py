"""From images to hits on simulated screens: what each embedding finds.

    python benchmarks/screen.py --minutes 5

Screens of three plates of 384 wells for each of two cell types: 60 compounds (20 that
rescue, 20 that do nothing, 20 toxic) at six half-log doses in triplicate, two sites of
128 x 128 a well, 12 healthy and 12 infected control wells a plate; another screen for
each seed. Methods that learn train on the screen's images, without labels, for
``--minutes``. Then for all methods alike, cell type by cell type: images averaged to
wells, `TypicalVariationNormalizer` on the healthy controls, `DoseResponseScorer`.

Prints a row a method, mean and standard deviation over seeds: the share of rescuing
compounds called a hit at a false discovery rate of 5 %, the share of hits that are
none, toxic compounds called a hit, the median error of log10 EC50 of true hits, and
how well the controls separate. Writes every compound's row to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from _methods import METHODS
from _tasks import Data

from gandl.datasets import make_screen
from gandl.profiles import TypicalVariationNormalizer
from gandl.scoring import DoseResponseScorer, PerturbationScorer

CELL_TYPES = ("cobblestone", "spindle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = "gandl,untrained,intensity statistics,PCA of pixels"
    parser.add_argument("--methods", default=chosen, help="methods")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="screens")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--compounds", type=int, default=60)
    parser.add_argument(
        "--doses-alone",
        action="store_true",
        help="curves without the untreated controls at concentration zero",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("screen.json"))
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method {sorted(unknown)}; there are {list(METHODS)}")
    results, rows = [], []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        data, truth = screen(seed, arguments)
        for method in methods:
            *_, embedding = METHODS[method](data, arguments.minutes, seed)
            found, separation = score(data, embedding.features, truth, arguments)
            row = {"method": method, "seed": seed, "images seen": embedding.n_images}
            results.append(row | measures(found) | separation)
            print(results[-1], flush=True)
            kept = ["compound", "cell type", "kind", "call", "q_value", "ec50_true"]
            rows += [row | r for r in found[[*kept, "ec50"]].to_dict(orient="records")]
            save(rows, results, arguments)
    print(f"\n{table(results)}\n\nWritten to {arguments.out}")


def screen(seed: int, arguments: argparse.Namespace) -> tuple[Data, pd.DataFrame]:
    images, truth = make_screen(
        n_plates=3,
        n_compounds=arguments.compounds,
        n_replicates=3,
        n_controls=12,
        n_sites=2,
        cell_types=CELL_TYPES,
        n_jobs=arguments.jobs,
        random_state=seed,
    )
    nothing = pd.Series(dtype=object)
    return Data(f"screen {seed}", images, "dataset", [], nothing), truth


def score(
    data: Data,
    features: np.ndarray,
    truth: pd.DataFrame,
    arguments: argparse.Namespace,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The compounds of each cell type, with the truth; how well controls separate."""
    wells = data.images.metadata
    _, first, number = np.unique(
        wells["well_id"], return_index=True, return_inverse=True
    )
    averages = pd.DataFrame(features).groupby(number).mean().to_numpy(np.float64)
    wells = wells.iloc[first].reset_index(drop=True)
    found, separation = [], []
    for cell_type in CELL_TYPES:
        mine = (wells["cell_type"] == cell_type).to_numpy()
        X, known = averages[mine], wells[mine]
        treated = (known["well_type"] == "treatment").to_numpy()
        kind = known["disease_condition"].mask(treated)
        tvn = TypicalVariationNormalizer(control="healthy", n_components=33)
        X = tvn.fit_transform(X, kind, batch=known["plate"])
        axis = PerturbationScorer(
            negative="healthy",
            positive="infected",
            axis="discriminant",
            pooled=True,
            poor_controls="ignore",
        )
        scorer = DoseResponseScorer(
            perturbation=axis,
            controls_at_zero=not arguments.doses_alone,
            n_jobs=arguments.jobs,
        )
        scorer.fit(X, kind, batch=known["plate"])
        separation.append(scorer.perturbation_.separation_)
        compounds = scorer.dose_response(
            X[treated],
            known["compound"][treated],
            known["concentration"][treated],
            batch=known["plate"][treated],
        )
        compounds["cell type"] = cell_type
        found.append(compounds)
    joined = pd.concat(found).merge(truth, on="compound", suffixes=("", "_true"))
    means = pd.concat(separation)[["ssmd", "auc"]].mean()
    return joined, {"SSMD of controls": means["ssmd"], "AUC of controls": means["auc"]}


def measures(found: pd.DataFrame) -> dict[str, float]:
    hit, rescue = found["call"] == "hit", found["kind"] == "rescue"
    true = found[hit & rescue]
    error = np.abs(np.log10(true["ec50"] / true["ec50_true"]))
    return {
        "recall": (hit & rescue).sum() / rescue.sum(),
        "false among hits": (hit & ~rescue).sum() / max(1, hit.sum()),
        "toxic called hit": float((hit & (found["kind"] == "toxic")).sum()),
        "error of log10 EC50": error.median(),
    }


def table(results: list[dict]) -> str:
    frame = pd.DataFrame(results).drop(columns="seed")
    grouped = frame.groupby("method", sort=False)
    mean, spread = grouped.mean(), grouped.std(ddof=0)
    shown = mean.apply(lambda c: c.map("{:.2f}".format)) + " ± "
    shown += spread.apply(lambda c: c.map("{:.2f}".format))
    shown["images seen"] = mean["images seen"].astype(int)
    return shown.to_string()


def save(rows: list, results: list, arguments: argparse.Namespace) -> None:
    options = {k: v for k, v in vars(arguments).items() if k != "out"}
    record = {"options": options, "results": results, "compounds": rows}
    temporary = arguments.out.with_name(f".{arguments.out.name}")
    temporary.write_text(json.dumps(record, indent=1, default=float) + "\n")
    os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
