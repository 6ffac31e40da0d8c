"""What the quality models see of a text: tokens reduced to classes, and some forty figures of its form.

Words that carry the grammar (function words, function characters, punctuation) stay themselves; all others become a
class of shape, ending and length. So a model trained on a few generated topics judges how something is written, and
not what it is about. Long texts are read in three windows, so that a document's cost is bounded.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Characters read of a text: the beginning, and as many from its middle and end together.
WINDOW = 4000
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[0-9]+|\n+|[^\sA-Za-z0-9]")


@cache
def word_lists() -> dict[str, Any]:
    """``quality_words.yaml``."""
    with open(Path(__file__).with_name("quality_words.yaml"), encoding="utf-8") as file:
        loaded: dict[str, Any] = yaml.safe_load(file)
    return loaded


_ENGLISH = frozenset(word_lists()["english"].split())
_CHINESE = frozenset(word_lists()["chinese"].replace(" ", ""))
#: The most frequent characters of modern Chinese.
COMMON_HAN = frozenset(word_lists()["common_han"].replace(" ", ""))
_SUFFIXES = (
    "tion",
    "ment",
    "ness",
    "able",
    "ing",
    "ity",
    "ous",
    "ive",
    "ism",
    "ly",
    "ed",
    "es",
    "er",
    "al",
    "ic",
    "s",
    "y",
    "e",
)
_VOWELS = frozenset("aeiouyAEIOUY")

N_BUCKETS = 1 << 13
_PRIMES = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint64)


def windows(text: str) -> str:
    """At most ``WINDOW`` characters: half of them from the start, a quarter each from the middle and the end."""
    if len(text) <= WINDOW:
        return text
    half, quarter, middle = WINDOW // 2, WINDOW // 4, len(text) // 2
    return "\n".join((text[:half], text[middle : middle + quarter], text[-quarter:]))


@cache
def _han_kind(c: str) -> str:
    """Commonness of a Chinese character: the commonest, level 1 and level 2 of GB 2312, the rest."""
    if c in COMMON_HAN:
        return "H0"
    try:
        row = c.encode("gb2312")[0] - 0xA0
    except UnicodeEncodeError:
        return "H3"
    return "H1" if row < 56 else "H2"


def _kind(token: str) -> str:
    first = token[0]
    if first == "\n":
        return f"n{min(len(token), 2)}"
    if first.isascii():
        if first.isdigit():
            return f"d{min(len(token), 5)}"
        return _latin_kind(token) if first.isalpha() else f"p{first}"
    if "一" <= first <= "鿿" or "㐀" <= first <= "䶿":
        return f"c{first}" if first in _CHINESE else _han_kind(first)
    category = unicodedata.category(first)
    return f"p{first}" if category[0] == "P" else f"u{category}"


def _latin_kind(token: str) -> str:
    lower = token.lower()
    if lower in _ENGLISH:
        return f"w{lower}"
    if len(token) == 1:
        return "x1" if token.islower() else "X1"
    shape = "l" if token.islower() else "u" if token.isupper() else "c" if token[1:].islower() else "m"
    if not _VOWELS & set(token):
        return f"{shape}-novowel{min(len(token), 4)}"
    suffix = next((s for s in _SUFFIXES if len(lower) > len(s) + 2 and lower.endswith(s)), "")
    return f"{shape}{suffix}{min(len(token) // 3, 4)}"


class _Kinds(dict[str, int]):
    """Token → (class number, hash): filled as tokens come."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []

    def __missing__(self, token: str) -> int:
        kind = _kind(token)
        number = self.numbers.get(kind)
        if number is None:
            number = self.numbers[kind] = len(self.names)
            self.names.append(kind)
        if len(self) < 500_000:  # a bound on memory, not on what is recognised
            self[token] = number
        return number


_KINDS = _Kinds()


def tokens_of(text: str) -> list[str]:
    """Words, numbers, single Chinese characters, signs, runs of line ends."""
    return _TOKEN.findall(text)


def hashed_counts(numbers: Ints) -> tuple[Ints, Floats]:
    """(buckets, values) of class 1-, 2- and 3-grams: log(1 + count), scaled to unit length. Buckets ascend."""
    if not len(numbers):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    hashes = _class_hashes(len(_KINDS.names))[numbers]
    a = hashes * _PRIMES[0]
    two = a[:-1] ^ (hashes[1:] * _PRIMES[1])
    three = two[:-1] ^ (hashes[2:] * _PRIMES[2])
    counts = np.bincount(_bucket(np.concatenate([a, two, three]), N_BUCKETS), minlength=N_BUCKETS)
    used = np.flatnonzero(counts)
    values = np.log1p(counts[used]).astype(np.float32)
    return used, values / np.linalg.norm(values)


