"""Cutting passages out of a text without leaving halves: of characters, words, sentences, formulas or code blocks."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

#: What is cut as a whole or not at all: fenced code, display and inline formulas, environments.
_WHOLE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[^\n]*\n.{0,50000}?^(?P=fence)[^\n]*$|\$\$.{1,2000}?\$\$|\\\[.{1,2000}?\\\]|"
    r"\\\(.{1,2000}?\\\)|\\begin\{(?P<env>[a-z]+\*?)\}.{0,2000}?\\end\{(?P=env)\}|"
    r"(?<![\\$\w])\$(?=\S)[^$\n]{1,300}?(?<=\S)\$(?![\w$])",
    re.DOTALL | re.MULTILINE,
)
#: Where a sentence or line ends: the next one begins behind the match.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？；…]+[”’」』）】]*\s*|\n+")
_BLANK = re.compile(r"\n{3,}")


def sentence_starts(text: str) -> list[int]:
    """Places at which a sentence or line begins, and the text's end."""
    return [0, *(m.end() for m in _END.finditer(text) if m.end() < len(text)), len(text)]


def cut(
    text: str, spans: Sequence[tuple[int, int]], *, outward: bool, sentences: bool = True, min_share: float = 0.5
) -> str:
    """The text without the spans, given in bytes of its UTF-8.

    ``outward``: spans grow to whole sentences. Otherwise they shrink to the sentences that lie inside, unless that
    leaves less than ``min_share`` of one: then it is cut as it is. A formula or code block at a span's edge goes whole
    (outward) or stays whole (inward).
    """
    inside = _characters(text, spans)
    starts = sentence_starts(text) if sentences else []
    blocks = [m.span() for m in _WHOLE.finditer(text)]
    safe: list[tuple[int, int]] = []
    for begin, end in inside:
        wanted = (begin, end)
        if sentences:
            grown = _outward(starts, begin, end) if outward else _inward(text, starts, begin, end)
            wanted = grown if outward or grown[1] - grown[0] >= min_share * (end - begin) else wanted
        safe.append(_whole_blocks(blocks, *wanted, outward))
    out: list[str] = []
    at = 0
    for begin, end in _merged(safe):
        out.append(text[at:begin])
        at = end
        before, after = out[-1][-1:], text[at : at + 1]
        if before.isascii() and after.isascii() and before.isprintable() and before > " " and after.isalnum():
            out.append(" ")
    out.append(text[at:])
    return _BLANK.sub("\n\n", "".join(out)) if safe else text


def _characters(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in bytes → in characters; an edge inside a character moves to its beginning."""
    if text.isascii():
        return list(spans)
    raw = text.encode("utf-8", "surrogatepass")
    places = sorted({place for span in spans for place in span})
    number: dict[int, int] = {}
    at = count = 0
    for place in places:
        count += len(raw[at:place].decode("utf-8", "ignore"))
        number[place], at = count, place
    return [(number[a], number[b]) for a, b in spans]


def _outward(starts: list[int], begin: int, end: int) -> tuple[int, int]:
    return starts[bisect_right(starts, begin) - 1], starts[bisect_left(starts, end)]


def _inward(text: str, starts: list[int], begin: int, end: int) -> tuple[int, int]:
    """The sentences inside; a sentence of which only marks and white space lie outside is inside."""
    place = bisect_left(starts, begin)
    if place and not any(map(str.isalnum, text[starts[place - 1] : begin])):
        place -= 1
    first = starts[place]
    place = bisect_right(starts, end) - 1
    if place + 1 < len(starts) and not any(map(str.isalnum, text[end : starts[place + 1]])):
        place += 1
    return first, max(starts[place], first)


def _whole_blocks(blocks: list[tuple[int, int]], begin: int, end: int, outward: bool) -> tuple[int, int]:
    for low, high in blocks:
        if low < begin < high:
            begin = low if outward else min(high, end)
        if low < end < high:
            end = high if outward else max(low, begin)
    return begin, end


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out
