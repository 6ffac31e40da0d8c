"""What each context-parallel rank holds: rows cut into chunks, and which rank has which tokens.

Two ways. ``document``: every document is cut into 2·cp chunks and rank i takes chunks i and 2·cp − 1 − i of *every*
document (Pangu Ultra, arXiv 2504.07866, sub-sequence partitioning), so that the ranks attend to equally many pairs
wherever documents begin. ``sequence``: the same two chunks of the whole row, which is balanced only where a row is one
document.

Lengths seldom divide by 2·cp. The tokens left over go one each to the ranks that hold fewest tokens of the row so far
and, among those, attend to the fewest pairs: a rank holds ⌊T/cp⌋ or ⌈T/cp⌉ tokens of every row. Where cp divides T
there is no padding at all, else a local row ends in at most one ignored token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from athanor.data.shards import Int64s, ranges
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.model.moe import Load

Split = Literal["document", "sequence"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches of documents that one rank holds, in the order of the whole batch: int64 arrays [P].

    ``doc``: document, counted over all rows; ``start``: place in the document; ``owner``: rank; ``at``: flat place in
    the owner's [B · T_local] tokens. Pieces of one document and owner that follow one another lie side by side there.
    """

    doc: Int64s
    start: Int64s
    length: Int64s
    owner: Int64s
    at: Int64s

    def where(self, mask: Any) -> Pieces:
        """Those that ``mask`` (or an index) picks."""
        return Pieces(self.doc[mask], self.start[mask], self.length[mask], self.owner[mask], self.at[mask])


@dataclass(frozen=True)
class Layout:
    """A batch of B rows over ``size`` ranks, the same value on every rank. ``n_local``: tokens of a local row."""

    doc_lens: tuple[tuple[int, ...], ...]
    size: int
    how: Split
    n_local: int
    pieces: Pieces

    @classmethod
    def of(cls, doc_lens: Sequence[Sequence[int]], size: int, how: Split) -> Layout:
        """From each row's document lengths; they must be positive and add up to the same T in every row."""
        totals = {sum(lens) for lens in doc_lens}
        if len(totals) != 1 or min(min(lens) for lens in doc_lens) <= 0:
            raise AthanorError(
                f"document lengths of the rows add up to {sorted(totals)}: rows of one length are needed",
                where="doc_lens",
            )
        if how not in ("document", "sequence"):
            raise AthanorError(f"no way to split is called {how!r}", where="cp_split", fix="document or sequence")
        chunks = _document_chunks if how == "document" else _sequence_chunks
        doc, start, length, owner = (np.concatenate(x) for x in zip(*chunks(doc_lens, size), strict=True))
        real = length > 0
        doc, start, length, owner = doc[real], start[real], length[real], owner[real]
        # Middle chunks (cp − 1 and cp), and others that only empty ones lie between, are one piece: fewer calls.
        first = np.ones(len(doc), dtype=bool)
        first[1:] = (doc[1:] != doc[:-1]) | (owner[1:] != owner[:-1])
        begins = np.flatnonzero(first)
        doc, start, owner = doc[begins], start[begins], owner[begins]
        length = np.add.reduceat(length, begins)
        row = np.repeat(np.arange(len(doc_lens)), [len(lens) for lens in doc_lens])[doc]
        offset, n_local = _offsets(row * size + owner, length)
        return cls(
            tuple(map(tuple, doc_lens)), size, how, n_local, Pieces(doc, start, length, owner, row * n_local + offset)
        )

    @property
    def n_rows(self) -> int:
        """B."""
        return len(self.doc_lens)

    @property
    def row_len(self) -> int:
        """T, tokens of a whole row."""
        return sum(self.doc_lens[0])

    @cached_property
    def doc_offsets(self) -> Int64s:
        """Flat place of each document's first token in the whole batch [n_docs]."""
        lens = np.fromiter((n for lens in self.doc_lens for n in lens), dtype=np.int64)
        return np.cumsum(lens) - lens

    @property
    def padding(self) -> int:
        """Ignored tokens that fill up local rows, over all ranks."""
        return self.n_rows * (self.n_local * self.size - self.row_len)

    @property
    def padding_share(self) -> float:
        """Padding as a share of all local tokens."""
        return self.padding / (self.n_rows * self.n_local * self.size)

    @cached_property
    def tokens_R(self) -> Int64s:
        """Real tokens of each rank [size]."""
        return _total(self.pieces.owner, self.pieces.length, self.size)

    @cached_property
    def pairs_R(self) -> Int64s:
        """(query, key) pairs that the queries of each rank attend to [size]: exact, causal, inside documents.

        A query at place p of its document attends to p + 1 keys; its FLOPs are 4 · heads · head_dim a pair and layer.
        """
        return _total(self.pieces.owner, _pairs(self.pieces.start, self.pieces.length), self.size)

    def tokens(self, at: int) -> Int64s:
        """Flat places in the whole batch of the local tokens of rank ``at`` [B · T_local]; −1 is padding."""
        mine = self.pieces.where(self.pieces.owner == at)
        out = np.full(self.n_rows * self.n_local, -1, dtype=np.int64)
        out[ranges(mine.at, mine.length)] = ranges(self.doc_offsets[mine.doc] + mine.start, mine.length)
        return out

    @cached_property
    def places(self) -> Int64s:
        """Where each token of the whole batch [B · T] lies when the ranks' local tokens are put one after another."""
        p = self.pieces
        out = np.empty(self.n_rows * self.row_len, dtype=np.int64)
        out[ranges(self.doc_offsets[p.doc] + p.start, p.length)] = ranges(
            p.owner * (self.n_rows * self.n_local) + p.at, p.length
        )
        return out

    def rows(self, first: int, end: int) -> Layout:
        """Rows first … end − 1, split as they are here."""
        before, inside = (sum(map(len, self.doc_lens[a:b])) for a, b in ((0, first), (first, end)))
        p = self.pieces.where((self.pieces.doc >= before) & (self.pieces.doc < before + inside))
        pieces = replace(p, doc=p.doc - before, at=p.at - first * self.n_local)
        return Layout(self.doc_lens[first:end], self.size, self.how, self.n_local, pieces)


