"""A page's tree → its blocks of text in reading order, each with what decides whether it is content.

A block is what a reader sees as one unit: a paragraph, heading, list item, code listing, table. Every text node goes
into one block at most, so nothing is ever doubled. Into the tree, each block gets a *mark*: one rare character before
its first word. Whatever chooses content from the tree (a library, a rule) tells by the marks it returns which blocks
it chose, and the text is then written from the blocks, with formulas, tables and code that the library would lose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from athanor.data.extract.html_code import code_language, code_text, listing_text
from athanor.data.extract.html_tree import BLOCK_TAGS
from athanor.data.extract.tables import Cell, render_table

Kind = Literal["text", "heading", "item", "code", "table", "formula", "caption"]

#: Marks: Tangut, then CJK Extension B; characters of the page itself are never used.
_MARK_RANGES = ((0x17000, 0x187F7), (0x20000, 0x2A6D6))
_SPACE = re.compile(r"[ \t\n\r\f\v\xa0]+")
#: Paragraphs set in with full-width spaces.
_CJK_INDENT = re.compile(r"^[\u3000 ]+", re.MULTILINE)
_SPACES = re.compile(r"  +")
_AROUND_BREAK = re.compile(r" *\n *")
_LINES = re.compile(r"\n{3,}")
#: A line end of the source between two Chinese or Japanese characters stands for no space.
_CJK_NEWLINE = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\s*\n\s*(?=[\u3000-\u9fff\uff00-\uffef])")
_SUPERSCRIPT = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPT = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_VARIABLE = re.compile(r"(?:^|[^\w'’])[A-Za-zα-ωΑ-Ω]$")
_INDEX = re.compile(r"[A-Za-zα-ωΑ-Ω]{1,2}")
_ANCHOR_SIGN = re.compile(r"[¶§#↩↑^🔗⚓]\ufe0e?\d*$|$")
#: Formulas between three dollars, as judges of programming contests write them.
_TRIPLE = re.compile(r"(?<!\$)\${3}([^$\n]+)\${3}(?!\$)")
#: A raised number in brackets refers to a note.
_MARK = re.compile(r"\[\d+(?:\s?[-–,]\s?\d+)*\]")
_SCRIPTABLE = re.compile(r"[0-9+\-−=()]+")
#: A cell with more text is a part of the page and no datum; with headings or tables in it, sooner.
_EQUATION = re.compile(r"(?:^|[\s_-])(?:eqn|equation|equationgroup)(?:$|[\s_-])")
_DATA_CELL_CHARS, _LAYOUT_CELL_CHARS = 1500, 300
#: Placeholders of formulas: a word of hieroglyphs around a number, which no library takes apart.
PLACEHOLDER = "\U00013001{}\U00013002"
_PLACEHOLDER = re.compile("([ \\n]*)(\U00013001[0-9]+\U00013002)([ \\n]*)")


@dataclass(slots=True)
class Block:
    """One unit of text. ``prefix`` starts its first line, ``indent`` the others (list nesting, quotes)."""

    kind: Kind
    text: str
    element: Any
    mark: str = ""
    prefix: str = ""
    indent: str = ""
    level: int = 0
    n_chars: int = 0
    n_link_chars: int = 0
    n_anchor_chars: int = 0
    item: bool = False
    bullet: bool = False
    cells: list[Block] = field(default_factory=list)

    @property
    def link_density(self) -> float:
        """Share of the text that stands inside links."""
        return self.n_link_chars / self.n_chars if self.n_chars else 0.0


class Walker:
    """Collects the blocks below an element. ``formulas``: placeholder → (LaTeX, whether it is displayed)."""

    def __init__(self, text: str, formulas: dict[str, tuple[str, bool]]) -> None:
        # No character beyond the first plane (all marks are there): nothing to look out for.
        is_plain = text.isascii() or len(text.encode("utf-16-le")) == 2 * len(text)
        present = set() if is_plain else set(text)
        self._marks = (
            char for low, high in _MARK_RANGES for code in range(low, high) if (char := chr(code)) not in present
        )
        self.formulas = formulas
        self.blocks: list[Block] = []
        self._reset_run()
        self._prefix, self._indent = "", ""
        self._kind: Kind = "text"
        self._anchors = 0
        self._links, self._level, self._item, self._in_cell = 0, 0, False, False

    def walk(self, root: Any) -> list[Block]:
        """The blocks of ``root`` in reading order; its text nodes get the marks."""
        self._children(root)
        self._flush(root)
        return self.blocks

    # -- runs of inline text --

    def _reset_run(self) -> None:
        self._buffer: list[str] = []
        self._first: tuple[Any, bool] | None = None
        self._link_chars = self._anchor_chars = 0

    def _data(self, text: str | None, element: Any, is_tail: bool) -> None:
        if not text:
            return
        if self._first is None and not text.isspace():
            self._first = (element, is_tail)
        if "\n" in text and not text.isascii():
            text = _CJK_NEWLINE.sub("", text)
        self._buffer.append(_SPACE.sub(" ", text))
        if self._links:
            self._link_chars += len(text.strip())
        elif self._anchors:
            self._anchor_chars += len(text.strip())

    def _flush(self, element: Any) -> None:
        """End the current run: a block, if it holds any text."""
        if self._first is not None:
            text = "".join(self._buffer)
            if "\n" in text or "  " in text:
                text = _LINES.sub("\n\n", _AROUND_BREAK.sub("\n", _SPACES.sub(" ", text)))
            if "\u3000" in text:
                text = _CJK_INDENT.sub("", text)
            text = text.strip()
            if "$$$" in text:
                text = _TRIPLE.sub(r"$\1$", text)
            if text:
                kind: Kind = "formula" if self._is_formula(text) else self._kind
                block = Block(kind, text, element, level=self._level)
                block.n_link_chars, block.n_anchor_chars = self._link_chars, self._anchor_chars
                self._emit(block)
        if self._buffer:
            self._reset_run()

    def _is_formula(self, text: str) -> bool:
        return text in self.formulas and self.formulas[text][1]

    def _emit(self, block: Block, first: tuple[Any, bool] | None = None) -> None:
        block.prefix, block.indent = self._prefix, self._indent
        block.item, block.bullet = self._item, self._item and self._prefix != self._indent
        block.n_chars = len(block.text)
        self._prefix = self._indent
        node = first or self._first
        if node is not None:
            block.mark = next(self._marks, "")
            owner, is_tail = node
            if is_tail:
                owner.tail = f"{block.mark} {owner.tail}"
            else:
                owner.text = f"{block.mark} {owner.text or ''}"
        self.blocks.append(block)

    # -- elements --

    def _children(self, element: Any) -> None:
        self._data(element.text, element, False)
        for child in element:
            tag = child.tag
            handler = _HANDLERS.get(tag)
            if handler is not None:
                handler(self, child)
            elif tag in BLOCK_TAGS:
                self._flush(child.getparent())
                self._children(child)
                self._flush(child)
            else:
                self._children(child)
            self._data(child.tail, child, True)

    def _link(self, element: Any) -> None:
        address = element.get("href") or ""
        if not address or (address.startswith("#") and len(address) > 1):
            # Within the page: an anchor's sign is no text, and its words lead nowhere else.
            if not (address and _ANCHOR_SIGN.match(element.text_content().strip())):
                self._anchors += bool(address)
                self._children(element)
                self._anchors -= bool(address)
            return
        self._links += 1
        self._children(element)
        self._links -= 1

    def _break(self, element: Any) -> None:
        self._buffer.append("\n")

    def _rule(self, element: Any) -> None:
        self._flush(element.getparent())

    def _heading(self, element: Any) -> None:
        self._flush(element.getparent())
        kind, level, prefix = self._kind, self._level, self._prefix
        self._kind, self._level = "heading", int(element.tag[1])
        self._children(element)
        self._flush(element)
        self._kind, self._level = kind, level
        self._prefix = prefix if self._prefix == prefix else self._indent

    def _nested(self, element: Any, prefix: str, indent: str, kind: Kind = "item") -> None:
        """Walk ``element`` with ``prefix`` before its first line and ``indent`` before its others."""
        self._flush(element.getparent())
        saved = (self._prefix, self._indent, self._kind, self._item)
        n_before = len(self.blocks)
        # A bullet still waiting for its text (a list as the first child of an item) goes on the same line.
        self._prefix, self._indent, self._kind = self._prefix + prefix, self._indent + indent, kind
        self._item = kind == "item"
        self._children(element)
        self._flush(element)
        self._prefix, self._indent, self._kind, self._item = saved
        if len(self.blocks) > n_before:
            self._prefix = self._indent

    def _list(self, element: Any) -> None:
        self._flush(element.getparent())
        number = _integer(element.get("start"), 1)
        self._data(element.text, element, False)
        for child in element:
            if child.tag == "li":
                if element.tag == "ol":
                    number = _integer(child.get("value"), number)
                    self._nested(child, f"{number}. ", " " * (len(str(number)) + 2))
                    number += 1
                else:
                    self._nested(child, "- ", "  ")
            else:
                self._single(child)
            self._data(child.tail, child, True)
        self._flush(element)
        if not self._item and self.blocks:
            self.blocks[-1].item = False  # the next list is another one

    def _single(self, child: Any) -> None:
        handler = _HANDLERS.get(child.tag)
        if handler is not None:
            handler(self, child)
        else:
            self._children(child)

    def _item_alone(self, element: Any) -> None:
        self._nested(element, "- ", "  ")

    def _definition(self, element: Any) -> None:
        list_ = element.getparent()
        deeper = element.tag == "dd" and list_ is not None and list_.find("dt") is not None
        if next(element.iter("h1", "h2", "h3", "h4", "h5", "h6"), None) is not None:
            self._nested(element, "", "", self._kind)  # a list of definitions that only places a heading
        else:
            self._nested(element, "  - " if deeper else "- ", "    " if deeper else "  ")

    def _quote(self, element: Any) -> None:
        self._nested(element, "> ", "> ", "text")

    def _caption(self, element: Any) -> None:
        self._flush(element.getparent())
        kind, self._kind = self._kind, "caption"
        self._children(element)
        self._flush(element)
        self._kind = kind

    def _script(self, element: Any, letters: dict[int, int], sign: str) -> None:
        text = element.text_content().strip()
        before = next((piece for piece in reversed(self._buffer) if piece), " ")
        if _VARIABLE.search(before) and _INDEX.fullmatch(text):
            self._buffer.append(sign + text)  # a letter's index: "xi" would be another word
        elif not (_SCRIPTABLE.fullmatch(text) and before[-1:].strip()):
            self._children(element)
        elif not any(a.get("href", "").startswith("#") for a in element.iter("a")):
            self._buffer.append(text.translate(letters))

    def _superscript(self, element: Any) -> None:
        if "reference" not in (element.get("class") or "") and not _MARK.fullmatch(element.text_content().strip()):
            self._script(element, _SUPERSCRIPT, "^")

    def _subscript(self, element: Any) -> None:
        self._script(element, _SUBSCRIPT, "_")

    def _inline_code(self, element: Any) -> None:
        text = element.text_content()
        if not text.strip() or "`" in text or any(child.tag in BLOCK_TAGS for child in element.iter()):
            self._children(element)
            return
        start = len(self._buffer)
        self._children(element)
        inner = "".join(self._buffer[start:])
        self._buffer[start:] = [inner[: len(inner) - len(inner.lstrip())], "`", inner.strip(), "`"]

    def _code(self, element: Any) -> None:
        self._flush(element.getparent())
        self._listing(element, code_text(element))

    def _listing(self, element: Any, text: str) -> None:
        if not text.strip():
            return
        fence = "```"
        while fence in text:
            fence += "`"
        body = f"{fence}{code_language(element)}\n{text}\n{fence}"
        self._emit(Block("code", body, element), _first_text(element))

    def _table(self, element: Any) -> None:
        rows = [row for row in element.iter("tr") if _owner(row) is element]
        self._flush(element.getparent())
        if listing := listing_text(rows):
            self._listing(element, listing)
            return
        if is_layout(element, rows):
            self._children(element)
            self._flush(element)
            return
        for caption in element.findall("caption"):
            self._caption(caption)
        outer = (self.blocks, self._prefix, self._indent, self._kind, self._item, self._in_cell)
        self._in_cell = True
        cells: list[Block] = []
        table: list[list[Cell]] = []
        for row in rows:
            line: list[Cell] = []
            for cell in row:
                if not is_cell(cell):  # text that stands between cells by mistake is a cell
                    line += [Cell(text)] if (text := " ".join(cell.text_content().split())) else []
                else:
                    self.blocks, self._prefix, self._indent, self._kind, self._item = [], "", "", "text", False
                    self.walk(cell)
                    line.append(_cell(cell, write(self.blocks, self.formulas, compact=True)))
                    cells += self.blocks
                line += [Cell(text)] if (text := (cell.tail or "").strip()) else []
            table.append(line)
        self.blocks, self._prefix, self._indent, self._kind, self._item, self._in_cell = outer
        # A table in a cell: its words, a line a row; pipes or tags inside a cell would be read as its own.
        lines = (" ".join(cell.text for cell in line if cell.text) for line in table)
        text = "\n".join(lines) if self._in_cell else render_table(table)
        if text and cells:
            block = Block("table", text, element, cells=cells, n_link_chars=sum(c.n_link_chars for c in cells))
            self._emit(block)
            block.n_chars = sum(c.n_chars for c in cells)


_HANDLERS: dict[Any, Any] = {
    "a": Walker._link, "br": Walker._break, "hr": Walker._rule, "ul": Walker._list, "ol": Walker._list,
    "menu": Walker._list, "dir": Walker._list, "li": Walker._item_alone, "dt": Walker._definition,
    "dd": Walker._definition,
    "blockquote": Walker._quote, "figcaption": Walker._caption, "caption": Walker._caption, "pre": Walker._code,
    "listing": Walker._code, "xmp": Walker._code, "table": Walker._table, "sup": Walker._superscript,
    "sub": Walker._subscript, "code": Walker._inline_code, "kbd": Walker._inline_code, "samp": Walker._inline_code,
    "tt": Walker._inline_code, **{f"h{n}": Walker._heading for n in range(1, 7)},
}  # fmt: skip


def _cell(element: Any, text: str) -> Cell:
    spans = [min(max(_integer(element.get(name), 1), 1), 1000) for name in ("colspan", "rowspan")]
    return Cell(text, spans[0], spans[1], header=element.tag == "th")


def is_cell(element: Any) -> bool:
    """Whether a row's child is a cell."""
    return element.tag in ("td", "th")


