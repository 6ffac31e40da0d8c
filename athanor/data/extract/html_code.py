"""Listings of a page: their text, line for line, and their language."""

from __future__ import annotations

import re
from typing import Any

from athanor.data.extract.html_tree import BLOCK_TAGS

_LANGUAGE = re.compile(
    r"(?:^|\s)(?:(?:language|lang|highlight-source|highlight)-|highlight hl-|brush:\s*|sourceCode )"
    r"([A-Za-z][A-Za-z0-9+#_.-]*)"
)
_NO_LANGUAGE = frozenset(
    ["highlight", "plaintext", "text", "none", "default", "nohighlight", "code", "plain", "notranslate"]
)
#: Cells that hold a line of a listing, as code hosts and highlighters name them.
_LINE_CELL = re.compile(r"(?:^|\s)(?:blob-code|hljs-ln-code|js-file-line|code-?line|line-?content|line-?code)(?:$|\s)")


def code_text(element: Any) -> str:
    """Text of a listing, white space as it stands; ``<br>`` and block elements (a line each) end lines."""
    out: list[str] = []
    _collect_code(element, out)
    lines = "".join(out).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(line.rstrip() for line in lines)


def _collect_code(element: Any, out: list[str]) -> None:
    out.append(element.text or "")
    for child in element:
        if child.tag == "br":
            out.append("\n")
        else:
            own_line = child.tag in BLOCK_TAGS
            if own_line and _amid_line(out):
                out.append("\n")
            _collect_code(child, out)
            if own_line and _amid_line(out):
                out.append("\n")
        out.append(child.tail or "")


def _amid_line(out: list[str]) -> bool:
    return not next((piece for piece in reversed(out) if piece), "\n").endswith("\n")


def code_language(element: Any) -> str:
    """Language of a listing by the conventions of highlighters: ``language-x``, ``lang-x``, ``highlight-source-x``."""
    around = [*element.iterchildren("code"), element, *list(element.iterancestors("div", "figure", "td"))[:2]]
    for node in around:
        given = node.get("data-lang") or node.get("data-language")
        if not given:
            given = next((m.group(1) for m in _LANGUAGE.finditer(node.get("class") or "")), "")
        if given and given.lower() not in _NO_LANGUAGE and not given[0].isdigit():
            return given.lower()
    return ""


def listing_text(rows: list[Any]) -> str:
    """The listing that a table shows, a line a row; ``""`` where its last cells hold no lines of code."""
    cells = [row[-1] for row in rows if len(row)]
    if not cells or not all(_LINE_CELL.search(cell.get("class") or "") for cell in cells):
        return ""
    return "\n".join(code_text(cell) for cell in cells)
