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
        "alt-text",
        "long-desc",
    ]
)
#: Round the number of a citation that stands without brackets, until its paragraph is put together.
_CITED = re.compile("([\\[(][^\\[\\]()]*)?((?:\ue0d0[^\ue0d1]*\ue0d1[\\s,;–-]*)+)")
_LISTED = {"order": "{}.", "alpha-lower": "{}.", "alpha-upper": "{}.", "roman-lower": "{}.", "roman-upper": "{}."}
#: Elements whose sections stand one level below their own heading.
_HEADED = ("sec", "app", "abstract", "trans-abstract", "ack")
_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.S)
_MAX_LEVEL = 6


def extract_jats(raw: bytes) -> Extracted:
    """One article. ``Unreadable`` where the XML is broken or holds no text."""
    root = parse_xml(raw, "jats")
    reader = _Reader(root)
    parts = [_uncited(part) for part in reader.article(root)]
    parts += [_uncited(note) for note in reader.noted()]
    if not parts:
        raise Unreadable("empty: no text in the article")
    meta: dict[str, Any] = {"format": "jats", "tables": reader.n_tables, "formulas": reader.n_formulas}
    if reader.title:
        meta["title"] = reader.title
    if language := next((v for k, v in root.attrib.items() if k.endswith("}lang")), ""):
        meta["language"] = language
    return Extracted("\n\n".join(parts) + "\n", meta)


class _Reader:
    def __init__(self, root: Any) -> None:
        self.title = ""
        #: Notes by id, those under tables apart, and the ids of those that the text refers to, in order.
        self.notes = {
            item.get("id"): item
            for item in root.iter()
            if local(item) == "fn"
            and item.get("id")
            and not any(local(a) == "table-wrap" for a in item.iterancestors())
        }
        self.noted_ids: list[str] = []
        self.n_tables = self.n_formulas = 0

    def article(self, root: Any) -> Iterator[str]:
        """Title, abstracts, body and what of the back matter is text."""
        for element in root.iter():
            if local(element) == "article-title" and not self.title:
                title = self.inline(element)
                self.title = re.sub(r"\s*\[\^\d+\]", "", _uncited(title))
                if self.title:
                    yield f"# {title}"
        for name in ("abstract", "trans-abstract", "body", "ack", "app"):
            for element in _outermost(root, name):
                if "abstract" in name and element.get("abstract-type") in ("graphical", "teaser"):
                    continue
                blocks = list(self.blocks(element, 2))
                heading = {"abstract": "Abstract", "ack": "Acknowledgments"}.get(name)
                if blocks and heading and not blocks[0].startswith("## "):
                    yield f"## {heading}"
                yield from blocks

    def noted(self) -> Iterator[str]:
        """The notes that the text refers to."""
        for number, key in enumerate(self.noted_ids, 1):  # a note may refer to another
            texts = [self.inline(c) for c in self.notes[key] if local(c) != "label"]
            yield f"[^{number}]: {' '.join(filter(None, texts))}"

    def blocks(self, element: Any, level: int) -> Iterator[str]:
        """Blocks below an element, in order."""
        for item in element:
            name = local(item)
            if not name or name in _DROPPED:
                continue
            if name == "sec":
                yield from self.blocks(item, level + (local(element) in _HEADED))
            elif name == "title":
                label = next((self.inline(c) for c in element if local(c) == "label"), "")
                title = " ".join(filter(None, (label, self.inline(item))))
                if title:
                    yield f"{'#' * min(level, _MAX_LEVEL)} {title}"
            elif name == "p":
                yield from self.paragraph(item, level)
            elif name == "list":
                yield "\n".join(self.items(item, 0))
            elif name == "def-list":
                yield "\n".join(self.definitions(item))
            elif name == "fn":
                label = next((self.inline(c) for c in item if local(c) == "label"), "")
                text = " ".join(filter(None, (self.inline(c) for c in item if local(c) != "label")))
                yield from filter(None, [f"{label} {text}" if label and text else text])
            elif name == "statement":
                label = next((self.inline(c) for c in item if local(c) == "label"), "")
                first, *rest = [*self.blocks(item, level), ""]
                yield from filter(
                    None, [" ".join(filter(None, (f"{label.rstrip('.')}." if label else "", first))), *rest]
                )
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
        """Lines of a list; an item's own label is its mark, what follows its first paragraph stands below it."""
        indent = "    " * depth
        for number, item in enumerate((c for c in element if local(c) == "list-item"), 1):
            label = next((self.inline(c) for c in item if local(c) == "label"), "")
            mark = label or _LISTED.get(element.get("list-type") or "", "-").format(number)
            is_first = True
            for inner in item:
                name = local(inner)
                if name == "list" and depth < 10:
                    lines = list(self.items(inner, depth + 1))
                elif not name or name in _DROPPED:
                    continue
                else:
                    blocks = self.blocks([inner], _MAX_LEVEL) if name != "p" else self.paragraph(inner, _MAX_LEVEL)
                    lines = [f"{indent}    {line}" for block in blocks for line in block.split("\n")]
                if lines and is_first:
                    lines[0], is_first = f"{indent}{mark} {lines[0].strip()}", False
                yield from lines

    def definitions(self, element: Any) -> Iterator[str]:
        """Lines of a list of terms."""
        for item in element:
            if local(item) == "def-item":
                texts = [self.inline(c) for c in item if local(c) in ("term", "def")]
                yield f"- {': '.join(filter(None, texts))}"

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
        if name == "xref":
            return self.reference(item)
        text = (item.text or "") + "".join(self.piece(child) + (child.tail or "") for child in item)
        text = text.replace("\ue0d0", "").replace("\ue0d1", "") if name == "sup" else text
        return raised(text, {"sup": "superscript", "sub": "subscript"}.get(name))

    def reference(self, item: Any) -> str:
        """A reference: ``[^1]`` for a note of the text, the number of a citation in brackets."""
        text = "".join(item.itertext()).strip()
        if item.get("rid") in self.notes:
            key = item.get("rid")
            if key not in self.noted_ids:
                self.noted_ids.append(key)
            return f"[^{self.noted_ids.index(key) + 1}]"
        if item.get("ref-type") == "bibr" and text.isdigit():
            return f"\ue0d0{text}\ue0d1"
        return (item.text or "") + "".join(self.piece(child) + (child.tail or "") for child in item)

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


def _uncited(text: str) -> str:
    """Citations that stand without brackets of their own (raised in print) in brackets."""
    if "\ue0d0" not in text:
        return text

    def cited(match: re.Match[str]) -> str:
        run = match[2].replace("\ue0d0", "").replace("\ue0d1", "")
        if match[1]:
            return match[1].replace("\ue0d0", "").replace("\ue0d1", "") + run
        numbers = run.rstrip(" \n,;–-")
        return f"[{numbers}]{run[len(numbers) :]}"

    return _CITED.sub(cited, text)


def _joined(pieces: list[str]) -> str:
    return " ".join(join_inline(pieces).split())
