"""Counts of characters, words, lines and repetition: compiled, in plain Python, and by Python's own string methods."""

from __future__ import annotations

import re
import resource
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.steps import native, plain, words
from athanor.data.steps.base import Docs
from athanor.data.steps.chars import BIT, char_table

PIECES = [
    "the",
    "and",
    "of",
    " ",
    "\n",
    "\n\n",
    "\r\n",
    "...",
    "…",
    "-",
    "•",
    "#",
    "ab",
    "你好",
    "。",
    "！",
    "的",
    "\u2028",
]
PIECES += [
    "\x0b",
    "\x1c",
    "\x85",
    "\u3000",
    "é",
    "Ж",
    "한",
    "か",
    "\U0001f600",
    "\U00020000",
    "\ufffd",
    "\ue000",
    "1",
    ".",
]
text_of_pieces = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
STOP = ("the", "and", "of", "的")
TOP, DUP = (2, 3, 4), (5, 6, 7)

needs_compiler = pytest.mark.skipif(native.text_counts() is None, reason="no C++ compiler")


def every_count(texts: list[str]) -> dict[str, list[int]]:
    docs = Docs.of(texts)
    by_char = np.arange(len(texts)) % 2 == 0
    found = {
        **words.char_counts(docs),
        **words.word_counts(docs, STOP),
        **words.line_counts(docs, 10),
        **words.repetition(docs, by_char, TOP, DUP),
        **{f"first_{n}": v for n, v in words.repetition(docs, by_char, TOP, DUP, most=9).items()},
    }
    return {name: values.tolist() for name, values in found.items()}


@needs_compiler
@given(st.lists(st.one_of(text_of_pieces, st.text(max_size=40)), min_size=1, max_size=12))
@settings(max_examples=150)
def test_compiled_and_plain_counts_are_equal(texts: list[str]):
    compiled = every_count(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "text_counts", lambda: None)
        assert every_count(texts) == compiled


@needs_compiler
@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(max_examples=200)
def test_bytes_that_are_no_utf8_are_counted_inside_their_document(first: bytes, second: bytes):
    data = np.frombuffer(first + second, dtype=np.uint8)
    offsets = np.array([0, len(first), len(first) + len(second)], dtype=np.int64)
    library = native.text_counts()
    assert library is not None
    together = library.char_counts((data, offsets), len(words.CHAR_FIELDS))
    for row, raw in zip(together, (first, second), strict=True):
        # a decoder replaces each maximal broken part by one U+FFFD; each byte of it counts here
        assert len(raw.decode("utf-8", "replace")) <= row[0] <= max(len(raw), 0)
    library.line_counts((data, offsets), len(words.LINE_FIELDS), 30)
    library.word_counts((data, offsets), len(words.WORD_FIELDS), STOP)
    fields = len(words.REPEAT_FIELDS) + 2
    library.repetition((data, offsets), fields, np.array([True, False]), (2,), (3,), words.MAX_UNITS)


@given(text_of_pieces)
@settings(max_examples=100)
def test_counts_are_those_of_pythons_string_methods(text: str):
    found = {name: values[1] for name, values in every_count(["", text]).items()}  # the second row: n-grams of words
    split = text.split()
    lines = text.splitlines()
    assert found["chars"] == len(text)
    assert found["space"] == sum(map(str.isspace, text))
    assert found["letter"] == sum(map(str.isalpha, text))
    assert found["words"] == len(split)
    assert found["alpha_words"] == sum(any(map(str.isalpha, word)) for word in split)
    assert found["stop_words"] == len({*STOP} & {*split})
    assert found["lines"] == len(lines)
    assert found["bullet_lines"] == sum(line.lstrip().startswith(("•", "-")) for line in lines)
    paragraphs = Counter(re.split(r"\n{2,}", text.strip()))
    assert found["dup_paragraphs"] == sum(n - 1 for n in paragraphs.values())
    grams = Counter(" ".join(split[i : i + 2]) for i in range(len(split) - 1))
    top = grams.most_common(1)
    assert found["top_2"] == (len(top[0][0]) * top[0][1] if top else 0)


