"""Files of rows (jsonl, parquet, Arrow IPC) → one document a row, the row's own id, url and meta kept beside it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from athanor.data.extract.types import Extracted, Unreadable
from athanor.data.read.locate import open_bytes
from athanor.data.read.streams import damaged, lines, open_stream
from athanor.errors import AthanorError, MissingLibrary

#: A string's largest JSON form: every byte as \u00XX.
_JSON_BLOWUP = 6
#: Fields of a row that its document keeps, and how long their JSON may be together.
KEPT_FIELDS = ("id", "url", "title", "language", "date", "source", "domain", "license")
_MAX_META_CHARS = 20_000
_BATCH_ROWS = 1024
#: A domain is a short name; hosts ("example.org", which some sets call domain) and sentences are none.
_DOMAIN = re.compile(r"\w[\w/ +-]{0,39}")
#: A language is a two-letter code of ISO 639-1, with or without a region or script ("zh-CN", "pt_BR").
_LANGUAGE = re.compile(r"([a-z]{2})(?:[-_][A-Za-z0-9]{2,8})*")
_CODES = (
    "aaabaeafakamanarasavayazbabebgbibmbnbobrbscacechcocrcscucvcydadedvdzeeeleneoeseteufafffifjfofrfygagd"
    "glgngugvhahehihohrhthuhyhziaidieigiiikioisitiujajvkakgkikjkkklkmknkokrkskukvkwkylalblglilnloltlulvmg"
    "mhmimkmlmnmrmsmtmynanbndnengnlnnnonrnvnyocojomorospapiplpsptqurmrnrorurwsascsdsesgsiskslsmsnsosqsrss"
    "stsusvswtatetgthtitktltntotrtstttwtyugukuruzvevivowawoxhyiyozazhzu"
)
_ISO_639_1 = frozenset(map("".join, zip(_CODES[::2], _CODES[1::2], strict=True)))
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_WIDE_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
               (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip

Found = Extracted | Unreadable


def row_document(row: dict[str, Any], text_key: str, max_bytes: int, part: str, kind: str, repair: bool) -> Found:
    """The document of one row, or why it has none."""
    value = row.get(text_key)
    if isinstance(value, bytes):  # a binary column, as many programs write text
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            return Unreadable(f"not UTF-8: byte 0x{value[error.start]:02x} in the row", part)
    if not isinstance(value, str):
        return Unreadable(f"row without text: field {text_key!r} is {type(value).__name__}", part)
    if not value.strip():
        return Unreadable("empty", part)
    meta = _row_meta(row, text_key, kind)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        if not repair:
            return Unreadable("not UTF-8: a lone surrogate in the text", part)
        value, size = _without_controls(value, meta)
        if not value.strip():
            return Unreadable("empty: nothing but lone surrogates", part)
    if size > max_bytes:
        return Unreadable(f"larger than max_document_bytes: {size} bytes", part)
    if repair and _CONTROLS.search(value):
        value, _ = _without_controls(value, meta)
    return Extracted(value, meta, part, own_domain(row, text_key), own_language(row, text_key))


def own_domain(row: dict[str, Any], text_key: str = "text") -> str:
    """The domain that a row's ``domain`` names, "" where it names none; "general" is what every document is anyway."""
    value = row.get("domain") if text_key != "domain" else None
    known = isinstance(value, str) and value != "general" and _DOMAIN.fullmatch(value)
    return str(value) if known else ""


def own_language(row: dict[str, Any], text_key: str = "text") -> str:
    """The language that a row's ``language`` names, as its two letters ("zh" of "zh-CN"); "" where it names none.

    Names of programming languages, which sets of code have in that field, are none.
    """
    value = row.get("language") if text_key != "language" else None
    found = _LANGUAGE.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found and found[1] in _ISO_639_1 else ""


def _without_controls(value: str, meta: dict[str, Any]) -> tuple[str, int]:
    from athanor.data.extract.html_decode import clean_text

    meta["repaired"] = ["control characters"]
    value = clean_text(value)
    return value, len(value.encode())


def _row_meta(row: dict[str, Any], text_key: str, kind: str) -> dict[str, Any]:
    """``format``, the row's known fields, and its ``meta`` or ``metadata`` merged in below them."""
    meta: dict[str, Any] = {}
    for key in ("metadata", "meta"):
        found = row.get(key)
        if isinstance(found, str) and found[:1] == "{":
            try:
                found = json.loads(found)
            except (ValueError, RecursionError):
                found = None
        if isinstance(found, dict) and key != text_key:
            meta.update((str(k), v) for k, v in found.items())
    for key in KEPT_FIELDS:
        value = row.get(key)
        if key != text_key and isinstance(value, (str, int, float)) and value != "":
            meta[key] = value
    try:
        written = json.dumps(meta, default=str)
    except (ValueError, RecursionError, TypeError):
        written = ""
    if not written or len(written) > _MAX_META_CHARS:
        meta = {
            key: meta[key]
            for key in ("id", "url")
            if isinstance(meta.get(key), (str, int)) and len(str(meta[key])) < 2000
        }
    else:
        # Dates and the like as text, as any later stage would have them; NaN and infinity are no JSON.
        meta = json.loads(written, parse_constant=lambda name: None)
    return meta | {"format": kind}