def _owner(row: Any) -> Any:
    """The table a row belongs to (tables may be nested)."""
    return next(row.iterancestors("table"))


def is_layout(table: Any, rows: list[Any]) -> bool:
    """Whether a table only places blocks on the page: then its cells are read as paragraphs."""
    if table.get("role") in ("presentation", "none") or not rows or _EQUATION.search(table.get("class") or ""):
        return True
    cells = [cell for row in rows for cell in row if is_cell(cell)]
    if len(cells) < 2 or (len(rows) == 1 and not any(cell.tag == "th" for cell in cells)):
        return True
    if next(table.iterchildren("caption", "thead"), None) is not None or any(cell.tag == "th" for cell in cells):
        return False
    if max(sum(1 for cell in row if is_cell(cell)) for row in rows) < 2:
        return True
    # Listings with a column of line numbers, and pages laid out in the cells of a table.
    if any(True for _ in table.iter("pre")):
        return True
    sizes = [len(" ".join(cell.text_content().split())) for cell in cells]
    holds_blocks = any(True for _ in table.iterdescendants("table", "h1", "h2", "form", "article"))
    return max(sizes) > (_LAYOUT_CELL_CHARS if holds_blocks else _DATA_CELL_CHARS)


def _first_text(element: Any) -> tuple[Any, bool]:
    """Where the first visible text below ``element`` stands: (element, whether in its tail)."""
    for node in element.iter():
        if node.text and not node.text.isspace():
            return node, False
        if node is not element and node.tail and not node.tail.isspace():
            return node, True
    return element, False


