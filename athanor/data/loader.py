"""The endless stream of packed rows: row r is a function of (seed, r) alone.

No state is kept between calls but caches, so any rank, worker or resumed run asks for the rows it needs and gets the
same ones. Which source row r comes from, and which of that source's rows it is, are closed forms (``mixing.Mixture``);
which documents are in that row is a plan of the source's stream (``streams``), made when it is first needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from athanor.data.mixing import Mixture, SwitchedMixture
from athanor.data.shards import Int64s, ShardSet, ranges
from athanor.data.streams import SampledStream, stream_of
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.files import digest
from athanor.recipe.mixing import OrderRecipe, WeightingRecipe
from athanor.recipe.schema import StageRecipe, TrainRecipe


@dataclass(frozen=True, slots=True)
class Seen:
    """What a stretch of the stream has read, exactly: positions that hold a token, by source and by domain, and how
    many times over that is each source (its documents' positions; 0.5: half of them, or some of them)."""

    tokens: dict[str, int]
    domains: dict[str, int]
    epochs: dict[str, float]

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(_added(getattr(self, name), getattr(other, name)) for name in ("tokens", "domains", "epochs")))


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in [*one, *(n for n in other if n not in one)]}


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
        weighting: WeightingRecipe | None = None,
        order: OrderRecipe | None = None,
        n_rows: int | None = None,
        tag_sources: bool = False,
    ) -> None:
        """``mixture``: shares of tokens by source; empty: as the tokens are. ``start``: rows of a source that earlier
        stages took (``source_rows``), so that this one goes on behind them.

        ``need_full_context``: a mixture without one document that fills a row is an error and not only a note.
        ``weighting``, ``order``: how documents are drawn (``streams``; every one once an epoch, shuffled). ``n_rows``:
        rows of the whole stage, over which a curriculum is spread (one epoch of each source). ``tag_sources``: batches
        say of each row which source it is from (``extras["source"]`` int64 [n], a place in ``names``).
        """
        weights = _weights(sources, mixture)
        self.seq_len, self.seed, self.pad_id, self.tag_sources = seq_len, seed, pad_id, tag_sources
        self._weighting, self._order = weighting or WeightingRecipe(), order or OrderRecipe()
        #: the sources that are used
        self.names = list(weights)
        self._shards = [sources[name] for name in weights]
        self._start = np.array([(start or {}).get(name, 0) for name in weights], dtype=np.int64)
        self._streams = [
            stream_of(shards, seq_len, seed, zlib.crc32(name.encode()), self._weighting, self._order, int(begun))
            for name, shards, begun in zip(weights, self._shards, self._start, strict=True)
        ]
        self._weights = weights
        self.mixture = SwitchedMixture(Mixture(self._row_shares(weights)))
        #: (row, shares of tokens, rows of each source before it) of every switch of the mixture so far
        self.switches: list[tuple[int, dict[str, float], list[int]]] = []
        self._span_rows = n_rows
        for used, stream in zip(self.mixture.before(n_rows or 0), self._streams, strict=True):
            if n_rows and isinstance(stream, SampledStream):
                stream.spread(int(used))
        self.notes = self._notes(need_full_context)

    def _row_shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        # Rows of a source that packs badly hold fewer tokens, so it needs more of them for its share.
        return {name: weights[name] / stream.efficiency for name, stream in zip(self.names, self._streams, strict=True)}

    def switch(self, row: int, shares: Mapping[str, float], used: Sequence[int] | None = None) -> None:
        """From row ``row`` of the stream on, other shares of tokens (of all ``names``, each above 0).

        The stream stays a function of (seed, row) and the switches so far. ``used``: as ``switches`` has it, where it
        is known. ``ValueError`` for a row before the last switch.
        """
        if set(shares) != set(self.names) or not all(0 < share < float("inf") for share in shares.values()):
            raise ValueError(f"shares {dict(shares)} are not positive shares of {self.names}")
        before = self.mixture.switch(row, self._row_shares(shares), used)
        if self.switches and self.switches[-1][0] == row:
            self.switches.pop()
        self.switches.append((row, dict(shares), before))

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
            used = self._fill(source, rows, index_n[rows], ids, labels, doc_lens)
            source_tokens[self.mixture.names[source]] = used
        lens = np.fromiter(chain.from_iterable(doc_lens), dtype=np.int64)
        positions = ranges(np.zeros(len(lens), dtype=np.int64), lens)
        meta: dict[str, Any] = {"source_tokens": source_tokens, "n_targets": int((labels != IGNORE).sum())}
        ids_BT, labels_BT, positions_BT = (torch.from_numpy(a.reshape(n, -1)) for a in (ids, labels, positions))
        batch = Batch(ids_BT, labels_BT, positions_BT, doc_lens, meta=meta)
        if self.tag_sources:
            batch.extras["source"] = torch.from_numpy(source_n)
        return batch

    def _fill(
        self, source: int, rows: Int64s, index: Int64s, ids: Int64s, labels: Int64s, doc_lens: list[list[int]]
    ) -> int:
        """Write the source's rows ``index`` to the batch's ``rows``; returns the positions used."""
        stream = self._streams[source]
        plans, inside = stream.place(index)
        used = 0
        for number in np.unique(plans).tolist():
            here = plans == number
            plan = stream.plan(number)
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

    def source_rows(self, n: int) -> dict[str, int]:
        """Rows of each source behind the stream's first ``n`` rows, ``start`` included: the next stage's ``start``."""
        used = self.mixture.used(n)
        return {name: used[name] + int(start) for name, start in zip(used, self._start, strict=True)}

    def seen(self, n: int) -> Seen:
        """What the stream's first ``n`` rows have read (without what ``start`` stands for): a function of ``n`` alone,
        so it is the same on every rank, in every layout and after a resume."""
        by_label = [stream.seen(int(rows)) for stream, rows in zip(self._streams, self.mixture.before(n), strict=True)]
        domains: dict[str, int] = {}
        for name, shards, counts in zip(self.names, self._shards, by_label, strict=True):
            for (domain, _), count in zip(shards.labels, counts.tolist(), strict=True):
                domains[domain or name] = domains.get(domain or name, 0) + count
        tokens = {name: int(counts.sum()) for name, counts in zip(self.names, by_label, strict=True)}
        sizes = [stream.n_positions for stream in self._streams]
        epochs = {name: count / size for (name, count), size in zip(tokens.items(), sizes, strict=True)}
        return Seen(tokens, domains, epochs)

    def efficiency(self) -> float:
        """Share of the stream's positions that hold a token of a document."""
        return float(np.average([stream.efficiency for stream in self._streams], weights=self.mixture.counts))

    def describe(self) -> dict[str, dict[str, float]]:
        """By source: share of tokens and of rows, documents, tokens and rows an epoch, efficiency, documents cut."""
        return {
            name: {
                "token_share": weight,
                "row_share": int(rows) / Mixture.PERIOD,
                "documents": shards.n_docs,
                "tokens": shards.n_tokens,
                "rows_per_epoch": stream.n_rows,
                "efficiency": stream.efficiency,
                "documents_cut": stream.n_cut,
            }
            for (name, weight), rows, shards, stream in zip(
                self._weights.items(), self.mixture.counts, self._shards, self._streams, strict=True
            )
        }

    def curriculum(self) -> dict[str, list[float]]:
        """By source that is read from easy to hard: mean difficulty of each part, in the order they are read."""
        if self.drawing[1].get("kind") != "easy_to_hard":
            return {}
        pairs = zip(self._weights, self._streams, strict=True)
        return {name: s.difficulty_by_part() for name, s in pairs if isinstance(s, SampledStream)}

    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides the stream but the switches, which a run records: the shards'
        checksums, mixture, seq_len, seed, start, and how documents are drawn."""
        files = {n: s.index["shards"] for n, s in zip(self._weights, self._shards, strict=True)}
        known = [files, list(self._weights.items()), self.seq_len, self.seed, self.pad_id, self._start.tolist()]
        if self.drawing != _PLAIN:
            known.append([*self.drawing, self._span_rows])
        return digest(known)

    @property
    def drawing(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """How documents are drawn. Rows of a source that are drawn otherwise are other rows: a stage that draws in
        another way cannot go on behind them."""
        return self._weighting.model_dump(), self._order.model_dump()

    def _notes(self, need_full_context: bool) -> list[str]:
        notes = []
        longest = max(stream.longest for stream in self._streams)
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
        for name, shards, stream in zip(self._weights, self._shards, self._streams, strict=True):
            if shards.with_mask and stream.n_cut:
                notes.append(
                    f"{name}: {stream.n_cut} of {shards.n_docs} conversations are longer than a row and are cut"
                )
            if self._weighting.kind != "none" and "weight" not in shards.measures:
                notes.append(f"{name}: its documents have no weight, so each is read once an epoch")
        return notes


_PLAIN = (WeightingRecipe().model_dump(), OrderRecipe().model_dump())


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
    mixture: Mapping[str, float] | None = None,
    n_rows: int | None = None,
) -> PackedLoader:
    """The loader of one pre-training stage.

    ``mixture``: the stage's, where it is not given source by source (``athanor.data.mixtures``). ``n_rows``: rows of
    the stage, over which a curriculum is spread. ``start``: rows by source that earlier stages took.

    A stage is there to lengthen the context when it is named ``long_context`` or sets both a ``seq_len`` above the
    recipe's and a new ``rope_theta``; then at least one document has to fill its rows.
    """
    seq_len = stage.seq_len or train.seq_len
    lengthens = stage.name == "long_context" or (stage.rope_theta is not None and seq_len > train.seq_len)
    if mixture is None:
        assert isinstance(stage.mixture, dict), "the caller resolves mixtures that are not given by source"
        mixture = stage.mixture
    return PackedLoader(
        sources,
        mixture,
        seq_len,
        seed,
        pad_id=pad_id,
        start=start,
        need_full_context=lengthens,
        weighting=stage.weighting,
        order=stage.order,
        n_rows=n_rows,
        tag_sources=stage.reweight is not None,
    )


def held_out_batches(
    shards: ShardSet, seq_len: int, max_tokens: int, *, rows_per_batch: int = 8, pad_id: int = 1
) -> list[Batch]:
    """A fixed sample of a held-out source for evaluation: each row at most once, about ``max_tokens`` positions."""
    loader = PackedLoader({"held_out": shards}, None, seq_len, seed=0, pad_id=pad_id)
    n = min(int(loader.describe()["held_out"]["rows_per_epoch"]), max(1, max_tokens // seq_len))
    return [loader.rows(at, min(rows_per_batch, n - at)) for at in range(0, n, rows_per_batch)]
