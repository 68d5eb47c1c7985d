"""A table of images that reads none before it must: indexing, reading, pickling."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from numbers import Integral
from typing import Any, NoReturn, Self

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs
from pandas.api.types import is_bool_dtype

from gandl._row_labels import is_permuted
from gandl.images._overview import overview
from gandl.images._sources import Source
from gandl.images._state import pack_table, unpack_table

_SLOTS = (
    "_byte_limit",
    "_channels",
    "_group_of",
    "_group_ranges",
    "_metadata",
    "_offsets",
    "_picks",
    "_rows",
    "_size",
    "_skipped",
    "_source",
)


class ImageView:
    __slots__ = _SLOTS

    _byte_limit: int
    _channels: tuple[str, ...]
    _group_of: np.ndarray | None  # (n,) rows of _group_ranges
    _group_ranges: np.ndarray | None  # (groups, C, 2)
    _metadata: pd.DataFrame
    _offsets: np.ndarray | None  # (n, 2) first pixels of tiles
    _picks: list[int]  # places of the channels in the source
    _rows: np.ndarray  # (n,) places of the images in the source
    _size: tuple[int, int]
    _skipped: pd.DataFrame  # images that were left out, and why
    _source: Source

    def __init__(self) -> None:
        raise TypeError(
            "Make an ImageCollection with ImageCollection.from_folder, .from_table or "
            ".from_array."
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"An ImageCollection is immutable: cannot set {name!r}.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"An ImageCollection is immutable: cannot delete {name!r}."
        )

    @classmethod
    def _new(cls, **state: Any) -> Self:
        self = object.__new__(cls)
        for name in _SLOTS:
            object.__setattr__(self, name, state[name])
        return self

    # A view that differs from this collection in some of its state.
    def _replace(self, **state: Any) -> Self:
        return self._new(**{name: getattr(self, name) for name in _SLOTS} | state)

    # The view of the images at some positions.
    def _take(self, positions: np.ndarray, **state: Any) -> Self:
        metadata = self._metadata.iloc[positions].reset_index(drop=True)
        state = {
            "_metadata": metadata,
            "_rows": self._rows[positions],
            "_offsets": None if self._offsets is None else self._offsets[positions],
            "_group_of": None if self._group_of is None else self._group_of[positions],
        } | state
        return self._replace(**state)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in _SLOTS}
        state["_source"], state["_rows"] = self._source.restrict(self._rows)
        state["_metadata"] = pack_table(self._metadata)
        state["_skipped"] = pack_table(self._skipped)
        if self._group_of is not None and self._group_ranges is not None:
            used, group_of = np.unique(self._group_of, return_inverse=True)
            state["_group_ranges"] = self._group_ranges[used]
            state["_group_of"] = _compact(group_of)
        state["_rows"] = _compact(state["_rows"])
        state["_offsets"] = _compact(self._offsets)
        return _from_state, (type(self), state)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), len(self._picks), *self._size)

    @property
    def ndim(self) -> int:
        return 4

    @property
    def dtype(self) -> np.dtype:
        return self._source.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        return self._channels

    @property
    def metadata(self) -> pd.DataFrame:
        return self._metadata.copy()

    @property
    def skipped(self) -> pd.DataFrame:
        return self._skipped.copy()

    @property
    def nbytes(self) -> int:
        n, n_channels, height, width = self.shape
        return n * n_channels * height * width * self.dtype.itemsize

    @property
    def byte_limit(self) -> int:
        return self._byte_limit

    @property
    def intensity_range(self) -> np.ndarray | None:
        if self._group_ranges is None or self._group_of is None:
            return None
        return self._group_ranges[self._group_of]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        parts = [
            _count(len(self), "image"),
            f"channels: {', '.join(self._channels)}",
            f"{self._size[0]} x {self._size[1]} pixels",
            str(self.dtype),
        ]
        if "plate" in self._metadata.columns:
            parts.append(_count(self._metadata["plate"].nunique(), "plate"))
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        return overview(self)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            keys = [part for part in key if part is not Ellipsis]
            if len(keys) != 1:
                raise IndexError(
                    f"A collection is indexed along its images alone, got {key}. Use "
                    "with_channels for channels, tile for parts of images."
                )
            key = keys[0]
        if key is Ellipsis:
            return self
        positions = _positions(key, len(self))
        if isinstance(positions, int):
            return self.load_batch([positions])[0]
        return self._take(positions)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("A collection becomes an array by reading it: a copy.")
        if self.nbytes > self._byte_limit:
            raise MemoryError(
                f"{self!r} takes {self.nbytes / 2**30:.4g} GiB as an array, more than "
                f"its byte_limit of {self._byte_limit / 2**30:.4g} GiB. Load parts of "
                "it with load_batch, or make it with a higher byte_limit."
            )
        images = self.load_batch(slice(None))
        return images if dtype is None else images.astype(dtype, copy=False)

    def load_batch(self, indices: Any, *, n_jobs: int | None = None) -> np.ndarray:
        """Read some images into one array.

        Parameters
        ----------
        indices : array-like of int, mask or slice
            The k images to read, in this order.
        n_jobs : int, default=None
            How many threads read files at the same time. None means 1 unless in a
            ``joblib.parallel_config`` context.

        Returns
        -------
        ndarray of shape (k, C, H, W)
            The images, in the type and the units of the files.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file is unreadable, of another shape or type than the first, or has
            changed since the collection was made. The message names the file.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> X = ImageCollection.from_array(np.arange(16).reshape(4, 1, 2, 2))
        >>> X.load_batch([2, 0])[:, 0, 0, 0]
        array([8, 0])
        """
        positions = np.atleast_1d(_positions(indices, len(self)))
        rows = self._rows[positions]
        batch = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not len(rows):
            return batch
        read = self._source.reader(self._picks)
        height, width = self._size

        # All tiles of one image are cut from one reading of it.
        def fill(places: np.ndarray) -> None:
            image = read(int(rows[places[0]]))
            for place in places:
                y, x = (
                    (0, 0)
                    if self._offsets is None
                    else self._offsets[positions[place]].tolist()
                )
                batch[place] = image[:, y : y + height, x : x + width]

        order = np.argsort(rows, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
        if effective_n_jobs(n_jobs) == 1:
            for places in groups:
                fill(places)
        else:
            Parallel(n_jobs=n_jobs, require="sharedmem")(
                delayed(fill)(places) for places in groups
            )
        return batch


def _from_state(cls: type[ImageView], state: dict[str, Any]) -> ImageView:
    rows, metadata = state["_rows"].astype(np.intp), unpack_table(state["_metadata"])
    skipped = unpack_table(state["_skipped"])
    return cls._new(
        **state | {"_rows": rows, "_metadata": metadata, "_skipped": skipped}
    )


# 32 bits where they suffice, in an array of its own whose strides are its own.
def _compact(numbers: np.ndarray | None) -> np.ndarray | None:
    if numbers is None:
        return None
    small = numbers.size == 0 or numbers.max() < 2**31
    return numbers.astype(np.int32 if small else np.int64, order="C")


def _positions(key: Any, n: int) -> int | np.ndarray:
    if isinstance(key, Integral) and not isinstance(key, bool):
        position = operator.index(key)
        if not -n <= position < n:
            raise IndexError(f"Image {position} is out of bounds: there are {n}.")
        return position % n
    is_mask = isinstance(key, pd.Series) and is_bool_dtype(key)
    if is_mask and is_permuted(key.index, pd.RangeIndex(n)):
        raise IndexError(
            "A mask goes by position, and the rows of this one are in another order "
            "than the metadata's, by its index. If they are in that of the images all "
            "the same, pass mask.to_numpy()."
        )
    if is_mask:
        key = key.to_numpy(dtype=bool, na_value=False)  # as pandas takes it
    if not isinstance(key, slice):
        key = np.asarray(key)
        key = key.astype(np.intp) if key.size == 0 else key
        # Not of all n: a million images are read a few at a time.
        listed = key.ndim == 1 and key.size > 0 and key.dtype.kind in "iu"
        if listed and -n <= key.min() and key.max() < n:
            return key.astype(np.intp) % n
    positions = np.arange(n)[key]
    if positions.ndim != 1:
        raise IndexError(
            "A collection is indexed by an integer, a slice, integers or a mask, got "
            f"{key!r}."
        )
    return positions


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    height, width = value if isinstance(value, tuple) else (value, value)
    return operator.index(height), operator.index(width)


def tile_offsets(length: int, size: int, stride: int) -> np.ndarray:
    if not 1 <= size <= length or not 1 <= stride <= size:
        raise ValueError(
            "Tiles need 1 <= stride <= size <= image, in pixels, got "
            f"{stride=}, {size=} and an image of {length}."
        )
    n_steps = -(-(length - size) // stride)
    return np.arange(n_steps + 1) * (length - size) // max(n_steps, 1)
