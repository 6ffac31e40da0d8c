"""The files of a directory of shards: its index, and whether a file is what the index says."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError
from athanor.files import digest

INDEX = "index.json"
FORMAT = 1
_REBUILD = "delete the directory and tokenize again"


def read_index(path: Path) -> dict[str, Any]:
    """The index of a directory, checked; ``AthanorError`` where it is missing or damaged."""
    file = path / INDEX
    if not file.is_file():
        what = "the shards here are unfinished (no index)" if path.is_dir() else "no shards here"
        raise AthanorError(what, where=str(path), fix="tokenize the corpus first")
    return checked_index(file.read_text(encoding="utf-8"), str(file))


def checked_index(text: str, where: str) -> dict[str, Any]:
    """The index from its text."""
    try:
        index = json.loads(text)
        if index["format"] != FORMAT:
            raise AthanorError(
                f"shard format {index['format']}, this version reads {FORMAT}", where=where, fix=_REBUILD
            )
        if index.pop("checksum") != digest(index):
            raise ValueError("its checksum differs")
    except (ValueError, KeyError, TypeError) as error:
        raise AthanorError(f"corrupted index: {error}", where=where, fix=_REBUILD) from None
    return dict(index)


def check_file(file: Path, expected: Mapping[str, int], verify: bool, where: str | None = None) -> None:
    """``AthanorError`` unless the file is as long as the index says and, with ``verify``, has its checksum."""
    where = where or str(file)
    if not file.is_file():
        raise AthanorError("shard file is missing", where=where, fix=_REBUILD)
    size = file.stat().st_size
    if size != expected["bytes"]:
        kind = "truncated" if size < expected["bytes"] else "too long"
        what = f"shard file is {kind}: {size} bytes, the index says {expected['bytes']}"
        raise AthanorError(what, where=where, fix=_REBUILD)
    if verify and _crc32(file) != expected["crc32"]:
        raise AthanorError("shard file is corrupted: its checksum differs from the index", where=where, fix=_REBUILD)


def _crc32(file: Path, block_bytes: int = 1 << 22) -> int:
    value = 0
    with open(file, "rb") as handle:
        while block := handle.read(block_bytes):
            value = zlib.crc32(block, value)
    return value
