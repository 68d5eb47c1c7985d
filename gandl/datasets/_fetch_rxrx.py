"""`fetch_rxrx19a`, `fetch_rxrx1`: tables and chosen images, from where they lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.utils import Bunch

from gandl._files import whole_file
from gandl.datasets._archives import RemoteZip, extract
from gandl.datasets._http import N_CONNECTIONS, Web, import_fetch
from gandl.datasets._rxrx import (
    EMBEDDINGS,
    METADATA,
    RXRX1,
    RXRX19A,
    Choice,
    Kind,
    choose,
    image_files,
    load_rxrx,
    load_rxrx_embeddings,
    read_metadata,
)

RXRX19A_URL = "https://storage.googleapis.com/rxrx/RxRx19a"
RXRX1_URL = "https://storage.googleapis.com/rxrx/rxrx1"
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_FILES_AT_ONCE = 1000  # between two lines of progress


class _Release(NamedTuple):
    kind: Kind
    archives: dict[str, str]  # of the tables
    images: str
    size: str  # of all images


_RXRX19A = _Release(
    RXRX19A,
    {METADATA: "RxRx19a-metadata.zip", EMBEDDINGS: "RxRx19a-DL-embeddings.zip"},
    "RxRx19a-images.zip",
    "445 GB",
)
_RXRX1 = _Release(
    RXRX1,
    {METADATA: "rxrx1-metadata.zip", EMBEDDINGS: "rxrx1-dl-embeddings.zip"},
    "rxrx1-images.zip",
    "47 GB",
)


def fetch_rxrx19a(
    *,
    data_home: str | os.PathLike[str] | None = None,
    experiments: Choice = None,
    plates: Choice = None,
    wells: Choice = None,
    cell_types: Choice = None,
    images: bool = False,
    embeddings: bool = False,
    source: str = "files",
    base_url: str = RXRX19A_URL,
    known_hashes: Mapping[str, str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
) -> Bunch:
    """Fetch RxRx19a: its metadata, and its embeddings and chosen images if asked.

    Cells of two types (HRCE, VERO), healthy or infected with SARS-CoV-2, and infected
    ones treated with compounds at six doses: 305,520 images of five stains on 57
    plates, by Recursion, under CC-BY 4.0 (Heiser et al. 2020, Cuccarese et al. 2020).

    Parameters
    ----------
    data_home : str or path-like, default=None
        Where data sets are kept; this one in its folder "RxRx19a". By default the
        folder that the environment variable GANDL_DATA_HOME names, or "~/gandl_data".
    experiments, plates, wells, cell_types : str, int or sequence, default=None
        What to fetch images of and to return, as for :func:`load_rxrx`. By default
        all.
    images : bool, default=False
        Whether to fetch images: of chosen experiments, plates or wells only, since all
        are 445 GB.
    embeddings : bool, default=False
        Whether to fetch the published embeddings (1.4 GB, of all images).
    source : {"files", "archive"}, default="files"
        Where images come from. "files": from single PNG files below "images/".
        "archive": out of the zip file of all images, of which only its list of members
        (over 100 MB, and 1 GB of memory) and what is wanted is read.
    base_url : str, default="https://storage.googleapis.com/rxrx/RxRx19a"
        The address of the folder, or of a mirror of it.
    known_hashes : mapping of str to str, default=None
        Check sums of files ("RxRx19a-metadata.zip", "images/HRCE-1/Plate1/..."), as
        pooch has them: ``"md5:..."`` or SHA256.
    download_if_missing : bool, default=True
        Whether to download. If not, what is not on disk is an error.
    n_retries : int, default=3
        How often a download that broke off is taken up again without any progress.
    delay : float, default=1.0
        The seconds before the first retry; twice as many before each further one.

    Returns
    -------
    Bunch
        - metadata : DataFrame, one row a site, as chosen.
        - images : ImageCollection of those sites, or None.
        - embeddings : DataFrame of profiles of those sites, or None.
        - folder : str, where the files lie; :func:`load_rxrx` opens it.

    Raises
    ------
    OSError
        If a file is not there, the server fails, or the disk does. What came of a file
        is kept, and a further call goes on from there.
    ValueError
        If nothing is as chosen, a check sum or an archive is wrong, or images of
        everything are asked for.
    ImportError
        If pooch, the extra "fetch", is not installed.

    See Also
    --------
    load_rxrx : Open a copy on disk.

    Notes
    -----
    Files on disk are not fetched again; delete one to have it anew. Recursion publishes
    no check sums. Checked are the length of each file, the MD5 sum that Google Cloud
    Storage states with a file, check sums within zip files, the beginning and end of
    PNG files, and `known_hashes`.

    Documented by Recursion are the tables, "RxRx19a-images.zip" and the paths of images
    in it. That the same images lie unpacked beside it is an assumption, from public
    code that takes them from there; if it fails, ``source="archive"`` is the way.

    Examples
    --------
    Two wells of one plate, some 6 MB each::

        wells = ["HRCE-1_25_AA02", "HRCE-1_25_AA03"]
        rxrx = fetch_rxrx19a(wells=wells, images=True)

    Nothing is downloaded where it may not be:

    >>> import tempfile
    >>> from gandl.datasets import fetch_rxrx19a
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     fetch_rxrx19a(data_home=empty, download_if_missing=False)
    Traceback (most recent call last):
    ...
    OSError: There is no '...metadata.csv', and download_if_missing=False.
    """
    return _fetch(
        _RXRX19A,
        data_home=data_home,
        choices={
            "experiments": experiments,
            "plates": plates,
            "wells": wells,
            "cell_types": cell_types,
        },
        images=images,
        embeddings=embeddings,
        source=source,
        base_url=base_url,
        known_hashes=known_hashes,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )


def fetch_rxrx1(
    *,
    data_home: str | os.PathLike[str] | None = None,
    experiments: Choice = None,
    plates: Choice = None,
    wells: Choice = None,
    cell_types: Choice = None,
    images: bool = False,
    embeddings: bool = False,
    source: str = "archive",
    base_url: str = RXRX1_URL,
    known_hashes: Mapping[str, str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
) -> Bunch:
    """Fetch RxRx1: its metadata, and its embeddings and chosen images if asked.

    Cells of four types (HUVEC, RPE, HEPG2, U2OS), treated with 1,138 siRNAs: 125,510
    images of six stains from 51 experiments, by Recursion, under CC-BY-NC-SA 4.0
    (Sypetkowski et al. 2023, arXiv 2301.05768).

    Parameters
    ----------
    data_home : str or path-like, default=None
        Where data sets are kept; this one in its folder "rxrx1". By default the folder
        that the environment variable GANDL_DATA_HOME names, or "~/gandl_data".
    experiments, plates, wells, cell_types : str, int or sequence, default=None
        What to fetch images of and to return, as for :func:`load_rxrx`. By default
        all.
    images : bool, default=False
        Whether to fetch images: of chosen experiments, plates or wells only, since all
        are 47 GB.
    embeddings : bool, default=False
        Whether to fetch the published embeddings (some 50 MB, of all images).
    source : {"archive", "files"}, default="archive"
        Where images come from. "archive": out of the zip file of all images, of which
        only its list of members (some 80 MB) and what is wanted is read. "files": from
        single PNG files below "images/", for a mirror that has them.
    base_url : str, default="https://storage.googleapis.com/rxrx/rxrx1"
        The address of the folder, or of a mirror of it.
    known_hashes : mapping of str to str, default=None
        Check sums of files ("rxrx1-metadata.zip"), as pooch has them: ``"md5:..."`` or
        SHA256.
    download_if_missing : bool, default=True
        Whether to download. If not, what is not on disk is an error.
    n_retries : int, default=3
        How often a download that broke off is taken up again without any progress.
    delay : float, default=1.0
        The seconds before the first retry; twice as many before each further one.

    Returns
    -------
    Bunch
        - metadata : DataFrame, one row a site, as chosen.
        - images : ImageCollection of those sites, or None.
        - embeddings : DataFrame of profiles of those sites, or None.
        - folder : str, where the files lie; :func:`load_rxrx` opens it.

    Raises
    ------
    OSError
        If a file is not there, the server fails, or the disk does. What came of a file
        is kept, and a further call goes on from there.
    ValueError
        If nothing is as chosen, a check sum or an archive is wrong, or images of
        everything are asked for.
    ImportError
        If pooch, the extra "fetch", is not installed.

    See Also
    --------
    fetch_rxrx19a : What is checked, and how.
    load_rxrx : Open a copy on disk, of either path scheme.

    Notes
    -----
    Documented by Recursion are the tables and "rxrx1-images.zip". That its members
    begin with "rxrx1/images/" is from public code; any folder before "images/" will do.

    Examples
    --------
    A plate of one experiment, some 230 MB::

        rxrx = fetch_rxrx1(experiments="HUVEC-01", plates=1, images=True)

    Nothing is downloaded where it may not be:

    >>> import tempfile
    >>> from gandl.datasets import fetch_rxrx1
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     fetch_rxrx1(data_home=empty, download_if_missing=False)
    Traceback (most recent call last):
    ...
    OSError: There is no '...metadata.csv', and download_if_missing=False.
    """
    return _fetch(
        _RXRX1,
        data_home=data_home,
        choices={
            "experiments": experiments,
            "plates": plates,
            "wells": wells,
            "cell_types": cell_types,
        },
        images=images,
        embeddings=embeddings,
        source=source,
        base_url=base_url,
        known_hashes=known_hashes,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )


def _fetch(
    release: _Release,
    *,
    data_home: str | os.PathLike[str] | None,
    choices: dict[str, Any],
    images: bool,
    embeddings: bool,
    source: str,
    base_url: str,
    known_hashes: Mapping[str, str] | None,
    download_if_missing: bool,
    n_retries: int,
    delay: float,
) -> Bunch:
    if source not in ("files", "archive"):
        raise ValueError(f'source is "files" or "archive", got {source!r}.')
    if images and all(choices[n] is None for n in ("experiments", "plates", "wells")):
        raise ValueError(
            f"images=True without a choice would fetch {release.size}: name "
            "experiments, plates or wells."
        )
    folder = _home(data_home) / release.kind.name
    fetcher = _Fetcher(
        folder,
        release,
        base_url.rstrip("/"),
        dict(known_hashes or {}),
        allowed=download_if_missing,
        web={"n_retries": n_retries, "delay": delay},
    )
    fetcher.table(METADATA)
    if embeddings:
        fetcher.table(EMBEDDINGS)
    kind, _, table = read_metadata(folder)
    if kind is not release.kind:
        raise ValueError(
            f"{str(folder / METADATA)!r} is of {kind.name}, not {release.kind.name}."
        )
    table = choose(table, **choices)
    if images:
        paths, is_there = image_files(folder, table, len(release.kind.stains))
        fetcher.images(paths[~is_there].tolist(), source)
    return Bunch(
        metadata=table,
        images=load_rxrx(folder, **choices) if images else None,
        embeddings=load_rxrx_embeddings(folder, **choices) if embeddings else None,
        folder=str(folder),
    )


def _home(data_home: str | os.PathLike[str] | None) -> Path:
    given = data_home or os.environ.get("GANDL_DATA_HOME") or "~/gandl_data"
    return Path(os.fsdecode(given)).expanduser().absolute()


class _Fetcher(NamedTuple):
    folder: Path
    release: _Release
    base_url: str
    known_hashes: dict[str, str]
    allowed: bool
    web: dict[str, Any]

    def table(self, name: str) -> None:
        target = self.folder / name
        if target.exists():
            return
        self._check_allowed(target)
        archive = self.release.archives[name]
        with Web(**self.web) as web:
            packed = self._pooch([archive]).fetch(archive, downloader=web)
        try:
            extract(Path(packed), name, target)
        except ValueError:
            os.unlink(packed)  # so that a further call does not find it again
            raise
        os.unlink(packed)

    def images(self, paths: list[str], source: str) -> None:
        if not paths:
            return
        self._check_allowed(self.folder / paths[0])
        # Threads of pooch's would get into each other's way.
        for folder in {(self.folder / path).parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
        with Web(**self.web) as web:
            fetch_one: Callable[[str], None]
            if source == "files":
                pooch = self._pooch(paths)
                downloader = _png_downloader(web)
                fetch_one = lambda path: pooch.fetch(path, downloader=downloader)  # noqa: E731
            else:
                fetch_one = self._from_archive(web, paths)
            self._all(fetch_one, paths)

    def _all(self, fetch_one: Callable[[str], None], paths: list[str]) -> None:
        logger = import_fetch("pooch").get_logger()
        for start in range(0, len(paths), _FILES_AT_ONCE):
            logger.info("Fetching images: %d of %d files.", start, len(paths))
            # Unlike joblib's, a pool that is left by an error waits for its threads:
            # none still writes when the caller tries again.
            with _quiet(logger), ThreadPoolExecutor(N_CONNECTIONS) as pool:
                list(pool.map(fetch_one, paths[start : start + _FILES_AT_ONCE]))

    def _from_archive(self, web: Web, paths: list[str]) -> Callable[[str], None]:
        archive = RemoteZip(web, f"{self.base_url}/{self.release.images}")
        wanted = set(paths)
        members = {}
        for member in archive.members:
            path = member[max(member.find("images/"), 0) :]
            if path in wanted:
                members[path] = member
        lost = [path for path in paths if path not in members]
        if lost:
            raise FileNotFoundError(
                f"{archive.url} does not hold {len(lost)} of {len(paths)} images, "
                f"{lost[0]!r} the first."
            )

        def fetch_one(path: str) -> None:
            data = archive.read(members[path])
            _check_png(data[:8], data[-8:], f"{archive.url}, {path!r}")
            with whole_file(self.folder / path) as part:
                part.write_bytes(data)

        return fetch_one

    def _pooch(self, names: list[str]) -> Any:
        return import_fetch("pooch").create(
            path=self.folder,
            base_url=self.base_url + "/",
            registry={name: self.known_hashes.get(name) for name in names},
        )

    def _check_allowed(self, path: Path) -> None:
        if not self.allowed:
            raise OSError(f"There is no {str(path)!r}, and download_if_missing=False.")


# pooch tells of every file: too many lines.
@contextmanager
def _quiet(logger: Any) -> Iterator[None]:
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _png_downloader(web: Web) -> Callable[[str, str, Any], None]:
    def download(url: str, output_file: str, pooch: Any) -> None:
        web.download(url, Path(output_file))
        with open(output_file, "rb") as file:
            head = file.read(8)
            file.seek(-min(8, os.path.getsize(output_file)), os.SEEK_END)
            _check_png(head, file.read(), url)

    return download


def _check_png(head: bytes, tail: bytes, what: str) -> None:
    if head != _PNG_HEAD or tail != _PNG_TAIL:
        raise ValueError(f"What the server has at {what} is no whole PNG file.")
