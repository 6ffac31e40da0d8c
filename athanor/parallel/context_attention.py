"""Causal attention inside documents whose tokens are spread over ranks, exact, without a T×T mask.

``all_gather``: every rank gathers K and V of all ranks, in document order; each stretch of queries attends to itself
(causal) and to the keys before it (full). ``ring``: K and V go round the ranks, and each rank attends to what it holds
at that moment (Ring Attention, arXiv 2310.01889). Partial results are merged by their log-sum-exp, which is exact (the
online softmax of arXiv 2205.14135, section 3.1); in the backward pass the merged output and log-sum-exp give each part
its exact share.

Activations kept for the backward pass are a rank's own: K and V are gathered, or sent round, again. Sums over parts and
ranks are taken in at least float32 and always in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from athanor.errors import AthanorError
from athanor.model.decoder import Decoder
from athanor.model.moe import Load, MoEFeedForward
from athanor.parallel.context import ContextLens, Pieces, sum_load
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
#: torch 2.13 has new names for two collectives and warns about the old ones; 2.11 has only those
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

#: queries of one matrix product where there is no fused kernel with a log-sum-exp: scores are heads × BLOCK × keys
BLOCK = 512


class Part(NamedTuple):
    """One call: local queries q … q + n_q − 1 attend to keys k … k + n_k − 1 of a buffer.

    ``causal``: the keys are the queries' own tokens; it is the first call that these queries take part in.
    """

    q: int
    n_q: int
    k: int
    n_k: int
    causal: bool


class ContextPacking:
    """What one forward pass's attention does on this rank; all layers and pipeline stages share it.

    ``parts``: ``ring``: for each rank, the calls on its keys; ``all_gather``: one list, of calls on all keys in the
    order of documents. ``places``: int64 [B · T] on the device, where each token of the batch lies in the gathered
    buffer. ``run`` calls an autograd.Function, hidden from torch.compile if that is in use. No dataclass on purpose:
    FSDP would look at each number of it for a tensor, in every block and pass.
    """

    __slots__ = ("parts", "places", "run")

    def __init__(self, parts: list[list[Part]], places: torch.Tensor, run: Callable[..., torch.Tensor]) -> None:
        self.parts, self.places, self.run = parts, places, run

    @classmethod
    def of(cls, lens: ContextLens, kv: Literal["all_gather", "ring"], device: torch.device) -> ContextPacking:
        """Made once for a batch: the second caller gets the first one's."""
        key = (kv, device)
        if key not in lens.memo:
            parts = [gather_parts(lens)] if kv == "all_gather" else ring_parts(lens)
            places = torch.from_numpy(lens.layout.places).to(device)
            # Collectives, and calls that change with every batch, are nothing for a graph. Loading the compiler only to
            # keep it away would take a second of every process.
            lens.memo[key] = cls(parts, places, _run_hidden() if "torch._dynamo" in sys.modules else _run)
        return lens.memo[key]  # type: ignore[no-any-return]


def _run(function: Any, *args: Any) -> torch.Tensor:
    return function.apply(*args)  # type: ignore[no-any-return]


@cache
def _run_hidden() -> Callable[..., torch.Tensor]:
    return torch.compiler.disable(_run)  # type: ignore[no-any-return]


def gather_parts(lens: ContextLens) -> list[Part]:
    """Calls on keys in document order: each piece on itself, and on its document's tokens before it."""
    mine = _of_rank(lens, lens.at)
    first = lens.layout.doc_offsets[mine.doc]
    parts = []
    for q, n, k, start in zip(*(x.tolist() for x in (mine.at, mine.length, first, mine.start)), strict=True):
        parts.append(Part(q, n, k + start, n, causal=True))
        if start:
            parts.append(Part(q, n, k, start, causal=False))
    return parts


def ring_parts(lens: ContextLens) -> list[list[Part]]:
    """For each rank s, calls on the local keys of s: each piece on itself, and on the pieces of s before it.

    Pieces of one document lie side by side in a rank, so keys of two make one call, and so do queries of two that
    attend to the same keys.
    """
    mine = _by_doc(_of_rank(lens, lens.at))
    all_parts = []
    for source in range(lens.layout.size):
        theirs = _by_doc(_of_rank(lens, source))
        own = source == lens.at
        parts = [Part(at, n, at, n, causal=True) for pieces in mine.values() for _, n, at in pieces] if own else []
        for doc, queries in mine.items():
            last: Part | None = None
            for start, n_q, q in queries:
                keys = [(k, n_k) for k_start, n_k, k in theirs.get(doc, ()) if k_start + n_k <= start]
                if not keys:
                    continue
                k, n_k = keys[0][0], sum(n for _, n in keys)
                if last is not None and (last.k, last.n_k) == (k, n_k):
                    parts.pop()
                    q, n_q = last.q, last.n_q + n_q
                last = Part(q, n_q, k, n_k, causal=False)
                parts.append(last)
        all_parts.append(parts)
    return all_parts


