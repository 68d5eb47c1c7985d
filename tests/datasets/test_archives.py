"""Archives are unpacked whole and inside their folder, or not at all."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from served import serve, zipped

import gandl.datasets._archives as archives
from gandl.datasets._archives import RemoteZip, unpack
from gandl.datasets._http import Web

FILES = {"a.csv": b"1,2\n", "inner/deep/b.png": bytes(range(256)) * 20, "empty": b""}
LEAVING = [
    "../x",
    "inner/../../x",
    "/x",
    "//server/x",
    "..\\x",
    "inner\\..\\..\\x",
    "\\x",
    "C:\\x",
    "c:x",
    "..",
]


def write_zip(path, files, **how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data, **how)


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else None
            if info is None:
                info = tarfile.TarInfo(member)
            if data is not None:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))


def assert_refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        unpack(path, path.parent / "out")
    assert str(path) in str(error.value)
    others = [found for found in path.parent.rglob("*") if found != path]
    assert others == []
    assert list(path.parent.parent.glob("x")) == []


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    return inner


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_zip_file(folder):
    write_zip(folder / "z.zip", FILES)
    unpack(folder / "z.zip", folder / "out")
    assert contents(folder / "out") == FILES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_file(folder, mode):
    info = tarfile.TarInfo("inner")
    info.type = tarfile.DIRTYPE
    write_tar(folder / "t", [(info, None), *FILES.items(), ("./c", b"c")], mode)
    unpack(folder / "t", folder / "out")
    assert contents(folder / "out") == FILES | {"c": b"c"}


@pytest.mark.parametrize("name", LEAVING)
def test_a_path_that_leaves_the_folder_is_refused(folder, name):
    write_zip(folder / "z.zip", {"good": b"1", name: b"evil"})
    assert_refused(folder / "z.zip", "has a path that leaves the folder")
    (folder / "z.zip").unlink()
    write_tar(folder / "t.tar", [("good", b"1"), (name, b"evil")])
    assert_refused(folder / "t.tar", "has a path that leaves the folder")


def test_a_name_that_is_cut_at_a_null_character_is_refused(folder):
    write_zip(folder / "z.zip", {"goodX.evil": b"1"})
    data = (folder / "z.zip").read_bytes().replace(b"goodX", b"good\0")
    (folder / "z.zip").write_bytes(data)
    assert_refused(folder / "z.zip", "leaves the folder")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_refused(folder, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    write_tar(folder / "t.tar", [("good", b"1"), (info, None), ("link/x", b"evil")])
    assert_refused(folder / "t.tar", r"'link' is a link or a device")


def test_a_link_in_a_zip_file_is_refused(folder):
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        archive.writestr(info, "/etc")
    assert_refused(folder / "z.zip", r"'link' is a link or a device")


def test_an_encrypted_member_is_refused(folder):
    write_zip(folder / "z.zip", {"secret": b"1"})
    data = bytearray((folder / "z.zip").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (folder / "z.zip").write_bytes(data)
    assert_refused(folder / "z.zip", "is encrypted")


def test_a_name_twice_is_refused(folder):
    write_tar(folder / "t.tar", [("a", b"1"), ("./a", b"2")])
    assert_refused(folder / "t.tar", r"'\./a' is there twice")
    (folder / "t.tar").unlink()
    write_tar(folder / "t.tar", [("a/b", b"1"), ("a", b"2")])
    assert_refused(folder / "t.tar", "'a' is there twice")


def test_what_promises_too_much_is_refused(folder, monkeypatch):
    monkeypatch.setattr(archives, "_SMALL", 1000)
    write_zip(folder / "z.zip", {"bomb": bytes(10**6)})
    assert_refused(folder / "z.zip", "promises more than .* GiB, at 'bomb'")
    (folder / "z.zip").unlink()
    write_tar(folder / "t.tar", [("one", b"1"), ("bomb", bytes(10**6))], "w:xz")
    assert_refused(folder / "t.tar", "promises more than .* GiB, at 'bomb'")


def test_what_promises_less_than_it_holds_is_refused(folder):
    write_zip(folder / "z.zip", {"bomb": bytes(10**6)})
    data = bytearray((folder / "z.zip").read_bytes())
    central = data.index(b"PK\1\2")
    data[22:26] = data[central + 24 : central + 28] = struct.pack("<I", 10)
    (folder / "z.zip").write_bytes(data)
    assert_refused(folder / "z.zip", "Cannot unpack .*Fetch it again")


@pytest.mark.parametrize("packed", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_leaves_nothing(folder, packed):
    path = folder / "a"
    if packed == "zip":
        write_zip(path, FILES)
    else:
        write_tar(path, FILES.items(), "w:gz" if packed == "tar.gz" else "w")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    assert_refused(path, "Cannot unpack .*Fetch it again")
    if packed == "zip":
        data = bytearray(whole)
        data[data.index(b"b.png") + 20] ^= 0xFF
        path.write_bytes(data)
        assert_refused(path, "Cannot unpack")


@pytest.mark.parametrize("data", [b"", b"<html>Sign in</html>"])
def test_what_is_no_archive(folder, data):
    (folder / "a.zip").write_bytes(data)
    assert_refused(folder / "a.zip", "it is no zip or tar file")


def test_what_is_there_stays(folder):
    write_zip(folder / "z.zip", FILES)
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(folder / "z.zip", folder / "out")
    assert contents(folder / "out") == {"mine": b"mine"}


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
