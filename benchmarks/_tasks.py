"""Data sets, what is asked of an embedding on them, and how the answer is scored."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from _screens import find_hits, measures, simulate
from scipy.ndimage import laplace
from sklearn.base import BaseEstimator
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from gandl import ImageCollection
from gandl.images import percentile_range, scale_intensity
from gandl.profiles import TypicalVariationNormalizer

BUDGETS = (1, 5, 20)
DRAWS = 5

Scores = list[dict[str, float]]  # one dict a fold


@dataclass
class Task:
    """Labelled rows of a data set; ``score`` turns their embeddings into scores."""

    name: str
    rows: np.ndarray
    score: Callable[[np.ndarray], Scores]


@dataclass
class Data:
    """Images to learn from, without labels, and the tasks that follow.

    ``replicates`` says which images had the same treatment (on MitoCheck: are of one
    well); those of a missing one are not asked. ``embedded``, if there is any, is
    embedded in place of ``images``: collections of other images, row by row the same,
    from 0 to 1, whose embeddings stand side by side.
    """

    name: str
    images: ImageCollection
    intensity: str
    tasks: list[Task]
    replicates: pd.Series
    embedded: Sequence[ImageCollection] = ()

    @cached_property
    def intensity_range(self) -> np.ndarray | None:
        """Range (C, 2) of each channel; None where each image has its own."""
        return None if self.intensity == "image" else percentile_range(self.images)


def load(name: str) -> Data:
    """A data set by name: "mitocheck", "bbbc021" or "screen"; "bbbc021 by stain"."""
    sets = {"mitocheck": _mitocheck, "bbbc021": _bbbc021, "screen": _screen}
    plain = name.removesuffix(" by stain")
    return sets[name]() if plain == name else _by_stain(sets[plain]())


def _by_stain(data: Data) -> Data:
    """Each stain of an image is an image by itself, in training and in embedding."""
    pixels = np.asarray(data.images)
    if data.intensity_range is not None:
        pixels = (scale_intensity(pixels, data.intensity_range) + 1) / 2
    n, n_stains, *extent = pixels.shape
    apart = replace(
        data,
        name=f"{data.name} by stain",
        images=ImageCollection.from_array(pixels.reshape(n * n_stains, 1, *extent)),
        embedded=[ImageCollection.from_array(pixels[:, [k]]) for k in range(n_stains)],
    )
    if data.intensity_range is not None:
        apart.intensity_range = np.array([[0.0, 1.0]])
    return apart


def read_folder(name: str) -> tuple[ImageCollection, pd.DataFrame]:
    """Images and metadata of a data set below the folder ``GANDL_DATA``."""
    if "GANDL_DATA" not in os.environ:
        raise SystemExit(f"Set GANDL_DATA to the folder that has {name}/.")
    root = Path(os.environ["GANDL_DATA"]) / name
    if not (root / "metadata.csv").is_file():
        raise SystemExit(f"{root} has no metadata.csv: is GANDL_DATA right?")
    table = pd.read_csv(root / "metadata.csv", dtype=str)
    return ImageCollection.from_table(table, path="path", root=root), table


def _mitocheck() -> Data:
    images, table = read_folder("mitocheck")
    groups = table["plate"] + "/" + table["well"]
    task = classification("mitocheck", table, "phenotype", groups, n_folds=5)
    return Data("mitocheck", images, "dataset", [task], groups)


def _bbbc021() -> Data:
    images, table = read_folder("bbbc021")
    chosen = with_cycloheximide(table)
    tasks = [
        classification("cycloheximide", chosen, "compound", chosen["plate"], n_folds=2),
        mechanisms(table),
        nuisances(images, _many_controls(table, table["compound"] == "DMSO")),
    ]
    # Brightness alone nearly solves the first: it is removed.
    treatment = table["compound"] + "/" + table["concentration_um"]
    treatment = treatment.where(table["compound"] != "DMSO")
    return Data("bbbc021", images, "image", tasks, treatment)


def with_cycloheximide(table: pd.DataFrame) -> pd.DataFrame:
    """DMSO and cycloheximide, of the plates that have both."""
    dosed = table.loc[table["compound"] == "cycloheximide", "plate"].unique()
    either = table["compound"].isin(["DMSO", "cycloheximide"])
    return table[either & table["plate"].isin(dosed)]


def _many_controls(table: pd.DataFrame, control: pd.Series) -> pd.DataFrame:
    """Controls of the plates that have a hundred at least."""
    controls = table[control]
    return controls[controls.groupby("plate")["plate"].transform("size") >= 100]


def _screen() -> Data:
    images, truth = simulate(0)
    table = images.metadata
    controls = table[table["well_type"] != "treatment"]

    def hits(features: np.ndarray) -> Scores:
        found, separation = find_hits(table, features, truth)
        return [measures(found) | separation]

    tasks = [
        classification("infection", controls, "disease_condition", controls["plate"]),
        classification("cell type", controls, "cell_type", controls["plate"]),
        Task("hits", table.index.to_numpy(), hits),
        nuisances(images, table[table["disease_condition"] == "healthy"]),
    ]
    parts = ["cell_type", "disease_condition", "compound", "concentration"]
    treatment = table[parts].astype(str).agg("/".join, axis=1)
    return Data("screen", images, "dataset", tasks, treatment)


def classification(
    name: str,
    table: pd.DataFrame,
    label: str,
    groups: pd.Series,
    n_folds: int = 4,
    scores: Callable[..., dict[str, float]] | None = None,
) -> Task:
    """Tell ``label`` in groups that were held out; ``table`` keeps its row numbers.

    ``scores`` are those of a fold, from embeddings, labels, groups and the rows to
    learn from and to tell.
    """
    of_fold = scores or _fold_scores
    y, held = (np.array(column.tolist()) for column in (table[label], groups))

    def score(features: np.ndarray) -> Scores:
        # Stratified: a plate may hold a single class, and a fold of such ones no other.
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
        return [
            of_fold(features, y, held, train, test)
            for train, test in folds.split(features, y, held)
        ]

    return Task(name, table.index.to_numpy(), score)


def _fold_scores(
    X: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> dict[str, float]:
    z = StandardScaler().fit(X[train]).transform(X).astype(np.float64)
    products = z @ z.T  # once, for every SVM
    svm = linear_svm(len(np.unique(groups[train])))
    by_group = {"groups": groups[train]} if isinstance(svm, GridSearchCV) else {}
    svm.fit(products[np.ix_(train, train)], y[train], **by_group)
    held_out = products[np.ix_(test, train)]
    scores = _agreement(y[test], svm.predict(held_out))
    if len(np.unique(y)) == 2:
        scores["AUC"] = roc_auc_score(y[test], svm.decision_function(held_out))
    neighbours = KNeighborsClassifier(20, metric="cosine").fit(z[train], y[train])
    scores["20-NN"] = balanced_accuracy_score(y[test], neighbours.predict(z[test]))
    for budget in BUDGETS:
        scores[f"{budget} a class"] = _few_labels(products, y, train, test, budget)
    return scores


def linear_svm(n_groups: int) -> BaseEstimator:
    """On products of rows; C is chosen with groups held out where there are several."""
    svm = SVC(kernel="precomputed", C=0.01, class_weight="balanced")
    if n_groups == 1:  # one plate to learn from: none is left to choose C on
        return svm
    return GridSearchCV(
        svm,
        {"C": [0.001, 0.01, 0.1]},
        cv=StratifiedGroupKFold(min(3, n_groups)),
        scoring="balanced_accuracy",
    )


def _agreement(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    labels = np.unique(y)
    return {
        "weighted F1": f1_score(
            y, predicted, labels=labels, average="weighted", zero_division=0
        ),
        "balanced accuracy": balanced_accuracy_score(y, predicted),
    }


def _few_labels(
    products: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    budget: int,
) -> float:
    """Balanced accuracy of the SVM on ``budget`` labels a class, mean over draws."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(DRAWS):
        chosen = draw(rng, y, train, budget)
        svm = linear_svm(1).fit(products[np.ix_(chosen, chosen)], y[chosen])
        predicted = svm.predict(products[np.ix_(test, chosen)])
        scores.append(balanced_accuracy_score(y[test], predicted))
    return float(np.mean(scores))


