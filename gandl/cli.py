"""The command line: the same estimators, for people who script in a shell."""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import gandl  # whose classes, and with them torch, are loaded where they are used
from gandl._cli_arguments import TOLD, WITHOUT_IMAGES, complete, make_parser, tell
from gandl._cli_images import (
    ask_as_headed,
    collect,
    names_as_text,
    refuse_mistaken,
    selected,
    with_own_plates,
    with_plate_map,
    with_plate_range,
    with_plates,
)
from gandl._cli_outputs import free_file, new_folder, save_model
from gandl._cli_record import beside, make_record, write_record
from gandl._cli_wells import (
    PRIOR_DF,
    check_wells,
    refuse_scored,
    well_kinds_of,
    with_kinds,
)
from gandl._extras import require_safetensors
from gandl._files import whole_file
from gandl._tables import composed, with_usual_names
from gandl.images import ImageCollection
from gandl.profiles import (
    ControlScaler,
    aggregate,
    energy_distance,
    feature_columns,
    make_profiles,
    read_profiles,
    replicate_consistency,
    write_profiles,
)
from gandl.profiles._partitioned import partition_paths
from gandl.profiles._tables import check_writable

# Of a compound, by dose.
_LISTS = ["concentrations", "on", "off", "hit_below", "toxic_above", "calls"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        What follows "gandl". None: the process's own.

    Returns
    -------
    int
        Exit status: 0, or 1 where input or output is not as it should be, which is
        said on standard error; wrong usage leaves with 2, Ctrl-C with 130, SIGTERM
        with 143.

    Examples
    --------
    >>> from gandl.cli import main
    >>> main(["embed", "missing.safetensors", "images", "--out", "wells.csv"])
    1
    """
    options = make_parser().parse_args(arguments)
    TOLD.clear()
    WITHOUT_IMAGES.clear()
    try:
        complete(options)
        with warnings.catch_warnings():
            warnings.showwarning = _tell_warning(warnings.showwarning)
            (_COMMANDS[options.command] if _is_writer() else _work_along)(options)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        tell(f"gandl {options.command}: {error}")
        return 1
    except (KeyboardInterrupt, SystemExit) as interrupt:  # SystemExit: of SIGTERM
        kept = getattr(options, "checkpoint", None)
        kept = kept if kept and any(kept.glob("step-*")) else None
        if getattr(options, "rows_per_partition", None):
            kept = options.out
        remedy = f" The same command continues from {kept}." if kept else ""
        tell(f"gandl {options.command}: interrupted.{remedy}")
        return 130 if isinstance(interrupt, KeyboardInterrupt) else 143
    return 0


def _tell_warning(show: Callable[..., None]) -> Callable[..., None]:
    """Show what is for the user as a line, all other warnings as ever."""

    def tell_or_show(message: Warning | str, category: Any, *where: Any) -> None:
        if issubclass(category, UserWarning):
            tell(f"Warning: {message}")
        else:
            show(message, category, *where)

    return tell_or_show


def _is_writer() -> bool:
    """Whether this process writes: of those that torchrun starts, the first."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return alone or os.environ.get("RANK", "0") == "0"


def _fit(options: argparse.Namespace) -> None:
    require_safetensors()  # told now, not after hours
    out = free_file(options)
    images, known = collect(options)
    images = with_plate_range(images, known, options.intensity)
    model = _featurizer(options).fit(images)
    save_model(model, options)
    write_record(beside(out), make_record(options, model, images))
    print(f"Model: {out}")


def _work_along(options: argparse.Namespace) -> None:
    """What further processes under torchrun do: train or embed, and write no result."""
    if getattr(options, "rows_per_partition", None) is not None:
        _embed_partitions(options)
    elif hasattr(options, "minutes") and not getattr(options, "model", None):
        images, known = collect(options)
        _featurizer(options).fit(with_plate_range(images, known, options.intensity))


def _embed(options: argparse.Namespace) -> None:
    if options.rows_per_partition is not None:
        _embed_partitions(options)
        return
    out = free_file(options)
    check_writable(out)
    model = _load(options.model)
    images, known = collect(options)
    images = with_plate_range(images, known, model.intensity)
    profiles = _profiles(model, images, known)
    write_profiles(profiles, out, overwrite=options.overwrite)
    write_record(beside(out), make_record(options, model, images))
    print(f"Embeddings of {len(profiles)} images: {out}")


def _embed_partitions(options: argparse.Namespace) -> None:
    """Embed this process's share of the partitions."""
    if options.overwrite:
        raise ValueError("--rows-per-partition continues: leave out --overwrite.")
    model = _load(options.model).set_params(verbose=True)
    images, known = collect(options)
    images = with_plate_range(images, known, model.intensity)
    how = {"metadata": known, "rows_per_partition": options.rows_per_partition}
    gandl.embed_to_parquet(model, images, options.out, **how)
    if _is_writer():
        write_record(beside(options.out), make_record(options, model, images))
        is_there = [path.is_file() for path in partition_paths(options.out)]
        if not all(is_there):  # those of other processes, or tasks of an array
            print(
                f"The share of this process is in {options.out}; "
                f"{is_there.count(False)} of {len(is_there)} partitions are not there "
                "yet."
            )
        else:
            print(f"Embeddings of {len(images)} images: {options.out}")


def _score(options: argparse.Namespace) -> None:
    # A parquet file may have any index, and what the plate map adds has another.
    profiles = read_profiles(options.profiles).reset_index(drop=True)
    features = profiles[feature_columns(profiles)]
    refuse_mistaken(features, options)
    known = composed(with_usual_names(profiles.drop(columns=list(features))))
    refuse_scored(known, options.profiles)
    ask_as_headed(options, known)
    known = with_own_plates(names_as_text(known, options), options)
    known = with_plates(with_plate_map(known, options), options)
    rows = selected(known, options)
    features, known = features.iloc[rows], known.iloc[rows]
    check_wells(known, options)
    with new_folder(options) as out:
        record = make_record(options)
        _score_wells(options, out, make_profiles(features, known), None, record)


def _screen(options: argparse.Namespace) -> None:
    # What is wrong is to be told before hours of training.
    require_safetensors()
    images, known = collect(options)
    check_wells(known, options)
    with new_folder(options) as out:
        model = _load(options.model) if options.model else _featurizer(options)
        images = with_plate_range(images, known, model.intensity)
        if not options.model:  # or there is nothing to keep if it cannot embed these
            model.fit(images).save(out / "model.safetensors")
        profiles = _profiles(model, images, known)
        if options.model:
            model.save(out / "model.safetensors")
        write_profiles(profiles, out / "images.parquet")
        record = make_record(options, model, images)
        _score_wells(options, out, profiles, images, record)


def _generate(options: argparse.Namespace) -> None:
    import tifffile

    if options.out.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"--out {str(options.out)!r}: a TIFF stack is .tif or .tiff.")
    out = free_file(options)
    model = _load(options.model)
    made = model.generate(
        options.n, truncation=options.truncation, random_state=options.seed
    )
    with whole_file(out) as part:
        # One page a channel of an image, as ImageJ has stacks.
        tifffile.imwrite(part, made, imagej=True, metadata={"axes": "TCYX"})
    write_record(beside(out), make_record(options, model))
    n, n_channels, height, width = made.shape
    print(f"{n} images, {n_channels} channels of {height} x {width}: {out}")


