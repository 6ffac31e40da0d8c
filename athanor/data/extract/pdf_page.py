"""One PDF page as pdfium sees it: words with boxes and sizes, rulings, how much of it images cover.

Coordinates are points from the top left corner of the page as it is shown (its rotation applied).
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: Pages with more drawn paths than this are drawings; looking for rulings there would cost seconds and find noise.
MAX_PATHS = 4_000
_THIN_POINTS = 3.0
#: Words further apart than this many heights of their boxes stand in different cells or columns.
_SEGMENT_GAP = 0.75
#: Lines that lean more than this from a quarter turn are stamps and labels of drawings.
_SLANT_DEGREES = 8.0
_ANGLE_SAMPLES = 50
_UPRIGHT_SHARE = 0.6
#: A run of characters this many times higher than wide has them above each other.
_TURNED = 1.6
#: pdfium's own mark for the hyphen at the end of a line, in place of the line break.
_HYPHEN = "\ufffe"

#: Parts of the names of bold fonts, those of TeX among them.
_BOLD_NAMES = (b"bold", b"black", b"heavy", b"-bd", b"cmbx", b"sfbx", b"-medi", b"cmssbx")
_FIXED_NAMES = (b"courier", b"mono", b"consolas", b"menlo", b"cmtt", b"sftt", b"typewriter", b"inconsolata")
_UNSEEN = {code: None for code in (*range(32), 0xAD, 0xFFFE, 0xFFFF)}

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(slots=True)
class Segment:
    """Words on one line without a wide gap between them."""

    words: list[tuple[str, Rect]]
    size: float
    bold: bool
    box: Rect
    hyphen: bool = False
    #: Characters stand above each other: vertical Chinese, or a line turned by a quarter.
    turned: bool = False
    #: In a font whose characters are all of one width.
    fixed: bool = False

    @property
    def text(self) -> str:
        """The words with spaces between them."""
        return " ".join(word for word, _ in self.words)


@dataclass(slots=True)
class Page:
    """What is on a page. ``rulings``: thin boxes, horizontal and vertical; ``image_share``: of the page's area."""

    number: int
    width: float
    height: float
    segments: list[Segment] = field(default_factory=list)
    horizontal: list[Rect] = field(default_factory=list)
    vertical: list[Rect] = field(default_factory=list)
    image_share: float = 0.0
    n_chars: int = 0


def read_page(document: Any, number: int) -> Page:
    """Page ``number`` (from 0) of a pypdfium2 document."""
    import pypdfium2.raw as raw

    page = document[number]
    try:
        width, height = page.get_size()
        text_page = page.get_textpage()
        try:
            shown = page.get_rotation()
            rotation = _upright(raw, text_page, shown)
            if (rotation - shown) % 180:
                width, height = height, width
            turn = _turner(rotation, width, height)
            out = Page(number, width, height)
            _read_text(raw, text_page, turn, rotation, out)
        finally:
            text_page.close()
        _read_objects(raw, page, turn, out)
        return out
    finally:
        page.close()


