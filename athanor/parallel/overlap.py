"""Tensor-parallel communication behind computation. Two ways, both with the results of the plain model.

**Chunks**: a matrix product and the collective beside it are cut into pieces along the sequence, so that the collective
of one piece runs while another is multiplied (MC², arXiv 2504.07866, section 4.2). The products are in
``athanor.parallel.chunked``; :func:`apply_chunked` puts them into attention and dense feed-forwards.

**Copies**: the micro-batch goes through each block in two halves (rows), one a step behind the other; while one
computes, the other's collective is in flight (TeleChat2's multi-copy). :func:`apply_copies`.

The order of the work, A and B the halves, one line a step::

    A norm, gather →
    → A q, k, v        B norm, gather →
    A attention, scatter →      → B q, k, v
    → A norm, gather →          B attention, scatter →
    → A first products          → B norm, gather →
    A last product, scatter →   → B first products
    → A (end of block)          B last product, scatter →
                                → B (end of block)

So of eight collectives of a block six have a product of the other half between their beginning and their end. In
the backward pass autograd takes nodes in the reverse of this order. A collective begins there where the forward pass
waited for its counterpart, and is waited for where that began: the same products lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from athanor.errors import AthanorError
from athanor.model.attention import Attention, Rope
from athanor.model.cache import KVCache
from athanor.model.decoder import Block, Decoder
from athanor.model.feed_forward import FeedForward
from athanor.model.moe import Load, MoEFeedForward
from athanor.parallel.chunked import (
    all_gather_matmul,
    begin_gather,
    begin_scatter,
    by_rank,
    by_row,
    matmul_reduce_scatter,
)
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.tensor import Lane, RowLinear, SharedHeadLinear, TensorAttention, TensorFeedForward
from athanor.parallel.vocab import local

_ops = torch.ops._c10d_functional

# ---------------------------------------------------------------------------------------------------------------------
# Chunks in the model. As in the tensor room, a module is given a subclass of its class.


class ChunkedRowLinear(RowLinear):
    """The way back to a spread stream, in pieces."""

    chunks: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.lane.spread:
            return super().forward(x)
        out = matmul_reduce_scatter(x, local(self.weight), self.lane.group, self.chunks)
        return out if self.bias is None else out + self.lane.on_stream(self.bias)


class ChunkedAttention(TensorAttention):
    """Queries, keys and values from one gather in pieces."""

    chunks: int

    def forward(self, x_BTD: torch.Tensor, rope: Rope, packing: Any, cache: KVCache | None) -> torch.Tensor:
        if not self.lane.spread:
            return super().forward(x_BTD, rope, packing, cache)
        return Attention.forward(self, x_BTD, rope, packing, cache)  # the projections enter by themselves

    def products(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if not self.lane.spread:
            return super().products(x_BTD)
        q, k, v = _project(x_BTD, [self.q_proj, self.k_proj, self.v_proj], self.lane, self.chunks)
        return q, k, v


class ChunkedFeedForward(TensorFeedForward):
    """Gate and up from one gather in pieces."""

    chunks: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.lane.spread:
            return super().forward(x)
        projs = [self.up_proj] if self.gate_proj is None else [self.gate_proj, self.up_proj]
        *gate, up = _project(x, projs, self.lane, self.chunks)
        return self.down_proj(self.act(gate[0]) * up if gate else self.act(up))  # type: ignore[no-any-return]


def _project(x_BtD: torch.Tensor, projs: Sequence[nn.Linear], lane: Lane, chunks: int) -> list[torch.Tensor]:
    outs = all_gather_matmul(x_BtD, [_own(proj, proj.weight) for proj in projs], lane.group, chunks)
    return [out if proj.bias is None else out + _own(proj, proj.bias) for out, proj in zip(outs, projs, strict=True)]


def _own(proj: nn.Linear, weight: torch.Tensor) -> torch.Tensor:
    """What this rank uses of a column-wise projection's weight or bias."""
    return proj.lane.summed(weight)[proj.features] if isinstance(proj, SharedHeadLinear) else local(weight)


