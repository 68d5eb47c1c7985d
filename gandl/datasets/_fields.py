"""Where in a field each cell, its border and its nucleus lie, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.special import expit

from gandl.datasets._cells import N_LOBES, CellType, Population, populate, stretch

MARGIN = 10.0  # um drawn round the field and cut off at the end


@dataclass(frozen=True)
class Well:
    """What the sites of one well share."""

    cell_type: CellType
    infected: float
    toxic: float
    density: float
    defocus: float  # um
    debris: float  # specks in a square of 100 um


@dataclass
class Fields:
    """Maps over the pixels of a field, lengths in um."""

    population: Population
    pixel_size: float
    owner: np.ndarray
    edge: np.ndarray  # depth below the cell's border, negative outside
    cell: np.ndarray
    height: np.ndarray
    local: list[np.ndarray]  # along and across the cell, in the frame that rounds it
    rho: np.ndarray  # 1 on the border of the nucleus
    inside: np.ndarray  # soft mask of nuclei
    frame: list[np.ndarray]  # the same for the nucleus, whose border is at 1
    nucleus: np.ndarray  # index of the nearest nucleus of the cell
    away: np.ndarray  # distance from that nucleus's border

    # Spread a value of each cell over its pixels.
    def of(self, values: np.ndarray) -> np.ndarray:
        return values[self.owner]

    # Smooth noise of zero mean and unit deviation.
    def texture(self, rng: np.random.Generator, scale: float) -> np.ndarray:
        return _texture(rng, self.edge.shape, scale / self.pixel_size)


def _texture(rng, shape, sigma):
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    return smooth / max(float(smooth.std()), 1e-6)


# Lay cells out and map their territories; None for a field without a cell.
def draw_fields(
    rng: np.random.Generator, well: Well, shape: tuple[int, int], pixel_size: float
) -> Fields | None:
    pad = round(MARGIN / pixel_size)
    padded = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    population = populate(
        rng,
        well.cell_type,
        padded[0] * pixel_size,
        padded[1] * pixel_size,
        infected=well.infected,
        toxic=well.toxic,
        density=well.density,
    )
    if len(population) == 0:
        return None
    points = np.moveaxis(np.indices(padded, np.float32) * np.float32(pixel_size), 0, -1)
    for scale, amount in ((7.0, 1.3), (2.2, 0.3)):
        for axis in (0, 1):
            points[..., axis] += amount * _texture(rng, padded, scale / pixel_size)
    return _territories(population, points, pixel_size)


# Map a population; a pixel's few nearest cells are all that matter to it.
def _territories(pop: Population, points: np.ndarray, pixel_size: float) -> Fields:
    index = _neighbours(pop, points)
    frames = _frames(pop.centre, pop.tilt, pop.aspect, pop.size)
    distance = np.hypot(*_in_frame(points, frames, index))
    best = distance.argmin(axis=0)[None]
    owner, depth = _take(index, best), _take(distance, best)
    local = _in_frame(points, frames, owner)
    kin = pop.group[index] == pop.group[owner]
    rival = np.where(kin, np.inf, distance).min(axis=0)
    frame, rho, nucleus = _nearest_nucleus(pop, points, index, kin)
    signed = (rho - 1) * pop.nucleus_radius[nucleus]
    reach = pop.reach[owner] * _outline(pop, owner, local)
    # No nucleus lies bare: its cell reaches a little beyond it.
    bound = np.maximum(reach - depth, 1.5 - signed)
    edge = _soft_minimum((rival - depth) / 2 - 0.05, bound)
    away = np.maximum(signed, 0)
    cell = expit(edge / 0.45)
    return Fields(
        population=pop,
        pixel_size=pixel_size,
        owner=owner,
        edge=edge,
        cell=cell,
        height=_height(pop, owner, edge, depth / reach, away) * cell,
        local=local,
        rho=rho,
        inside=expit(-signed / 0.35) * cell,
        frame=frame,
        nucleus=nucleus,
        away=away,
    )


# The few cells nearest to each pixel, (k, H, W); pixels come in blocks of four.
def _neighbours(pop: Population, points: np.ndarray) -> np.ndarray:
    aspect = pop.cell_type.aspect
    tree = KDTree(stretch(pop.centre, pop.angle, aspect))
    near = min(6, len(pop))
    coarse = stretch(points[::2, ::2], pop.angle, aspect)
    index = tree.query(coarse, k=[*range(1, near + 1)])[1]
    index = np.moveaxis(index, -1, 0).repeat(2, axis=1).repeat(2, axis=2)
    return index[:, : points.shape[0], : points.shape[1]]


def _take(values: np.ndarray, best: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, best, 0)[0]


# The nearest nucleus of the pixel's own cell, and the place relative to it.
def _nearest_nucleus(pop, points, index, kin):
    frames = _frames(
        pop.nucleus, pop.nucleus_tilt, pop.nucleus_aspect, pop.nucleus_radius
    )
    rho = np.where(kin, np.hypot(*_in_frame(points, frames, index)), np.inf)
    best = rho.argmin(axis=0)[None]
    nucleus, rho = _take(index, best), _take(rho, best)
    frame = _in_frame(points, frames, nucleus)
    theta = np.arctan2(*frame)
    for order in range(3):
        rho *= 1 + pop.dent[:, order][nucleus] * np.cos((order + 2) * theta)
    return frame, rho, nucleus


# For each ellipse the map into the frame in which it is a circle of radius 1 / size.
def _frames(centre, tilt, aspect, size):
    sine, cosine = np.sin(tilt), np.cos(tilt)
    long, short = size * np.sqrt(aspect), size / np.sqrt(aspect)
    along = np.stack([sine / long, cosine / long])
    across = np.stack([cosine / short, -sine / short])
    return [
        (*axis.astype(np.float32), (axis * centre.T).sum(axis=0).astype(np.float32))
        for axis in (along, across)
    ]


# Positions along and across the ellipse that each pixel is told to look at.
def _in_frame(points, frames, index):
    y, x = points[..., 0], points[..., 1]
    return [
        down[index] * y + right[index] * x - start[index]
        for down, right, start in frames
    ]


def _outline(pop, owner, local):
    theta = np.arctan2(local[1], local[0])
    radius = np.ones(theta.shape, np.float32)
    lobes, phases = pop.lobes.astype(np.float32), pop.phases.astype(np.float32)
    for lobe in range(N_LOBES):
        wave = np.cos((lobe + 2) * theta + phases[:, lobe][owner])
        radius += lobes[:, lobe][owner] * wave
    if not pop.bleb.any():
        return radius
    swell = np.abs(np.cos(pop.n_blebs[owner] * theta / 2 + phases[:, 0][owner]))
    # Sharp clefts part the round swellings of a blebbing cell.
    uneven = 0.6 + 0.4 * np.cos(2 * theta + phases[:, 1][owner])
    return radius * (1 + pop.bleb[owner] * uneven * (swell - 0.5))


def _soft_minimum(one, other):
    other = np.maximum(other, one - 30)
    one = np.minimum(one, other + 30)
    return -np.logaddexp(-one, -other)


# How much cell the light crosses: a flat cell rises to its nucleus.
def _height(pop, owner, edge, share, away):
    rise = 1 - np.exp(-np.maximum(edge, 0) / pop.cell_type.height)
    flat = rise * (0.3 + 0.7 * np.exp(-away / (0.3 * pop.cell_type.spacing)))
    ball = 1.3 * np.sqrt(np.clip(1 - share**2, 0, 1))
    rounded = pop.rounded[owner]
    return (1 - rounded) * flat + rounded * np.minimum(ball, 2.5 * rise)
