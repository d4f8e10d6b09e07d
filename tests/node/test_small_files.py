from __future__ import annotations

import os
from pathlib import Path

import pytest
from edgecache.node.small_files import read_small_file, replace_small_file, set_aside


def test_what_is_written_is_read_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_small_file(path, b"first")
    replace_small_file(path, b"second")
    assert read_small_file(path, 6) == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_small_file(tmp_path / "none", 10) is None


def test_a_file_over_its_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234567")
    with pytest.raises(OSError, match="more than 6 bytes"):
        read_small_file(tmp_path / "file", 6)


def test_a_symlink_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    for name in ("file", "file.tmp"):
        (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        read_small_file(tmp_path / "file", 10)
    replace_small_file(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (tmp_path / "file").is_symlink()


def test_a_fifo_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file")
    assert read_small_file(tmp_path / "file", 10) == b""


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_small_file(tmp_path / "file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_small_file(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert read_small_file(tmp_path / "file", 10) == b"old"


def test_a_file_that_cannot_be_used_is_kept_beside(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"broken")
    set_aside(tmp_path / "file", "broken")
    assert (tmp_path / "file.corrupt").read_bytes() == b"broken"
    set_aside(tmp_path / "file", "there is none: logged, and no error")