def _upright(raw: Any, text_page: Any, shown: int) -> int:
    """The rotation in which the page's text stands upright; as shown, where its lines do not agree.

    A wide table is often set sideways on a page that is itself not turned.
    """
    n_chars = raw.FPDFText_CountChars(text_page)
    step = max(1, n_chars // _ANGLE_SAMPLES)
    quarters = [_quarter(raw, text_page, i) for i in range(0, n_chars, step)]
    told = [quarter for quarter in quarters if quarter is not None]
    # Text at the angle 270° (drawn downwards) is upright on a page turned by 90° clockwise.
    for quarter in set(told):
        if told.count(quarter) > _UPRIGHT_SHARE * len(quarters):
            return (360 - quarter) % 360
    return shown


def _quarter(raw: Any, text_page: Any, index: int) -> int | None:
    """A character's angle: 0, 90, 180 or 270; None where it is slanted or not known."""
    angle = math.degrees(raw.FPDFText_GetCharAngle(text_page, index))
    nearest = round(angle / 90) * 90
    return nearest % 360 if angle >= 0 and abs(angle - nearest) < _SLANT_DEGREES else None


def _turner(rotation: int, width: float, height: float) -> Callable[[float, float, float, float], Rect]:
    """(left, bottom, right, top) in the page's own space → the box as shown, from the top left."""
    if rotation == 90:
        return lambda left, bottom, right, top: (bottom, left, top, right)
    if rotation == 180:
        return lambda left, bottom, right, top: (width - right, bottom, width - left, top)
    if rotation == 270:
        return lambda left, bottom, right, top: (width - top, height - right, width - bottom, height - left)
    return lambda left, bottom, right, top: (left, height - top, right, height - bottom)


def _read_text(raw: Any, text_page: Any, turn: Callable[..., Rect], rotation: int, out: Page) -> None:
    n_chars = raw.FPDFText_CountChars(text_page)
    if n_chars <= 0:
        return
    buffer = (ctypes.c_ushort * (n_chars + 1))()
    written = raw.FPDFText_GetText(text_page, 0, n_chars, buffer)
    units = buffer[: max(written - 1, 0)]
    text = "".join(map(chr, units))  # one character a unit, so that the places stay; halves are joined word by word
    if len(text) != n_chars:  # characters without a code shift the two counts: ask for each
        codes = (raw.FPDFText_GetUnicode(text_page, i) for i in range(n_chars))
        text = "".join(chr(c) if 0 < c < 0x110000 else "\ufffd" for c in codes)
    out.n_chars = sum(not c.isspace() for c in text)
    box = raw.FS_RECTF()
    reference = ctypes.byref(box)

    def box_of(index: int) -> tuple[float, float, float, float]:
        raw.FPDFText_GetLooseCharBox(text_page, index, reference)
        return box.left, box.bottom, box.right, box.top

    for line in re.finditer(r"[^\r\n\ufffe]+", text):
        words: list[tuple[str, Rect, int]] = []
        for word in re.finditer(r"\S+", line[0]):
            first, last = line.start() + word.start(), line.start() + word.end() - 1
            a, b = box_of(first), box_of(last)
            rect = turn(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
            words.append((_undoubled(word[0], rect), rect, first))
        quarter = _quarter(raw, text_page, words[0][2]) if words else None
        if words and quarter is None and len(line[0].strip()) > 1 and _is_slanted(raw, text_page, words[0][2]):
            continue  # a stamp across the page
        if words and quarter is not None and (quarter + rotation) % 180:
            words = [_together(words)]
        _split(raw, text_page, words, out)
        if words and text[line.end() : line.end() + 1] == _HYPHEN:
            out.segments[-1].hyphen = True


def _is_slanted(raw: Any, text_page: Any, index: int) -> bool:
    angle = math.degrees(raw.FPDFText_GetCharAngle(text_page, index))
    return angle >= 0 and abs(angle - round(angle / 90) * 90) >= _SLANT_DEGREES


def _together(words: list[tuple[str, Rect, int]]) -> tuple[str, Rect, int]:
    """The words of a line that is turned by a quarter as one."""
    return " ".join(word for word, _, _ in words), _around([rect for _, rect, _ in words]), words[0][2]


def _around(rects: list[Rect]) -> Rect:
    return (
        min(r[0] for r in rects),
        min(r[1] for r in rects),
        max(r[2] for r in rects),
        max(r[3] for r in rects),
    )


def _split(raw: Any, text_page: Any, words: list[tuple[str, Rect, int]], out: Page) -> None:
    """Cut a line of words at wide gaps, at jumps back and at changes of height."""
    run: list[tuple[str, Rect, int]] = []
    for word in words:
        if run:
            (_, before, _), (_, here, _) = run[-1], word
            size = max(min(before[3] - before[1], here[3] - here[1]), 1.0)
            apart = here[0] - before[2] > _SEGMENT_GAP * size or here[0] < before[0] - size
            if apart or abs(here[1] + here[3] - before[1] - before[3]) > size:
                _add(raw, text_page, run, out)
                run = []
        run.append(word)
    if run:
        _add(raw, text_page, run, out)


def _add(raw: Any, text_page: Any, run: list[tuple[str, Rect, int]], out: Page) -> None:
    box = _around([rect for _, rect, _ in run])
    turned = box[3] - box[1] > _TURNED * (box[2] - box[0]) and sum(len(word) for word, _, _ in run) > 2
    # The matrix of the text may scale the font, so the height of the glyph box is the better measure of its size.
    # Of its words the upper quartile: a raised character makes its own word higher, words in small capitals are lower.
    heights = sorted(rect[3] - rect[1] for _, rect, _ in run)
    size = round((box[2] - box[0] if turned else heights[3 * (len(heights) - 1) // 4]) * 2) / 2
    hyphen = run[-1][0][-1] in "\x02\xad"
    words = [(plain, rect) for text, rect, _ in run if (plain := _whole(text.translate(_UNSEEN)))]
    if words:
        # Of its first, middle and last word: one word in bold makes no heading.
        fonts = [_font(raw, text_page, index) for index in {run[i][2] for i in (0, len(run) // 2, -1)}]
        bold, fixed = (all(values) for values in zip(*fonts, strict=True))
        out.segments.append(Segment(words, size, bold, box, hyphen, turned, fixed))


def _undoubled(word: str, rect: Rect) -> str:
    """Chinese written several times over itself (a way to draw bold) as it is seen: once.

    A character is about 0.75 heights of its box wide; what repeats in half that room lies on top of itself.
    """
    if len(word) < 4 or not "\u3000" <= word[0] <= "\u9fff":
        return word
    period = (word + word).find(word, 1)
    overlaps = rect[2] - rect[0] < 0.55 * len(word) * (rect[3] - rect[1])
    return word[:period] if period < len(word) and overlaps else word


def _whole(word: str) -> str:
    """Halves of characters beyond the 16-bit plane as the characters they are; a half alone cannot be read."""
    if word.isascii() or not any("\ud800" <= c <= "\udfff" for c in word):
        return word
    return word.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _font(raw: Any, text_page: Any, index: int) -> tuple[bool, bool]:
    """Whether a character's font is bold, and whether its characters are all of one width."""
    buffer = ctypes.create_string_buffer(64)
    flags = ctypes.c_int()
    raw.FPDFText_GetFontInfo(text_page, index, buffer, 64, ctypes.byref(flags))
    name = buffer.value.lower()
    bold = raw.FPDFText_GetFontWeight(text_page, index) >= 600 or any(word in name for word in _BOLD_NAMES)
    return bold, bool(flags.value & 1) or any(word in name for word in _FIXED_NAMES)


def _read_objects(raw: Any, page: Any, turn: Callable[..., Rect], out: Page) -> None:
    """Rulings and images, forms' content included as far as pypdfium2 descends."""
    n_paths, covered = 0, 0.0
    for item in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        try:
            left, bottom, right, top = item.get_bounds()
        except Exception:  # pdfium refuses empty objects with its own error type
            continue
        rect = turn(left, bottom, right, top)
        if item.type == raw.FPDF_PAGEOBJ_IMAGE:
            wide = max(0.0, min(rect[2], out.width) - max(rect[0], 0.0))
            covered += wide * max(0.0, min(rect[3], out.height) - max(rect[1], 0.0))
            continue
        n_paths += 1
        if n_paths > MAX_PATHS:
            out.horizontal, out.vertical = [], []
            break
        _add_path(raw, item, turn, rect, out)
    out.image_share = min(1.0, covered / max(1.0, out.width * out.height))


def _add_path(raw: Any, item: Any, turn: Callable[..., Rect], rect: Rect, out: Page) -> None:
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    if height <= _THIN_POINTS < width:
        out.horizontal.append(rect)
    elif width <= _THIN_POINTS < height:
        out.vertical.append(rect)
    elif width > _THIN_POINTS and height > _THIN_POINTS:
        n_segments = raw.FPDFPath_CountSegments(item.raw)
        if n_segments <= 6:  # a box: the frame or the background of a cell
            _add_edges(rect, out)
        elif n_segments <= 400:  # a whole grid drawn at once
            _add_lines(raw, item, turn, n_segments, out)


def _add_edges(rect: Rect, out: Page) -> None:
    x0, y0, x1, y1 = rect
    if (x1 - x0) < 0.98 * out.width or (y1 - y0) < 0.98 * out.height:  # not the page's own background
        out.horizontal += [(x0, y0, x1, y0), (x0, y1, x1, y1)]
        out.vertical += [(x0, y0, x0, y1), (x1, y0, x1, y1)]


def _add_lines(raw: Any, item: Any, turn: Callable[..., Rect], n_segments: int, out: Page) -> None:
    matrix = item.get_matrix()
    x, y = ctypes.c_float(), ctypes.c_float()
    before: tuple[float, float] | None = None
    for i in range(n_segments):
        segment = raw.FPDFPath_GetPathSegment(item.raw, i)
        raw.FPDFPathSegment_GetPoint(segment, ctypes.byref(x), ctypes.byref(y))
        here = matrix.on_point(x.value, y.value)
        if before is not None and raw.FPDFPathSegment_GetType(segment) == raw.FPDF_SEGMENT_LINETO:
            rect = turn(
                min(here[0], before[0]), min(here[1], before[1]), max(here[0], before[0]), max(here[1], before[1])
            )
            if rect[3] - rect[1] <= 1.0 < rect[2] - rect[0]:
                out.horizontal.append(rect)
            elif rect[2] - rect[0] <= 1.0 < rect[3] - rect[1]:
                out.vertical.append(rect)
        before = here
