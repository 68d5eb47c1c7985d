"""`load_rxrx`: RxRx19a and RxRx1 on disk, as Recursion publishes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from gandl._tables import read_table
from gandl._warnings import warn

if TYPE_CHECKING:
    from gandl.images import ImageCollection

Choice = str | int | Sequence[str | int] | None

METADATA, EMBEDDINGS = "metadata.csv", "embeddings.csv"
_COMMON = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site")
_N_EXAMPLES = 5
_ROWS_AT_ONCE = 5000


class Kind(NamedTuple):
    """What is published of one data set."""

    name: str  # also of the folder in its archives
    columns: tuple[str, ...]  # beside the common ones
    numbers: tuple[str, ...]
    stains: tuple[str, ...]  # w1, w2, ...


RXRX19A = Kind(
    "RxRx19a",
    ("disease_condition", "treatment", "treatment_conc", "SMILES"),
    ("treatment_conc",),
    ("Hoechst", "ConA", "phalloidin", "Syto14", "WGA"),
)
RXRX1 = Kind(
    "rxrx1",
    ("dataset", "well_type", "sirna", "sirna_id"),
    ("sirna_id",),
    ("Hoechst", "ConA", "phalloidin", "Syto14", "MitoTracker", "WGA"),
)


def load_rxrx(
    root: str | os.PathLike[str],
    *,
    experiments: Choice = None,
    plates: Choice = None,
    wells: Choice = None,
    cell_types: Choice = None,
    missing: str = "raise",
) -> ImageCollection:
    """Open a copy of RxRx19a or RxRx1 on disk as a collection of images.

    Which of the two it is, and which of RxRx1's two path schemes it follows, is seen
    from the files. No image is read.

    Parameters
    ----------
    root : str or path-like
        The folder that holds "metadata.csv" and the images, or one that holds the
        folder "RxRx19a" or "rxrx1", as the published archives unpack.
    experiments : str or sequence of str, default=None
        The experiments to open, such as "HRCE-1". By default all, here and below.
    plates : str, int or sequence of them, default=None
        The plates: a number within each experiment (1), or the name of one
        ("HRCE-1_1").
    wells : str or sequence of str, default=None
        The wells: a place on each plate ("AA02"), or a value of "well_id", which is
        one well of one plate ("HRCE-1_1_AA02").
    cell_types : str or sequence of str, default=None
        The cell types, such as "HRCE".
    missing : {"raise", "drop"}, default="raise"
        What becomes of an image in the metadata that is not whole on disk. "raise": an
        error. "drop": it is left out; with a warning if some of its channels are there.

    Returns
    -------
    ImageCollection
        One row a site, 8-bit, in the order of "metadata.csv". RxRx19a has the channels
        Hoechst, ConA, phalloidin, Syto14 and WGA, 1024 x 1024 pixels of 0.65 um; RxRx1
        has Hoechst, ConA, phalloidin, Syto14, MitoTracker and WGA, 512 x 512 pixels.

    Raises
    ------
    FileNotFoundError
        If there is no metadata.csv, or images are missing.
    ValueError
        If the metadata are of neither set, or nothing is as chosen.

    See Also
    --------
    fetch_rxrx19a : Fetch the metadata and chosen images.
    load_rxrx_embeddings : The published embeddings, as profiles.

    Notes
    -----
    The metadata are the published columns, text but for "treatment_conc" (uM) and
    "sirna_id"; an empty field is missing. One column differs: the published number of
    a plate is unique in its experiment alone, and what groups by "plate" would mix
    plates. So "plate" is unique here ("HRCE-1_1", the beginning of the well_id), and
    the number is in "plate_number".

    Image files are ``images/{experiment}/Plate{n}/{well}_s{site}_w{channel}.png``; in
    copies of RxRx1 made before August 2020 (the CellSignal competition),
    ``images/{dataset}/{experiment}/...`` or ``{dataset}/{experiment}/...``, where the
    dataset is "train" or "test". Such a copy needs the metadata.csv of today, which
    :func:`fetch_rxrx1` brings. The smaller RGB images of RxRx1 that WILDS gives out
    have no stains to tell apart and are not opened.

    Recursion's descriptions do not say which stain is w5 or w6 of RxRx1. Its starter
    code draws w5 magenta and w6 yellow, and the caption of its picture has mitochondria
    magenta and the Golgi apparatus yellow: hence the order here. Some third parties
    have the two the other way round.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from gandl.datasets import load_rxrx
    >>> columns = (
    ...     "site_id,well_id,cell_type,experiment,plate,well,site,disease_condition,"
    ...     "treatment,treatment_conc,SMILES"
    ... )
    >>> site = "HRCE-1_1_AA02_1,HRCE-1_1_AA02,HRCE,HRCE-1,1,AA02,1,Mock,,,"
    >>> with tempfile.TemporaryDirectory() as root:
    ...     with open(f"{root}/metadata.csv", "w") as file:
    ...         _ = file.write(columns + chr(10) + site)
    ...     os.makedirs(f"{root}/images/HRCE-1/Plate1")
    ...     for w in range(1, 6):
    ...         image = Image.fromarray(np.zeros((8, 8), "uint8"))
    ...         image.save(f"{root}/images/HRCE-1/Plate1/AA02_s1_w{w}.png")
    ...     X = load_rxrx(root, wells="AA02")
    >>> X.shape, X.channels[:2]
    ((1, 5, 8, 8), ('Hoechst', 'ConA'))
    >>> X.metadata.loc[0, ["plate", "disease_condition"]].tolist()
    ['HRCE-1_1', 'Mock']
    """
    from gandl.images import ImageCollection

    if missing not in ("raise", "drop"):
        raise ValueError(f'missing is "raise" or "drop", got {missing!r}.')
    kind, folder, table = read_metadata(root)
    table = choose(
        table,
        experiments=experiments,
        plates=plates,
        wells=wells,
        cell_types=cell_types,
    )
    paths, is_there = image_files(folder, table, len(kind.stains))
    whole = is_there.all(axis=1)
    if missing == "drop":
        _warn_of_parts(paths, is_there)
    if not whole.any() or (missing == "raise" and not whole.all()):
        first = str(folder / paths[~is_there][0])
        raise FileNotFoundError(
            f"{np.sum(~whole)} of {len(table)} images in the metadata are not whole on "
            f"disk: {first!r} is the first file that is missing. Fetch them, or choose "
            "experiments, plates or wells that are there"
            + (', or pass missing="drop".' if whole.any() else ".")
        )
    columns = {stain: f"path_w{w + 1}" for w, stain in enumerate(kind.stains)}
    files = pd.DataFrame(paths, columns=list(columns.values()))
    return ImageCollection.from_table(
        pd.concat([table, files], axis=1).iloc[np.flatnonzero(whole)],
        path=columns,
        root=folder,
    )


def load_rxrx_embeddings(
    root: str | os.PathLike[str],
    *,
    experiments: Choice = None,
    plates: Choice = None,
    wells: Choice = None,
    cell_types: Choice = None,
) -> pd.DataFrame:
    """Read the published embeddings of RxRx19a or RxRx1 as profiles.

    Parameters
    ----------
    root : str or path-like
        The folder that holds "metadata.csv" and "embeddings.csv", or one that holds
        the folder "RxRx19a" or "rxrx1".
    experiments, plates, wells, cell_types : str, int or sequence, default=None
        What to read, as for :func:`load_rxrx`. By default all: 305,520 rows of 1024
        numbers are 1.3 GB.

    Returns
    -------
    DataFrame
        One row a site, in the order of "metadata.csv": the metadata, their names after
        "Metadata_", and the embedding (1024 columns in RxRx19a, 128 in RxRx1), float32.
        A site without an embedding is left out, with a warning.

    Raises
    ------
    FileNotFoundError
        If there is no metadata.csv or no embeddings.csv.
    ValueError
        If a file is not as published, or nothing is as chosen.

    See Also
    --------
    gandl.profiles.aggregate : Average sites to wells, ``["plate", "well"]``.

    Examples
    --------
    >>> import tempfile
    >>> from gandl.datasets import load_rxrx_embeddings
    >>> columns = (
    ...     "site_id,well_id,cell_type,experiment,plate,well,site,disease_condition,"
    ...     "treatment,treatment_conc,SMILES"
    ... )
    >>> site = "HRCE-1_1_AA02_1,HRCE-1_1_AA02,HRCE,HRCE-1,1,AA02,1,Mock,,,"
    >>> with tempfile.TemporaryDirectory() as root:
    ...     with open(f"{root}/metadata.csv", "w") as file:
    ...         _ = file.write(columns + chr(10) + site)
    ...     with open(f"{root}/embeddings.csv", "w") as file:
    ...         _ = file.write("site_id,feature_0" + chr(10) + "HRCE-1_1_AA02_1,0.5")
    ...     profiles = load_rxrx_embeddings(root)
    >>> profiles[["Metadata_Plate", "Metadata_Well", "feature_0"]]
      Metadata_Plate Metadata_Well  feature_0
    0       HRCE-1_1          AA02        0.5
    """
    from gandl.profiles import make_profiles

    _, folder, table = read_metadata(root)
    table = choose(
        table,
        experiments=experiments,
        plates=plates,
        wells=wells,
        cell_types=cell_types,
    )
    found = _read_embeddings(folder / EMBEDDINGS, table["site_id"])
    has = table["site_id"].isin(found.index)
    if not has.any():
        raise ValueError(
            f"{str(folder / EMBEDDINGS)!r} has no embedding of what was chosen."
        )
    if not has.all():
        warn(
            f"{np.sum(~has)} of {len(table)} sites have no embedding and are left out, "
            f"{table['site_id'][~has].iloc[0]!r} the first.",
        )
    table = table[has]
    return make_profiles(found.loc[table["site_id"]], table)


def read_metadata(root: str | os.PathLike[str]) -> tuple[Kind, Path, pd.DataFrame]:
    """The kind of the data set below a folder, its own folder and its metadata."""
    folder = _folder_of_metadata(Path(os.path.abspath(os.fsdecode(root))))
    path = folder / METADATA
    table = read_table(path)
    kind = _kind_of(table, path)
    for name in (*_COMMON, *(["dataset"] if kind is RXRX1 else [])):
        _check_names(table[name], path)
    twice = table["site_id"].duplicated()
    if twice.any():
        raise ValueError(
            f"{str(path)!r} has {table['site_id'][twice].iloc[0]!r} twice."
        )
    for name in kind.numbers:
        table[name] = _as_numbers(table[name], path)
    number = table["plate"]
    table["plate"] = table["experiment"] + "_" + number
    table.insert(list(table).index("plate") + 1, "plate_number", number)
    return kind, folder, table


def _folder_of_metadata(root: Path) -> Path:
    candidates = [root, root / RXRX19A.name, root / RXRX1.name]
    found = [folder for folder in candidates if (folder / METADATA).is_file()]
    if not found:
        raise FileNotFoundError(
            f'{str(root)!r} holds no "{METADATA}", nor does a folder '
            f'"{RXRX19A.name}" or "{RXRX1.name}" in it. fetch_rxrx19a and fetch_rxrx1 '
            "bring it."
        )
    if len(found) > 1 and found[0] != root:
        raise ValueError(
            f"{str(root)!r} holds RxRx19a and RxRx1: name one of the two folders."
        )
    return found[0]


def _kind_of(table: pd.DataFrame, path: Path) -> Kind:
    for kind in (RXRX19A, RXRX1):
        if {*_COMMON, *kind.columns} <= set(table):
            return kind
    raise ValueError(
        f"{str(path)!r} is of neither RxRx19a nor RxRx1: they have the columns "
        f"{list(_COMMON)} and {list(RXRX19A.columns)} or {list(RXRX1.columns)}, it has "
        f"{list(table)}."
    )


# They become names of files and folders, and parts of addresses.
def _check_names(column: pd.Series, path: Path) -> None:
    bad = ~column.str.fullmatch(r"[\w-]+", na=False)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"Row {row} of {str(path)!r} has the {column.name} {column.iloc[row]!r}, "
            "where a name of letters, digits, - and _ is expected."
        )


def _as_numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna() & column.notna()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"Row {row} of {str(path)!r} has the {column.name} {column.iloc[row]!r}, "
            "which is no number."
        )
    return numbers


def choose(table: pd.DataFrame, **choices: Choice) -> pd.DataFrame:
    """The rows that are in every choice; each value must be in the metadata."""
    columns = {
        "experiments": ["experiment"],
        "plates": ["plate", "plate_number"],
        "wells": ["well", "well_id"],
        "cell_types": ["cell_type"],
    }
    kept = pd.Series(True, index=table.index)
    for name, choice in choices.items():
        if choice is None:
            continue
        single = isinstance(choice, str | int | np.integer)
        wanted = {str(value) for value in ([choice] if single else choice)}  # type: ignore[union-attr]
        values = table[columns[name]]
        unknown = sorted(wanted - set(values.to_numpy().ravel()))
        if unknown:
            known = list(map(str, values.iloc[:, -1].unique()))
            raise ValueError(
                f"{name}: there is no {unknown[0]!r} in the metadata, but "
                f"{_some(known)}."
            )
        kept &= values.isin(wanted).any(axis=1)
    if not kept.any():
        given = {name: choice for name, choice in choices.items() if choice is not None}
        raise ValueError(f"No image is as chosen: {given}.")
    return table[kept].reset_index(drop=True)


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_N_EXAMPLES]))
    return shown + (f" and {len(names) - _N_EXAMPLES} more" * (len(names) > 5))


def image_files(
    folder: Path, table: pd.DataFrame, n_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paths below the folder (n, C), and which of them are there."""
    by_plate: dict[tuple[str, ...], tuple[str, set[str]]] = {}
    paths = np.empty((len(table), n_channels), dtype=object)
    is_there = np.empty(paths.shape, dtype=bool)
    dataset = table.get("dataset", pd.Series("", index=table.index))
    places = zip(dataset, table["experiment"], table["plate_number"], strict=True)
    names = zip(table["well"], table["site"], strict=True)
    for row, (place, (well, site)) in enumerate(zip(places, names, strict=True)):
        if place not in by_plate:
            by_plate[place] = _plate_folder(folder, *place)
        plate, files = by_plate[place]
        for channel in range(n_channels):
            name = f"{well}_s{site}_w{channel + 1}.png"
            paths[row, channel] = f"{plate}/{name}"
            is_there[row, channel] = name in files
    return paths, is_there


