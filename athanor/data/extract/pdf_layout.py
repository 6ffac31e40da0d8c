"""Segments of a PDF page → blocks in reading order → paragraphs, headings and list items."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from athanor.data.extract.pdf_page import Page, Rect, Segment
from athanor.data.extract.pdf_tables import Table

#: Bullets, among them the private-use and control codes that symbol fonts leave.
_BULLET = re.compile(r"^[•●▪■◦‣∙○□\x80-\x9f\ue000-\uf8ff-]\s+(?=\S)")
_NUMBERED = re.compile(r"^(?:\d{1,3}[.)]|[a-z][.)]|\(\d{1,3}\)|\([a-z]\))\s+\S")
_SECTION = re.compile(
    r"^(?:\d{1,2}(?:\.\d{1,2}){0,3}\.?|[IVX]+\.|Chapter \d+|Appendix [A-Z]|第[一二三四五六七八九十\d]+[章节])\s+\S"
)
#: Boxes of glyphs hold room above and below them, so that those of neighbouring lines overlap by this many sizes.
_BAND_OVERLAP = -0.35
_CODE_CHARS = re.compile(r"[;{}=<>]|\w\(")
#: Above this share of characters in fonts of one width a document is typewritten.
_MAX_TYPED = 0.5
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", "：", "；", "”", '"')


@dataclass(slots=True)
class Line:
    """Segments side by side."""

    text: str
    size: float
    bold: bool
    box: Rect
    hyphen: bool
    turned: bool = False
    fixed: bool = False


@dataclass(slots=True)
class Block:
    """Lines below each other, of one size and weight; or a table's Markdown in ``table``."""

    lines: list[Line] = field(default_factory=list)
    box: Rect = (0.0, 0.0, 0.0, 0.0)
    table: str = ""

    def add(self, line: Line) -> None:
        """Put a line below the others."""
        self.box = line.box if not self.lines else union(self.box, line.box)
        self.lines.append(line)


