"""Bytes on every pipeline rank, by category, for arrays of layouts.

States by ZeRO level and sharding group; activations by tensor; what the loss, the recomputed block and the largest
gradients hold for a moment; gathered parameters; buffers of collectives. The peak is the largest of the moments that
can be the worst: the backward pass of the fullest rank's block, and the loss on the rank that has the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.model.config import ModelConfig
from athanor.parallel.activations import Choice, activation_bytes
from athanor.plan.blocks import Load
from athanor.plan.layouts import NAMES, OFFLOADS, SCHEDULES, Ints, Layouts
from athanor.plan.shape import parameters
from athanor.plan.traits import Engine

Floats = NDArray[np.float64]
_TORCH = {4: torch.float32, 2: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, [N, P] by pipeline rank (0 where there is none), of the rank's fullest tensor rank."""

    parameters: Floats
    gradients: Floats
    optimizer: Floats
    gathered: Floats  #: parameters that stay whole in compute precision (blocks' are part of ``transient``)
    activations: Floats  #: kept between forward and backward, all micro-batches in flight
    transient: Floats  #: what a block's backward pass, or the loss, holds beside them at the peak
    logits: Floats  #: of the loss, on the rank that has the head (part of ``transient`` where that is the peak)
    buffers: Floats  #: of collectives and sends

    @property
    def allocated(self) -> Floats:
        """What the framework's allocator has given out at the peak."""
        held = self.parameters + self.gradients + self.optimizer + self.gathered
        return held + self.moving

    @property
    def moving(self) -> Floats:
        """What comes and goes within a step, between whose blocks the allocator loses memory."""
        return self.activations + self.transient + self.buffers


@dataclass(frozen=True, slots=True)
class BlockBytes:
    """What one block keeps of one micro-batch. Arrays [N]."""

    kept: dict[str, Floats]  #: by tensor, with the layouts' named selections
    plain: Floats  #: without any recomputation
    full: Floats  #: where it is made again whole: its input


def rank_parameters(config: ModelConfig, at: Layouts) -> tuple[Floats, Floats]:
    """Parameters on each pipeline rank [N, P]: those of every data rank alike, and routed experts (over ep).

    tp divides all but norms; a rank that has several stages has their sum; a tied head has its own copy.
    """
    p, t = parameters(config), at.tp.astype(np.float64)[:, None]
    dense_blocks, expert_blocks = block_kinds(config, at)
    every = dense_blocks * (p.norms + (p.attention + p.dense) / t)
    every = every + expert_blocks * (p.norms + p.router + (p.attention + p.shared) / t)
    stage = np.arange(at.blocks.shape[1])[None, :]
    last = stage == at.stages[:, None] - 1
    every = every + np.where(stage == 0, p.embedding / t + p.positions, 0)
    head = p.head if p.head else np.where(at.stages[:, None] > 1, p.embedding, 0)
    every = every + np.where(last, head / t + p.final_norm, 0)
    routed = expert_blocks * p.experts / t / at.ep[:, None]
    return on_ranks(at, every), on_ranks(at, routed)


def block_kinds(config: ModelConfig, at: Layouts) -> tuple[Floats, Floats]:
    """[N, S] dense and expert blocks of each stage."""
    blocks = np.maximum(at.blocks, 0)
    if config.moe is None:
        return blocks.astype(np.float64), np.zeros(blocks.shape)
    end = np.minimum(np.cumsum(blocks, axis=1), config.moe.first_k_dense)
    dense = np.diff(end, axis=1, prepend=0)
    return dense.astype(np.float64), (blocks - dense).astype(np.float64)


def on_ranks(at: Layouts, stages: Floats) -> Floats:
    """Sums [N, P] over the stages [N, S] that each pipeline rank holds."""
    width = int(at.pp.max())
    place = at.stage_rank() + np.arange(len(at))[:, None] * width
    held = np.where(at.blocks >= 0, stages, 0.0)
    sums = np.bincount(place.ravel(), held.ravel(), minlength=len(at) * width)
    return np.asarray(sums, np.float64).reshape(len(at), width)


