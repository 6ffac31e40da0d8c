"""The counts of text_counts.cpp in plain Python: where there is no compiler, and what the library is tested against."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from athanor.data.steps.chars import BIT, CLASSES, char_table

Row = list[int]


def char_counts(text: str) -> Row:
    """Characters, then those of each class."""
    table = char_table()
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    histogram = np.bincount(table.kinds[codes], minlength=len(table.bits))
    return [len(text), *(int(histogram[(table.bits >> i & 1).astype(bool)].sum()) for i in range(len(CLASSES)))]


def word_counts(text: str, stop_words: Sequence[str]) -> Row:
    """``words.WORD_FIELDS``."""
    words = text.split()
    content = [word for word in words if any(not _classes(c) & BIT["symbol"] for c in word)]
    return [
        len(words),
        len(content),
        sum(map(len, content)),
        sum(any(c.isalpha() for c in word) for word in words),
        len(set(stop_words) & set(words)),
        max(map(len, words), default=0),
        text.count("#"),
        text.count("...") + text.count("…"),
        text.count("\n"),
    ]


def line_counts(text: str, short_chars: int) -> Row:
    """``words.LINE_FIELDS``."""
    lines = text.splitlines()
    inner = [line.strip() for line in lines]
    filled = [line for line in text.split("\n") if line.strip()]
    return [
        len(lines),
        sum(line.startswith(("-", "•")) for line in inner),
        sum(line.endswith(("...", "…")) for line in inner),
        max(map(len, lines), default=0),
        len(filled),
        sum(bool(_classes(line[-1]) & BIT["terminal"]) for line in filled),
        sum(len(line) <= short_chars for line in filled),
        _duplicates(filled)[2],
    ]


def repetition(text: str, by_char: bool, top: Iterable[int], dup: Iterable[int], most: int) -> Row:
    """``words.REPEAT_FIELDS``, then top and duplicate n-grams of the sizes given."""
    paragraphs = _duplicates(re.split(r"\n{2,}", text.strip()))
    lines = _duplicates(re.split(r"\n+", text))
    units, read = _units(text, by_char, most)
    return [
        *paragraphs,
        *lines,
        read,
        *(_top_ngram(units, n, by_char) for n in top),
        *(_duplicate_ngrams(units, n) for n in dup),
    ]


def _units(text: str, by_char: bool, most: int) -> tuple[list[str], int]:
    """(the first ``most`` words or characters, the characters of the text that were read for them)."""
    content = BIT["space"] | BIT["symbol"]
    units = [c for c in text if not _classes(c) & content] if by_char else text.split()
    if len(units) < most:
        return units, len(text)
    if by_char:
        ends = (i + 1 for i, c in enumerate(text) if not _classes(c) & content)
    else:  # a word is known to be one by the space behind it
        ends = (min(match.end() + 1, len(text)) for match in _WORD.finditer(text))
    return units[:most], next(islice(ends, most - 1, None))


#: What str.split takes for a word: \s of re knows the same white space, but for four separators that it lacks.
_WORD = re.compile(r"[^\s\x1c-\x1f]+")


def _classes(char: str) -> int:
    table = char_table()
    return int(table.bits[table.kinds[ord(char)]])


def _duplicates(pieces: Sequence[str]) -> tuple[int, int, int]:
    """(pieces, those seen before, their characters)."""
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]
    return len(pieces), len(again), sum(map(len, again))


def _top_ngram(units: Sequence[str], n: int, by_char: bool) -> int:
    """Words count although the n-gram occurs once (Gopher's rule does), characters from the third time on."""
    counts: dict[tuple[str, ...], int] = {}
    for i in range(len(units) - n + 1):
        gram = tuple(units[i : i + n])
        counts[gram] = counts.get(gram, 0) + 1
    if not counts:
        return 0
    best = max(counts, key=counts.__getitem__)  # the first of several: dicts keep the order of insertion
    if by_char and counts[best] < 3:
        return 0
    return len(("" if by_char else " ").join(best)) * counts[best]


def _duplicate_ngrams(units: Sequence[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    repeated, i = 0, 0
    while i <= len(units) - n:
        gram = tuple(units[i : i + n])
        if gram in seen:
            repeated += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return repeated


def table(rows: Iterable[Row], n_fields: int) -> npt.NDArray[np.int64]:
    """Rows as int64 [n_docs, n_fields]."""
    return np.array(list(rows), dtype=np.int64).reshape(-1, n_fields)
