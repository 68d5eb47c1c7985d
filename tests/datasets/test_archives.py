"""Files come out of zip files whole, or not at all."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from served import serve, zipped

import gandl.datasets._archives as archives
from gandl.datasets._archives import RemoteZip, extract
from gandl.datasets._http import Web

FILES = {"a.csv": b"1,2\n", "inner/deep/b.png": bytes(range(256)) * 20, "empty": b""}


def assert_refused(path, match):
    target = path.parent / "out" / "a.csv"
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=match) as error:
        extract(path, "a.csv", target)
    assert str(path) in str(error.value)
    assert list(target.parent.iterdir()) == []


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"top/a.csv": bytes(range(256)) * 20, "../a.txt": b"2"}))
    return path


def test_one_file_of_a_zip_file(archive):
    extract(archive, "a.csv", archive.parent / "b.csv")
    assert (archive.parent / "b.csv").read_bytes() == bytes(range(256)) * 20
    assert {path.name for path in archive.parent.iterdir()} == {"a.zip", "b.csv"}


def test_an_encrypted_member_is_refused(archive):
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    assert_refused(archive, "Cannot unpack .* encrypted")


def test_what_promises_too_much_is_refused(archive, monkeypatch):
    monkeypatch.setattr(archives, "_SMALL", 1000)
    archive.write_bytes(zipped({"a.csv": bytes(10**6)}))
    assert_refused(archive, "promises more than .* GiB, at 'a.csv'")


def test_what_promises_less_than_it_holds_is_refused(archive):
    data = bytearray(zipped({"a.csv": bytes(10**6)}))
    central = data.index(b"PK\1\2")
    data[22:26] = data[central + 24 : central + 28] = struct.pack("<I", 10)
    archive.write_bytes(data)
    assert_refused(archive, "Cannot unpack .*Fetch it again")


def test_a_damaged_archive_leaves_nothing(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 3])
    assert_refused(archive, "Cannot unpack .*Fetch it again")
    data = bytearray(whole)
    data[data.index(b"a.csv") + 20] ^= 0xFF
    archive.write_bytes(data)
    assert_refused(archive, "Cannot unpack")


@pytest.mark.parametrize("data", [b"", b"<html>Sign in</html>"])
def test_what_is_no_archive(archive, data):
    archive.write_bytes(data)
    assert_refused(archive, "not a zip file")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve({}) as server:
        yield server


@pytest.fixture
def opened(server):
    with Web(n_retries=2, delay=0) as web:

        def call(data):
            server.files["z.zip"] = data
            return RemoteZip(web, f"{server.url}/z.zip")

        yield call


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_remote_zip_file(server, opened, how):
    big = {"big": np.random.default_rng(0).bytes(10**6)}
    archive = opened(zipped(FILES | big, how))
    assert set(archive.members) == {*FILES, "big"}
    server.sent = 0
    for name, data in FILES.items():
        assert archive.read(name) == data
    assert server.sent < 20_000
    server.breaks["z.zip"] = [1000, 2000]
    assert archive.read("big") == big["big"]


def test_a_long_local_header_is_read_over(opened):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.extra = struct.pack("<HH", 0x9999, 3000) + bytes(3000)
        archive.writestr(info, b"A" * 100)
        archive.writestr("b", b"B")
    assert opened(file.getvalue()).read("a") == b"A" * 100


def test_a_zip_file_beyond_four_gigabytes(opened, tmp_path, server):
    """As the published ones are: a sparse file, whose members lie behind 4 GiB."""
    path = tmp_path / "big.zip"
    with path.open("wb") as file:
        file.truncate(2**32 + 1000)
    with zipfile.ZipFile(path, "a") as archive:
        for k in range(3):
            archive.writestr(f"{k}.png", f"image {k}")
    server.files["z.zip"] = Sparse(path)
    archive = opened(server.files["z.zip"])
    assert archive.members["2.png"].header_offset > 2**32
    assert [archive.read(f"{k}.png") for k in range(3)] == [
        b"image 0",
        b"image 1",
        b"image 2",
    ]
    assert server.sent < 10_000


class Sparse:
    """A file as if it were bytes."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return os.path.getsize(self.path)

    def __getitem__(self, part):
        with open(self.path, "rb") as file:
            file.seek(part.start)
            return file.read(part.stop - part.start)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data, at: data[:60] + b"\xff\xff" + data[62:], "check sum|invalid"),
        (lambda data, at: b"XX" + data[2:], "not where the list of members"),
        (
            lambda data, at: data[: at + 24] + struct.pack("<I", 10) + data[at + 28 :],
            "length or check sum is wrong",
        ),
        (
            lambda data, at: (
                data[: at + 24] + struct.pack("<I", 2**31) + data[at + 28 :]
            ),
            "promises 2147483648 bytes",
        ),
        (lambda data, at: data[: at + 8] + b"\1\0" + data[at + 10 :], "is encrypted"),
        (lambda data, at: data[: at + 10] + b"\x0c\0" + data[at + 12 :], "unusual way"),
    ],
)
def test_a_damaged_member_of_a_remote_zip_file(opened, damage, match):
    data = zipped({"a": bytes(range(256)) * 20})
    archive = opened(damage(data, data.index(b"PK\1\2")))
    with pytest.raises(
        ValueError, match=f"Cannot take 'a' out of .*z.zip: .*({match})"
    ):
        archive.read("a")


def test_a_flipped_byte_of_a_remote_zip_file(opened):
    data = bytearray(zipped({"a": b"A" * 100}, zipfile.ZIP_STORED))
    data[data.index(b"AAA") + 50] ^= 1
    with pytest.raises(ValueError, match=r"Cannot take 'a' .*check sum is wrong"):
        opened(bytes(data)).read("a")


def test_what_is_no_remote_zip_file(opened):
    with pytest.raises(ValueError, match=r"z.zip is no zip file"):
        opened(b"<html>Sign in</html>")
