"""The endless stream of one source's packed rows: which plan row r is in, and where, without walking there.

``PlainStream``  every document once an epoch, shuffled.
``SampledStream``  documents by weight, from easy to hard, or both.

Weights.  Let w be a document's weight (mean 1 within its source) and u in [0, 1) a hash of (seed, source, document).
Epoch e has the document ⌊(e + 1)·w + u⌋ − ⌊e·w + u⌋ times: ⌊w⌋ or one more, w on average over documents *and* over
epochs (after E epochs never off by a whole copy), a function of seed, epoch and document alone. The draws repeat after
``PERIOD`` epochs (shuffles do not), so that any row's place is still a division and a search in ``PERIOD`` numbers.

Curriculum.  Documents are ordered by difficulty and cut into blocks of equal numbers of tokens; rows are packed within
a block. A stage that takes R rows of the source takes R/blocks from each in turn, shuffled within the block and over
as many passes of it as are needed: a stage shorter than an epoch still goes from the easiest to the hardest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from threading import Lock

import numpy as np
import numpy.typing as npt

from athanor.data.packing import EpochPlan, Packing
from athanor.data.shards import Int64s, ShardSet
from athanor.errors import AthanorError
from athanor.recipe.mixing import OrderRecipe, WeightingRecipe

Float64s = npt.NDArray[np.float64]
#: Epochs after which the draws of a weighted source repeat.
PERIOD = 64
#: A block of a curriculum has at least so many rows, or it would pack badly and be hardly shuffled.
MIN_BLOCK_ROWS = 32
_WEIGHT, _JITTER = 11, 12  # what a hash is for


def hashed(numbers: Int64s, *key: int) -> Float64s:
    """A number in [0, 1) for each document, from its number and ``key``: SplitMix64 (Steele et al., OOPSLA 2014)."""
    seed = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def document_weights(shards: ShardSet, rule: WeightingRecipe) -> Float64s | None:
    """Weights with mean 1, none above ``max_copies``; None where every document has the same."""
    if rule.kind == "none" or "weight" not in shards.measures:
        return None
    weights = shards.measures["weight"].astype(np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise AthanorError(
            "document weights must be numbers ≥ 0, not all 0",
            where=str(shards.path),
            fix="weighting: none, or mend them",
        )
    weights = weights**rule.power
    weights = np.minimum(weights / weights.mean(), rule.max_copies)
    weights = np.minimum(weights / weights.mean(), rule.max_copies)  # what the cap took goes to the others
    return None if np.ptp(weights) == 0 else weights


def stream_of(
    shards: ShardSet,
    seq_len: int,
    seed: int,
    key: int,
    weighting: WeightingRecipe,
    order: OrderRecipe,
    begun: int = 0,
) -> Stream:
    """The stream that weighting and order ask for: a plain one where they change nothing."""
    weights = document_weights(shards, weighting)
    if weights is None and order.kind == "shuffled":
        return PlainStream(shards, seq_len, seed, key, begun)
    return SampledStream(shards, seq_len, seed, key, weights, order, begun)


def copies(weights: Float64s, uniform: Float64s, epoch: int) -> Int64s:
    """How many times the epoch has each document."""
    epoch %= PERIOD
    return (np.floor((epoch + 1) * weights + uniform) - np.floor(epoch * weights + uniform)).astype(np.int64)


class Stream(ABC):
    """Rows of one source. ``n_rows``: rows of one (mean) epoch; ``efficiency``: share of positions that are used."""

    n_rows: float
    efficiency: float
    #: documents longer than a row, and the positions of the longest one
    n_cut: int
    longest: int

    def __init__(self, shards: ShardSet, seq_len: int, seed: int, key: int, keep: int = 3) -> None:
        self.shards, self.seq_len, self.seed, self.key = shards, seq_len, seed, key
        self.n_cut = int((shards.doc_lens - 1 > seq_len).sum())
        self.longest = int(shards.doc_lens.max() - 1) if shards.n_docs else 0
        self.n_positions = int(np.maximum(shards.doc_lens - 1, 0).sum())
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()
        self._keep = keep
        self._lock = Lock()

    def plan(self, number: int) -> EpochPlan:
        """The plan of that number, from the last few or made."""
        with self._lock:
            if number not in self._plans:
                if len(self._plans) >= self._keep:
                    self._plans.popitem(last=False)
                self._plans[number] = self._make(number)
            self._plans.move_to_end(number)
            return self._plans[number]

    @abstractmethod
    def place(self, index: Int64s) -> tuple[Int64s, Int64s]:
        """(number of the plan, row in it) of rows of the stream."""

    @abstractmethod
    def _make(self, number: int) -> EpochPlan: ...

    @abstractmethod
    def seen(self, n: int) -> Int64s:
        """Positions of each label (``ShardSet.labels``) in the first ``n`` rows."""

    def _by_label(self, docs: Int64s, positions: Int64s) -> Int64s:
        labels = self.shards.labels
        if len(labels) == 1:
            return np.array([int(positions.sum())], dtype=np.int64)
        counts = np.bincount(self.shards.label_of[docs], weights=positions, minlength=len(labels))
        return counts.astype(np.int64)  # exact: float64 holds whole numbers up to 2⁵³

    def _all(self, counts: Int64s | None, docs: Int64s | None = None) -> Int64s:
        """Positions of each label in one pass over ``docs`` (all), each ``counts`` times (once)."""
        numbers = np.arange(self.shards.n_docs, dtype=np.int64) if docs is None else docs
        positions = np.maximum(self.shards.doc_lens[numbers] - 1, 0)
        return self._by_label(numbers, positions if counts is None else positions * counts)


class PlainStream(Stream):
    """Every document once an epoch. The number of rows is the same in every epoch.

    ``begun``: rows that earlier stages took; the stream goes on behind them.
    """

    def __init__(self, shards: ShardSet, seq_len: int, seed: int, key: int, begun: int = 0) -> None:
        super().__init__(shards, seq_len, seed, key)
        self._packing = Packing(shards.doc_lens, seq_len)
        self.n_rows, self.efficiency = self._packing.n_rows, self._packing.efficiency
        self._begun = begun

    def place(self, index: Int64s) -> tuple[Int64s, Int64s]:
        return np.divmod(index + self._begun, self._packing.n_rows)

    def _make(self, number: int) -> EpochPlan:
        return self._packing.epoch(self.seed, self.key, number)

    def seen(self, n: int) -> Int64s:
        return self._seen(self._begun + n) - self._seen(self._begun)

    def _seen(self, n: int) -> Int64s:
        epochs, rest = divmod(n, self._packing.n_rows)
        counts = epochs * self._all(None)
        return counts + self._by_label(*self.plan(epochs).positions(rest)) if rest else counts


class _Block:
    """Some documents of a source, packed by themselves: an endless stream of passes over them."""

    def __init__(self, stream: SampledStream, docs: Int64s) -> None:
        self.stream, self.docs = stream, docs
        self._packings: OrderedDict[int, Packing] = OrderedDict()
        self._ends = [0]  # rows up to the end of each pass, as far as known
        weights = stream.weights
        self.period = 1 if weights is None else PERIOD
        first = self.packing(0)
        self.efficiency = first.efficiency or 1.0
        mean_tokens = float(first.n_positions)
        if weights is not None:
            mean_tokens = float((np.maximum(stream.shards.doc_lens[docs] - 1, 0) * weights[docs]).sum())
        self.mean_rows = mean_tokens / (stream.seq_len * self.efficiency)

    def counts(self, epoch: int) -> Int64s | None:
        stream = self.stream
        return None if stream.weights is None else copies(stream.weights[self.docs], stream.uniform[self.docs], epoch)

    def packing(self, epoch: int) -> Packing:
        """How the documents of an epoch fill rows. With weights each has its own; the last two are kept."""
        epoch %= self.period
        if epoch not in self._packings:
            counts = self.counts(epoch)
            docs = self.docs if counts is None else np.repeat(self.docs, counts)
            if len(self._packings) >= 2:
                self._packings.popitem(last=False)
            self._packings[epoch] = Packing(self.stream.shards.doc_lens[docs], self.stream.seq_len, docs)
        return self._packings[epoch]

    def _known(self, rows: int) -> list[int]:
        """Ends of the passes of a period, at least up to the one that holds row ``rows``."""
        while self._ends[-1] <= rows and len(self._ends) <= self.period:
            self._ends.append(self._ends[-1] + self.packing(len(self._ends) - 1).n_rows)
        return self._ends

    def place(self, index: Int64s) -> tuple[Int64s, Int64s]:
        """(epoch, row in it)."""
        ends = self._known(int(index.max()))
        periods = np.zeros_like(index)
        if len(ends) > self.period:
            if not ends[-1]:
                where, fix = str(self.stream.shards.path), "other weights"
                raise AthanorError("no document of this source is ever drawn", where=where, fix=fix)
            periods, index = np.divmod(index, ends[-1])
        inside = np.searchsorted(ends, index, side="right") - 1
        return periods * self.period + inside, index - np.array(ends)[inside]

    def seen(self, number: int, n: int) -> Int64s:
        if not n:
            return np.zeros(len(self.stream.shards.labels), dtype=np.int64)
        epoch, rest = (int(x[0]) for x in self.place(np.array([n - 1])))
        rest += 1
        periods, inside = divmod(epoch, self.period)
        each = [self.stream._all(self.counts(p), self.docs) for p in range(self.period if periods else inside)]
        zero = np.zeros(len(self.stream.shards.labels), dtype=np.int64)
        whole = periods * sum(each, zero) + sum(each[:inside], zero)
        plan = self.stream.plan(epoch * len(self.stream.blocks) + number)
        return whole + self.stream._by_label(*plan.positions(rest))


class SampledStream(Stream):
    """Documents by weight (``weights``: mean 1, or None) and, with ``order: easy_to_hard``, in blocks by difficulty.

    A curriculum is spread over ``span`` rows (``spread``), at first over one epoch. Plans are numbered
    epoch · blocks + block.
    """

    def __init__(
        self,
        shards: ShardSet,
        seq_len: int,
        seed: int,
        key: int,
        weights: Float64s | None,
        order: OrderRecipe,
        begun: int = 0,
    ) -> None:
        """``begun``: rows that earlier stages of the same order took: each block goes on behind its part of them."""
        super().__init__(shards, seq_len, seed, key)
        self.weights = weights
        self.uniform = hashed(shards.numbers, seed, key, _WEIGHT)
        ordered = order.kind == "easy_to_hard"
        wanted = min(order.blocks, max(1, self.n_positions // (seq_len * MIN_BLOCK_ROWS))) if ordered else 1
        docs = self._ordered(order.jitter) if ordered else np.arange(shards.n_docs, dtype=np.int64)
        ends = np.cumsum(np.maximum(shards.doc_lens[docs] - 1, 0))
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, wanted) / wanted)
        self.blocks = [_Block(self, part) for part in np.split(docs, cuts) if len(part)]
        self.blocks = [block for block in self.blocks if block.mean_rows]
        if not self.blocks:
            raise AthanorError("no document of this source has a weight", where=str(shards.path), fix="weighting: none")
        rows = np.array([block.mean_rows for block in self.blocks])
        self.n_rows = float(rows.sum())
        self.efficiency = float(np.average([block.efficiency for block in self.blocks], weights=rows))
        self._share = np.cumsum(rows) / rows.sum()
        self._begun = np.diff(self._cut(begun))
        self.spread(round(self.n_rows))

    def spread(self, span: int) -> None:
        """Spread a curriculum over so many rows: those that the stage takes of this source."""
        self.span = max(1, span)
        self._bounds = self._cut(self.span)

    def difficulty_by_part(self) -> list[float]:
        """Mean known difficulty of each part of a curriculum, in the order they are read; empty without one."""
        difficulty = self.shards.measures.get("difficulty")
        if difficulty is None or len(self.blocks) == 1:
            return []
        known = [difficulty[block.docs][np.isfinite(difficulty[block.docs])] for block in self.blocks]
        return [float(part.mean()) for part in known if len(part)]

    def _ordered(self, jitter: float) -> Int64s:
        """Documents from easy to hard; those of unknown difficulty spread evenly between."""
        shards = self.shards
        noise = hashed(shards.numbers, self.seed, self.key, _JITTER)
        difficulty = shards.measures.get("difficulty")
        if difficulty is None:
            raise AthanorError(
                "order easy_to_hard, but no document here has a difficulty",
                where=str(shards.path),
                fix="a step that measures difficulty in data.steps, or order: shuffled",
            )
        score = noise.copy()
        known = np.flatnonzero(np.isfinite(difficulty))
        order = np.lexsort((shards.numbers[known], difficulty[known]))
        score[known[order]] = (np.arange(len(known)) + 0.5) / max(1, len(known))
        return np.lexsort((shards.numbers, score + jitter * (2 * noise - 1)))

    def _cut(self, rows: int) -> Int64s:
        """Where each block's part of ``rows`` begins and ends: whole rows, as even as they can be."""
        return np.concatenate([[0], np.round(rows * self._share)]).astype(np.int64)

    def _of_block(self, index: Int64s) -> tuple[Int64s, Int64s]:
        """(block, which of the block's rows) of rows of the stage; behind the span it begins anew, further on."""
        if len(self.blocks) == 1:
            return np.zeros_like(index), index + self._begun[0]
        again, inside = np.divmod(index, self.span)
        block = np.searchsorted(self._bounds, inside, side="right") - 1
        sizes = np.diff(self._bounds)
        return block, self._begun[block] + again * sizes[block] + inside - self._bounds[block]

    def place(self, index: Int64s) -> tuple[Int64s, Int64s]:
        block_n, row_n = self._of_block(index)
        numbers, inside = np.empty_like(index), np.empty_like(index)
        for block in np.unique(block_n).tolist():
            here = block_n == block
            epoch, inside[here] = self.blocks[block].place(row_n[here])
            numbers[here] = epoch * len(self.blocks) + block
        return numbers, inside

    def _make(self, number: int) -> EpochPlan:
        epoch, block = divmod(number, len(self.blocks))
        return self.blocks[block].packing(epoch).epoch(self.seed, self.key, epoch, block)

    def seen(self, n: int) -> Int64s:
        again, inside = divmod(n, self.span) if len(self.blocks) > 1 else (0, n)
        total = np.zeros(len(self.shards.labels), dtype=np.int64)
        for number, block in enumerate(self.blocks):
            rows = n
            if len(self.blocks) > 1:
                low, high = self._bounds[number : number + 2].tolist()
                rows = again * (high - low) + min(max(inside - low, 0), high - low)
            begun = int(self._begun[number])
            total += block.seen(number, begun + rows) - block.seen(number, begun)
        return total