def _become(module: nn.Module, cls: type[nn.Module], **fields: Any) -> None:
    own = type(module)
    module.__class__ = cls if own in cls.__bases__ else type(cls.__name__, (cls, own), {})
    for name, value in fields.items():
        setattr(module, name, value)


def apply_chunked(model: Decoder, ranks: Ranks, plan: ParallelPlan) -> None:
    """Cut products and collectives of ``model`` (or a stage) into ``plan.chunks`` pieces; after tensor parallel.

    Attention and dense feed-forwards, in passes whose stream is spread over tp (sequence parallel). Expert blocks keep
    their one gather and scatter: no dense product is beside them. Nothing happens for chunks 1 or tp 1. Raises
    AthanorError without sequence parallel, whose all-reduces have no pieces, and where recomputation names a part that
    is no longer made alone.
    """
    if plan.chunks == 1 or plan.tp == 1:
        return
    if not plan.sp:
        raise AthanorError(
            f"{plan.chunks} chunks without sequence parallel",
            where="parallel.chunks",
            fix="parallel.sp=true or chunks=1",
        )
    _refuse(plan, {"up_proj", "gate_proj"}, f"chunks {plan.chunks}", "gate and up products are made together")
    for block in model.layers.children():
        _become(block.attn, ChunkedAttention, chunks=plan.chunks)  # type: ignore[arg-type]
        _become(block.attn.o_proj, ChunkedRowLinear, chunks=plan.chunks)  # type: ignore[arg-type, union-attr]
        if isinstance(block.mlp, FeedForward):
            _become(block.mlp, ChunkedFeedForward, chunks=plan.chunks)
            _become(block.mlp.down_proj, ChunkedRowLinear, chunks=plan.chunks)


