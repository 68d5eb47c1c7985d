"""What each stain shows of a field of simulated cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.special import expit

from gandl.datasets._cells import FRAGMENTS, INFECTED, TOXIC
from gandl.datasets._fields import Fields


# The nucleoli, or the fragments, of the nuclei in ``forms``, as a soft mask.
def _bit_map(fields: Fields, forms: np.ndarray, soft: float) -> np.ndarray:
    out = np.zeros(fields.rho.shape)
    pop = fields.population
    where = np.flatnonzero((fields.rho < 1.3) & forms[fields.nucleus])
    if where.size == 0:
        return out
    nucleus = fields.nucleus.ravel()[where]
    frame = np.stack([axis.ravel()[where] for axis in fields.frame], axis=-1)
    far = np.linalg.norm(frame[:, None] - pop.bits[nucleus], axis=-1)
    size = pop.bit_radius[nucleus]
    mask = np.where(size > 0, expit((size - far) / soft), 0).max(axis=1)
    out.ravel()[where] = mask
    return out


def _nucleoli(fields: Fields) -> np.ndarray:
    whole = fields.population.nucleus_form != FRAGMENTS
    return _bit_map(fields, whole, 0.06)


def _infected(fields: Fields) -> np.ndarray:
    return fields.of(fields.population.burden)


def _dna(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    pop = fields.population
    form = pop.nucleus_form
    kind = form[fields.nucleus]
    dome = 0.62 + 0.38 * np.sqrt(np.clip(1 - fields.rho**2, 0, 1))
    grain = fields.texture(rng, pop.cell_type.grain)
    clumps = fields.texture(rng, 2.2 * pop.cell_type.grain)
    contrast = pop.cell_type.chromatin * np.choose(kind, [1.0, 0.5, 0.3, 0.2])
    contrast = contrast * (1 + 0.5 * _infected(fields))
    relief = np.clip(1 + contrast * (0.8 * grain + 0.6 * clumps), 0.2, None)
    image = fields.inside * dome * relief * (1 - 0.6 * _nucleoli(fields))
    # Chromatin of an infected cell lies against the envelope.
    rim = np.exp(-(((fields.rho - 0.86) / 0.12) ** 2))
    image *= 1 + _infected(fields) * (0.55 * rim - 0.2)
    pieces = _bit_map(fields, form == FRAGMENTS, 0.05)
    return np.where(kind == FRAGMENTS, pieces + 0.08 * fields.inside, image)


# A net of lines: the places where smooth noise is near zero.
def _ridges(noise: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((noise / width) ** 2))


def _er(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    infected = _infected(fields)
    net = _ridges(fields.texture(rng, 0.8), 0.6)
    sheet = np.clip(1 + 0.25 * fields.texture(rng, 3.0), 0.3, None)
    body = fields.height * (0.6 + 0.55 * net) * sheet
    envelope = 0.3 * np.exp(-((fields.away / 0.6) ** 2)) * fields.cell
    healthy = body * (1 - 0.7 * fields.inside) + envelope * (1 - fields.inside)
    holes = expit((fields.texture(rng, 1.4) - 0.7) / 0.25)
    knots = expit((fields.texture(rng, 1.0) - 0.9) / 0.35) * np.exp(-fields.away / 3.5)
    sick = fields.height * (0.7 + 0.3 * net) * sheet * (1 - 0.75 * holes)
    sick = (sick + 0.55 * knots * fields.cell) * (1 - 0.7 * fields.inside)
    return healthy + infected * (sick - healthy)


# Bundles that run along each cell, drawn from one stretched noise tile.
def _fibres(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    tile = ndimage.gaussian_filter(
        rng.standard_normal((256, 256)), (16.0, 0.8), mode="wrap", truncate=3.0
    )
    tile /= tile.std()
    pop = fields.population
    shift = rng.uniform(0, 256, (len(pop), 2))[fields.owner]
    turn = rng.normal(0, 0.2, len(pop))[fields.owner]
    long, short = pop.size * np.sqrt(pop.aspect), pop.size / np.sqrt(pop.aspect)
    along, across = (
        fields.of(long) * fields.local[0],
        fields.of(short) * fields.local[1],
    )
    # Bundles bend round the nucleus.
    bow = 1 + 0.35 * np.exp(-((fields.away / 4.0) ** 2))
    one = shift[..., 0] + (along + turn * across) / 0.45
    other = shift[..., 1] + (across - turn * along) / 0.45 / bow
    bundles = ndimage.map_coordinates(tile, [one, other], order=1, mode="grid-wrap")
    return np.clip(bundles + 0.2, 0, None)


def _actin(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    pop = fields.population
    share = pop.cell_type.fibres * fields.of(1 - 0.85 * pop.rounded)
    infected = _infected(fields)
    rough = fields.texture(rng, 4.0)
    depth = np.maximum(fields.edge, 0)
    cortex = np.exp(-((fields.edge / 0.8) ** 2)) * np.clip(1 + 0.4 * rough, 0.1, 2)
    haze = fields.height * (0.34 + 0.07 * fields.texture(rng, 0.9))
    bundles = _fibres(fields, rng) * fields.cell * (1 - np.exp(-depth / 2.0))
    bundles *= np.clip(0.6 + 0.5 * fields.texture(rng, 5.0), 0.05, None)
    healthy = haze + (0.8 - 0.35 * share) * cortex + 0.5 * share * bundles
    patches = expit((fields.texture(rng, 0.9) - 1.2) / 0.25)
    clumps = expit((fields.texture(rng, 1.8) - 1.0) / 0.35)
    broken = cortex * expit((fields.texture(rng, 1.6) - 0.2) / 0.3)
    sick = haze + 0.6 * broken + (0.55 * patches + 0.35 * clumps) * fields.cell
    return healthy + infected * (sick - healthy)


def _rna(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    infected = _infected(fields)
    grain = np.clip(1 + 0.2 * fields.texture(rng, 0.7), 0.2, None)
    body = fields.height * grain * (1 - 0.45 * fields.inside)
    healthy = body + 1.5 * _nucleoli(fields) * fields.inside
    dots = expit((fields.texture(rng, 0.8) - 1.3) / 0.3) * (1 - fields.inside)
    sick = 0.85 * body + 0.6 * dots * fields.cell + 0.7 * _nucleoli(fields)
    return healthy + infected * (sick - healthy)


def _membrane(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    pop = fields.population
    infected = _infected(fields)
    depth = np.maximum(fields.edge, 0)
    rim = np.exp(-((depth / 0.8) ** 2)) * fields.cell
    rim *= np.clip(0.8 + 0.3 * fields.texture(rng, 3.0), 0.1, None)
    specks = expit((fields.texture(rng, 0.65) - 1.5) / 0.2) * fields.cell
    shape = fields.edge.shape
    points = np.moveaxis(np.indices(shape) * fields.pixel_size, 0, -1)
    far = np.linalg.norm(points - pop.golgi[fields.nucleus], axis=-1)
    ribbon = _ridges(fields.texture(rng, 0.9), 0.6) * np.exp(-((far / 3.6) ** 2))
    base = 0.22 * fields.height + 0.55 * rim
    healthy = (
        base + 1.5 * ribbon * fields.cell * (1 - 0.6 * fields.inside) + 0.18 * specks
    )
    burst = expit((fields.texture(rng, 0.8) - 1.0) / 0.3)
    sick = base * 0.9 + 0.55 * burst * fields.cell * (1 - 0.7 * fields.inside)
    return healthy + infected * (sick - healthy)


def _mitochondria(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    infected = _infected(fields)
    threads = _ridges(fields.texture(rng, 1.1), 0.28)
    threads *= expit((fields.texture(rng, 1.6) + 0.3) / 0.3)
    room = fields.cell * (1 - 0.9 * fields.inside)
    spread = np.exp(-fields.away / (0.33 * fields.population.cell_type.spacing))
    healthy = room * spread * (threads + 0.1) * expit((fields.edge - 2.0) / 0.8)
    dots = expit((fields.texture(rng, 0.8) - 0.8) / 0.2)
    sick = room * np.exp(-fields.away / 2.2) * (1.5 * dots + 0.15)
    return healthy + infected * (sick - healthy)


# In the order of Recursion's channels w1 to w6.
STAINS: dict[str, Callable[[Fields, np.random.Generator], np.ndarray]] = {
    "DNA": _dna,
    "ER": _er,
    "actin": _actin,
    "RNA": _rna,
    "membrane": _membrane,
    "mitochondria": _mitochondria,
}
# Mean counts over a confluent field of "cobblestone" cells.
BRIGHTNESS = {
    "DNA": 210.0,
    "ER": 420.0,
    "actin": 380.0,
    "RNA": 400.0,
    "membrane": 330.0,
    "mitochondria": 300.0,
}


# Give every cell the same light, whatever its state, up to chance.
def balance(
    fields: Fields,
    image: np.ndarray,
    rng: np.random.Generator,
    stain: str,
    brightness_effect: float,
) -> np.ndarray:
    pop = fields.population
    count = len(pop)
    pixel = fields.pixel_size**2
    owner = fields.nucleus if stain == "DNA" else fields.owner
    light = np.bincount(owner.ravel(), image.ravel(), minlength=count) * pixel
    area = np.bincount(owner.ravel(), fields.cell.ravel(), minlength=count) * pixel
    rim = np.concatenate([owner[0], owner[-1], owner[:, 0], owner[:, -1]])
    cut = np.isin(np.arange(count), rim)
    # A cell cut by the rim gives the light of the part that is seen, and a sliver
    # between others does not glow with the light of a whole cell.
    usual = max(float(np.median(area[~cut]) if (~cut).any() else area.max()), 1.0)
    seen = np.minimum(area / np.where(cut, usual, 0.35 * usual), 1.0)
    if stain == "DNA":
        whole = np.pi * pop.nucleus_radius**2
        lit = np.bincount(owner.ravel(), fields.inside.ravel(), minlength=count) * pixel
        seen = np.minimum(lit / np.where(cut, whole, 0.8 * whole), 1.0)
    budget = BRIGHTNESS[stain] * 24.0**2 * np.sqrt(pop.cell_type.spacing / 24.0)
    budget = budget * seen * np.exp(rng.normal(0, 0.16, count))
    budget *= np.where(pop.state == TOXIC, 0.6, 1.0)
    budget *= 1 + brightness_effect * (pop.state == INFECTED)
    # What only touches the rim has no light to share out.
    floor = max(0.01 * float(light.max()), 1e-9)
    scale = np.where(light > floor, budget / np.maximum(light, floor), 0.0)
    return image * scale[owner]