def jsonl(path: Path | str, text_key: str, max_bytes: int, repair: bool) -> Iterator[Found]:
    """Rows of a jsonl file, plain or packed; ``part`` is the line from 1."""
    encoding = _wide_encoding(path) if repair else None
    for number, line in enumerate(lines(path, max_bytes * _JSON_BLOWUP, encoding), 1):
        part = str(number)
        if line is None:
            yield Unreadable("larger than max_document_bytes: the whole line", part)
            continue
        if not line.strip():
            continue
        try:
            # Files put together keep the marks that each began with.
            row = json.loads(line.decode("utf-8-sig"), strict=not repair)
        except UnicodeDecodeError as error:
            row = _repaired_row(line) if repair else None
            if row is None:
                yield Unreadable(f"not UTF-8: byte 0x{line[error.start]:02x} in the row", part)
                continue
        except RecursionError:
            yield Unreadable("not JSON: nested too deep", part)
            continue
        except ValueError as error:
            yield Unreadable(f"not JSON: {error}", part)
            continue
        if isinstance(row, dict):
            found = row_document(row, text_key, max_bytes, part, "jsonl", repair)
            if encoding and isinstance(found, Extracted):
                found.meta["encoding"] = encoding
            yield found
        else:
            yield Unreadable(f"row without text: {type(row).__name__} instead of an object", part)


def _wide_encoding(path: Path | str) -> str | None:
    """UTF-16 or UTF-32, where the file begins with its mark: a line of it is not to be told by its bytes."""
    try:
        with open_stream(path) as stream:
            head = stream.read(4)
    except (OSError, EOFError, AthanorError):
        return None
    return next((name for mark, name in _WIDE_MARKS if head.startswith(mark)), None)


def _repaired_row(line: bytes) -> Any:
    """A row in another encoding, or None."""
    from athanor.data.read.text import tolerant

    try:
        text, meta = tolerant(line)
        row = json.loads(text)
    except (Unreadable, ValueError, RecursionError):
        return None
    if isinstance(row, dict) and isinstance(row.get("meta", {}), dict):
        row["meta"] = {**row.get("meta", {}), **meta}
    return row


def parquet(path: Path | str, text_key: str, max_bytes: int, repair: bool) -> Iterator[Found]:
    """Rows of a parquet file, row group by row group; ``AthanorError`` where it is damaged, after the whole rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_bytes(path) as stream, pyarrow.parquet.ParquetFile(stream) as table:
            names = table.schema_arrow.names
            if text_key not in names:
                yield from _no_column(text_key, names, table.metadata.num_rows)
                return
            columns = [text_key, *_wanted(names, text_key)]
            batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
            yield from _batch_rows(batches, text_key, max_bytes, repair, "parquet")
    except pyarrow.ArrowException as error:
        raise damaged(path, f"parquet file: {error}") from None


def arrow(path: Path | str, text_key: str, max_bytes: int, repair: bool) -> Iterator[Found]:
    """Rows of an Arrow IPC file (Feather 2) or stream; a cut file gives its whole batches, then ``AthanorError``."""
    import pyarrow

    try:
        with open_bytes(path) as stream:
            if stream.read(6) == b"ARROW1":
                stream.seek(8)  # the stream format begins behind the mark: batches before a cut can be read
            else:
                stream.seek(0)
            reader = pyarrow.ipc.open_stream(stream)
            if text_key not in reader.schema.names:
                yield from _no_column(text_key, reader.schema.names, sum(batch.num_rows for batch in reader))
                return
            columns = [text_key, *_wanted(reader.schema.names, text_key)]
            yield from _batch_rows((b.select(columns) for b in reader), text_key, max_bytes, repair, "arrow")
            if not _has_footer(path):
                raise damaged(path, "Arrow file: it ends without its footer")
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        raise damaged(path, f"Arrow file: {error}") from None


def _has_footer(path: Path | str) -> bool:
    """Whether a file of the IPC file format ends as it must; the stream format has no footer."""
    with open_bytes(path) as stream:
        if stream.read(6) != b"ARROW1":
            return True
        stream.seek(-6, 2)
        return stream.read(6) == b"ARROW1"


def _wanted(names: list[str], text_key: str) -> list[str]:
    return [name for name in (*KEPT_FIELDS, "meta", "metadata") if name in names and name != text_key]


def _no_column(text_key: str, names: list[str], n_rows: int) -> Iterator[Found]:
    for number in range(1, n_rows + 1):
        yield Unreadable(f"row without text: no column {text_key!r} in {', '.join(names)}", str(number))


def _batch_rows(batches: Any, text_key: str, max_bytes: int, repair: bool, kind: str) -> Iterator[Found]:
    number = 0
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        for i in range(batch.num_rows):
            number += 1
            try:
                row = {name: column[i].as_py() for name, column in columns.items()}
            except UnicodeDecodeError as error:
                yield Unreadable(f"not UTF-8: {error.reason} at offset {error.start}", str(number))
                continue
            yield row_document(row, text_key, max_bytes, str(number), kind, repair)


def until_damaged(found: Iterator[Found]) -> Iterator[Found]:
    """The rows that are whole, then one ``Unreadable`` where the container is damaged."""
    try:
        yield from found
    except MissingLibrary:
        raise
    except AthanorError as error:
        yield Unreadable(f"damaged: {error.what}")
    except OSError as error:
        yield Unreadable(f"damaged: {error.strerror or error}")
