"""Packing whole documents into rows of a fixed length, and the shuffles of each epoch.

A document of n tokens takes n - 1 positions: its last token is only ever a target. A document with more positions
than a row is cut into full rows and one rest; no other document is cut.

Which *sizes* share a row depends on the sizes alone, so it is worked out once. An epoch then deals the documents of
equal size anew over the places for that size and shuffles the rows. The number of rows is the same in every epoch, so
the place of any row in the endless stream is one division away.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from athanor.data.shards import Int64s, ranges


def seeded_order(n: int, *key: int) -> Int64s:
    """A permutation of 0…n-1 from whole numbers, the same for every NumPy version: made of raw Philox output."""
    raw = np.random.Philox(np.random.SeedSequence(list(key))).random_raw(n) if n else np.zeros(0, dtype=np.uint64)
    return np.argsort(raw, kind="stable")


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The rows of one epoch: row r holds pieces first[r] … first[r+1], each a stretch of a document (int64 arrays)."""

    first: Int64s
    docs: Int64s
    starts: Int64s
    lens: Int64s

    def positions(self, rows: int) -> tuple[Int64s, Int64s]:
        """(document, positions) of every piece in the first ``rows`` rows."""
        end = int(self.first[rows])
        return self.docs[:end], self.lens[:end]


class Packing:
    """How the documents of one source fill rows of ``seq_len`` positions."""

    def __init__(self, doc_lens: Int64s, seq_len: int, numbers: Int64s | None = None) -> None:
        """``doc_lens``: tokens of each document, end token included (int64). Takes O(n log n) time in NumPy.

        ``numbers``: what the documents are called in the plans, where it is not their place in ``doc_lens``.
        """
        self.seq_len = seq_len
        self._docs, self._starts, lens = cut(doc_lens, seq_len)
        if numbers is not None:
            self._docs = numbers[self._docs]
        by_size = np.argsort(-lens, kind="stable")  # places are handed out largest first
        self._docs, self._starts, self._lens = self._docs[by_size], self._starts[by_size], lens[by_size]
        self._row_of, self.n_rows = fill_rows(self._lens, seq_len)
        self.n_positions = int(self._lens.sum())
        #: documents longer than a row, and the positions of the longest one
        self.n_cut = int((doc_lens - 1 > seq_len).sum())
        self.longest = int(doc_lens.max() - 1) if len(doc_lens) else 0

    @property
    def efficiency(self) -> float:
        """Share of positions that hold a token of a document."""
        return self.n_positions / (self.n_rows * self.seq_len) if self.n_rows else 0.0

    def epoch(self, *key: int) -> EpochPlan:
        """The rows of one pass over all documents, decided by ``key`` (whole numbers: seed, source, epoch)."""
        # Deal: random order, then a stable sort by size, gives each place of a size a random document of that size.
        deal = seeded_order(len(self._lens), *key, 0)
        deal = deal[np.argsort(-self._lens[deal], kind="stable")]
        place_of_row = seeded_order(self.n_rows, *key, 1)
        row = place_of_row[self._row_of]
        order = np.argsort(row, kind="stable")
        pieces = deal[order]
        counts = np.bincount(row, minlength=self.n_rows)
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return EpochPlan(first, self._docs[pieces], self._starts[pieces], self._lens[pieces])