@cache
def _known_hashes() -> dict[str, Any]:
    return {"n": 0, "array": np.zeros(0, dtype=np.uint64)}


def _class_hashes(n: int) -> npt.NDArray[np.uint64]:
    """Hash of each class's name: the same in every process, whatever order classes were met in."""
    known = _known_hashes()
    if known["n"] < n:
        fresh = [zlib.crc32(name.encode()) for name in _KINDS.names[known["n"] :]]
        known["array"] = np.concatenate([known["array"], np.array(fresh, dtype=np.uint64)])
        known["n"] = len(known["array"])
    return np.asarray(known["array"])


_CUES: dict[str, Any] = word_lists()["cues"]
_CUE_WORDS = {word: k for k, cue in enumerate(_CUES.values()) for word in cue["words"].split()}
_CUE_PHRASES = [[phrase for line in cue["phrases"] for phrase in line] for cue in _CUES.values()]
#: Names of the figures, in their order.
FIGURES = (
    "letters", "han", "digits", "signs", "odd", "spaces", "mean_word", "long_words", "caps", "upper_words",
    "novowel", "single_letters", "mixed_tokens", "unlike_words", "word_cost", "type_token", "repeat_4", "compress",
    "line_repeat", "short_lines", "bullets", "function_share", "rare_han", "sentence_tokens", "sentence_spread",
    "comma_rate", "unbalanced", *(f"cue_{name}" for name in _CUES), "double_signs", "glued", "alternating",
    "content_types", "known_words", "pair_cost", "triple_cost", "dear_pairs", "long_runs", "blobs",
)  # fmt: skip


def figures(text: str, tokens: list[str], numbers: Ints, language: Language | None = None) -> Floats:
    """``FIGURES`` of a text (its windows) [len(FIGURES)]. ``language``: what its group's words are expected to be."""
    n, n_tokens = max(len(text), 1), max(len(tokens), 1)
    words = [token for token in tokens if len(token) > 1 and token[0].isascii() and token[0].isalpha()]
    n_words = max(len(words), 1)
    groups = np.bincount(_groups(len(_KINDS.names))[numbers], minlength=8) / n_tokens
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    letters = sum(map(len, words))
    values = (
        letters / n,
        np.count_nonzero((codes >= 0x4E00) & (codes <= 0x9FFF)) / n,
        np.count_nonzero((codes >= 48) & (codes <= 57)) / n,
        groups[3],
        _odd(codes) / n,
        np.count_nonzero(codes == 32) / n,
        letters / n_words / 10,
        sum(len(word) > 7 for word in words) / n_words,
        sum(not word.islower() for word in words) / n_words,
        sum(word.isupper() for word in words) / n_words,
        groups[5],
        groups[4],
        len(_MIXED.findall(text)) / n_tokens,
        *_word_costs(words, language),
        *_repetition(tokens, numbers, text, lines),
        *_lines(lines),
        groups[1],
        groups[6] / max(groups[6] + groups[7], 1e-6),
        *_sentences(text, n_tokens),
        *_cues(text, tokens, n_tokens),
        10 * len(_DOUBLE.findall(text)) / n_tokens,
        10 * len(_GLUED.findall(text)) / n_tokens,
        10 * len(_ALTERNATING.findall(text)) / n_tokens,
        len({token for token in tokens if len(token) > 3 or token > "一"}) / n_tokens,
        _known_words(text) if groups[7] else 0.0,
        *(language.costs(numbers) if language is not None else (0.0, 0.0, 0.0)),
        float(np.log1p(max(map(len, text.split()), default=0))) / 8,
        sum(map(len, _BLOB.findall(text))) / n,
    )
    return np.array(values, dtype=np.float32)


def _odd(codes: npt.NDArray[np.uint32]) -> int:
    """Characters that wrong decoding leaves behind: replacement, C1 controls, accented Latin, private use."""
    return int(
        np.count_nonzero((codes == 0xFFFD) | (codes == 0) | ((codes >= 0x7F) & (codes <= 0xFF)) | (codes == 0x25A1))
        + np.count_nonzero((codes >= 0xE000) & (codes <= 0xF8FF))
    )


def _cues(text: str, tokens: list[str], n_tokens: int) -> list[float]:
    counts = [0] * len(_CUES)
    get = _CUE_WORDS.get
    for token in tokens:
        k = get(token) if token.islower() else get(token.lower())
        if k is not None:
            counts[k] += 1
    lower = text.lower()
    for k, several in enumerate(_CUE_PHRASES):
        counts[k] += sum(map(lower.count, several))
    return [10 * count / n_tokens for count in counts]