def write(blocks: list[Block], formulas: dict[str, tuple[str, bool]], *, compact: bool = False) -> str:
    """Blocks → Markdown. ``compact`` (the inside of a table cell): one line a block, displayed formulas inline."""
    out: list[str] = []
    before: Block | None = None
    for block in blocks:
        if before is not None:
            out.append(_separator(before, block, compact))
        out.append(_written(block, formulas, compact))
        before = block
    return "".join(out)


def _separator(before: Block, block: Block, compact: bool) -> str:
    if compact or (before.item and block.bullet):
        return "\n"
    return "\n>\n" if before.indent.startswith(">") and block.indent.startswith(">") else "\n\n"


def _written(block: Block, formulas: dict[str, tuple[str, bool]], compact: bool) -> str:
    text = restore(block.text, formulas, compact) if formulas and block.kind != "table" else block.text
    if compact:
        text = re.sub(r"\n{2,}", "\n", text)
    elif block.kind == "heading":
        text = "#" * block.level + " " + " ".join(text.split())
    if "\n" not in text:
        return block.prefix + text
    first, *rest = text.split("\n")
    return "\n".join([block.prefix + first, *(block.indent + line if line else block.indent.rstrip() for line in rest)])


def restore(text: str, formulas: dict[str, tuple[str, bool]], compact: bool = False) -> str:
    """Placeholders → ``$…$``, displayed ones → ``$$…$$`` as a paragraph of their own."""
    if "\U00013001" not in text:
        return text

    def written(found: re.Match[str]) -> str:
        before, key, after = found.groups()
        if key not in formulas:
            return found.group()
        latex, display = formulas[key]
        if display and not compact:
            return f"\n\n$${latex}$$\n\n"
        return f"{before}$${latex}$${after}" if display else f"{before}${latex}${after}"

    return _LINES.sub("\n\n", _PLACEHOLDER.sub(written, text)).strip()


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default