def draw(
    rng: np.random.Generator, y: np.ndarray, train: np.ndarray, budget: int | None
) -> np.ndarray:
    """Rows of ``train``, as many of each label; None: all, in another order."""
    shuffled = rng.permutation(train)
    kinds = np.unique(y[train])
    return np.concatenate([shuffled[y[shuffled] == kind][:budget] for kind in kinds])


def mechanisms(table: pd.DataFrame) -> Task:
    """Mechanism of action of a treatment from the nearest profile of another compound.

    Cells are standardised on DMSO, of all plates together since most have next to none,
    and averaged by treatment (compound and concentration); nearest by cosine (Ljosa et
    al. 2013, "not the same compound"). Mechanisms of a single compound are left out.
    """
    cells = table[table["moa"].notna()].reset_index(names="row")
    control = (cells["compound"] == "DMSO").to_numpy()
    shared = cells.groupby("moa")["compound"].transform("nunique") > 1
    treatments = cells[shared].groupby(["compound", "concentration_um"])
    members = list(treatments.indices.values())
    rows = np.flatnonzero(shared)
    compound = np.array(treatments["compound"].first().tolist())
    moa = np.array(treatments["moa"].first().tolist())

    def score(features: np.ndarray) -> Scores:
        z = StandardScaler().fit(features[control]).transform(features)[rows]
        x = np.stack([z[where].mean(axis=0) for where in members])
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        similarity = np.where(compound[:, None] == compound, -np.inf, x @ x.T)
        right = moa[similarity.argmax(axis=1)] == moa
        # The nearest alone is a coarse measure; how early all of them come is finer.
        precision = [
            average_precision_score(moa[others] == kind, row[others])
            for kind, row in zip(moa, similarity, strict=True)
            for others in [np.isfinite(row)]
        ]
        return [
            {
                "accuracy": float(right.mean()),
                "mean average precision": float(np.mean(precision)),
            }
        ]

    return Task(f"mechanisms of {len(moa)} treatments", cells["row"].to_numpy(), score)


