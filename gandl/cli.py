"""The command line: the same estimators, for people who script in a shell."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from gandl._plate_map import join_plate_map, read_table, well_kinds, with_usual_names
from gandl.images import ImageCollection
from gandl.profiles import (
    TypicalVariationNormalizer,
    aggregate,
    feature_columns,
    make_profiles,
    read_profiles,
    write_profiles,
)

_PACKAGES = ("gandl", "numpy", "pandas", "scipy", "scikit-learn", "torch", "tifffile")


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
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, ImportError) as error:
        print(f"gandl {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gandl {options.command}: interrupted.", file=sys.stderr)
        return 130
    return 0


def _fit(options: argparse.Namespace) -> None:
    out = _free(options)
    images, _ = _images(options)
    model = _featurizer(options).fit(images)
    model.save(out, overwrite=options.overwrite)
    _write_record(_beside(out), options, model, images)
    print(f"Model: {out}")


def _embed(options: argparse.Namespace) -> None:
    out = _free(options)
    model = _load(options.model)
    images, known = _images(options)
    profiles = _profiles(model, images, known)
    write_profiles(profiles, out, overwrite=options.overwrite)
    _write_record(_beside(out), options, model, images)
    print(f"Embeddings of {len(profiles)} images: {out}")


def _score(options: argparse.Namespace) -> None:
    profiles = read_profiles(options.profiles)
    features = profiles[feature_columns(profiles)]
    known = with_usual_names(profiles.drop(columns=list(features)))
    known = _with_plates(_with_plate_map(known, options), options)
    _well_kinds(known, options)
    with _new_folder(options) as out:
        record = _write_record(out / "run.json", options)
        _score_wells(options, out, make_profiles(features, known), None, record)


def _screen(options: argparse.Namespace) -> None:
    images, known = _images(options)
    # A wrong name is to be told before hours of training.
    _well_kinds(known, options)
    with _new_folder(options) as out:
        model = _load(options.model) if options.model else _featurizer(options)
        if not options.model:
            model.fit(images)
        model.save(out / "model.safetensors")
        profiles = _profiles(model, images, known)
        write_profiles(profiles, out / "images.parquet")
        record = _write_record(out / "run.json", options, model, images)
        _score_wells(options, out, profiles, images, record)


def _generate(options: argparse.Namespace) -> None:
    import tifffile

    out = _free(options)
    model = _load(options.model)
    made = model.generate(
        options.n, truncation=options.truncation, random_state=options.seed
    )
    part = out.with_name(f".{uuid.uuid4().hex}.tif")
    try:
        # One page a channel of an image, as ImageJ has stacks.
        tifffile.imwrite(part, made, imagej=True, metadata={"axes": "TCYX"})
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    _write_record(_beside(out), options, model)
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
    known[["kind", "compound", "concentration"]] = _well_kinds(known, options)
    known["batch"] = known["plate"]
    n_controls = int((known["kind"] == options.negative).sum())
    most = min(len(names), n_controls - known["batch"].nunique())
    normalizer = TypicalVariationNormalizer(
        control=options.negative, n_components=max(1, min(options.components, most))
    )
    X = normalizer.fit_transform(
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
    scorer = DoseResponseScorer(perturbation=axis, n_jobs=options.jobs)
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
        run=record,
    )
    table.to_csv(out / "compounds.csv", index=False)
    separation = scorer.perturbation_.separation_
    separation.to_csv(out / "controls.csv")
    poor = separation.index[~separation["separate"]]
    if len(poor):
        print(
            f"Controls do not separate on plates {', '.join(map(str, poor))}: do not "
            "trust scores there.",
            file=sys.stderr,
        )
    print(", ".join(f"{n} {call}" for call, n in table["call"].value_counts().items()))


def _featurizer(options: argparse.Namespace) -> Any:
    from gandl import GANDLFeaturizer

    return GANDLFeaturizer(
        preset=options.preset,
        intensity=options.intensity,
        max_minutes=options.minutes,
        random_state=options.seed,
        verbose=True,
    )


def _load(path: Path) -> Any:
    from gandl import GANDLFeaturizer

    return GANDLFeaturizer.load(path)


def _profiles(model: Any, images: ImageCollection, known: pd.DataFrame) -> pd.DataFrame:
    if model.intensity == "plate":
        images = images.with_intensity_range(by="plate")
    names = list(model.get_feature_names_out())
    return make_profiles(model.transform(images), known, names=names)


def _images(options: argparse.Namespace) -> tuple[ImageCollection, pd.DataFrame]:
    """The images of a folder or a table, and what is known of each."""
    source = options.images
    if not source.exists():
        raise FileNotFoundError(f"There is no {str(source)!r}.")
    if not source.is_dir():
        images = _from_table(source, options)
        if isinstance(_channel_names(options), dict):
            raise ValueError("--channels renames those of a folder only.")
    elif options.pattern:
        images = ImageCollection.from_folder(
            source, options.pattern, channels=_channel_names(options)
        )
    else:
        raise ValueError(
            f"{str(source)!r} is a folder: say how its files are named, as in "
            '--pattern "{plate}/{well}_s{site}_w{channel}.tif".'
        )
    if options.channels:
        names = _channel_names(options)
        images = images.with_channels(
            list(names.values() if isinstance(names, dict) else names or ())
        )
    if getattr(options, "intensity", None) == "plate":
        images = images.with_intensity_range(by="plate")
    known = _with_plate_map(with_usual_names(images.metadata), options)
    return images, _with_plates(known, options)


def _from_table(source: Path, options: argparse.Namespace) -> ImageCollection:
    table = read_table(source)
    root = options.root or source.parent
    files = [name for name in map(str, table) if name.startswith("FileName_")]
    if not files:
        return ImageCollection.from_table(table, path=options.path, root=root)
    # CellProfiler's load_data.csv: a file and its folder for each channel.
    channels = {name.removeprefix("FileName_"): name for name in files}
    for channel, name in channels.items():
        folder = f"PathName_{channel}"
        if folder in table:
            table[name] = table.pop(folder) + "/" + table[name]
    return ImageCollection.from_table(table, path=channels, root=root)


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
    return known if path is None else join_plate_map(known, read_table(path))


def _with_plates(known: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Make sure of a column of plates, of one name a plate."""
    columns = getattr(options, "batch", None) or ["plate"]
    if columns == ["plate"] and "plate" not in known:
        return known.assign(plate="1")
    missing = [name for name in columns if name not in known]
    if missing:
        raise ValueError(f"There is no column {missing[0]!r}, but {list(known)}.")
    return known.assign(plate=known[columns].agg("/".join, axis=1))


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


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".run.json")


