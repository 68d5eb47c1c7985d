"""Seconds and memory of all that is done to rows, at a thousand to a million of them.

    OMP_NUM_THREADS=1 python benchmarks/bookkeeping.py [--quick] [--out FILE]

Screens laid out as RxRx19a is: plates of 1,340 wells with four sites, five files a
site, 1,672 compounds at six doses, each replicate on another plate. Files lie in one
plate's folder, to which the other plates are links, so that a million sites of five
files need no disk; pixels of 64 x 64 are made when asked for, and embeddings (64-d) are
drawn at random. Gives the processor's seconds, the memory that an operation takes on
top of what there was, at its peak (Linux only), and exponents: the slope of log time
on log rows between the two largest sizes, 1 is linear; of all, and of what is not the
kernel's, which gives out arrays of half a gigabyte page by page.
"""

# ruff: noqa: F821 (what is measured is freed before the next: `del` hides it from ruff)

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import multiprocessing
import os
import pickle
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import tifffile
from sklearn.model_selection import GroupKFold, train_test_split

from gandl._batches import reading_order, training_batches
from gandl._wells import row_letters
from gandl.images import ImageCollection
from gandl.images._readers import BYTE_LIMIT
from gandl.profiles import (
    ControlScaler,
    TypicalVariationNormalizer,
    aggregate,
    make_profiles,
    read_profiles,
    write_profiles,
)
from gandl.scoring import DoseResponseScorer, PerturbationScorer

N_COMPOUNDS, DOSES = 1672, 10 ** np.linspace(-2, 0.5, 6)
N_CHANNELS, SIZE, N_FEATURES, N_SITES = 5, 64, 64, 4
WELLS = [f"{row_letters(r)}{c:02}" for r in range(32) for c in range(1, 49)]
SHARE_TREATED, N_REPLICATES = 0.8, 6
CONTROLS = {"negative": "Mock", "positive": "Active SARS-CoV-2"}
PATTERN = "{experiment}/Plate{plate}/{well}_s{site}_w{channel}.tif"


@dataclass(frozen=True)
class MadeSource:
    """Images that are made when they are asked for, each from its number."""

    numbers: np.ndarray
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.numbers), N_CHANNELS, SIZE, SIZE

    def reader(self, channels: list[int]) -> Callable[[int], np.ndarray]:
        grid = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
        shift = np.array(channels, dtype=np.uint8)[:, None, None]
        return lambda row: grid + shift + np.uint8(self.numbers[row] % 256)

    def file_sizes(self) -> None:
        return None

    def restrict(self, rows: np.ndarray) -> tuple[MadeSource, np.ndarray]:
        used, rows = np.unique(rows, return_inverse=True)
        return replace(self, numbers=self.numbers[used]), rows


