"""From images to hits on simulated screens: what each embedding finds.

    python benchmarks/screen.py --minutes 5

Screens of three plates of 384 wells for each of two cell types: 60 compounds (20 that
rescue, 20 that do nothing, 20 toxic) at six half-log doses in triplicate, two sites of
128 x 128 a well, 12 healthy and 12 infected control wells a plate; another screen for
each seed. Methods that learn train on the screen's images, without labels, for
``--minutes``. Then for all methods alike, cell type by cell type: images averaged to
wells, `ControlScaler` on the healthy controls, `DoseResponseScorer`.

Prints a row a method, mean and standard deviation over seeds: the share of rescuing
compounds called a hit at a false discovery rate of 5 %, the share of hits that are
none, toxic compounds called a hit, inert ones called toxic, the median error of log10
EC50 of true hits, the share of them whose confidence interval has the true EC50, how
many decades it spans, and how well the controls separate. Writes every compound's row
to a JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _methods
import pandas as pd
from _methods import METHODS
from _screens import find_hits, measures, simulate
from _tasks import Data

from gandl._files import whole_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = "gandl,untrained,ImageNet,intensity statistics,PCA of pixels"
    parser.add_argument("--methods", default=chosen, help="methods")
    parser.add_argument("--minutes", type=float, default=5.0, help="of one core, each")
    parser.add_argument("--seeds", type=int, default=5, help="screens")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--compounds", type=int, default=60)
    parser.add_argument(
        "--doses-alone",
        action="store_true",
        help="curves without the untreated controls at concentration zero",
    )
    parser.add_argument(
        "--prior-df", type=float, default=6.0, help="of ControlScaler; 0: each plate's"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--join", type=Path, nargs="*", default=[], help="earlier runs of other seeds"
    )
    parser.add_argument("--out", type=Path, default=Path("screen.json"))
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method {sorted(unknown)}; there are {list(METHODS)}")
    _methods.CHECKPOINTS = (1.0,)  # only the end is asked
    earlier = [json.loads(file.read_text()) for file in arguments.join]
    results = [row for run in earlier for row in run["results"]]
    rows = [row for run in earlier for row in run["compounds"]]
    made = {(row["method"], row["seed"]) for row in results}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        missing = [method for method in methods if (method, seed) not in made]
        if not missing:
            continue
        images, truth = simulate(
            seed, n_compounds=arguments.compounds, n_jobs=arguments.jobs
        )
        data = Data(f"screen {seed}", images, "dataset", [], pd.Series(dtype=object))
        for method in missing:
            *_, embedding = METHODS[method](data, arguments.minutes, seed)
            found, separation = find_hits(
                images.metadata,
                embedding.features,
                truth,
                controls_at_zero=not arguments.doses_alone,
                prior_df=arguments.prior_df,
                n_jobs=arguments.jobs,
            )
            row = {"method": method, "seed": seed, "images seen": embedding.n_images}
            results.append(row | measures(found) | separation)
            print(results[-1], flush=True)
            kept = ["compound", "cell type", "kind", "call", "q_value", "ec50_true"]
            kept += ["ec50", "ec50_low", "ec50_high"]
            rows += [row | r for r in found[kept].to_dict(orient="records")]
            save(rows, results, arguments)  # of hours, what is done
    save(rows, results, arguments)
    print(f"\n{table(results)}\n\nWritten to {arguments.out}")


def table(results: list[dict]) -> str:
    frame = pd.DataFrame(results).drop(columns="seed")
    grouped = frame.groupby("method", sort=False)
    mean, spread = grouped.mean(), grouped.std(ddof=0)
    shown = mean.apply(lambda c: c.map("{:.2f}".format)) + " ± "
    shown += spread.apply(lambda c: c.map("{:.2f}".format))
    shown["images seen"] = mean["images seen"].astype(int)
    return shown.to_string()


def save(rows: list, results: list, arguments: argparse.Namespace) -> None:
    options = {k: v for k, v in vars(arguments).items() if k not in ("out", "join")}
    record = {"options": options, "results": results, "compounds": rows}
    with whole_file(arguments.out) as part:
        part.write_text(json.dumps(record, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
