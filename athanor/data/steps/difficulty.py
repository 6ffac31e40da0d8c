"""How hard a text is to read and learn from, 0 … 1, by what it is written in.

English: lengths of sentences and words as in Flesch & Kincaid's grade (1975), whose syllables are counted as groups of
vowels. Chinese: commonness of characters and length of sentences. Code: depth of nesting, length of names and lines.
Formulas add to each. Where a proxy model has measured perplexity, a document's rank in its language is a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.data.steps.quality_text import COMMON_HAN, windows
from athanor.recipe.steps.quality import DifficultyOptions

LEVELS = ("easy", "medium", "hard")
_TEXT_SHARE = 0.6
_SENTENCE = re.compile(r"[.!?。！？;；\n]+")
_WORD = re.compile(r"[A-Za-z]+")
_VOWEL_GROUPS = re.compile(r"[aeiouy]+", re.I)
_HAN = re.compile(r"[一-鿿]")
_FORMULA = re.compile(r"\\[A-Za-z]+|\$|[=≤≥≠±×÷∑∫√∈∂∇∞^_]|[A-Za-z]\([a-z]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")


def text_difficulty(text: str, group: str) -> float:
    """Of one text; ``group``: en, zh or code (``quality_model.group_of``)."""
    few = windows(text)
    if group == "code":
        value = _code(few)
    else:
        value = _chinese(few) if group == "zh" else _english(few)
        # One formula sign in ten characters is a dense page of mathematics.
        value += 0.35 * min(1.0, 10 * len(_FORMULA.findall(few)) / max(len(few), 1))
    return min(1.0, max(0.0, value))


def level(value: float, options: DifficultyOptions) -> str:
    """easy, medium or hard."""
    return LEVELS[(value >= options.medium_from) + (value >= options.hard_from)]


def with_perplexity(
    text: npt.NDArray[np.float32], bits_per_byte: npt.NDArray[Any], languages: Sequence[str | None]
) -> npt.NDArray[np.float32]:
    """0.6 · the text's difficulty + 0.4 · the share of its language's documents with fewer bits a byte (ties: half).

    Documents without a measure (nan) keep their own."""
    from scipy.stats import rankdata

    out = np.array(text, dtype=np.float32)
    known = ~np.isnan(bits_per_byte)
    names = np.array([name or "" for name in languages])
    for name in set(names[known].tolist()):
        mine = known & (names == name)
        rank = (rankdata(bits_per_byte[mine]) - 0.5) / mine.sum()
        out[mine] = _TEXT_SHARE * out[mine] + (1 - _TEXT_SHARE) * rank
    return out


def _english(text: str) -> float:
    """Flesch-Kincaid grade 0.39 · words/sentence + 11.8 · syllables/word − 15.59, of which 2 … 18 become 0 … 1."""
    words = _WORD.findall(text)
    if not words:
        return 0.0
    sentences = max(sum(1 for part in _SENTENCE.split(text) if _WORD.search(part)), 1)
    syllables = sum(max(len(_VOWEL_GROUPS.findall(word)), 1) for word in words)
    grade = 0.39 * min(len(words) / sentences, 60) + 11.8 * syllables / len(words) - 15.59
    return (grade - 2) / 16


def _chinese(text: str) -> float:
    """Share of characters outside the commonest, and characters a sentence (10 … 60)."""
    han = _HAN.findall(text)
    if not han:
        return 0.0
    sentences = max(sum(1 for part in _SENTENCE.split(text) if _HAN.search(part)), 1)
    rare = sum(c not in COMMON_HAN for c in han) / len(han)
    length = min(max((len(han) / sentences - 10) / 50, 0.0), 1.0)
    return 0.6 * min(max((rare - 0.2) / 0.5, 0.0), 1.0) + 0.4 * length


def _code(text: str) -> float:
    """Depth of indentation and brackets, length of lines, variety of names."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return 0.0
    indents = [
        (len(line) - len(line.lstrip())) + 3 * line[: len(line) - len(line.lstrip())].count("\t") for line in lines
    ]
    depth = sum(indents) / len(lines) / 16
    brackets = sum(line.count("(") + line.count("[") for line in lines) / len(lines) / 4
    names = _NAME.findall(text)
    variety = len(set(names)) / max(len(names), 1)
    length = sum(map(len, lines)) / len(lines) / 80
    return 0.35 * min(depth, 1) + 0.25 * min(brackets, 1) + 0.2 * min(length, 1) + 0.2 * variety
