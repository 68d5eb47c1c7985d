"""The command line: the same estimators, for people who script in a shell."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import gandl  # whose classes, and with them torch, are loaded where they are used
from gandl._arguments import make_parser
from gandl._files import is_writer, whole_file
from gandl._plate_map import (
    join_plate_map,
    read_plate_map,
    several_images,
    well_kinds,
)
from gandl._run_record import beside, inputs, make_record, write_record
from gandl._tables import read_table, with_usual_names
from gandl.images import ImageCollection
from gandl.profiles import (
    ControlScaler,
    aggregate,
    feature_columns,
    make_profiles,
    read_profiles,
    write_profiles,
)

# What scoring and screening leave in their folder.
_OUTPUTS = {
    "compounds.csv",
    "controls.csv",
    "images.parquet",
    "model.safetensors",
    "report.html",
    "run.json",
    "wells.parquet",
}
_LISTS = ["concentrations", "on", "off", "calls"]  # of a compound, by dose


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
        said on standard error; wrong usage leaves with 2, Ctrl-C with 130.

    Examples
    --------
    >>> from gandl.cli import main
    >>> main(["embed", "missing.safetensors", "images", "--out", "wells.csv"])
    1
    """
    options = make_parser().parse_args(arguments)
    try:
        (_COMMANDS[options.command] if is_writer() else _work_along)(options)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        _tell(f"gandl {options.command}: {error}")
        return 1
    except (KeyboardInterrupt, SystemExit) as interrupt:  # SystemExit: of SIGTERM
        kept = getattr(options, "checkpoint", None)
        kept = kept if kept and any(kept.glob("step-*")) else None
        remedy = f" The same command continues from {kept}." if kept else ""
        _tell(f"gandl {options.command}: interrupted.{remedy}")
        return 130 if isinstance(interrupt, KeyboardInterrupt) else 143
    return 0


def _fit(options: argparse.Namespace) -> None:
    out = _free(options)
    images, _ = _images(options)
    images = _with_plate_range(images, options.intensity, options)
    model = _featurizer(options).fit(images)
    model.save(out, overwrite=options.overwrite)
    write_record(beside(out), make_record(options, model, images))
    print(f"Model: {out}")


def _work_along(options: argparse.Namespace) -> None:
    """What further processes under torchrun do: train or embed, and write no result."""
    if getattr(options, "rows_per_partition", None) is not None:
        _embed_partitions(options)
    elif hasattr(options, "minutes") and not getattr(options, "model", None):
        images, _ = _images(options)
        _featurizer(options).fit(_with_plate_range(images, options.intensity, options))


def _embed(options: argparse.Namespace) -> None:
    if options.rows_per_partition is not None:
        _embed_partitions(options)
        return
    out = _free(options)
    model = _load(options.model)
    images, known = _images(options)
    images = _with_plate_range(images, model.intensity, options)
    profiles = _profiles(model, images, known)
    write_profiles(profiles, out, overwrite=options.overwrite)
    write_record(beside(out), make_record(options, model, images))
    print(f"Embeddings of {len(profiles)} images: {out}")


def _embed_partitions(options: argparse.Namespace) -> None:
    """Embed this process's share of the partitions."""
    if options.overwrite:
        raise ValueError("--rows-per-partition continues: leave out --overwrite.")
    model = _load(options.model).set_params(verbose=True)
    images, known = _images(options)
    images = _with_plate_range(images, model.intensity, options)
    how = {"metadata": known, "rows_per_partition": options.rows_per_partition}
    gandl.embed_to_parquet(model, images, options.out, **how)
    if is_writer():
        write_record(beside(options.out), make_record(options, model, images))
        print(f"Embeddings of {len(images)} images: {options.out}")


