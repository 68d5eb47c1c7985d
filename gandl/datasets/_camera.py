"""From stained cells to what a microscope's camera counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from gandl.datasets._fields import MARGIN, Well, draw_fields
from gandl.datasets._stains import BRIGHTNESS, STAINS, balance

OFFSET = 100.0  # counts the camera adds
FULL_SCALE = 4095  # twelve bits
PHOTONS = 2.2  # photo-electrons a count
READ_NOISE = 3.5  # counts


@dataclass(frozen=True)
class Light:
    """What one channel of one well does to the light."""

    gain: float
    background: float  # counts
    falloff: float  # loss from the centre to a corner
    centre: tuple[float, float]  # of the illumination, -1 to 1
    noise: float


# Specks of every size, from lint to the corpse of a cell.
def _debris(rng, shape, amount, pixel_size):
    out = np.zeros(shape)
    area = shape[0] * shape[1] * pixel_size**2
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for _ in range(rng.poisson(amount * area / 1e4)):
        y, x = rng.uniform(0, 1, 2) * shape
        radius = np.exp(rng.normal(0.0, 0.45)) / pixel_size
        far = (rows - y) ** 2 + (columns - x) ** 2
        out += rng.uniform(0.3, 1.0) * np.exp(-far / (2 * radius**2))
    return out


# Optics and camera: blur, haze, uneven light, noise, twelve bits.
def expose(
    image: np.ndarray,
    rng: np.random.Generator,
    light: Light,
    pad: int,
    blur: float,
    haze: float,
) -> np.ndarray:
    sharp = ndimage.gaussian_filter(image, blur, truncate=3.0)
    # The haze is smooth: a coarse grid holds it.
    small = ndimage.zoom(sharp, 0.25, order=1, grid_mode=True, mode="nearest")
    far = ndimage.gaussian_filter(small, haze / 4, truncate=3.0)
    far = ndimage.zoom(
        far, np.divide(image.shape, far.shape), order=1, grid_mode=True, mode="nearest"
    )
    seen = 0.82 * sharp + 0.18 * far
    if pad:
        seen = seen[pad:-pad, pad:-pad]
    y = np.linspace(-1, 1, seen.shape[0])[:, None] - light.centre[0]
    x = np.linspace(-1, 1, seen.shape[1]) - light.centre[1]
    field = 1 - light.falloff * (y**2 + x**2) / 2
    counts = field * (seen * light.gain + light.background)
    spread = light.noise * np.sqrt(np.maximum(counts, 0) / PHOTONS + READ_NOISE**2)
    counts = counts + OFFSET + spread * rng.standard_normal(counts.shape)
    return np.clip(np.rint(counts), 0, FULL_SCALE).astype(np.uint16)


# One site: ``(len(stains), height, width)`` of unsigned 16-bit counts.
#
# A stain's picture depends on the seed and the stain, not on which other stains
# are asked for.
def render(
    seed: np.random.SeedSequence,
    well: Well,
    lights: list[Light],
    stains: tuple[str, ...],
    shape: tuple[int, int],
    *,
    pixel_size: float,
    brightness_effect: float,
) -> np.ndarray:
    layout, *each = seed.spawn(1 + len(STAINS))
    rng = np.random.default_rng(layout)
    fields = draw_fields(rng, well, shape, pixel_size)
    pad = round(MARGIN / pixel_size)
    padded = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    litter = _debris(rng, padded, well.debris, pixel_size)
    out = np.empty((len(stains), *shape), np.uint16)
    order = list(STAINS)
    for channel, stain in enumerate(stains):
        rng = np.random.default_rng(each[order.index(stain)])
        image = rng.uniform(0.3, 2.0) * BRIGHTNESS[stain] * litter
        if fields is not None:
            drawn = np.maximum(STAINS[stain](fields, rng), 0)
            image = image + balance(fields, drawn, rng, stain, brightness_effect)
        blur = np.hypot(0.38, well.defocus) / pixel_size
        out[channel] = expose(image, rng, lights[channel], pad, blur, 5.0 / pixel_size)
    return out
