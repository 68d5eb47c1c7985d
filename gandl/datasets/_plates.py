"""Which well of a simulated screen holds what, and what it does to the light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gandl.datasets._camera import Light
from gandl.datasets._cells import CELL_TYPES
from gandl.datasets._fields import Well
from gandl.datasets._stains import STAINS

KINDS = ("rescue", "inert", "toxic")
LAYOUTS = {96: (8, 12), 384: (16, 24)}
SOLVENT = "DMSO"


@dataclass(frozen=True)
class Plan:
    """One well: what is known of it, and how it is to be rendered."""

    metadata: dict[str, object]
    well: Well
    lights: tuple[Light, ...]  # one a stain of STAINS


# Draw the compounds: their kind, and the curve of each.
def make_truth(
    rng: np.random.Generator, counts: Mapping[str, int], doses: Sequence[float]
) -> pd.DataFrame:
    kinds = rng.permutation(np.repeat(KINDS, [counts[kind] for kind in KINDS]))
    n = len(kinds)
    low, high = (np.log(min(doses)), np.log(max(doses))) if n else (0.0, 0.0)
    # Away from both ends of the doses, where no fit could find it.
    share = rng.uniform(0.25, 0.75, n)
    slope = rng.uniform(1.0, 2.5, n)
    most = rng.uniform(0.85, 1.0, n)
    # Where every cell dies, nothing is left to tell what became of the infection.
    most *= np.where(kinds == "toxic", 0.8, 1.0)
    inert = kinds == "inert"
    return pd.DataFrame(
        {
            "compound": [f"compound-{i + 1:0{len(str(n))}d}" for i in range(n)],
            "kind": kinds.astype(object),
            "ec50": np.where(inert, np.nan, np.exp(low + share * (high - low))),
            "slope": np.where(inert, np.nan, slope),
            "max_effect": np.where(inert, 0.0, most),
        }
    )


# The log-logistic effect of a compound at a dose, 0 to its maximum.
def effect(compound: Mapping, dose: float) -> float:
    if compound["max_effect"] == 0:
        return 0.0
    ratio = (compound["ec50"] / dose) ** compound["slope"]
    return float(compound["max_effect"] / (1 + ratio))


# The wells of a screen in the order of plates, then of wells.
def plan_screen(
    rng: np.random.Generator,
    truth: pd.DataFrame,
    *,
    n_plates: int,
    n_replicates: int,
    n_controls: int,
    doses: Sequence[float],
    cell_types: Sequence[str],
    infected_fraction: float,
    plate_effect: float,
) -> list[Plan]:
    contents = [
        _contents(truth, doses, n_replicates, n_controls, n_plates, plate)
        for plate in range(n_plates)
    ]
    layout = _layout(max(map(len, contents)))
    plans = []
    for number, cell_type in enumerate(cell_types):
        for plate, content in enumerate(contents):
            name = {
                "experiment": f"{cell_type}-1",
                "cell_type": cell_type,
                "plate": number * n_plates + plate + 1,
            }
            plans += _plan_plate(
                rng, name, content, layout, infected_fraction, plate_effect
            )
    return plans


# What the wells of one plate hold; replicates go from plate to plate in turn.
def _contents(truth, doses, n_replicates, n_controls, n_plates, plate):
    control = {"compound": SOLVENT, "concentration": 0.0, "toxicity": 0.0}
    healthy = {"well_type": "negative control", "disease_condition": "healthy"}
    infected = {"well_type": "positive control", "disease_condition": "infected"}
    content = n_controls * [control | healthy | {"perturbation": 0.0}]
    content += n_controls * [control | infected | {"perturbation": 1.0}]
    for replicate in range(n_replicates):
        if replicate % n_plates != plate:
            continue
        for compound in truth.to_dict("records"):
            for dose in doses:
                strength = effect(compound, dose)
                rescue = strength if compound["kind"] == "rescue" else 0.0
                toxic = strength if compound["kind"] == "toxic" else 0.0
                content.append(
                    {
                        "compound": compound["compound"],
                        "concentration": float(dose),
                        "toxicity": toxic,
                        "well_type": "treatment",
                        "disease_condition": "infected",
                        "perturbation": 1.0 - rescue,
                    }
                )
    return content


def _layout(n_wells: int) -> tuple[int, int]:
    for size, layout in LAYOUTS.items():
        if n_wells <= size:
            return layout
    raise ValueError(
        f"A plate would need {n_wells} wells and the largest has {max(LAYOUTS)}: "
        "use more plates, or fewer compounds, concentrations, replicates or controls."
    )


def _plan_plate(rng, name, content, layout, infected_fraction, plate_effect):
    rows, columns = layout
    places = rng.permutation(rows * columns)[: len(content)]
    centre = rng.normal(0, 0.25 * plate_effect, (len(STAINS), 2))
    plate_light = rng.normal(0, 0.15 * plate_effect, (len(STAINS), 2))
    falloff = rng.uniform(0, 0.25 * plate_effect, len(STAINS))
    plate_focus = abs(rng.normal(0, 0.12 * plate_effect))
    plans = {}
    for place, what in zip(places, content, strict=True):
        row, column = divmod(int(place), columns)
        edge = row in (0, rows - 1) or column in (0, columns - 1)
        dim = plate_effect * edge
        light = plate_light + rng.normal(0, 0.09 * plate_effect, plate_light.shape)
        lights = tuple(
            Light(
                gain=float(np.exp(light[stain, 0] - 0.12 * dim)),
                background=25.0 * float(np.exp(light[stain, 1])),
                falloff=float(min(falloff[stain], 0.6)),
                centre=(float(centre[stain, 0]), float(centre[stain, 1])),
                noise=1.0,
            )
            for stain in range(len(STAINS))
        )
        share = _shaken(rng, infected_fraction * what["perturbation"])
        well = Well(
            cell_type=CELL_TYPES[name["cell_type"]],
            infected=share,
            toxic=what["toxicity"],
            density=float(np.exp(rng.normal(0, 0.1) - 0.18 * dim)),
            defocus=float(plate_focus + abs(rng.normal(0, 0.15 * plate_effect))),
            debris=float(rng.gamma(2.0, 0.4) * (1 + 3 * what["toxicity"])),
        )
        label = f"{chr(ord('A') + row)}{column + 1:02d}"
        plans[place] = Plan(
            name | {"well": label} | what | {"infected_fraction": share}, well, lights
        )
    return [plans[place] for place in sorted(plans)]


# A well's own share: no two wells take an infection alike.
def _shaken(rng, share):
    nudge = np.exp(rng.normal(0, 0.2))
    odds_up, odds_down = share * nudge, 1 - share
    return float(odds_up / (odds_up + odds_down))
