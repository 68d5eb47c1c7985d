"""The arguments of the command line."""

from __future__ import annotations

import argparse
import difflib
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import gandl

# What training takes where nothing else is said; a model that is there takes none.
_TRAINING = {"minutes": 20.0, "preset": "default", "intensity": "dataset", "seed": 0}
# What a command has said, for its record.
TOLD: list[str] = []
# Wells of its plate map that no image is of, for that too.
WITHOUT_IMAGES: list[dict[Any, Any]] = []
# What the report takes; without --positive there is none.
_REPORT = {"hits": 50, "unit": "µM", "title": "Screen"}


def complete(options: argparse.Namespace) -> None:
    """Fill in what training takes, and refuse what has no effect beside the rest."""
    if getattr(options, "sheet", None) and not options.plate_map:
        raise ValueError("--sheet is of the --plate-map: name that too.")
    hits = getattr(options, "hits", None)
    if hits is not None and hits < 1:
        raise ValueError(f"--hits is at least 1, got {hits}.")
    if getattr(options, "jobs", None) == 0:
        raise ValueError("--jobs is at least 1, or -1 for all cores, got 0.")
    out = options.out
    is_folder = options.command in ("score", "screen")
    if out.name in ("", "..") or (is_folder and out.is_symlink()):
        options.out = out.resolve()  # a folder that is replaced needs its own name
    for name in ("control", "negative", "positive", "compound", "concentration"):
        if isinstance(text := getattr(options, name, None), str):
            setattr(options, name, unicodedata.normalize("NFC", text))  # as tables are
    kind = getattr(options, "negative", None)
    if kind is not None and kind == options.positive:
        raise ValueError(f"--negative and --positive are both {kind!r}.")
    if kind is not None and options.positive is None:
        for name in ("doses_alone", "jobs", "pixel_size", *_REPORT):
            value = getattr(options, name)
            if value is not None and value is not False:
                raise ValueError(
                    f"--{name.replace('_', '-')} has no effect without --positive, "
                    "where there are no curves and no report: leave it out."
                )
    elif kind is not None:
        values = vars(options)
        values.update({n: v for n, v in _REPORT.items() if values[n] is None})
    size = getattr(options, "pixel_size", None)
    if size is not None and not size > 0:
        raise ValueError(f"--pixel-size is above 0, in micrometres, got {size:g}.")
    if not hasattr(options, "minutes"):
        return
    values = vars(options)
    others = ("image_size", "batch_size", "checkpoint")
    given = [n for n in (*_TRAINING, *others) if values[n] is not None]
    if values.get("model") is None:
        values.update({n: v for n, v in _TRAINING.items() if n not in given})
    elif given:
        name = given[0].replace("_", "-")
        raise ValueError(f"--model does not train: leave out --{name}.")


def refuse_unused(options: argparse.Namespace, source: str, *names: str) -> None:
    """Refuse options that a source of images has no use for."""
    for name in names:
        if vars(options)[name] is not None:
            raise ValueError(f"--{name} has no effect on {source}: leave it out.")


def tell(message: str) -> None:
    """Say something that is no result; the record has it too."""
    TOLD.append(message)
    with suppress(OSError):  # of a log whose disk is full: work goes on
        print(message, file=sys.stderr, flush=True)


