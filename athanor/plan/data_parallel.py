"""Data-parallel collectives of one step, and what hides beside the first forward and last backward passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.model.config import ModelConfig
from athanor.plan.collectives import Links
from athanor.plan.layouts import OFFLOADS, Layouts
from athanor.plan.memory import on_ranks, rank_parameters
from athanor.plan.traits import Engine

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DataParallel:
    """Seconds [N] of the rank that waits longest; [N, P] by pipeline rank where said."""

    gather_s: Floats  #: [N, P] one all-gather of a rank's parameters
    reduce_s: Floats  #: [N, P] one reduction of its gradients
    gather_hidden_s: Floats  #: [N, P] of one gather, beside a forward pass
    reduce_hidden_s: Floats  #: [N, P] of one reduction, beside a backward pass
    exposed_s: Floats  #: of the whole step
    updated: Floats  #: parameters that the fullest rank updates
    on_host: NDArray[np.bool_]
    norm_s: Floats  #: the sum of squares over all ranks


def data_parallel(
    config: ModelConfig, at: Layouts, links: Links, engine: Engine, forward_s: Floats, backward_s: Floats
) -> DataParallel:
    """``forward_s``, ``backward_s`` [N, P]: one micro-batch through all stages of a rank.

    ZeRO 0 sums gradients over all data ranks once; 1 and 2 scatter the sum and gather parameters, 3 gathers them in
    every forward and backward pass (arXiv 1910.02054, section 7). Hybrid sharding sums over replicas behind the
    scatter. The first block's gather and the last block's scatter have nothing to run beside.
    """
    every, routed = rank_parameters(config, at)
    spread, copies = at.dp_shard * at.cp, at.dp_replicate
    whole = links.group(spread * copies, at.tp)
    shards = links.group(spread, at.tp)
    experts = links.group(np.maximum(spread // at.ep, 1), at.tp * at.ep)
    replicas = links.group(copies, at.tp * spread)
    reduce_s, gather_s = np.zeros(every.shape), np.zeros(every.shape)
    blocks = np.maximum(on_ranks(at, np.maximum(at.blocks, 0).astype(np.float64)), 1.0)
    # At ZeRO 3 each block (or each of its tensors) is gathered and scattered by itself, else bytes go in large buckets.
    pieces = np.where((at.zero == 3)[:, None], blocks * engine.gathers_by_block, 1.0)
    for rank in range(every.shape[1]):
        for held, group in ((every[:, rank], shards), (routed[:, rank], experts)):
            if not bool(held.any()):
                continue
            count = pieces[:, rank]
            grads, params = held * engine.grad_bytes / count, held * engine.param_bytes / count
            scatter = links.reduce_scatter_s(grads, group, "data")
            across = links.all_reduce_s(grads / group.size, replicas)
            everywhere = links.all_reduce_s(grads, whole if group is shards else group)
            reduce_s[:, rank] += count * np.where(at.zero == 0, everywhere, scatter + across)
            gather_s[:, rank] += count * np.where(at.zero == 0, 0.0, links.all_gather_s(params, group, "data"))
    inner = np.where(at.dp_overlap[:, None], 1 - 1 / blocks, 0.0)
    m = at.micro_batches[:, None].astype(np.float64)
    third = (at.zero == 3)[:, None]
    gather_hidden = np.minimum(gather_s, forward_s) * inner
    # At ZeRO 3 the backward pass gathers again: both collectives have one pass of compute to hide beside.
    behind_s = reduce_s + np.where(third, gather_s, 0.0)
    behind_hidden = np.minimum(behind_s, backward_s) * inner
    gathers = np.where(third, m, 1.0)
    reductions = np.where(engine.sums_each(at.zero, at.pp)[:, None], m, 1.0)
    exposed = gathers * (gather_s - gather_hidden) + reductions * (behind_s - behind_hidden)
    slower = links.node.contention * (gathers * gather_hidden + reductions * behind_hidden)
    reduce_hidden = behind_hidden * reduce_s / np.maximum(behind_s, 1e-30)
    share = np.where(at.zero == 0, 1, spread).astype(np.float64)
    updated = every / share[:, None] + routed / np.maximum(share / np.where(at.zero == 0, 1, at.ep), 1)[:, None]
    tied = _tied(config, at, links, engine)
    return DataParallel(
        gather_s=gather_s,
        reduce_s=reduce_s,
        gather_hidden_s=gather_hidden,
        reduce_hidden_s=reduce_hidden,
        exposed_s=(exposed + slower).max(axis=1) + tied,
        updated=updated.max(axis=1),
        on_host=at.offload >= OFFLOADS.index("optimizer"),
        norm_s=links.all_reduce_s(8.0, links.group(at.world_size, 1)),
    )


def _tied(config: ModelConfig, at: Layouts, links: Links, engine: Engine) -> Floats:
    """A tied embedding is on the first and the last stage, which sum its gradient."""
    if not config.tie_word_embeddings:
        return np.zeros(len(at))
    nbytes = config.vocab_size * config.hidden_size / at.tp * engine.grad_bytes
    stride = at.dp * at.cp * at.tp
    return np.asarray(np.where(at.pp > 1, links.all_reduce_s(nbytes, links.group(np.minimum(at.pp, 2), stride)), 0.0))