def _plate_folder(
    folder: Path, dataset: str, experiment: str, number: str
) -> tuple[str, set[str]]:
    schemes = ["images"]
    if dataset:
        schemes += [f"images/{dataset}", dataset]
    plates = [f"{scheme}/{experiment}/Plate{number}" for scheme in schemes]
    for plate in plates:
        if (folder / plate).is_dir():
            return plate, set(os.listdir(folder / plate))
    return plates[0], set()


def _warn_of_parts(paths: np.ndarray, is_there: np.ndarray) -> None:
    partial = is_there.any(axis=1) & ~is_there.all(axis=1)
    if partial.any():
        first = paths[partial][~is_there[partial]][0]
        warn(
            f"{partial.sum()} images lack some of their channels and are left out; "
            f"{first!r} is the first file that is missing.",
        )


def _read_embeddings(path: Path, sites: pd.Series) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {str(path)!r}: fetch it with embeddings=True."
        )
    names = pd.read_csv(path, nrows=0).columns
    features = [name for name in names if name != "site_id"]
    if "site_id" not in names or not features:
        raise ValueError(
            f"{str(path)!r} is no table of embeddings: site_id and features are "
            f"expected, its columns are {_some(list(names))}."
        )
    types = dict.fromkeys(features, np.float32) | {"site_id": str}
    wanted = set(sites)
    try:
        with pd.read_csv(path, dtype=types, chunksize=_ROWS_AT_ONCE) as chunks:
            parts = [chunk[chunk["site_id"].isin(wanted)] for chunk in chunks]
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{str(path)!r} is no table of embeddings: {error}") from None
    found = pd.concat(parts).set_index("site_id")
    twice = found.index[found.index.duplicated()]
    if len(twice):
        raise ValueError(f"{str(path)!r} has {twice[0]!r} twice.")
    return found