def union(a: Rect, b: Rect) -> Rect:
    """The box around two boxes."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def page_blocks(page: Page, tables: Sequence[Table]) -> list[Block]:
    """Blocks of a page in reading order.

    The order of the content stream is kept where it never goes back up a column; otherwise the page is cut
    recursively at its white strips (XY-cut; Nagy and Seth, 1984).
    """
    blocks: list[Block] = []
    for line in _lines(page.segments):
        if not blocks or not _continues(blocks[-1], line):
            blocks.append(Block())
        blocks[-1].add(line)
    # What is turned stands in a margin, unless it is all there is: it cuts nothing that is not.
    upright = [block for block in blocks if not block.lines[0].turned]
    if upright and _goes_back(upright):
        blocks = _xy_cut(upright) + [block for block in blocks if block.lines[0].turned]
    elif not upright and _goes_back(blocks):
        blocks = _xy_cut(blocks)
    for table in tables:
        columns = [(i, block) for i, block in enumerate(blocks) if _share_x(block.box, table.box)]
        # By the middle of the nearest line: the boxes of large letters reach into what stands below them.
        above = [i for i, block in columns if _middle_y(block, -1) <= table.box[1] + 1]
        below = [i for i, block in columns if _middle_y(block, 0) >= table.box[3] - 1]
        place = max(above) + 1 if above else (min(below) if below else len(blocks))
        # A short heading over a table that stands in the middle does not reach above it.
        while above and place < len(blocks) and _comes_between(blocks[place - 1], blocks[place], table):
            place += 1
        blocks.insert(place, Block(box=table.box, table=table.text))
    return blocks


def _comes_between(before: Block, block: Block, table: Table) -> bool:
    """Whether a block stands below the one before it and above a table."""
    return _middle_y(block, 0) > before.box[3] and _middle_y(block, -1) <= table.box[1] + 1


def _middle_y(block: Block, line: int) -> float:
    box = block.lines[line].box if block.lines else block.box
    return (box[1] + box[3]) / 2


def _lines(segments: Sequence[Segment]) -> list[Line]:
    lines: list[Line] = []
    for segment in segments:
        line = Line(
            segment.text, segment.size, segment.bold, segment.box, segment.hyphen, segment.turned, segment.fixed
        )
        if lines and not line.turned and not lines[-1].turned:
            before = lines[-1]
            gap = line.box[0] - before.box[2]
            apart = abs(line.box[1] + line.box[3] - before.box[1] - before.box[3]) / 2
            typed = line.fixed and before.fixed and len(before.text) > 1
            if -2 < gap < (40 if typed else 1.6) * line.size and apart < 0.6 * max(line.size, before.size):
                space = "" if gap < 0.1 * line.size else " "
                if typed:
                    space = " " * max(1, round(gap / _char_width(before)))
                longer = before if len(before.text) >= len(line.text) else line
                box = union(before.box, line.box)
                text = before.text + space + line.text
                lines[-1] = Line(text, longer.size, longer.bold, box, line.hyphen, fixed=longer.fixed)
                continue
        lines.append(line)
    return lines


def _continues(block: Block, line: Line) -> bool:
    last = block.lines[-1]
    if abs(line.size - last.size) > max(1.0, 0.12 * last.size) or line.fixed != last.fixed:
        return False
    if line.bold != last.bold and not line.fixed:
        return False
    if line.turned or last.turned:  # columns of vertical text, lines of a turned paragraph: side by side
        apart = max(line.box[0] - last.box[2], last.box[0] - line.box[2])
        overlap = min(line.box[3], last.box[3]) - max(line.box[1], last.box[1])
        return line.turned and last.turned and -0.5 * last.size < apart < 1.5 * last.size and overlap > 0
    gap = line.box[1] - last.box[3]
    return -0.6 * last.size < gap < 0.75 * last.size and _share_x(block.box, line.box) and line.box[1] > last.box[1] + 1


def _share_x(a: Rect, b: Rect) -> bool:
    """Whether two boxes stand above each other."""
    overlap = min(a[2], b[2]) - max(a[0], b[0])
    return overlap > 0.3 * max(1.0, min(a[2] - a[0], b[2] - b[0]))


def _goes_back(blocks: Sequence[Block]) -> bool:
    if len(blocks) > 300:
        return True
    for i, early in enumerate(blocks):
        for late in blocks[i + 1 :]:
            if late.box[3] <= early.box[1] + 2 and _share_x(early.box, late.box):
                return True
    return False


def _xy_cut(blocks: list[Block]) -> list[Block]:
    if len(blocks) < 2:
        return blocks
    columns = _parted(blocks, 0, 6.0)
    if len(columns) > 1:
        return [block for column in columns for block in _xy_cut(column)]
    bands = _parted(blocks, 1, _BAND_OVERLAP)
    if len(bands) < 2:
        return sorted(blocks, key=lambda b: (b.box[1], b.box[0]))
    merged: list[list[Block]] = []
    for band in bands:
        # Neighbouring bands that one gutter runs through are the same columns, where neither has one that they lack.
        together = merged[-1] + band if merged else []
        n_columns = len(_parted(together, 0, 6.0))
        if merged and 1 < n_columns <= max(len(_parted(part, 0, 6.0)) for part in (merged[-1], band)):
            merged[-1] = together
        else:
            merged.append(band)
    if len(merged) < 2:
        return sorted(blocks, key=lambda b: (b.box[1], b.box[0]))
    return [block for band in merged for block in _xy_cut(band)]


def _parted(blocks: list[Block], axis: int, gap: float) -> list[list[Block]]:
    """Groups of blocks with a free strip of at least ``gap`` between them along an axis: points of x (0), or sizes of
    the block's first line along y (1), where boxes may overlap by that much."""
    groups: list[list[Block]] = []
    end = 0.0
    for block in sorted(blocks, key=lambda b: b.box[axis]):
        unit = block.lines[0].size if axis and block.lines else 1.0
        if not groups or block.box[axis] - end > gap * unit:
            groups.append([])
            end = block.box[axis + 2]
        groups[-1].append(block)
        end = max(end, block.box[axis + 2])
    return groups


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of running text (the one of most characters), and the sizes above it, largest first."""

    body: float
    larger: tuple[float, ...]
    #: The running text itself is in a font of one width: there, that font means nothing.
    typed: bool = False

    @classmethod
    def of(cls, pages: Sequence[Page]) -> Sizes:
        """Of a whole document."""
        counts: Counter[float] = Counter()
        n_fixed = 0
        for page in pages:
            for segment in page.segments:
                counts[segment.size] += len(segment.text)
                n_fixed += segment.fixed * len(segment.text)
        body = max(counts, key=lambda s: (counts[s], -s)) if counts else 10.0
        larger = tuple(sorted((s for s in counts if s >= 1.15 * body), reverse=True))
        return cls(body, larger, n_fixed > _MAX_TYPED * sum(counts.values()))


def block_parts(block: Block, sizes: Sizes) -> list[str]:
    """Markdown of a block: a table, a heading, or paragraphs and list items."""
    if block.table:
        return [block.table]
    if not sizes.typed and _is_code(block):
        return [_code(block)]
    level = _heading_level(block, sizes)
    if level is not None:
        return [f"{'#' * level} {_joined(block.lines)}"]
    return [_BULLET.sub("- ", _joined(lines)) for lines in _paragraphs(block)]


def _is_code(block: Block) -> bool:
    """Whether a block is a listing: in a font of one width, and two lines long or with the characters of code."""
    if not all(line.fixed for line in block.lines):
        return False
    return len(block.lines) > 1 or bool(_CODE_CHARS.search(block.lines[0].text))


def _code(block: Block) -> str:
    """A listing with its indentation, which a PDF holds as places alone."""
    width = statistics.median(map(_char_width, block.lines))
    left = min(line.box[0] for line in block.lines)
    lines = [" " * round((line.box[0] - left) / width) + line.text for line in block.lines]
    return "\n".join(["```", *lines, "```"])


def _char_width(line: Line) -> float:
    return max((line.box[2] - line.box[0]) / max(len(line.text), 1), 1.0)


def _heading_level(block: Block, sizes: Sizes) -> int | None:
    text = " ".join(line.text for line in block.lines)
    size = block.lines[0].size
    if len(block.lines) > 3 or len(text) > 200 or not any(c.isalpha() for c in text) or len(text) < 2:
        return None
    section = _SECTION.match(text)
    if size >= 1.15 * sizes.body and not text.rstrip().endswith((",", ";")):
        rank = sum(larger > size + 1.0 for larger in sizes.larger)
        return min(rank + 1, 4)
    short = len(block.lines) <= 2 and len(text) <= 120 and not text.rstrip().endswith((".", ",", ";", "。", "，"))
    if block.lines[0].bold and short and size >= 0.9 * sizes.body:
        return min(2 + (section[0].split()[0].strip(".").count(".") if section else 0), 5)
    return None


def _paragraphs(block: Block) -> list[list[Line]]:
    """Cut a block where a line is indented, where the line before ends short, at wider gaps and at list marks."""
    lines = block.lines
    if lines[0].turned:
        return _turned_paragraphs(block)
    sides = [_margins(line, block) for line in lines]
    # Where every line stands in the middle, all of it is centred, and none is displayed.
    is_mixed = any(abs(left - right) > 0.2 for left, right in sides)
    centred = [is_mixed and min(left, right) > 0.12 and abs(left - right) < 0.2 for left, right in sides]
    gaps = [b.box[1] - a.box[3] for a, b in zip(lines, lines[1:], strict=False)]
    usual = statistics.median(gaps) if gaps else 0.0
    left, right = block.box[0], block.box[2]
    out = [[lines[0]]]
    for i, (before, line, gap) in enumerate(zip(lines, lines[1:], gaps, strict=False)):
        indent = line.box[0] - left > 0.7 * line.size >= before.box[0] - left
        ends = before.text.endswith(_ENDS) and before.box[2] < right - 0.12 * (right - left)
        marked = bool(_BULLET.match(line.text) or _NUMBERED.match(line.text))
        if (
            gap > usual + 0.3 * line.size
            or (indent and before.text.endswith(_ENDS))
            or ends
            or marked
            or centred[i] != centred[i + 1]
        ):
            out.append([])
        out[-1].append(line)
    return out


def _margins(line: Line, block: Block) -> tuple[float, float]:
    """How far a line stands from the left and the right edge of its block, in widths of the block."""
    width = max(block.box[2] - block.box[0], 1.0)
    return (line.box[0] - block.box[0]) / width, (block.box[2] - line.box[2]) / width


def _turned_paragraphs(block: Block) -> list[list[Line]]:
    """Columns of vertical text: cut where one ends a sentence well above the foot of the block."""
    top, bottom = block.box[1], block.box[3]
    out = [[block.lines[0]]]
    for before, line in zip(block.lines, block.lines[1:], strict=False):
        if before.text.endswith(_ENDS) and before.box[3] < bottom - 0.12 * (bottom - top):
            out.append([])
        out[-1].append(line)
    return out


def _joined(lines: Sequence[Line]) -> str:
    text = lines[0].text
    for before, line in zip(lines, lines[1:], strict=False):
        text = join_lines(text, line.text, before.hyphen)
    return text


def join_lines(text: str, more: str, hyphen: bool = False) -> str:
    """Two lines of one paragraph: a word cut at the end is put together, Chinese is joined without a space."""
    if re.search(r"\w-\w+-?$" if hyphen else r"\w-\w+-$|\d-$", text) and more[:1].isalnum():
        return text.removesuffix("-") + "-" + more  # a hyphen of its own: state-of-the-art, 1999-2000
    if hyphen:
        return text.removesuffix("-") + more
    if re.search(r"[^\W\d_]{2}-$", text) and more[:1].islower():
        return text[:-1] + more
    if text and more and _CJK.match(text[-1]) and _CJK.match(more[0]):
        return text + more
    return f"{text} {more}"
