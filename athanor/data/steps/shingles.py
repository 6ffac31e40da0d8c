"""Texts → token hashes → hashes of n-grams, for everything that compares documents.

One rule for every language, on the UTF-8 of a batch: a token is a run of letters, marks and digits (case folded where
one character folds to one, full-width forms to ASCII); in scripts written without spaces (Han, kana, Thai, Lao, Khmer,
Myanmar, Tibetan) every character is a token; everything else separates. So an n-gram is of words in English, of
characters in Chinese, and of both where a text mixes them.

A token's hash is the polynomial Σ m(c_j)·B^(len-1-j) mod 2^64 over its characters with m(c) = c·K + T, put through the
finaliser of SplitMix64 (Steele, Lea & Flood 2014); bit 0 tells whether the token is a single character. An n-gram's is
the same polynomial over token hashes with another base, finalised again: two different n-grams agree with a
probability of about 2^-63 a pair.
"""

from __future__ import annotations

import ctypes
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from athanor.data.steps.base import Docs
from athanor.data.steps.dedup_native import dedup_kernel, pointer

U64 = npt.NDArray[np.uint64]

#: What token hashes depend on besides the text: the tokens' rule and the character database it was built from.
VERSION = f"tokens-1/unicode-{unicodedata.unidata_version}"
#: The hash of a run of numbers where ``numbers`` folds them into one token.
NUMBER = 0x2545F4914F6CDD1C

