"""Files → documents: plain text, Markdown, source code, jsonl (plain, gzip, zstd) and parquet.

What cannot be read is never mangled: it comes out as ``Dropped`` with its reason, for the build report to count. A
damaged container (a cut zstd or gzip stream, a broken parquet file) is an error instead: part of a file that once was
whole would pass for the whole.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError

_TEXT_NAMES = """
txt text md markdown rst tex org html htm xml css csv tsv json yaml yml toml ini cfg proto
py pyi c h cc cpp cxx hpp cu cuh java kt scala go rs cs swift js jsx ts tsx rb php pl lua r jl m hs ml ex erl clj
lisp el sh bash ps1 sql cmake vim
"""
#: Extensions that a folder is searched for. A file named outright is tried as plain text whatever its extension.
TEXT_SUFFIXES = frozenset(f".{name}" for name in _TEXT_NAMES.split())
ROW_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".ndjson")
MAX_DOCUMENT_BYTES = 64_000_000
#: A string's largest JSON form: every byte as \u00XX.
_JSON_BLOWUP = 6


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read and the name its documents carry: its path below the folder or glob that was given."""

    path: Path
    name: str


def expand(paths: Sequence[str | Path]) -> tuple[list[InputFile], list[Dropped]]:
    """Files, folders (recursive) and globs → files in a fixed order, and what a folder holds that is not read.

    Names do not depend on where the folder lies on the disk. ``AthanorError`` for a path or glob that matches nothing.
    """
    files: list[InputFile] = []
    dropped: list[Dropped] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for given in paths:
        for path, name, reason in _matches(given):
            if not reason and path.resolve() in seen:
                reason = "listed twice"
            if reason:
                dropped.append(Dropped(name, reason))
                continue
            seen.add(path.resolve())
            unique, n = name, 1
            while unique in names:
                n += 1
                unique = f"{name}~{n}"
            names.add(unique)
            files.append(InputFile(path, unique))
    return files, dropped


def _matches(given: str | Path) -> Iterator[tuple[Path, str, str | None]]:
    """(path, name, reason not to read it) of one path argument."""
    text = os.path.expanduser(str(given))
    path = Path(text)
    if path.is_dir():
        yield from _walk(path)
    elif path.exists():
        yield path, path.name, None
    elif glob.has_magic(text):
        found = sorted(glob.glob(text, recursive=True))
        if not found:
            raise AthanorError("no file matches", where=str(given), fix="check the glob")
        root = Path(text[: min(text.find(c) for c in "*?[" if c in text)] + "x").parent
        for match in map(Path, found):
            if match.is_file():
                yield match, match.relative_to(root).as_posix(), None
    else:
        raise AthanorError("no such file or folder", where=str(given), fix="check the path in the recipe")


def _walk(root: Path) -> Iterator[tuple[Path, str, str | None]]:
    base = root.resolve().name
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        here = Path(folder)
        for sub in list(subfolders):
            if sub.startswith(".") or (here / sub).is_symlink():
                subfolders.remove(sub)
                kind = "hidden folder" if sub.startswith(".") else "linked folder"
                yield here / sub, f"{base}/{(here / sub).relative_to(root).as_posix()}/", kind
        for file in sorted(names):
            path = here / file
            reason = None
            if file.startswith("."):
                reason = "hidden file"
            elif not path.is_file():
                reason = "not a regular file"
            elif not (path.suffix.lower() in TEXT_SUFFIXES or _is_rows(path) or path.suffix.lower() == ".parquet"):
                reason = f"extension not read: {path.suffix or 'none'}"
            yield path, f"{base}/{path.relative_to(root).as_posix()}", reason


def _is_rows(path: Path) -> bool:
    return path.name.lower().endswith(ROW_SUFFIXES)


def read_file(
    file: InputFile,
    *,
    text_key: str = "text",
    domain: str = "general",
    language: str = "und",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
) -> Iterator[Document | Dropped]:
    """Documents of one file: a text file is one, and each jsonl or parquet row (``id`` = ``name#row``, from 1)."""
    try:
        if _is_rows(file.path):
            found = _rows(file, text_key, max_document_bytes)
        elif file.path.suffix.lower() == ".parquet":
            found = _parquet(file, text_key, max_document_bytes)
        else:
            found = iter([_text_file(file, max_document_bytes)])
        for item in found:
            yield item if isinstance(item, Dropped) else Document(item[0], item[1], domain, language)
    except OSError as error:
        raise AthanorError(f"cannot be read: {error.strerror or error}", where=str(file.path)) from None


#: (id, text) of a document, or why there is none.
_Found = tuple[str, str] | Dropped


def _text_file(file: InputFile, max_bytes: int) -> _Found:
    size = file.path.stat().st_size
    if size > max_bytes:
        return Dropped(file.name, f"larger than max_document_bytes: {size} bytes")
    return decode(file.name, file.path.read_bytes())


