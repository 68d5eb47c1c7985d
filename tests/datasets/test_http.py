"""Downloads that go on where they broke off; parts of files."""

import zipfile

import numpy as np
import pytest
from served import leftovers, md5_header, serve, zipped

from gandl.datasets._http import RemoteFile, Web

DATA = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(1_000_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve({"file": DATA}) as server:
        yield server


@pytest.fixture
def download(server, tmp_path):
    def call(n_retries=3):
        with Web(n_retries=n_retries, delay=0) as web:
            web.download(f"{server.url}/file", tmp_path / "out")
        assert not leftovers(tmp_path)
        return (tmp_path / "out").read_bytes()

    return call


def test_a_file_comes_whole(server, download):
    assert download() == DATA
    assert server.requests == [("file", None)]


def test_a_broken_connection_goes_on_where_it_broke(server, download):
    server.breaks["file"] = [300_000, 200_000]
    assert download() == DATA
    assert server.requests == [
        ("file", None),
        ("file", "bytes=300000-"),
        ("file", "bytes=500000-"),
    ]
    assert server.sent == len(DATA)


def test_a_later_call_goes_on_where_the_first_gave_up(server, download, tmp_path):
    server.breaks["file"] = [400_000, 0]
    with pytest.raises(OSError, match=r"Cannot fetch .*file: .*fetch again to go on"):
        download(n_retries=0)
    assert not (tmp_path / "out").exists()
    assert len(leftovers(tmp_path)) == 2
    assert download() == DATA
    assert server.requests[1:] == [("file", "bytes=400000-")] * 2
    assert server.sent == len(DATA)


def test_retries_are_counted_from_the_last_progress(server, download, tmp_path):
    server.breaks["file"] = [100_000] * 8
    assert download(n_retries=1) == DATA
    server.breaks["file"] = [100_000, 0, 0]
    (tmp_path / "out").unlink()
    with pytest.raises(OSError, match="Tried 2 times"):
        download(n_retries=1)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server, download, status):
    server.fails["file"] = [status, status]
    assert download() == DATA


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_lasting_failure_is_told_at_once(server, download, status, tmp_path):
    server.fails["file"] = [status] * 5
    with pytest.raises(OSError, match=rf"answers {status} .* to {server.url}/file"):
        download()
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


def test_nobody_answers(tmp_path):
    with serve({}) as server:
        url = server.url
    with (
        Web(n_retries=1, delay=0) as web,
        pytest.raises(OSError, match=r"Cannot fetch .*Tried 2 times"),
    ):
        web.download(f"{url}/file", tmp_path / "out")
    with (
        Web(n_retries=1, delay=0) as web,
        pytest.raises(ValueError, match="'nonsense/file' is no address"),
    ):
        web.download("nonsense/file", tmp_path / "out")


def test_waits_grow_from_retry_to_retry(server, download, monkeypatch, tmp_path):
    waits = []
    monkeypatch.setattr("gandl.datasets._http.time.sleep", waits.append)
    server.fails["file"] = [503] * 9
    with (
        Web(n_retries=8, delay=1.5) as web,
        pytest.raises(OSError, match=r"answers 503"),
    ):
        web.download(f"{server.url}/file", tmp_path / "out")
    assert waits == [1.5, 3, 6, 12, 24, 48, 60, 60]


@pytest.mark.parametrize(
    ("tags", "other"), [(True, OTHER), (True, OTHER[:1000]), (False, OTHER[:-1])]
)
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, download, tags, other):
    server.tags = tags
    server.breaks["file"] = [400_000]
    with pytest.raises(OSError, match="Cannot fetch"):
        download(n_retries=0)
    server.files["file"] = other
    assert download() == other


def test_a_server_without_ranges_starts_over(server, download):
    server.ranges = False
    server.breaks["file"] = [400_000]
    assert download() == DATA
    assert server.sent == len(DATA) + 400_000
    server.breaks["file"] = [400_000] * 9
    with pytest.raises(OSError, match="Tried 3 times"):
        download(n_retries=2)  # the same bytes again are no progress


def test_a_file_of_unknown_length(server, download):
    server.lengths = False
    assert download() == DATA


def test_what_came_whole_is_not_asked_for_again(server, download, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gandl.datasets._http.os.replace", lambda *_: 1 / 0)  # a crash
        with pytest.raises(ZeroDivisionError):
            download()
    assert download() == DATA
    assert len(server.requests) == 1


def test_an_empty_file(server, download):
    server.files["file"] = b""
    assert download() == b""


def test_a_part_without_its_note_is_not_trusted(server, download, tmp_path):
    (tmp_path / ".file.part").write_bytes(b"from who knows where")
    assert download() == DATA
    (tmp_path / ".file.part").write_bytes(b"from who knows where")
    (tmp_path / ".file.json").write_text("{")
    (tmp_path / ".file.part").write_bytes(OTHER[:1000])
    assert download() == DATA


def test_the_sum_that_the_server_states_is_checked(server, download, tmp_path):
    server.headers["file"] = md5_header(DATA)
    assert download() == DATA
    (tmp_path / "out").unlink()
    server.headers["file"] = md5_header(OTHER)
    with pytest.raises(OSError, match="MD5"):
        download()
    assert not list(tmp_path.iterdir())


def test_what_is_resumed_is_checked_by_the_sum(server, download, tmp_path):
    server.headers["file"] = md5_header(DATA)
    server.breaks["file"] = [400_000]
    with pytest.raises(OSError, match="Cannot fetch"):
        download(n_retries=0)
    part = tmp_path / ".file.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])  # a disk that flips a byte
    with pytest.raises(OSError, match="MD5"):
        download()


def test_a_remote_file_is_read_in_parts(server):
    with Web(n_retries=3, delay=0) as web:
        file = RemoteFile(web, f"{server.url}/file")
        assert file.size == len(DATA)
        file.seek(1000)
        assert file.read(10) == DATA[1000:1010]
        assert file.tell() == 1010
        file.seek(-5, 2)
        assert file.read() == DATA[-5:]
        assert file.read(7) == b""
        server.breaks["file"] = [50, 20]
        assert file.read_at(500, 600) == DATA[500:600]
    assert server.sent < 200


def test_a_remote_file_that_changes_is_refused(server):
    with Web(n_retries=3, delay=0) as web:
        file = RemoteFile(web, f"{server.url}/file")
        server.files["file"] = OTHER
        with pytest.raises(OSError, match="has changed while it was read"):
            file.read(10)


def test_a_server_without_parts_is_not_read_whole(server):
    server.ranges = False
    with (
        Web(n_retries=3, delay=0) as web,
        pytest.raises(OSError, match="does not serve parts of files"),
    ):
        RemoteFile(web, f"{server.url}/file")


def test_answers_that_were_not_asked_for(server, download):
    server.headers["file"] = [("Content-Encoding", "gzip")]
    with pytest.raises(OSError, match=r"sends .*file packed \(gzip\)"):
        download()
    server.headers["file"] = [("Content-Range", "bytes 5-9/10")]
    with (
        Web(n_retries=3, delay=0) as web,
        pytest.raises(OSError, match="serves other bytes than asked for"),
    ):
        RemoteFile(web, f"{server.url}/file")


def test_zipfile_reads_a_remote_file(server):
    server.files["zip"] = zipped({"a": b"A" * 1000, "b": b"B"})
    with (
        Web(n_retries=3, delay=0) as web,
        zipfile.ZipFile(RemoteFile(web, f"{server.url}/zip")) as archive,
    ):
        assert archive.read("a") == b"A" * 1000