_CHAR_FACTOR, _CHAR_TERM = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_CHAR_BASE, _TOKEN_BASE = 0xF1357AEA2E62A9C5, 0xA0761D6478BD642F
_SEPARATOR, _WORD, _SINGLE, _DIGIT, _NUMERAL = range(5)
_UNSPACED = (
    *((0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3040, 0x30FF)),
    *((0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F)),
)
_LONG = 64  # characters of a token that is hashed by itself
_HAN_NUMERALS = "〇零一二三四五六七八九十百千万亿两萬億兩"


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch: hash uint64, start and end (bytes within the document) uint32, all [n_tokens]; tokens of
    document i lie in offsets[i]:offsets[i+1]."""

    hash: U64
    start: npt.NDArray[np.uint32]
    end: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.offsets)


def mixed(x: U64) -> U64:
    """The finaliser of SplitMix64: a bijection of 64-bit integers that spreads every bit."""
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@cache
def character_tables() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """(folded code point, kind) of every character of the Basic Multilingual Plane."""
    fold = np.arange(0x10000, dtype=np.uint16)
    kinds = np.zeros(0x10000, dtype=np.uint8)
    for code in range(0x10000):
        char = chr(code)
        major = unicodedata.category(char)
        if major[0] in "LMN" or char == "_":
            kinds[code] = _DIGIT if major == "Nd" else _WORD
        folded = char.casefold()
        if len(folded) == 1:
            fold[code] = ord(folded)
        if major == "Nd":
            fold[code] = ord("0") + unicodedata.digit(char)
    for first, last in _UNSPACED:
        here = kinds[first : last + 1]
        here[here == _WORD] = _SINGLE
    for code in range(0xFF21, 0xFF5B):  # full-width Latin
        if kinds[code]:
            fold[code] = ord(chr(code - 0xFEE0).casefold())
    for char in _HAN_NUMERALS:
        kinds[ord(char)] = _NUMERAL
    return fold, kinds


def tokens_of(docs: Docs, *, numbers: bool = False) -> Tokens:
    """The tokens of a batch. ``numbers``: every run of numbers (digits, Han numerals, across separators) is one token,
    the same whatever the number, so that a problem with other figures still matches."""
    data, offsets = docs.utf8
    return tokens_of_utf8(data, offsets, numbers=numbers)


def tokens_of_utf8(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, numbers: bool = False) -> Tokens:
    """The same of valid UTF-8 with offsets, as ``Docs.utf8`` gives them."""
    kernel = dedup_kernel()
    if kernel is None:
        return _tokens_numpy(data, offsets, numbers)
    fold, kinds = character_tables()
    data, offsets = np.ascontiguousarray(data), np.ascontiguousarray(offsets, dtype=np.int64)
    n_docs, room = len(offsets) - 1, len(data)  # pages of the room that no token reaches are never touched
    hashes, start, end = np.empty(room, np.uint64), np.empty(room, np.uint32), np.empty(room, np.uint32)
    token_offsets = np.zeros(n_docs + 1, np.int64)
    n = kernel.athanor_tokens(
        *(pointer(data), pointer(offsets), ctypes.c_int64(n_docs), pointer(fold), pointer(kinds)),
        *(ctypes.c_int64(numbers), pointer(hashes), pointer(start), pointer(end), pointer(token_offsets)),
    )
    return Tokens(hashes[:n], start[:n], end[:n], token_offsets)


def ngram_hashes(tokens: Tokens, n: int) -> tuple[U64, npt.NDArray[np.int64]]:
    """(hash of each window of n tokens inside a document, index of its first token), in order."""
    hashes = _polynomial(tokens.hash, n)
    at = window_starts(tokens, n)
    return mixed(hashes[at]), at


def window_starts(tokens: Tokens, n: int) -> npt.NDArray[np.int64]:
    """Indexes of the tokens at which a window of n tokens of one document starts."""
    ends = np.repeat(tokens.offsets[1:], tokens.counts)
    at = np.arange(len(tokens.hash), dtype=np.int64)
    return at[at + n <= ends]


def shingle_hashes(tokens: Tokens, n: int) -> tuple[U64, npt.NDArray[np.int64]]:
    """(hash of each n-gram, offsets of the documents). A document of fewer tokens is one shingle; an empty one none."""
    counts = tokens.counts
    hashes, at = ngram_hashes(tokens, n)
    n_shingles = np.where(counts >= n, counts - n + 1, np.minimum(counts, 1))
    offsets = np.concatenate([[0], np.cumsum(n_shingles)])
    short = np.flatnonzero((counts < n) & (counts > 0))
    if not len(short):
        return hashes, offsets
    out = np.empty(offsets[-1], dtype=np.uint64)
    doc_of = np.searchsorted(tokens.offsets, at, side="right") - 1
    out[offsets[doc_of] + at - tokens.offsets[doc_of]] = hashes
    for doc in short:
        rolling = 0
        for value in tokens.hash[tokens.offsets[doc] : tokens.offsets[doc + 1]]:
            rolling = (rolling * _TOKEN_BASE + int(value)) % 2**64
        out[offsets[doc]] = mixed(np.array([rolling], dtype=np.uint64))[0]
    return out, offsets


def _polynomial(values: U64, n: int) -> U64:
    """Σ values[i+j]·B^(n-1-j) for every i; the last n-1 rows are of windows that the array's end cuts.

    By doubling: the polynomial of k + m tokens is that of the first k times B^m plus that of the m after them.
    """
    total, length = np.zeros(len(values), dtype=np.uint64), 0
    power, width = values.copy(), 1
    while True:
        if n & width:
            total *= np.uint64(pow(_TOKEN_BASE, width, 2**64))
            total[: max(len(values) - length, 0)] += power[length:]
            length += width
        if length == n:
            return total
        shifted = power[width:]
        power = power * np.uint64(pow(_TOKEN_BASE, width, 2**64))
        power[: len(shifted)] += shifted
        width *= 2


def _tokens_numpy(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], numbers: bool) -> Tokens:
    code, at, doc = _code_points(data, offsets)
    fold, table = character_tables()
    low = np.minimum(code, 0xFFFF)
    kinds = table[low].copy()
    astral = code > 0xFFFF
    kinds[astral] = np.where(code[astral] < 0x1F000, _WORD, _SEPARATOR)
    kinds[(code >= 0x20000) & (code < 0x40000)] = _SINGLE
    folded = np.where(astral, code, fold[low]).astype(np.uint64)
    alone = (kinds == _SINGLE) | (kinds == _NUMERAL)
    run = (kinds == _WORD) | (kinds == _DIGIT)
    goes_on = np.zeros(len(code), dtype=bool)
    goes_on[1:] = run[1:] & run[:-1] & (doc[1:] == doc[:-1])
    first = np.flatnonzero((alone | run) & ~goes_on)
    stays = np.zeros(len(code), dtype=bool)
    stays[:-1] = goes_on[1:]
    last = np.flatnonzero((alone | run) & ~stays)
    values = folded * _CHAR_FACTOR + _CHAR_TERM
    hashes = (mixed(_spans(values, first, last)) & ~np.uint64(1)) | alone[first].astype(np.uint64)
    number = (kinds[first] == _NUMERAL) | _all_digits(kinds, first, last)
    begins, ends, docs = at[first], at[last + 1], doc[first]
    if numbers:
        hashes[number] = np.uint64(NUMBER)
        repeats = np.zeros(len(first), dtype=bool)
        repeats[1:] = number[1:] & number[:-1] & (docs[1:] == docs[:-1])
        ends = ends[np.append(~repeats[1:], True)] if len(first) else ends
        hashes, begins, docs = hashes[~repeats], begins[~repeats], docs[~repeats]
    base = offsets[docs]
    token_offsets = np.searchsorted(docs, np.arange(len(offsets)))
    return Tokens(hashes, (begins - base).astype(np.uint32), (ends - base).astype(np.uint32), token_offsets)


def _code_points(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(code points, byte position of each and the end, document of each) of valid UTF-8."""
    begins = np.flatnonzero((data & 0xC0) != 0x80)
    text = data.tobytes().decode("utf-8", "surrogatepass")
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    doc = np.searchsorted(offsets, begins, side="right") - 1
    return code, np.append(begins, len(data)), doc


def _spans(values: U64, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> U64:
    """Σ values[j]·B^(last-j) over each span: short ones all at once, a step for each position; long ones by powers."""
    total = values[first].copy()
    live = np.flatnonzero((first < last) & (last - first < _LONG))
    step = 1
    while len(live):
        total[live] = total[live] * np.uint64(_CHAR_BASE) + values[first[live] + step]
        step += 1
        live = live[first[live] + step <= last[live]]
    for i in np.flatnonzero(last - first >= _LONG).tolist():
        span = values[first[i] : last[i] + 1]
        powers = np.full(len(span), _CHAR_BASE, dtype=np.uint64)
        powers[0] = 1
        total[i] = (span * np.cumprod(powers)[::-1]).sum(dtype=np.uint64)
    return total


def _all_digits(
    kinds: npt.NDArray[np.uint8], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    digits = np.concatenate([[0], np.cumsum(kinds == _DIGIT)])
    return np.asarray(digits[last + 1] - digits[first] == last - first + 1)
