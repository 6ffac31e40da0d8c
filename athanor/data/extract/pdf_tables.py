"""Tables of a PDF page: those with rulings from the grid that the rulings make, those without from aligned gaps.

Only what is clearly a table becomes one; the words of everything else stay text.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from athanor.data.extract.pdf_page import Page, Rect, Segment
from athanor.data.extract.tables import Cell, render_table

_SNAP_POINTS = 3.0
#: A grid larger than this is a drawing, a form's background or a crossword.
_MAX_LINES = 200


#: Cells with more text than this are columns of prose.
_MAX_CELL_CHARS = 400
#: A cell is one run of words; labels of a drawing stand about without keeping to columns.
_SEGMENTS_PER_CELL = 1.25
#: Two columns of prose: how wide the strip between them is, and how many long lines stand on either side.
_MIN_STRIP_POINTS = 8.0
_LONG_SHARE = 0.7
_MIN_LONG_LINES = 5
_MIN_WIDE_ROWS = 3
#: Points; pages are at most this high (ISO 32000-1, annex C.2).
_MAX_Y = 14_400.0
#: A first column of these alone is the marks of a list.
_MARK = re.compile(r"|[^\w\s]|[\w]{1,3}[.)]|[\ue000-\uf8ff]")
_Word = tuple[float, float, float, str]  # y0, x0, x1, text


@dataclass(slots=True)
class Table:
    """A table found: where it is and its Markdown."""

    box: Rect
    text: str


def find_tables(page: Page) -> list[Table]:
    """Tables of a page; their words are taken out of ``page.segments``."""
    found = _ruled(page)
    return found + _aligned(page)


def _ruled(page: Page) -> list[Table]:
    found = []
    for horizontal, vertical in _grids(_chained(page.horizontal, 1), _chained(page.vertical, 0)):
        ys = _snapped([(rect[1] + rect[3]) / 2 for rect in horizontal])
        xs = _snapped([(rect[0] + rect[2]) / 2 for rect in vertical])
        xs = _with_open_sides(xs, horizontal)
        if not (3 <= len(xs) <= _MAX_LINES and 3 <= len(ys) <= _MAX_LINES):
            continue
        box = (xs[0], ys[0], xs[-1], ys[-1])
        inside = [s for s in page.segments if _holds(box, s.box)]
        rows = _grid_rows(xs, ys, horizontal, vertical, inside)
        if not _is_tabular(rows):
            continue
        taken = set(map(id, inside))
        page.segments = [s for s in page.segments if id(s) not in taken]
        found.append(Table(box, render_table(rows)))
    return found


def _is_tabular(rows: list[list[Cell]]) -> bool:
    """Whether a grid holds a table. Frames around columns of prose, boxes and decorations make grids as well."""
    lengths = [len(cell.text) for row in rows for cell in row if cell.text]
    n_full_rows = sum(sum(bool(cell.text) for cell in row) >= 2 for row in rows)
    if n_full_rows < 2 or max(map(len, rows)) < 2 or len(lengths) < 0.3 * sum(map(len, rows)):
        return False
    return max(lengths) < max(_MAX_CELL_CHARS, 0.5 * sum(lengths)) and statistics.fmean(lengths) < _MAX_CELL_CHARS


def _chained(rulings: list[Rect], across: int) -> list[Rect]:
    """Rulings on one line that touch end to end, put together: many programs draw them cell by cell.

    ``across`` is the coordinate that tells the line (0: x of vertical rulings, 1: y of horizontal ones).
    """
    out: list[Rect] = []
    begin, end = 1 - across, 3 - across
    for rect in sorted(rulings, key=lambda r: (round(r[across]), r[begin])):
        last = out[-1] if out else rect
        touches = rect[begin] <= last[end] + 1.5 and rect[end] >= last[begin] - 1.5
        if out and touches and abs(rect[across] - last[across]) <= 1.0:
            out[-1] = (min(last[0], rect[0]), min(last[1], rect[1]), max(last[2], rect[2]), max(last[3], rect[3]))
        else:
            out.append(rect)
    return out


def _grids(horizontal: list[Rect], vertical: list[Rect]) -> list[tuple[list[Rect], list[Rect]]]:
    """Rulings that touch each other, component by component (union–find over crossings)."""
    if not horizontal or not vertical or len(horizontal) * len(vertical) > 4_000_000:
        return []
    lines = horizontal + vertical
    parent = list(range(len(lines)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    by_x = sorted(range(len(horizontal), len(lines)), key=lambda i: lines[i][0])
    for h, (x0, y0, x1, y1) in enumerate(horizontal):
        for v in by_x:
            a0, b0, a1, b1 = lines[v]
            if a0 > x1 + _SNAP_POINTS:
                break
            if a1 >= x0 - _SNAP_POINTS and b0 - _SNAP_POINTS <= y1 and y0 <= b1 + _SNAP_POINTS:
                parent[root(v)] = root(h)
    groups: dict[int, tuple[list[Rect], list[Rect]]] = {}
    for i, line in enumerate(lines):
        groups.setdefault(root(i), ([], []))[i >= len(horizontal)].append(line)
    return [group for group in groups.values() if group[0] and group[1]]


def _snapped(values: list[float]) -> list[float]:
    """Positions with those closer than the snap distance put together."""
    out: list[float] = []
    for value in sorted(values):
        if not out or value - out[-1] > _SNAP_POINTS:
            out.append(value)
    return out


def _with_open_sides(xs: list[float], horizontal: list[Rect]) -> list[float]:
    """Columns' edges with the ends of the horizontal rulings, where those reach beyond the outermost vertical ones."""
    long = [rect for rect in horizontal if xs and rect[2] - rect[0] > 0.5 * (xs[-1] - xs[0])]
    if not long:
        return xs
    left, right = statistics.median(rect[0] for rect in long), statistics.median(rect[2] for rect in long)
    before = [left] if left < xs[0] - 3 * _SNAP_POINTS else []
    after = [right] if right > xs[-1] + 3 * _SNAP_POINTS else []
    return [*before, *xs, *after]