def layout(n: int) -> pd.DataFrame:
    """What is known of n sites: RxRx19a's columns."""
    n_plates = max(2 * N_REPLICATES, round(n / (1340 * N_SITES)))
    row = np.arange(n)
    per_plate = -(-n // n_plates)
    plate = row // per_plate
    well, site = np.divmod(row % per_plate, N_SITES)
    treated = well % 10 < 10 * SHARE_TREATED
    # Replicates lie on different plates: as many compounds a plate as it has room for.
    of_set = n_plates // N_REPLICATES
    n_compounds = min(N_COMPOUNDS, max(4, int(n * SHARE_TREATED) // 144))
    pair = (plate % of_set) * (per_plate // N_SITES) + well
    compound, dose = np.divmod(pair % (n_compounds * len(DOSES)), len(DOSES))
    state = np.where(well % 10 == 8, "Mock", "Active SARS-CoV-2")
    names = pd.Series(WELLS)[well % len(WELLS)].to_numpy()
    plates, sites = (plate + 1).astype(str), (site + 1).astype(str)
    joined = pd.Series(plates) + "_" + pd.Series(names)
    treatment = np.char.add("compound ", compound.astype(str)).astype(object)
    return pd.DataFrame(
        {
            "site_id": "HRCE-1_" + joined + "_" + pd.Series(sites),
            "well_id": "HRCE-1_" + joined,
            "experiment": "HRCE-1",
            "plate": plates,
            "well": names,
            "site": sites,
            "disease_condition": state,
            "treatment": np.where(treated, treatment, None),
            "treatment_conc": np.where(treated, DOSES[dose], np.nan),
        }
    )


def write_files(root: Path, sites: pd.DataFrame) -> None:
    """A folder of files for sites: of plates, all but the first are links to it."""
    folder = root / "HRCE-1"
    first, *others = (folder / f"Plate{plate}" for plate in sites["plate"].unique())
    first.mkdir(parents=True)
    image = root.parent / "image.tif"
    tifffile.imwrite(image, np.zeros((SIZE, SIZE), np.uint8))
    wells = sites[sites["plate"] == sites["plate"][0]]
    for well, site in zip(wells["well"], wells["site"], strict=True):
        for channel in range(1, N_CHANNELS + 1):
            os.link(image, first / f"{well}_s{site}_w{channel}.tif")
    for plate in others:
        plate.symlink_to(first)


class Case:
    """A screen of n sites, and what is measured on it."""

    def __init__(self, n: int) -> None:
        self.n, self.sites = n, layout(n)
        self.results: dict[str, dict[str, Any]] = {}

    def measure(self, name: str, function: Callable[[], Any]) -> Any:
        runs, peak = [], None
        # Short ones again: the first call has what is only paid once.
        while not runs or (sum(runs)[0] < 0.5 and len(runs) < 3):
            result = None
            with peak_memory() as memory:
                start = processor_seconds()
                result = function()
                runs.append(processor_seconds() - start)
            peak = memory["peak"]
        seconds, own = min(runs, key=lambda run: run[0]).tolist()
        self.results[name] = {"seconds": seconds, "own": own, "peak_mb": peak}
        print(f"{self.n:>9,} {name:38} {seconds:9.3f} s {peak or 0:9.0f} MB")
        return result

    def collections(self, root: Path) -> None:
        measure, n, sites = self.measure, self.n, self.sites
        files = root / "files"
        write_files(files, sites)
        table = paths_table(sites)
        columns = [c for c in table if c.startswith("w") and c[1:].isdigit()]
        X = measure(
            "build: from_table, five files a site",
            lambda: ImageCollection.from_table(table, path=columns, root=files),
        )
        del table
        rng = np.random.default_rng(0)
        mask, order = rng.random(n) < 0.5, rng.permutation(n)
        measure("slice", lambda: X[: n // 2])
        measure("index by integers", lambda: X[order])
        measure("index by a mask", lambda: X[mask])
        measure("select", lambda: X.select("plate == '1' or treatment.isna()"))
        measure("with_channels", lambda: X.with_channels(["w1", "w3"]))
        measure("repr", lambda: repr(X))
        groups = sites["well_id"].to_numpy()
        measure(
            "split: GroupKFold by well, five folds",
            lambda: [(X[a], X[b]) for a, b in GroupKFold(5).split(X, groups=groups)],
        )
        measure("split: train_test_split", lambda: train_test_split(X, random_state=0))
        state = measure("pickle", lambda: pickle.dumps(X))
        self.results["pickle"]["bytes"] = len(state)
        measure("unpickle", lambda: pickle.loads(state))
        del state
        measure("pickle of a view of half", lambda: pickle.dumps(X[mask]))
        measure("joblib.hash", lambda: joblib.hash(X))
        wells = sites.drop_duplicates("well_id")[["plate", "well"]]
        wells = wells.assign(note="x")
        measure("with_plate_map", lambda: X.with_plate_map(wells))

    def folder(self, root: Path) -> None:
        files = root / "files"
        write_files(files, self.sites)
        self.measure(
            "build: from_folder, by a pattern",
            lambda: ImageCollection.from_folder(files, PATTERN),
        )
        self.measure(
            "build: from_folder, pattern found out",
            lambda: ImageCollection.from_folder(files),
        )

    def pixels(self, root: Path) -> None:
        measure, n = self.measure, self.n
        source = MadeSource(np.arange(n))
        X = measure(
            "build: images made on the fly",
            lambda: ImageCollection._from_source(source, None, self.sites, BYTE_LIMIT),
        )
        X = measure(
            "with_intensity_range, 8 images a plate",
            lambda: X.with_intensity_range("plate", max_images=8),
        )
        ranges = X.intensity_range

        def batches(first: int) -> list[np.ndarray]:
            how = {"size": SIZE, "batch_size": 32, "seed": [0], "first": first}
            with closing(training_batches(X, ranges, **how)) as made:
                return list(islice(made, 20))

        measure("training: first 20 batches", lambda: batches(0))
        measure("training: 20 batches of pass 10", lambda: batches(10 * n // 32))
        tiles = measure("tile: four a site", lambda: X.tile(SIZE // 2))
        measure("reading order of tiles", lambda: reading_order(tiles, 8, 64))
        measure("load_batch of 1,000", lambda: X.load_batch(np.arange(min(1000, n))))

    def embeddings(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Embeddings, and what their rows are: controls by kind, None, and plates."""
        sites, rng = self.sites, np.random.default_rng(0)
        E = rng.standard_normal((self.n, N_FEATURES), dtype=np.float32)
        treated = sites["treatment"].notna().to_numpy()
        infected = ((sites["disease_condition"] != "Mock") & ~treated).to_numpy()
        E[infected | treated, 0] += 6
        kind = sites["disease_condition"].mask(treated)
        return E, {"y": kind, "batch": sites["plate"].to_numpy()}

    def tables(self, root: Path) -> None:
        measure, sites = self.measure, self.sites
        E, how = self.embeddings()
        plate = how["batch"]
        scaler = ControlScaler(control="Mock")
        measure("normalise: ControlScaler", lambda: scaler.fit_transform(E, **how))
        tvn = TypicalVariationNormalizer(control="Mock")
        measure("normalise: TVN, fit", lambda: tvn.fit(E, **how))
        measure("normalise: TVN, transform", lambda: tvn.transform(E, batch=plate))
        profiles = measure("make_profiles", lambda: make_profiles(E, sites))
        by = ["plate", "well"]
        measure("aggregate to wells", lambda: aggregate(profiles, by))
        path = root / "profiles.parquet"
        measure(
            "write_profiles, parquet",
            lambda: write_profiles(profiles, path, overwrite=True),
        )
        del profiles
        measure("read_profiles, parquet", lambda: read_profiles(path))
        how["y"] = how["y"].to_numpy()
        axis = PerturbationScorer(**CONTROLS)
        measure("score: PerturbationScorer, fit", lambda: axis.fit(E, **how))
        measure("score: the same, transform", lambda: axis.transform(E, batch=plate))
        alone = PerturbationScorer(**CONTROLS)
        measure("score: fit, no batches", lambda: alone.fit(E, how["y"]))
        scorer = DoseResponseScorer(perturbation=axis)
        measure("fit: DoseResponseScorer, controls", lambda: scorer.fit(E, **how))

    def curves(self, root: Path) -> None:
        E, how = self.embeddings()
        axis = PerturbationScorer(**CONTROLS)
        scorer = DoseResponseScorer(perturbation=axis).fit(E, **how)
        treated = self.sites["treatment"].notna().to_numpy()
        compound = self.sites["treatment"].to_numpy()[treated]
        dose = self.sites["treatment_conc"].to_numpy()[treated]
        batch, E = how["batch"][treated], E[treated]
        table = self.measure(
            "fit: curves of compounds",
            lambda: scorer.dose_response(E, compound, dose, batch=batch),
        )
        self.results["fit: curves of compounds"]["compounds"] = len(table)


def run(n: int, part: str) -> dict[str, dict[str, Any]]:
    case = Case(n)
    with tempfile.TemporaryDirectory() as folder:
        getattr(case, part)(Path(folder))
    return case.results


PARTS = ("collections", "pixels", "tables", "curves", "folder")


def paths_table(sites: pd.DataFrame) -> pd.DataFrame:
    start = "HRCE-1/Plate" + sites["plate"] + "/" + sites["well"]
    start += "_s" + sites["site"] + "_w"
    paths = {f"w{c}": start + f"{c}.tif" for c in range(1, N_CHANNELS + 1)}
    return sites.assign(**paths)


def processor_seconds() -> np.ndarray:
    """Of this process: all, and without the kernel's."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([usage.ru_utime + usage.ru_stime, usage.ru_utime])


@contextmanager
def peak_memory() -> Iterator[dict[str, float | None]]:
    """How far the resident size rises above where it was, in MB; None if not known."""
    found: dict[str, float | None] = {"peak": None}
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no measure
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
    except (OSError, AttributeError):
        before = None
    yield found
    if before is not None:
        found["peak"] = max(0.0, _status("VmHWM") - before)


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) / 1024


def summary(results: dict[int, dict[str, dict[str, Any]]]) -> str:
    """A row an operation: seconds and MB at each size, and the exponents."""
    sizes = sorted(results)
    head = [*(f"{n:,}, s | MB" for n in sizes), "exponent", "without the kernel's"]
    lines = [f"| rows | {' | '.join(head)} |", "|---" * (2 * len(sizes) + 3) + "|"]
    for name in results[sizes[-1]]:
        found = [results[n].get(name, {}) for n in sizes]
        cells = []
        for row in found:
            seconds, peak = row.get("seconds"), row.get("peak_mb")
            cells.append("–" if seconds is None else f"{seconds:.3g}")
            cells.append("–" if peak is None else f"{peak:.0f}")
        cells += [exponent(sizes, found, clock) for clock in ("seconds", "own")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def exponent(sizes: list[int], found: list[dict[str, Any]], clock: str) -> str:
    seconds = [row.get(clock) for row in found[-2:]]
    if len(seconds) < 2 or not all(seconds):
        return "–"
    slope = math.log(seconds[1] / seconds[0]) / math.log(sizes[-1] / sizes[-2])
    return f"{slope:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [10**k for k in range(3, 7)]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="does it run?")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    # Here: the processes that measure are to do without torch.
    from _record import machine, write

    if arguments.quick:
        arguments.rows = [500, 1000]
    results: dict[int, dict[str, dict[str, Any]]] = {}
    spawn = multiprocessing.get_context("spawn")
    for n in arguments.rows:
        results[n] = {}
        for part in arguments.parts:
            # A process each: memory that was freed before is no measure.
            with spawn.Pool(1) as pool:
                results[n] |= pool.apply(run, (n, part))
            # What there is so far: a million rows take a while.
            write({"machine": machine(), "results": results}, arguments.out)
    print(summary(results))


if __name__ == "__main__":
    main()
