"""PDF → Markdown in reading order, with pdfium: paragraphs, headings by size, tables; scanned pages are told apart.

Text that a PDF draws as characters is read; pages that are only images are reported and not guessed at. Formulas have
no structure in a PDF: their characters stand in the text as they were placed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from athanor.data.extract.pdf_furniture import drop_furniture
from athanor.data.extract.pdf_layout import Block, Sizes, block_parts, join_lines, page_blocks
from athanor.data.extract.pdf_page import Page, read_page
from athanor.data.extract.pdf_tables import find_tables
from athanor.data.extract.types import Extracted, Unreadable

#: A page with fewer characters than this whose area images cover to this share holds a scan.
_SCAN_CHARS = 30
_SCAN_SHARE = 0.5
#: A page tree may name one page any number of times.
MAX_PAGES = 20_000
_CJK_LETTER = re.compile(r"[\u3400-\u9fff，、]")
_NOTE_MARK = re.compile(r"(?:\d{1,3}|[*†‡§¶①-⑳]|\[\d{1,3}\]|[a-z])[.)]?\s*\S")
#: Above this share of characters without a meaning (no Unicode value, private use) the fonts cannot be read.
_MAX_UNKNOWN = 0.2


def extract_pdf(raw: bytes) -> Extracted:
    """One PDF. ``Unreadable``: broken, encrypted, scanned, fonts without Unicode values, empty."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        told = any(word in str(error).lower() for word in ("password", "security"))
        if told and b"/Encrypt" in raw:  # pdfium may still tell the reason of the document before
            raise Unreadable("encrypted: the PDF needs a password") from None
        raise Unreadable(f"broken pdf: {error}") from None
    try:
        if len(document) > MAX_PAGES:
            raise Unreadable(f"too many pages: {len(document)}")
        pages, n_broken = _read_pages(document)
        meta: dict[str, Any] = {"format": "pdf", "pages": len(document)}
        if title := _title(document):
            meta["title"] = title
    finally:
        document.close()
    if not pages:
        raise Unreadable(f"broken pdf: none of {n_broken} pages can be read")
    scanned = [p.number + 1 for p in pages if p.n_chars < _SCAN_CHARS and p.image_share >= _SCAN_SHARE]
    if scanned:
        meta["scanned_pages"] = scanned
    if n_broken:
        meta["broken_pages"] = n_broken
    readable = [page for page in pages if page.number + 1 not in scanned]
    if scanned and not any(page.n_chars for page in readable):
        raise Unreadable(f"scanned: {len(scanned)} of {len(pages)} pages are images without text")
    _check_characters(readable)
    text, n_tables = _text(readable)
    if not text.strip():
        raise Unreadable("empty: no text in the PDF")
    return Extracted(text, meta | {"tables": n_tables})


def _read_pages(document: Any) -> tuple[list[Page], int]:
    import pypdfium2

    pages, n_broken = [], 0
    for number in range(len(document)):
        try:
            pages.append(read_page(document, number))
        except pypdfium2.PdfiumError:
            n_broken += 1
    return pages, n_broken


def _title(document: Any) -> str:
    title = str(document.get_metadata_dict().get("Title", "")).strip()
    # Word processors put the name of a file there.
    return (
        ""
        if re.search(
            r"\.(docx?|tex|pdf|dvi|indd|qxd|pptx?)$|^\(?(?:untitled|anonymous|unspecified)\b|^Microsoft Word",
            title,
            re.I,
        )
        else title
    )


def _check_characters(pages: Sequence[Page]) -> None:
    text = "".join(segment.text for page in pages for segment in page.segments)
    unknown = sum(1 for c in text if c == "\ufffd" or unicodedata.category(c) in ("Co", "Cn", "Cc"))
    if text and unknown > _MAX_UNKNOWN * len(text):
        raise Unreadable(f"no usable characters: {unknown / len(text):.0%} have no Unicode value")


def _text(pages: list[Page]) -> tuple[str, int]:
    drop_furniture(pages)
    sizes = Sizes.of(pages)
    parts: list[str] = []
    notes: list[str] = []
    n_tables = 0
    for page in pages:
        tables = find_tables(page)
        n_tables += len(tables)
        blocks = page_blocks(page, tables)
        n_text = len(blocks)
        while n_text > 1 and _is_note(blocks[n_text - 1], page, sizes):
            n_text -= 1
        found: list[str] = []
        foot = 0.0
        for block in blocks[:n_text]:
            pieces = block_parts(block, sizes)
            if found and pieces and block.box[1] < foot - 1 and _runs_on(found[-1], pieces[0]):  # the next column
                found[-1] = join_lines(found[-1], pieces.pop(0))
            found += pieces
            foot = block.box[3]
        if parts and found and _runs_on(parts[-1], found[0]):
            parts[-1] = join_lines(parts[-1], found.pop(0))
        elif parts and found and not notes and (table := _one_table(parts[-1], found[0])):
            parts[-1] = table
            found.pop(0)
            n_tables -= 1
        # The notes at the foot of a page come behind the paragraph that the page breaks.
        parts += [*notes, *found]
        notes = [part for block in blocks[n_text:] for part in block_parts(block, sizes)]
    return _with_lists([*parts, *notes]), n_tables


def _is_note(block: Block, page: Page, sizes: Sizes) -> bool:
    """Whether a block is a note at the foot of a page: in smaller letters, in the lower half, behind a mark."""
    if block.table or not block.lines or block.box[1] < page.height / 2:
        return False
    return block.lines[0].size <= 0.92 * sizes.body and bool(_NOTE_MARK.match(block.lines[0].text))


def _runs_on(last: str, first: str) -> bool:
    """Whether a paragraph goes on across the page break."""
    plain = not last.startswith(("#", "|", "<", "- ", "```")) and not first.startswith(("#", "|", "<", "- "))
    if not plain or len(last) <= 60 or last[-1] in ".!?:。！？：；”":
        return False
    # A Chinese sentence ends with a mark, and what begins a paragraph is no letter alone.
    return first[:1].islower() or bool(_CJK_LETTER.match(last[-1]) and _CJK_LETTER.match(first[:1]))


def _one_table(last: str, first: str) -> str:
    """A table that goes over the page break, put together; "" where two tables meet there.

    The head that the next page repeats goes; a row that stood there in the place of a head is a row again.
    """
    before, after = last.split("\n"), first.split("\n")
    if not (before[0].startswith("| ") and after[0].startswith("| ")) or len(before) < 3 or len(after) < 2:
        return ""
    if before[1].replace(" ", "") != after[1].replace(" ", ""):
        return ""
    head = [] if after[0] == before[0] else after[:1]
    return "\n".join([*before, *head, *after[2:]])


def _with_lists(parts: list[str]) -> str:
    out = ""
    for before, part in zip(["", *parts], parts, strict=False):
        out += part if not out else ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return out + "\n" if out else ""