@dataclass(frozen=True, eq=False)
class ContextLens:
    """``Batch.doc_lens`` of rank ``at``: where its local pieces lie in which document. ``model.pack`` receives it.

    ``memo`` keeps what attention derives from it, so that all stages which see this batch share one copy.
    """

    layout: Layout
    at: int
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def pairs(self) -> int:
        """Pairs that this rank's queries attend to."""
        return int(self.layout.pairs_R[self.at])

    def rows(self, first: int, end: int) -> ContextLens:
        """Those of local rows first … end − 1."""
        return ContextLens(self.layout.rows(first, end), self.at)


def split_batch(batch: Batch, at: int, size: int, how: Split = "document") -> Batch:
    """The part of ``batch`` [B, T] that rank ``at`` of ``size`` holds: [B, T_local], ``doc_lens`` a ContextLens.

    Everything that belongs to a token travels: ids, labels, positions (those in the whole document) and extras whose
    first two dimensions are B and T; other extras stay whole. Padding has id and position 0 and the label ``IGNORE``,
    and no query attends to it. ``meta``: ``n_targets`` is the local count; ``cp_padding`` is (ignored tokens, all
    tokens) of this rank; the rest is copied, and counts of the *whole* batch.
    """
    layout = Layout.of(batch.doc_lens, size, how)
    if layout.n_rows * layout.row_len != batch.input_ids_BT.numel():
        raise AthanorError(
            f"document lengths make {layout.n_rows} rows of {layout.row_len} tokens, "
            f"the batch has {' × '.join(map(str, batch.input_ids_BT.shape))}",
            where="doc_lens",
        )
    index = torch.from_numpy(layout.tokens(at))
    shape = (layout.n_rows, layout.n_local)
    labels_BT = _take(batch.labels_BT, index, shape, IGNORE)
    whole = batch.input_ids_BT.shape
    n_padding = int((index < 0).sum())
    return Batch(
        _take(batch.input_ids_BT, index, shape, 0),
        labels_BT,
        _take(batch.positions_BT, index, shape, 0),
        ContextLens(layout, at),  # type: ignore[arg-type]  # what model.pack receives; see Batch.doc_lens
        {name: _take(x, index, shape, 0) if x.shape[:2] == whole else x for name, x in batch.extras.items()},
        {**batch.meta, "n_targets": int((labels_BT != IGNORE).sum()), "cp_padding": (n_padding, index.numel())},
    )