def cut(doc_lens: Int64s, seq_len: int) -> tuple[Int64s, Int64s, Int64s]:
    """(document, start, positions) of every piece: stretches of ``seq_len`` and the rest, for n - 1 positions each."""
    positions = np.maximum(doc_lens - 1, 0)
    pieces = -(-positions // seq_len)
    docs = np.repeat(np.arange(len(doc_lens), dtype=np.int64), pieces)
    starts = ranges(np.zeros(len(doc_lens), dtype=np.int64), pieces) * seq_len
    return docs, starts, np.minimum(positions[docs] - starts, seq_len)


#: Best fit is good enough from here on; below, filling by patterns is tried where it is cheap.
_GOOD = 0.995
_MAX_PIECES_A_ROW = 64
#: How many sizes a pattern chooses among: enough to reach every sum, few enough to be quick.
_CANDIDATES = 64


def fill_rows(lens: Int64s, seq_len: int) -> tuple[Int64s, int]:
    """Row of each piece, and the number of rows, for ``lens`` sorted from large to small: the better of two packings.

    Best fit leaves 2–6 % unused when all documents are a few to the row and much alike (short questions and answers);
    ``fill_by_patterns`` finds sums that come out even.
    """
    row_of, n_rows = best_fit_decreasing(lens, seq_len)
    total = int(lens.sum())
    if not n_rows or total >= _GOOD * n_rows * seq_len or len(lens) > _MAX_PIECES_A_ROW * n_rows:
        return row_of, n_rows
    other, n_other = fill_by_patterns(lens, seq_len)
    return (other, n_other) if n_other < n_rows else (row_of, n_rows)


def best_fit_decreasing(lens: Int64s, seq_len: int) -> tuple[Int64s, int]:
    """Row of each piece, and the number of rows, for ``lens`` sorted from large to small (arXiv 2404.10830).

    Best fit puts a piece where it leaves the least room. Pieces of one size go to rows of one room together: a row
    with room c takes c // size of them before another room fits better. So the loop runs over distinct (size, room)
    pairs, not over pieces: a million documents take about a second.
    """
    row_of = np.empty(len(lens), dtype=np.int64)
    rooms: list[int] = []  # distinct free rooms, ascending
    rows_with: dict[int, list[npt.NDArray[np.int64]]] = {}
    n_rows = 0

    def put_back(room: int, rows: Int64s) -> None:
        if room and len(rows):
            if room not in rows_with:
                rows_with[room] = []
                bisect.insort(rooms, room)
            rows_with[room].append(rows)

    sizes, begins, counts = np.unique(-lens, return_index=True, return_counts=True)
    for size, begin, count in zip((-sizes).tolist(), begins.tolist(), counts.tolist(), strict=True):
        done = 0
        while done < count:
            at = bisect.bisect_left(rooms, size)
            if at < len(rooms):
                room = rooms.pop(at)
                rows = np.concatenate(rows_with.pop(room))
            else:
                room = seq_len
                needed = -(-(count - done) // (room // size))
                rows = np.arange(n_rows, n_rows + needed, dtype=np.int64)
                n_rows += needed
            each = room // size
            fill = min(count - done, each * len(rows))
            full, rest = divmod(fill, each)
            row_of[begin + done : begin + done + fill] = np.repeat(rows, each)[:fill]
            put_back(room - each * size, rows[:full])
            if rest:
                put_back(room - rest * size, rows[full : full + 1])
            put_back(room, rows[full + bool(rest) :])
            done += fill
    return row_of, n_rows


def fill_by_patterns(lens: Int64s, seq_len: int) -> tuple[Int64s, int]:
    """As ``best_fit_decreasing``, by repeated patterns of sizes (the idea of histogram packing, arXiv 2107.02027).

    A pattern starts with the largest size left and adds sizes so that the row comes out as full as any sum of them can
    make it; it is used for as many rows as the counts allow. The loop runs over patterns, not over rows.
    """
    sizes, begins, counts = np.unique(-lens, return_index=True, return_counts=True)
    next_of = dict(zip((-sizes).tolist(), begins.tolist(), strict=True))  # first unplaced piece of each size
    left = dict(zip((-sizes).tolist(), counts.tolist(), strict=True))
    alive = sorted(left)
    row_of = np.empty(len(lens), dtype=np.int64)
    n_rows = 0
    while alive:
        pattern = _pattern(alive, left, seq_len)
        times = min(left[size] // number for size, number in pattern.items())
        rows = np.arange(n_rows, n_rows + times, dtype=np.int64)
        for size, number in pattern.items():
            begin = next_of[size]
            row_of[begin : begin + times * number] = np.repeat(rows, number)
            next_of[size] += times * number
            left[size] -= times * number
            if not left[size]:
                alive.pop(bisect.bisect_left(alive, size))
        n_rows += times
    return row_of, n_rows


def _pattern(alive: list[int], left: dict[int, int], seq_len: int) -> dict[int, int]:
    """How many pieces of each size one row takes: the largest size, then whatever fills the rest best."""
    pattern = {alive[-1]: 1}
    room = seq_len - alive[-1]
    while room:
        end = bisect.bisect_right(alive, room)
        near = alive[max(0, end - _CANDIDATES) : end]
        sizes = [size for size in near if left[size] > pattern.get(size, 0)]
        if not sizes:
            break
        sums = _reachable(sizes, room)
        best = sums.bit_length() - 1
        chosen = next(size for size in reversed(sizes) if best >= size and sums >> (best - size) & 1)
        pattern[chosen] = pattern.get(chosen, 0) + 1
        room -= chosen
    return pattern


def _reachable(sizes: list[int], room: int) -> int:
    """Bit s is set when s ≤ room is a sum of ``sizes``, each used any number of times (the caller minds the counts)."""
    inside = (1 << (room + 1)) - 1
    sums = 1
    for size in sizes:
        step = size
        while step <= room:
            sums |= sums << step & inside
            step *= 2
    return sums
