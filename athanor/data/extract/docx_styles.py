"""Styles and numbering of Word files: which paragraphs are headings, code or list items, and what number they carry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from athanor.data.extract.omml import child, local, val, whole

_CODE_STYLES = frozenset(
    [
        "code", "source code", "sourcecode", "code block", "code snippet", "html preformatted", "preformatted text",
        "preformatted", "macro", "macro text", "program listing", "verbatim", "listing",
    ]
)  # fmt: skip
_MAX_CHAIN = 20
_TITLES = ("title", "标题", "標題")
#: Names of heading styles: Word's own in its files, and those that other programs write in Chinese.
_HEADING = re.compile(r"(?:heading|标题|標題) ?([1-9])")
_CHINESE_HEADING = re.compile(r"([一二三四五六七八九])[级級](?:标题|標題)")
_LIST_DEPTH = re.compile(r"list (?:bullet|number|continue) ([2-5])")


@dataclass(frozen=True, slots=True)
class Label:
    """The mark of a list item: its nesting from 0, its number as printed, whether it is a bullet.

    No text and no bullet: the paragraph goes on with the item before it.
    """

    level: int
    text: str
    is_bullet: bool


class Styles:
    """Paragraph styles by id, with what they inherit."""

    def __init__(self, root: Any) -> None:
        self._styles: dict[str, Any] = {}
        for style in root if root is not None else ():
            if local(style) == "style" and val(style, "type", "paragraph") == "paragraph":
                self._styles[val(style, "styleId") or ""] = style

    def _chain(self, style: str) -> list[Any]:
        found: list[Any] = []
        while style in self._styles and len(found) < _MAX_CHAIN:
            found.append(self._styles[style])
            style = val(child(found[-1], "basedOn")) or ""
        return found

    def _names(self, style: str) -> list[str]:
        names = [(val(child(item, "name")) or "").lower() for item in self._chain(style)]
        return names or [style.lower()]

    def is_title(self, style: str) -> bool:
        """Whether it is the document's title."""
        return bool(style) and self._names(style)[0] in _TITLES

    def is_contents(self, style: str) -> bool:
        """Whether it is a line of a table of contents."""
        return bool(style) and self._names(style)[0].startswith(("toc ", "table of figures", "目录 ", "目錄 "))

    def is_code(self, style: str) -> bool:
        """Whether it, or a style it rests on, is one for code."""
        return bool(style) and any(name in _CODE_STYLES for name in self._names(style))

    def heading_level(self, properties: Any, style: str) -> int | None:
        """1–9, or None for body text. An outline level of 9 means body text (17.3.1.20)."""
        direct = val(child(properties, "outlineLvl"))
        if direct is not None and direct.isdigit():
            return int(direct) + 1 if int(direct) < 9 else None
        if not style:
            return None
        names = self._names(style)
        if names[0] in _TITLES:
            return 1
        for name, item in zip(names, self._chain(style) or [None], strict=False):
            if found := _HEADING.fullmatch(name):
                return int(found[1])
            if found := _CHINESE_HEADING.fullmatch(name):
                return "一二三四五六七八九".index(found[1]) + 1
            level = val(child(item, "pPr", "outlineLvl"))
            if level is not None and level.isdigit():
                return int(level) + 1 if int(level) < 9 else None
        return None

    def list_depth(self, style: str) -> int:
        """How deep the items of a built-in list style stand (0 for the outermost): each has a list of its own."""
        found = _LIST_DEPTH.fullmatch(self._names(style)[0]) if style else None
        return int(found[1]) - 1 if found else 0

    def number_of(self, properties: Any, style: str) -> tuple[str, int]:
        """(numbering id, level) of a paragraph, from itself or its style; ("0", 0) for none."""
        number, level = None, None
        for source in [properties, *(child(item, "pPr") for item in self._chain(style))]:
            found = child(source, "numPr")
            if found is None:
                continue
            number = number if number is not None else val(child(found, "numId"))
            level = level if level is not None else val(child(found, "ilvl"))
        return number or "0", whole(level, 0, 0, 8)


