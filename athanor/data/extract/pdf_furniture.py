"""What a PDF prints beside its text: running headers and footers, page numbers, pages of contents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from athanor.data.extract.pdf_page import Page, Segment
from athanor.data.extract.pdf_tables import visual_lines

#: A line of nothing but the page's number.
_PAGE_NUMBER = re.compile(
    r"[-–—·|\s]*(?:page\s*|p\.\s*)?\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?[-–—·|\s]*|第\s*\d+\s*页\s*(?:[,，/]?\s*共\s*\d+\s*页)?",
    re.I,
)
#: A line of a page of contents: dots that lead to a page number.
_LEADER = re.compile(r"\S.*?(?:\s*[.·…．]){4,}\s*[\divxlcIVXLC]{1,6}\s*")
_MIN_LEADERS = 3
#: Letters of a running title that carries the page's number.
_MIN_TITLE = 12
_DIGITS = r"\d{1,9}"

_Edge = tuple[Page, str, str, list[Segment]]


def drop_furniture(pages: Sequence[Page]) -> int:
    """Take running headers, footers, page numbers and lines of contents out of the pages; how many lines went.

    A line is furniture when it stands among the two first or two last lines of at least three pages (two, in documents
    of up to five pages), within the outer eighth of the page, the same but for a number that counts with the pages; or
    when it is a page number alone at a page's edge. Rows between vertical rulings are those of a table.
    """
    edges: list[_Edge] = []
    numbers: list[tuple[Page, list[Segment]]] = []
    for page in pages:
        lines = visual_lines([segment for segment in page.segments if not segment.turned])
        for segment in page.segments:
            if segment.turned:  # along a margin
                edges.append((page, f"turned {re.sub(_DIGITS, '#', segment.text)}", segment.text, [segment]))
        for line in {id(line): line for line in (*lines[:2], *lines[-2:])}.values():
            top, bottom = line[0].box[1], line[0].box[3]
            text = " ".join(s.text for s in line)
            if (bottom < page.height / 12 or top > page.height * 11 / 12) and _PAGE_NUMBER.fullmatch(text):
                numbers.append((page, line))
            ruled = sum(x[1] - 1 <= (top + bottom) / 2 <= x[3] + 1 for x in page.vertical) > 1
            if len(text) < 150 and not ruled and (bottom < page.height / 8 or top > page.height * 7 / 8):
                side = f"{bottom < page.height / 2} "
                edges.append((page, side + re.sub(_DIGITS, "#", text), side + text, line))
    needed = 2 if len(pages) <= 5 else 3
    running = _running(edges, needed)
    n_dropped = 0
    for page in pages:
        lines = [line for at, _, _, line in running if at is page]
        lines += [line for at, line in numbers if at is page and line not in lines]
        n_dropped += _take_out(page, lines) + _take_out(page, _contents(page))
    return n_dropped


def _running(edges: Sequence[_Edge], needed: int) -> list[_Edge]:
    """Those lines at the edges that are the same on ``needed`` pages, or differ by numbers that count the pages.

    Rows of a table that goes over pages differ by other numbers.
    """
    numbers = [re.findall(_DIGITS, text) for _, _, text, _ in edges]
    by_pattern: dict[str, list[list[str]]] = {}
    for (_, pattern, _, _), row in zip(edges, numbers, strict=True):
        by_pattern.setdefault(pattern, []).append(row)
    counting = {pattern: _counting_places(rows) for pattern, rows in by_pattern.items()}
    # Of each line: its text, and how far each number that may count the pages is from the page's own.
    marks = [
        {(pattern, -1, text), *((pattern, i, str(int(row[i]) - page.number)) for i in counting[pattern])}
        for (page, pattern, text, _), row in zip(edges, numbers, strict=True)
    ]
    # Pages may be left out of a file: a title with one number that grows is a running one too.
    for pattern, rows in by_pattern.items():
        places, letters = counting[pattern], sum(c.isalpha() for c in pattern)
        if len(places) == 1 and letters >= _MIN_TITLE and _grows([int(row[places[0]]) for row in rows]):
            for found, edge in zip(marks, edges, strict=True):
                if edge[1] == pattern:
                    found.add((pattern, -2, ""))
    counts = Counter(mark for found in marks for mark in found)
    return [edge for edge, found in zip(edges, marks, strict=True) if any(counts[mark] >= needed for mark in found)]


def _grows(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


def _counting_places(rows: Sequence[Sequence[str]]) -> list[int]:
    """Places in the lines of a pattern whose number changes, and so may count the pages."""
    return [i for i in range(len(rows[0])) if len({row[i] for row in rows}) > 1]


def _contents(page: Page) -> list[list[Segment]]:
    """Lines of a page of contents."""
    lines = [line for line in visual_lines(page.segments) if _LEADER.fullmatch(" ".join(s.text for s in line))]
    return lines if len(lines) >= _MIN_LEADERS else []


def _take_out(page: Page, lines: Sequence[list[Segment]]) -> int:
    gone = {id(segment) for line in lines for segment in line}
    left = [s for s in page.segments if id(s) not in gone]
    if not left:  # a page of nothing but such lines is a form, or a title
        return 0
    page.segments = left
    return len(lines)