def merge_rows(parts_RBT: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    """The ranks' [B, T_local, …] tensors, in rank order → [B, T, …]: undoes ``split_batch``, without padding."""
    flat = torch.cat([part.flatten(0, 1) for part in parts_RBT])
    places = torch.from_numpy(layout.places).to(flat.device)
    return flat.index_select(0, places).unflatten(0, (layout.n_rows, layout.row_len))


def _take(x_BT: torch.Tensor, index: torch.Tensor, shape: tuple[int, int], padding: int) -> torch.Tensor:
    index = index.to(x_BT.device)
    out = x_BT.flatten(0, 1).index_select(0, index.clamp(min=0))
    out[index < 0] = padding
    return out.unflatten(0, shape)


Chunks = tuple[Int64s, Int64s, Int64s, Int64s]  # document, start, length, owner


def _document_chunks(doc_lens: Sequence[Sequence[int]], size: int) -> list[Chunks]:
    """2·cp chunks of each document (empty ones too), a tuple of arrays a row."""
    owner_C = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    load_R = np.zeros(size, dtype=np.int64)  # pairs of this batch so far: its rows are computed together
    out: list[Chunks] = []
    doc = 0
    for lens in doc_lens:
        held_R = np.zeros(size, dtype=np.int64)
        sizes_DC = np.empty((len(lens), 2 * size), dtype=np.int64)
        for d in np.argsort(-np.asarray(lens), kind="stable"):  # long ones first: short ones even out what they left
            sizes_DC[d] = _cut(lens[d], held_R, load_R)
        starts_DC = np.cumsum(sizes_DC, axis=1) - sizes_DC
        docs = np.repeat(np.arange(doc, doc + len(lens)), 2 * size)
        out.append((docs, starts_DC.ravel(), sizes_DC.ravel(), np.tile(owner_C, len(lens))))
        doc += len(lens)
    return out


def _sequence_chunks(doc_lens: Sequence[Sequence[int]], size: int) -> list[Chunks]:
    """2·cp chunks of each row, cut again where documents begin."""
    owner_C = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    out: list[Chunks] = []
    doc = 0
    for lens in doc_lens:
        zeros = np.zeros(size, dtype=np.int64)
        chunk_ends = np.cumsum(_cut(sum(lens), zeros, zeros.copy()))
        doc_ends = np.cumsum(np.asarray(lens, dtype=np.int64))
        ends = np.union1d(chunk_ends[chunk_ends > 0], doc_ends)
        begins = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
        inside = np.searchsorted(doc_ends, begins, side="right")
        start = begins - (doc_ends - lens)[inside]
        out.append((doc + inside, start, ends - begins, owner_C[np.searchsorted(chunk_ends, begins, side="right")]))
        doc += len(lens)
    return out


def _cut(n: int, held_R: Int64s, load_R: Int64s) -> Int64s:
    """Sizes of the 2·cp chunks of ``n`` tokens; adds what each rank gets to ``held_R`` (tokens) and ``load_R`` (pairs).

    Whole numbers only, so every rank of every kind of machine finds the same.
    """
    size = len(held_R)
    base, rest = divmod(n, 2 * size)
    each, more = divmod(rest, size)
    extra_R = np.full(size, each, dtype=np.int64)
    extra_R[np.lexsort((load_R, held_R))[:more]] += 1
    # A rank with one extra token puts it in its early chunk or in its late one (dear: many keys). Late are the lighter
    # half, or those lighter than the mean, or all, or none: whichever leaves the loads closest.
    single_R = extra_R == 1
    order = np.lexsort((np.arange(size) % 2, load_R, ~single_R))  # equal loads by turns
    late_KR = np.repeat((extra_R // 2)[None], 4, axis=0)
    late_KR[0, order[: (int(single_R.sum()) + 1) // 2]] = 1
    late_KR[1, single_R & (load_R * size < load_R.sum())] = 1
    late_KR[2, single_R] = 1
    sizes_KC = base + np.concatenate([extra_R - late_KR, late_KR[:, ::-1]], axis=1)
    cost_KC = _pairs(np.cumsum(sizes_KC, axis=1) - sizes_KC, sizes_KC)
    load_KR = load_R + cost_KC[:, :size] + cost_KC[:, size:][:, ::-1]
    best = int(np.abs(load_KR * size - load_KR[0].sum()).max(axis=1).argmin())
    held_R += 2 * base + extra_R
    load_R[:] = load_KR[best]
    sizes_C: Int64s = sizes_KC[best]
    return sizes_C


def _pairs(start: Int64s, length: Int64s) -> Int64s:
    """Keys that the queries start … start + length − 1 of a document attend to, together."""
    return length * start + length * (length + 1) // 2


def _total(owner: Int64s, amount: Int64s, size: int) -> Int64s:
    out = np.zeros(size, dtype=np.int64)
    np.add.at(out, owner, amount)
    return out


def _offsets(group: Int64s, length: Int64s) -> tuple[Int64s, int]:
    """Place of each piece behind the earlier ones of its group, and the largest group's total (at least 1)."""
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(length[order])
    begins = ends - length[order]
    first = np.concatenate([[True], group[order][1:] != group[order][:-1]])
    of_group = np.repeat(begins[first], np.diff(np.append(np.flatnonzero(first), len(order))))
    offset = np.empty_like(length)
    offset[order] = begins - of_group
    return offset, max(1, int((offset + length).max()))


def sum_load(load: Load, group: Any, *, same_loss: bool = False) -> Load:
    """The load of a micro-batch whose tokens are spread over the ranks of ``group``, differentiable in ``p_sum_E``.

    ``same_loss`` False (context parallel): each rank adds auxiliary loss × its own weight to its own loss, so the
    gradient of a rank's probabilities is the sum over all ranks. True (tensor and sequence parallel): all ranks hold
    one and the same loss, and the gradient passes as it is. Composes: sum over one group, then over the other.
    """
    rest = torch.cat([load.counts_E.to(load.p_sum_E.dtype), load.n_tokens.to(load.p_sum_E.dtype).reshape(1)])
    dist.all_reduce(rest, group=group)
    p_sum_E = _SumOverRanks.apply(load.p_sum_E, group, same_loss)
    return Load(rest[:-1], p_sum_E, rest[-1])


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks; the gradient is summed too, or passes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, same_loss: bool) -> torch.Tensor:
        ctx.group, ctx.same_loss = group, same_loss
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        if ctx.same_loss:
            return grad, None, None
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None, None