def _score_wells(
    options: argparse.Namespace,
    out: Path,
    profiles: pd.DataFrame,
    images: ImageCollection | None,
    record: dict[str, Any],
) -> None:
    """Images to wells, wells to scores, scores to tables and the page."""
    wells = aggregate(profiles, ["plate", "well"])
    names = feature_columns(wells)
    known = with_usual_names(wells.drop(columns=names))
    kinds = well_kinds_of(known, options)
    given = known[options.compound].astype(object)
    known = with_kinds(known, kinds, options)
    X = wells[names].to_numpy()
    if options.positive is None:
        record["draws"] = _write_effects(options, out, X, names, known)
    else:
        first = ~profiles.duplicated(["Metadata_Plate", "Metadata_Well"]).to_numpy()
        if images is not None:
            images = images[np.flatnonzero(first)]
        _write_compounds(options, out, X, names, known, images, record)
    left_out = known[["plate", "well", "left_out"]]
    left_out = left_out.assign(compound=given.where(given.notna(), None))
    left_out = left_out[left_out["left_out"] != ""]
    record["wells_left_out"] = left_out.to_dict("records")
    write_record(out / "run.json", record)


def _write_effects(
    options: argparse.Namespace,
    out: Path,
    X: np.ndarray,
    names: list[str],
    known: pd.DataFrame,
) -> int:
    """Which treatments do anything, where there are negative controls alone.

    Returns how many draws one is compared with at the most.
    """
    from gandl.scoring._dose_response_scorer import equal_doses

    kept = (known["left_out"] == "").to_numpy()
    known = known[kept].reset_index(drop=True)
    # By all wells alike: controls that plates were scaled by would lie too near.
    scaled = ControlScaler(method="robust").fit_transform(X[kept], batch=known["batch"])
    profiles = make_profiles(scaled, known, names=names)
    write_profiles(profiles, out / "wells.parquet")
    treated = known["compound"].notna()
    by = ["compound", "concentration"]
    doses = known.loc[treated, by]
    doses["concentration"] = equal_doses(doses["concentration"].to_numpy())
    treatments = doses.groupby(by)
    treatment = treatments.ngroup().astype(object).reindex(known.index)
    treatment[~treated] = "control"
    # Of m treatments, one alone has a q-value below 0.05 if its p-value is below that
    # over m.
    n_null = min(max(1000, 40 * len(treatments)), 20000)
    distance, cosine = (
        compare(
            scaled,
            treatment,
            control="control",
            batch=known["batch"],
            n_null=n_null,
            random_state=0,
        )
        for compare in (energy_distance, replicate_consistency)
    )
    table = (
        treatments.size().reset_index()[by].join(distance[["n_replicates", "n_draws"]])
    )
    for name, found in (("energy_distance", distance), ("cosine", cosine)):
        table[[name, f"{name}_p_value", f"{name}_q_value"]] = found[
            [name, "p_value", "q_value"]
        ]
    table.to_csv(out / "effects.csv", index=False)
    n, m = int((distance["q_value"] < 0.05).sum()), len(table)
    most = int(distance["n_draws"].max())
    if n == 0 and most < min(n_null, m / 0.05):
        tell(
            f"A treatment of {m} that alone did something could not be told: its wells "
            f"and the controls of their plates make {most} draws at the most. More "
            "controls or replicates make more."
        )
    if n > m / 2:
        tell(
            "More than half of the treatments differ from the controls: so they would, "
            "too, if the controls lay in places of their own, such as a plate's edge."
        )
    print(
        f"Of {m} treatments, {n} differ from {options.negative} by energy distance, at "
        "a false discovery rate of 5 %."
    )
    differ = table[table["energy_distance_q_value"] < 0.05]
    if n:
        farthest = differ.nlargest(5, "energy_distance")[by].itertuples(index=False)
        print(
            "The farthest: "
            + ", ".join(f"{compound} at {dose:g}" for compound, dose in farthest)
            + "."
        )
    return most


