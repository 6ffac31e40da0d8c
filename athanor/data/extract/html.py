"""HTML → main text as Markdown: decoded, cleared, formulas taken out, content chosen, blocks written in order."""

from __future__ import annotations

import re
from typing import Any

from athanor.data.extract.html_blocks import Block, Walker, write
from athanor.data.extract.html_decode import clean_text, decode
from athanor.data.extract.html_fill import is_article
from athanor.data.extract.html_math import Formulas, take_formulas
from athanor.data.extract.html_prepare import prepare, scriptless_text, stated_text
from athanor.data.extract.html_select import select
from athanor.data.extract.html_tree import as_html, clear, parse
from athanor.data.extract.types import Extracted, Unreadable

#: Bytes of a page; larger ones are data dumps and listings, and cost more than they hold.
MAX_BYTES = 20 * 2**20
#: A page with less text is looked through for text that only readers without scripts see.
_SHORT = 200


def extract_html(
    raw: bytes | str,
    *,
    url: str | None = None,
    encoding: str | None = None,
    main_text: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Extracted:
    """The main text of a page; ``main_text=False`` keeps everything that is shown (pages known to hold nothing else).

    ``encoding`` is the charset that the transport declared, a hint. ``meta``: ``format``, ``encoding`` (for bytes), and
    where known ``title``, ``url``, ``language``; ``tables`` and ``formulas`` counted where there are any.
    Raises ``Unreadable``: ``"too large"``, ``"empty page"``, ``"no text"``.
    """
    meta: dict[str, Any] = {"format": "html"}
    if len(raw) > max_bytes:
        raise Unreadable(f"too large: {len(raw)} of at most {max_bytes} bytes")
    if isinstance(raw, bytes):
        raw, meta["encoding"] = decode(raw, encoding)
    source = clean_text(raw)
    if not source.strip():
        raise Unreadable("empty page")
    root = parse(as_html(source) if source.lstrip().startswith("<?xml") else source)
    meta |= page_meta(root, url)
    stated = stated_text(root, source) if main_text else ""
    title = meta.get("title", "")
    text, counts = _read(root, source, main_text, title, is_article(root, source))
    # A page that scripts fill holds its text elsewhere, or the opening of it and a barrier.
    if 2 * len(text) < len(stated):
        text, counts = _read(parse(f"<div>{stated}</div>"), stated, False)
    elif len(text) < _SHORT and main_text and "<noscript" in source:
        hidden = scriptless_text(parse(source))
        other, others = _read(parse(f"<div>{hidden}</div>"), hidden, True)
        if len(other) > 2 * len(text):
            text, counts = other, others
    if not text:
        raise Unreadable("no text")
    return Extracted(text, meta | counts)


def _read(
    root: Any, source: str, main_text: bool, title: str = "", article: bool = False
) -> tuple[str, dict[str, int]]:
    """(text, how many tables and formulas where there are any) of a tree, which it changes."""
    blocks, formulas = blocks_of(root, source)
    if not blocks:
        return "", {}
    chosen = select(root, blocks, title, article) if main_text else [True] * len(blocks)
    kept = [block for block, keep in zip(blocks, chosen, strict=True) if keep]
    counts = {"tables": sum(b.kind == "table" for b in kept), "formulas": count_formulas(kept, formulas)}
    return write(kept, formulas).strip(), {name: count for name, count in counts.items() if count}


def blocks_of(root: Any, source: str) -> tuple[list[Block], Formulas]:
    """Formulas taken out, noise dropped, the rest as blocks. Changes the tree."""
    formulas = take_formulas(root, source)
    prepare(root)
    clear(root)
    body = root.find("body")
    return Walker(source, formulas).walk(root if body is None else body), formulas


def count_formulas(blocks: list[Block], formulas: Formulas) -> int:
    """How many formulas the blocks hold."""
    if not formulas:
        return 0
    texts = [cell.text for block in blocks for cell in (block, *block.cells) if cell.kind != "table"]
    joined = "\n".join(texts)
    return sum(1 for key in formulas if key in joined)


def page_meta(root: Any, url: str | None) -> dict[str, str]:
    """Title, address and language that a page states of itself."""
    meta: dict[str, str] = {}
    properties = {
        (node.get("property") or node.get("name") or "").lower(): node.get("content") or ""
        for node in root.iter("meta")
    }
    title = properties.get("og:title") or next((node.text_content() for node in root.iter("title")), "")
    if title.strip():
        meta["title"] = " ".join(title.split())[:500]
    canonical = next((n.get("href") for n in root.iter("link") if (n.get("rel") or "").lower() == "canonical"), None)
    address = url or canonical or properties.get("og:url")
    if address:
        meta["url"] = address
    language = root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
    code = re.match(r"[A-Za-z]{2,3}", language.strip())
    if code:
        meta["language"] = code.group().lower()
    return meta
