"""Any file, local or behind a URL → its documents: the format is told by the bytes first, by the extension second."""

from __future__ import annotations

import gzip
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import zstandard

from athanor.data.extract.types import Extracted, Unreadable
from athanor.data.read import rows
from athanor.data.read.locate import BARE_NAMES, PLAIN_SUFFIXES, is_url, open_bytes
from athanor.data.read.streams import open_stream
from athanor.data.read.text import strict, tolerant
from athanor.errors import AthanorError, MissingLibrary

MAX_DOCUMENT_BYTES = 64_000_000
#: A binary file (pictures, fonts) may be this many times larger than the text it is allowed to give.
_FILE_FACTOR = 4
_HEAD_BYTES = 2048
_MAX_PACKINGS = 3

_IMAGES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP"}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HTML_START = re.compile(rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S)
_JATS_START = re.compile(rb"<article[\s>]|JATS|NLM//DTD", re.I)
_BY_SUFFIX = {
    ".html": "html", ".htm": "html", ".xhtml": "html", ".tex": "latex", ".ltx": "latex", ".ipynb": "ipynb",
    ".nxml": "jats", ".jats": "jats", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow",
    ".feather": "arrow", ".ipc": "arrow", ".warc": "warc", ".epub": "epub", ".docx": "docx", ".docm": "docx",
    ".pptx": "pptx", ".pptm": "pptx", ".xlsx": "xlsx", ".xlsm": "xlsx", ".xls": "xlsx", ".pdf": "pdf", ".tar": "tar",
    ".tgz": "tar",
}  # fmt: skip
_ROW_READERS = {"jsonl": rows.jsonl, "parquet": rows.parquet, "arrow": rows.arrow}


@dataclass(frozen=True, slots=True)
class Options:
    """``tolerant``: encodings are detected and repaired, damaged containers give what is whole. Otherwise text is UTF-8
    or unreadable, and a damaged container an ``AthanorError``: part of a file that once was whole would pass for it."""

    text_key: str = "text"
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    tolerant: bool = True
    #: Rows hold web pages: their main text is taken, the row's ``url`` is the page's.
    html_rows: bool = False


def extract(
    path_or_url: str | Path, options: Options | None = None, **changes: Any
) -> Iterator[Extracted | Unreadable]:
    """The documents of one file, in its order; what gives no text comes as ``Unreadable`` (yielded, not raised).

    ``changes`` are fields of ``Options``. ``OSError`` where the file itself cannot be opened.
    """
    options = replace(options or Options(), **changes)
    with open_bytes(path_or_url) as stream:
        head = stream.read(_HEAD_BYTES)
    name = posixpath.basename(str(path_or_url).split("?")[0] if is_url(path_or_url) else Path(path_or_url).name)
    kind = kind_of(name, head)
    if kind in _ROW_READERS:
        reader = _ROW_READERS[kind](path_or_url, options.text_key, options.max_document_bytes, options.tolerant)
        found = rows.until_damaged(reader) if options.tolerant else reader
        yield from map(_page_of_row, found) if options.html_rows else found
    elif kind == "warc":
        yield from _warc(path_or_url, options)
    else:
        yield _guarded(lambda: _whole_file(path_or_url, name, options))


def _page_of_row(row: Extracted | Unreadable) -> Extracted | Unreadable:
    """The main text of a row that holds a web page, the row's own fields kept."""
    from athanor.data.extract.html import extract_html

    if isinstance(row, Unreadable):
        return row
    url = row.meta.get("url")
    page = _guarded(lambda: extract_html(row.text, url=url if isinstance(url, str) else None))
    if isinstance(page, Unreadable):
        return Unreadable(page.reason, row.part)
    return Extracted(page.text, page.meta | row.meta | {"format": "html"}, row.part, row.domain, row.language)


def _guarded(read: Callable[[], Extracted]) -> Extracted | Unreadable:
    """What ``read`` gives. Libraries fail in their own ways on files made to break them: all of these are reasons."""
    try:
        return read()
    except Unreadable as error:
        return error
    except (AthanorError, OSError):
        raise
    except ImportError as error:
        raise MissingLibrary(f"a library is missing: {error}", fix="pip install what it names") from None
    except RecursionError:
        return Unreadable("broken: nested too deep")
    except MemoryError:
        return Unreadable("broken: needs more memory than there is")
    except Exception as error:
        return Unreadable(f"broken: {type(error).__name__}: {str(error)[:200]}")
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of a library written in Rust
            return Unreadable(f"broken: {str(error)[:200]}")
        raise


def _warc(path: str | Path, options: Options) -> Iterator[Extracted | Unreadable]:
    from athanor.data.extract.warc import iter_warc

    packed = str(path).lower().split("?")[0].endswith(".zst")
    with open_stream(path) if packed else open_bytes(path) as stream:
        for item in iter_warc(cast(Any, stream)):
            yield _checked(item, options.max_document_bytes) if isinstance(item, Extracted) else item