def _of_rank(lens: ContextLens, rank: int) -> Pieces:
    return lens.layout.pieces.where(lens.layout.pieces.owner == rank)


def _by_doc(pieces: Pieces) -> dict[int, list[tuple[int, int, int]]]:
    """Document → (start, length, place) of its pieces, in order."""
    out: dict[int, list[tuple[int, int, int]]] = {}
    columns = (pieces.doc, pieces.start, pieces.length, pieces.at)
    for doc, start, length, at in zip(*(x.tolist() for x in columns), strict=True):
        out.setdefault(doc, []).append((start, length, at))
    return out


# One part: queries and keys of one document. [L, H, D] each, k and v may have fewer heads.


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of sums and statistics."""
    return torch.promote_types(dtype, torch.float32)


def _part_forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ / √D) v [L, H, D] and the log-sum-exp [L, H] in at least float32."""
    if q.device.type == "cpu":
        out, lse = _flash(_heads_first(q), _heads_first(k), _heads_first(v), 0.0, causal)
        return out[0].transpose(0, 1), lse[0].T
    return products_forward(q, k, v, causal)


def _part_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v through this part; ``out`` and ``lse`` are those of the whole softmax."""
    if q.device.type == "cpu":
        tensors = [_heads_first(x) for x in (grad, q, k, v, out)]
        grads = _flash_backward(*tensors, lse.T[None].contiguous(), 0.0, causal)
        return tuple(g[0].transpose(0, 1) for g in grads)  # type: ignore[return-value]
    return products_backward(grad, q, k, v, out, lse, causal)


def _heads_first(x_LHD: torch.Tensor) -> torch.Tensor:
    return x_LHD.transpose(0, 1)[None]


def _grouped(q: torch.Tensor, heads: int) -> torch.Tensor:
    """[L, H, D] → [Hkv, L · groups, D] in at least float32: the query heads of one KV head as more queries of it."""
    return q.to(_wide(q.dtype)).unflatten(1, (heads, -1)).transpose(0, 1).flatten(1, 2)


def _ungrouped(x: torch.Tensor, length: int) -> torch.Tensor:
    """The inverse of :func:`_grouped`."""
    return x.unflatten(1, (length, -1)).transpose(0, 1).flatten(1, 2)


def _scores(q: torch.Tensor, k: torch.Tensor, first: int, n_q: int, causal: bool) -> torch.Tensor:
    """Scaled scores [Hkv, n_q · groups, keys] of grouped queries first … first + n_q − 1 of a part."""
    s = torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5
    if not causal:
        return s
    query = torch.arange(first, first + n_q, device=s.device).repeat_interleave(q.shape[1] // n_q)
    return s.masked_fill(torch.arange(s.shape[-1], device=s.device) > query[:, None], -torch.inf)


def products_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`_part_forward` by matrix products over blocks of queries, on any device."""
    keys, values = (x.to(_wide(x.dtype)).transpose(0, 1) for x in (k, v))
    outs, lses = [], []
    for first in range(0, len(q), BLOCK):
        block = q[first : first + BLOCK]
        s = _scores(_grouped(block, k.shape[1]), keys, first, len(block), causal)
        lse = s.logsumexp(-1, keepdim=True)
        outs.append(_ungrouped(torch.bmm((s - lse).exp_(), values), len(block)))
        lses.append(_ungrouped(lse, len(block))[..., 0])
    return torch.cat(outs), torch.cat(lses)


