"""The endless stream of packed rows: row r is a function of (seed, r) alone.

No state is kept between calls but caches, so any rank, worker or resumed run asks for the rows it needs and gets the
same ones. Which source row r comes from, and which of that source's rows it is, are closed forms (``Mixture``); which
documents are in that row is the epoch's plan (``packing.Packing``), made when it is first needed.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
import torch

from athanor.data.packing import EpochPlan, Packing
from athanor.data.shards import Int64s, ShardSet, ranges
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.files import digest
from athanor.recipe.schema import StageRecipe, TrainRecipe


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

    def used(self, n: int) -> dict[str, int]:
        """How many rows of each source are among the first ``n`` of the stream."""
        periods, rest = divmod(n, self.PERIOD)
        counts = periods * self.counts + np.bincount(self._source[:rest], minlength=len(self.counts))
        return dict(zip(self.names, counts.tolist(), strict=True))


class PackedLoader:
    """Packed rows of ``seq_len`` positions from a weighted mixture of sources.

    Documents never cross a row and attention never crosses documents (``Batch.doc_lens``); one that fits a row is
    never cut. Every token but a document's first is a target exactly once an epoch (where the source has a mask, only
    learned ones), also across the cut of a longer document.
    """

    def __init__(
        self,
        sources: Mapping[str, ShardSet],
        mixture: Mapping[str, float] | None,
        seq_len: int,
        seed: int,
        *,
        pad_id: int = 1,
        start: Mapping[str, int] | None = None,
        need_full_context: bool = False,
    ) -> None:
        """``mixture``: shares of tokens by source; empty: as the tokens are. ``start``: rows of a source that earlier
        stages took (``source_rows``), so that this one goes on behind them.

        ``need_full_context``: a mixture without one document that fills a row is an error and not only a note.
        """
        weights = _weights(sources, mixture)
        self.seq_len, self.seed, self.pad_id = seq_len, seed, pad_id
        self._shards = [sources[name] for name in weights]
        self._packings = [Packing(shards.doc_lens, seq_len) for shards in self._shards]
        self._keys = [zlib.crc32(name.encode()) for name in weights]
        self._start = np.array([(start or {}).get(name, 0) for name in weights], dtype=np.int64)
        # Rows of a source that packs badly hold fewer tokens, so it needs more of them for its share.
        self.mixture = Mixture({n: w / p.efficiency for (n, w), p in zip(weights.items(), self._packings, strict=True)})
        self._weights = weights
        self._plans: OrderedDict[tuple[int, int], EpochPlan] = OrderedDict()
        self._lock = Lock()
        self.notes = self._notes(need_full_context)

    def rows(self, first_row: int, n: int) -> Batch:
        """Rows first_row … first_row + n - 1 of the stream as one batch [n, seq_len] (int64, on the CPU).

        ``meta``: ``source_tokens``, positions used by each source; ``n_targets``.
        """
        source_n, index_n = self.mixture.place(np.arange(first_row, first_row + n, dtype=np.int64))
        ids = np.full(n * self.seq_len, self.pad_id, dtype=np.int64)
        labels = np.full(n * self.seq_len, IGNORE, dtype=np.int64)
        doc_lens: list[list[int]] = [[] for _ in range(n)]
        source_tokens: dict[str, int] = {}
        for source in np.unique(source_n).tolist():
            rows = np.flatnonzero(source_n == source)
            used = self._fill(source, rows, index_n[rows] + self._start[source], ids, labels, doc_lens)
            source_tokens[self.mixture.names[source]] = used
        lens = np.fromiter(chain.from_iterable(doc_lens), dtype=np.int64)
        positions = ranges(np.zeros(len(lens), dtype=np.int64), lens)
        meta: dict[str, Any] = {"source_tokens": source_tokens, "n_targets": int((labels != IGNORE).sum())}
        ids_BT, labels_BT, positions_BT = (torch.from_numpy(a.reshape(n, -1)) for a in (ids, labels, positions))
        return Batch(ids_BT, labels_BT, positions_BT, doc_lens, meta=meta)

    def _fill(
        self, source: int, rows: Int64s, index: Int64s, ids: Int64s, labels: Int64s, doc_lens: list[list[int]]
    ) -> int:
        """Write the source's rows ``index`` to the batch's ``rows``; returns the positions used."""
        epochs, inside = np.divmod(index, self._packings[source].n_rows)
        used = 0
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            plan = self._plan(source, epoch)
            first, counts = plan.first[inside[here]], plan.first[inside[here] + 1] - plan.first[inside[here]]
            pieces = ranges(first, counts)
            lens = plan.lens[pieces]
            inputs, targets, learned = self._shards[source].gather(plan.docs[pieces], plan.starts[pieces], lens)
            ends = np.cumsum(lens)
            row_ends = np.cumsum(counts)
            filled = np.diff(ends[row_ends - 1], prepend=0)
            to = ranges(rows[here] * self.seq_len, filled)
            ids[to] = inputs
            labels[to] = np.where(learned, targets, IGNORE)
            for row, part, n_filled in zip(rows[here].tolist(), np.split(lens, row_ends[:-1]), filled, strict=True):
                padding = self.seq_len - int(n_filled)
                doc_lens[row] = [*part.tolist(), padding] if padding else part.tolist()
            used += len(inputs)
        return used

    def _plan(self, source: int, epoch: int) -> EpochPlan:
        with self._lock:
            if (source, epoch) not in self._plans:
                if len(self._plans) >= 2 * len(self._shards):  # this epoch and the one it borders on, of each source
                    self._plans.popitem(last=False)
                self._plans[source, epoch] = self._packings[source].epoch(self.seed, self._keys[source], epoch)
            self._plans.move_to_end((source, epoch))
            return self._plans[source, epoch]

    def source_rows(self, n: int) -> dict[str, int]:
        """Rows of each source behind the stream's first ``n`` rows, ``start`` included: the next stage's ``start``."""
        used = self.mixture.used(n)
        return {name: used[name] + int(start) for name, start in zip(used, self._start, strict=True)}

    def efficiency(self) -> float:
        """Share of the stream's positions that hold a token of a document."""
        return float(np.average([p.efficiency for p in self._packings], weights=self.mixture.counts))

    def describe(self) -> dict[str, dict[str, float]]:
        """By source: share of tokens and of rows, documents, tokens and rows an epoch, efficiency, documents cut."""
        return {
            name: {
                "token_share": weight,
                "row_share": int(rows) / Mixture.PERIOD,
                "documents": shards.n_docs,
                "tokens": shards.n_tokens,
                "rows_per_epoch": packing.n_rows,
                "efficiency": packing.efficiency,
                "documents_cut": packing.n_cut,
            }
            for (name, weight), rows, shards, packing in zip(
                self._weights.items(), self.mixture.counts, self._shards, self._packings, strict=True
            )
        }

    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides the stream: the shards' checksums, mixture, seq_len, seed, start."""
        files = {n: s.index["shards"] for n, s in zip(self._weights, self._shards, strict=True)}
        return digest([files, list(self._weights.items()), self.seq_len, self.seed, self.pad_id, self._start.tolist()])

    def _notes(self, need_full_context: bool) -> list[str]:
        notes = []
        longest = max(packing.longest for packing in self._packings)
        if longest < self.seq_len:
            what = (
                f"no document fills the context: the longest has {longest} positions, seq_len is {self.seq_len}; "
                "training would see only short documents packed together"
            )
            if need_full_context:
                raise AthanorError(
                    what, where="long-context stage", fix="a smaller seq_len, or sources with long documents"
                )
            notes.append(what)
        for name, shards, packing in zip(self._weights, self._shards, self._packings, strict=True):
            if shards.with_mask and packing.n_cut:
                notes.append(
                    f"{name}: {packing.n_cut} of {shards.n_docs} conversations are longer than a row and are cut"
                )
        return notes