@cache
def _frequent_words() -> re.Pattern[str]:
    from athanor.data.steps.quality_examples import phrases

    words = sorted(phrases()["zh"]["words"].split(), key=len, reverse=True)
    return re.compile("|".join(words))


def _known_words(text: str) -> float:
    """Share of the Chinese characters that frequent words cover, read from the left."""
    han = sum("一" <= c <= "鿿" for c in text)
    return sum(map(len, _frequent_words().findall(text))) / max(han, 1)


#: First letter of a class's name → group: 1 function words and characters, 2 other words, 3 signs.
_GROUPS = {"w": 1, "c": 1, "l": 2, "u": 2, "m": 2, "p": 3, "x": 4, "X": 4}
_BLOB = re.compile(r"[A-Za-z0-9+/=_\-]{32,}")


@cache
def _group_store() -> dict[str, Any]:
    return {"array": np.zeros(0, dtype=np.int64)}


def _groups(n: int) -> Ints:
    """Group of every class met: see ``_GROUPS``; 5 words without a vowel, 6 rare and 7 common Chinese characters."""
    store = _group_store()
    known = len(store["array"])
    if known < n:
        fresh = [
            5
            if "novowel" in name
            else 6
            if name in ("H2", "H3")
            else 7
            if name[0] == "H" or name[0] == "c" and name > "c一"
            else _GROUPS.get(name[0], 0)
            for name in _KINDS.names[known:]
        ]
        store["array"] = np.concatenate([store["array"], np.array(fresh, dtype=np.int64)])
    return np.asarray(store["array"])


_MIXED = re.compile(r"[A-Za-z][0-9][A-Za-z]|[a-z][A-Z][a-z]|[a-z][|\\@#$%^&*~][a-z]")
_DOUBLE = re.compile(
    r"[,，。.;；:：、]\s?[,，。;；:：、]|[，。、；：]\s?[的了着和与]|\b(?:the|a|an|of|to|and|in)\s(?:the|a|an|of|and|is|\.)\b"
)
_GLUED = re.compile(r"[A-Za-z]{22,}|[a-z][.,;!?][A-Za-z]{2}")
_ALTERNATING = re.compile(r"[a-z][A-Z][a-z]+[A-Z]|[A-Za-z][一-鿿][A-Za-z][一-鿿]|[�□]")
_END = re.compile(r"[.!?。！？…；;]+(?:\s|\Z|[”’\"』」])?")


def _repetition(tokens: list[str], numbers: Ints, text: str, lines: list[str]) -> tuple[float, float, float, float]:
    head = tokens[:400]
    ids: dict[str, int] = {}
    exact = np.fromiter((ids.setdefault(token, len(ids)) for token in tokens), dtype=np.int64, count=len(tokens))
    grams = ((exact[:-3] * 4001 + exact[1:-2]) * 4001 + exact[2:-1]) * 4001 + exact[3:]
    raw = text.encode("utf-8", "surrogatepass")
    return (
        len(set(head)) / max(len(head), 1),
        1 - len(np.unique(grams)) / max(len(grams), 1),
        len(zlib.compress(raw, 1)) / len(raw) if len(raw) > 100 else 0.6,
        1 - len(set(lines)) / len(lines),
    )


def _lines(lines: list[str]) -> tuple[float, float]:
    n = len(lines)
    return sum(len(line) < 30 for line in lines) / n, sum(line.lstrip()[:1] in "-*•·|>#" for line in lines) / n


def _sentences(text: str, n_tokens: int) -> tuple[float, float, float, float]:
    lengths = [len(part) for part in _END.split(text) if part and part.strip()] or [0]
    mean = sum(lengths) / len(lengths)
    spread = (sum((x - mean) ** 2 for x in lengths) / len(lengths)) ** 0.5
    commas = text.count(",") + text.count("，") + text.count("、")
    pairs = sum(abs(text.count(a) - text.count(b)) for a, b in ("()", "[]", "{}", "（）", "“”", "《》"))
    return float(np.log1p(mean)), spread / max(mean, 1.0), 10 * commas / n_tokens, 10 * pairs / n_tokens


#: Buckets of counted pairs and triples of classes.
_TABLE = 1 << 16