def test_repeated_sequences_count_each_character_once():
    text = "a b c d e f a b c d e f a b c d e f"
    counts = words.repetition(Docs.of([text, text]), np.array([False, False]), (2,), (3, 5))
    assert counts["dup_3"].tolist() == [12, 12]  # the second and third time: two sequences of three each
    assert counts["dup_5"].tolist() == [10, 10]
    assert counts["top_2"].tolist() == [9, 9]
    chinese = words.repetition(Docs.of(["今天天气好。今天天气好！今天天气好"]), np.array([True]), (5, 15), (5,))
    assert [counts[0] for counts in chinese.values()][-3:] == [15, 0, 10]


@pytest.mark.parametrize(
    ("char", "classes"),
    [
        ("a", {"letter", "latin"}),
        ("é", {"letter", "latin", "unusual"}),
        ("们", {"letter", "han", "simplified"}),
        ("們", {"letter", "han", "traditional"}),
        ("你", {"letter", "han"}),
        ("か", {"letter", "kana"}),
        ("カ", {"letter", "kana"}),
        ("한", {"letter", "hangul"}),
        ("7", {"digit"}),
        ("。", {"symbol", "terminal"}),
        ("？", {"symbol", "terminal"}),
        ("，", {"symbol"}),
        ("¿", {"symbol", "unusual"}),
        ("\n", {"space", "line_break", "symbol"}),
        ("\u3000", {"space"}),
        ("\x00", {"symbol", "control", "unusual"}),
        ("\ue000", {"private", "unusual"}),
        ("\U00100000", {"private", "unusual"}),
        ("\ufffd", {"symbol", "replacement", "unusual"}),
    ],
)
def test_classes_of_characters(char: str, classes: set[str]):
    table = char_table()
    assert {name for name, bit in BIT.items() if table.bits[table.kinds[ord(char)]] & bit} == classes


def test_what_is_not_unusual_is_normal():
    table = char_table()
    usual = (table.bits[table.kinds] & BIT["unusual"]) == 0
    chars = [chr(code) for code in np.flatnonzero(usual).tolist() if not 0xD800 <= code < 0xE000]
    assert all(unicodedata.is_normalized("NFC", char) for char in chars)
    assert unicodedata.is_normalized("NFC", "".join(chars))


def test_without_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATHANOR_NATIVE", "0")
    native.text_counts.cache_clear()
    try:
        assert native.text_counts() is None
        assert words.word_counts(Docs.of(["two words"]), ())["words"].tolist() == [2]
    finally:
        native.text_counts.cache_clear()


@needs_compiler
def test_memory_of_counting_follows_what_is_distinct():
    """Lines and words that are all the same take no room, and n-grams are taken from a bounded part."""
    text = "same\n" * 300_000 + "x " * (words.MAX_UNITS + 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = words.repetition(Docs.of([text, "a b"]), np.array([False, False]), (2,), (5,))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 120  # MiB
    assert counts["dup_lines"].tolist() == [299_999, 0]
    assert counts["ngram_chars"].tolist() == [5 * 300_000 + 2 * (words.MAX_UNITS - 300_000), 3]


@needs_compiler
def test_many_distinct_lines_grow_the_table():
    lines = [str(i) for i in range(200_000)]
    counts = words.repetition(Docs.of(["\n".join(lines + lines[:77])]), np.array([False]), (), ())
    assert (counts["n_lines"][0], counts["dup_lines"][0]) == (200_077, 77)


def test_languages_without_spaces_are_known_or_told_by_their_letters():
    docs = Docs.of(["hello", "hello", "今天天气很好", "日本語です", "안녕"], language=["zh", "en", "und", "und", "und"])
    assert words.spaceless(docs).tolist() == [True, False, True, True, False]
    assert plain.table([], 3).shape == (0, 3)
