"""Generated texts with planted duplicates, for the benchmark of deduplication and its tests of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

#: Share of changed words at which a duplicate of 5-grams keeps a Jaccard similarity of about 1.0 … 0.5.
EDIT_RATES = (0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.027, 0.035, 0.045, 0.055, 0.065, 0.08)


class Writer:
    """Draws texts of made-up words (``en``) or of Han characters (``zh``) by Zipf's law."""

    def __init__(self, language: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.language = language
        words = _han() if language == "zh" else _words(np.random.default_rng(7))
        self.words = np.array(words, dtype=object)
        weight = 1.0 / np.arange(10, len(words) + 10)
        self.cumulative = np.cumsum(weight / weight.sum())

    def draw(self, n: int) -> npt.NDArray[Any]:
        """n word numbers."""
        drawn = np.searchsorted(self.cumulative, self.rng.random(n))
        return np.asarray(np.minimum(drawn, len(self.words) - 1))

    def edited(self, words: npt.NDArray[Any], rate: float) -> npt.NDArray[Any]:
        """A copy with about this share of the words replaced."""
        out = words.copy()
        places = self.rng.random(len(words)) < rate
        out[places] = self.draw(int(places.sum()))
        return out

    def render(self, words: npt.NDArray[Any]) -> str:
        """Words → text with sentences and paragraphs (punctuation drawn anew: no part of what is compared)."""
        out: list[str] = []
        chosen = self.words[words]
        gap, stop = ("", "。") if self.language == "zh" else (" ", ".")
        at = 0
        while at < len(chosen):
            n = int(self.rng.integers(8, 25))
            sentence = gap.join(chosen[at : at + n])
            out.append(sentence[:1].upper() + sentence[1:] + stop)
            at += n
        return "".join(
            s + ("\n\n" if i % 6 == 5 else "\n" if i % 6 == 3 and not gap else gap) for i, s in enumerate(out)
        )


def planted(language: str, n_pairs: int, n_single: int, seed: int, words: int = 400) -> list[str]:
    """``n_single`` texts without a duplicate and ``n_pairs`` pairs at every edit rate, shuffled."""
    writer = Writer(language, seed)
    texts: list[str] = []
    for i in range(n_single + n_pairs):
        base = writer.draw(int(writer.rng.integers(words // 2, 2 * words)))
        texts.append(writer.render(base))
        if i >= n_single:
            texts.append(writer.render(writer.edited(base, EDIT_RATES[i % len(EDIT_RATES)])))
    order = writer.rng.permutation(len(texts))
    return [texts[i] for i in order]


def corpus_part(number: int, n_docs: int, duplicates: float = 0.2) -> list[str]:
    """Part ``number`` of a corpus of any size, both languages; this share are near copies of others in the part."""
    out: list[str] = []
    for language in ("en", "zh"):
        n = n_docs // 2
        n_pairs = int(n * duplicates)
        out += planted(language, n_pairs, n - 2 * n_pairs, 1000 * number + (language == "zh"))
    return out


def shingle_sets(texts: list[str], split: Callable[[str], list[str]], n: int = 5) -> list[set[str]]:
    """The n-grams of each text by plain Python: the reference for Jaccard similarities."""
    out = []
    for text in texts:
        words = split(text)
        out.append({" ".join(words[i : i + n]) for i in range(max(len(words) - n + 1, 1 if words else 0))})
    return out


def brute_force(sets: list[set[str]], at_least: float) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair of texts that has at least this much, from all pairs."""
    from scipy.sparse import csr_array

    number: dict[str, int] = {}
    columns = [number.setdefault(gram, len(number)) for grams in sets for gram in sorted(grams)]
    sizes = np.array([len(grams) for grams in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_array((np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(sets), len(number)))
    shared = (matrix @ matrix.T).tocoo()
    above = shared.row < shared.col
    left, right, both = shared.row[above], shared.col[above], shared.data[above]
    jaccard = both / (sizes[left] + sizes[right] - both)
    kept = jaccard >= at_least
    return {(int(i), int(j)): float(s) for i, j, s in zip(left[kept], right[kept], jaccard[kept], strict=True)}


def _words(rng: np.random.Generator, n: int = 20_000) -> list[str]:
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    weight = 1.0 / np.arange(2, 28)
    lengths = rng.integers(2, 10, n)
    return ["".join(rng.choice(letters, size=length, p=weight / weight.sum())) for length in lengths]


def _han() -> list[str]:
    return [chr(0x4E00 + i) for i in np.random.default_rng(7).permutation(3500)]
