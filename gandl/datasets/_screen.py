"""`make_screen`: a simulated fluorescence screen whose truth is known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.utils import check_random_state

from gandl.datasets._camera import render
from gandl.datasets._cells import CELL_TYPES
from gandl.datasets._plates import KINDS, Plan, make_truth, plan_screen
from gandl.datasets._stains import STAINS
from gandl.datasets._write import (
    check_free,
    image_paths,
    new_folder,
    write_images,
    write_tables,
)

if TYPE_CHECKING:
    from gandl.images import ImageCollection

COLUMNS = [
    "site_id",
    "well_id",
    "experiment",
    "cell_type",
    "plate",
    "well",
    "site",
    "well_type",
    "disease_condition",
    "compound",
    "concentration",
    "perturbation",
    "infected_fraction",
    "toxicity",
]


def make_screen(
    *,
    n_plates: int = 2,
    n_compounds: int | Mapping[str, int] = 6,
    concentrations: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    n_replicates: int = 2,
    n_controls: int = 12,
    n_sites: int = 1,
    image_size: int | tuple[int, int] = 128,
    stains: Sequence[str] = ("DNA", "ER", "actin"),
    cell_types: Sequence[str] = ("cobblestone",),
    infected_fraction: float = 0.7,
    brightness_effect: float = 0.0,
    plate_effect: float = 1.0,
    noise: float = 1.0,
    pixel_size: float = 0.65,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[ImageCollection, pd.DataFrame]:
    """Simulate a screen of compounds against an infection of cultured cells.

    Each plate has wells of healthy cells, wells of infected cells, and wells of
    infected cells that a compound was given to. Infected cells differ from healthy
    ones in shape and texture, hardly in brightness: they fuse into syncytia, round
    up, lose their stress fibres, and their nuclei crowd, shrivel or break. A
    compound that rescues lowers the share of infected cells with its dose, a toxic
    one kills cells, an inert one does nothing.

    Parameters
    ----------
    n_plates : int, default=2
        The plates of each cell type.
    n_compounds : int or mapping of str to int, default=6
        The compounds. A number is shared evenly among those that rescue, do nothing
        and poison; a mapping such as ``{"rescue": 2, "toxic": 1}`` counts each kind.
        With 0 the screen has control wells only.
    concentrations : sequence of float, default=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
        The doses of each compound in uM.
    n_replicates : int, default=2
        The wells of each compound at each dose, for each cell type. They are dealt
        out to the plates in turn.
    n_controls : int, default=12
        The wells of healthy cells on each plate, and as many of infected ones.
    n_sites : int, default=1
        The images of each well.
    image_size : int or (int, int), default=128
        The side, or the height and the width, of an image in pixels.
    stains : sequence of str, default=("DNA", "ER", "actin")
        The channels, out of "DNA", "ER", "actin", "RNA", "membrane" and
        "mitochondria". A channel does not depend on which others are asked for.
    cell_types : sequence of str, default=("cobblestone",)
        The cell lines, out of "cobblestone", "colony", "spindle", "spread" and
        "round". Each has plates of its own, with the same compounds.
    infected_fraction : float, default=0.7
        The share of infected cells in wells of untreated infected cells; wells vary
        a little about it.
    brightness_effect : float, default=0.0
        By which fraction an infected cell is brighter in every channel. At 0, cells
        of either kind give the same light in sum.
    plate_effect : float, default=1.0
        The strength of what is not biology: gains of plates and wells, dim and
        sparse wells at a plate's edge, uneven illumination, focus. 0 removes it.
    noise : float, default=1.0
        The strength of the camera's shot and read noise. 0 removes it.
    pixel_size : float, default=0.65
        The side of a pixel in um. 0.65 is that of many cameras behind a 10x to 20x
        objective.
    folder : str or path-like, default=None
        Where to write the screen. The images then stay on disk, and memory holds
        those of one well at a time. By default nothing is written.
    overwrite : bool, default=False
        Whether a screen that this function wrote to the folder before may be
        replaced. Anything else there is never touched.
    n_jobs : int, default=None
        The processes that render wells, as joblib understands it. The images do not
        depend on it.
    random_state : int, RandomState instance or None, default=None
        The seed. An int gives the same screen at each call.

    Returns
    -------
    images : ImageCollection
        The images, unsigned 16-bit numbers in the range of a 12-bit camera, in the
        order of plates, wells and sites. The columns of their metadata are listed
        below.
    truth : DataFrame
        One row a compound: "compound"; "kind", one of "rescue", "inert" and
        "toxic"; "ec50" in uM, "slope" and "max_effect" of its curve. An inert
        compound has no EC50 and no slope (NaN), and an effect of 0.

    Raises
    ------
    FileExistsError
        If the folder exists and may not be replaced.
    ValueError
        If a parameter is out of its range, or a plate would need more than 384
        wells.

    Notes
    -----
    The effect of a compound at dose c is ``max_effect / (1 + (ec50 / c) ** slope)``.

    The metadata have one row an image:

    - site_id, well_id: names that are unique in the screen.
    - experiment, cell_type: a cell type is an experiment, named after it.
    - plate: its number, unique in the screen.
    - well: such as "A01", of a plate of 96 wells, or of 384 where 96 are too few.
    - site: its number in the well, from 1.
    - well_type: "negative control", "positive control" or "treatment".
    - disease_condition: "healthy" or "infected". Treated wells are infected.
    - compound, concentration: the treatment and its dose in uM; "DMSO" and 0 for
      controls.
    - perturbation: the truth of what a compound did to the infection. 0 in healthy
      wells, 1 in untreated infected ones, 1 minus the effect of a compound that
      rescues.
    - infected_fraction: the share of infected cells expected of this well. Up to the
      well's own luck it is `infected_fraction` times the perturbation.
    - toxicity: the share of poisoned cells: the effect of a toxic compound, else 0.
      Infected cells and others are poisoned alike, and many are then lost.

    On disk, images are TIFF files of one channel,
    ``images/{experiment}/Plate{plate}/{well}_s{site}_w{channel}.tif``. "metadata.csv"
    has the columns above, and the treatments once more as "treatment" and
    "treatment_conc", empty for controls; "truth.csv" has the compounds and
    "channels.csv" the stains.

    The pictures are drawn, not simulated from physics: cells are the cells of a
    shaken lattice, textures are filtered noise, a blur and a haze stand for the
    optics. What a method finds here shows that it works as it should; how well it
    does on real cells, only real images can tell.

    Examples
    --------
    >>> from gandl.datasets import make_screen
    >>> X, truth = make_screen(
    ...     n_plates=1, n_compounds={"rescue": 1}, n_replicates=1, n_controls=2,
    ...     image_size=64, random_state=0,
    ... )
    >>> X.shape
    (10, 3, 64, 64)
    >>> X.metadata["well_type"].value_counts().to_dict()
    {'treatment': 6, ...}
    >>> list(truth)
    ['compound', 'kind', 'ec50', 'slope', 'max_effect']
    """
    counts = _check_compounds(n_compounds)
    for name, count, least in (
        ("n_plates", n_plates, 1),
        ("n_replicates", n_replicates, 1),
        ("n_controls", n_controls, 0),
        ("n_sites", n_sites, 1),
    ):
        _check_int(name, count, least)
    if n_controls == 0 and not any(counts.values()):
        raise ValueError("The screen is empty: n_controls=0 and no compounds.")
    shape = _check_shape(image_size)
    stains = _check_names("stains", stains, STAINS)
    cell_types = _check_names("cell_types", cell_types, CELL_TYPES)
    doses = _check_doses(concentrations)
    _check_float("infected_fraction", infected_fraction, 0.0, 1.0)
    _check_float("brightness_effect", brightness_effect, -0.9, 10.0)
    _check_float("plate_effect", plate_effect, 0.0, 5.0)
    _check_float("noise", noise, 0.0, 100.0)
    _check_float("pixel_size", pixel_size, 0.05, 5.0)
    if folder is not None:
        check_free(Path(folder), overwrite)
    seed = _seed(random_state)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    truth = make_truth(rng, counts, doses)
    plans = plan_screen(
        rng,
        truth,
        n_plates=n_plates,
        n_replicates=n_replicates,
        n_controls=n_controls,
        doses=doses,
        cell_types=cell_types,
        infected_fraction=infected_fraction,
        plate_effect=plate_effect,
    )
    how = {
        "seed": seed,
        "n_sites": n_sites,
        "stains": stains,
        "shape": shape,
        "noise": noise,
        "pixel_size": pixel_size,
        "brightness_effect": brightness_effect,
    }
    metadata = _metadata(plans, n_sites)
    if folder is None:
        return _in_memory(plans, metadata, how, n_jobs), truth
    with new_folder(folder, overwrite) as root:
        _on_disk(root, plans, metadata, how, n_jobs)
        write_tables(root, metadata, truth, stains)
    return _read(folder, metadata, stains), truth


def _metadata(plans: list[Plan], n_sites: int) -> pd.DataFrame:
    rows = []
    for plan in plans:
        about = plan.metadata
        well_id = f"{about['experiment']}_{about['plate']}_{about['well']}"
        for site in range(1, n_sites + 1):
            ids = {"site_id": f"{well_id}_{site}", "well_id": well_id, "site": site}
            rows.append(about | ids)
    return pd.DataFrame(rows)[COLUMNS]


# Render the sites of one well, each from the seed of its own row.
def _render_well(
    number: int,
    plan: Plan,
    *,
    seed: int,
    n_sites: int,
    stains: tuple[str, ...],
    shape: tuple[int, int],
    noise: float,
    pixel_size: float,
    brightness_effect: float,
) -> np.ndarray:
    order = list(STAINS)
    lights = [replace(plan.lights[order.index(s)], noise=noise) for s in stains]
    first = number * n_sites
    return np.stack(
        [
            render(
                np.random.SeedSequence(seed, spawn_key=(1, row)),
                plan.well,
                lights,
                stains,
                shape,
                pixel_size=pixel_size,
                brightness_effect=brightness_effect,
            )
            for row in range(first, first + n_sites)
        ]
    )


def _write_well(root: Path, paths: np.ndarray, number: int, plan: Plan, how) -> None:
    write_images(root, paths, _render_well(number, plan, **how))


def _in_memory(plans, metadata, how, n_jobs):
    from gandl.images import ImageCollection

    n_sites = how["n_sites"]
    images = np.empty((len(metadata), len(how["stains"]), *how["shape"]), np.uint16)
    wells = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_render_well)(number, plan, **how) for number, plan in enumerate(plans)
    )
    for number, well in enumerate(wells):
        images[number * n_sites : (number + 1) * n_sites] = well
    return ImageCollection.from_array(images, channels=how["stains"], metadata=metadata)


def _on_disk(root, plans, metadata, how, n_jobs):
    n_sites = how["n_sites"]
    paths = image_paths(metadata, len(how["stains"])).to_numpy()
    Parallel(n_jobs=n_jobs)(
        delayed(_write_well)(
            root, paths[number * n_sites : (number + 1) * n_sites], number, plan, how
        )
        for number, plan in enumerate(plans)
    )


def _read(folder, metadata, stains):
    from gandl.images import ImageCollection

    paths = image_paths(metadata, len(stains))
    return ImageCollection.from_table(
        pd.concat([metadata, paths], axis=1),
        path=[str(column) for column in paths],
        root=folder,
        channels=stains,
    )


def _seed(random_state) -> int:
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    try:
        state = check_random_state(random_state)
    except ValueError:
        raise ValueError(
            f"random_state={random_state!r} must be an int, a RandomState or None."
        ) from None
    return int(state.randint(np.iinfo(np.int32).max))


def _check_int(name: str, value: object, least: int) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def _check_float(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be a number from {low:g} to {high:g}.")


def _check_compounds(n_compounds: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(n_compounds, Mapping):
        unknown = set(n_compounds) - set(KINDS)
        if unknown:
            raise ValueError(
                f"n_compounds={n_compounds!r} has kinds other than {KINDS}."
            )
        for kind, count in n_compounds.items():
            _check_int(f"n_compounds[{kind!r}]", count, 0)
        return {kind: int(n_compounds.get(kind, 0)) for kind in KINDS}
    _check_int("n_compounds", n_compounds, 0)
    return {kind: (n_compounds + 2 - i) // 3 for i, kind in enumerate(KINDS)}


def _check_shape(image_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    try:
        height, width = sides  # type: ignore[misc]
    except (TypeError, ValueError):
        raise ValueError(
            f"image_size={image_size!r} must be an integer or two of them."
        ) from None
    for side in (height, width):
        _check_int("image_size", side, 16)
    return int(height), int(width)


def _check_names(name: str, given: Sequence[str], known: Mapping) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    unknown = [one for one in names if one not in known]
    if not names or unknown or len(set(names)) < len(names):
        raise ValueError(
            f"{name}={given!r} must be one or more of {tuple(known)}, each once."
        )
    return names


def _check_doses(concentrations: Sequence[float]) -> tuple[float, ...]:
    try:
        doses = tuple(float(dose) for dose in concentrations)
    except (TypeError, ValueError):
        doses = ()
    good = all(0 < dose < np.inf for dose in doses)
    if not doses or not good or len(set(doses)) < len(doses):
        raise ValueError(
            f"concentrations={concentrations!r} must be one or more positive numbers, "
            "each once."
        )
    return doses
