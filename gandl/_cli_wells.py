"""Checks of what is known of each well, and what is told of it, on the command line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from gandl._cli_arguments import tell
from gandl._plate_map import several_images, spelled_alike, well_kinds
from gandl._tables import no_column

# Degrees of freedom that the deviations of a plate's controls borrow from all plates.
PRIOR_DF = 6
# Columns that say what concentrations are in, and columns that tell screens apart.
UNITS = {"unit", "units", "conc_unit", "concentration_unit", "dose_unit"}
_SCREENS = {"cell_type", "celltype", "cell_line", "cellline", "timepoint"}
_UNIT = re.compile(r"(?:^|[\W_])([pnµm]?M|[pnµm]g/mL)[\])]?\s*$")


def check_wells(known: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse wells that cannot be scored, and tell which are left out."""
    from gandl.scoring._dose_response_scorer import equal_doses

    known = known.reset_index(drop=True)  # a parquet file may have any
    kinds = well_kinds_of(known, options)
    check_sites(known, options)
    _check_alike(known, options)
    wells = known[["plate", "well"]].assign(**kinds).drop_duplicates(["plate", "well"])
    n_negative = (wells["kind"] == options.negative).groupby(wells["plate"]).sum()
    for plate, n in n_negative.items():
        if n < 3:  # a standard deviation of two values is none
            raise ValueError(
                f"Plate {plate} has too few wells that are controls "
                f"{options.negative!r}: {n}. A plate needs three; others can be left "
                "out by --select."
            )
    treated = wells[wells["compound"].notna()]
    treated = treated.assign(
        concentration=equal_doses(treated["concentration"].to_numpy())
    )
    _check_units(known.loc[treated.index], options)
    _tell_several(known.loc[treated.index], options)
    zero = treated[treated["concentration"] == 0]
    if options.positive is None:
        _check_treatments(known, treated, options)
    else:
        _check_curves(wells, treated, n_negative, options)
        _tell_doses_of_positive(known, wells, options)
        most = treated.groupby("compound")["concentration"].transform("max")
        zero = treated[most == 0]  # beside others, it is a dose as they are
    if 0 < len(zero) < len(treated):
        first = zero.iloc[0]
        tell(
            "Wells of a compound at concentration 0 are taken for treated: "
            f"{len(zero)}, such as {first['well']} of plate {first['plate']}, "
            f"{first['compound']!r}. If that is no treatment, name it by --vehicle."
        )
    for names in spelled_alike(wells["compound"]):
        tell(
            f"Taken for different compounds: {' and '.join(map(repr, names))}. If they "
            "are one, spell them alike."
        )
    _tell_doses_without_compound(known, wells, options)
    left_out = wells[wells["left_out"] != ""]
    for reason, mine in left_out.groupby("left_out", sort=False):
        plates = ", ".join(
            f"{n} of plate {plate}" for plate, n in mine["plate"].value_counts().items()
        )
        tell(f"Wells left out ({reason}): {plates}.")
    lost = set(wells["plate"]) - set(treated["plate"])
    if lost:
        tell(f"Plates without a treated well: {', '.join(sorted(lost))}.")


def _check_curves(
    wells: pd.DataFrame,
    treated: pd.DataFrame,
    n_negative: pd.Series,
    options: argparse.Namespace,
) -> None:
    """Tell of plates with few controls, and of compounds with few concentrations."""
    from gandl.scoring._dose_response import MIN_DOSES, MIN_RESPONSES
    from gandl.scoring._dose_response_scorer import few_controls

    is_positive = wells["kind"] == options.positive
    if is_positive.sum() < 3:  # or none could be held out
        raise ValueError(
            f"Too few wells are controls {options.positive!r}: {is_positive.sum()} on "
            "all plates. Scores take three at least; without any, leave out --positive."
        )
    for plate, n in is_positive.groupby(wells["plate"]).sum().items():
        if n < 2:
            tell(
                f"Plate {plate} has too few wells that are controls "
                f"{options.positive!r} to say whether its controls separate: {n}."
            )
    if told := few_controls(n_negative, PRIOR_DF):
        tell(told)
    doses = treated.groupby("compound", sort=False)["concentration"]
    # Untreated controls of their plates are one more dose, zero.
    with_controls = treated["plate"].isin(wells["plate"][is_positive])
    has_zero = with_controls.groupby(treated["compound"], sort=False).any()
    more = has_zero & (not options.doses_alone) & (doses.min() > 0)
    n_doses = doses.nunique() + more
    no_curve = n_doses < MIN_DOSES
    if options.doses_alone:
        no_curve |= doses.size() < MIN_RESPONSES
    few = n_doses.index[no_curve]
    if len(few):
        tell(
            "Compounds of too few concentrations or wells for a curve: "
            f"{len(few)}, such as {few[0]!r}. They are called by their means alone."
        )


