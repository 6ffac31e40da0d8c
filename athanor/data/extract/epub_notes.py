"""Notes of a book: a reference and the note it leads to, in any of its documents, as ``[^1]`` and ``[^1]: …``.

EPUB 3 says which links are references (``epub:type="noteref"``, the ARIA role ``doc-noteref``); in older books a
reference and its note are told by leading to each other, with a number or a star as the link's text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from urllib.parse import unquote

_LINK = re.compile(r"<a\b([^<>]{1,600})>((?:(?!</a\b).){0,120}?)</a\s*>", re.S | re.I)
_ATTRIBUTE = re.compile(r"([\w:.-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_SIGN = re.compile(r"\s*[\[(（〔【]?\s*(?:注\s*)?(?:\d{1,4}|[a-z]|[*†‡§①-⑳㉑-㊿]{1,3})\s*[\])）〕】]?\s*", re.I)
_ELEMENT = re.compile(
    r"<(aside|li|div|p|dd|section|span|td|blockquote|h[1-6])\b([^<>]*)>(\s*<(?:p|div)\b[^<>]*>)?", re.I
)

#: The sign that stood before a note's text, as a link back or plain: the mark stands for it now.
_OLD_SIGN = re.compile(
    r"(\[\^\d+\]: )\s*(?:<(?:sup|span|b|strong)[^<>]*>\s*)*(?:<a\b[^<>]*>[^<>]{0,8}</a\s*>|[\[(（〔]?\d{1,3}[\])）〕.])"
    r"\s*(?:</(?:sup|span|b|strong)\s*>\s*)*[.．、:：]?\s*"
)

Place = tuple[str, str]


def with_notes(chapters: Mapping[str, str]) -> dict[str, str]:
    """The documents of a book (name → XHTML, in reading order) with the references and notes of it marked."""
    links = {name: _links(name, text) for name, text in chapters.items()}
    pairs = {(source, target) for found in links.values() for _, sources, target, _ in found for source in sources}
    numbers: dict[Place, int] = {}
    references: set[tuple[str, int]] = set()
    for name, found in links.items():
        for start, sources, target, is_typed in found:
            leads_back = any((target, source) in pairs for source in sources)
            if not is_typed and (not leads_back or any(source in numbers for source in sources)):
                continue
            numbers.setdefault(target, len(numbers) + 1)
            references.add((name, start))
    if not numbers:
        return dict(chapters)
    return {name: _marked(name, text, numbers, references) for name, text in chapters.items()}


def _links(name: str, text: str) -> list[tuple[int, list[Place], Place, bool]]:
    """(start, the places where it stands, the place it leads to, whether it says that it is a reference) of each link
    whose text is a note's sign, or that says so."""
    found = []
    for match in _LINK.finditer(text):
        attributes = _attributes(match[1])
        place = _place(name, attributes.get("href", ""))
        is_typed = "noteref" in attributes.get("epub:type", "").split() or attributes.get("role") == "doc-noteref"
        if place is None or not (is_typed or _SIGN.fullmatch(re.sub(r"<[^<>]*>", "", match[2]))):
            continue
        around = text[max(0, match.start() - 200) : match.start()]
        opened = re.search(
            r"<(?:sup|span|p|li|div|dd|aside)\b[^<>]*\bid\s*=\s*[\"']([^\"']+)[\"'][^<>]*>(?:\s*<[^<>/]*>)*\s*\Z",
            around,
        )
        ids = [
            attributes.get("id", ""),
            opened[1] if opened else "",
            *re.findall(r"\bid\s*=\s*[\"']([^\"']+)", match[2]),
        ]
        found.append((match.start(), [(name, i) for i in ids if i], place, is_typed))
    return found


def _attributes(source: str) -> dict[str, str]:
    return {name.lower(): double or single for name, double, single in _ATTRIBUTE.findall(source)}


def _place(name: str, href: str) -> Place | None:
    """(document, fragment) that a link of a document leads to, None outside the book."""
    path, mark, fragment = href.partition("#")
    if not mark or not fragment or "://" in href:
        return None
    document = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(path))) if path else name
    return document, unquote(fragment)


def _marked(name: str, text: str, numbers: Mapping[Place, int], references: set[tuple[str, int]]) -> str:
    begun: set[int] = set()

    def link(match: re.Match[str]) -> str:
        attributes = _attributes(match[1])
        place = _place(name, attributes.get("href", ""))
        if place is not None and place in numbers and (name, match.start()) in references:
            return f"[^{numbers[place]}]"
        ids = [attributes.get("id", ""), *re.findall(r"\bid\s*=\s*[\"']([^\"']+)", match[2])]
        number = next((numbers[name, i] for i in ids if (name, i) in numbers), None)
        if number is not None:  # the link back stands for the note's sign
            begun.add(number)
            return f"[^{number}]: "
        return match[0]

    text = _LINK.sub(link, text)

    def element(match: re.Match[str]) -> str:
        number = numbers.get((name, _attributes(match[2]).get("id", "")))
        if number is None or number in begun:
            return match[0]
        begun.add(number)
        return f"{match[0]}[^{number}]: "

    text = _ELEMENT.sub(element, text)
    return _OLD_SIGN.sub(r"\1", text)
