"""WARC files (ISO 28500) → one document a record: HTML and plain-text responses, and the texts of WET files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from athanor.data.extract.html import MAX_BYTES, extract_html
from athanor.data.extract.html_decode import clean_text, decode
from athanor.data.extract.types import Extracted, Unreadable

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_DOCUMENT_RECORDS = ("response", "resource", "conversion")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_CHUNK = 1 << 16


def iter_warc(stream: BinaryIO, *, max_bytes: int = MAX_BYTES) -> Iterator[Extracted | Unreadable]:
    """The documents of a WARC (plain or gzip) in the file's order; ``part`` is the record's identifier.

    Requests, metadata and revisits are no documents and are passed over. What gives no text comes as ``Unreadable``
    (yielded, not raised): ``"status"``, ``"no text type"``, ``"too large"``, ``"truncated record"`` and the reasons of
    ``extract_html``. Where the archive itself breaks, ``"broken archive"`` is the last thing that comes; what stood
    before it has come already.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    watched = _Watched(stream)
    number, cut = 0, False
    try:
        for record in ArchiveIterator(watched):
            number += 1
            if record.rec_type in _DOCUMENT_RECORDS:
                found = _document(record, number, max_bytes)
                cut = isinstance(found, Unreadable) and found.reason.startswith("truncated")
                yield found
        # warcio passes over a record that ends within its headers.
        if not cut and watched.n_bytes and watched.is_cut:
            yield Unreadable("truncated record: the archive ends within it", part=f"after record {number}")
    except (ArchiveLoadFailed, EOFError, OSError, ValueError, AttributeError, zlib.error) as error:
        yield Unreadable(f"broken archive: {error}", part=f"after record {number}")


class _Watched:
    """The stream as warcio reads it, which tells at its end whether it was whole."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._end, self.n_bytes = stream, b"", 0
        self._member: Any = None  # the gzip member being read
        self._is_gzip = False

    def read(self, size: int = -1) -> bytes:
        """As the stream's ``read``."""
        data = self._stream.read(size)
        if self.n_bytes == 0:
            self._is_gzip = data.startswith(b"\x1f\x8b")
        self.n_bytes += len(data)
        self._end = (self._end + data)[-2:]
        if self._is_gzip:
            self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        """Inflate along and throw away: warcio closes a cut member without a word."""
        while data:
            if self._member is None:
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            self._member.decompress(data, _CHUNK)
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if self._member.eof:
                self._member = None

    @property
    def is_cut(self) -> bool:
        """Whether the last gzip member, or in a plain file the last record's closing empty line, is unfinished."""
        return self._member is not None if self._is_gzip else not self._end.endswith(b"\n")


def _document(record: Any, number: int, max_bytes: int) -> Extracted | Unreadable:
    part = (record.rec_headers.get_header("WARC-Record-ID") or f"record {number}").strip("<>")
    try:
        return _read(record, part, max_bytes)
    except Unreadable as error:
        return Unreadable(error.reason, part)


def _read(record: Any, part: str, max_bytes: int) -> Extracted:
    headers = record.http_headers
    if headers is not None and record.rec_type == "response" and not headers.get_statuscode().startswith("2"):
        raise Unreadable(f"status: {headers.get_statuscode()}")
    content_type = (headers.get_header("Content-Type") if headers is not None else None) or ""
    if record.rec_type != "response" and not content_type:
        content_type = record.rec_headers.get_header("Content-Type") or ""
    kind = content_type.split(";", 1)[0].strip().lower()
    if kind and kind not in _HTML_TYPES and kind != "text/plain":
        raise Unreadable(f"no text type: {kind}")
    payload = _payload(record, max_bytes)
    url = record.rec_headers.get_header("WARC-Target-URI")
    charset = _CHARSET.search(content_type)
    encoding = charset.group(1) if charset else None
    if kind == "text/plain":
        found = _plain(payload, encoding)
    else:
        found = extract_html(payload, url=url, encoding=encoding, max_bytes=max_bytes)
    meta = found.meta | ({"url": url} if url else {})
    date = record.rec_headers.get_header("WARC-Date")
    return Extracted(found.text, meta | ({"date": date} if date else {}), part)


def _payload(record: Any, max_bytes: int) -> bytes:
    """The body without transfer and content encoding, as a stream: a bomb stops at ``max_bytes``."""
    chunks: list[bytes] = []
    n_bytes = 0
    stream = record.content_stream()
    while chunk := stream.read(_CHUNK):
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            raise Unreadable(f"too large: over {max_bytes} bytes")
        chunks.append(chunk)
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise Unreadable(f"truncated record: {record.raw_stream.limit} bytes are missing")
    return b"".join(chunks)


def _plain(payload: bytes, encoding: str | None) -> Extracted:
    text, used = decode(payload, encoding)
    text = clean_text(text).replace("\r\n", "\n").strip()
    if not text:
        raise Unreadable("no text")
    return Extracted(text, {"format": "text", "encoding": used})
