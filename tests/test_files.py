"""Files are whole or not there."""

import errno

import pytest

from gandl._files import whole_file


def test_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model.txt"
    link.symlink_to(tmp_path / "disk" / "real.txt")
    with whole_file(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.txt").read_text() == "new"


def test_formats_go_by_the_name_that_was_asked_for(tmp_path):
    (tmp_path / "model.csv.gz").symlink_to(tmp_path / "blob")
    with whole_file(tmp_path / "model.csv.gz") as part:
        assert part.name.endswith(".csv.gz")
        part.write_text("all")
    assert (tmp_path / "blob").read_text() == "all"


def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text("old")

    def write():
        with whole_file(path) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left")

    with pytest.raises(OSError, match=r"No space left: '.*/model.txt'"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["model.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["n" * 250 + ".txt", "ü" * 120 + ".csv.gz"])
def test_names_may_be_as_long_as_files_may_have(tmp_path, name):
    with whole_file(tmp_path / name) as part:
        part.write_text("all")
    assert (tmp_path / name).read_text() == "all"