def in_flight(at: Layouts) -> Floats:
    """[N, P] micro-batches whose activations a rank holds at its fullest (of all its stages together).

    1F1B: p − r (arXiv 2104.04473, section 2.2.1); interleaved: ((v−1)·p + 2·(p−r−1) + 1) / v of its warm-up; GPipe all;
    the V-shaped schedules p, and p + 1/2 for DualPipeV (arXiv 2412.19437, table 2), on every rank.
    """
    rank = np.arange(int(at.pp.max()))[None, :].astype(np.float64)
    pp, v, m = (x[:, None].astype(np.float64) for x in (at.pp, at.vpp, at.micro_batches))
    kinds = {
        "gpipe": m + 0 * rank,
        "1f1b": pp - rank,
        "interleaved_1f1b": ((v - 1) * pp + 2 * (pp - rank - 1) + 1) / v,
        "zbv": pp + 0 * rank,
        "dualpipev": pp + 0.5 + 0 * rank,
    }
    held = np.choose(at.schedule[:, None], [np.broadcast_to(kinds[s], (len(at), rank.shape[1])) for s in SCHEDULES])
    held = np.where(pp == 1, 1.0, np.minimum(held, m))
    return np.where(rank < pp, held, 0.0)


# --- activations -----------------------------------------------------------------------------------------------------


def block_bytes(config: ModelConfig, at: Layouts, load: Load, engine: Engine, expert: bool) -> BlockBytes:
    """What a block keeps; Athanor's from the formulas of its own recomputation, others by tensor here."""
    if engine.activations == "athanor":
        return _athanor_bytes(config, at, load, engine, expert)
    plain = _megatron_bytes(config, at, load, engine, expert, None)
    kept = _megatron_bytes(config, at, load, engine, expert, at)
    full = load.tokens * config.hidden_size * engine.activation_bytes / np.where(at.sp, at.tp, 1)
    return BlockBytes(kept, np.asarray(sum(plain.values())), full)


@lru_cache(maxsize=65536)
def _athanor_block(
    config: ModelConfig, tokens: int, choice: Choice, width: int, tp: int, sp: bool, expert: bool, saved: bool
) -> int:
    return activation_bytes(config, tokens, choice, _TORCH[width], tp, sp, expert=expert, collectives_saved=saved)


def _athanor_bytes(config: ModelConfig, at: Layouts, load: Load, engine: Engine, expert: bool) -> BlockBytes:
    key = np.stack([load.tokens.astype(np.int64), at.tp, at.sp, at.keep_collectives, *at.names[:, :-1].T], axis=1)
    unique, where = np.unique(key, axis=0, return_inverse=True)
    rows = []
    for tokens, tp, sp, saved, *chosen in unique.tolist():
        names: Choice = tuple(name for name, on in zip(NAMES[:-1], chosen, strict=True) if on) or "none"  # type: ignore
        args = (config, tokens), (engine.activation_bytes, tp, bool(sp), expert, bool(saved))
        rows.append([_athanor_block(*args[0], choice, *args[1]) for choice in (names, "none", "full")])
    kept, plain, full = np.asarray(rows, np.float64)[where.reshape(-1)].T
    return BlockBytes({"block": kept}, plain, full)