def _checked(found: Extracted, max_bytes: int) -> Extracted | Unreadable:
    """A document within the size limit and free of lone surrogates."""
    try:
        size = len(found.text.encode())
    except UnicodeEncodeError:
        from athanor.data.extract.html_decode import clean_text

        found = Extracted(clean_text(found.text), found.meta | {"repaired": ["lone surrogates"]}, found.part)
        size = len(found.text.encode())
    if size > max_bytes:
        return Unreadable(f"larger than max_document_bytes: {size} bytes of text", found.part)
    return found


def kind_of(name: str, head: bytes) -> str:
    """The format of a file from its first bytes and name: one of the extractors' names, or ``text``, ``image …``,
    ``gzip``, ``zstd``, ``zip``, ``ole``."""
    lowered = name.lower()
    inner = lowered.removesuffix(".gz").removesuffix(".zst")
    suffix = posixpath.splitext(inner)[1]
    by_name = _BY_SUFFIX.get(suffix, "text")
    if by_name in ("jsonl", "warc") or (by_name in ("parquet", "arrow") and inner == lowered):
        return by_name
    for start, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"WARC/", "warc"), (b"PK\x03\x04", "zip")):
        if head.startswith(start):
            return kind
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith(_OLE):
        return "xlsx" if suffix == ".xls" else "ole"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    for start, kind in _IMAGES.items():
        if head.startswith(start) and (kind != "BMP" or b"\0" in head[:32]):
            return f"image {kind}"
    if head[257:262] == b"ustar":
        return "tar"
    return _text_kind(suffix, by_name, head)


def _text_kind(suffix: str, by_name: str, head: bytes) -> str:
    if suffix == ".xml":
        is_article = _JATS_START.search(head) and b"docbook" not in head.lower()
        return "jats" if is_article else "html" if _HTML_START.match(head) else "text"
    plain = by_name == "text" and suffix in PLAIN_SUFFIXES - {".txt", ".text"}
    # A page that says "not found" is often saved under the name of the PDF that was asked for.
    return "html" if not plain and by_name not in ("latex", "ipynb") and _HTML_START.match(head) else by_name


def _whole_file(path: str | Path, name: str, options: Options) -> Extracted:
    with open_bytes(path) as stream:
        raw = stream.read(options.max_document_bytes * _FILE_FACTOR + 1)
    return extract_bytes(raw, name, options, beside=_beside(path))


def extract_bytes(
    raw: bytes, name: str, options: Options, beside: Callable[[str], bytes | None] = lambda name: None
) -> Extracted:
    """The document in the bytes of one file; ``beside`` reads files that stand in its folder. Raises ``Unreadable``."""
    packings = 0
    kind = kind_of(name, raw[:_HEAD_BYTES])
    limit = options.max_document_bytes
    while kind in ("gzip", "zstd") and packings < _MAX_PACKINGS:
        raw = _unpacked(raw, kind, limit * _FILE_FACTOR)
        name = re.sub(r"\.(?:gz|zst)$", "", name, flags=re.I)
        packings += 1
        kind = kind_of(name, raw[:_HEAD_BYTES])
    is_text = kind in ("text", "html", "latex", "ipynb", "jats")
    if len(raw) > (limit if kind == "text" else limit * _FILE_FACTOR):
        size = f"{len(raw)} bytes" if len(raw) <= limit * _FILE_FACTOR else f"more than {limit * _FILE_FACTOR} bytes"
        raise Unreadable(f"larger than max_document_bytes: {size}")
    if not raw.strip(b" \t\r\n\0" if not is_text else b" \t\r\n"):
        raise Unreadable("empty")
    if kind == "zip":
        kind = _zip_kind(raw)
    if kind == "text" or (kind.startswith("image") and not options.tolerant):
        return _text(raw, name, options)
    extractor = _EXTRACTORS.get(kind)
    if extractor is None:
        raise Unreadable(_REFUSED.get(kind, f"not a document: {kind}"))
    found = _checked(extractor(raw, beside, options), limit)
    if isinstance(found, Unreadable):
        raise found
    return found


_REFUSED = {
    "ole": "not read: an Office 97 file or an encrypted Office file",
    "gzip": "packed too often",
    "zstd": "packed too often",
    "zip": "archive not read: zip",
    "parquet": "rows inside a packed file are not read",
    "arrow": "rows inside a packed file are not read",
    "warc": "records inside a packed file are not read",
}


def _unpacked(raw: bytes, kind: str, max_bytes: int) -> bytes:
    try:
        with (
            gzip.open(BytesIO(raw))
            if kind == "gzip"
            else zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(raw, read_across_frames=True) as stream
        ):
            out = stream.read(max_bytes + 1)
            if kind == "zstd" and not stream.read(1) and not _is_whole_zstd(raw):
                raise Unreadable("damaged: truncated zstd stream")
    except (EOFError, zlib.error, OSError, zstandard.ZstdError) as error:
        raise Unreadable(f"damaged: {kind} stream: {error}") from None
    if len(out) > max_bytes:
        raise Unreadable(f"too large after unpacking: more than {max_bytes} bytes")
    return bytes(out)


