"""Embedding of large collections, partition by partition, in one process or many."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

import gandl
from gandl._extras import needed
from gandl._inputs import as_collection, compare_illumination, row_intensity
from gandl._presets import check_features
from gandl._progress import progress_line
from gandl._row_labels import check_order_of_images
from gandl._tables import as_pandas
from gandl._tensors import activation_dtype
from gandl._trained import device_of, embedded_and_told, whitening_of
from gandl._warnings import warn
from gandl.featurizer import GANDLFeaturizer
from gandl.images import ImageCollection
from gandl.images._state import pack_table
from gandl.profiles import make_profiles
from gandl.profiles._partitioned import PartitionedProfiles, profiles_schema


def embed_to_parquet(
    featurizer: GANDLFeaturizer,
    X: Any,
    folder: str | os.PathLike[str],
    *,
    metadata: pd.DataFrame | None = None,
    rows_per_partition: int = 1000,
    client: Any = None,
) -> list[Path]:
    """Embed images into a folder of parquet files, and continue what was begun there.

    Each file, a partition, holds some rows of what
    ``make_profiles(featurizer.transform(X), metadata)`` gives, in their order, and is
    whole or not there. Called again, after an interruption say, partitions that are
    there are not computed again. One partition is in memory at a time.

    Under torchrun, or wherever RANK and WORLD_SIZE are set, each process computes its
    share of the partitions, every WORLD_SIZE-th; they need no connection, and the next
    run may have another number of them.

    Parameters
    ----------
    featurizer : fitted `gandl.GANDLFeaturizer`
        What embeds.
    X : ImageCollection, array, memmap or DataFrame
        Images as in ``featurizer.transform``, n of them.
    folder : str or path
        The folder, new or of the same call before. All processes are to see it.
    metadata : DataFrame of n rows, default=None
        What is known of each image, as in `gandl.profiles.make_profiles`. None: the
        collection's own.
    rows_per_partition : int, default=1000
        The most images of a partition. Tiles of one image stay together where they
        stand side by side, so that no file is read twice.
    client : dask.distributed.Client, default=None
        The workers of a Dask cluster compute, and write to the folder themselves.
        None: this process.

    Returns
    -------
    list of path
        The partitions that this call has computed.

    Raises
    ------
    ValueError
        If the folder holds embeddings by another featurizer, of other images or
        metadata, or in partitions of another size: the message names the difference.
        If images cannot be embedded: their partitions and the first file are named, all
        other partitions are computed.
    FileExistsError
        If the folder holds something else.
    ImportError
        If pyarrow is not installed, the extra "profiles"; with a client, if
        dask.dataframe is not, the extra "dask".

    See Also
    --------
    gandl.profiles.read_profiles : Reads the folder once it is complete.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from gandl import GANDLFeaturizer, ImageCollection, embed_to_parquet
    >>> from gandl.profiles import read_profiles
    >>> images = np.random.default_rng(0).integers(0, 255, (8, 1, 32, 32))
    >>> X = ImageCollection.from_array(images, metadata={"well": list("ABCDEFGH")})
    >>> featurizer = GANDLFeaturizer(max_kimg=0.008, channel_max=8).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     new = embed_to_parquet(featurizer, X, folder, rows_per_partition=3)
    ...     again = embed_to_parquet(featurizer, X, folder, rows_per_partition=3)
    ...     profiles = read_profiles(folder)
    >>> [path.name for path in new], again
    (['part-00000.parquet', 'part-00001.parquet', 'part-00002.parquet'], [])
    >>> len(profiles)
    8
    """
    check_scalar(rows_per_partition, "rows_per_partition", Integral, min_val=1)
    # Workers of a cluster may start elsewhere.
    place = Path(folder).absolute() if client else Path(folder)
    work = _Work(featurizer, X, place, metadata, rows_per_partition)
    share = range(work.n_partitions) if client else _own_share(work.n_partitions)
    missing = [k for k in share if not work.is_finished(k)]
    outcomes = _by_dask(client, work, missing) if client else map(work.do, missing)
    if text := compare_illumination(featurizer, work.images):
        warn(text)
    errors: dict[int, str] = {}
    told = ""
    with closing(progress_line(featurizer.verbose)) as line:
        for done, (number, error, warning) in enumerate(outcomes, 1):
            if warning and not told:
                told = f"Partition {number}: {warning}"
            if error:
                errors[number] = error
            text = f"{done:,} of {len(missing):,} partitions embedded"
            line(done / len(missing), text)
    if told:  # of the first alone: there may be hundreds
        warn(told)
    if errors:
        first = min(errors)
        others = len(errors) - 1
        whole = len(share) == work.n_partitions
        also = f" So it is with {others} other partitions." if others else ""
        raise ValueError(
            f"Partition {first} could not be embedded: {errors[first]}{also} All else "
            f"{'' if whole else 'of the share of this process '}is there: mend the "
            "files, and call again."
        )
    return [work.folder.path(number) for number in missing]


class _Work:
    """All that a process needs to compute any of the partitions."""

    def __init__(
        self,
        featurizer: GANDLFeaturizer,
        X: Any,
        folder: Path,
        metadata: pd.DataFrame | None,
        rows_per_partition: int,
    ) -> None:
        if not isinstance(featurizer, GANDLFeaturizer):
            raise ValueError(
                f"A GANDLFeaturizer embeds, got a {type(featurizer).__name__}: pass "
                "the featurizer in it, and images as it takes them."
            )
        check_is_fitted(featurizer, "weights_")
        images = as_collection(featurizer, X, reset=False)
        check_features(featurizer, images.shape[1:])
        row_intensity(featurizer, images[:1])  # missing ranges are told at once
        known = images.metadata if metadata is None else as_pandas(metadata)
        if len(known) != len(images):
            raise ValueError(
                f"metadata has {len(known)} rows for {len(images)} images."
            )
        check_order_of_images(known, len(images), "metadata")
        if any(name is not None for name in known.index.names):  # as profiles have them
            known = make_profiles(np.empty((len(known), 0)), known, names=[])
        # Not the state that training continues from, several times the weights.
        self.featurizer = copy.copy(featurizer)
        self.featurizer.__dict__.pop("training_state_", None)
        self.featurizer.verbose = False
        self.names = [str(name) for name in featurizer.get_feature_names_out()]
        none = images._metadata[[]]  # what is known of the images is kept beside them
        self.images = images._replace(_metadata=none, _skipped=pd.DataFrame())
        self.metadata = known.reset_index(drop=True)
        self.schema = profiles_schema(self.metadata, self.names)
        self.bounds = partition_bounds(images, rows_per_partition)
        identity = {
            "gandl": {"version": gandl.__version__},
            "featurizer": _featurizer_identity(featurizer),
            "images": {
                "shape": images.shape,
                "dtype": str(images.dtype),
                "channels": images.channels,
            },
            "metadata": {"columns": [str(name) for name in known]},
            "rows": {"per partition": rows_per_partition},
        }
        self.folder = PartitionedProfiles(folder, self.n_partitions, identity)

    @property
    def n_partitions(self) -> int:
        return len(self.bounds) - 1

    def is_finished(self, number: int) -> bool:
        """Whether a partition is there, made of what it would be made of now."""
        return self.folder.path(number).exists() and self.folder.is_finished(
            number, self._origin(number)
        )

    def do(self, number: int) -> tuple[int, str, str]:
        """Embed a partition and write it.

        Returns its number, what failed, and what is to be warned of.
        """
        rows = self._rows(number)
        try:
            embeddings, told = embedded_and_told(self.featurizer, self.images[rows])
        # Of an unreadable file, which is to hold up no other partition.
        except (OSError, ValueError) as error:
            return number, str(error) or type(error).__name__, ""
        known = self.metadata.iloc[rows]
        profiles = make_profiles(embeddings, known, names=self.names)
        self.folder.write(number, profiles, self.schema, self._origin(number))
        return number, "", told

    def _rows(self, number: int) -> slice:
        return slice(int(self.bounds[number]), int(self.bounds[number + 1]))

    def _origin(self, number: int) -> dict[str, Any]:
        """What a partition is made of: digests that notice any other image or value.

        Of files these are names, sizes and times, of arrays the pixels.
        """
        rows = self._rows(number)
        return {
            "rows": [rows.start, rows.stop],
            "images": joblib.hash(self.images[rows]._replace(_byte_limit=0)),
            "metadata": joblib.hash(pack_table(self.metadata.iloc[rows])),
        }


def partition_bounds(images: ImageCollection, most: int) -> np.ndarray:
    """Where partitions begin, and the end: ``most`` rows or less, whole images.

    Of an image in more than ``most`` tiles, all are in one partition.
    """
    # Where rows of another image begin.
    starts = np.flatnonzero(np.diff(images._rows)) + 1
    starts = np.concatenate([starts, [len(images)]])
    bounds = [0]
    while bounds[-1] < len(images):
        last = np.searchsorted(starts, bounds[-1] + most, side="right") - 1
        if last < 0 or starts[last] <= bounds[-1]:
            last += 1
        bounds.append(int(starts[last]))
    return np.array(bounds)


def _own_share(n: int) -> range:
    """The partitions of this process among those that torchrun started."""
    names = ("RANK", "WORLD_SIZE")
    rank, world = (os.environ.get(name) for name in names)
    if rank is None or world is None:
        return range(n)
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(
            f"RANK={rank!r} and WORLD_SIZE={world!r} are to be a number from 0, and "
            "how many there are: unset both, or start by torchrun."
        )
    return range(int(rank), n, int(world))


def _featurizer_identity(featurizer: Any) -> dict[str, Any]:
    """What an embedding depends on besides the images."""
    features = featurizer._resolve("features")
    whitening = whitening_of(featurizer) or ()
    ranges = [featurizer.intensity_range_] if featurizer.intensity == "dataset" else []
    weights = [
        weight
        for name, weight in sorted(featurizer.weights_.items())
        if name.startswith("discriminator.")
    ]
    dtype = activation_dtype(featurizer.precision, device_of(featurizer))
    return {
        "weights": _digest(weights),
        "features": features,
        "n_views": featurizer._resolve("n_views"),
        "whitening": _digest(whitening),
        "intensity": featurizer.intensity,
        "intensity range": _digest(ranges),
        "precision": str(dtype).removeprefix("torch."),
    }


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


_OUTCOME = {"number": int, "error": str, "told": str}


def _table_of(number: int) -> pd.DataFrame:
    return pd.DataFrame({"number": [number]})


def _do_all(table: pd.DataFrame, work: _Work) -> pd.DataFrame:
    outcomes = [work.do(number) for number in table["number"]]
    return pd.DataFrame(outcomes, columns=list(_OUTCOME))


def _by_dask(
    client: Any, work: _Work, numbers: list[int]
) -> Iterator[tuple[int, str, str]]:
    """Have a cluster map over the partitions; yields them as they end."""
    with needed('A client needs Dask\'s table: pip install "gandl[dask]".'):
        import dask.dataframe as dd
        from dask.distributed import CancelledError, KilledWorker, as_completed
    if not numbers:
        return
    # Once to each worker, not once a partition.
    shared = client.scatter(work, broadcast=True)
    table = dd.from_map(_table_of, numbers, meta=_table_of(0))
    outcomes = table.map_partitions(_do_all, shared, meta=_OUTCOME)
    futures = client.compute(outcomes.to_delayed())
    try:
        for future in as_completed(futures):
            outcome = future.result()
            yield from outcome.itertuples(index=False, name=None)
    except (CancelledError, KilledWorker) as error:
        raise RuntimeError(
            f"Workers of the Dask cluster were lost ({error}). Call again: what is "
            "there stays, and the rest is computed."
        ) from error
    finally:
        client.cancel(futures)