def _holds(box: Rect, inner: Rect) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _grid_rows(
    xs: list[float], ys: list[float], horizontal: list[Rect], vertical: list[Rect], segments: list[Segment]
) -> list[list[Cell]]:
    """Cells of a ruled grid; neighbours with no line between them are one cell where they make a rectangle."""
    words: dict[tuple[int, int], list[_Word]] = {}
    for segment in segments:
        for word, rect in segment.words:
            x, y = (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2
            words.setdefault((_index(ys, y), _index(xs, x)), []).append((rect[1], rect[0], rect[2], word))
    v_edges = _edges(vertical, xs, ys, across=0)
    h_edges = _edges(horizontal, ys, xs, across=1)
    n_rows, n_columns = len(ys) - 1, len(xs) - 1
    taken: set[tuple[int, int]] = set()
    rows: list[list[Cell]] = []
    for r in range(n_rows):
        row: list[Cell] = []
        for c in range(n_columns):
            if (r, c) in taken:
                continue
            width = 1
            while c + width < n_columns and (c + width, r) not in v_edges and (r, c + width) not in taken:
                width += 1
            height = 1
            while r + height < n_rows and _joins(h_edges, v_edges, r + height, c, width):
                height += 1
            place = {(r + i, c + j) for i in range(height) for j in range(width)}
            taken |= place
            held = [word for key in sorted(place) for word in words.get(key, ())]
            headed = any(sum(bool(cell.text) for cell in above) > n_columns // 2 for above in rows)
            if width == n_columns and headed and (split := _open_rows(xs, held, height)):
                rows += split
                continue
            row.append(Cell("\n".join(_lines(held)), width, height))
        rows.append(row)
    return _without_empty([split for row in rows for split in _split_row(row)])


def _joins(h_edges: set[tuple[int, int]], v_edges: set[tuple[int, int]], row: int, column: int, width: int) -> bool:
    open_above = all((row, c) not in h_edges for c in range(column, column + width))
    return open_above and all((c, row) not in v_edges for c in range(column + 1, column + width))


def _edges(rulings: list[Rect], lines: list[float], along: list[float], across: int) -> set[tuple[int, int]]:
    """(line, interval) pairs that a ruling covers; ``across`` is the coordinate that tells the line (0: x, 1: y)."""
    out: set[tuple[int, int]] = set()
    for rect in rulings:
        position = (rect[across] + rect[across + 2]) / 2
        line = min(range(len(lines)), key=lambda i: abs(lines[i] - position))
        begin, end = rect[1 - across] - _SNAP_POINTS, rect[3 - across] + _SNAP_POINTS
        out |= {(line, i) for i in range(len(along) - 1) if begin <= along[i] and along[i + 1] <= end}
    return out


def _index(lines: list[float], value: float) -> int:
    return max(0, min(len(lines) - 2, sum(line <= value for line in lines) - 1))


def _split_row(row: list[Cell]) -> list[list[Cell]]:
    """A row without rulings inside, whose cells hold equally many lines (three and more), is that many rows."""
    texts = [cell.text.split("\n") for cell in row]
    filled = [len(lines) for lines, cell in zip(texts, row, strict=True) if cell.text]
    n_lines = max(filled, default=0)
    whole = any(cell.rowspan > 1 for cell in row)
    if whole or n_lines < 3 or len(filled) < 2 or filled.count(n_lines) < 0.75 * len(filled):
        return [[Cell(cell.text.replace("\n", " "), cell.colspan, cell.rowspan) for cell in row]]
    padded = [lines + [""] * (n_lines - len(lines)) for lines in texts]
    return [[Cell(lines[i], cell.colspan) for lines, cell in zip(padded, row, strict=True)] for i in range(n_lines)]


def _open_rows(xs: list[float], words: list[_Word], height: int) -> list[list[Cell]]:
    """Rows of a body that only the header's rulings part into columns; none where its lines do not keep to them."""
    lines = _line_words(words)
    crossing = sum(any(x0 + 2 < edge < x1 - 2 for edge in xs[1:-1]) for _, x0, x1, _ in words)
    if height > 1 or len(lines) < 3 or len(xs) < 4 or crossing > 0.05 * len(words):
        return []
    rows = []
    for line in lines:
        texts: list[list[str]] = [[] for _ in xs[1:]]
        for _, x0, x1, word in line:
            texts[_index(xs, (x0 + x1) / 2)].append(word)
        rows.append([Cell(" ".join(text)) for text in texts])
    return rows


def _line_words(words: list[_Word]) -> list[list[_Word]]:
    """Words by line, each line from left to right."""
    out: list[list[_Word]] = []
    last = -1e9
    for word in sorted(words):
        if word[0] - last > 4.0:
            out.append([])
            last = word[0]
        out[-1].append(word)
    return [sorted(line, key=lambda w: w[1]) for line in out]


def _lines(words: list[_Word]) -> list[str]:
    """Lines of one cell's words in reading order."""
    return [" ".join(word for *_, word in line) for line in _line_words(words)]


def _without_empty(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Rows and columns without any text (double rulings, spacing) go, where no cell spans over them."""
    if any(cell.rowspan > 1 for row in rows for cell in row):
        return rows
    rows = [row for row in rows if any(cell.text for cell in row)]
    if not rows or any(len(row) != len(rows[0]) or any(cell.colspan > 1 for cell in row) for row in rows):
        return rows
    used = [c for c in range(len(rows[0])) if any(row[c].text for row in rows)]
    return [[row[c] for c in used] for row in rows]


def _aligned(page: Page) -> list[Table]:
    """Tables without a full grid: runs of lines that are cut by the same gaps, in each column of prose by itself."""
    found: list[Table] = []
    taken: set[int] = set()
    for side in _sides(page):
        lines = visual_lines([segment for segment in side if not segment.turned])
        start = 0
        while start < len(lines):
            stop = start
            while (
                stop < len(lines) and len(lines[stop]) > 1 and (stop == start or _is_near(*lines[stop - 1 : stop + 1]))
            ):
                stop += 1
            run = lines[start:stop]
            table = _aligned_table(run) if len(run) >= 3 else None
            if table is not None:
                found.append(table)
                taken |= {id(segment) for line in run for segment in line}
            start = max(stop, start + 1)
    page.segments = [s for s in page.segments if id(s) not in taken]
    return found


def _sides(page: Page) -> list[list[Segment]]:
    """The two columns of a page of prose in two columns, else all of it: a line of prose beside a table is no row of
    it. There are two columns where a strip in the middle is free, and long lines stand on both sides of it. Rows with
    no such line beside them reach over both columns, as wide tables do, and are a part of their own."""
    middle = _middle_strip(page)
    if middle is None:
        return [page.segments]
    sides = [[s for s in page.segments if s.box[2] <= middle], [s for s in page.segments if s.box[0] >= middle]]
    long: list[Segment] = []
    for side in sides:
        if not side:
            return [page.segments]
        width = max(s.box[2] for s in side) - min(s.box[0] for s in side)
        lines = [s for s in side if s.box[2] - s.box[0] > _LONG_SHARE * width]
        if len(lines) < _MIN_LONG_LINES:
            return [page.segments]
        long += lines
    wide = [run for run in _runs_apart(page.segments, long) if len(run) >= _MIN_WIDE_ROWS and _spans(run, middle)]
    apart = {id(segment) for run in wide for row in run for segment in row}
    parts = [[segment for row in run for segment in row] for run in wide]
    return parts + [[s for s in side if id(s) not in apart] for side in sides]


def _runs_apart(segments: list[Segment], long: list[Segment]) -> list[list[list[Segment]]]:
    """Runs of rows at whose height no long line stands."""
    runs: list[list[list[Segment]]] = [[]]
    beside = {y for s in long for y in range(int(max(s.box[1], 0.0)), int(min(s.box[3], _MAX_Y)) + 1)}
    for row in visual_lines(segments):
        if len(row) < 2 or int(statistics.fmean(map(_middle, row))) in beside:
            runs.append([])
        else:
            runs[-1].append(row)
    return runs


def _spans(rows: list[list[Segment]], middle: float) -> bool:
    """Whether rows go on over the middle of a page: the gap there is no wider than those between their other cells."""
    across: list[float] = []
    others: list[float] = []
    for row in rows:
        for left, right in zip(row, row[1:], strict=False):
            (across if left.box[2] <= middle <= right.box[0] else others).append(right.box[0] - left.box[2])
    return not across or (bool(others) and statistics.median(across) < 2 * statistics.median(others))


def _middle_strip(page: Page) -> float | None:
    """The middle of the widest free strip in the middle third of a page; a twentieth of the segments may cross it."""
    allowed = len(page.segments) // 20
    begin, end = page.width / 3, page.width * 2 / 3
    edges = sorted([(s.box[0], 1) for s in page.segments] + [(s.box[2], -1) for s in page.segments])
    best, depth, free_from = (_MIN_STRIP_POINTS, 0.0), 0, None
    for x, step in edges:
        depth += step
        if depth <= allowed and free_from is None:
            free_from = x
        elif depth > allowed and free_from is not None:
            left, right = max(free_from, begin), min(x, end)
            best = max(best, (right - left, (left + right) / 2))
            free_from = None
    return best[1] or None


def visual_lines(segments: list[Segment]) -> list[list[Segment]]:
    """Segments whose middles are on the same height, left to right, top to bottom."""
    lines: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: s.box[1] + s.box[3]):
        middle = (segment.box[1] + segment.box[3]) / 2
        if lines and middle - statistics.fmean(_middle(s) for s in lines[-1]) < 0.4 * segment.size:
            lines[-1].append(segment)
        else:
            lines.append([segment])
    return [sorted(line, key=lambda s: s.box[0]) for line in lines]


def _middle(segment: Segment) -> float:
    return (segment.box[1] + segment.box[3]) / 2


def _is_near(upper: list[Segment], lower: list[Segment]) -> bool:
    size = max(s.size for s in lower)
    return _middle(lower[0]) - _middle(upper[0]) < 2.2 * size


def _aligned_table(run: list[list[Segment]]) -> Table | None:
    """A table where the gaps of nearly all lines meet, and its cells are short: columns of prose are no table."""
    words = [[word for segment in line for word in segment.words] for line in run]
    gutters = _gutters(words, statistics.median(s.size for line in run for s in line))
    n_columns = len(gutters) + 1
    if n_columns < 2:
        return None
    rows = _without_empty([_cells(line, gutters) for line in words])
    n_columns = len(rows[0])
    if n_columns < 2 or (n_columns < 4 and all(_MARK.fullmatch(row[0].text) for row in rows)):
        return None
    filled = [len(cell.text) for row in rows for cell in row if cell.text]
    if sum(map(len, run)) > _SEGMENTS_PER_CELL * len(filled):
        return None
    numeric = sum(any(c.isdigit() for c in cell.text) for row in rows for cell in row)
    share = len(filled) / (len(rows) * n_columns)
    mean = statistics.fmean(filled)
    if share < 0.4 or mean > 30 or (n_columns == 2 and (mean > 18 or numeric < len(rows) * 0.5)):
        return None
    boxes = [segment.box for line in run for segment in line]
    box = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
    return Table(box, render_table(rows))


def _gutters(lines: list[list[tuple[str, Rect]]], size: float) -> list[float]:
    """Middles of the vertical strips, half a font size wide and more, that at most one line in eight crosses."""
    allowed = len(lines) // 8
    edges: list[tuple[float, int]] = []
    for line in lines:
        for begin, end in _covered(line, 0.45 * size):
            edges += [(begin, 1), (end, -1)]
    edges.sort(key=lambda e: (e[0], -e[1]))
    gutters, depth, free_from = [], 0, None
    for x, step in edges:
        depth += step
        if depth <= allowed and free_from is None:
            free_from = x
        elif depth > allowed and free_from is not None:
            if x - free_from >= 0.5 * size:
                gutters.append((free_from + x) / 2)
            free_from = None
    return [g for g in gutters if g > edges[0][0]] if edges else []


def _covered(line: list[tuple[str, Rect]], gap: float) -> list[tuple[float, float]]:
    """Intervals of x that a line's words cover, gaps between words closed."""
    out: list[tuple[float, float]] = []
    for _, rect in sorted(line, key=lambda w: w[1][0]):
        if out and rect[0] - out[-1][1] < gap:
            out[-1] = (out[-1][0], max(out[-1][1], rect[2]))
        else:
            out.append((rect[0], rect[2]))
    return out


def _cells(line: list[tuple[str, Rect]], gutters: list[float]) -> list[Cell]:
    texts: list[list[str]] = [[] for _ in range(len(gutters) + 1)]
    for word, rect in sorted(line, key=lambda w: w[1][0]):
        middle = (rect[0] + rect[2]) / 2
        texts[sum(g < middle for g in gutters)].append(word)
    return [Cell(" ".join(words)) for words in texts]