def _megatron_bytes(
    config: ModelConfig, at: Layouts, load: Load, engine: Engine, expert: bool, named: Layouts | None
) -> dict[str, Floats]:
    """arXiv 2205.05198, section 4, by tensor: sbh·(10 + 24/t + 5·a·s/(h·t)) of a GPT block, with sequence parallel all
    of it over t; gated feed-forward, grouped heads and fused attention (its log-sum-exp) alike."""
    n, t, c, d = load.tokens, at.tp.astype(np.float64), engine.activation_bytes, config.hidden_size
    stream = n * d / np.where(at.sp, t, 1)
    q = n * config.num_attention_heads * config.head_size / t
    k = n * config.head_size * np.maximum(config.num_key_value_heads / t, 1)
    heads = config.num_attention_heads / t
    fused = at.fused_attention & engine.fused_attention
    drop = 1 if engine.dropout else 0
    scores = n * heads * load.seq_len * (c + drop * (1 + c))

    def on(*names: str) -> Floats:
        """1 where none of these parts is made again."""
        if named is None:
            return np.ones(len(at))
        return np.prod([1.0 - named.named(name) for name in names], axis=0)

    out = {
        "stream": 2 * c * stream,
        "norm outputs": c * stream * on("norms") * (on("attention") + on("ffn")),
        "post-norm inputs": (0 if config.norm_placement == "pre" else 2) * c * stream,
        "dropout masks": 2 * drop * stream,
        "queries, keys, values": c * (q + 2 * k) * on("attention", "qkv_proj"),
        "scores": np.where(fused, 4 * n * heads, scores * on("core")) * on("attention"),
        "attention output": c * q * on("attention"),
    }
    gates, moe = (2 if config.mlp_gated else 1), config.moe
    if expert and moe is not None:
        routed = n * moe.num_experts_per_tok
        out["router"] = 4.0 * n * moe.num_experts
        out["routed tokens"] = 2 * c * routed * d / np.where(at.sp, t, 1) * on("ffn")
        inner = (
            routed + 0.0
        ) * moe.moe_intermediate_size / t + n * moe.num_shared_experts * moe.moe_intermediate_size / t
    else:
        inner = n * config.intermediate_size / t
    out["up product"] = c * gates * inner * on("ffn", "up_proj")
    out["activation output"] = c * inner * on("ffn")
    return out


# --- the peak --------------------------------------------------------------------------------------------------------


def settle_budget(config: ModelConfig, at: Layouts, load: Load, engine: Engine) -> Layouts:
    """Layouts with a budget of activation bytes: the share of blocks that must be made again for the fullest rank."""
    asked = np.isfinite(at.budget_bytes)
    if not bool(asked.any()):
        return at
    block = block_bytes(config, at, load, engine, expert=config.moe is not None)
    blocks = (on_ranks(at, np.maximum(at.blocks, 0).astype(np.float64)) * in_flight(at)).max(axis=1)
    over = blocks * block.plain - np.where(asked, at.budget_bytes, np.inf)
    share = np.clip(over / np.maximum(blocks * (block.plain - block.full), 1.0), 0.0, 1.0)
    values = {f: getattr(at, f) for f in Layouts.__dataclass_fields__}
    return Layouts(**(values | {"full": np.where(asked, share, at.full)}))


def memory(config: ModelConfig, at: Layouts, load: Load, engine: Engine) -> Memory:
    """Bytes on every pipeline rank of every layout."""
    every, routed = rank_parameters(config, at)
    present = every > 0
    whole, sharded, gathered = _state_bytes(engine, at)
    spread = (at.dp_shard * at.cp)[:, None].astype(np.float64)
    # Routed experts are already over ep of those ranks.
    each = every * (whole + sharded / spread) + routed * (whole + sharded / np.maximum(spread / at.ep[:, None], 1))
    moments = every * sharded / spread + routed * sharded / np.maximum(spread / at.ep[:, None], 1)
    share = _optimizer_share(engine, at)
    optimizer = np.where(sharded > 0, moments * share / np.maximum(sharded, 1), (every + routed) * share)
    params = each - optimizer - _gradients(engine, at, every, routed, spread, _spread_late(engine, at))
    grads = _gradients(engine, at, every, routed, spread, _whole_gradients(engine, at))
    on_host = (at.offload >= OFFLOADS.index("optimizer"))[:, None]
    optimizer = np.where(on_host, 0.0, optimizer)
    params = np.where((at.offload == OFFLOADS.index("all"))[:, None], 0.0, params)
    block_bytes_whole = _largest_block(config, at)[:, None] * engine.param_bytes
    scattered = (at.zero >= 2) & (at.dp_shard * at.cp > 1) & ~_whole_gradients(engine, at)
    beside = gathered * block_bytes_whole + scattered[:, None] * engine.scatter_bytes / engine.param_bytes * (
        block_bytes_whole
    )
    held = _activations(config, at, load, engine, np.where(present, beside, 0.0))
    ends = _end_parameters(config, at) * engine.param_bytes * engine.ends_stay_gathered
    return Memory(
        parameters=params,
        gradients=grads,
        optimizer=optimizer,
        gathered=np.where((at.zero == 3)[:, None], ends, 0.0),
        activations=held[0],
        transient=held[1],
        logits=held[2],
        buffers=_buffers(config, at, load, engine) * present,
    )