def products_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`_part_backward` by matrix products (FlashAttention-2, arXiv 2307.08691, algorithm 2), on any device."""
    heads, scale = k.shape[1], q.shape[-1] ** -0.5
    keys, values = (x.to(_wide(x.dtype)).transpose(0, 1) for x in (k, v))
    dq, dk, dv = [], torch.zeros_like(keys), torch.zeros_like(values)
    for first in range(0, len(q), BLOCK):
        at = slice(first, first + BLOCK)
        n = len(q[at])
        query, g, o = (_grouped(x[at], heads) for x in (q, grad, out))
        p = (_scores(query, keys, first, n, causal) - _grouped(lse[at, :, None], heads)).exp_()
        dv += torch.bmm(p.transpose(1, 2), g)
        ds = p * (torch.bmm(g, values.transpose(1, 2)) - (g * o).sum(-1, keepdim=True)) * scale
        dq.append(_ungrouped(torch.bmm(ds, keys), n))
        dk += torch.bmm(ds.transpose(1, 2), query)
    return torch.cat(dq), dk.transpose(0, 1), dv.transpose(0, 1)


class _Sum:
    """Attention of the local queries so far: out [N, H, D] and log-sum-exp [N, H] in at least float32.

    Padding takes part in no call: its output stays 0.
    """

    def __init__(self, q_NHD: torch.Tensor) -> None:
        self.q = q_NHD
        self.out = torch.zeros_like(q_NHD, dtype=_wide(q_NHD.dtype), memory_format=torch.contiguous_format)
        self.lse = torch.full_like(self.out[..., 0], -torch.inf)

    def add(self, parts: list[Part], kv_M2HD: torch.Tensor) -> None:
        """Attend to the keys and values of a buffer and merge."""
        for part in parts:
            queries, keys = slice(part.q, part.q + part.n_q), slice(part.k, part.k + part.n_k)
            out, lse = _part_forward(self.q[queries], kv_M2HD[keys, 0], kv_M2HD[keys, 1], part.causal)
            if part.causal:
                self.out[queries], self.lse[queries] = out, lse
                continue
            before = self.lse[queries]
            total = torch.logaddexp(before, lse)
            merged = self.out[queries]
            merged.mul_((before - total).exp_()[..., None]).addcmul_(
                out.to(merged.dtype), (lse - total).exp_()[..., None]
            )
            self.lse[queries] = total


class _Gradients:
    """Gradients of the local queries so far, and of buffers of keys and values."""

    def __init__(self, grad: torch.Tensor, q: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        self.grad, self.q, self.out, self.lse = grad, q, out, lse
        self.dq = torch.zeros_like(q, dtype=lse.dtype)

    def add(self, parts: list[Part], kv_M2HD: torch.Tensor) -> torch.Tensor:
        """The buffer's gradient [M, 2, Hkv, D] in at least float32; that of the queries is added up."""
        dkv = torch.zeros_like(kv_M2HD, dtype=self.dq.dtype)
        for part in parts:
            queries, keys = slice(part.q, part.q + part.n_q), slice(part.k, part.k + part.n_k)
            of_part = self.grad[queries], self.q[queries], kv_M2HD[keys, 0], kv_M2HD[keys, 1]
            dq, dk, dv = _part_backward(*of_part, self.out[queries], self.lse[queries], part.causal)
            self.dq[queries] += dq
            dkv[keys, 0] += dk
            dkv[keys, 1] += dv
        return dkv


class _GatherAttention(torch.autograd.Function):
    """K and V of all ranks at once; their gradients are summed and scattered back."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: Any, group: Any) -> torch.Tensor:
        attention = _Sum(q)
        attention.add(packing.parts[0], _gathered(k, v, packing, group))
        out = attention.out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, attention.lse)
        ctx.packing, ctx.group = packing, group
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        gradients = _Gradients(grad, q, out, lse)
        dkv = gradients.add(ctx.packing.parts[0], _gathered(k, v, ctx.packing, ctx.group))
        by_rank = dkv.new_zeros(len(k) * dist.get_world_size(ctx.group), *dkv.shape[1:])
        by_rank.index_copy_(0, ctx.packing.places, dkv)
        mine = torch.empty_like(by_rank[: len(k)])
        _reduce_scatter(mine, by_rank, group=ctx.group)
        return gradients.dq.to(q.dtype), mine[:, 0].to(k.dtype), mine[:, 1].to(v.dtype), None, None


def _gathered(k: torch.Tensor, v: torch.Tensor, packing: ContextPacking, group: Any) -> torch.Tensor:
    """K and V of the whole batch in document order [B · T, 2, Hkv, D]."""
    kv = torch.stack((k, v), dim=1)
    of_ranks = kv.new_empty(len(kv) * dist.get_world_size(group), *kv.shape[1:])
    _all_gather(of_ranks, kv, group=group)
    return of_ranks.index_select(0, packing.places)


class _RingAttention(torch.autograd.Function):
    """K and V go round; in the backward pass their gradients go round with them, one step behind, and come home."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: Any, group: Any) -> torch.Tensor:
        attention = _Sum(q)
        at, size = dist.get_rank(group), dist.get_world_size(group)
        kv = torch.stack((k, v), dim=1)
        for step in range(size):
            sending = _Sending(kv, group) if step < size - 1 else None
            attention.add(packing.parts[(at - step) % size], kv)
            kv = sending.wait() if sending else kv
        out = attention.out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, attention.lse)
        ctx.packing, ctx.group = packing, group
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        gradients = _Gradients(grad, q, out, lse)
        at, size = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        kv = torch.stack((k, v), dim=1)
        returning: _Sending | None = None
        for step in range(size):
            sending = _Sending(kv, ctx.group) if step < size - 1 else None
            dkv = gradients.add(ctx.packing.parts[(at - step) % size], kv)
            if returning is not None:
                dkv += returning.wait()
            returning = _Sending(dkv, ctx.group)
            kv = sending.wait() if sending else kv
        assert returning is not None
        mine = returning.wait()
        return gradients.dq.to(q.dtype), mine[:, 0].to(k.dtype), mine[:, 1].to(v.dtype), None, None


