"""
OME-TIFF and OME-Zarr
=====================

Microscopes and converters write OME-TIFF files and OME-Zarr plates. Both say by
themselves which plate, well and site an image is of, what its channels are called, and
how large a pixel is: no pattern of file names is needed.
"""

# %%
# Images to write
# ---------------
# A small simulated plate, three stains. To have planes to choose from, each image gets
# two more, out of focus.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tifffile
import zarr
from scipy.ndimage import gaussian_filter

from gandl import ImageCollection
from gandl.datasets import make_screen
from gandl.plotting import MontageDisplay

screen, _ = make_screen(n_compounds=0, n_controls=2, image_size=96, random_state=0)
stains, wells = screen.channels, screen.metadata["well"]
sharp = np.asarray(screen)
blurred = gaussian_filter(sharp, (0, 0, 3, 3))
stacks = np.stack([blurred, sharp, blurred], axis=2)  # (n, C, Z, H, W)
folder = Path(tempfile.mkdtemp())

# %%
# OME-TIFF
# --------
# A file holds one image or many, which become rows. Here each has three planes: which
# one is meant, or how they are projected, is never guessed.
for well, stack in zip(wells[:4], stacks, strict=False):
    about = {"axes": "CZYX", "Channel": {"Name": list(stains)}, "PhysicalSizeX": 0.65}
    tifffile.imwrite(folder / f"{well}.ome.tif", stack, metadata=about)

try:
    ImageCollection.from_ome_tiff(folder)
except ValueError as error:
    print(error)

# %%
# A plane, counted from 0, or a projection:
files = ImageCollection.from_ome_tiff(folder, z="max")
print(files)
print(files.metadata)

# %%
# An OME-Zarr plate
# -----------------
# A folder of wells, each a folder of images, each in several resolutions. ``zarr``
# alone writes it here; it is read chunk by chunk, so that planes and channels that are
# not asked for stay on disk.
plate = zarr.create_group(folder / "plate.ome.zarr")
places = [f"{well[0]}/{int(well[1:])}" for well in dict.fromkeys(wells)]
plate.attrs["ome"] = {
    "version": "0.5",
    "plate": {"name": "demo", "wells": [{"path": place} for place in places]},
}
axes = [{"name": "c", "type": "channel"}] + [
    {"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"
]
for place, well in zip(places, dict.fromkeys(wells), strict=True):
    sites = np.flatnonzero(wells == well)
    group = plate.create_group(place)
    fields = [{"path": str(k)} for k in range(len(sites))]
    group.attrs["ome"] = {"version": "0.5", "well": {"images": fields}}
    for k, site in enumerate(sites):
        image = group.create_group(str(k))
        levels = []
        for level, step in enumerate([1, 2]):
            pixels = stacks[site][:, :, ::step, ::step]
            chunks = (1, 1, *pixels.shape[2:])
            image.create_array(str(level), data=pixels, chunks=chunks)
            scale = {"type": "scale", "scale": [1.0, 1.0, 0.65 * step, 0.65 * step]}
            levels.append({"path": str(level), "coordinateTransformations": [scale]})
        image.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"axes": axes, "datasets": levels}],
            "omero": {"channels": [{"label": stain} for stain in stains]},
        }

images = ImageCollection.from_ome_zarr(folder / "plate.ome.zarr", z=1)
print(images)
print(images.metadata.head())

# %%
# The plane in focus, and the maximum over all planes at half the resolution. A pixel's
# size is that of the level, as scale bars need it.
small = ImageCollection.from_ome_zarr(folder / "plate.ome.zarr", z="max", level=1)
for shown, title in ((images, "z=1"), (small, 'z="max", level=1')):
    display = MontageDisplay.from_images(
        shown[:4], pixel_size=shown.metadata["pixel_size"][0]
    )
    display.figure_.suptitle(title)
plt.show()
