"""The main job: folder of images + plate map -> embedding -> who is who.

Trains `GANDLFeaturizer` on all images of a folder, without labels, and asks by grouped
cross-validation what a linear SVM reads from the embedding, beside embeddings that
cost nothing: intensity statistics, PCA of pixels, the same discriminator untrained.
Of the simulated screen, it then scores the compounds and ends with the report.

    python examples/demo.py                              # a simulated screen
    python examples/demo.py --data .../mitocheck         # real images
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from gandl import GANDLFeaturizer, ImageCollection
from gandl.datasets import make_screen
from gandl.images import image_range, percentile_range, scale_intensity
from gandl.profiles import (
    ControlScaler,
    aggregate,
    feature_columns,
    make_profiles,
)
from gandl.report import write_report
from gandl.scoring import DoseResponseScorer, PerturbationScorer

mpl.use("Agg")
import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

TRUNCATION = 0.7  # of the generated images that are shown


@dataclass
class Task:
    """Images to train on, and which of them to tell apart by what."""

    name: str
    images: ImageCollection
    labelled: np.ndarray  # rows that the classifier sees
    y: np.ndarray
    groups: np.ndarray
    n_folds: int
    intensity: str
    wells: pd.DataFrame | None = None  # of each image, where compounds were given


def simulated(out: Path) -> Task:
    """Healthy and infected control wells, plates held out; written to disk first."""
    folder = out / "screen"
    make_screen(
        n_plates=4,
        n_controls=16,
        n_sites=2,
        folder=folder,
        overwrite=True,
        n_jobs=2,
        random_state=0,
    )
    stains = pd.read_csv(folder / "channels.csv", dtype=str)
    images = ImageCollection.from_folder(
        folder,
        "images/{experiment}/Plate{plate}/{well}_s{site}_w{channel}.tif",
        channels=dict(zip(stains["channel"], stains["stain"], strict=True)),
    )
    keys = ["experiment", "plate", "well", "site"]
    plate_map = pd.read_csv(folder / "metadata.csv", dtype=str)
    table = images.metadata.merge(plate_map, on=keys, how="left", validate="1:1")
    task = make_task(
        "simulated screen: healthy against infected wells, plates held out",
        images,
        table,
        table["well_type"] != "treatment",
        label="disease_condition",
        groups=["plate"],
        n_folds=4,
        intensity="dataset",
    )
    task.wells = table
    return task


def from_data(root: Path, arguments: argparse.Namespace) -> Task:
    """A folder with metadata.csv, one row an image with its path."""
    table = pd.read_csv(root / "metadata.csv", dtype=str)
    is_mitocheck = {"phenotype", "plate", "well"} <= set(table)
    is_bbbc021 = {"compound", "plate"} <= set(table) and (
        table["compound"].eq("cycloheximide").any()
    )
    columns = {"path", *arguments.groups.split(","), *filter(None, [arguments.label])}
    missing = columns - set(table)
    if missing or not (arguments.label or is_mitocheck or is_bbbc021):
        raise SystemExit(
            f"{root / 'metadata.csv'} has the columns {list(table)}"
            + (f" and lacks {sorted(missing)}." if missing else ".")
            + ' It takes one row an image, with its file in the column "path". Choose '
            "the column to predict with --label, and those whose images belong "
            "together with --groups, separated by commas."
        )
    images = ImageCollection.from_table(table, path="path", root=root)
    if arguments.label:
        return make_task(
            f"{root.name}: {arguments.label}",
            images,
            table,
            table[arguments.label].notna(),
            label=arguments.label,
            groups=arguments.groups.split(","),
            n_folds=5,
            intensity=arguments.intensity,
        )
    if is_mitocheck:
        return make_task(
            "mitocheck: 16 phenotypes, wells held out",
            images,
            table,
            table["phenotype"].notna(),
            label="phenotype",
            groups=["plate", "well"],
            n_folds=5,
            intensity="dataset",
        )
    dosed = table.loc[table["compound"] == "cycloheximide", "plate"].unique()
    either = table["compound"].isin(["DMSO", "cycloheximide"])
    return make_task(
        "bbbc021: DMSO against cycloheximide, brightness of each crop removed, "
        "plates held out",
        images,
        table,
        either & table["plate"].isin(dosed),
        label="compound",
        groups=["plate"],
        n_folds=2,
        intensity="image",
    )


def make_task(
    name: str,
    images: ImageCollection,
    table: pd.DataFrame,
    labelled: pd.Series,
    *,
    label: str,
    groups: list[str],
    n_folds: int,
    intensity: str,
) -> Task:
    rows = np.flatnonzero(labelled)
    chosen = table.iloc[rows]
    joined = chosen[groups].agg("/".join, axis=1)
    if joined.nunique() < 2 or chosen[label].nunique() < 2:
        raise SystemExit(
            f"{joined.nunique()} group(s) of {groups} and {chosen[label].nunique()} "
            f"value(s) of {label!r}: to hold out one group takes two of each."
        )
    return Task(
        name,
        images,
        rows,
        chosen[label].astype(str).to_numpy(dtype=object).astype(str),
        joined.to_numpy(dtype=object).astype(str),
        min(n_folds, joined.nunique()),
        intensity,
    )


def scaled(task: Task) -> np.ndarray:
    """Labelled images as the network sees them, for the baselines: -1 to 1."""
    batch = np.asarray(task.images[task.labelled])
    ranges = percentile_range(task.images)
    return scale_intensity(
        batch, image_range(batch) if task.intensity == "image" else ranges
    )


def intensity_statistics(images: np.ndarray) -> np.ndarray:
    """Mean, deviation and five percentiles of each channel."""
    pixels = images.reshape(*images.shape[:2], -1)
    percentiles = np.percentile(pixels, [5, 25, 50, 75, 95], axis=2)
    statistics = [pixels.mean(axis=2), pixels.std(axis=2), *percentiles]
    return np.concatenate(statistics, axis=1)


def classifier(n_groups: int) -> BaseEstimator:
    """Linear SVM whose C is chosen inside the training folds, groups kept together."""
    svm = SVC(kernel="linear", C=0.01, class_weight="balanced")
    model = make_pipeline(StandardScaler(), svm)
    if n_groups == 1:  # one plate to learn from: none is left to choose C on
        return model
    return GridSearchCV(
        model,
        {"svc__C": [0.01, 0.1, 1.0]},
        cv=GroupKFold(2),
        scoring="balanced_accuracy",
        n_jobs=2,
    )


def evaluate(task: Task, features: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Scores by fold, and the label predicted for each row where it was held out."""
    predicted = np.empty_like(task.y)
    scores = []
    folds = GroupKFold(task.n_folds, shuffle=True, random_state=0)
    for train, test in folds.split(features, task.y, task.groups):
        X, y, groups = features[train], task.y[train], task.groups[train]
        model = classifier(len(np.unique(groups)))
        searching = isinstance(model, GridSearchCV)
        model.fit(X, y, **({"groups": groups} if searching else {}))
        predicted[test] = model.predict(features[test])
        fold = {
            "balanced accuracy": balanced_accuracy_score(task.y[test], predicted[test]),
            "weighted F1": f1_score(task.y[test], predicted[test], average="weighted"),
        }
        if len(np.unique(task.y)) == 2:
            decision = model.decision_function(features[test])
            fold["AUC"] = roc_auc_score(task.y[test], decision)
        scores.append(fold)
    return pd.DataFrame(scores), predicted