@dataclass(slots=True)
class _Level:
    kind: str = "decimal"
    text: str = "%1."
    start: int = 1


@dataclass(slots=True)
class _List:
    levels: dict[int, _Level] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class Numbering:
    """Counters of every list; ``label`` is asked once for each paragraph, in document order."""

    def __init__(self, root: Any) -> None:
        self._lists: dict[str, _List] = {}
        self._overrides: dict[str, dict[int, int]] = {}
        abstract: dict[str, _List] = {}
        for item in root if root is not None else ():
            if local(item) == "abstractNum":
                abstract[val(item, "abstractNumId") or ""] = _List(dict(map(_level, _named(item, "lvl"))))
            elif local(item) == "num":
                number = val(item, "numId") or ""
                self._lists[number] = abstract.get(val(child(item, "abstractNumId")) or "", _List())
                starts = {
                    whole(val(over, "ilvl"), 0, 0, 8): whole(val(child(over, "startOverride")), 1, 0, 10**6)
                    for over in _named(item, "lvlOverride")
                    if child(over, "startOverride") is not None
                }
                self._overrides[number] = starts

    def label(self, number: str, level: int) -> Label | None:
        """The mark of the next item of a list, or None where the paragraph is in no list."""
        found = self._lists.get(number)
        if number == "0" or found is None:
            return None
        here = found.levels.get(level, _Level())
        restart = self._overrides[number].pop(level, None)
        found.counts[level] = restart if restart is not None else found.counts.get(level, here.start - 1) + 1
        for deeper in [key for key in found.counts if key > level]:
            del found.counts[deeper]
        if here.kind == "none" or not here.text.strip():
            return Label(level, "", False)
        if here.kind == "bullet":
            return Label(level, "-", True)
        text = here.text
        for upper in range(9):
            if f"%{upper + 1}" in text:
                other = found.levels.get(upper, _Level())
                count = found.counts.get(upper, other.start)
                text = text.replace(f"%{upper + 1}", _number(count, other.kind))
        return Label(level, text.strip(), False)


def _named(element: Any, name: str) -> list[Any]:
    return [item for item in element if local(item) == name]


def _level(element: Any) -> tuple[int, _Level]:
    start = val(child(element, "start")) or "1"
    kind = val(child(element, "numFmt"), default="decimal") or "decimal"
    text = val(child(element, "lvlText"), default="") or ""
    return whole(val(element, "ilvl"), 0, 0, 8), _Level(kind, text, whole(start, 1, 0, 10**6))


def _number(value: int, kind: str) -> str:
    if kind in ("lowerLetter", "upperLetter"):
        letter = chr(ord("a") + (value - 1) % 26) * min((value - 1) // 26 + 1, 9)
        return letter if kind == "lowerLetter" else letter.upper()
    if kind in ("lowerRoman", "upperRoman") and value < 4_000:
        roman = _roman(value)
        return roman.lower() if kind == "lowerRoman" else roman
    if kind.startswith(("chinese", "ideograph", "taiwanese", "japaneseCounting")) and 0 < value < 100:
        return _chinese(value)
    if kind.startswith("decimalEnclosedCircle") and 0 < value <= 20:
        return chr(ord("①") + value - 1)
    return f"{value:02d}" if kind == "decimalZero" else str(value)


def _roman(value: int) -> str:
    pairs = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")]
    out = ""
    for size, letters in [*pairs, (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]:
        while value >= size:
            out, value = out + letters, value - size
    return out


def _chinese(value: int) -> str:
    digits = "〇一二三四五六七八九"
    tens, ones = divmod(value, 10)
    head = "" if not tens else ("十" if tens == 1 else f"{digits[tens]}十")
    return head + (digits[ones] if ones else "")