class _Command(argparse.ArgumentParser):
    """A command's own parser: what it does not know, it refuses itself."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            names = list(self._option_string_actions)
            near = [option for option in names if option.startswith(name)]
            near = near if name.startswith("--") else []
            near = near or difflib.get_close_matches(name, names, 1, cutoff=0.75)
            meant = f"; is {near[0]} meant?" if len(near) == 1 else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return namespace, unknown


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gandl",
        description="Embeddings of microscopy images, learned without labels.",
    )
    parser.add_argument("--version", action="version", version=gandl.__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="command", parser_class=_Command
    )

    fit = _command(commands, "fit", "train a model on images")
    _add_images(fit)
    _add_training(fit)
    _add_out(fit, "file of the model, such as model.safetensors")

    embed = _command(commands, "embed", "embed images by a model")
    embed.add_argument("model", type=Path, help="file of gandl fit or screen")
    _add_images(embed)
    _add_plate_map(embed)
    embed.add_argument(
        "--rows-per-partition",
        type=int,
        metavar="N",
        help="of many images: a folder of parquet files of N rows each, which the "
        "same command continues; under torchrun each process takes its share",
    )
    _add_out(
        embed,
        "table of embeddings: .parquet, .csv or .csv.gz; with --rows-per-partition, a "
        "folder",
    )

    score = _command(commands, "score", "score compounds by embeddings")
    score.add_argument("profiles", type=Path, help="table or folder of gandl embed")
    _add_select(score)
    _add_batch(score)
    _add_plate_map(score)
    _add_scoring(score)
    _add_out(score, "folder of tables and report")

    screen = _command(commands, "screen", "all of it: train, embed, score, report")
    _add_images(screen)
    _add_plate_map(screen)
    _add_scoring(screen)
    _add_training(screen)
    screen.add_argument("--model", type=Path, help="do not train, take this model")
    _add_out(screen, "folder of model, tables and report")

    generate = _command(commands, "generate", "draw images")
    generate.add_argument("model", type=Path, help="file of gandl fit or screen")
    generate.add_argument("-n", type=int, default=16, help="how many (16)")
    generate.add_argument(
        "--truncation", type=float, default=1.0, help="below 1: more typical (1)"
    )
    generate.add_argument("--seed", type=int, default=0, help="seed (0)")
    _add_out(generate, "TIFF stack, .tif or .tiff")
    return parser


_EXAMPLES = {
    "fit": """
  gandl fit plates --pattern "{plate}/{well}_s{site}_w{channel}.tif" \\
      --minutes 20 --out model.safetensors""",
    "embed": """
  gandl embed model.safetensors load_data.csv --out images.parquet
  torchrun --nproc-per-node 4 -m gandl embed model.safetensors load_data.csv \\
      --rows-per-partition 1000 --out images""",
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


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:{_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


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
        help="folder of images (of OME-TIFFs or OME-Zarr stores alone too), OME-TIFF "
        "file, OME-Zarr store, load_data.csv, or a table with a column of paths",
    )
    group.add_argument(
        "--pattern",
        help="how files of a folder are named, such as {plate}/{well}_w{channel}.tif: "
        "{channel} joins the files of an image, any other {name} becomes a column; or "
        "rxrx, phenix, operetta, jump, imagexpress or cellvoyager (found out)",
    )
    group.add_argument(
        "--path",
        nargs="+",
        help="column of paths (path), or, where each channel is a file, columns",
    )
    group.add_argument(
        "--root",
        type=Path,
        help="where paths start, or where those of another machine lie (the folder of "
        "the table)",
    )
    group.add_argument(
        "--channels",
        nargs="+",
        help="channels to use, in order (all), and, but for a table with one column of "
        "paths, renamed: 1=DNA 2=actin",
    )
    for axis, what in (("z", "plane of stacks"), ("t", "time point")):
        group.add_argument(
            f"--{axis}",
            type=_plane,
            help=f"{what} to take, by its number, or max or mean of all",
        )
    group.add_argument(
        "--illumination",
        action="store_true",
        help="estimate the uneven light of each plate, and divide it out",
    )
    group.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="images that cannot be read: stop, or read all first and leave such ones "
        "out, listed in the record and the report (raise)",
    )
    _add_select(group)
    _add_batch(group)


def _plane(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _add_select(group: Any) -> None:
    group.add_argument(
        "--select", help="rows to use, by their columns: \"cell_type == 'HRCE'\" (all)"
    )


def _add_batch(group: Any) -> None:
    group.add_argument(
        "--batch", nargs="+", help="columns that together name a plate (plate)"
    )


def _add_plate_map(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("plate map")
    group.add_argument(
        "--plate-map",
        type=Path,
        help="csv, tsv, xlsx or parquet: a table with a column well, joined by all "
        "columns in common, or grids that look like the plate",
    )
    group.add_argument(
        "--sheet", nargs="+", help="sheets of a workbook that are the plate map (all)"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument("--control", required=True, help="column that names controls")
    group.add_argument(
        "--negative",
        required=True,
        help="its value of healthy wells, or of untreated ones where those are all",
    )
    group.add_argument(
        "--positive",
        help="its value of perturbed wells, without a compound; where there are none, "
        "leave it out: a table then says which treatments do anything",
    )
    group.add_argument("--compound", default="compound", help="column (compound)")
    group.add_argument(
        "--concentration", default="concentration", help="column (concentration)"
    )
    group.add_argument(
        "--vehicle",
        nargs="+",
        default=["DMSO"],
        help="compounds that are no treatment, as an empty field (DMSO)",
    )
    group.add_argument(
        "--doses-alone",
        action="store_true",
        help="fit curves without the untreated controls at concentration zero: where "
        "those fill a plate's edge, say",
    )
    group.add_argument(
        "--hits",
        type=int,
        help="hits shown with curve and images, compounds by dose (50)",
    )
    group.add_argument("--unit", help="of concentrations (µM)")
    group.add_argument("--pixel-size", type=float, help="micrometres a pixel")
    group.add_argument("--title", help="of the report (Screen)")
    group.add_argument("--jobs", type=int, help="processes that fit curves (1)")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--minutes", type=float, help="of training (20)")
    group.add_argument(
        "--preset",
        choices=["default", "paper"],
        help="paper: GAN-DL as published, for GPUs (default)",
    )
    group.add_argument(
        "--intensity",
        choices=["dataset", "image", "plate"],
        help="what the brightness range is taken of (dataset)",
    )
    group.add_argument(
        "--image-size",
        type=int,
        help="height of its crops, a power of two (64, or 32 of smaller images)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        help="crops in a training step (32); under torchrun, 16 a process",
    )
    group.add_argument("--seed", type=int, help="seed (0)")
    group.add_argument(
        "--checkpoint",
        type=Path,
        help="folder for checkpoints, from which the same command continues",
    )
