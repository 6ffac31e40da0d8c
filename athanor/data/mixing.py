"""Which source a row of the stream comes from: fixed shares, and shares that change at recorded rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from athanor.data.shards import Int64s, ranges


class Mixture:
    """Which source a row comes from: a fixed period of rows with the sources spread evenly over it.

    Each source gets its share of ``PERIOD`` rows (at least one); its j-th row of c stands at time (j + ½)/c, so every
    stretch of the stream is close to the mixture: after any number of rows no source is off by more rows than there are
    sources.
    """

    PERIOD = 1 << 16

    def __init__(self, weights: Mapping[str, float]) -> None:
        """``weights``: positive shares of rows, of any sum."""
        self.names = list(weights)
        total = sum(weights.values())
        ideal = np.array([weight / total * self.PERIOD for weight in weights.values()])
        counts = np.maximum(np.floor(ideal), 1).astype(np.int64)
        spare = self.PERIOD - int(counts.sum())
        by_need = np.argsort(-(ideal - counts), kind="stable")
        counts[by_need[: max(spare, 0)]] += 1
        counts[int(counts.argmax())] += min(spare, 0)  # the rows that tiny sources were given come from the largest
        self.counts = counts
        source = np.repeat(np.arange(len(counts)), counts)
        rank = ranges(np.zeros(len(counts), dtype=np.int64), counts)
        order = np.argsort((rank + 0.5) / counts[source], kind="stable")
        self._source, self._rank = source[order], rank[order]

    def place(self, rows: Int64s) -> tuple[Int64s, Int64s]:
        """(source number, which of the source's rows it is) of each row of the stream."""
        period, slot = np.divmod(rows, self.PERIOD)
        source = self._source[slot]
        return source, period * self.counts[source] + self._rank[slot]

    def before(self, n: int) -> Int64s:
        """How many rows of each source, by number, are among the first ``n`` of the stream."""
        periods, rest = divmod(n, self.PERIOD)
        counts: Int64s = periods * self.counts + np.bincount(self._source[:rest], minlength=len(self.counts))
        return counts

    def used(self, n: int) -> dict[str, int]:
        """The same by name."""
        return dict(zip(self.names, self.before(n).tolist(), strict=True))


class SwitchedMixture:
    """Mixtures one after the other, each from a recorded row of the stream on. No row of a source is left out.

    A new mixture goes on at the same place of the period, so that a source of a small share is not put off again at
    every switch: between switches each keeps within a row or so of its share.
    """

    def __init__(self, first: Mixture) -> None:
        self.names, self.counts = first.names, first.counts
        self._first_rows = [0]
        self._weights: list[Mapping[str, float]] = [{}]
        self._used = [np.zeros(len(first.names), dtype=np.int64)]
        self._made: OrderedDict[int, Mixture] = OrderedDict()  # a mixture takes a megabyte: the last few are enough
        self._first = first

    def _mixture(self, part: int) -> Mixture:
        if part == 0:
            return self._first
        found = self._made.get(part)
        if found is None:
            found = Mixture({name: self._weights[part][name] for name in self.names})
            self._made[part] = found
            if len(self._made) > 4:
                self._made.popitem(last=False)
        return found

    def switch(self, row: int, weights: Mapping[str, float], used: Sequence[int] | None = None) -> list[int]:
        """From ``row`` on, other shares of rows (same names). Rows must increase; the last switch can be replaced.

        Returns the rows of each source before ``row``; ``used`` gives them where they are known already.
        """
        if row < self._first_rows[-1]:
            raise ValueError(f"a switch at row {row} behind one at row {self._first_rows[-1]}")
        if row == self._first_rows[-1] and row:
            self._made.pop(len(self._used) - 1, None)
            for of_switch in (self._first_rows, self._weights, self._used):
                of_switch.pop()
        before = self.before(row) if used is None else np.array(used, dtype=np.int64)
        self._used.append(before)
        self._weights.append(dict(weights))
        self._first_rows.append(row)
        return before.tolist()

    def place(self, rows: Int64s) -> tuple[Int64s, Int64s]:
        """(source number, which of the source's rows it is) of each row of the stream."""
        if len(self._first_rows) == 1:
            return self._first.place(rows)
        part_n = np.searchsorted(self._first_rows, rows, side="right") - 1
        source, index = np.empty_like(rows), np.empty_like(rows)
        for part in np.unique(part_n).tolist():
            here = part_n == part
            mixture = self._mixture(part)
            source[here], taken = mixture.place(rows[here])
            shift = self._used[part] - mixture.before(self._first_rows[part])
            index[here] = taken + shift[source[here]]
        return source, index

    def before(self, n: int) -> Int64s:
        """How many rows of each source, by number, are among the first ``n`` of the stream."""
        part = int(np.searchsorted(self._first_rows, n, side="right")) - 1
        mixture = self._mixture(part)
        counts: Int64s = self._used[part] + mixture.before(n) - mixture.before(self._first_rows[part])
        return counts

    def used(self, n: int) -> dict[str, int]:
        """The same by name."""
        return dict(zip(self.names, self.before(n).tolist(), strict=True))