def _refuse(plan: ParallelPlan, parts: set[str], setting: str, why: str) -> None:
    clash = sorted(parts & set(plan.recompute.names)) if plan.recompute.mode == "selective" else []
    if clash:
        raise AthanorError(
            f"recompute of {' and '.join(clash)} beside {setting}: {why}",
            where="parallel.recompute.names",
            fix="other names, or mode full",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Copies: a collective in two autograd nodes, so that other work lies between them in both directions.


class Move(NamedTuple):
    """A collective on [B, T, D] tensors (``same``: none)."""

    kind: Literal["gather", "scatter", "sum", "same"]
    size: int = 1
    name: str = ""

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        """Starts it; the buffer is valid after :meth:`end`."""
        if self.kind == "gather":
            return begin_gather(x, self.size, self.name)
        if self.kind == "scatter":
            return begin_scatter(by_rank(x, self.size), self.size, self.name)
        return _ops.all_reduce(x.contiguous(), "sum", self.name) if self.kind == "sum" else x.detach()

    def end(self, buffer: torch.Tensor) -> torch.Tensor:
        """Waits for it."""
        if self.kind == "same":
            return buffer
        buffer = _ops.wait_tensor(buffer)
        return by_row(buffer, self.size) if self.kind == "gather" else buffer


class Flight:
    """A collective on its way: ``there`` in the forward pass, ``back`` for the gradient."""

    def __init__(self, x: torch.Tensor, there: Move, back: Move) -> None:
        self.there, self.back = there, back
        self.buffer: torch.Tensor | None = None
        self.ticket: torch.Tensor = _Begin.apply(x, self)

    def end(self) -> torch.Tensor:
        """The result; other work should have been done since."""
        return _End.apply(self.ticket, self)  # type: ignore[no-any-return]

    def take(self) -> torch.Tensor:
        """The buffer, once."""
        buffer, self.buffer = self.buffer, None
        assert buffer is not None
        return buffer


class _Begin(torch.autograd.Function):
    """x → a scalar that only ties the two nodes together: a buffer whose shape is not the value's goes beside it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, flight: Flight) -> torch.Tensor:
        ctx.flight = flight
        flight.buffer = flight.there.begin(x)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _ticket: torch.Tensor) -> Any:  # type: ignore[override]
        return ctx.flight.back.end(ctx.flight.take()), None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: torch.Tensor, flight: Flight) -> torch.Tensor:
        ctx.flight = flight
        return flight.there.end(flight.take())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        ctx.flight.buffer = ctx.flight.back.begin(grad)
        return grad.new_zeros(()), None


def _enter(x: torch.Tensor, lane: Lane | None) -> Flight:
    """As ``Lane.enter``, in two parts."""
    if lane is None:
        return Flight(x, Move("same"), Move("same"))
    gather, scatter, total = (Move(kind, lane.size, lane.name) for kind in ("gather", "scatter", "sum"))
    return Flight(x, gather, scatter) if lane.spread else Flight(x, Move("same"), total)


def _leave(x: torch.Tensor, lane: Lane | None) -> Flight:
    """As ``Lane.leave``, in two parts."""
    if lane is None:
        return Flight(x, Move("same"), Move("same"))
    gather, scatter, total = (Move(kind, lane.size, lane.name) for kind in ("gather", "scatter", "sum"))
    return Flight(x, scatter, gather) if lane.spread else Flight(x, total, Move("same"))


# ---------------------------------------------------------------------------------------------------------------------
# Copies in the model.


@dataclass(frozen=True)
class Halves:
    """``Context.packing`` of two copies: what packs the first ``n_first`` rows, and the others."""

    n_first: int
    parts: tuple[Any, Any]


@dataclass(frozen=True)
class PackHalves:
    """The door ``Decoder.pack``: documents by halves of the rows. A single row stays one copy."""

    inner: Callable[..., Any]

    def __call__(self, doc_lens: Any, n_rows: int, n_tokens: int, device: torch.device) -> Any:
        if n_rows < 2:
            return self.inner(doc_lens, n_rows, n_tokens, device)
        half, parts = n_rows // 2, []
        for first, end in ((0, half), (half, n_rows)):
            lens = doc_lens.rows(first, end) if hasattr(doc_lens, "rows") else doc_lens[first:end]
            parts.append(self.inner(lens, end - first, n_tokens, device))
        return Halves(half, (parts[0], parts[1]))


class InnerLane:
    """The lane of an expert block: while ``inside``, the copies around it enter and leave."""

    def __init__(self, lane: Lane) -> None:
        self.lane, self.size, self.inside = lane, lane.size, False

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """As the lane itself does."""
        return x if self.inside else self.lane.enter(x)

    def leave(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """As the lane itself does."""
        return x_BTD if self.inside else self.lane.leave(x_BTD)


class PairedLoad:
    """The door ``total_load``: the second copy's load is that of both, so its auxiliary loss is the micro-batch's."""

    def __init__(self, inner: Callable[[Load], Load]) -> None:
        self.inner, self.paired = inner, False
        self.first: Load | None = None

    def __call__(self, load: Load) -> Load:
        if self.paired and self.first is None:
            self.first = load
            return load
        if self.paired and self.first is not None:
            load = Load(*(a + b for a, b in zip(self.first, load, strict=True)))
            self.first = None
        return self.inner(load)


Step = Generator[None, None, tuple[torch.Tensor, torch.Tensor | None]]


class CopiedBlock(Block):
    """A block that takes its rows in two halves, one a step behind the other."""

    lane: Lane | None

    def forward(
        self, h_BTD: torch.Tensor, rope: Rope, packing: Any, cache: KVCache | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not isinstance(packing, Halves):
            return super().forward(h_BTD, rope, packing, cache)
        return self._both(h_BTD, rope, packing)

    @torch.compiler.disable
    def _both(self, h_BTD: torch.Tensor, rope: Rope, packing: Halves) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows = (slice(None, packing.n_first), slice(packing.n_first, None))
        ropes = [None if rope is None else (rope[0][r], rope[1][r]) for r in rows]
        first, second = (self._steps(h_BTD[r], ropes[i], packing.parts[i]) for i, r in enumerate(rows))
        load = self.mlp.total_load if isinstance(self.mlp, MoEFeedForward) else None
        assert load is None or isinstance(load, PairedLoad)
        if load is not None:
            load.first, load.paired = None, True
        try:
            (one_BTD, _), (other_BTD, aux) = _in_turn(first, second)
        finally:
            if load is not None:
                load.first, load.paired = None, False
        return torch.cat((one_BTD, other_BTD)), aux

    def _steps(self, h_BTD: torch.Tensor, rope: Rope, packing: Any) -> Step:
        """A block as ``Block.forward`` has it, with a stop wherever the other copy should go on."""
        attn, lane = self.attn, self.lane
        flight = _enter(self.input_norm(h_BTD), lane)
        yield
        q, k, v = attn.qkv(flight.end(), rope)
        yield
        flight = _leave(F.linear(attn.mix(q, k, v, packing).flatten(-2), local(attn.o_proj.weight)), lane)
        yield
        out = self._biased(flight.end(), attn.o_proj)
        h_BTD = h_BTD + (out if self.post_attn_norm is None else self.post_attn_norm(out))
        flight = _enter(self.mlp_norm(h_BTD), lane)
        yield
        mlp, x = self.mlp, flight.end()
        if isinstance(mlp, MoEFeedForward):
            out, aux = self._inside(mlp, x)
            yield
            flight = _leave(out, lane)
            yield
            out = flight.end()
        else:
            up, aux = mlp.up_proj(x), None
            inner = mlp.act(mlp.gate_proj(x)) * up if mlp.gate_proj is not None else mlp.act(up)
            yield
            flight = _leave(F.linear(inner, local(mlp.down_proj.weight)), lane)
            yield
            out = self._biased(flight.end(), mlp.down_proj)
        return h_BTD + (out if self.post_mlp_norm is None else self.post_mlp_norm(out)), aux

    def _biased(self, out: torch.Tensor, proj: nn.Linear) -> torch.Tensor:
        if proj.bias is None:
            return out
        return out + (local(proj.bias) if self.lane is None else self.lane.on_stream(proj.bias))

    def _inside(self, mlp: MoEFeedForward, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The expert block on tokens that are already whole, its sum over ranks left to the caller. It is *called*:
        data parallel gathers its experts just before."""
        lane = getattr(mlp, "lane", None)
        if lane is None:
            return mlp(x)  # type: ignore[no-any-return]
        lane.inside = True
        try:
            return mlp(x)  # type: ignore[no-any-return]
        finally:
            lane.inside = False


def _in_turn(first: Step, second: Step) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Both to their ends, ``second`` one step behind."""
    results: list[Any] = [None, None]
    running = [True, True]
    next(first)
    while any(running):
        for i, steps in enumerate((first, second)):
            if running[i]:
                try:
                    next(steps)
                except StopIteration as end:
                    results[i], running[i] = end.value, False
    return results


def apply_copies(model: Decoder, ranks: Ranks, plan: ParallelPlan) -> None:
    """Let each block of ``model`` (or a stage) take its rows in two halves; after tensor, expert and context parallel.

    Nothing happens for copies 1; a batch of one row goes as ever. Blocks are still called once a pass, with the whole
    micro-batch, so recomputation of whole blocks, norms and ``qkv_proj``, and data parallel, apply as they do without.
    Copies run outside of compiled code. Raises AthanorError together with ``chunks`` (both hide the same collectives)
    and where recomputation names a part that now runs in pieces.
    """
    if plan.copies == 1:
        return
    if plan.chunks > 1:
        raise AthanorError(
            f"copies {plan.copies} and chunks {plan.chunks} hide the same collectives",
            where="parallel.copies",
            fix="copies=1 or chunks=1",
        )
    _refuse(plan, {"attention", "ffn"}, f"copies {plan.copies}", "these run in pieces")
    model.pack = PackHalves(model.pack)
    for block in model.layers.children():
        lane = getattr(block.attn, "lane", None)
        if isinstance(block.mlp, MoEFeedForward):
            block.mlp.total_load = PairedLoad(block.mlp.total_load)
            if lane is not None:
                block.mlp.lane = InnerLane(lane)  # type: ignore[assignment]
        _become(block, CopiedBlock, lane=lane)