class _Sending:
    """A tensor on its way to the next rank, and the previous rank's on its way here."""

    def __init__(self, tensor: torch.Tensor, group: Any) -> None:
        at, size = dist.get_rank(group), dist.get_world_size(group)
        self.sent, self.received = tensor, torch.empty_like(tensor)  # both must live until the transfer is done
        self.works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, tensor, group=group, group_peer=(at + 1) % size),
                dist.P2POp(dist.irecv, self.received, group=group, group_peer=(at - 1) % size),
            ]
        )

    def wait(self) -> torch.Tensor:
        """The previous rank's tensor."""
        for work in self.works:
            work.wait()
        return self.received


@dataclass(eq=False, slots=True)
class _Attend:
    """What stands in ``Attention.attend``."""

    function: type[torch.autograd.Function]
    group: Any

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: ContextPacking, window: int | None = None
    ) -> torch.Tensor:
        """q [N, H, D], k and v [N, Hkv, D] of the local tokens → [N, H, D]."""
        return packing.run(self.function, q, k, v, packing, self.group)

    def __deepcopy__(self, memo: Any) -> _Attend:
        return self  # a process group is no value to copy


@dataclass(frozen=True)
class _Pack:
    """What stands in ``Decoder.pack``."""

    at: int
    size: int
    kv: Literal["all_gather", "ring"]
    counts_load: bool

    def __call__(self, doc_lens: Any, n_rows: int, n_tokens: int, device: torch.device) -> ContextPacking:
        """Check that ``doc_lens`` fits this rank and the local [n_rows, n_tokens]."""
        if not isinstance(doc_lens, ContextLens):
            raise AthanorError(
                "a context-parallel model was given a batch that is not split",
                where="parallel.cp",
                fix="pass what athanor.parallel.context.split_batch gives",
            )
        layout = doc_lens.layout
        here, given = (self.at, self.size), (doc_lens.at, layout.size)
        if here != given:
            raise AthanorError(
                f"rank {here[0]} of {here[1]} was given the part of rank {given[0]} of {given[1]}", where="doc_lens"
            )
        if (layout.n_rows, layout.n_local) != (n_rows, n_tokens):
            raise AthanorError(
                f"document lengths of {layout.n_rows} × {layout.n_local} tokens, for a batch of {n_rows} × {n_tokens}",
                where="doc_lens",
            )
        if self.counts_load and layout.padding:
            raise AthanorError(
                f"rows of {layout.row_len} tokens do not divide by cp {self.size}: "
                "padding would count in the load of the experts",
                where="parallel.cp",
                fix=f"make seq_len a multiple of {self.size}",
            )
        return ContextPacking.of(doc_lens, self.kv, device)


def apply_context_parallel(model: Decoder, ranks: Ranks, plan: ParallelPlan) -> None:
    """Lay attention and the router's load over ``cp``; the model then takes batches from ``split_batch`` only.

    Parameters stay as they are: gradients are summed over ``cp`` with the other ranks that hold different tokens. Comes
    after tensor and expert parallel (a ``total_load`` that is already set is applied first) and before data parallel.
    Raises AthanorError for a sliding window.
    """
    if plan.cp == 1:
        return
    group = ranks.group("cp")
    blocks: Any = model.layers.values() if isinstance(model.layers, nn.ModuleDict) else model.layers
    functions = {"all_gather": _GatherAttention, "ring": _RingAttention}
    for block in blocks:
        if block.attn.window is not None:
            raise AthanorError(
                f"context parallel does not know a sliding window ({block.attn.window} tokens)",
                where="parallel.cp",
                fix="cp: 1, or a model without sliding_window",
            )
        block.attn.attend = _Attend(functions[plan.cp_kv], group)
        if isinstance(block.mlp, MoEFeedForward):
            block.mlp.total_load = _summed(block.mlp.total_load, group)
    moe = model.config.moe
    counts_load = moe is not None and moe.balance != "none"
    model.pack = _Pack(ranks.at("cp"), plan.cp, plan.cp_kv, counts_load)


def _summed(before: Callable[[Load], Load], group: Any) -> Callable[[Load], Load]:
    return lambda load: sum_load(before(load), group)
