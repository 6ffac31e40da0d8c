"""``train.cpp`` in Python, merge for merge the same: for machines without a compiler, and to test it against."""

from __future__ import annotations

import heapq
import re
from collections import Counter, deque

import numpy as np

from athanor.tokenizer.bpe import Learned, Rules, byte_ids
from athanor.tokenizer.counts import PieceCounts
from athanor.tokenizer.kernel import Int64s

Pair = tuple[int, int]
#: Some bytes of one character, not all.
_PART = re.compile(rb"[\x80-\xbf]{1,3}|[\xc0-\xff]|[\xe0-\xff][\x80-\xbf]|[\xf0-\xff][\x80-\xbf]{2}")


class _Trainer:
    def __init__(self, pieces: PieceCounts, rules: Rules, columns: Int64s, candidates: frozenset[bytes]) -> None:
        self.rules, self.candidates, self.digits = rules, candidates, pieces.digits
        self.counts = [tuple(row) for row in columns.tolist()]
        self.width = columns.shape[1]
        ids = byte_ids(rules.first_specials)
        self.text = {int(i): bytes([byte]) for byte, i in enumerate(ids)}
        self.words = [[int(ids[byte]) for byte in piece] for piece in pieces.pieces()]
        self.totals: dict[Pair, list[int]] = {}
        self.where: dict[Pair, set[int]] = {}
        self.fresh: set[Pair] = set()
        self.made: set[bytes] = set()
        self.deferred: list[Pair] = []
        self.n_bytes = [sum(c[d] * len(w) for c, w in zip(self.counts, self.words, strict=True)) for d in self.columns]
        self.tokens = list(self.n_bytes)
        self.heaps: list[list[tuple[int, Pair]]] = [[] for _ in self.columns]
        self.open = [d for d in self.columns if self.n_bytes[d]]
        self.recent: deque[int] = deque(maxlen=rules.window)
        for number, word in enumerate(self.words):
            for pair in zip(word, word[1:], strict=False):
                self.add(pair, number, 1)
        self.queue()

    @property
    def columns(self) -> range:
        """Columns that rank pairs: every domain's, or the score's alone."""
        return range(self.width if self.rules.parity else 1)

    def add(self, pair: Pair, word: int, sign: int) -> None:
        if pair not in self.totals:
            self.totals[pair] = [0] * self.width
            self.where[pair] = set()
            self.fresh.add(pair)
        total = self.totals[pair]
        for d, count in enumerate(self.counts[word]):
            total[d] += sign * count
        if sign > 0:
            self.where[pair].add(word)

    def queue(self) -> None:
        """Put pairs that are new since the last call into the heaps."""
        for d in self.columns:
            for pair in self.fresh:
                if self.totals[pair][d] > 0:
                    heapq.heappush(self.heaps[d], (-self.totals[pair][d], pair))
        self.fresh.clear()

    def may(self, pair: Pair, raw: int) -> bool:
        from athanor.tokenizer.fast import pieces

        whole = self.text[pair[0]] + self.text[pair[1]]
        if self.totals[pair][raw] < self.rules.min_frequency or whole in self.made:
            return False
        if self.rules.alone:
            try:
                if len(pieces(whole.decode(), self.digits)) > 1:
                    return False
            except UnicodeDecodeError:
                if not _PART.fullmatch(whole):
                    return False
        if self.candidates and whole not in self.candidates:
            self.deferred.append(pair)
            return False
        return True

    def best(self, column: int) -> tuple[Pair, int] | None:
        heap, raw = self.heaps[column], column if self.rules.parity else self.width - 1
        while heap:
            count, pair = heapq.heappop(heap)
            now = self.totals[pair][column]
            if now != -count:
                if now > 0:
                    heapq.heappush(heap, (-now, pair))
            elif self.may(pair, raw):
                return pair, now
        return None

    def choose(self) -> tuple[Pair, int] | None:
        if not self.rules.parity:
            found = self.best(0)
            if found is None and self.candidates:
                self.candidates = frozenset()
                self.fresh.update(self.deferred)
                self.queue()
                found = self.best(0)
            return found
        limit = self.rules.window * 2 // len(self.columns)
        while self.open:
            used = Counter(self.recent)
            free = [d for d in self.open if len(self.columns) <= 2 or limit <= 0 or used[d] < limit]
            ratio = {d: self.tokens[d] / self.n_bytes[d] for d in free}
            column = max(free, key=ratio.__getitem__) if free else self.open[0]
            found = self.best(column)
            if found is not None:
                self.recent.append(column)
                return found
            self.open.remove(column)
        return None

    def merge(self, pair: Pair, made: int) -> None:
        self.text[made] = self.text[pair[0]] + self.text[pair[1]]
        self.made.add(self.text[made])
        for number in self.where.pop(pair):
            word, out, i = self.words[number], list[int](), 0
            while i < len(word):
                if tuple(word[i : i + 2]) != pair:
                    out.append(word[i])
                    i += 1
                    continue
                if out:
                    self.add((out[-1], pair[0]), number, -1)
                    self.add((out[-1], made), number, 1)
                i += 2
                if i < len(word):
                    self.add((pair[1], word[i]), number, -1)
                    self.add((made, word[i]), number, 1)
                out.append(made)
                for d in self.columns:
                    self.tokens[d] -= self.counts[number][d]
            self.words[number] = out
        self.where[pair] = set()
        self.queue()


def learn_slowly(pieces: PieceCounts, rules: Rules, columns: Int64s, candidates: frozenset[bytes]) -> Learned:
    """``bpe.learn`` without the kernel; ``columns`` as it is given there."""
    trainer = _Trainer(pieces, rules, columns, candidates)
    merges: list[Pair] = []
    gains: list[int] = []
    while len(merges) < rules.max_merges and (found := trainer.choose()) is not None:
        trainer.merge(found[0], rules.first_specials + 256 + len(merges))
        merges.append(found[0])
        gains.append(found[1])
    table = np.array(merges, dtype=np.int32).reshape(-1, 2)
    return Learned(table, np.array(gains, dtype=np.int64), rules.first_specials)
