"""Journal articles in JATS (ANSI/NISO Z39.96) → Markdown: title, abstract, sections, tables, formulas, captions.

Reference lists and the publisher's data about people are left out, as they are of LaTeX sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from athanor.data.extract.mathml import local, math_to_latex
from athanor.data.extract.ooxml import parse_xml
from athanor.data.extract.scripts import join_inline, raised
from athanor.data.extract.tables import Cell, render_table
from athanor.data.extract.types import Extracted, Unreadable

_DROPPED = frozenset(
    [
        "ref-list",
        "graphic",
        "media",
        "object-id",
        "permissions",
        "label",
        "supplementary-material",
        "fn-group",
        "sec-meta",
    ]
)
_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.S)
_MAX_LEVEL = 6


def extract_jats(raw: bytes) -> Extracted:
    """One article. ``Unreadable`` where the XML is broken or holds no text."""
    root = parse_xml(raw, "jats")
    reader = _Reader()
    parts = list(reader.article(root))
    if not parts:
        raise Unreadable("empty: no text in the article")
    meta: dict[str, Any] = {"format": "jats", "tables": reader.n_tables, "formulas": reader.n_formulas}
    if reader.title:
        meta["title"] = reader.title
    if language := next((v for k, v in root.attrib.items() if k.endswith("}lang")), ""):
        meta["language"] = language
    return Extracted("\n\n".join(parts) + "\n", meta)


class _Reader:
    def __init__(self) -> None:
        self.title = ""
        self.n_tables = self.n_formulas = 0

    def article(self, root: Any) -> Iterator[str]:
        """Title, abstracts, body and what of the back matter is text."""
        for element in root.iter():
            if local(element) == "article-title" and not self.title:
                self.title = self.inline(element)
                if self.title:
                    yield f"# {self.title}"
        for name in ("abstract", "trans-abstract", "body", "ack", "app"):
            for element in _outermost(root, name):
                if "abstract" in name and element.get("abstract-type") in ("graphical", "teaser"):
                    continue
                blocks = list(self.blocks(element, 2))
                heading = {"abstract": "Abstract", "ack": "Acknowledgments"}.get(name)
                if blocks and heading and not blocks[0].startswith("## "):
                    yield f"## {heading}"
                yield from blocks

    def blocks(self, element: Any, level: int) -> Iterator[str]:
        """Blocks below an element, in order."""
        for item in element:
            name = local(item)
            if not name or name in _DROPPED:
                continue
            if name == "sec":
                yield from self.blocks(item, level + (local(element) in ("sec", "app")))
            elif name == "title":
                label = next((self.inline(c) for c in element if local(c) == "label"), "")
                title = " ".join(filter(None, (label, self.inline(item))))
                if title:
                    yield f"{'#' * min(level, _MAX_LEVEL)} {title}"
            elif name == "p":
                yield from self.paragraph(item, level)
            elif name == "list":
                yield "\n".join(self.items(item, 0))
            elif name in ("table-wrap", "fig", "boxed-text", "table-wrap-group", "fig-group"):
                yield from self.captioned(item, level)
            elif name == "table":
                yield from self.table(item)
            elif name == "disp-formula":
                yield from filter(None, [self.formula(item, "$$")])
            elif name in ("code", "preformat"):
                yield f"```\n{''.join(item.itertext()).strip()}\n```"
            elif len(item):
                yield from self.blocks(item, level)
            elif text := self.inline(item):
                yield text

    def paragraph(self, element: Any, level: int) -> Iterator[str]:
        """A paragraph, cut where a list, a table or a displayed formula stands inside it."""
        pieces = [element.text or ""]
        for item in element:
            if local(item) in ("list", "table-wrap", "fig", "disp-formula", "disp-quote", "boxed-text", "code"):
                yield from filter(None, [_joined(pieces)])
                yield from self.blocks([item], level)
                pieces = []
            else:
                pieces.append(self.piece(item))
            pieces.append(item.tail or "")
        yield from filter(None, [_joined(pieces)])

    def captioned(self, element: Any, level: int) -> Iterator[str]:
        """A table or figure: its label and caption as a paragraph, then its table."""
        label = next((self.inline(c) for c in element if local(c) == "label"), "")
        captions = [c for c in element if local(c) == "caption"]
        texts = [self.inline(part) for caption in captions for part in caption]
        if caption := " ".join(filter(None, [f"{label.rstrip('.')}." if label else "", *texts])):
            yield caption
        for item in element:
            if local(item) not in ("label", "caption"):
                yield from self.blocks([item], level)

    def items(self, element: Any, depth: int) -> Iterator[str]:
        """Lines of a list."""
        number = 0
        for item in element:
            if local(item) != "list-item":
                continue
            number += 1
            mark = f"{number}." if element.get("list-type") in ("order", "roman-lower", "alpha-lower") else "-"
            texts = [self.inline(c) for c in item if local(c) not in ("list", "label")]
            yield f"{'    ' * depth}{mark} {' '.join(filter(None, texts))}"
            for inner in item:
                if local(inner) == "list" and depth < 10:
                    yield from self.items(inner, depth + 1)

    def table(self, element: Any) -> Iterator[str]:
        """A table of the XHTML model."""
        rows = []
        for row in element.iter():
            if local(row) != "tr":
                continue
            cells = [c for c in row if local(c) in ("td", "th")]
            rows.append([self.cell(cell) for cell in cells])
        if any(cell.text for row in rows for cell in row):
            self.n_tables += 1
            yield render_table(rows)

    def cell(self, element: Any) -> Cell:
        """One cell."""
        spans = [element.get(name, "1") for name in ("colspan", "rowspan")]
        columns, n_rows = (min(int(v), 1000) if v.isdigit() and v != "0" else 1 for v in spans)
        return Cell(self.inline(element).replace("$$", "$"), columns, n_rows, local(element) == "th")

    def inline(self, element: Any) -> str:
        """Text of an element on one line."""
        pieces = [element.text or ""]
        for item in element:
            pieces += [self.piece(item), item.tail or ""]
        return _joined(pieces)

    def piece(self, item: Any) -> str:
        """Text of an inline element; spaces at its ends are kept."""
        name = local(item)
        if not name or name in ("graphic", "inline-graphic", "fn", "object-id"):
            return ""
        if name in ("inline-formula", "disp-formula", "tex-math", "math"):
            return self.formula(item, "$")
        if name == "break":
            return " "
        text = (item.text or "") + "".join(self.piece(child) + (child.tail or "") for child in item)
        return raised(text, {"sup": "superscript", "sub": "subscript"}.get(name))

    def formula(self, element: Any, mark: str) -> str:
        """LaTeX of a formula: the TeX that comes with it, else its MathML, else its text."""
        latex = ""
        for item in element.iter():
            if local(item) == "tex-math":
                found = _DOCUMENT.search(item.text or "")
                latex = (found[1] if found else item.text or "").strip()
                latex = re.sub(r"^(\$\$?|\\\[|\\\()(.*?)(\$\$?|\\\]|\\\))$", r"\2", latex, flags=re.S)
                break
        else:
            math = next((item for item in element.iter() if local(item) == "math"), None)
            latex = math_to_latex(math) if math is not None else ""
        if not latex:
            return _joined([*element.itertext()])
        self.n_formulas += 1
        return f"{mark}{' '.join(latex.split())}{mark}"


def _outermost(root: Any, name: str) -> Iterator[Any]:
    for element in root.iter():
        above = {local(parent) for parent in element.iterancestors()}
        if local(element) == name and name not in above and not above & {"sub-article", "response"}:
            yield element


def _joined(pieces: list[str]) -> str:
    return " ".join(join_inline(pieces).split())
