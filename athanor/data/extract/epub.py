"""EPUB 2 and 3 → Markdown: the documents of the spine in reading order (EPUB 3.3, section 5.7), within zip limits."""

from __future__ import annotations

import posixpath
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from athanor.data.extract.epub_notes import with_notes
from athanor.data.extract.html import extract_html
from athanor.data.extract.html_decode import decode
from athanor.data.extract.html_tree import as_html
from athanor.data.extract.limits import MAX_MEMBER_BYTES, MAX_TOTAL_BYTES, ZipBudget
from athanor.data.extract.types import Extracted, Unreadable

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
#: All documents of a book are held at once, since notes may stand in another than their references.
MAX_BOOK_CHARS = 256_000_000
_DOCUMENT_TYPES = ("application/xhtml+xml", "text/html", "application/html", "text/x-oeb1-document")


def extract_epub(
    data: bytes | Path | str, *, max_member_bytes: int = MAX_MEMBER_BYTES, max_total_bytes: int = MAX_TOTAL_BYTES
) -> Extracted:
    """Text of a book given as its bytes or its path; headings, lists, tables and formulas as in ``extract_html``.

    ``meta``: ``format``, ``chapters`` (documents with text) and where known ``title``, ``author``, ``language``;
    ``unreadable_chapters`` counts documents that the spine names and the archive does not give. Raises ``Unreadable``:
    ``"broken archive"``, ``"encrypted"``, ``"too large after unpacking"``, ``"compression ratio too high"``,
    ``"no package document"``, ``"no text"``.
    """
    try:
        archive = zipfile.ZipFile(BytesIO(data) if isinstance(data, bytes) else data)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise Unreadable(f"broken archive: {error}") from None
    with archive:
        budget = ZipBudget(archive, max_total_bytes)
        package_path = _package_path(budget)
        package = _xml(budget.read(package_path, max_member_bytes))
        if package is None:
            raise Unreadable("no package document")
        names = _spine(package, posixpath.dirname(package_path))
        if set(names) & _encrypted(budget, archive):
            raise Unreadable("encrypted: the chapters are protected")
        return _book(names, budget, max_member_bytes, _book_meta(package))


def _book(names: list[str], budget: ZipBudget, max_member_bytes: int, meta: dict[str, Any]) -> Extracted:
    texts: list[str] = []
    counts = {"tables": 0, "formulas": 0, "unreadable_chapters": 0}
    sources: dict[str, str] = {}
    spelled = {name.lower(): name for name in budget.archive.namelist()}
    for name in names:
        try:
            # Packages made on systems that do not tell small letters from large ones.
            sources[name] = decode(budget.read(spelled.get(name.lower(), name), max_member_bytes))[0]
        except Unreadable as error:
            if error.reason.startswith(("too large after", "compression ratio")):
                raise  # the archive is hostile: nothing in it is worth a further byte
            counts["unreadable_chapters"] += 1
        if sum(map(len, sources.values())) > MAX_BOOK_CHARS:
            raise Unreadable(f"too large after unpacking: the chapters have over {MAX_BOOK_CHARS} characters")
    for source in with_notes(sources).values():
        try:
            page = chapter(source, max_member_bytes)
        except Unreadable as error:
            if error.reason.startswith(("too large after", "compression ratio")):
                raise
            counts["unreadable_chapters"] += not error.reason.startswith(("no text", "empty page"))
            continue
        texts.append(page.text)
        for key in ("tables", "formulas"):
            counts[key] += page.meta.get(key, 0)
    if not texts:
        raise Unreadable("no text")
    meta |= {"chapters": len(texts)} | {key: count for key, count in counts.items() if count}
    return Extracted("\n\n".join(texts), meta)


def chapter(text: str, max_bytes: int = MAX_MEMBER_BYTES) -> Extracted:
    """The text of one XHTML document: all of it, since books have no navigation around their text."""
    return extract_html(as_html(text), main_text=False, max_bytes=max_bytes)


def _xml(data: bytes) -> Any:
    import lxml.etree

    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        return lxml.etree.fromstring(data, parser)
    except (lxml.etree.XMLSyntaxError, ValueError):
        return None


def _named(root: Any, name: str) -> Any:
    return root.iter("{*}" + name)


def _package_path(budget: ZipBudget) -> str:
    """Path of the package document: from the container file, else the first ``.opf`` of the archive."""
    names = budget.archive.namelist()
    if _CONTAINER in names:
        root = _xml(budget.read(_CONTAINER))
        for node in _named(root, "rootfile") if root is not None else ():
            path = node.get("full-path")
            if path in names:
                return str(path)
    found = next((name for name in names if name.lower().endswith(".opf")), None)
    if found is None:
        raise Unreadable("no package document")
    return found


def _spine(package: Any, folder: str) -> list[str]:
    """Names of the documents in reading order; without a spine, in the manifest's order."""
    items = {node.get("id"): node for node in _named(package, "item")}
    references = [node.get("idref") for node in _named(package, "itemref")]
    order = [items[ref] for ref in references if ref in items]
    if len(order) < len(references):  # a spine that names what is not there: nothing of the book is left out
        order += [item for item in items.values() if item not in order]
    names = []
    # A page of links to the chapters, as EPUB 2 names it in its guide; a place within a document is no such page.
    links = [
        node.get("href") or "" for node in _named(package, "reference") if (node.get("type") or "").lower() == "toc"
    ]
    contents = {posixpath.normpath(posixpath.join(folder, unquote(link))) for link in links if "#" not in link}
    for item in order or items.values():
        is_navigation = "nav" in (item.get("properties") or "").split()
        if item.get("href") and not is_navigation and (item.get("media-type") or "").lower() in _DOCUMENT_TYPES:
            path = unquote(item.get("href").split("#", 1)[0])
            names.append(posixpath.normpath(posixpath.join(folder, path)))
    names = list(dict.fromkeys(names))
    return [name for name in names if name not in contents] or names


def _encrypted(budget: ZipBudget, archive: zipfile.ZipFile) -> set[str]:
    """Members under protection (fonts often are, and do no harm)."""
    if _ENCRYPTION not in archive.namelist():
        return set()
    root = _xml(budget.read(_ENCRYPTION))
    nodes = _named(root, "CipherReference") if root is not None else ()
    return {posixpath.normpath(unquote(node.get("URI") or "")) for node in nodes}


def _book_meta(package: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"format": "epub"}
    for key, name in (("title", "title"), ("author", "creator"), ("language", "language")):
        texts = [" ".join("".join(node.itertext()).split()) for node in _named(package, name)]
        texts = [text for text in texts if text]
        if texts and key == "language":
            code = texts[0].lower().replace("_", "-").split("-")[0]
            meta |= {"language": code} if code.isascii() and code.isalpha() and len(code) in (2, 3) else {}
        elif texts:
            meta[key] = texts[0][:500]
    return meta
