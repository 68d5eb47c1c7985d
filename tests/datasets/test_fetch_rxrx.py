"""`fetch_rxrx19a` and `fetch_rxrx1`, from a server on this machine."""

import hashlib
import logging.handlers
import sys
import time

import numpy as np
import pandas as pd
import pooch
import pytest
from served import (
    csv,
    leftovers,
    md5_header,
    pixels,
    rxrx1,
    rxrx19a,
    rxrx19a_table,
    serve,
    zipped,
)

from gandl.datasets import fetch_rxrx1, fetch_rxrx19a, load_rxrx
from gandl.datasets._http import Web
from gandl.profiles import feature_columns

METADATA_19A = "RxRx19a-metadata.zip"
IMAGE = "images/HRCE-1/Plate1/AA02_s1_w1.png"


@pytest.fixture(scope="module")
def published():
    return {"19a": rxrx19a(), "1": rxrx1()}


@pytest.fixture
def server(published, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(published["19a"] | published["1"]) as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    def call(function=fetch_rxrx19a, **how):
        how = {"data_home": tmp_path, "base_url": server.url, "delay": 0} | how
        return function(**how)

    return call


def test_metadata_alone(server, fetch, tmp_path):
    rxrx = fetch()
    assert rxrx.images is None
    assert rxrx.embeddings is None
    assert rxrx.folder == str(tmp_path / "RxRx19a")
    assert rxrx.metadata["site_id"].tolist() == rxrx19a_table()["site_id"].tolist()
    assert server.paths() == [METADATA_19A]
    assert [path.name for path in (tmp_path / "RxRx19a").iterdir()] == ["metadata.csv"]


def test_what_is_there_is_not_fetched_again(server, fetch):
    choice = {"wells": "AA02", "images": True, "embeddings": True}
    first = fetch(**choice)
    server.requests.clear()
    again = fetch(**choice)
    assert server.requests == []
    np.testing.assert_array_equal(first.images, again.images)
    offline = fetch(**choice, download_if_missing=False)
    pd.testing.assert_frame_equal(first.metadata, offline.metadata)


@pytest.mark.parametrize("source", ["files", "archive"])
def test_images_of_chosen_wells(server, fetch, tmp_path, source):
    rxrx = fetch(
        experiments="HRCE-1", wells=["AA02", "B04"], images=True, source=source
    )
    assert rxrx.images.shape == (8, 5, 8, 8)
    pd.testing.assert_frame_equal(rxrx.images.metadata, rxrx.metadata)
    for image, site_id in zip(rxrx.images, rxrx.metadata["site_id"], strict=True):
        np.testing.assert_array_equal(image, [pixels(site_id, w) for w in range(1, 6)])
    images = list((tmp_path / "RxRx19a" / "images").rglob("*.png"))
    assert len(images) == 40
    assert not leftovers(tmp_path)
    if source == "files":
        assert len(server.requests) == 41
    else:
        assert set(server.paths()) == {METADATA_19A, "RxRx19a-images.zip"}
        assert None not in {asked for path, asked in server.requests[1:]}


def test_more_wells_bring_only_their_images(server, fetch):
    fetch(wells="HRCE-1_1_AA02", images=True)
    server.requests.clear()
    assert len(fetch(plates="HRCE-1_1", images=True).images) == 6
    assert len(server.requests) == 20


def test_rxrx1_comes_out_of_its_archive(server, fetch):
    rxrx = fetch(fetch_rxrx1, experiments="U2OS-05", plates=1, images=True)
    assert rxrx.images.shape == (4, 6, 8, 8)
    np.testing.assert_array_equal(rxrx.images[3][5], pixels("U2OS-05_1_B03_2", 6))
    assert set(server.paths()) == {"rxrx1-metadata.zip", "rxrx1-images.zip"}
    assert len(load_rxrx(rxrx.folder, experiments="U2OS-05")) == 4


@pytest.mark.parametrize(("function", "n"), [(fetch_rxrx19a, 1024), (fetch_rxrx1, 128)])
def test_embeddings(fetch, function, n, tmp_path):
    rxrx = fetch(function, plates=1, embeddings=True)
    assert len(feature_columns(rxrx.embeddings)) == n
    sites = rxrx.embeddings["Metadata_site_id"].tolist()
    assert sites == rxrx.metadata["site_id"].tolist()
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("source", ["files", "archive"])
def test_connections_that_break(server, fetch, source):
    for path in server.files:
        server.breaks[path] = [20, 10]
        server.fails[path] = [503]
    rxrx = fetch(wells="HRCE-1_1_AA02", images=True, source=source)
    for image, site_id in zip(rxrx.images, rxrx.metadata["site_id"], strict=True):
        np.testing.assert_array_equal(image, [pixels(site_id, w) for w in range(1, 6)])


def test_an_interrupted_fetch_goes_on(server, fetch, tmp_path):
    server.breaks[IMAGE] = [50, 0]
    with pytest.raises(OSError, match=r"Cannot fetch .*AA02_s1_w1.png"):
        fetch(wells="HRCE-1_1_AA02", images=True, n_retries=0)
    assert not (tmp_path / "RxRx19a" / IMAGE).exists()
    with pytest.raises(FileNotFoundError):
        load_rxrx(tmp_path, wells="HRCE-1_1_AA02")
    server.requests.clear()
    rxrx = fetch(wells="HRCE-1_1_AA02", images=True)
    assert (IMAGE, "bytes=50-") in server.requests
    assert METADATA_19A not in server.paths()
    np.testing.assert_array_equal(rxrx.images[0][0], pixels("HRCE-1_1_AA02_1", 1))


def test_a_fetch_that_failed_leaves_no_download_going(server, fetch, monkeypatch):
    going = set()
    download = Web.download

    def slowed(self, url, path):
        going.add(url)
        if IMAGE not in url:
            time.sleep(0.2)
        try:
            download(self, url, path)
        finally:
            going.discard(url)

    monkeypatch.setattr(Web, "download", slowed)
    server.breaks[IMAGE] = [50]
    with pytest.raises(OSError, match=r"Cannot fetch .*AA02_s1_w1.png"):
        fetch(wells="HRCE-1_1_AA02", images=True, n_retries=0)
    assert going == set()


def test_all_images_are_not_fetched_by_mistake(server, fetch):
    for choice in ({}, {"cell_types": "HRCE"}):
        with pytest.raises(ValueError, match="without a choice would fetch 445 GB"):
            fetch(images=True, **choice)
    assert server.requests == []


@pytest.mark.parametrize("images", [False, True])
def test_nothing_is_downloaded_where_it_may_not_be(server, fetch, images):
    with pytest.raises(OSError, match=r"no '.*metadata.csv', and download_if_missing"):
        fetch(wells="AA02", images=images, download_if_missing=False)
    assert server.requests == []
    fetch()
    server.requests.clear()
    with pytest.raises(OSError, match=r"_w1.png', and download_if_missing=False"):
        fetch(wells="AA02", images=True, download_if_missing=False)
    assert server.requests == []


def test_an_image_that_is_not_there(server, fetch):
    del server.files[IMAGE]
    with pytest.raises(OSError, match=r"answers 404 .*AA02_s1_w1.png"):
        fetch(wells="HRCE-1_1_AA02", images=True)
    server.files["RxRx19a-images.zip"] = zipped({"RxRx19a/images/other.png": b""})
    with pytest.raises(FileNotFoundError, match=r"does not hold .* images, 'images/H"):
        fetch(wells="HRCE-1_1_AA02", images=True, source="archive")


@pytest.mark.parametrize("source", ["files", "archive"])
@pytest.mark.parametrize("kept", [None, slice(-4), slice(4, None), slice(0)])
def test_what_is_no_whole_image_is_not_kept(server, fetch, tmp_path, source, kept):
    image = server.files[IMAGE][kept] if kept is not None else b"<html>Sign in</html>"
    server.files[IMAGE] = image
    names = [name for name in server.files if name.startswith("images/")]
    server.files["RxRx19a-images.zip"] = zipped({n: server.files[n] for n in names})
    with pytest.raises(ValueError, match=r"AA02_s1_w1.png.* is no whole PNG file"):
        fetch(wells="HRCE-1_1_AA02", images=True, source=source)
    assert not (tmp_path / "RxRx19a" / IMAGE).exists()


def test_known_check_sums(server, fetch, tmp_path):
    data = server.files[METADATA_19A]
    right = {METADATA_19A: hashlib.sha256(data).hexdigest()}
    assert len(fetch(known_hashes=right).metadata) == 18
    wrong = {METADATA_19A: "md5:" + "0" * 32}
    with pytest.raises(ValueError, match="does not match"):
        fetch(known_hashes=wrong, data_home=tmp_path / "other")
    assert not any(path.is_file() for path in (tmp_path / "other").rglob("*"))
    with pytest.raises(ValueError, match="does not match"):
        fetch(known_hashes={IMAGE: "0" * 64}, wells="HRCE-1_1_AA02", images=True)
    assert not (tmp_path / "RxRx19a" / IMAGE).exists()


def test_the_sum_that_google_states_is_checked(server, fetch, tmp_path):
    server.headers[IMAGE] = md5_header(b"other")
    with pytest.raises(OSError, match="MD5"):
        fetch(wells="HRCE-1_1_AA02", images=True)
    assert not (tmp_path / "RxRx19a" / IMAGE).exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"RxRx19a/readme": b""}, "holds 0 files 'metadata.csv'"),
        ({"a/metadata.csv": b"", "b/metadata.csv": b""}, "holds 2 files"),
    ],
)
def test_an_archive_that_is_not_as_published(server, fetch, tmp_path, files, message):
    good = server.files[METADATA_19A]
    server.files[METADATA_19A] = zipped(files)
    with pytest.raises(ValueError, match=message):
        fetch()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    server.files[METADATA_19A] = good
    assert len(fetch().metadata) == 18  # the bad one is not found again