def _letter_codes(words: str) -> Ints:
    """1 … 26 for letters of lower-case words, 0 for what stands between."""
    raw = np.frombuffer(words.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    return np.where((raw >= 97) & (raw <= 122), raw - 96, 0)


def letter_costs(texts: list[str]) -> Floats:
    """Cost in nats of each letter trigram of these texts' words, with their boundaries [27³], add-½ smoothed."""
    trigrams = np.full(27**3, 0.5)
    for text in texts:
        codes = _letter_codes("{" + "{".join(re.findall(r"[a-z]{2,}", text.lower())) + "{")
        keys = (codes[:-2] * 27 + codes[1:-1]) * 27 + codes[2:]
        trigrams += np.bincount(keys[codes[1:-1] > 0], minlength=27**3)
    table = trigrams.reshape(27, 27, 27)
    return np.asarray(-np.log(table / table.sum(2, keepdims=True)), dtype=np.float32).reshape(-1)


class Language:
    """What is expected of a group's texts: costs in nats of letter trigrams [27³], of classes behind others.

    Letters tell garbled words from real ones without a dictionary, classes disordered words from sentences. Costs of
    classes are of hashed n-grams with backing off, ``(count + b · shorter) / (count of context + b)`` (interpolated
    Dirichlet smoothing, MacKay & Peto 1995).
    """

    def __init__(self, letters: Floats, counts: Floats) -> None:
        self.letters = letters
        self.counts = counts  # [3, _TABLE]: classes, pairs, triples

    @classmethod
    def learn(cls, latin: list[str], texts: list[str]) -> Language:
        """``latin``: texts whose words' letters are counted; ``texts``: whole ones of the group, counted by class."""
        counts = np.zeros((3, _TABLE), dtype=np.float32)
        for text in texts:
            for order, keys in enumerate(_ngram_keys(kinds_of(tokens_of(text)))):
                counts[order] += np.bincount(keys, minlength=_TABLE)
        return cls(letter_costs(latin), counts)

    def with_texts(self, texts: list[str]) -> Language:
        """The same letters, other texts."""
        return Language(self.letters, Language.learn([], texts).counts)

    def costs(self, numbers: Ints) -> tuple[float, float, float]:
        """Mean cost of a class behind one and behind two others, and the share of pairs that cost over 6 nats."""
        one, two, three = (self.counts[order][keys] for order, keys in enumerate(_ngram_keys(numbers)))
        if len(three) == 0:
            return 4.0, 4.0, 0.0
        total = max(float(self.counts[0].sum()), 1.0)
        single = (one + 0.1) / (total + 100)
        pair = (two + 3 * single[1:]) / (one[:-1] + 3)
        triple = (three + 3 * pair[1:]) / (two[:-1] + 3)
        pair_cost = -np.log(np.minimum(pair, 1))
        return float(pair_cost.mean()), float(-np.log(np.minimum(triple, 1)).mean()), float((pair_cost > 6).mean())

    def word_costs(self, words: list[str]) -> tuple[float, float]:
        """Share of words whose mean letter trigram costs over 3.6 nats, and the mean cost."""
        codes = _letter_codes("{" + "{".join(words[:300]).lower() + "{")
        starts = np.flatnonzero(codes == 0)
        if len(codes) < 4:
            return 0.0, 2.4
        cost = self.letters[(codes[:-2] * 27 + codes[1:-1]) * 27 + codes[2:]]
        cost[codes[1:-1] == 0] = 0  # a trigram over a boundary is of no word
        sums = np.add.reduceat(cost, np.minimum(starts[:-1], len(cost) - 1))
        means = sums / np.maximum(np.diff(starts) - 1, 1)
        return float((means > 3.6).mean()), float(means.mean())


def _word_costs(words: list[str], language: Language | None) -> tuple[float, float]:
    return language.word_costs(words) if language is not None and words else (0.0, 2.4)


def kinds_of(tokens: list[str]) -> Ints:
    """Class number of each token."""
    return np.fromiter((_KINDS[token] for token in tokens), dtype=np.int64, count=len(tokens))


def _ngram_keys(numbers: Ints) -> tuple[Ints, Ints, Ints]:
    """Buckets of the classes, pairs and triples of a text."""
    hashes = _class_hashes(len(_KINDS.names))[numbers]
    a = hashes * _PRIMES[0]
    two = a[:-1] ^ (hashes[1:] * _PRIMES[1])
    three = two[:-1] ^ (hashes[2:] * _PRIMES[2])
    return _bucket(a, _TABLE), _bucket(two, _TABLE), _bucket(three, _TABLE)


def _bucket(keys: npt.NDArray[np.uint64], size: int) -> Ints:
    mixed = (keys ^ (keys >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(65 - size.bit_length())).astype(np.int64)