def _score(options: argparse.Namespace) -> None:
    profiles = read_profiles(options.profiles)
    features = profiles[feature_columns(profiles)]
    known = with_usual_names(profiles.drop(columns=list(features)))
    known = _with_plates(_with_plate_map(known, options), options)
    rows = _selected(known, options)
    features, known = features.iloc[rows], known.iloc[rows]
    _check_wells(known, options)
    with _new_folder(options) as out:
        record = make_record(options)
        _score_wells(options, out, make_profiles(features, known), None, record)


def _screen(options: argparse.Namespace) -> None:
    if options.model and options.checkpoint:
        raise ValueError("--model does not train: leave out --checkpoint.")
    images, known = _images(options)
    # What is wrong is to be told before hours of training.
    _check_wells(known, options)
    with _new_folder(options) as out:
        model = _load(options.model) if options.model else _featurizer(options)
        images = _with_plate_range(images, model.intensity, options)
        if not options.model:
            model.fit(images)
        model.save(out / "model.safetensors")
        profiles = _profiles(model, images, known)
        write_profiles(profiles, out / "images.parquet")
        record = make_record(options, model, images)
        _score_wells(options, out, profiles, images, record)


def _generate(options: argparse.Namespace) -> None:
    import tifffile

    out = _free(options)
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
    from gandl.report import write_report
    from gandl.scoring import DoseResponseScorer, PerturbationScorer

    wells = aggregate(profiles, ["plate", "well"])
    names = feature_columns(wells)
    known = with_usual_names(wells.drop(columns=names))
    kinds = ["kind", "compound", "concentration"]
    known[kinds] = _well_kinds(known, options)[kinds]
    known["batch"] = known["plate"]
    # Not TypicalVariationNormalizer: of some dozen controls it keeps the directions in
    # which they vary, and most of what sets infected cells apart lies outside.
    scaler = ControlScaler(control=options.negative)
    X = scaler.fit_transform(
        wells[names].to_numpy(), known["kind"], batch=known["batch"]
    )
    write_profiles(make_profiles(X, known), out / "wells.parquet")
    # After the normalisation plates are comparable: one axis, of all their controls.
    axis = PerturbationScorer(
        negative=options.negative,
        positive=options.positive,
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
    first = ~profiles.duplicated(["Metadata_Plate", "Metadata_Well"]).to_numpy()
    table = write_report(
        out / "report.html",
        scorer,
        X,
        known,
        images=None if images is None else images[np.flatnonzero(first)],
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
    write_record(out / "run.json", record)
    poor = separation.index[~separation["separate"]]
    if len(poor):
        _tell(
            f"Controls do not separate on plates {', '.join(map(str, poor))}: do not "
            "trust scores there."
        )
    print(", ".join(f"{n} {call}" for call, n in table["call"].value_counts().items()))


def _featurizer(options: argparse.Namespace) -> Any:
    return gandl.GANDLFeaturizer(
        preset=options.preset,
        intensity=options.intensity,
        max_minutes=options.minutes,
        checkpoint_dir=options.checkpoint,
        random_state=options.seed,
        verbose=True,
    )


def _load(path: Path) -> Any:
    return gandl.GANDLFeaturizer.load(path)


def _profiles(model: Any, images: ImageCollection, known: pd.DataFrame) -> pd.DataFrame:
    model.set_params(verbose=True)  # as a model that was loaded may not be
    names = list(model.get_feature_names_out())
    return make_profiles(model.transform(images), known, names=names)


def _images(options: argparse.Namespace) -> tuple[ImageCollection, pd.DataFrame]:
    """The selected images of a folder or a table, and what is known of each."""
    source = options.images
    if not source.exists():
        raise FileNotFoundError(f"There is no {str(source)!r}.")
    if any((source / name).exists() for name in (".zattrs", "zarr.json")):
        images = _from_ome(ImageCollection.from_ome_zarr, options)
    elif source.name.lower().endswith((".ome.tif", ".ome.tiff")):
        images = _from_ome(ImageCollection.from_ome_tiff, options)
    elif source.is_dir():
        images = ImageCollection.from_folder(
            source,
            options.pattern,
            channels=_channel_names(options),
            z=options.z,
            t=options.t,
            on_error=options.on_error,
        )
    else:
        images = _from_table(source, options)
    if options.illumination:
        images = images.with_illumination(by=_plate_columns(images, options))
    if len(skipped := images.skipped):
        first = skipped.iloc[0]
        _tell(
            f"Images left out: {len(skipped)}; the first: {first['path']!r}: "
            f"{first['reason']}"
        )
    known = _with_plate_map(with_usual_names(images.metadata), options)
    known = _with_plates(known, options)
    rows = _selected(known, options)
    return images[rows], known.iloc[rows]


def _with_plate_range(
    images: ImageCollection, intensity: str, options: argparse.Namespace
) -> ImageCollection:
    """Take each plate's intensity range from its images, if ``intensity`` is that."""
    if intensity != "plate":
        return images
    return images.with_intensity_range(by=_plate_columns(images, options))


def _plate_columns(
    images: ImageCollection, options: argparse.Namespace
) -> list[str] | None:
    """The columns of the images' own metadata that name a plate; None: all are one."""
    usual = dict(zip(with_usual_names(images.metadata), images.metadata, strict=True))
    names = getattr(options, "batch", None) or ["plate"]
    if names == ["plate"] and "plate" not in usual:
        return None
    return [usual.get(name, name) for name in names]


def _selected(known: pd.DataFrame, options: argparse.Namespace) -> np.ndarray:
    """Numbers of the rows that --select takes."""
    if not options.select:
        return np.arange(len(known))
    try:
        rows = known.reset_index(drop=True).query(options.select).index.to_numpy()
    except Exception as error:  # pandas raises many kinds
        raise ValueError(
            f"--select {options.select!r}: {error}. There are the columns "
            f"{list(known)}."
        ) from None
    if not len(rows):
        raise ValueError(f"--select {options.select!r} takes no row.")
    return rows


def _from_ome(
    read: Callable[..., ImageCollection], options: argparse.Namespace
) -> ImageCollection:
    images = read(options.images, z=options.z, t=options.t, on_error=options.on_error)
    names = _channel_names(options)
    if isinstance(names, dict):
        raise ValueError("--channels does not rename those of OME files.")
    return images.with_channels(names) if names else images


def _from_table(source: Path, options: argparse.Namespace) -> ImageCollection:
    table = read_table(source)
    root = options.root or source.parent
    names = _channel_names(options)
    how: Any = {"z": options.z, "t": options.t, "on_error": options.on_error}
    if any(name.startswith(("FileName_", "URL_")) for name in map(str, table)):
        return ImageCollection.from_load_data(
            source, root=options.root, channels=names, **how
        )
    if isinstance(names, dict):
        raise ValueError("--channels does not rename those of a table of paths.")
    images = ImageCollection.from_table(table, path=options.path, root=root, **how)
    return images.with_channels(names) if names else images


def _channel_names(options: argparse.Namespace) -> list[str] | dict[str, str] | None:
    """The channels to use: as they are, or renamed by "1=DNA 2=actin"."""
    given: list[str] | None = options.channels
    if not given or not any("=" in name for name in given):
        return given
    pairs = [name.partition("=") for name in given]
    if not all(new for _, _, new in pairs):
        raise ValueError(f"--channels {' '.join(given)}: rename all or none, as 1=DNA.")
    return {old: new for old, _, new in pairs}


def _with_plate_map(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    path = getattr(options, "plate_map", None)
    if path is None:
        return known
    joined, unused = join_plate_map(known, read_plate_map(path))
    if unused:
        _tell(f"In the plate map, but without images: {unused}.")
    return joined


def _with_plates(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Make sure of a column of plates, of one name a plate."""
    columns = getattr(options, "batch", None) or ["plate"]
    if columns == ["plate"] and "plate" not in known:
        return known.assign(plate="1")
    missing = [name for name in columns if name not in known]
    if missing:
        raise ValueError(f"There is no column {missing[0]!r}, but {list(known)}.")
    names = known[columns]
    without = np.flatnonzero(names.isna().any(axis=1))
    if len(without):
        raise ValueError(f"Row {without[0]} has no {' and '.join(columns)}.")
    return known.assign(plate=names.astype(str).agg("/".join, axis=1))


def _check_wells(known: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse wells that cannot be scored, and tell which are left out."""
    kinds = _well_kinds(known, options)
    _check_sites(known)
    wells = known[["plate", "well"]].assign(**kinds).drop_duplicates(["plate", "well"])
    for plate, mine in wells.groupby("plate"):
        counts = mine["kind"].value_counts()
        n = counts.get(options.negative, 0)
        if n < 3:  # a standard deviation of two values is none
            raise ValueError(
                f"Plate {plate} has too few wells that are controls "
                f"{options.negative!r}: {n}. A plate needs three; others can be left "
                "out by --select."
            )
        n = counts.get(options.positive, 0)
        if n < 2:
            _tell(
                f"Plate {plate} has too few wells that are controls "
                f"{options.positive!r} to say whether its controls separate: {n}."
            )
    if n := int(wells["left_out"].sum()):
        _tell(
            f"Left out: {n} wells with a compound whose {options.control} is not "
            f"{options.positive!r}."
        )


def _check_sites(known: pd.DataFrame) -> None:
    """Refuse images of different plates that have one name, which would be averaged."""
    place, differ = several_images(known)
    if not place:
        return
    names = " and ".join(differ)
    if "site" not in known:
        if differ:
            _tell(f"Images of one well, which differ in {names}, are averaged.")
        return
    if not differ:
        raise ValueError(f"There are several images of {place}: keep one of them.")
    raise ValueError(
        f"There are several images of {place}, which differ in {names}: where that "
        f"makes them different plates, say --batch {' '.join(differ)} plate; otherwise "
        "take some of them by --select."
    )


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


def _well_kinds(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    if "well" not in known:
        raise ValueError(f'There is no column "well", but {list(known)}.')
    return well_kinds(
        known,
        control=options.control,
        negative=options.negative,
        positive=options.positive,
        compound=options.compound,
        concentration=options.concentration,
        vehicle=options.vehicle,
    )


def _free(options: argparse.Namespace) -> Path:
    out: Path = options.out
    if out.exists() and not options.overwrite:
        raise FileExistsError(f"{str(out)!r} exists: name another, or --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def _new_folder(options: argparse.Namespace) -> Iterator[Path]:
    """A folder that takes its place once it is complete."""
    final = _free(options)
    if final.exists():
        others = sorted({entry.name for entry in final.iterdir()} - _OUTPUTS)
        if others:
            raise FileExistsError(
                f"{str(final)!r} has {others[0]!r}, which was not written by gandl: it "
                "is not overwritten. Name another folder."
            )
        for path in inputs(options).values():
            if final.resolve() in path.resolve().parents:
                raise FileExistsError(
                    f"{str(path)!r} is to be read, and lies in --out, which is to be "
                    "overwritten: name another folder."
                )
    part = final.with_name(f"{final.name}.incomplete.{uuid.uuid4().hex[:8]}")
    part.mkdir()
    try:
        yield part
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
    except BaseException:
        # Hours of training may be in it.
        if any(part.iterdir()):
            _tell(f"What was done so far is in {part}")
        else:
            part.rmdir()
        raise
    print(f"Results: {final}")
    if (final / "report.html").is_file():
        print(f"Report:  {final / 'report.html'}")


_COMMANDS = {
    "fit": _fit,
    "embed": _embed,
    "score": _score,
    "screen": _screen,
    "generate": _generate,
}
