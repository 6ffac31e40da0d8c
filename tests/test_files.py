"""Files and folders are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from athanor import files
from athanor.errors import AthanorError


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    files.write_atomic(path, "一")
    files.write_atomic(path, "two")
    assert path.read_text() == "two" and os.listdir(path.parent) == ["a.txt"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write_atomic(path, "new")
    assert files.is_disk_full(caught.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_dir_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with files.atomic_dir(path) as tmp:
        (tmp / "one").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_dir(path) as tmp:
        (tmp / "two").write_text("2")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["one"]
    with files.atomic_dir(path) as tmp:
        (tmp / "three").write_text("3")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["three"]


def test_json_and_checksum(tmp_path):
    files.write_json(tmp_path / "a.json", {"名": 1})
    assert files.read_json(tmp_path / "a.json") == {"名": 1}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(AthanorError, match="b.json"):
        files.read_json(tmp_path / "b.json")
    with pytest.raises(AthanorError, match="not found"):
        files.read_json(tmp_path / "c.json")
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_a_failed_rename_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old folder must not be gone before the new one is in its place."""
    target = tmp_path / "model"
    with files.atomic_dir(target) as folder:
        (folder / "weights").write_text("old")
    real = os.replace

    def failing(source: Path, to: Path) -> None:
        if Path(to) == target and "weights.new" in os.listdir(source):
            raise OSError("the rename failed")
        real(source, to)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="rename failed"), files.atomic_dir(target) as folder:
        (folder / "weights.new").write_text("new")
    assert (target / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
