"""Collections of screens: load_data.csv, plate maps, what plates differ in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length

from gandl._plate_map import join_plate_map, read_plate_map
from gandl._row_labels import check_order_of_images, rows_of_each
from gandl._tables import as_pandas, with_index, with_usual_names
from gandl.images._illumination import with_estimate
from gandl.images._intensity import HIGH, LOW, MAX_IMAGES, range_of_rows, spaced
from gandl.images._load_data import list_load_data
from gandl.images._readers import BYTE_LIMIT
from gandl.images._view import ImageView


class ScreenView(ImageView):
    __slots__ = ()

    _from_files: Callable[..., Any]

    @classmethod
    def from_load_data(
        cls,
        table: str | os.PathLike[str] | pd.DataFrame,
        *,
        root: str | os.PathLike[str] | None = None,
        channels: Sequence[str] | Mapping[str, str] | None = None,
        illumination: bool = True,
        z: int | str | None = None,
        t: int | str | None = None,
        byte_limit: int = BYTE_LIMIT,
        on_error: str = "raise",
    ) -> Self:
        """Make a collection of CellProfiler's load_data.csv.

        Each channel DNA has the columns FileName_DNA and PathName_DNA, or URL_DNA; the
        Cell Painting Gallery (Weisbart et al. 2024, doi:10.1038/s41592-024-02399-z)
        calls them FileName_OrigDNA and so on, and has the illumination function of a
        channel in FileName_IllumDNA and PathName_IllumDNA.

        Parameters
        ----------
        table : str, path-like or DataFrame
            The table, or its file: csv, csv.gz or parquet.
        root : str or path-like, default=None
            The folder that relative paths start from, and in which paths of another
            machine or of a bucket are looked for: by their longest end that lies below
            it, so that ``s3://gallery/batch/images/P1`` may be ``root/images/P1`` or
            ``root/P1``. By default the folder of the table, or, of a DataFrame, the
            working directory. Nothing is downloaded.
        channels : sequence of str or mapping of str to str, default=None
            The channels to use, in this order, or a mapping from them to other names;
            by default all, in the order of the columns.
        illumination : bool, default=True
            Whether to divide the pixels of a channel by its illumination function, if
            there is one. The images are then floating point, and neither rounded nor
            clipped: 32 bits, or 64 where the files have 32 or 64.
        z, t : int, "max" or "mean", default=None
            Of TIFF stacks with several planes or time points, what to take, as in
            :meth:`ImageCollection.from_table`.
        byte_limit : int, default=4 GiB
            The size above which the collection refuses to become one array, and a
            file to be read.
        on_error : {"raise", "skip"}, default="raise"
            What becomes of an image that cannot be used, as in
            :meth:`ImageCollection.from_table`. An illumination function that cannot be
            used is an error even so.

        Returns
        -------
        ImageCollection
            A collection with the rows of the table, in their order. Other columns are
            its metadata, as strings, without the prefix ``Metadata_``; plate, well and
            site in small letters.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If the table has no channels, or lacks a path, if two of its folders, or the
            files of two channels, would be one below ``root``, if an illumination
            function is not of the images' size, or the first file cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import pandas as pd
        >>> import tifffile
        >>> from gandl.images import ImageCollection
        >>> table = pd.DataFrame(
        ...     {
        ...         "FileName_OrigDNA": ["a.tif"],
        ...         "PathName_OrigDNA": ["/home/ubuntu/bucket/P1"],
        ...         "FileName_IllumDNA": ["P1_IllumDNA.npy"],
        ...         "PathName_IllumDNA": ["/home/ubuntu/bucket/illum/P1"],
        ...         "Metadata_Plate": ["P1"],
        ...     }
        ... )
        >>> with tempfile.TemporaryDirectory() as root:
        ...     tifffile.imwrite(f"{root}/a.tif", np.full((8, 8), 30, "uint16"))
        ...     np.save(f"{root}/P1_IllumDNA.npy", np.full((8, 8), 1.5))
        ...     X = ImageCollection.from_load_data(table, root=root)
        ...     pixel = X[0][0, 0, 0]
        >>> X
        ImageCollection(1 image, channels: DNA, 8 x 8 pixels, float32, 1 plate)
        >>> float(pixel)
        20.0
        """
        files = list_load_data(
            table,
            root,
            channels,
            illumination=illumination,
            z=z,
            t=t,
            lenient=on_error == "skip",
        )
        return cls._from_files(files, byte_limit, on_error)

    def with_plate_map(self, plate_map: str | os.PathLike[str] | pd.DataFrame) -> Self:
        """Add to the metadata what a plate map says of each image's well.

        Images and wells go together by all columns that both have, wells in any usual
        spelling (A1, A01, a01, A-1, r01c01, 1-1).

        Parameters
        ----------
        plate_map : str, path-like or DataFrame
            A table with a column "well" and one row a well, or its file, as
            :func:`read_plate_map` reads it. Without a column "plate" it holds for all
            plates.

        Returns
        -------
        ImageCollection
            A view, its wells called A01, and its columns of plates, wells and sites
            "plate", "well" and "site". No image is read.

        Raises
        ------
        ValueError
            If a well with images is not in the plate map, or is there twice.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> from gandl.images import ImageCollection
        >>> X = ImageCollection.from_array(
        ...     np.zeros((2, 1, 8, 8)), metadata={"well": ["A01", "A02"]}
        ... )
        >>> plate_map = pd.DataFrame({"well": ["A1", "A2"], "compound": ["DMSO", "x"]})
        >>> X.with_plate_map(plate_map).metadata
          well compound
        0  A01     DMSO
        1  A02        x
        """
        plate_map = as_pandas(plate_map)
        if not isinstance(plate_map, pd.DataFrame):
            plate_map = read_plate_map(plate_map)
        known = with_usual_names(self._metadata)
        joined, _ = join_plate_map(known, with_usual_names(with_index(plate_map)))
        return self._replace(_metadata=joined)

    def with_illumination(
        self,
        by: str | Sequence[str] | pd.Series | None = "plate",
        *,
        max_images: int = 128,
    ) -> Self:
        """Divide images by the uneven illumination of the group they belong to.

        A smooth field for each channel is estimated here, once, from images of this
        collection; pixels are divided by it when they are read. A field is 1 on
        average, so that brightness stays what it is, and follows the median over
        images: it takes a hundred or more, in which cells lie anywhere. It stays with
        its images in every view and in pickles, so that what is made of an image later
        depends on that image alone.

        Parameters
        ----------
        by : str, list of str, Series or None, default="plate"
            The column or columns of the metadata whose values make the groups, or the
            group of each image, in order. None makes one group of all images.
        max_images : int, default=128
            How many evenly spaced images of each group are read, one at a time.

        Returns
        -------
        ImageCollection
            A view, floating point: 32 bits, or 64 where the images have 32 or 64.
            Pixels are neither rounded nor clipped.

        Raises
        ------
        ValueError
            If there is no such column, an image contains NaN or infinity, or the
            collection is of tiles or has an intensity range already.

        Notes
        -----
        The logarithm of a field is a polynomial, fitted to the median of 16 x 16
        blocks, each relative to its image's mean, of the degree, up to 4, by which one
        half of the images tells the other best: even light is left as it is, and so is
        a group of one image. An offset that the camera adds is not told from light.
        For a stronger model see BaSiC (Peng et al. 2017, doi:10.1038/ncomms14836),
        whose fields, as .npy files, :meth:`from_load_data` takes.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> light = np.linspace(0.5, 1.5, 64) * np.ones((64, 1))
        >>> images = 100 * np.tile(light, (8, 1, 1, 1))
        >>> X = ImageCollection.from_array(images).with_illumination(by=None)
        >>> bool(np.abs(X[0] / 100 - 1).max() < 0.02)
        True
        """
        if self._offsets is not None or self._group_ranges is not None:
            raise ValueError(
                "Illumination is of whole images, before their intensity: call "
                "with_illumination before tile and with_intensity_range."
            )
        groups = self._groups(by)
        if not len(self):
            raise ValueError("No images to take the illumination from.")
        source, rows = self._source.restrict(self._rows)
        group_of = np.full(source.shape[0], -1, np.int32)
        group_of[rows] = groups
        used = [
            spaced(np.unique(rows[mine]), max_images)
            for mine in rows_of_each(groups, int(groups.max()) + 1)
        ]
        names = np.full(source.shape[0], -1)
        names[rows] = np.arange(len(self))
        corrected = with_estimate(source, self._picks, group_of, used, names)
        return self._replace(_source=corrected, _rows=rows)

    def with_intensity_range(
        self,
        by: str | Sequence[str] | pd.Series | None = "plate",
        *,
        low: float = LOW,
        high: float = HIGH,
        max_images: int = MAX_IMAGES,
    ) -> Self:
        """Attach to each image the intensity range of the group it belongs to.

        The ranges are computed here, once, from images of this collection. They stay
        with their images in every view and in pickles, so that what is made of an
        image later depends on that image alone.

        Parameters
        ----------
        by : str, list of str, Series or None, default="plate"
            The column or columns of the metadata whose values make the groups, or the
            group of each image, in order. None makes one group of all images.
        low, high : float, default=0.1, 99.9
            The percentiles of each channel over the group.
        max_images : int, default=512
            How many evenly spaced images of each group are read.

        Returns
        -------
        ImageCollection
            A view with :attr:`intensity_range`.

        Raises
        ------
        ValueError
            If there is no such column, or an image contains NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from gandl.images import ImageCollection
        >>> images = np.arange(32.0).reshape(2, 1, 4, 4)
        >>> X = ImageCollection.from_array(images, metadata={"plate": ["p1", "p2"]})
        >>> X = X.with_intensity_range("plate", low=0, high=100)
        >>> X.intensity_range[:, 0]
        array([[ 0., 15.],
               [16., 31.]])
        """
        group_of = self._groups(by)
        if not len(self):
            raise ValueError("No images to take an intensity range from.")
        ranges = []
        for mine in rows_of_each(group_of, int(group_of.max()) + 1):
            rows = spaced(mine, max_images)
            ranges.append(range_of_rows(self, rows, low=low, high=high))
        return self._replace(_group_of=group_of, _group_ranges=np.stack(ranges))

    def _groups(self, by: str | Sequence[str] | pd.Series | None) -> np.ndarray:
        if by is None:
            return np.zeros(len(self), dtype=np.intp)
        if isinstance(by, pd.Series):
            check_consistent_length(self, by)
            check_order_of_images(by, len(self), "by")
            groups = pd.DataFrame({"group": by.to_numpy()}).groupby(
                "group", dropna=False
            )
            return groups.ngroup().to_numpy(dtype=np.intp)
        columns = [by] if isinstance(by, str) else list(by)
        unknown = [name for name in columns if name not in self._metadata.columns]
        if unknown or not columns:
            raise ValueError(
                f"The metadata has no columns {unknown}; it has "
                f"{list(self._metadata.columns)}. Choose `by` among these, or None for "
                "one group of all images."
            )
        of_columns = self._metadata.groupby(columns, dropna=False, observed=True)
        return of_columns.ngroup().to_numpy(dtype=np.intp)