def _state_bytes(engine: Engine, at: Layouts) -> tuple[Floats, Floats, Floats]:
    """Bytes a parameter that every rank has and that are spread, and blocks gathered: [N, 1] each."""
    known = [engine.states.get(z) or engine.states[max(engine.states)] for z in (0, 1, 2, 3)]
    table = np.array([(s.whole, s.sharded, s.gathered_blocks) for s in known])[at.zero]
    return table[:, :1], table[:, 1:2], table[:, 2:]


def _optimizer_share(engine: Engine, at: Layouts) -> Floats:
    known = [engine.optimizer_share.get(z, engine.optimizer_share[max(engine.optimizer_share)]) for z in (0, 1, 2, 3)]
    return np.array(known, np.float64)[at.zero][:, None]


def _gradients(
    engine: Engine, at: Layouts, every: Floats, routed: Floats, spread: Floats, whole: NDArray[np.bool_]
) -> Floats:
    over = np.where(whole[:, None], 1.0, spread)
    over_experts = np.where(whole[:, None], 1.0, np.maximum(spread / at.ep[:, None], 1))
    return engine.state_grad_bytes * (every / over + routed / over_experts)


def _spread_late(engine: Engine, at: Layouts) -> NDArray[np.bool_]:
    """ZeRO levels that do not spread gradients before the end of a step."""
    return np.asarray(at.zero < (2 if engine.activations == "athanor" else 3))


def _whole_gradients(engine: Engine, at: Layouts) -> NDArray[np.bool_]:
    """Where gradients stay whole until then, by their level or because the pipeline sums them once."""
    return np.asarray(_spread_late(engine, at) | (engine.whole_in_pipeline & (at.pp > 1)))


def _end_parameters(config: ModelConfig, at: Layouts) -> Floats:
    """[N, P] parameters of embedding and head."""
    p, t = parameters(config), at.tp.astype(np.float64)
    first = np.arange(int(at.pp.max()))[None, :] == at.stage_rank()[:, :1]
    head = p.head if p.head else np.where(at.stages > 1, p.embedding, 0)
    return first * (p.embedding / t + p.positions)[:, None] + head_rank(at) * (head / t)[:, None]


def _largest_block(config: ModelConfig, at: Layouts) -> Floats:
    p = parameters(config)
    dense = p.dense_block if p.dense_blocks else 0
    experts = p.expert_block - p.experts * (1 - 1 / at.ep) if p.expert_blocks else np.zeros(len(at))
    return np.asarray(np.maximum(dense, experts) / at.tp)