@contextmanager
def _new_folder(options: argparse.Namespace) -> Iterator[Path]:
    """A folder that takes its place once it is complete."""
    final = _free(options)
    if final.exists() and not (final / "run.json").is_file():
        raise FileExistsError(
            f"{str(final)!r} was not written by gandl, and is not overwritten."
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
            print(f"What was done so far is in {part}", file=sys.stderr)
        else:
            part.rmdir()
        raise
    print(f"Results: {final}")
    if (final / "report.html").is_file():
        print(f"Report:  {final / 'report.html'}")


def _write_record(
    path: Path,
    options: argparse.Namespace,
    model: Any = None,
    images: ImageCollection | None = None,
) -> dict[str, Any]:
    """Write what was run beside its output: versions, parameters, seed, data."""
    shown = {k: v for k, v in vars(options).items() if k != "run"}
    record: dict[str, Any] = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()},
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    if images is not None:
        # Of names, sizes and times of the files, which is what notices a changed one.
        record["data"] = {"images": len(images), "fingerprint": joblib.hash(images)}
    if model is not None:
        record["model"] = {
            "parameters": model.get_params(),
            "images_seen": model.n_images_seen_,
            "channels": list(model.channels_in_ or ()),
        }
    part = path.with_name(f".{uuid.uuid4().hex}.json")
    part.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(part, path)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gandl",
        description="Embeddings of microscopy images, learned without labels.",
    )
    parser.add_argument("--version", action="version", version=version("gandl"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    fit = _command(commands, "fit", _fit, "train a model on images", _EXAMPLES["fit"])
    _add_images(fit)
    _add_training(fit)
    _add_out(fit, "file of the model, such as model.safetensors")

    embed = _command(
        commands, "embed", _embed, "embed images by a model", _EXAMPLES["embed"]
    )
    embed.add_argument("model", type=Path, help="file that gandl fit wrote")
    _add_images(embed)
    _add_plate_map(embed)
    _add_out(embed, "table of embeddings: .parquet, .csv or .csv.gz")

    score = _command(
        commands, "score", _score, "score compounds by embeddings", _EXAMPLES["score"]
    )
    score.add_argument("profiles", type=Path, help="table that gandl embed wrote")
    _add_plate_map(score)
    _add_scoring(score)
    _add_out(score, "folder of tables and report")

    screen = _command(
        commands,
        "screen",
        _screen,
        "all of it: train, embed, score, report",
        _EXAMPLES["screen"],
    )
    _add_images(screen)
    _add_plate_map(screen)
    _add_scoring(screen)
    _add_training(screen)
    screen.add_argument("--model", type=Path, help="do not train, take this model")
    _add_out(screen, "folder of model, tables and report")

    generate = _command(
        commands, "generate", _generate, "draw images", _EXAMPLES["generate"]
    )
    generate.add_argument("model", type=Path, help="file that gandl fit wrote")
    generate.add_argument("-n", type=int, default=16, help="how many (16)")
    generate.add_argument(
        "--truncation", type=float, default=1.0, help="below 1: more typical (1)"
    )
    generate.add_argument("--seed", type=int, default=0, help="seed (0)")
    _add_out(generate, "TIFF stack")
    return parser


_EXAMPLES = {
    "fit": """
  gandl fit plates --pattern "{plate}/{well}_s{site}_w{channel}.tif" \\
      --minutes 20 --out model.safetensors""",
    "embed": """
  gandl embed model.safetensors load_data.csv --out images.parquet""",
    "score": """
  gandl score images.parquet --plate-map plate_map.csv \\
      --control disease_condition --negative healthy --positive infected \\
      --out scores""",
    "screen": """
  gandl screen plates --pattern "{plate}/{well}_s{site}_w{channel}.tif" \\
      --plate-map plate_map.csv --control disease_condition \\
      --negative healthy --positive infected --minutes 20 --out results""",
    "generate": """
  gandl generate model.safetensors -n 16 --out generated.tif""",
}


def _command(
    commands: Any, name: str, run: Any, text: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--out", type=Path, required=True, help=text)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there"
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "images",
        type=Path,
        help="folder of images, load_data.csv, or a table with a column of paths",
    )
    group.add_argument(
        "--pattern",
        help='names of files in the folder: "{plate}/{well}_w{channel}.tif"',
    )
    group.add_argument("--path", default="path", help="column of paths (path)")
    group.add_argument(
        "--root", type=Path, help="where paths start (the folder of the table)"
    )
    group.add_argument(
        "--channels",
        nargs="+",
        help="channels to use, in order (all); of a folder also renamed: 1=DNA 2=actin",
    )


def _add_plate_map(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("plate map")
    group.add_argument(
        "--plate-map",
        type=Path,
        help="table (csv, tsv) with a column well; joined by all columns in common",
    )
    group.add_argument(
        "--batch", nargs="+", help="columns that together name a plate (plate)"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument("--control", required=True, help="column that names controls")
    group.add_argument("--negative", required=True, help="its value of healthy wells")
    group.add_argument(
        "--positive", required=True, help="its value of untreated, perturbed wells"
    )
    group.add_argument("--compound", default="compound", help="column (compound)")
    group.add_argument(
        "--concentration", default="concentration", help="column (concentration)"
    )
    group.add_argument(
        "--vehicle", nargs="+", default=["DMSO"], help="compounds that are none (DMSO)"
    )
    group.add_argument(
        "--components", type=int, default=40, help="of the normalisation, at most (40)"
    )
    group.add_argument("--unit", default="µM", help="of concentrations (µM)")
    group.add_argument("--pixel-size", type=float, help="micrometres a pixel")
    group.add_argument("--title", default="Screen", help="of the report (Screen)")
    group.add_argument("--jobs", type=int, help="processes that fit curves (1)")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--minutes", type=float, default=20, help="of training (20)")
    group.add_argument(
        "--preset", default="default", choices=["default", "paper"], help="(default)"
    )
    group.add_argument(
        "--intensity",
        default="dataset",
        choices=["dataset", "image", "plate"],
        help="what the brightness range is taken of (dataset)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed (0)")
