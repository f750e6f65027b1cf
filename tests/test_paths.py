"""Where things are kept, and that nobody sees half a file."""

import os
import stat
from pathlib import Path

import pytest

from minitx.errors import FileError
from minitx.paths import cache_dir, writing


@pytest.mark.parametrize("value", ["~nobody-of-this-name/x", "relative", "/somewhere/else"])
def test_the_cache_is_where_the_variable_says(value, monkeypatch):
    monkeypatch.setenv("MINITX_CACHE", value)
    assert cache_dir() == Path(value)


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / ("x" * 255)  # as long as a name may be
    with writing(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    os.symlink(tmp_path / "target", tmp_path / "link")
    with writing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


def test_modes_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        for name, mode in (("plain", 0o666), ("script", 0o777)):
            with writing(tmp_path / name, mode):
                pass
            assert (tmp_path / name).stat().st_mode & 0o777 == mode & ~0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["/dev/null/x", "a\0b"])
def test_what_cannot_be_written_is_one_line(name):
    with pytest.raises(FileError, match="cannot be written"), writing(name):
        pass


def test_what_is_not_a_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="is a device or a pipe"), writing(pipe) as file:
        file.write(b"x")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]
