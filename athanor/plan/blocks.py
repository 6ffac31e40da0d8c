"""Seconds of one decoder block on one rank for one micro-batch, part by part, for arrays of layouts.

Sizes: n tokens of a rank's half-block, D hidden, Q and K channels of queries and keys, F inner features, t tensor
ranks. Each part has a forward time, one for the gradient of its input and one for that of its weights; collectives
stand apart, split into what compute hides and what it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from athanor.model.config import ModelConfig
from athanor.plan.collectives import Links
from athanor.plan.layouts import Layouts
from athanor.plan.ops import Ops
from athanor.plan.traits import Engine

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Load:
    """What one micro-batch brings to a rank. Arrays [N]."""

    tokens: Floats  #: n, behind context parallel
    seq_len: int
    pairs: Floats  #: attended pairs a query
    imbalance: Floats  #: attention of the slowest cp rank over the mean


@dataclass(slots=True)
class Part:
    """One part of a block: seconds [N], and operations of its forward pass."""

    forward_s: Floats
    input_s: Floats
    weight_s: Floats
    flops: Floats


@dataclass(slots=True)
class BlockTimes:
    """One block. Seconds [N]; ``exposed`` collectives are not in ``parts``, and ``hidden`` ones run beside them."""

    parts: dict[str, Part] = field(default_factory=dict)
    forward_exposed_s: dict[str, Floats] = field(default_factory=dict)
    backward_exposed_s: dict[str, Floats] = field(default_factory=dict)
    hidden_s: Floats | float = 0.0
    remade_s: Floats | float = 0.0  #: compute that is repeated in the backward pass
    remade_exposed_s: Floats | float = 0.0  #: collectives that are
    remade_flops: Floats | float = 0.0

    def total(self, what: str) -> Floats:
        """Sum over parts of ``forward_s``, ``input_s``, ``weight_s`` or ``flops``."""
        return np.asarray(sum(getattr(part, what) for part in self.parts.values()))

    def exposed(self, backward: bool) -> Floats:
        """Sum of collectives that compute does not hide."""
        return np.asarray(
            sum((self.backward_exposed_s if backward else self.forward_exposed_s).values(), np.float64(0))
        )


class Blocks:
    """Blocks of ``config`` under ``layouts``."""

    def __init__(
        self, config: ModelConfig, layouts: Layouts, load: Load, ops: Ops, links: Links, engine: Engine
    ) -> None:
        self.config, self.at, self.load, self.ops, self.links, self.engine = config, layouts, load, ops, links, engine
        self.t = layouts.tp.astype(np.float64)
        self.c = engine.activation_bytes
        self.copies = layouts.copies.astype(np.float64)
        #: tokens of one product: with two copies each works on half of them
        self.n = load.tokens / self.copies
        self.stream_n = np.where(layouts.sp, load.tokens / self.t, load.tokens)
        self.tp_group = links.group(layouts.tp, 1)
        self.cp_group = links.group(layouts.cp, layouts.tp)
        self.pieces = np.where(layouts.chunked_tp, np.maximum(layouts.chunks, 1), 1).astype(np.float64)
        self.pieces = np.where(layouts.tp > 1, self.pieces, 1.0)

    def dense(self) -> BlockTimes:
        """A block with a dense feed-forward."""
        times = self._attention_half()
        gates = 2 if self.config.mlp_gated else 1
        inner = self.config.intermediate_size / self.t
        times.parts["up"] = self._products(self.config.hidden_size, [inner] * gates)
        times.parts["activation"] = self._activation(self.load.tokens * inner, gates)
        times.parts["down"] = self._product(inner, self.config.hidden_size)
        self._tensor_collectives(times, "ffn", "up", "down")
        return self._finish(times, expert=False)

    def expert(self) -> BlockTimes:
        """A block with routed (and shared) experts; tokens are even over experts."""
        moe, d = self.config.moe, self.config.hidden_size
        assert moe is not None
        times = self._attention_half()
        gates, inner = (2 if self.config.mlp_gated else 1), moe.moe_intermediate_size / self.t
        routed = self.load.tokens * moe.num_experts_per_tok
        held = moe.num_experts / self.at.ep
        each = routed * self.at.ep / moe.num_experts / self.copies
        times.parts["router"] = self._product(d, np.full(len(self.t), float(moe.num_experts)))
        times.parts["up"] = self._product(d, 2 * inner, each, held)
        times.parts["activation"] = self._activation(routed * inner, 2)
        times.parts["down"] = self._product(inner, d, each, held)
        moved = routed * d * self.c
        times.parts["permute"] = self._passes(4 * moved, 4 * moved, "elementwise", 4)
        if moe.num_shared_experts:
            wide = inner * moe.num_shared_experts
            shared = [self._products(d, [wide] * gates), self._product(wide, d)]
            shared.append(self._activation(self.load.tokens * wide, gates))
            times.parts["shared"] = _sum_parts(shared)
        group = self.links.group(self.at.ep, self.at.tp)
        exchange = 2 * self.links.all_to_all_s(moved / np.where(self.at.sp, self.t, 1), group)
        times.forward_exposed_s["ep"] = exchange
        times.backward_exposed_s["ep"] = exchange
        self._tensor_collectives(times, "ffn", "up", "down")
        return self._finish(times, expert=True)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _product(
        self, k: Floats | float, n: Floats | float, rows: Floats | None = None, count: Floats | float = 1
    ) -> Part:
        """[rows, k] @ [k, n] and its two gradients; ``count`` of them side by side."""
        m = self.n if rows is None else rows
        dtype, times = self.engine.dtype, self.copies
        # Pieces of a product run on several streams, so that only their launches are more.
        more = times * (self.pieces - 1) * self.ops.device.launch_s
        forward = times * self.ops.matmul_s(m, n, k, dtype, self.c, count) + more
        input_s = times * self.ops.matmul_s(m, k, n, dtype, self.c, count) + more
        fused = self.at.fused_accumulation if self.engine.accumulate_traffic == 0 else np.zeros(len(m), bool)
        weight_s = np.where(
            fused,
            self.ops.matmul_s(k, n, m, dtype, 2 * self.engine.grad_bytes, count),
            self.ops.matmul_s(k, n, m, dtype, self.c, count),
        )
        traffic = np.where(fused, 0.0, self.engine.accumulate_traffic or 2 * self.engine.grad_bytes + self.c)
        weight_s = times * (
            weight_s + np.where(traffic > 0, self.ops.memory_s(traffic * k * n * count, "elementwise"), 0)
        )
        return Part(forward, input_s, weight_s, times * 2.0 * m * np.asarray(k) * np.asarray(n) * count)

    def _products(self, k: Floats | float, widths: list[Floats]) -> Part:
        """Products of one input with several matrices: in one launch, or one after the other."""
        if not self.engine.separate_products:
            return self._product(k, np.asarray(sum(widths)))
        return _sum_parts([self._product(k, n) for n in widths])

    def _passes(self, forward_bytes: Floats, backward_bytes: Floats, kind: str, launches: int) -> Part:
        """Work bound by memory. Operators that are not fused go over memory more often, in more launches."""
        more = np.where(self.at.fused_ops, 1.0, self.ops.device.memory_bound.unfused_passes)
        forward = self.ops.memory_s(forward_bytes * more, kind, launches * self.copies * more)
        backward = self.ops.memory_s(backward_bytes * more, kind, launches * self.copies * more)
        zero = np.zeros(len(forward))
        return Part(forward, backward, zero, zero)

    def _activation(self, elements: Floats, gates: int) -> Part:
        """act(gate) · up, or act(up): reads what the product gave, writes what the next one takes."""
        width = self.c * elements
        return self._passes((gates + 1) * width, (2 * gates + 1) * width, "elementwise", 1)

    def _norms(self) -> Part:
        """Norms read and write the stream once; their gradients read it, the gradient and write one."""
        count = 2 if self.config.norm_placement == "pre" else 4
        width = self.stream_n * self.config.hidden_size * self.c
        return self._passes(2 * count * width, 3 * count * width, "norm", count)

    def _residuals(self) -> Part:
        """Two sums with the stream, each with dropout where the engine has it (a byte of mask an element)."""
        elements = self.stream_n * self.config.hidden_size
        mask = 1 if self.engine.dropout else 0
        return self._passes(2 * elements * (3 * self.c + mask), 2 * elements * (2 * self.c + mask), "elementwise", 2)

    def _attention_half(self) -> BlockTimes:
        config, times = self.config, BlockTimes()
        q = config.num_attention_heads * config.head_size / self.t
        # Where there are more ranks than key-value heads, each head is held by several.
        k = config.head_size * np.maximum(config.num_key_value_heads / self.t, 1.0)
        times.parts["norms"] = self._norms()
        times.parts["residuals"] = self._residuals()
        times.parts["qkv"] = self._products(config.hidden_size, [q, k, k])
        if config.position_embedding == "rope":
            width = self.load.tokens * (q + k) * self.c
            times.parts["rope"] = self._passes(2 * width, 2 * width, "elementwise", 2)
        times.parts["core"] = self._core(q)
        times.parts["out"] = self._product(q, config.hidden_size)
        self._tensor_collectives(times, "attention", "qkv", "out")
        self._context_collectives(times, k)
        return times

    def _core(self, q: Floats) -> Part:
        fused = self.at.fused_attention & self.engine.fused_attention
        flash, plain = self._fused_core(q), self._plain_core(q) if not bool(fused.all()) else None
        if plain is None:
            return flash
        return Part(*(np.where(fused, getattr(flash, f), getattr(plain, f)) for f in Part.__slots__))

    def _fused_core(self, q: Floats) -> Part:
        """4·Q a pair forward, 10·Q backward (the scores are made again: arXiv 2205.14135, section 3.1)."""
        n, seq_len, load, dtype = self.load.tokens, self.load.seq_len, self.load, self.engine.dtype
        skips = self.at.compressed_mask & self.engine.causal_skips
        pairs = np.where(skips, load.pairs * load.imbalance, float(seq_len))
        flops, copies = 4 * q * n * pairs, self.copies
        heads = self.config.num_attention_heads / self.t
        # Without a compressed mask each head reads the mask beside the scores, a byte a pair.
        mask_s = np.where(self.at.compressed_mask, 0.0, self.ops.memory_s(n * seq_len * heads, "elementwise", 0))
        if not self.engine.causal_skips:
            mask_s = np.zeros_like(n)
        keys = np.where(skips, load.pairs, float(seq_len))
        forward = copies * self.ops.attention_s(flops / copies, keys, dtype, backward=False) + mask_s
        backward = copies * self.ops.attention_s(2.5 * flops / copies, keys, dtype, backward=True) + mask_s
        return Part(forward, backward, np.zeros_like(n), flops)

    def _plain_core(self, q: Floats) -> Part:
        """Scores in memory: two products of full squares a head, softmax (with dropout) over them between.

        Reads and writes of a score, two bytes each: scaled softmax 2, dropout 2 and its mask; backward 3 and 2."""
        rows = self.load.tokens / self.load.seq_len
        length, dh, dtype = float(self.load.seq_len), float(self.config.head_size), self.engine.dtype
        count = rows * q / dh
        scores = count * length * length
        drop = 1 if self.engine.dropout else 0
        ahead = self.ops.matmul_s(length, length, dh, dtype, self.c, count)
        behind = self.ops.matmul_s(length, dh, length, dtype, self.c, count)
        softmax = self._passes(
            scores * (2 * self.c + drop * (2 * self.c + 1)),
            scores * (3 * self.c + drop * (2 * self.c + 1)),
            "softmax",
            2,
        )
        # Gradients: two products of each kind of shape for each of the two.
        back = 2 * (ahead + behind)
        flops = 4 * q * self.load.tokens * length
        return Part(ahead + behind + softmax.forward_s, back + softmax.input_s, np.zeros_like(count), flops)

    # --- collectives -------------------------------------------------------------------------------------------------

    def _tensor_collectives(self, times: BlockTimes, half: str, column: str, row: str) -> None:
        """The half-block's collectives over tp: gather before ``column`` and scatter behind ``row`` with sequence
        parallel, one sum behind ``row`` without; in the backward pass the mirror image, and with sequence parallel the
        input is gathered again for the weights' gradients (arXiv 2205.05198, section 4.2.2)."""
        nbytes = self.load.tokens * self.config.hidden_size * self.c / self.copies
        gather = self.copies * self.links.all_gather_s(nbytes, self.tp_group, "tensor")
        scatter = self.copies * self.links.reduce_scatter_s(nbytes, self.tp_group, "tensor")
        reduce = self.copies * self.links.all_reduce_s(nbytes, self.tp_group, "tensor")
        first, last = times.parts[column], times.parts[row]
        sp, engine = self.at.sp, self.engine
        before = np.where(sp, gather, 0.0)
        behind = np.where(sp, scatter, reduce)
        forward = self._beside(times, before, first.forward_s) + self._beside(times, behind, last.forward_s)
        times.forward_exposed_s[half] = forward * (1 - engine.tp_forward_overlap)
        backward = self._beside(times, before, last.input_s)  # the gradient of row's output is gathered
        grad = np.where(sp, scatter, reduce)  # of column's input
        again = before if engine.sp_regathers else np.zeros_like(before)
        if engine.tp_backward_overlap:
            backward = backward + self._hide(times, grad, first.weight_s)
            backward = backward + self._hide(times, again, first.input_s)
        else:
            backward = backward + self._beside(times, grad, first.input_s) + self._beside(times, again, first.weight_s)
        times.backward_exposed_s[half] = backward

    def _beside(self, times: BlockTimes, comm: Floats, compute: Floats) -> Floats:
        """Exposed part of a collective that goes in pieces beside its own product."""
        hidden = np.minimum(comm, compute) * (1 - 1 / self.pieces)
        times.hidden_s = times.hidden_s + hidden
        return np.asarray(comm - hidden)

    def _hide(self, times: BlockTimes, comm: Floats, compute: Floats) -> Floats:
        """Exposed part of a collective beside other work."""
        hidden = np.minimum(comm, compute)
        times.hidden_s = times.hidden_s + hidden
        return np.asarray(comm - hidden)

    def _context_collectives(self, times: BlockTimes, k: Floats) -> None:
        """Keys and values over cp: gathered before attention and their gradients scattered behind it, or sent round
        beside it (arXiv 2310.01889), where all but one hop can hide."""
        nbytes = 2 * self.load.tokens * self.at.cp * k * self.c
        comm = self.links.all_gather_s(nbytes, self.cp_group)
        core = times.parts["core"]
        hops = np.maximum(self.at.cp - 1, 1)
        for exposed, compute, factor in (
            (times.forward_exposed_s, core.forward_s, 1.0),
            (times.backward_exposed_s, core.input_s, 2.0),
        ):
            moved = factor * comm
            hidden = np.where(self.at.ring, np.minimum(moved, compute) * (1 - 1 / hops), 0.0)
            times.hidden_s = times.hidden_s + hidden
            exposed["cp"] = moved - hidden

    def _finish(self, times: BlockTimes, expert: bool) -> BlockTimes:
        """Two copies hide each other's collectives; compute beside a collective is slower; what is made again."""
        for exposed, backward in ((times.forward_exposed_s, False), (times.backward_exposed_s, True)):
            compute = times.total("input_s") + times.total("weight_s") if backward else times.total("forward_s")
            left = np.maximum(times.exposed(backward) - compute, 0.0) / np.maximum(times.exposed(backward), 1e-30)
            for name in exposed:
                hidden = np.where(self.copies > 1, exposed[name] * (1 - left), 0.0)
                times.hidden_s = times.hidden_s + hidden
                exposed[name] = exposed[name] - hidden
        slower = self.links.node.contention * np.asarray(times.hidden_s)
        times.parts["contention"] = Part(slower / 3, slower / 3, slower / 3, np.zeros_like(slower))
        self._recompute(times, expert)
        return times

    def _recompute(self, times: BlockTimes, expert: bool) -> None:
        """Forward work that the backward pass repeats, by the layouts' choice."""
        at, parts = self.at, times.parts
        sandwich = self.config.norm_placement != "pre" or self.engine.activations == "megatron"
        one = np.ones(len(at))
        attention = np.maximum(at.full, at.named("attention"))
        ffn = np.maximum(at.full, at.named("ffn"))
        up_share = (at.named("up_proj") + at.named("gate_proj") * (2 if self.config.mlp_gated else 1)) / (
            2 if self.config.mlp_gated else 1
        )
        wanted = {
            "norms": np.maximum(at.full, at.named("norms")),
            "residuals": at.full,
            "qkv": np.maximum(attention, at.named("qkv_proj")),
            "rope": np.maximum(attention, at.named("qkv_proj")),
            "core": np.maximum(attention, at.named("core")),
            # A region is not run beyond the last tensor that is asked for; Megatron-LM runs it all.
            "out": np.where(sandwich, attention, at.full),
            "up": np.maximum(ffn, np.minimum(up_share, 1.0)),
            "activation": np.maximum(ffn, np.minimum(up_share, 1.0)),
            "down": np.where(sandwich | expert, ffn, 0.0),
            "router": ffn,
            "permute": ffn,
            "shared": ffn,
        }
        for name, part in parts.items():
            share = wanted.get(name, 0 * one)
            times.remade_s = times.remade_s + share * part.forward_s
            times.remade_flops = times.remade_flops + share * part.flops
        again = {"attention": attention, "cp": attention, "ffn": ffn, "ep": ffn}
        for name, exposed in times.forward_exposed_s.items():
            times.remade_exposed_s = times.remade_exposed_s + np.where(at.keep_collectives, 0.0, again[name] * exposed)


def _sum_parts(parts: list[Part]) -> Part:
    return Part(*(np.asarray(sum(getattr(part, f) for part in parts)) for f in Part.__slots__))
