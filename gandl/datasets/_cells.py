"""A field of simulated cells: who lives where, in which state, in what outline.

All lengths are micrometres, all positions ``(y, x)``; nothing here knows of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

HEALTHY, INFECTED, TOXIC, MITOTIC = range(4)
WHOLE, METAPHASE, FRAGMENTS, PYKNOTIC = range(4)

N_LOBES = 6
N_BITS = 6


@dataclass(frozen=True)
class CellType:
    """How the cells of one line look while nothing troubles them."""

    spacing: float  # mean distance between neighbours
    reach: float  # radius of a cell that nothing holds back, in spacings
    aspect: float  # length of a cell by its width
    ruffle: float  # unevenness of the outline
    bare: float  # share of the field between colonies
    nucleus: float  # radius
    nucleus_aspect: float
    chromatin: float  # contrast of the chromatin
    grain: float  # size of its clumps
    nucleoli: float  # mean number
    fibres: float  # stress fibres, against cortical actin
    height: float  # how steeply the cell rises from its border


CELL_TYPES = {
    "cobblestone": CellType(
        24.0, 0.64, 1.15, 0.06, 0.04, 6.6, 1.15, 0.22, 0.75, 2.2, 0.55, 2.5
    ),
    "colony": CellType(
        17.5, 0.56, 1.05, 0.05, 0.42, 5.9, 1.10, 0.16, 0.60, 3.0, 0.12, 3.5
    ),
    "spindle": CellType(
        25.0, 0.62, 2.70, 0.10, 0.10, 6.3, 1.75, 0.20, 0.65, 1.6, 1.00, 2.0
    ),
    "spread": CellType(
        35.0, 0.68, 1.35, 0.16, 0.06, 8.8, 1.25, 0.30, 0.95, 3.6, 0.85, 2.0
    ),
    "round": CellType(
        17.0, 0.43, 1.05, 0.04, 0.20, 5.6, 1.05, 0.34, 0.95, 1.2, 0.03, 5.0
    ),
}


@dataclass
class Population:
    """The cells of one field, one entry a cell."""

    cell_type: CellType
    angle: float  # the direction in which the layer flows
    centre: np.ndarray
    state: np.ndarray
    group: np.ndarray  # cells of one group have fused
    size: np.ndarray
    reach: np.ndarray
    aspect: np.ndarray
    tilt: np.ndarray
    lobes: np.ndarray
    phases: np.ndarray
    bleb: np.ndarray  # depth of the clefts between blebs
    n_blebs: np.ndarray
    rounded: np.ndarray  # 0 flat to 1 a ball
    burden: np.ndarray  # 0 well to 1 gone over to the virus
    nucleus: np.ndarray
    nucleus_radius: np.ndarray
    nucleus_aspect: np.ndarray
    nucleus_tilt: np.ndarray
    nucleus_form: np.ndarray
    dent: np.ndarray
    bits: np.ndarray  # nucleoli, or fragments, in the frame of the nucleus
    bit_radius: np.ndarray
    golgi: np.ndarray  # where the Golgi lies, in the frame of the field

    def __len__(self) -> int:
        return len(self.centre)


# Cells for a field of ``height`` by ``width``, some margin round it included.
def populate(
    rng: np.random.Generator,
    cell_type: CellType,
    height: float,
    width: float,
    *,
    infected: float,
    toxic: float,
    density: float,
) -> Population:
    angle = rng.uniform(0, np.pi)
    centre = _seeds(rng, cell_type, height, width, angle, density)
    state, sick = _states(rng, len(centre), infected, toxic)
    # A poisoned cell may have come off the plate before the picture was taken.
    stays = (state != TOXIC) | (rng.random(len(centre)) > 0.25 + 0.35 * toxic)
    centre, state, sick = centre[stays], state[stays], sick[stays]
    group = _fuse(rng, cell_type, angle, centre, sick)
    body = _bodies(rng, cell_type, angle, state, sick, group)
    nuclei = _nuclei(rng, cell_type, centre, group, body)
    return Population(cell_type, angle, centre, state, group, **body, **nuclei)


# Squeeze points along ``angle`` so that cells of that aspect become round.
def stretch(points: np.ndarray, angle: float, aspect: float) -> np.ndarray:
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([np.cos(angle), -np.sin(angle)])
    root = np.sqrt(aspect)
    return np.stack([points @ along / root, points @ across * root], axis=-1)


# Cell centres: a shaken hexagonal lattice, with bare places.
def _seeds(rng, cell_type, height, width, angle, density):
    spacing = cell_type.spacing / np.sqrt(density)
    aspect = cell_type.aspect
    radius = (np.hypot(height, width) / 2 + 2.5 * spacing) * np.sqrt(aspect)
    count = int(np.ceil(radius / spacing)) + 1
    rows, columns = np.mgrid[-count : count + 1, -count : count + 1].reshape(2, -1)
    lattice = np.stack([rows * np.sqrt(0.75), columns + 0.5 * (rows % 2)], axis=-1)
    lattice += rng.uniform(-0.5, 0.5, 2) + rng.normal(0, 0.17, lattice.shape)
    turn = rng.uniform(0, np.pi / 3)
    turned = lattice @ np.array(
        [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    )
    root = np.sqrt(aspect)
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([np.cos(angle), -np.sin(angle)])
    points = spacing * (
        turned[:, :1] * along * root + turned[:, 1:] * across / root
    ) + np.array([height / 2, width / 2])
    margin = 1.8 * spacing * root
    inside = np.all(points > -margin, axis=1) & np.all(
        points < np.array([height, width]) + margin, axis=1
    )
    points = points[inside]
    return points[_wave(rng, points, 3.2 * spacing) > cell_type.bare]


# A smooth random field at some points, its values uniform in 0 to 1.
def _wave(rng, points, length):
    wave = 2 * np.pi / (length * rng.uniform(0.7, 1.6, 8))
    heading = rng.uniform(0, 2 * np.pi, 8)
    phase = rng.uniform(0, 2 * np.pi, 8)
    knots = np.stack([wave * np.sin(heading), wave * np.cos(heading)])
    value = np.cos(points @ knots + phase).sum(axis=1) / 2.0
    return 0.5 * (1 + np.tanh(0.8 * value))


# The state of each cell, and which are infected: poisoned cells may be, too.
def _states(rng, count, infected, toxic):
    sick = rng.random(count) < infected
    dividing = rng.random(count) < 0.035
    state = np.where(sick, INFECTED, np.where(dividing, MITOTIC, HEALTHY))
    return np.where(rng.random(count) < toxic, TOXIC, state), sick


# Merge some infected neighbours into syncytia of two to five cells.
def _fuse(rng, cell_type, angle, centre, sick):
    group = np.arange(len(centre))
    willing = sick & (rng.random(len(centre)) < 0.68)
    if willing.sum() < 2:
        return group
    rounded = stretch(centre, angle, cell_type.aspect)
    pairs = KDTree(rounded).query_pairs(1.35 * cell_type.spacing, output_type="ndarray")
    pairs = pairs[willing[pairs].all(axis=1)]
    for one, other in rng.permutation(pairs):
        members = (group == group[one]) | (group == group[other])
        if members.sum() <= 5:
            group[members] = group[one]
    return group


def _bodies(rng, cell_type, angle, state, sick, group):
    count = len(state)
    fused = np.bincount(group, minlength=count)[group] > 1
    infected = (state == INFECTED) & ~fused
    balled = rng.random(count)
    rounded = np.zeros(count)
    rounded[infected & (balled < 0.6)] = 0.8
    rounded[state == MITOTIC] = 0.9
    rounded[state == TOXIC] = 0.75
    # A few healthy cells are always caught rounding up: it must not be a giveaway.
    rounded[(state == HEALTHY) & (balled < 0.04)] = 0.7
    size = np.exp(rng.normal(0, 0.13, count))
    reach = cell_type.spacing * cell_type.reach * np.exp(rng.normal(0, 0.08, count))
    shrink = 1 - 0.42 * rounded - 0.1 * (infected & (rounded == 0))
    floor = 1.25 * cell_type.nucleus * (1 - 0.2 * (state == TOXIC))
    reach = np.maximum(reach * shrink, floor)
    # Fused cells leave little gap between them.
    bridge = min(0.54, 1.1 * cell_type.reach) * cell_type.spacing
    reach = np.where(fused, np.maximum(reach, bridge), reach)
    aspect = 1 + (cell_type.aspect * np.exp(rng.normal(0, 0.1, count)) - 1) * (
        1 - rounded
    )
    strength = cell_type.ruffle * (1 - 0.7 * rounded)
    strength = np.where(state == INFECTED, strength + 0.03, strength)
    decay = 1 / np.sqrt(np.arange(1, N_LOBES + 1))
    lobes = strength[:, None] * decay * rng.normal(0, 1, (count, N_LOBES))
    burden = np.where(sick, rng.beta(5, 1.6, count), 0.0)
    return {
        "size": size,
        "reach": reach,
        "aspect": np.maximum(aspect, 1.0),
        "tilt": angle + rng.normal(0, 0.22, count) / np.sqrt(cell_type.aspect),
        "lobes": np.clip(lobes, -0.3, 0.3),
        "phases": rng.uniform(0, 2 * np.pi, (count, N_LOBES)),
        "bleb": np.where(state == TOXIC, rng.uniform(0.15, 0.55, count), 0.0),
        "n_blebs": rng.integers(4, 8, count),
        "rounded": rounded,
        "burden": burden,
        "state": state,
    }


def _nuclei(rng, cell_type, centre, group, body):
    state, rounded = body.pop("state"), body["rounded"]
    count = len(state)
    form = _forms(rng, state, rounded)
    cycle = np.exp(rng.uniform(-0.12, 0.2, count))
    radius = cell_type.nucleus * cycle * np.exp(rng.normal(0, 0.05, count))
    radius *= np.choose(form, [1.0, 0.72, 0.95, 0.62])
    aspect = 1 + (cell_type.nucleus_aspect - 1) * np.exp(rng.normal(0, 0.5, count))
    aspect = np.choose(
        form, [aspect, 2.6 + 0 * aspect, 1.05 + 0 * aspect, 1.1 + 0 * aspect]
    )
    place = centre + rng.normal(0, 0.06 * cell_type.spacing, (count, 2))
    place = _gather(place, group, radius)
    dent = (
        rng.normal(0, 0.035, (count, 3)) * np.where(state == INFECTED, 1.7, 1)[:, None]
    )
    bits, bit_radius = _bits(rng, cell_type, form, state)
    way = rng.uniform(0, 2 * np.pi, count)
    golgi = place + (1.15 * radius + 1.0)[:, None] * np.stack(
        [np.sin(way), np.cos(way)], axis=1
    )
    return {
        "nucleus": place,
        "nucleus_radius": radius,
        "nucleus_aspect": np.clip(aspect, 1.0, 3.0),
        "nucleus_tilt": np.where(
            form == METAPHASE,
            rng.uniform(0, np.pi, count),
            body["tilt"] + rng.normal(0, 0.5, count) / cell_type.aspect,
        ),
        "nucleus_form": form,
        "dent": dent,
        "bits": bits,
        "bit_radius": bit_radius,
        "golgi": golgi,
    }


def _forms(rng, state, rounded):
    form = np.full(len(state), WHOLE)
    chance = rng.random(len(state))
    infected = state == INFECTED
    form[infected & (chance < 0.16)] = FRAGMENTS
    form[infected & (rounded > 0) & (chance > 0.75)] = PYKNOTIC
    form[state == TOXIC] = PYKNOTIC
    form[(state == TOXIC) & (chance < 0.25)] = FRAGMENTS
    form[state == MITOTIC] = METAPHASE
    form[(state == HEALTHY) & (chance < 0.015)] = PYKNOTIC
    return form


# Draw the nuclei of a syncytium together, then ease them apart.
def _gather(place, group, radius):
    count = len(place)
    members = np.bincount(group, minlength=count).astype(float)
    if count == 0:
        return place
    sums = np.stack(
        [np.bincount(group, place[:, axis], minlength=count) for axis in (0, 1)], axis=1
    )
    middle = (sums / np.maximum(members, 1)[:, None])[group]
    place = np.where(
        (members[group] > 1)[:, None], middle + 0.42 * (place - middle), place
    )
    pairs_within = 2.2 * radius.max()
    for _ in range(6):
        pairs = KDTree(place).query_pairs(pairs_within, output_type="ndarray")
        if not len(pairs):
            break
        gap = place[pairs[:, 0]] - place[pairs[:, 1]]
        far = np.maximum(np.linalg.norm(gap, axis=1), 1e-6)
        lack = np.maximum(0.98 * radius[pairs].sum(axis=1) - far, 0)
        push = gap / far[:, None] * lack[:, None] / 2
        np.add.at(place, pairs[:, 0], push)
        np.add.at(place, pairs[:, 1], -push)
    return place


# Nucleoli of a whole nucleus, pieces of a broken one.
def _bits(rng, cell_type, form, state):
    count = len(form)
    way = rng.uniform(0, 2 * np.pi, (count, N_BITS))
    broken = form == FRAGMENTS
    out = np.where(broken[:, None], 0.72, 0.55) * np.sqrt(
        rng.uniform(0.05, 1, (count, N_BITS))
    )
    bits = out[..., None] * np.stack([np.sin(way), np.cos(way)], axis=-1)
    radius = rng.uniform(0.13, 0.24, (count, N_BITS))
    number = 1 + rng.poisson(max(cell_type.nucleoli - 1, 0), count)
    radius *= np.arange(N_BITS) < number[:, None]
    # Infection melts the nucleoli of most cells into one.
    melted = (state == INFECTED) & (rng.random(count) < 0.7)
    radius[melted] *= np.array([1.35, 0, 0, 0, 0, 0])
    radius[(form == PYKNOTIC) | (form == METAPHASE)] = 0
    radius[broken] = rng.uniform(0.18, 0.42, (int(broken.sum()), N_BITS))
    return bits, radius
