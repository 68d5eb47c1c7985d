"""
Folders, tables and plate maps
==============================

Microscopes and archives each name their files in their own way. This shows how images
come from a folder, from CellProfiler's ``load_data.csv``, and with a plate map, and how
uneven light is taken out. All files are simulated, in a temporary folder.
"""

# %%
# A folder
# --------
# A simulated screen, its files named as those of RxRx. Where one of the known ways to
# name files fits, that is found; `pattern="rxrx"` would say so.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tifffile

from gandl import ImageCollection
from gandl.datasets import make_screen

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
make_screen(
    n_compounds=2,
    n_controls=30,
    image_size=64,
    random_state=0,
    folder=folder / "screen",
)
images = ImageCollection.from_folder(
    folder / "screen", channels={"1": "DNA", "2": "ER", "3": "actin"}
)
images

# %%
# The others are "phenix" or "operetta", "jump", "imagexpress" and "cellvoyager":
for name in ("r01c02f01p01-ch1sk1fk1fl1.tiff", "r01c02f01p01-ch2sk1fk1fl1.tiff"):
    path = folder / "phenix/BR00117011__2020-11-08T19_57_47-Measurement1/Images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
ImageCollection.from_folder(folder / "phenix").metadata.T

# %%
# Names of any other kind are described by a pattern, whose fields become columns.
pattern = "images/{cell}/Plate{plate}/{well}_s{site}_w{channel}.tif"
ImageCollection.from_folder(folder / "screen", pattern).metadata.head(3)

# %%
# Where none fits, the error shows what was tried.
try:
    ImageCollection.from_folder(folder / "phenix", "rxrx")
except ValueError as error:
    print(str(error).replace(str(folder), "..."))

# %%
# A plate map
# -----------
# A table with a row a well, or a grid that looks like the plate, in csv or xlsx. Wells
# may be spelled A1, A01, A-1, r01c01 or 1-1.
truth = pd.read_csv(folder / "screen/metadata.csv", dtype=str)
truth = truth[truth["plate"] == "1"].drop_duplicates("well").set_index("well")
lines = ["condition," + ",".join(str(column) for column in range(1, 25))]
for row in "ABCDEFGHIJKLMNOP":
    wells = [f"{row}{column:02}" for column in range(1, 25)]
    values = truth["disease_condition"].reindex(wells).fillna("")
    lines.append(",".join([row, *values]))
(folder / "plate_map.csv").write_text("\n".join(lines))
print(lines[0], lines[2], sep="\n")

# %%
screen = images.with_plate_map(folder / "plate_map.csv")
screen.metadata[["plate", "well", "condition"]].head(3)

# %%
# load_data.csv
# -------------
# As in the Cell Painting Gallery: a file and a folder for each channel, the folder that
# of another machine, and an illumination function, by which pixels are divided.
known = images.metadata
place = "/home/ubuntu/bucket/images/" + known["experiment"] + "/Plate"
place += known["plate_number"]
table = pd.DataFrame({f"Metadata_{k.title()}": known[k] for k in ("plate", "well")})
for number, stain in enumerate(images.channels, 1):
    names = known["well"] + "_s" + known["site"] + f"_w{number}.tif"
    table[f"FileName_Orig{stain}"], table[f"PathName_Orig{stain}"] = names, place
table["FileName_IllumDNA"], table["PathName_IllumDNA"] = "IllumDNA.npy", "illum"
(folder / "screen/illum").mkdir()
np.save(folder / "screen/illum/IllumDNA.npy", np.full(images.shape[2:], 1.25))
table.to_csv(folder / "load_data.csv", index=False)

loaded = ImageCollection.from_load_data(
    folder / "load_data.csv", root=folder / "screen"
)
print(loaded)
print(images[0][0].mean() / loaded[0][0].mean())

# %%
# Uneven light
# ------------
# Where no function is given, a smooth field can be estimated from the images of each
# plate. Here plate 1 is lit from the upper left.
side = np.linspace(-1, 1, images.shape[2])
light = np.exp(-0.5 * ((side[:, None] + 0.4) ** 2 + (side + 0.4) ** 2))
light /= light.mean()
dimmed = np.array(images, dtype=np.float32)
dimmed[(known["plate_number"] == "1").to_numpy()] *= light
dimmed = ImageCollection.from_array(
    dimmed, channels=images.channels, metadata=images.metadata
)
even = dimmed.with_illumination(by="plate")

# %%
# The mean over the images of plate 1 shows the light, before and after.
rows = np.flatnonzero(known["plate_number"] == "1")
means = [X.with_channels("ER").load_batch(rows).mean((0, 1)) for X in (dimmed, even)]
fields = [light, dimmed[rows[0]][1] / even[rows[0]][1]]
titles = ["light", "estimated", "mean of ER, before", "and after"]
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for ax, values, title in zip(axes, [*fields, *means], titles, strict=True):
    low, high = (0.3, 1.6) if title in titles[:2] else (means[0].min(), means[0].max())
    ax.imshow(values, cmap="gray", vmin=low, vmax=high)
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
temporary.cleanup()