def test_metadata_of_the_other_set(server, fetch):
    server.files[METADATA_19A] = server.files["rxrx1-metadata.zip"]
    with pytest.raises(ValueError, match=r"metadata.csv' is of rxrx1, not RxRx19a"):
        fetch()


def test_metadata_that_name_files_elsewhere(server, fetch, tmp_path):
    table = rxrx19a_table().assign(well="../../../../x")
    server.files[METADATA_19A] = zipped({"RxRx19a/metadata.csv": csv(table)})
    with pytest.raises(ValueError, match=r"has the well '\.\./"):
        fetch(plates=1, images=True)
    assert server.paths() == [METADATA_19A]


def test_a_member_with_a_wrong_sum(server, fetch):
    name, data = "RxRx19a-images.zip", bytearray(server.files["RxRx19a-images.zip"])
    data[data.index(server.files[IMAGE]) + 30] ^= 1
    server.files[name] = bytes(data)
    with pytest.raises(
        ValueError, match=r"AA02_s1_w1.png' out of .*check sum is wrong"
    ):
        fetch(wells="HRCE-1_1_AA02", images=True, source="archive")


def test_an_archive_on_a_server_without_ranges(server, fetch):
    server.ranges = False
    with pytest.raises(OSError, match="does not serve parts of files: name a mirror"):
        fetch(fetch_rxrx1, plates=1, images=True)
    assert server.sent < 10 * len(server.files["rxrx1-images.zip"])
    assert len(fetch(plates=1, images=True).images) == 12