def nuisances(images: ImageCollection, table: pd.DataFrame) -> Task:
    """Share of the variance of control images that is no biology, raw and after TVN.

    Of each nuisance, the adjusted R2 of a linear regression of the embedding on it,
    all dimensions together: plate, row and column of the well, and each channel's
    brightness and focus. `TypicalVariationNormalizer` is fitted on half of the sites,
    and both are measured on the other half.
    """
    plates = np.array(table["plate"].tolist())
    position = table["well"].str.extract(r"([A-Z]+)(\d+)").astype("category")
    pixels = np.asarray(images[table.index.to_numpy()]).astype(np.float32)
    brightness = np.log(pixels.mean(axis=(2, 3)) + 1)
    spread = np.maximum(pixels.var(axis=(2, 3)), 1)
    focus = np.log(laplace(pixels, axes=(2, 3)).var(axis=(2, 3)) / spread + 1e-6)
    designs = {
        "plate": pd.get_dummies(plates).to_numpy(float),
        "well position": pd.get_dummies(position).to_numpy(float),
        "brightness": brightness,
        "focus": focus,
    }
    sites = table.groupby(["plate", "well", "site"]).ngroup().to_numpy()
    halves = sites % 2

    def score(features: np.ndarray) -> Scores:
        folds = []
        for half in (0, 1):
            learned, held = halves != half, halves == half
            tvn = TypicalVariationNormalizer().fit(
                features[learned], batch=plates[learned]
            )
            z = StandardScaler().fit(features[learned]).transform(features[held])
            after = tvn.transform(features[held], batch=plates[held])
            fold = {}
            for name, design in designs.items():
                fold[name] = explained(z, design[held])
                fold[f"{name}, TVN"] = explained(after, design[held])
            folds.append(fold)
        return folds

    return Task("nuisances", table.index.to_numpy(), score)


def explained(X: np.ndarray, design: np.ndarray) -> float:
    """Adjusted R2 of X on a design, over all columns of X together."""
    X = X - X.mean(axis=0)
    design = design - design.mean(axis=0)
    rank = np.linalg.matrix_rank(design)
    if rank == 0:
        return float("nan")  # the same for all
    residual = X - design @ np.linalg.lstsq(design, X, rcond=None)[0]
    n = len(X)
    return 1 - (residual**2).sum() / (X**2).sum() * (n - 1) / (n - 1 - rank)
