"""The counts of text_counts.cpp in plain Python: where there is no compiler, and what the library is tested against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from athanor.data.steps.chars import BIT, CLASSES, char_table

Row = list[int]
#: Characters worked on at once: each takes some 20 bytes.
_CHUNK_CHARS = 1 << 22


def char_counts(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Characters, then those of each class, int64 [n_docs, 1 + n_classes]."""
    out = np.zeros((len(texts), 1 + len(CLASSES)), dtype=np.int64)
    start = 0
    while start < len(texts):
        stop, size = start, 0
        while stop < len(texts) and (size == 0 or size + len(texts[stop]) <= _CHUNK_CHARS):
            size += len(texts[stop])
            stop += 1
        out[start:stop] = _char_counts(texts[start:stop])
        start = stop
    return out


def _char_counts(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    table, n = char_table(), len(texts)
    kinds = table.kinds[np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)]
    sizes = np.array([len(text) for text in texts], dtype=np.int64)
    cells = np.repeat(np.arange(n) * len(table.bits), sizes) + kinds
    histograms = np.bincount(cells, minlength=n * len(table.bits)).reshape(n, -1)
    of_class = (table.bits[:, None] >> np.arange(len(CLASSES), dtype=np.uint32) & 1).astype(np.int64)
    return np.concatenate([sizes[:, None], histograms @ of_class], axis=1)


def word_counts(text: str, stop_words: Sequence[str]) -> Row:
    """``words.WORD_FIELDS``."""
    words = Counter(text.split())
    content = {word: n for word, n in words.items() if word.isalnum() or not all(map(_is_symbol, word))}
    return [
        words.total(),
        sum(content.values()),
        sum(len(word) * n for word, n in content.items()),
        sum(n for word, n in words.items() if word.isalpha() or any(map(str.isalpha, word))),
        len(words.keys() & set(stop_words)),
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


@cache
def _classes(char: str) -> int:
    table = char_table()
    return int(table.bits[table.kinds[ord(char)]])


def _is_symbol(char: str) -> bool:
    return bool(_classes(char) & BIT["symbol"])


def _duplicates(pieces: Sequence[str]) -> tuple[int, int, int]:
    """(pieces, those seen before, their characters)."""
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]
    return len(pieces), len(again), sum(map(len, again))


def _grams(units: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(units[i:] for i in range(n)), strict=False)


def _top_ngram(units: Sequence[str], n: int, by_char: bool) -> int:
    """Words count although the n-gram occurs once (Gopher's rule does), characters from the third time on."""
    counts = Counter(_grams(units, n))
    if not counts:
        return 0
    best = max(counts, key=counts.__getitem__)  # the first of several: dicts keep the order of insertion
    if by_char and counts[best] < 3:
        return 0
    return len(("" if by_char else " ").join(best)) * counts[best]


def _duplicate_ngrams(units: Sequence[str], n: int) -> int:
    grams = list(_grams(units, n))
    if len(set(grams)) == len(grams):
        return 0
    seen: set[tuple[str, ...]] = set()
    repeated, i = 0, 0
    while i < len(grams):
        if grams[i] in seen:
            repeated += sum(map(len, grams[i]))
            i += n
        else:
            seen.add(grams[i])
            i += 1
    return repeated


def table(rows: Iterable[Row], n_fields: int) -> npt.NDArray[np.int64]:
    """Rows as int64 [n_docs, n_fields]."""
    return np.array(list(rows), dtype=np.int64).reshape(-1, n_fields)
