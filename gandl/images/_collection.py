"""Making collections of images, and views of them."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gandl._tables import as_pandas, query_rows, with_index
from gandl.images._illumination import with_functions
from gandl.images._intensity import check_images
from gandl.images._layouts import FileTable, channel_names, list_folder, list_table
from gandl.images._ome import OmeView
from gandl.images._readers import BYTE_LIMIT, tell_doubtful
from gandl.images._screens import ScreenView
from gandl.images._sources import FileSource, Source, array_source
from gandl.images._unreadable import is_lenient, split_unreadable
from gandl.images._view import pair, tile_offsets


class ImageCollection(OmeView, ScreenView):
    """Immutable, lazy view of a table of images of one shape and type.

    A collection behaves like an array of shape (n, C, H, W) whose pixels stay on
    disk until they are asked for, with a table of metadata beside it. Indexing it
    with a slice, integers or a mask gives another collection and reads nothing, so
    that scikit-learn's splitters, searches and caches take it as they take an
    array. It pickles as a reference to its files, without their pixels.

    Collections are made by :meth:`from_folder`, :meth:`from_load_data`,
    :meth:`from_table`, :meth:`from_ome_tiff`, :meth:`from_ome_zarr` or
    :meth:`from_array`.

    Attributes
    ----------
    shape : tuple of int
        ``(n, C, H, W)``: images, channels, rows and columns of pixels.
    ndim : int
        Always 4.
    dtype : numpy.dtype
        The number type of the files.
    channels : tuple of str
        The names of the channels.
    metadata : pandas.DataFrame
        One row an image, numbered 0 to n - 1. A copy.
    nbytes : int
        The size in bytes of the array of all images.
    byte_limit : int
        The size in bytes above which the collection refuses to become an array.
    skipped : pandas.DataFrame
        The images that ``on_error="skip"`` left out: their metadata, the "path" of the
        file at fault and the "reason". A copy; views have that of the whole.
    intensity_range : ndarray of shape (n, C, 2) or None
        The ranges given by :meth:`with_intensity_range`.

    Notes
    -----
    Shape and type are those of the first image; every other file is checked when
    it is read. Sizes and modification times of all files are taken note of when
    the collection is made: they are part of its pickle and its ``joblib.hash``,
    and a file that changed afterwards is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.images import ImageCollection
    >>> images = np.zeros((4, 2, 8, 8), dtype="uint16")
    >>> plates = {"plate": ["p1", "p1", "p2", "p2"]}
    >>> X = ImageCollection.from_array(
    ...     images, channels=["dna", "actin"], metadata=plates
    ... )
    >>> X
    ImageCollection(4 images, channels: dna, actin, 8 x 8 pixels, uint16, 2 plates)
    >>> X[1:].shape
    (3, 2, 8, 8)
    >>> X[0].shape
    (2, 8, 8)
    """

    __slots__ = ()

    @classmethod
    def from_array(
        cls,
        images: Any,
        *,
        channels: Sequence[str] | None = None,
        metadata: Any = None,
        byte_limit: int = BYTE_LIMIT,
    ) -> ImageCollection:
        """Make a collection of the images in an array.

        Parameters
        ----------
        images : array-like or memmap of shape (n, C, H, W)
            The images, of any real number type. They are neither copied nor cast,
            and must not be written to afterwards. A memmap stays on disk: it
            pickles as a reference to its file.
        channels : sequence of str of length C, default=None
            The names of the channels; by default "channel_0", "channel_1", ...
        metadata : DataFrame or mapping of columns, default=None
            One row an image. Levels of its index that have a name become columns.
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array.

        Returns
        -------
        ImageCollection
            A collection of n images.

        Raises
        ------
        ValueError
            If the array is not of four dimensions and real numbers, or the names
            or the metadata do not fit it.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> ImageCollection.from_array(np.zeros((4, 1, 8, 8)))
        ImageCollection(4 images, channels: channel_0, 8 x 8 pixels, float64)
        """
        images = np.asanyarray(check_images(images))
        source = array_source(images)
        if metadata is None:
            metadata = pd.DataFrame(index=pd.RangeIndex(len(images)))
        metadata = with_index(pd.DataFrame(as_pandas(metadata)))
        return cls._from_source(source, channels, metadata, byte_limit)

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        *,
        path: str | Sequence[str] | Mapping[str, str] = "path",
        root: str | os.PathLike[str] | None = None,
        channels: Sequence[str] | None = None,
        z: int | str | None = None,
        t: int | str | None = None,
        byte_limit: int = BYTE_LIMIT,
        on_error: str = "raise",
    ) -> ImageCollection:
        """Make a collection of the files named in a table.

        Parameters
        ----------
        table : DataFrame
            One row an image. Columns other than the paths are the metadata, as are
            levels of the index that have a name.
        path : str, list of str or mapping of str to str, default="path"
            The column of paths to files that hold all channels; or, with one file a
            channel, the columns of paths, or a mapping from channel to column.
        root : str or path-like, default=None
            The folder that relative paths start from; the working directory by
            default.
        channels : sequence of str of length C, default=None
            The names of the channels. By default those of the mapping or of the
            columns, those that OME-TIFF files give them, or "channel_0", ... .
        z, t : int, "max" or "mean", default=None
            Of TIFF stacks with several planes or time points: the one to take,
            counted from 0, or a projection; the mean becomes float32 (float64 if of
            32 bits or more). Pages that the file does not name are planes if only z is
            given, time points if only t is, and else channels, with a warning unless
            ``channels`` names them.
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array, and a
            file to be read.
        on_error : {"raise", "skip"}, default="raise"
            What becomes of an image that cannot be used: its file is missing, broken,
            of another shape or type than most, or holds NaN. "raise": an error when it
            is needed. "skip": all files are read now, and such images left out and
            listed in :attr:`skipped`.

        Returns
        -------
        ImageCollection
            A collection with the rows of the table, in their order.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If the table is empty, lacks a column or a path, or its first file
            cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import pandas as pd
        >>> import tifffile
        >>> from gandl.images import ImageCollection
        >>> table = pd.DataFrame({"file": ["a.tif", "b.tif"], "dose": [0.0, 0.3]})
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in table["file"]:
        ...         tifffile.imwrite(f"{root}/{name}", np.zeros((8, 8), "uint16"))
        ...     X = ImageCollection.from_table(table, path="file", root=root)
        >>> X
        ImageCollection(2 images, channels: channel_0, 8 x 8 pixels, uint16)
        >>> list(X.metadata)
        ['dose']
        """
        files = list_table(table, path, root, channels, z, t)
        return cls._from_files(files, byte_limit, on_error)

    @classmethod
    def from_folder(
        cls,
        root: str | os.PathLike[str],
        pattern: str | None = None,
        *,
        channels: Sequence[str] | Mapping[str, str] | None = None,
        z: int | str | None = None,
        t: int | str | None = None,
        byte_limit: int = BYTE_LIMIT,
        on_error: str = "raise",
    ) -> ImageCollection:
        """Make a collection of the files in a folder whose names fit a pattern.

        Parameters
        ----------
        root : str or path-like
            The folder.
        pattern : str, default=None
            The path of a file below the folder, with "/" between folders and fields
            in braces, such as ``"{plate}/{well}_s{site}_w{channel}.tif"``. A field
            stands for one or more characters of one name (as many as fit), and a
            repeated field for the same text again. Fields become columns of the
            metadata, always of strings. The files that differ in ``{channel}``,
            ``{z}`` and ``{t}`` alone make one image.

            Or how a microscope or archive names its files, which may lie any number
            of folders below: "rxrx", "phenix" or "operetta" (Harmony), "jump",
            "imagexpress" (MetaXpress) or "cellvoyager". The plate is then the name
            of its folder, and wells are called A01. None: the one that fits.
        channels : sequence of str or mapping of str to str, default=None
            With a ``{channel}`` field, the values of it to use, in this order, or a
            mapping from its values to the names of the channels; by default all.
            Without, the names of the channels in each file. Those that an OME-TIFF
            file gives them are theirs by default, and each is taken by its name.
        z, t : int, str, "max" or "mean", default=None
            With a field ``{z}`` or ``{t}``, which of several planes or time points to
            take, by its number or its text in the file names, or a projection. Without,
            as in :meth:`from_table`.
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array, and a
            file to be read.
        on_error : {"raise", "skip"}, default="raise"
            What becomes of an image that cannot be used: its file is missing, broken,
            of another shape or type than most, or holds NaN. "raise": an error when it
            is needed. "skip": all files are read now, and such images left out and
            listed in :attr:`skipped`.

        Returns
        -------
        ImageCollection
            A collection sorted by the fields in the order of the pattern, numbers
            in them by value. Files that do not fit the pattern are left out.

        Raises
        ------
        FileNotFoundError
            If an image lacks the file of a channel.
        ValueError
            If the pattern is invalid, or fits no file; the message shows some. If no
            pattern is given, and none or several of the known ones fit.

        Warns
        -----
        UserWarning
            If files differ from the pattern by upper and lower case, .tif and .tiff,
            or a folder more alone, or a field is called nearly as a known one.

        Examples
        --------
        >>> import os
        >>> import tempfile
        >>> import numpy as np
        >>> import tifffile
        >>> from gandl.images import ImageCollection
        >>> with tempfile.TemporaryDirectory() as root:
        ...     os.mkdir(f"{root}/p1")
        ...     for name in ["A01_dna", "A01_actin", "A02_dna", "A02_actin"]:
        ...         tifffile.imwrite(f"{root}/p1/{name}.tif", np.zeros((8, 8), "uint8"))
        ...     X = ImageCollection.from_folder(root, "{plate}/{well}_{channel}.tif")
        >>> X
        ImageCollection(2 images, channels: actin, dna, 8 x 8 pixels, uint8, 1 plate)
        >>> X.metadata
          plate well
        0    p1  A01
        1    p1  A02
        """
        lenient = on_error == "skip"
        files = list_folder(root, pattern, channels, z=z, t=t, lenient=lenient)
        return cls._from_files(files, byte_limit, on_error)

    @classmethod
    def _from_files(
        cls, files: FileTable, byte_limit: int, on_error: str
    ) -> ImageCollection:
        skipped = None
        if is_lenient(on_error):
            files, skipped = split_unreadable(files, byte_limit)
        source = FileSource.from_paths(
            files.paths, byte_limit, files.inside, files.among, files.channels
        )
        n, names = source.shape[1], files.channels or source.told
        if len(names) == 1 < n:
            raise ValueError(
                f"{files.paths.flat[0]!r} holds {n} channels, where one was named, "
                f"{names[0]!r}. Name all that a file holds; in a load_data.csv, or "
                "with {channel} in a pattern, each file is to hold one: convert RGB."
            )
        # One that asked for planes or time points would have them.
        if not names and files.paths.shape[1] == 1 < n:
            tell_doubtful(files.paths.flat[0])
        lit: Source = source
        if files.functions is not None:
            lit = with_functions(source, files.functions)
        return cls._from_source(lit, names or None, files.metadata, byte_limit, skipped)

    @classmethod
    def _from_source(
        cls,
        source: Source,
        channels: Sequence[str] | None,
        metadata: pd.DataFrame,
        byte_limit: int,
        skipped: pd.DataFrame | None = None,
    ) -> ImageCollection:
        n, n_channels, height, width = source.shape
        if len(metadata) != n:
            raise ValueError(f"The metadata has {len(metadata)} rows for {n} images.")
        if not metadata.columns.is_unique:
            twice = metadata.columns[metadata.columns.duplicated()][0]
            raise ValueError(f"The metadata has several columns {twice!r}.")
        return cls._new(
            _byte_limit=operator.index(byte_limit),
            _channels=channel_names(channels, n_channels),
            _group_of=None,
            _group_ranges=None,
            _metadata=metadata.reset_index(drop=True),
            _offsets=None,
            _picks=list(range(n_channels)),
            _rows=np.arange(n),
            _size=(height, width),
            _skipped=pd.DataFrame() if skipped is None else skipped,
            _source=source,
        )

    def select(self, query: str) -> ImageCollection:
        """Select the images whose metadata fulfil a condition.

        Parameters
        ----------
        query : str
            The condition, as :meth:`pandas.DataFrame.query` takes it. What comes from
            file names and tables is text: ``"plate != '3'"``.

        Returns
        -------
        ImageCollection
            A view; nothing is read.

        Raises
        ------
        ValueError
            If the condition cannot be asked of these columns.

        Warns
        -----
        UserWarning
            If all images fulfil that a column is not some number: it may be text.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> X = ImageCollection.from_array(
        ...     np.zeros((3, 1, 8, 8)), metadata={"dose": [0.0, 0.3, 1.0]}
        ... )
        >>> len(X.select("dose > 0"))
        2
        """
        return self._take(query_rows(self._metadata, query))

    def tile(
        self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None
    ) -> ImageCollection:
        """Cut every image into tiles of one size that cover it.

        Parameters
        ----------
        size : int or tuple of int
            Height and width of a tile in pixels.
        stride : int or tuple of int, default=None
            The largest step from one tile to the next in pixels, at most the size,
            which is the default. Tiles are evenly spaced from edge to edge: they
            overlap where the steps do not divide the image.

        Returns
        -------
        ImageCollection
            A view with one row a tile, tiles of one image side by side, row by row.
            Its metadata gains the columns "tile_y" and "tile_x": the place of the
            tile's first pixel in the file. Nothing is read.

        Raises
        ------
        ValueError
            If the size exceeds the image, or the stride the size.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> X = ImageCollection.from_array(np.zeros((2, 1, 8, 10))).tile(4)
        >>> X.shape
        (12, 1, 4, 4)
        >>> X.metadata["tile_x"].unique()
        array([0, 3, 6])
        """
        sizes, strides = pair(size), pair(size if stride is None else stride)
        y, x = (
            tile_offsets(*lengths)
            for lengths in zip(self._size, sizes, strides, strict=True)
        )
        grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        offsets = np.tile(grid, (len(self), 1))
        positions = np.repeat(np.arange(len(self)), len(grid))
        if self._offsets is not None:
            offsets += self._offsets[positions]
        elif {"tile_y", "tile_x"} & set(self._metadata.columns):
            raise ValueError(
                "The metadata has a column 'tile_y' or 'tile_x' already: rename it."
            )
        tiles = self._take(positions, _offsets=offsets, _size=sizes)
        metadata = tiles._metadata.assign(tile_y=offsets[:, 0], tile_x=offsets[:, 1])
        return tiles._replace(_metadata=metadata)

    def with_channels(self, names: str | Sequence[str]) -> ImageCollection:
        """Choose channels by name.

        Parameters
        ----------
        names : str or sequence of str
            The channels to keep, in the order wanted.

        Returns
        -------
        ImageCollection
            A view; with one file a channel, the files of the others are not read.

        Raises
        ------
        ValueError
            If there is no such channel, or one is named twice.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> X = ImageCollection.from_array(np.zeros((3, 2, 8, 8)))
        >>> X.with_channels(["channel_1"]).shape
        (3, 1, 8, 8)
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in names if name not in self._channels]
        if unknown or not names:
            raise ValueError(
                f"No such channels: {unknown}. Choose from {list(self._channels)}."
            )
        places = [self._channels.index(name) for name in names]
        ranges = self._group_ranges
        return self._replace(
            _channels=channel_names(names, len(names)),
            _picks=[self._picks[place] for place in places],
            _group_ranges=None if ranges is None else ranges[:, places],
        )