def _is_whole_zstd(raw: bytes) -> bool:
    """Whether the last frame ends where the bytes end: the library's reader does not say."""
    while raw:
        frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        frame.decompress(raw)
        if not frame.eof:
            return False
        raw = frame.unused_data
    return True


def _zip_kind(raw: bytes) -> str:
    try:
        names = zipfile.ZipFile(BytesIO(raw)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Unreadable(f"broken archive: {error}") from None
    for start, kind in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
        if any(name.startswith(start) for name in names):
            return kind
    is_book = "mimetype" in names or "META-INF/container.xml" in names or any(n.endswith(".opf") for n in names)
    return "epub" if is_book else "zip"


def _text(raw: bytes, name: str, options: Options) -> Extracted:
    suffix = posixpath.splitext(name.lower())[1]
    kind = "markdown" if suffix in (".md", ".markdown") else "code" if suffix in _CODE or _is_recipe(name) else "text"
    if not options.tolerant:
        return Extracted(strict(raw), {"format": kind})
    text, meta = tolerant(raw)
    return Extracted(text, {"format": kind} | meta)


def _is_recipe(name: str) -> bool:
    return name.lower() in BARE_NAMES - {"readme"}


_CODE = PLAIN_SUFFIXES - {".txt", ".text", ".md", ".markdown", ".rst", ".org", ".csv", ".tsv"}

_Beside = Callable[[str], bytes | None]


def _html(raw: bytes, beside: _Beside, options: Options) -> Extracted:
    from athanor.data.extract.html import extract_html

    return extract_html(raw, max_bytes=options.max_document_bytes * _FILE_FACTOR)


def _latex(raw: bytes, beside: _Beside, options: Options) -> Extracted:
    from athanor.data.extract.latex import extract_latex, folder_resolver

    is_part = b"\\documentclass" not in raw or re.search(
        rb"\\documentclass\s*(?:\[[^\]]*\])?\s*\{(?:subfiles|standalone)\}", raw
    )
    if is_part and (main := beside("\0main")):
        raise Unreadable(f"part of another document: {main.decode()}")
    return extract_latex(raw, folder_resolver(beside))


def _tar(raw: bytes, beside: _Beside, options: Options) -> Extracted:
    from athanor.data.extract.latex import extract_latex_archive

    return extract_latex_archive(raw)


def _epub(raw: bytes, beside: _Beside, options: Options) -> Extracted:
    from athanor.data.extract.epub import extract_epub

    return extract_epub(raw)


def _plain_extractor(module: str) -> Callable[[bytes, _Beside, Options], Extracted]:
    def run(raw: bytes, beside: _Beside, options: Options) -> Extracted:
        import importlib

        found = getattr(importlib.import_module(f"athanor.data.extract.{module}"), f"extract_{module}")
        return cast(Extracted, found(raw))

    return run


_EXTRACTORS: dict[str, Callable[[bytes, _Beside, Options], Extracted]] = {
    "html": _html, "latex": _latex, "tar": _tar, "epub": _epub,
    **{name: _plain_extractor(name) for name in ("docx", "pptx", "xlsx", "pdf", "ipynb", "jats")},
}  # fmt: skip


def _beside(path: str | Path) -> _Beside:
    r"""Reads files of the folder a file stands in. The name ``\0main`` gives the name of a LaTeX document above it
    that includes it, or None."""
    text = str(path)
    folder = posixpath.dirname(text) if is_url(path) else str(Path(text).parent)

    def read(name: str) -> bytes | None:
        if name == "\0main":
            found = None if is_url(path) else _main_of(Path(text))
            return found.encode() if found else None
        place = f"{folder}/{name}" if is_url(path) else str(Path(folder) / name)
        try:
            with open_bytes(place) as stream:
                return stream.read(MAX_DOCUMENT_BYTES)
        except (OSError, ValueError, AthanorError):
            return None

    return read


def _main_of(path: Path) -> str | None:
    """A LaTeX document in the folder of a file, or up to two above it, that includes the file."""
    for folder in (path.parent, *list(path.parent.parents)[:2]):
        for main, included in _documents(folder):
            name = path.relative_to(folder).as_posix().removesuffix(".tex")
            if main != path.name and name in included:
                return main
    return None


@lru_cache(maxsize=256)
def _documents(folder: Path) -> tuple[tuple[str, frozenset[str]], ...]:
    """(name, what it includes, directly or through others) of each LaTeX document in a folder."""
    from athanor.data.extract.latex_source import included_names

    found = []
    for path in sorted(folder.glob("*.tex"))[:50]:
        try:
            text = path.read_bytes()[:1_000_000].decode("utf-8", "replace")
        except OSError:
            continue
        if "\\documentclass" in text:
            found.append((path.name, included_names(text, folder)))
    return tuple(found)
