"""Evaluation sets in whatever form they come, read for one purpose: which texts must not be trained on."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError

_ROWS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_PACKED = (".gz", ".zst")
#: Fields that say something about an item and hold nothing of it (lower case; also whatever ends in one of _SUFFIXES).
_ABOUT_NAMES = """
    id ids idx index key uid uuid url urls link source sources original subject category categories type types level
    language lang license licence name model cluster tstamp timestamp date created entry_point stop_tokens kwargs
    instruction_id_list split dataset data_source data_topic topic difficulty grade tags tag domain doctests author
    prompt_terminology output_format label target gold unit error subfield solution_type is_multiple_answer other
    edges directed multigraph version version_name stdin_type metadata
"""
_ABOUT = frozenset(_ABOUT_NAMES.split())
_SUFFIXES = ("_id", "_ids", "_url", "_type", "_idx", "_key", "_number", "_hash")
#: Fields that ask: their whole text counts as the item where it is too short for an n-gram.
_ASKING = re.compile(r"(question|problem|prompt|query|input|text|content|context|instruction|body|turns?|stem|premise|"
                     r"passage|ctx|goal|sentence|title|statement|题目|题干|问题|指令)\w*", re.IGNORECASE)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One text of an item. ``set_name``: the file's path below its folder without suffix; ``item``: its row;
    ``asks``: it is (part of) the question."""

    set_name: str
    item: int
    text: str
    asks: bool


def set_files(paths: Sequence[str]) -> list[tuple[str, Path]]:
    """(name of the set, file) of every set below the folders (or of the files) given, by name."""
    found: dict[str, Path] = {}
    for given in paths:
        root = Path(given).expanduser()
        if not root.exists():
            raise AthanorError("no such folder of evaluation sets", where=given, fix="check `sets` of decontaminate")
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        for file in files:
            stem, kind = _kind(file)
            if kind is None:
                continue
            name = (file.parent.relative_to(root) / stem).as_posix() if root.is_dir() else stem
            while name in found and found[name] != file:
                name += "~"
            found[name] = file
    if not found:
        where, fix = ", ".join(paths), f"files of: {' '.join(_ROWS)}, plain or {' '.join(_PACKED)}"
        raise AthanorError("no evaluation set here", where=where, fix=fix)
    return sorted(found.items())


def read_parts(files: Sequence[tuple[str, Path]], ignore_fields: Sequence[str] = ()) -> Iterator[Part]:
    """Every text of every item. ``AthanorError`` for a file that cannot be read: no set goes unprotected unnoticed."""
    ignored = _ABOUT | {name.lower() for name in ignore_fields}
    for name, file in files:
        try:
            for number, row in enumerate(_rows(file)):
                for field, text in _texts(row, ignored, "text"):
                    yield Part(name, number, text, _ASKING.fullmatch(field) is not None)
        except AthanorError:
            raise
        except Exception as error:  # whatever the readers of five formats raise, the file is named
            fix = "repair the file or move it out of the folder"
            raise AthanorError(f"this evaluation set cannot be read: {error}", where=str(file), fix=fix) from error


def _kind(file: Path) -> tuple[str, str | None]:
    name = file.name
    for packed in _PACKED:
        name = name.removesuffix(packed)
    suffix = Path(name).suffix.lower()
    return name.removesuffix(Path(name).suffix), suffix if suffix in _ROWS else None


def _texts(value: Any, ignored: frozenset[str], field: str) -> Iterator[tuple[str, str]]:
    """(field, text) of every string below a row; a question and its body in two fields also as one text."""
    if isinstance(value, str):
        if value.strip():
            yield field, value
    elif isinstance(value, dict):
        named = {str(k).lower(): v for k, v in value.items()}
        body, question = named.get("body"), named.get("question")
        if isinstance(body, str) and isinstance(question, str):
            yield "question", f"{body} {question}"
        for name, below in named.items():
            if name not in ignored and not name.endswith(_SUFFIXES):
                yield from _texts(below, ignored, name)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _texts(below, ignored, field)


def _rows(file: Path) -> Iterator[Any]:
    _, kind = _kind(file)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(io.BytesIO(_bytes(file))).iter_batches():
            yield from batch.to_pylist()
    elif kind in (".csv", ".tsv"):
        import csv

        text = io.StringIO(_bytes(file).decode("utf-8-sig"), newline="")
        yield from csv.DictReader(text, delimiter="\t" if kind == ".tsv" else ",")
    else:
        text_ = _bytes(file).decode("utf-8-sig")
        if kind == ".json":
            try:
                whole = json.loads(text_)
            except ValueError:
                whole = None  # one object a line, whatever the suffix says
            if whole is not None:
                yield from whole if isinstance(whole, list) else _tables(whole)
                return
        for line in text_.split("\n"):
            if line.strip():
                yield json.loads(line)


def _tables(whole: Any) -> list[Any]:
    """The rows of a JSON object: its one list of objects, or the object itself."""
    lists = (
        [v for v in whole.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if isinstance(whole, dict)
        else []
    )
    return lists[0] if len(lists) == 1 else [whole]


def _bytes(file: Path) -> bytes:
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    if file.suffix == ".zst":
        return _unpacked_zstd(file.read_bytes())
    return file.read_bytes()


def _unpacked_zstd(raw: bytes) -> bytes:
    import zstandard

    out = []
    while raw:  # frame by frame
        frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        out.append(frame.decompress(raw))
        if not frame.eof:
            raise ValueError("cut short")
        raw = frame.unused_data
    return b"".join(out)