def test_other_source(fetch):
    with pytest.raises(ValueError, match='source is "files" or "archive", got \'tar\''):
        fetch(source="tar")


def test_where_data_sets_are_kept(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("GANDL_DATA_HOME", str(tmp_path / "env"))
    assert fetch(data_home=None).folder == str(tmp_path / "env" / "RxRx19a")
    monkeypatch.delenv("GANDL_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "gandl_data" / "RxRx19a")
    assert fetch(data_home=None).folder == expected
    assert fetch(data_home="~/mine").folder == str(tmp_path / "mine" / "RxRx19a")


def test_pooch_is_named_where_it_is_missing(fetch, monkeypatch, server, tmp_path):
    kept = fetch()
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setitem(sys.modules, "requests", None)
    assert len(fetch().metadata) == len(kept.metadata)  # nothing to fetch
    with pytest.raises(ImportError, match=r'pip install "gandl\[fetch\]"'):
        fetch(data_home=tmp_path / "other")


def test_progress_is_a_line_for_many_files(fetch, monkeypatch):
    monkeypatch.setattr("gandl.datasets._fetch_rxrx._FILES_AT_ONCE", 20)
    handler = logging.handlers.BufferingHandler(1000)
    pooch.get_logger().addHandler(handler)
    try:
        fetch(wells="AA02", images=True)
        fetch(wells="AA03", images=True)  # pooch speaks again
    finally:
        pooch.get_logger().removeHandler(handler)
    lines = [record.getMessage() for record in handler.buffer]
    assert lines[0].startswith(f"Downloading file '{METADATA_19A}'")
    assert (
        lines[1:]
        == ["Fetching images: 0 of 30 files.", "Fetching images: 20 of 30 files."] * 2
    )
