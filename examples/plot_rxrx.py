"""
RxRx19a and RxRx1
=================

Recursion's open screens are large: 445 GB of images in RxRx19a, 47 GB in RxRx1. A plate
or some wells are enough to begin with. With a network, and ``pip install
"gandl[fetch]"``, this fetches the metadata, then two wells, and opens them::

    from gandl.datasets import fetch_rxrx19a

    metadata = fetch_rxrx19a().metadata
    rxrx = fetch_rxrx19a(wells=metadata["well_id"].unique()[:2], images=True)
    rxrx.images

What broke off is taken up where it stopped, by the same call. So that this example runs
without a network, it draws a small screen and writes it as RxRx19a is published; what
follows is the same for the real one.
"""

# %%
# A simulated copy
# ----------------
# Two experiments, of one plate each. The image files, ``metadata.csv`` and
# ``embeddings.csv`` have the published names and columns. Recursion's embedding has
# 1024 numbers a site, from a network; a few statistics of each stain stand for it.

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from gandl.datasets import load_rxrx, load_rxrx_embeddings, make_screen
from gandl.plotting import MontageDisplay, PerturbationDisplay
from gandl.profiles import ControlScaler, aggregate, feature_columns
from gandl.scoring import PerturbationScorer


def statistics(image: np.ndarray) -> np.ndarray:
    """Spread of each stain at three scales, relative to its mean."""
    blurred = [ndimage.gaussian_filter(image, (0, s, s)) for s in (1, 2, 4, 8)]
    bands = np.stack([blurred[k] - blurred[k + 1] for k in range(3)])
    return np.log(bands.std((2, 3)) / image.mean((1, 2))).ravel()


def write_copy(root: Path) -> None:
    images, _ = make_screen(
        n_plates=1,
        n_compounds={"rescue": 1, "inert": 1},
        n_replicates=1,
        n_sites=2,
        image_size=96,
        stains=("DNA", "ER", "actin", "RNA", "membrane"),
        cell_types=("cobblestone", "spindle"),
        random_state=0,
    )
    known = images.metadata
    known["cell_type"] = known["cell_type"].map(
        {"cobblestone": "HRCE", "spindle": "VERO"}
    )
    known["experiment"], known["plate"] = known["cell_type"] + "-1", 1
    known["well_id"] = known["experiment"] + "_1_" + known["well"]
    known["site_id"] = known["well_id"] + "_" + known["site"].astype(str)
    treated = known["well_type"] == "treatment"
    known["disease_condition"] = known["disease_condition"].map(
        {"healthy": "Mock", "infected": "Active SARS-CoV-2"}
    )
    known["treatment"] = known["compound"].where(treated)
    known["treatment_conc"] = known["concentration"].where(treated)
    known["SMILES"] = None
    columns = ["site_id", "well_id", "cell_type", "experiment", "plate", "well", "site"]
    columns += ["disease_condition", "treatment", "treatment_conc", "SMILES"]
    known[columns].to_csv(root / "metadata.csv", index=False)
    pixels = np.asarray(images).astype(float)
    bright = np.percentile(pixels, 99.9, axis=(0, 2, 3))[:, None, None]
    pixels = (255 * (pixels / bright).clip(0, 1)).astype(np.uint8)
    for row, image in zip(known.itertuples(), pixels, strict=True):
        folder = root / "images" / row.experiment / f"Plate{row.plate}"
        folder.mkdir(parents=True, exist_ok=True)
        for w, channel in enumerate(image, start=1):
            name = f"{row.well}_s{row.site}_w{w}.png"
            Image.fromarray(channel).save(folder / name)
    values = pd.DataFrame([statistics(image / 255) for image in pixels])
    values.insert(0, "site_id", known["site_id"])
    values.add_prefix("feature_").rename(columns={"feature_site_id": "site_id"}).to_csv(
        root / "embeddings.csv", index=False
    )


temporary = TemporaryDirectory()
root = Path(temporary.name)
write_copy(root)

# %%
# Open it
# -------
# No image is read before it is needed. Channels have the names of their stains. The
# number of a plate is unique in its experiment alone: here "plate" names both, so that
# whatever groups by plate, here or elsewhere, does not mix plates of two cell types.

images = load_rxrx(root)
print(images)
print(images.metadata[["plate", "plate_number", "well", "treatment"]].tail(3))

# %%
# Infected cells beside healthy ones, three of the five stains:

shown = images.with_channels(["Hoechst", "ConA", "phalloidin"])
metadata = images.metadata
untreated = metadata[metadata["treatment"].isna() & (metadata["site"] == "1")]
groups = untreated.groupby(["cell_type", "disease_condition"], sort=False)
rows = groups.head(1).sort_values(["cell_type", "disease_condition"]).index
titles = [
    f"{metadata['cell_type'][k]}, {metadata['disease_condition'][k]}" for k in rows
]
MontageDisplay.from_images(
    shown[rows.to_numpy()], titles=titles, pixel_size=0.65, n_columns=2
)

# %%
# From the published embeddings to scores
# ---------------------------------------
# Sites are averaged to wells, wells centred and scaled by the healthy ones of their
# plate. On-perturbation is then 0 at healthy wells and 1 at infected ones; a compound
# that brings cells back moves them to the left.

by_site = load_rxrx_embeddings(root)
wells = aggregate(by_site, ["plate", "well"])
plate, compound = wells["Metadata_Plate"], wells["Metadata_treatment"]
kind = wells["Metadata_disease_condition"].where(compound.isna())
features = wells[feature_columns(wells)]
scorer = PerturbationScorer(
    negative="Mock",
    positive="Active SARS-CoV-2",
    scaler=ControlScaler(control="Mock", prior_df=6),
    axis="discriminant",
)
scorer.fit(features, kind, batch=plate)
print(scorer.separation_[["n_negative", "n_positive", "z_prime", "auc"]])

# %%
# Each compound by dose, on each plate:

treated = compound.notna().to_numpy()
scores = pd.DataFrame(
    {
        "plate": plate[treated],
        "compound": compound[treated],
        "dose in uM": wells["Metadata_treatment_conc"][treated],
        "on": scorer.transform(features[treated], batch=plate[treated])[:, 0],
    }
)
print(scores.pivot_table("on", ["compound", "plate"], "dose in uM").round(2))

display = PerturbationDisplay.from_estimator(
    scorer, features[treated], names=compound[treated], batch=plate[treated]
)
display.ax_.set_title("Treated wells between healthy and infected ones")
plt.show()
temporary.cleanup()