def _write_compounds(
    options: argparse.Namespace,
    out: Path,
    X: np.ndarray,
    names: list[str],
    known: pd.DataFrame,
    images: ImageCollection | None,
    record: dict[str, Any],
) -> None:
    """What compounds do between two kinds of controls, and the report."""
    from gandl.report import write_report
    from gandl.scoring import DoseResponseScorer, PerturbationScorer
    from gandl.scoring._dose_response_scorer import many_hits

    # Not TypicalVariationNormalizer: of some dozen controls it keeps the directions in
    # which they vary, and most of what sets infected cells apart lies outside.
    scaler = ControlScaler(control=options.negative, prior_df=PRIOR_DF)
    scaled = scaler.fit_transform(X, known["kind"], batch=known["batch"])
    profiles = make_profiles(scaled, known, names=names)
    write_profiles(profiles, out / "wells.parquet")
    # Plates that are scaled are comparable: one axis, of all their controls. It scales
    # by itself, so that those which are held out are held out of both.
    axis = PerturbationScorer(
        negative=options.negative,
        positive=options.positive,
        scaler=scaler,
        axis="discriminant",
        pooled=True,
        poor_controls="ignore",  # the report tells, and so does the last line
    )
    scorer = DoseResponseScorer(
        perturbation=axis,
        controls_at_zero=not options.doses_alone,
        n_jobs=options.jobs,
    )
    scorer.fit(X, known["kind"], batch=known["batch"])
    table = write_report(
        out / "report.html",
        scorer,
        X,
        known,
        images=images,
        title=options.title,
        unit=options.unit,
        pixel_size=options.pixel_size,
        n_hits=options.hits,
        run=record,
    )
    lists = {name: table[name].map(json.dumps) for name in _LISTS}
    table.assign(**lists).to_csv(out / "compounds.csv", index=False)
    separation = scorer.perturbation_.separation_
    separation.to_csv(out / "controls.csv", index_label="plate")
    known_apart = separation["cohens_d"].notna()  # of others it was told before
    poor = separation.index[~separation["separate"] & known_apart]
    if len(poor):
        tell(
            f"Controls do not separate on plates {', '.join(map(str, poor))}: do not "
            "trust scores there."
        )
    calls = table["call"].value_counts()
    if told := many_hits(table["call"]):
        tell(f"{told} Leave out --positive then.")
    print(", ".join(f"{n} {call}" for call, n in calls.items()))


def _featurizer(options: argparse.Namespace) -> Any:
    return gandl.GANDLFeaturizer(
        preset=options.preset,
        intensity=options.intensity,
        image_size=options.image_size,
        batch_size=options.batch_size,
        max_minutes=options.minutes,
        checkpoint_dir=options.checkpoint,
        random_state=options.seed,
        verbose=True,
    )


def _load(path: Path) -> Any:
    return gandl.GANDLFeaturizer.load(path)


def _profiles(model: Any, images: ImageCollection, known: pd.DataFrame) -> pd.DataFrame:
    names, verbose = list(model.get_feature_names_out()), model.verbose
    embeddings = model.set_params(verbose=True).transform(images)
    model.set_params(verbose=verbose)  # as it is saved
    return make_profiles(embeddings, known, names=names)


_COMMANDS = {
    "fit": _fit,
    "embed": _embed,
    "score": _score,
    "screen": _screen,
    "generate": _generate,
}