def decode(name: str, raw: bytes) -> _Found:
    """UTF-8 (with or without its mark) → text. Nothing is replaced or guessed: what is not UTF-8 is dropped."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Dropped(name, "not UTF-8: begins with the mark of UTF-16 or UTF-32")
    if (nul := raw.find(b"\0")) >= 0:
        return Dropped(name, f"binary: zero byte at offset {nul}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Dropped(name, f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}")
    return (name, text) if text.strip() else Dropped(name, "empty")


def _check_row(name: str, value: Any, text_key: str, max_bytes: int) -> _Found:
    """The text of one row, or why it has none."""
    if not isinstance(value, str):
        return Dropped(name, f"row without text: field {text_key!r} is {type(value).__name__}")
    if not value.strip():
        return Dropped(name, "empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return Dropped(name, "not UTF-8: a lone surrogate in the text")
    if size > max_bytes:
        return Dropped(name, f"larger than max_document_bytes: {size} bytes")
    return name, value


def _rows(file: InputFile, text_key: str, max_bytes: int) -> Iterator[_Found]:
    for number, line in enumerate(lines(file.path, max_bytes * _JSON_BLOWUP), 1):
        name = f"{file.name}#{number}"
        if line is None:
            yield Dropped(name, "larger than max_document_bytes: the whole line")
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield Dropped(name, f"not UTF-8: byte 0x{line[error.start]:02x} in the row")
        except (ValueError, RecursionError) as error:
            yield Dropped(name, f"not JSON: {error}")
        else:
            if isinstance(row, dict):
                yield _check_row(name, row.get(text_key), text_key, max_bytes)
            else:
                yield Dropped(name, f"row without text: {type(row).__name__} instead of an object")


def _parquet(file: InputFile, text_key: str, max_bytes: int) -> Iterator[_Found]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            if text_key not in table.schema_arrow.names:
                columns = ", ".join(table.schema_arrow.names)
                for number in range(1, table.metadata.num_rows + 1):
                    yield Dropped(f"{file.name}#{number}", f"row without text: no column {text_key!r} in {columns}")
                return
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=[text_key]):
                for value in batch.column(0):
                    number += 1
                    name = f"{file.name}#{number}"
                    try:
                        yield _check_row(name, value.as_py(), text_key, max_bytes)
                    except UnicodeDecodeError as error:
                        yield Dropped(name, f"not UTF-8: {error.reason} at offset {error.start}")
    except pyarrow.ArrowException as error:
        raise _damaged(file.path, f"parquet file: {error}") from None


def lines(path: Path, max_line_bytes: int = 2**62) -> Iterator[bytes | None]:
    """Lines of a plain, ``.gz`` or ``.zst`` file; None stands for a line longer than ``max_line_bytes``.

    ``AthanorError`` when the compressed stream is damaged or ends early.
    """
    with _open(path) as stream:
        try:
            while line := stream.readline(max_line_bytes + 1):
                if len(line) <= max_line_bytes:
                    yield line
                    continue
                while line and not line.endswith(b"\n"):
                    line = stream.readline(1 << 20)
                yield None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(path, f"gzip stream: {error}") from None
        except zstandard.ZstdError as error:
            raise _damaged(path, f"zstd stream: {error}") from None


def _open(path: Path) -> io.BufferedIOBase:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return open(path, "rb")


def _damaged(path: Path, detail: str) -> AthanorError:
    return AthanorError(f"truncated or damaged {detail}", where=str(path), fix="copy it again or take it out of paths")


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of all frames. zstandard's own reader ends quietly at a cut frame; here it is an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._left = memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = self._file.read(1 << 17)
            if not chunk:
                if self._frame is not None:
                    raise _damaged(self._path, "zstd stream: it ends inside a frame")
                return 0
            self._left = memoryview(self._decompress(chunk))
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def _decompress(self, chunk: bytes) -> bytes:
        out = []
        while chunk:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
            out.append(self._frame.decompress(chunk))
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(out)

    def close(self) -> None:
        self._file.close()
        super().close()


def json_rows(paths: Sequence[str | Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of every row of jsonl files that must all be good: conversations, questions.

    Blank lines are no rows.
    ``AthanorError`` names a file that is not read (hidden ones in a folder apart) and a line that is no JSON object.
    """
    files, dropped = expand(paths)
    for drop in dropped:
        if not drop.reason.startswith("hidden"):
            raise AthanorError(f"not read: {drop.reason}", where=drop.id, fix="name jsonl files only")
    for file in files:
        for number, line in enumerate(lines(file.path), 1):
            where = f"{file.path}:{number}"
            if line is None or not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise AthanorError(f"not a JSON line: {error}", where=where, fix="one JSON object a line") from None
            if not isinstance(row, dict):
                raise AthanorError(
                    f"{type(row).__name__} instead of an object", where=where, fix="one JSON object a line"
                )
            yield where, row
