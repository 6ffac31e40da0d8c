"""Word files → Markdown: headings, lists with their numbers, tables with merged cells, formulas, notes, code.

Read straight from WordprocessingML (ECMA-376 part 1, chapter 17), because the libraries that read docx drop formulas,
text boxes and numbers of list items without a word. Headers, footers, comments, deleted text and tables of contents
are not the document's text and are left out.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from athanor.data.extract.charts import chart_table
from athanor.data.extract.docx_styles import Label, Numbering, Styles
from athanor.data.extract.omml import child, is_on, local, omml_to_latex, val, whole
from athanor.data.extract.ooxml import Package
from athanor.data.extract.scripts import join_inline, raised
from athanor.data.extract.symbol_font import SYMBOL
from athanor.data.extract.tables import Cell, render_table
from athanor.data.extract.types import Extracted, Unreadable

_MONOSPACED = re.compile(r"courier|consolas|menlo|monaco|mono\b|monospace|code pro|lucida console|fixedsys", re.I)
_CODE_CHARS = re.compile(r"[;{}()=<>\[\]#_/\\]")
#: Elements whose content is text that was removed, an instruction, or a copy of what stands elsewhere.
_SKIPPED = frozenset(
    [
        "del", "moveFrom", "instrText", "delText", "rPr", "pPr", "tblPr", "tcPr", "trPr", "sectPr", "sdtPr", "Fallback",
        "annotationRef", "footnoteRef", "endnoteRef", "proofErr", "bookmarkStart", "bookmarkEnd", "tblGrid", "rt",
    ]
)  # fmt: skip
#: Fields whose result is a list of what stands elsewhere.
_CONTENTS = frozenset(["TOC", "INDEX", "TOA"])
#: A cell's first grid column, element (None where the row starts late), grid columns, header flag, vertical merge.
_Place = tuple[int, Any, int, bool, str | None]


@dataclass(slots=True)
class Block:
    """A piece of the document.

    ``kind``: text, item, continued (of the item before it), code, monospaced (code only next to code), lines (of a
    cell).
    """

    kind: str
    text: str


@dataclass(slots=True)
class _Inline:
    """What a paragraph holds: text with ``$…$``, whether all is monospaced, and text boxes hung on it."""

    pieces: list[str] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    formulas: int = 0
    plain: bool = False
    monospaced: bool = True


def extract_docx(raw: bytes) -> Extracted:
    """One Word file. ``Unreadable`` where it is broken, encrypted, a bomb or empty."""
    package = Package(raw, "docx")
    reader = _Reader(package, package.main_part("word/document.xml"))
    text = reader.text()
    if not text.strip():
        raise Unreadable("empty: no text in the docx")
    meta: dict[str, Any] = {"format": "docx", "tables": reader.n_tables, "formulas": reader.n_formulas}
    if title := package.title() or reader.title:
        meta["title"] = title
    return Extracted(text, meta)


class _Reader:
    def __init__(self, package: Package, part: str) -> None:
        root = package.xml(part)
        self.package = package
        self.relations = package.relations(part)
        self.body = child(root, "body")
        if self.body is None:
            raise Unreadable("broken docx: no document body")
        named = {kind: target for kind, target in self.relations.values()}
        self.styles = Styles(package.xml(named.get("styles", "")))
        self.numbering = Numbering(package.xml(named.get("numbering", "")))
        self.notes = {kind: package.xml(named.get(kind, "")) for kind in ("footnotes", "endnotes")}
        self.cited: list[tuple[str, str]] = []
        self.n_tables = self.n_formulas = self._depth = 0
        self.title = ""
        #: Fields that have begun: the instruction of each, and whether its result is left out.
        self.fields: list[tuple[str, bool]] = []
        #: What stood before a paragraph mark that was deleted.
        self.carried: _Inline | None = None
        self.has_title = any(self.styles.is_title(_style_id(p)) for p in self.body if local(p) == "p")

    def text(self) -> str:
        """The whole document: its blocks, then the notes that it cites."""
        blocks = list(self.blocks(self.body))
        done = 0
        while done < len(self.cited):  # a note may cite another
            kind, number = self.cited[done]
            done += 1
            note = next((n for n in self.notes[kind] if val(n, "id") == number), None)
            if note is not None:
                body = " ".join(block.text for block in self.blocks(note))
                blocks.append(Block("text", f"[^{done}]: {body.strip()}"))
        return join_blocks(blocks)

    def blocks(self, element: Any) -> Iterator[Block]:
        """Blocks of a body, a cell, a text box or a note, in document order."""
        for item in element:
            name = local(item)
            if name == "p":
                yield from self._paragraph(item)
            elif name == "tbl":
                yield from self._flushed()
                yield from self._table(item)
            elif name == "sdt" and not self._is_left_out(item):
                yield from self.blocks(_content(item))
            elif name in ("ins", "moveTo", "customXml", "smartTag", "AlternateContent", "Choice"):
                yield from self.blocks(item)
            elif name == "oMathPara":
                self.n_formulas += 1
                yield Block("text", f"$${omml_to_latex(item)}$$")
        yield from self._flushed()

    def _flushed(self) -> Iterator[Block]:
        """What waits for the paragraph after it, where none comes."""
        found, self.carried = self.carried, None
        if found is not None and (text := join_inline(found.pieces).strip()):
            yield Block("text", text)

    @staticmethod
    def _is_left_out(sdt: Any) -> bool:
        """Whether a content control holds a table of contents, or nothing but the prompt to fill it in."""
        gallery = val(child(sdt, "sdtPr", "docPartObj", "docPartGallery"))
        return gallery in ("Table of Contents", "Bibliographies Index") or is_on(child(sdt, "sdtPr", "showingPlcHdr"))

    def _paragraph(self, paragraph: Any) -> Iterator[Block]:
        style = _style_id(paragraph)
        properties = child(paragraph, "pPr")
        if self.fields and self.styles.heading_level(properties, style) is not None:
            self.fields.clear()  # a field that was never closed does not swallow the document
        found, self.carried = self.carried or _Inline(), None
        self._walk(paragraph, found)
        if self.styles.is_contents(style):
            return
        if child(properties, "rPr", "del") is not None:
            self.carried = found
            return
        text = join_inline(found.pieces)
        if text.strip():
            label = self.numbering.label(*self.styles.number_of(properties, style))
            if label is not None and not label.level and (depth := self.styles.list_depth(style)):
                label = replace(label, level=depth)
            yield from self._styled(text, found, style, properties, label)
        for box in found.boxes:
            yield from self.blocks(box)
        for chart in found.charts:
            root = self.package.xml(self.relations[chart][1]) if chart in self.relations else None
            if root is not None and (table := chart_table(root)):
                self.n_tables += 1
                yield Block("text", table)

    def _styled(self, text: str, found: _Inline, style: str, properties: Any, label: Label | None) -> Iterator[Block]:
        level = self.styles.heading_level(properties, style)
        if level is None and (self.styles.is_code(style) or (found.monospaced and found.plain)):
            sure = self.styles.is_code(style) or _CODE_CHARS.search(text)
            yield Block("code" if sure else "monospaced", text.strip("\n"))
            return
        if not found.plain and found.formulas:
            for latex in filter(None, (piece.strip().strip("$").strip() for piece in found.pieces)):
                yield Block("text", f"$${latex}$$")
            return
        text = re.sub(r"[ \t]*\n[ \t]*", "\n", text.strip())
        if level is not None:
            if self.styles.is_title(style):
                self.title = self.title or text
            depth = min(level + (self.has_title and not self.styles.is_title(style)), 6)
            number = f"{label.text.rstrip('.')} " if label and label.text and not label.is_bullet else ""
            yield Block("text", f"{'#' * depth} {number}{' '.join(text.split())}")
        elif label is not None:
            indent = "    " * label.level
            body = text.replace("\n", f"\n{indent}  ")
            mark = "-" if label.is_bullet else label.text
            yield Block("item", f"{indent}{mark} {body}") if mark else Block("continued", f"{indent}    {body}")
        else:
            yield Block("text", text)

    def _walk(self, element: Any, found: _Inline) -> None:
        """Add the inline content below ``element`` to ``found``."""
        for item in element:
            name = local(item)
            if name in _SKIPPED or not name or (name == "sdt" and self._is_left_out(item)):
                continue
            if name == "r":
                self._run(item, found)
            elif name in ("oMath", "oMathPara"):
                self._formula(item, found)
            elif name == "txbxContent":
                found.boxes.append(item)
            elif name == "chart":
                found.charts.append(next((v for k, v in item.attrib.items() if k.endswith("}id")), ""))
            else:
                self._walk(item, found)

    def _formula(self, element: Any, found: _Inline) -> None:
        latex = omml_to_latex(element)
        if latex:
            self.n_formulas += 1
            found.formulas += 1
            mark = "$$" if local(element) == "oMathPara" else "$"
            found.pieces.append(f"{mark}{latex}{mark}")

    def _run(self, run: Any, found: _Inline) -> None:
        properties = child(run, "rPr")
        if is_on(child(properties, "vanish")):
            return
        start = len(found.pieces)
        for item in run:
            name = local(item)
            if name in ("fldChar", "instrText"):
                self._field(item, name)
            elif any(left_out for _, left_out in self.fields):
                continue
            elif name == "t":
                found.pieces.append(item.text or "")
            elif name in _MARKS:
                found.pieces.append(_MARKS[name])
            elif name == "sym":
                found.pieces.append(_symbol(item))
            elif name in ("footnoteReference", "endnoteReference"):
                self._cite(item, f"{name[:-9]}s", found)
            elif name == "txbxContent":
                found.boxes.append(item)
            elif name not in _SKIPPED and len(item):
                self._walk(item, found)
        text = "".join(found.pieces[start:])
        if text.strip():
            found.plain = True
            font = val(child(properties, "rFonts"), "ascii", "") or ""
            found.monospaced &= bool(_MONOSPACED.search(font))
            found.pieces[start:] = [raised(text, val(child(properties, "vertAlign")))]

    def _field(self, item: Any, name: str) -> None:
        """Follow the beginning, instruction and end of a field (17.16.18)."""
        kind = val(item, "fldCharType")
        if name == "instrText" and self.fields:
            self.fields[-1] = (self.fields[-1][0] + (item.text or ""), self.fields[-1][1])
        elif kind == "begin":
            self.fields.append(("", False))
        elif kind == "separate" and self.fields:
            instruction = self.fields[-1][0]
            self.fields[-1] = (instruction, instruction.split()[:1] in ([word] for word in _CONTENTS))
        elif kind == "end" and self.fields:
            self.fields.pop()

    def _cite(self, item: Any, kind: str, found: _Inline) -> None:
        number = val(item, "id") or ""
        if self.notes[kind] is None:
            return
        if (kind, number) not in self.cited:
            self.cited.append((kind, number))
        found.pieces.append(f"[^{self.cited.index((kind, number)) + 1}]")

    def _table(self, table: Any) -> Iterator[Block]:
        cells = [cell for row in _kept_rows(table) for cell in _descend(row, "tc")]
        if len(cells) == 1:  # a frame around text, not a table
            yield from self.blocks(cells[0])
            return
        rows = list(self._rows(table))
        if not any(cell.text.strip() for row in rows for cell in row):
            return
        if self._depth:
            lines = (" ".join(" ".join(cell.text.split()) for cell in row) for row in rows)
            yield Block("lines", "\n".join(lines))
        else:
            self.n_tables += 1
            yield Block("text", render_table(rows))

    def _rows(self, table: Any) -> Iterator[list[Cell]]:
        """Rows of cells; a cell merged downwards is in its first row alone, with its row span."""
        grid: list[list[_Place]] = []
        for tr in _kept_rows(table):
            properties = child(tr, "trPr")
            header = is_on(child(properties, "tblHeader"))
            column = whole(val(child(properties, "gridBefore")), 0)
            row: list[_Place] = []
            if column:
                row.append((0, None, column, False, None))
            for tc in _descend(tr, "tc"):
                span = whole(val(child(tc, "tcPr", "gridSpan")), 1, 1)
                merge = child(tc, "tcPr", "vMerge")
                row.append((column, tc, span, header, None if merge is None else val(merge, default="continue")))
                column += span
            grid.append(row)
        for number, row in enumerate(grid):
            cells: list[Cell] = []
            for column, tc, span, header, merge in row:
                if merge == "continue" and number and _above(grid[number - 1], column):
                    continue
                height = 1
                while merge is not None and number + height < len(grid) and _goes_on(grid[number + height], column):
                    height += 1
                text = "" if tc is None else self._cell_text(tc)
                cells.append(Cell(text, span, height, header))
            yield cells

    def _cell_text(self, cell: Any) -> str:
        parts = []
        self._depth += 1
        for item in self.blocks(cell):
            parts.append(" ".join(item.text.split()) if item.kind == "text" and "\n" in item.text else item.text)
        self._depth -= 1
        return "\n".join(part for part in parts if part.strip()).replace("$$", "$")


_MARKS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def _above(row: list[_Place], column: int) -> bool:
    return any(start == column and merge is not None for start, _, _, _, merge in row)


def _goes_on(row: list[_Place], column: int) -> bool:
    return any(start == column and merge == "continue" for start, _, _, _, merge in row)


def _kept_rows(table: Any) -> list[Any]:
    """Rows without those whose deletion is tracked."""
    return [row for row in _descend(table, "tr") if child(row, "trPr", "del") is None]


def _descend(element: Any, name: str) -> Iterator[Any]:
    """Children of that name, through content controls and tracked insertions."""
    for item in element:
        if local(item) == name:
            yield item
        elif local(item) in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _descend(item, name)


def _content(sdt: Any) -> Any:
    found = child(sdt, "sdtContent")
    return () if found is None else found


def _style_id(paragraph: Any) -> str:
    return val(child(paragraph, "pPr", "pStyle")) or ""


def _symbol(item: Any) -> str:
    try:
        code = int(val(item, "char") or "", 16)
    except ValueError:
        return ""
    code = code - 0xF000 if 0xF000 <= code <= 0xF0FF else code
    font = (val(item, "font") or "").lower()
    if font == "symbol":
        return SYMBOL.get(code, chr(code) if code > 31 else "")
    if "wingdings" in font:
        return {0xFE: "☑", 0xFD: "☒", 0xA8: "☐", 0x6F: "☐", 0xFC: "✓", 0xE0: "→"}.get(code, "•")
    return chr(code) if code > 31 else ""


def join_blocks(blocks: list[Block]) -> str:
    """Blocks → Markdown: items of a list and lines of code stay together, a blank line parts the rest."""
    groups: list[tuple[str, list[str]]] = []
    for block in blocks:
        if not block.text.strip() and block.kind != "code":
            continue
        kind = block.kind
        if kind == "monospaced":
            kind = "code" if groups and groups[-1][0] == "code" else "text"
        goes_on = bool(groups) and groups[-1][0] == ("item" if kind == "continued" else kind)
        if goes_on and kind in ("code", "item", "continued"):
            groups[-1][1].append(f"\n{block.text}\n" if kind == "continued" else block.text)
        else:
            groups.append(
                ("text" if kind == "continued" else kind, [block.text.strip() if kind == "continued" else block.text])
            )
    return "\n\n".join(_group_text(kind, texts) for kind, texts in groups) + "\n"


def _group_text(kind: str, texts: list[str]) -> str:
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(texts)).rstrip() if kind == "item" else "\n".join(texts)
    if kind == "code":
        fence = "````" if "```" in text else "```"
        return f"{fence}\n{text}\n{fence}"
    # A list that begins at a deeper level would be a block of code in Markdown.
    return textwrap.dedent(text) if kind == "item" else text