def draw(task: Task, predicted: np.ndarray, model: GANDLFeaturizer, path: Path) -> None:
    """Confusion matrix; real and generated images, channel by channel."""
    n_channels, n_shown = task.images.shape[1], min(8, len(task.images))
    heights = [7, 0.4 + 1.0 * n_channels]
    figure = plt.figure(figsize=(15, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)
    ax = top.subplots()
    ConfusionMatrixDisplay.from_predictions(
        task.y,
        predicted,
        normalize="true",
        ax=ax,
        cmap="Blues",
        values_format=".2f",
        xticks_rotation=90,
        text_kw={"fontsize": 7 if len(np.unique(task.y)) > 6 else 14},
        colorbar=False,
    )
    ax.set_title(
        f"{task.name}\nlinear SVM on gandl's embedding: share of each true class"
    )
    rows = np.random.default_rng(0).choice(len(task.images), n_shown, replace=False)
    size = model.config_.size
    real = np.asarray(task.images[np.sort(rows)], dtype=np.float32)
    real = centre(real, size)
    # A little truncated, as generated images are commonly shown.
    made = model.generate(n_shown, truncation=TRUNCATION, random_state=0)
    if model.intensity_range_ is None:
        real = (scale_intensity(real, image_range(real)) + 1) / 2
    title = f"generated after {model.n_images_seen_:,} images, truncation {TRUNCATION}"
    sides = bottom.subfigures(1, 2)
    for side, name, shown in zip(sides, ["real", title], [real, made], strict=True):
        side.suptitle(name)
        axes = side.subplots(n_channels, n_shown, squeeze=False)
        for c in range(n_channels):
            low, high = np.percentile(real[:, c], [0.5, 99.8])
            for ax, image in zip(axes[c], shown[:, c], strict=True):
                ax.imshow(image, cmap="gray", vmin=low, vmax=high)
                ax.set(xticks=[], yticks=[])
            axes[c, 0].set_ylabel(task.images.channels[c])
    temporary = path.with_name(f".{path.name}.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, path)


def centre(images: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, extent - size) // 2 for extent in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with metadata.csv and images")
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--minutes", type=float, default=2.5, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plain",
        action="store_true",
        help="also train by the adversarial game alone, for as long",
    )
    parser.add_argument("--label", help="column of metadata.csv to predict")
    parser.add_argument(
        "--groups", default="plate", help="columns kept together, as a,b"
    )
    parser.add_argument("--intensity", default="dataset", choices=["dataset", "image"])
    arguments = parser.parse_args()
    if arguments.data and not (arguments.data / "metadata.csv").is_file():
        parser.error(f"{arguments.data} has no metadata.csv")
    arguments.out.mkdir(parents=True, exist_ok=True)
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    # A fold may lack a rare class.
    warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
    data, out = arguments.data, arguments.out
    task = from_data(data, arguments) if data else simulated(out)
    print(f"{task.name}\n{task.images}\n{len(task.y)} labelled images", flush=True)
    ours = GANDLFeaturizer(
        intensity=task.intensity,
        max_minutes=arguments.minutes,
        random_state=arguments.seed,
        verbose=True,
    )
    models = {"gandl": ours}
    if arguments.plain:
        models["gandl, plain GAN"] = clone(ours).set_params(
            contrast_learning_rate=0.0, adversarial_batch=32
        )
    models["gandl, untrained"] = clone(ours).set_params(max_kimg=0)
    pixels = scaled(task)
    few = max(1, min(pixels.shape[2:]) // 32)
    small = pixels[:, :, ::few, ::few].reshape(len(pixels), -1)
    features = {
        "intensity statistics": intensity_statistics(pixels),
        "PCA of pixels": PCA(min(100, *small.shape), random_state=0).fit_transform(
            small
        ),
    }
    minutes = dict.fromkeys(features, 0.0)
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(task.images)
        minutes[name] = (time.perf_counter() - start) / 60
        features[name] = model.transform(task.images[task.labelled])
    table, predicted, scores_of = {}, {}, {}
    for name, embedding in features.items():
        scores, predicted[name] = evaluate(task, embedding)
        scores_of[name] = scores
        table[name] = {"d": embedding.shape[1], "minutes": round(minutes[name], 1)}
        table[name]["images seen"] = getattr(models.get(name), "n_images_seen_", 0)
        for metric in scores:
            table[name][metric] = (
                f"{scores[metric].mean():.3f} ± {scores[metric].std():.3f}"
            )
    for name, scores in scores_of.items():
        # Fold by fold: that folds differ in difficulty is no uncertainty of a gain.
        gain = scores.iloc[:, 0] - scores_of["gandl, untrained"].iloc[:, 0]
        table[name]["over untrained"] = f"{gain.mean():+.3f} ± {gain.std():.3f}"
    report(task, pd.DataFrame(table).T, predicted["gandl"], ours, arguments)
    if task.wells is not None:
        write_hits(task.images, task.wells, ours, out / "report.html")


def write_hits(
    images: ImageCollection, table: pd.DataFrame, model: GANDLFeaturizer, path: Path
) -> None:
    """Which compounds bring infected cells back, at which dose: a page to read."""
    profiles = make_profiles(model.transform(images), table)
    wells = aggregate(profiles, ["plate", "well"])
    features = wells[feature_columns(wells)]
    plate, treated = wells["Metadata_Plate"], wells["Metadata_well_type"] == "treatment"
    kind = wells["Metadata_disease_condition"].mask(treated)
    axis = PerturbationScorer(
        negative="healthy",
        positive="infected",
        scaler=ControlScaler(control="healthy", prior_df=6),
        axis="discriminant",
        pooled=True,
        poor_controls="ignore",  # the report says so
    )
    scorer = DoseResponseScorer(perturbation=axis, n_jobs=2)
    scorer.fit(features, kind, batch=plate)
    known = pd.DataFrame(
        {
            "kind": kind,
            "compound": wells["Metadata_compound"].where(treated),
            "concentration": wells["Metadata_concentration"],
            "batch": plate,
            "plate": plate,
            "well": wells["Metadata_Well"],
        }
    )
    first = ~profiles.duplicated(["Metadata_Plate", "Metadata_Well"])
    compounds = write_report(
        path,
        scorer,
        features,
        known,
        images=images[np.flatnonzero(first)],
        title="Simulated screen",
        pixel_size=0.65,
        overwrite=True,
    )
    calls = compounds["call"].value_counts()
    counts = ", ".join(f"{n} {call}" for call, n in calls.items())
    print(f"Report:  {path} ({counts})")


def report(
    task: Task,
    table: pd.DataFrame,
    predicted: np.ndarray,
    model: GANDLFeaturizer,
    arguments: argparse.Namespace,
) -> None:
    path = arguments.out / "picture.png"
    model.save(arguments.out / "model.safetensors", overwrite=True)
    draw(task, predicted, model, path)
    record = {
        "task": task.name,
        "seed": arguments.seed,
        "folds": task.n_folds,
        "table": table.to_dict("index"),
    }
    (arguments.out / "table.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nMean ± standard deviation over {task.n_folds} folds, groups held out:")
    print(table.to_string())
    print(
        "d: length of the embedding. untrained: the same network before training; over "
        "untrained: gain in balanced accuracy, fold by fold."
    )
    print()
    for name in ("table.json", "picture.png", "model.safetensors"):
        print(f"{name.partition('.')[0].capitalize() + ':':9}{arguments.out / name}")


if __name__ == "__main__":
    main()
