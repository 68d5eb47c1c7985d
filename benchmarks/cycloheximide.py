"""Does on-perturbation rise with dose, on a plate that the axis was not fitted on?

    GANDL_DATA=folder python benchmarks/cycloheximide.py --minutes 20

On BBBC021: a featurizer is trained without labels on all crops, each crop's brightness
removed (``make demo DATA=.../bbbc021`` leaves such a model, which --model takes). On
each of the two plates that carry cycloheximide the axis is fitted from DMSO to the
highest dose, after `ControlScaler` on that plate's DMSO, and crops of the other plate
are scored. Prints mean and standard deviation over crops by plate and dose, Spearman's
rank correlation of dose and score over the crops of each plate, and draws the curve of
each plate.

What it cannot show: a dose is one well a plate, in the same place on both plates, so
that dose, well and position are one; crops of a well are no replicates, and no
confidence interval or p-value is given.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from _tasks import read_folder
from scipy.stats import spearmanr

from gandl import GANDLFeaturizer
from gandl.profiles import ControlScaler
from gandl.scoring import PerturbationScorer

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="do not train, take this model")
    parser.add_argument("--out", type=Path, default=Path("cycloheximide.png"))
    arguments = parser.parse_args()
    images, table = read_folder("bbbc021")
    if arguments.model:
        model = GANDLFeaturizer.load(arguments.model)
    else:
        model = GANDLFeaturizer(
            intensity="image",
            max_minutes=arguments.minutes,
            random_state=arguments.seed,
            verbose=True,
        ).fit(images)
    dosed = table["compound"] == "cycloheximide"
    plates = sorted(table.loc[dosed, "plate"].unique())
    control = (table["compound"] == "DMSO") & table["plate"].isin(plates)
    rows = np.flatnonzero(dosed | control)
    scores = score(model.transform(images[rows]), table.iloc[rows])
    shown = scores.groupby(["plate", "dose"])["on"].agg(["mean", "std", "size"])
    print(f"\nAfter {model.n_images_seen_:,} images, seed {model.random_state}:")
    print(shown.round(2).to_string())
    for plate, mine in scores.groupby("plate"):
        rank = spearmanr(mine["dose"], mine["on"]).statistic
        print(f"{plate}: rank correlation of dose and score {rank:.2f}")
    draw(scores, plates, arguments.out)
    print(f"Picture: {arguments.out}")


def score(embeddings: np.ndarray, known: pd.DataFrame) -> pd.DataFrame:
    """On-perturbation of each plate's crops by the axis of the other plate."""
    plate = known["plate"].to_numpy()
    kind = known["compound"].to_numpy()
    dose = pd.to_numeric(known["concentration_um"]).where(kind != "DMSO", 0.0)
    X = ControlScaler(control="DMSO").fit_transform(embeddings, kind, batch=plate)
    highest = dose == dose.max()
    y = np.where(kind == "DMSO", "DMSO", np.where(highest, "highest", "other"))
    scores = []
    for name in sorted(set(plate)):
        mine = plate == name
        axis = PerturbationScorer(
            negative="DMSO", positive="highest", axis="discriminant"
        ).fit(X[~mine], y[~mine])
        on = axis.transform(X[mine])[:, 0]
        scores.append(pd.DataFrame({"plate": name, "dose": dose[mine], "on": on}))
    return pd.concat(scores)


def draw(scores: pd.DataFrame, plates: list[str], path: Path) -> None:
    figure, axes = plt.subplots(
        1, len(plates), figsize=(8, 3.4), sharey=True, layout="constrained"
    )
    for ax, plate in zip(axes, plates, strict=True):
        mine = scores[scores["plate"] == plate]
        doses = sorted(mine["dose"].unique())
        groups = [mine.loc[mine["dose"] == dose, "on"] for dose in doses]
        labels = ["DMSO" if dose == 0 else f"{dose:g}" for dose in doses]
        ax.boxplot(groups, tick_labels=labels, showfliers=False, widths=0.6)
        ax.plot(range(1, len(doses) + 1), [g.mean() for g in groups], "o-")
        ax.axhline(0, color="0.7", lw=1)
        ax.axhline(1, color="0.7", lw=1)
        ax.set(title=f"{plate}, axis of the other plate", xlabel="cycloheximide (µM)")
    axes[0].set_ylabel("on-perturbation of a crop")
    temporary = path.with_name(f".{path.name}.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
