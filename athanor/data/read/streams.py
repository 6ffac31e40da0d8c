"""Byte streams of plain, gzip and zstd files, and their lines; damage is an error, never a quiet end."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import zstandard

from athanor.data.read.locate import expand, open_bytes
from athanor.errors import AthanorError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PLAIN_STARTS = (b"{", b"\xef\xbb\xbf{", b"WARC")
_STREAM_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


def lines(path: Path | str, max_line_bytes: int = 2**62, encoding: str | None = None) -> Iterator[bytes | None]:
    """Lines of a plain, gzip or zstd file; None stands for a line longer than ``max_line_bytes``.

    The bytes are those of the file, or UTF-8 where ``encoding`` says what the file is in. ``AthanorError`` when the
    compressed stream is damaged or ends early, after the lines that are whole.
    """
    with open_stream(path) as stream:
        readline = stream.readline if encoding is None else _transcoded(stream, encoding)
        try:
            while line := readline(max_line_bytes + 1):
                if len(line) <= max_line_bytes:
                    yield line
                    continue
                while line and not line.endswith(b"\n"):
                    line = readline(1 << 20)
                yield None
        except _STREAM_ERRORS as error:
            kind = "zstd" if isinstance(error, zstandard.ZstdError) else "gzip"
            raise damaged(path, f"{kind} stream: {error}") from None


def _transcoded(stream: Any, encoding: str) -> Callable[[int], bytes]:
    text = io.TextIOWrapper(stream, encoding, errors="replace", newline="\n")
    return lambda n_chars: text.readline(n_chars).encode("utf-8", "replace")


def open_stream(path: Path | str) -> io.BufferedIOBase | IO[bytes]:
    """The unpacked bytes of a plain, gzip or zstd file, local or behind a URL.

    What it is packed with is told by its first bytes: downloads are unpacked under way and keep the name ``….gz``, and
    packed files lose theirs. What begins neither as packed nor as rows or records goes by its name.
    """
    raw = open_bytes(path)
    try:
        head = raw.read(4)
        raw.seek(0)
        name = str(path).lower().split("?")[0]
        kind = "gz" if head.startswith(_GZIP) else "zst" if head == _ZSTD else ""
        if not kind and not head.startswith(_PLAIN_STARTS):
            kind = name.rpartition(".")[2]
        if kind == "gz":
            return _GzipStream(raw)
        if kind == "zst":
            return io.BufferedReader(ZstdFile(raw, path), 1 << 20)
    except BaseException:
        raw.close()
        raise
    return raw


class _GzipStream(gzip.GzipFile):
    """A gzip file that closes what it reads from."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw_file = raw

    def close(self) -> None:
        super().close()
        self._raw_file.close()


def damaged(path: Path | str, detail: str) -> AthanorError:
    """The error of a container that is not whole."""
    return AthanorError(f"truncated or damaged {detail}", where=str(path), fix="copy it again or take it out of paths")


class ZstdFile(io.RawIOBase):
    """Decompressed bytes of all frames. zstandard's own reader ends quietly at a cut frame; here it is an error."""

    def __init__(self, file: IO[bytes], path: Path | str) -> None:
        self._path = path
        self._file = file
        self._left = memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = self._file.read(1 << 17)
            if not chunk:
                if self._frame is not None:
                    raise damaged(self._path, "zstd stream: it ends inside a frame")
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