def _activations(
    config: ModelConfig, at: Layouts, load: Load, engine: Engine, beside: Floats
) -> tuple[Floats, Floats, Floats]:
    """[N, P] kept, and beside it for a moment; and what the loss holds. ``beside``: bytes [N, P] that a block's own
    collectives hold while it runs backward."""
    dense_blocks, expert_blocks = block_kinds(config, at)
    kinds = [(dense_blocks, False)] + ([(expert_blocks, True)] if config.moe is not None else [])
    kept, worst = np.zeros(at.blocks.shape), np.zeros(len(at))
    for count, expert in kinds:
        block = block_bytes(config, at, load, engine, expert)
        named = np.asarray(sum(block.kept.values()))
        per_block = at.full * block.full + (1 - at.full) * named
        kept = kept + count * per_block[:, None]
        # A block that is made again holds all that it would have kept while its backward pass runs.
        again = np.where((at.full > 0) | at.names.any(axis=1), block.plain - per_block, 0.0)
        worst = np.maximum(worst, np.maximum(again, 0) + _largest_gradients(config, at, load, engine, expert))
    flying = in_flight(at)
    held = on_ranks(at, kept) * flying
    loss = _loss_bytes(config, at, load, engine)
    head = head_rank(at)
    vocabulary = config.vocab_size / at.tp.astype(np.float64)
    left = engine.head_grad_bytes * (vocabulary * config.hidden_size)[:, None] * head
    transient = np.where(flying > 0, worst[:, None] + beside + left, 0.0)
    return held, np.maximum(transient, loss[:, None] * head), loss[:, None] * head


def _largest_gradients(config: ModelConfig, at: Layouts, load: Load, engine: Engine, expert: bool) -> Floats:
    """Gradients of the feed-forward's product and its input, and of the stream: alive together behind ``down``."""
    gates = 2 if config.mlp_gated else 1
    inner = load.tokens * config.intermediate_size / at.tp
    if expert and config.moe is not None:
        inner = load.tokens * config.moe.num_experts_per_tok * config.moe.moe_intermediate_size / at.tp
    stream = load.tokens * config.hidden_size
    return engine.backward_buffers * engine.activation_bytes * ((gates + 1) * inner + stream)


def _loss_bytes(config: ModelConfig, at: Layouts, load: Load, engine: Engine) -> Floats:
    vocabulary = config.vocab_size / at.tp.astype(np.float64)
    logits = np.minimum(load.tokens * vocabulary, engine.logit_chunk or np.inf)
    return engine.logit_bytes * logits + engine.embedding_grad_bytes * vocabulary * config.hidden_size


def head_rank(at: Layouts) -> NDArray[np.bool_]:
    """[N, P]: whether the rank has the last stage."""
    last = np.take_along_axis(at.stage_rank(), (at.stages - 1)[:, None], axis=1)
    rank: Ints = np.arange(int(at.pp.max()))[None, :]
    return np.asarray(rank == last)


def _buffers(config: ModelConfig, at: Layouts, load: Load, engine: Engine) -> Floats:
    """Gathered keys and values of cp and what a stage receives, with its gradient."""
    c, stream = engine.activation_bytes, load.tokens * config.hidden_size
    k = config.head_size * np.maximum(config.num_key_value_heads / at.tp, 1)
    # A ring holds the part it computes with and the one that arrives; each with its gradient in the backward pass.
    parts = np.where(at.ring, np.minimum(at.cp, 2), at.cp)
    context = np.where(at.cp > 1, 2 * 2 * c * k * load.tokens * parts, 0.0)
    received = np.where(at.pp > 1, c * stream / np.where(at.sp, at.tp, 1), 0.0)[:, None] * _receives(engine, at)
    gathered = np.where(at.sp, c * stream, 0.0)
    return np.asarray(received + (context + gathered + engine.workspace_bytes)[:, None])


def _receives(engine: Engine, at: Layouts) -> Floats:
    """[N, P] stage inputs, and gradients of stage outputs, that a rank has room for."""
    if not engine.receives_all:
        return np.full((len(at), int(at.pp.max())), 2.0)
    stage = np.arange(at.blocks.shape[1])[None, :]
    ends = (stage > 0).astype(np.float64) + (stage < at.stages[:, None] - 1)
    return on_ranks(at, ends) * at.micro_batches[:, None]
