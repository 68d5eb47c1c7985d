"""Simulated screens of many compounds, and what an embedding finds in them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gandl import ImageCollection
from gandl.datasets import make_screen
from gandl.profiles import ControlScaler
from gandl.scoring import DoseResponseScorer, PerturbationScorer

CELL_TYPES = ("cobblestone", "spindle")


def simulate(
    seed: int, *, n_compounds: int = 60, n_jobs: int = 2
) -> tuple[ImageCollection, pd.DataFrame]:
    """Three plates of 384 wells for each of two cell types, and the compounds' truth.

    A third of the compounds rescue, a third do nothing, a third are toxic; six
    half-log doses in triplicate, two sites of 128 x 128 a well, 12 healthy and 12
    infected control wells a plate.
    """
    return make_screen(
        n_plates=3,
        n_compounds=n_compounds,
        n_replicates=3,
        n_controls=12,
        n_sites=2,
        cell_types=CELL_TYPES,
        n_jobs=n_jobs,
        random_state=seed,
    )


def find_hits(
    images: pd.DataFrame,
    features: np.ndarray,
    truth: pd.DataFrame,
    *,
    controls_at_zero: bool = True,
    prior_df: float = 6.0,
    n_jobs: int = 2,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The compounds of each cell type, with the truth; how well controls separate.

    ``images`` is the metadata of the screen's images, ``features`` their embeddings.
    """
    _, first, number = np.unique(
        images["well_id"], return_index=True, return_inverse=True
    )
    averages = pd.DataFrame(features).groupby(number).mean().to_numpy(np.float64)
    wells = images.iloc[first].reset_index(drop=True)
    found, separation = [], []
    for cell_type in CELL_TYPES:
        mine = (wells["cell_type"] == cell_type).to_numpy()
        X, known = averages[mine], wells[mine]
        treated = (known["well_type"] == "treatment").to_numpy()
        kind = known["disease_condition"].mask(treated)
        axis = PerturbationScorer(
            negative="healthy",
            positive="infected",
            scaler=ControlScaler(control="healthy", prior_df=prior_df),
            axis="discriminant",
            pooled=True,
            poor_controls="ignore",
        )
        scorer = DoseResponseScorer(
            perturbation=axis, controls_at_zero=controls_at_zero, n_jobs=n_jobs
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
    """How the calls of `find_hits` agree with the truth."""
    hit, toxic = found["call"] == "hit", found["call"] == "toxic"
    rescue = found["kind"] == "rescue"
    true = found[hit & rescue]
    low, high = true["ec50_low"], true["ec50_high"]
    error = np.abs(np.log10(true["ec50"] / true["ec50_true"]))
    return {
        "recall": (hit & rescue).sum() / rescue.sum(),
        "false among hits": (hit & ~rescue).sum() / max(1, hit.sum()),
        "toxic called hit": float((hit & (found["kind"] == "toxic")).sum()),
        "inert called toxic": float((toxic & (found["kind"] == "inert")).sum()),
        "error of log10 EC50": error.median(),
        "EC50 in its interval": true["ec50_true"].between(low, high).mean(),
        "decades of it": np.log10(high / low).median(),
    }
