"""Counts over a batch of texts: characters by class, words, lines, repeated pieces. What the heuristic rules measure.

Words are what white space separates; in Chinese, Japanese, Thai and the like, where it separates none, single
characters take their place. The compiled library counts where it can be built (``native``), plain Python otherwise;
both give the same integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from athanor.data.steps import plain
from athanor.data.steps.base import Docs
from athanor.data.steps.chars import CLASSES
from athanor.data.steps.native import text_counts

#: Counts by name, one int64 a document.
Counts = dict[str, npt.NDArray[np.int64]]

CHAR_FIELDS = ("chars", *CLASSES)
#: ``content_words``: words that are more than punctuation, and their characters; ``stop_words``: how many different
#: ones occur; ``ellipses``: "..." and "…".
WORD_FIELDS = (
    *("words", "content_words", "content_chars", "alpha_words", "stop_words", "longest_word"),
    *("hashes", "ellipses", "newlines"),
)
#: ``lines``, ``bullet_lines``, ``ellipsis_lines``, ``longest_line`` (characters): lines as ``str.splitlines`` has them.
#: ``filled_*``: lines between newlines that hold more than white space; of these, those whose last character ends a
#: sentence, those of at most ``short_chars`` characters, and the characters in lines seen before.
LINE_FIELDS = (
    *("lines", "bullet_lines", "ellipsis_lines", "longest_line"),
    *("filled_lines", "terminal_lines", "short_lines", "duplicate_filled_chars"),
)
#: ``ngram_chars``: characters of the text that n-grams were taken from: all, but for texts of more than ``MAX_UNITS``.
REPEAT_FIELDS = (
    *(f"{kind}_{unit}" for unit in ("paragraphs", "lines") for kind in ("n", "dup", "dup_chars_of")),
    "ngram_chars",
)
#: Words (or characters) of a document that n-grams are taken from, its first: some 70 MB of memory in counting.
MAX_UNITS = 1 << 20
#: Languages written without spaces between words.
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "km", "bo", "yue", "wuu"})
#: A document of unknown language counts as written without spaces from this share of Han and kana in its letters.
_SPACELESS_SHARE = 0.3


def char_counts(docs: Docs) -> Counts:
    """``CHAR_FIELDS`` of each document."""
    native = text_counts()
    n = len(CHAR_FIELDS)
    return _named(native.char_counts(docs.utf8, n) if native else plain.char_counts(docs.texts), CHAR_FIELDS)


def word_counts(docs: Docs, stop_words: Sequence[str]) -> Counts:
    """``WORD_FIELDS`` of each document."""
    native = text_counts()
    n = len(WORD_FIELDS)
    if native:
        return _named(native.word_counts(docs.utf8, n, stop_words), WORD_FIELDS)
    return _named(plain.table((plain.word_counts(text, stop_words) for text in docs.texts), n), WORD_FIELDS)


def line_counts(docs: Docs, short_chars: int = 30) -> Counts:
    """``LINE_FIELDS`` of each document."""
    native = text_counts()
    n = len(LINE_FIELDS)
    if native:
        return _named(native.line_counts(docs.utf8, n, short_chars), LINE_FIELDS)
    return _named(plain.table((plain.line_counts(text, short_chars) for text in docs.texts), n), LINE_FIELDS)


def repetition(
    docs: Docs, by_char: npt.NDArray[np.bool_], top: Sequence[int], dup: Sequence[int], most: int = MAX_UNITS
) -> Counts:
    """``REPEAT_FIELDS`` of each document, then ``top_{n}`` and ``dup_{n}``.

    ``top_{n}``  characters of the most frequent n-gram times how often it occurs.
    ``dup_{n}``  characters in n-grams that occurred before, each character once.
    ``by_char`` [n_docs]: n-grams of characters (white space and punctuation apart) instead of words. ``most``: units
    read of a document.
    """
    fields = (*REPEAT_FIELDS, *(f"top_{n}" for n in top), *(f"dup_{n}" for n in dup))
    native = text_counts()
    if native:
        return _named(native.repetition(docs.utf8, len(fields), by_char, top, dup, most), fields)
    units = by_char.tolist()
    rows = (plain.repetition(text, chars, top, dup, most) for text, chars in zip(docs.texts, units, strict=True))
    return _named(plain.table(rows, len(fields)), fields)


def spaceless(docs: Docs) -> npt.NDArray[np.bool_]:
    """Which documents are written without spaces: by their language, or where that is unknown by their letters."""
    languages = docs.column("language")
    found = np.array([language in SPACELESS for language in languages], dtype=bool)
    unknown = np.array([language in (None, "", "und") for language in languages], dtype=bool)
    if unknown.any():
        counts = char_counts(docs.take(unknown))
        dense = counts["han"] + counts["kana"]
        found[unknown] = dense > _SPACELESS_SHARE * np.maximum(counts["letter"], 1)
    return found


def _named(table: npt.NDArray[np.int64], fields: Sequence[str]) -> Counts:
    return {name: table[:, i] for i, name in enumerate(fields)}
