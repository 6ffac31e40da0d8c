"""Files that are whole or absent: write to a temporary name, fsync, rename; and checksums to tell damage.

A reader never sees a half-written file or folder: the rename is atomic within a file system, and the fsync of the
parent folder makes it last through a power cut. Every room uses these helpers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError

#: Ending of a name that is still being written (or deleted). Readers ignore it, writers clean it up.
TMP_SUFFIX = ".tmp"
_CHUNK_BYTES = 1 << 20


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, flushed and renamed to it when the block ends well, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}{TMP_SUFFIX}")
    try:
        yield tmp
        fsync_path(tmp)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a whole small file (text as UTF-8), or leave what was there."""
    with atomic_path(path) as tmp:
        tmp.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value of ``path``; a missing or broken file is named in an ``AthanorError``."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AthanorError("file not found", where=str(path)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AthanorError(f"not readable as JSON: {error}", where=str(path)) from None


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value (keys sorted): equal values, equal digests, on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def fsync_tree(folder: str | Path) -> None:
    """Flush every file and folder under ``folder``, and ``folder`` itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


def remove_tree(folder: str | Path) -> None:
    """Delete a folder so that no reader mistakes what is left of it for a whole one: renamed first, then removed."""
    folder = Path(folder)
    if not folder.exists():
        return
    doomed = folder
    if not folder.name.endswith(TMP_SUFFIX):
        doomed = folder.with_name(f"{folder.name}.deleting{TMP_SUFFIX}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``path`` (replacing an old one) when the block ends well.

    On an error the temporary folder is removed, the old ``path`` stays, and the error goes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(path.name + TMP_SUFFIX)
    shutil.rmtree(tmp, ignore_errors=True)
    try:
        tmp.mkdir()
        yield tmp
        fsync_tree(tmp)
        _swap_in(tmp, path)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    fsync_path(path.parent)


def _swap_in(tmp: Path, path: Path) -> None:
    """Rename ``tmp`` to ``path``; an old ``path`` steps aside first and comes back if the rename fails."""
    aside = path.with_name(path.name + ".old" + TMP_SUFFIX)
    remove_tree(aside)
    had_old = path.exists()
    if had_old:
        os.replace(path, aside)
    try:
        os.replace(tmp, path)
    except BaseException:
        if had_old:
            os.replace(aside, path)
        raise
    remove_tree(aside)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk (or the quota) is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