def _check_treatments(
    known: pd.DataFrame, treated: pd.DataFrame, options: argparse.Namespace
) -> None:
    """Refuse treatments of cells in several states, tell of those that may be one."""
    treated = treated.assign(state=known.loc[treated.index, options.control])
    of_each = treated.groupby(["compound", "concentration"])
    states = of_each["state"].nunique(dropna=False)
    if (states > 1).any():
        compound, dose = states.index[np.flatnonzero(states > 1)[0]]
        found = treated.loc[treated["compound"] == compound, "state"].unique().tolist()
        raise ValueError(
            f"{compound!r} at {dose:g} was given to wells that are {found} by the "
            f"column {options.control!r}: take one kind by --select."
        )
    doses = treated[["compound", "concentration"]].drop_duplicates()
    doses = doses.sort_values(["compound", "concentration"])
    before = doses.groupby("compound")["concentration"].shift()
    near = doses[doses["concentration"] < 1.02 * before]
    if len(near):
        name, dose = near.iloc[0]
        tell(
            f"Doses within 2 % of another are taken for treatments of their own: "
            f"{len(near)}, such as {name!r} at {dose:g}."
        )


def _check_units(treated: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse concentrations in several units, or in another than would be written."""
    for name in treated.columns[[str(c).casefold() in UNITS for c in treated]]:
        units = treated[name].dropna().astype(str).map(_usual_unit)
        of_each = units.groupby(treated[options.compound])
        several = of_each.nunique() > 1
        if several.any():
            compound = several.index[several][0]
            found = of_each.get_group(compound).unique().tolist()
            raise ValueError(
                f"The column {name!r} has {found} of {compound!r}: bring its "
                "concentrations into one unit, spelled alike."
            )
        if options.positive is None or units.empty:
            continue
        if units.nunique() > 1:
            tell(
                f"Concentrations are in {units.unique().tolist()} by the column "
                f"{name!r}, and the report calls all of them {options.unit}."
            )
        elif _is_other_unit(units.iloc[0], options.unit):
            raise ValueError(
                f"The column {name!r} has {units.iloc[0]!r}, and --unit is "
                f"{options.unit!r}: say --unit {units.iloc[0]}."
            )
    if options.positive is not None:
        _check_unit(options)


def _usual_unit(text: str) -> str:
    text = re.sub("mol/[lL]", "M", text.strip()).replace("\u03bc", "µ")
    return re.sub(r"(?<![a-zµ])u(?=M|g/)", "µ", text).replace("/ml", "/mL")


def _is_other_unit(usual: str, unit: str) -> bool:
    """Whether two units, the first as `_usual_unit` has it, are known and differ."""
    unit = _usual_unit(unit)
    return bool(_UNIT.fullmatch(usual) and _UNIT.fullmatch(unit) and usual != unit)


def _check_unit(options: argparse.Namespace) -> None:
    """Refuse a heading such as "Conc [nM]" where another unit would be written."""
    heading = _usual_unit(options.concentration)
    found = _UNIT.search(heading)
    if not found or "log" in heading.lower():
        return
    if _is_other_unit(found[1], options.unit):
        raise ValueError(
            f"--concentration {options.concentration!r} names a unit, and --unit is "
            f"{options.unit!r}: say --unit {found[1]}."
        )


def _tell_several(treated: pd.DataFrame, options: argparse.Namespace) -> None:
    """Tell of compounds on cells of several kinds, which are scored together."""
    for name in treated.columns[[str(c).casefold() in _SCREENS for c in treated]]:
        found = treated[name].dropna().unique().tolist()
        if treated.groupby(options.compound)[name].nunique().max() > 1:
            tell(
                f"Compounds are scored over all of {name} together: "
                f"{', '.join(map(str, found[:5]))}. To have one alone: --select "
                f'"{name} == {found[0]!r}".'
            )


def _tell_doses_of_positive(
    known: pd.DataFrame, wells: pd.DataFrame, options: argparse.Namespace
) -> None:
    """Tell of positive controls that are a drug at several concentrations."""
    positive = wells.index[wells["kind"] == options.positive]
    doses = pd.to_numeric(known.loc[positive, options.concentration], errors="coerce")
    n = doses[doses > 0].nunique()
    if options.control == options.compound and n > 1:
        tell(
            f"The positive controls {options.positive!r} are of {n} concentrations, "
            "and all are taken for alike: take those that act by --select, or leave "
            "out --positive."
        )


def _tell_doses_without_compound(
    known: pd.DataFrame, wells: pd.DataFrame, options: argparse.Namespace
) -> None:
    """Tell of controls with a dose, as of a well whose compound was forgotten."""
    dose = pd.to_numeric(known[options.concentration], errors="coerce")[wells.index]
    if dose.nunique() < 2:  # any one number will do there
        return
    nameless = known[options.compound][wells.index].isna()
    controls = nameless & wells["kind"].notna()
    dosed = wells[controls & (dose > 0)]
    if 0 < len(dosed) < controls.sum():  # the column may be filled throughout
        first = dosed.iloc[0]
        tell(
            f"Wells of a concentration above 0 and without a compound are taken for "
            f"controls: {len(dosed)}, such as {first['well']} of plate "
            f"{first['plate']}."
        )


def _check_alike(known: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse wells whose images are said to be of different treatments."""
    columns = [options.control, options.compound, options.concentration]
    for name in dict.fromkeys(columns):
        values = known.groupby(["plate", "well"], sort=False)[name]
        differ = values.nunique(dropna=False) > 1
        if differ.any():
            plate, well = place = differ.index[differ][0]
            found = values.get_group(place).unique().tolist()[:2]
            raise ValueError(
                f"Well {well} of plate {plate} has images of {name} {found[0]!r} and "
                f"of {found[1]!r}: a well has one."
            )


def check_sites(known: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse images of different plates that have one name, which would be averaged."""
    place, all_differ = several_images(known)
    # Wells of one name and two treatments are refused by themselves.
    of_wells = (options.control, options.compound, options.concentration)
    differ = [name for name in all_differ if name not in of_wells]
    if not place or (all_differ and not differ):
        return
    names = " and ".join(differ)
    if "site" not in known:
        told = f"which differ in {names}" if differ else f"such as those of {place}"
        tell(f"Images of one well, {told}, are averaged.")
        return
    if not differ:
        raise ValueError(f"There are several images of {place}: keep one of them.")
    raise ValueError(
        f"There are several images of {place}, which differ in {names}: where they are "
        "of one plate, as of a second scan, keep one of them by --select; where that "
        f"makes them different plates, say --batch {' '.join(differ)} plate."
    )


def well_kinds_of(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    if "well" not in known:
        raise ValueError(no_column("well", known))
    return well_kinds(
        known,
        control=options.control,
        negative=options.negative,
        positive=options.positive,
        compound=options.compound,
        concentration=options.concentration,
        vehicle=options.vehicle,
    )


def with_kinds(
    known: pd.DataFrame, kinds: pd.DataFrame, options: argparse.Namespace
) -> pd.DataFrame:
    """Add what `well_kinds_of` tells, and the batch of each well.

    The user's columns of these names stay as "kind_given" and so on. Compounds and
    concentrations that were asked for under their names are replaced, unless wells
    that are not treated have a compound.
    """
    stay = {options.compound, options.concentration} - {"kind", "left_out", "batch"}
    if (known[options.compound].notna() & kinds["compound"].isna()).any():
        stay.discard("compound")
    # In another case, too: databases do not tell "Batch" from ours.
    ours = {*kinds, "batch"}
    own = [n for n in known if str(n).casefold() in ours and n not in stay]
    known = known.rename(columns={name: _name_given(name, known) for name in own})
    known[kinds.columns] = kinds
    return known.assign(batch=known["plate"])


def refuse_scored(known: pd.DataFrame, path: Path) -> None:
    """Refuse wells of an earlier scoring: scaled again, they would score otherwise."""
    if {"kind", "left_out", "batch"} <= set(known):
        raise ValueError(
            f"{str(path)!r} holds wells that were scored before, and whose features "
            "are scaled: score the embeddings that they were made of, such as "
            "images.parquet. If kind, left_out and batch are columns of your own, name "
            "one of them otherwise."
        )


def _name_given(name: object, known: pd.DataFrame) -> str:
    """A name for a column of the user's that is called as one of ours."""
    given = f"{name}_given"
    while given in known:
        given += "_given"
    return given