def _weights(sources: Mapping[str, ShardSet], mixture: Mapping[str, float] | None) -> dict[str, float]:
    """Normalised shares of the sources that are used, checked."""
    for name in mixture or {}:
        if name not in sources:
            raise AthanorError(
                f"the mixture names source {name!r}", where="mixture", fix=f"one of: {', '.join(sources) or 'none'}"
            )
    weights = dict(mixture) if mixture else {name: float(shards.n_tokens) for name, shards in sources.items()}
    if any(not 0 <= weight < float("inf") for weight in weights.values()) or not sum(weights.values()):
        raise AthanorError(f"the weights are {weights}", where="mixture", fix="numbers ≥ 0, at least one above 0")
    weights = {name: weight for name, weight in weights.items() if weight}
    first = sources[next(iter(weights))]
    for name in weights:
        if not sources[name].n_docs:
            raise AthanorError(f"source {name!r} has no documents", where=str(sources[name].path), fix="add documents")
        sources[name].require_tokenizer(first.tokenizer_fingerprint)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def stage_loader(
    stage: StageRecipe,
    train: TrainRecipe,
    sources: Mapping[str, ShardSet],
    seed: int,
    *,
    pad_id: int = 1,
    start: Mapping[str, int] | None = None,
) -> PackedLoader:
    """The loader of one pre-training stage.

    A stage is there to lengthen the context when it is named ``long_context`` or sets both a ``seq_len`` above the
    recipe's and a new ``rope_theta``; then at least one document has to fill its rows.
    """
    seq_len = stage.seq_len or train.seq_len
    lengthens = stage.name == "long_context" or (stage.rope_theta is not None and seq_len > train.seq_len)
    return PackedLoader(sources, stage.mixture, seq_len, seed, pad_id=pad_id, start=start, need_full_context=lengthens)


def held_out_batches(
    shards: ShardSet, seq_len: int, max_tokens: int, *, rows_per_batch: int = 8, pad_id: int = 1
) -> list[Batch]:
    """A fixed sample of a held-out source for evaluation: each row at most once, about ``max_tokens`` positions."""
    loader = PackedLoader({"held_out": shards}, None, seq_len, seed=0, pad_id=pad_id)
    n = min(int(loader.describe()["held_out"]["rows_per_epoch"]), max(1, max_tokens // seq_len))
    return [loader.rows(at, min(rows_per_batch, n - at)) for at in range(0, n, rows_per_batch)]
