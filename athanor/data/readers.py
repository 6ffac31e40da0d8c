"""Files of every format → documents: one a file, one a row of jsonl, parquet and Arrow, one a record of a WARC.

What cannot be read is never mangled: it comes out as ``Dropped`` with its reason, for the build report to count. A
damaged container (a cut zstd or gzip stream, a broken parquet file) is an error instead, because part of a file that
once was whole would pass for the whole; with ``tolerant`` its whole rows are taken and the damage is one more reason.
Formats are told by ``athanor.data.extract.dispatch``; docs/data-reading.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterator

from athanor.data.extract.dispatch import MAX_DOCUMENT_BYTES, Options, extract
from athanor.data.extract.types import Extracted
from athanor.data.read.locate import InputFile, expand, stamp
from athanor.data.read.streams import json_rows, lines
from athanor.data.read.text import decode
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError

#: What a source that declares no domain and no language has.
GENERAL, UNKNOWN = "general", "und"
__all__ = ["MAX_DOCUMENT_BYTES", "InputFile", "decode", "expand", "json_rows", "lines", "read_file", "stamp"]


def read_file(
    file: InputFile,
    *,
    text_key: str = "text",
    domain: str = GENERAL,
    language: str = UNKNOWN,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    tolerant: bool = False,
    html_rows: bool = False,
) -> Iterator[Document | Dropped]:
    """Documents of one file. ``id`` is its name, and ``name#part`` for a row (its number from 1) or a record.

    ``meta`` says the ``format`` and what the format tells (title, url, pages, encoding, a row's own id and meta). A
    row's own id is no identity: rows of many files share them.
    ``domain`` and ``language`` are every document's; while they are "general" and "und", which is to say nothing, a
    row's own ``domain`` and ``language`` fields stand (``athanor.data.read.rows``).
    ``tolerant``: text in other encodings is decoded, damaged containers give what is whole. Otherwise text must be
    UTF-8, and damage is an ``AthanorError``, as is a file that cannot be opened.
    ``html_rows``: the text field of rows holds web pages, of which the main text is taken.
    """
    options = Options(text_key, max_document_bytes, tolerant, html_rows)
    try:
        for item in extract(file.path, options):
            name = f"{file.name}#{item.part}" if item.part else file.name
            if isinstance(item, Extracted):
                its_domain = (domain == GENERAL and item.domain) or domain
                its_language = (language == UNKNOWN and item.language) or language
                yield Document(name, item.text, its_domain, its_language, item.meta)
            else:
                yield Dropped(name, item.reason)
    except OSError as error:
        raise AthanorError(f"cannot be read: {error.strerror or error}", where=str(file.path)) from None
