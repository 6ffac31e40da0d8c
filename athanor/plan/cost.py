"""Seconds, bytes and operations of one optimizer step, for arrays of layouts: the planner's cost model.

Blocks (``blocks.py``) are put into stages, stages into the pipeline's closed form, and data-parallel collectives, the
loss and the optimizer beside them. What a timeline needs (seconds by stage) is in the result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.model.config import ModelConfig
from athanor.plan.blocks import Blocks, BlockTimes, Load
from athanor.plan.cluster import Cluster
from athanor.plan.collectives import Links
from athanor.plan.data_parallel import DataParallel, data_parallel
from athanor.plan.layouts import SCHEDULES, Layouts
from athanor.plan.memory import Memory, block_bytes, block_kinds, memory, on_ranks, settle_budget
from athanor.plan.ops import Misses, Ops
from athanor.plan.shape import Documents, step_flops
from athanor.plan.traits import ENGINES, Engine

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """What all layouts share: model, batch, machine, engine. ``global_rows`` rows of ``seq_len`` tokens a step."""

    config: ModelConfig
    seq_len: int
    global_rows: int
    cluster: Cluster
    engine: Engine = ENGINES["athanor"]
    documents: Documents = dataclasses.field(default_factory=Documents.rows)


@dataclass(frozen=True, slots=True)
class Costs:
    """One step of N layouts. Seconds are float64 [N] unless said; parts that wait for one another add up to step_s."""

    step_s: Floats
    forward_s: Floats  #: [N, S] of one micro-batch in each stage, exposed collectives included
    backward_input_s: Floats  #: [N, S] with what is made again
    backward_weight_s: Floats  #: [N, S]
    forward_exposed_s: Floats  #: [N, S] collectives in forward_s
    backward_exposed_s: Floats  #: [N, S] collectives in backward_input_s
    activation_bytes: Floats  #: [N, S] kept of one micro-batch
    p2p_s: Floats  #: one hop between stages
    pipeline_s: Floats  #: all micro-batches through the pipeline
    bubble_s: Floats  #: of that, waiting of the slowest rank
    p2p_exposed_s: Floats  #: of that, sends
    collectives_s: Floats  #: of that, exposed tensor, context and expert collectives of the slowest rank
    remade_s: Floats  #: of that, compute repeated by recomputation on the slowest rank
    data: DataParallel
    optimizer_s: Floats
    memory: Memory
    allocated_bytes: Floats  #: peak of the fullest rank, of the framework's allocator
    reserved_bytes: Floats  #: with what is lost between its blocks
    peak_bytes: Floats  #: with what driver and runtime hold
    memory_bytes: float  #: of a device
    model_flops: dict[str, float]  #: of the whole step, by convention of the causal half
    hardware_flops: Floats  #: with what is made again, convention ``full``
    peak_flops_per_s: float
    world_size: Floats
    tokens: float

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether the peak is within a device."""
        return np.asarray(self.peak_bytes <= self.memory_bytes)

    @property
    def tokens_per_s(self) -> Floats:
        """Of the whole machine."""
        return self.tokens / self.step_s

    def mfu(self, convention: str = "causal") -> Floats:
        """Model operations over what devices could do in the time; ``causal`` counts T(T+1)/2 pairs, ``full``
        T² (arXiv 2204.02311, appendix B)."""
        return self.model_flops[convention] / (self.world_size * self.peak_flops_per_s * self.step_s)

    def hfu(self) -> Floats:
        """With repeated operations, convention ``full``."""
        return self.hardware_flops / (self.world_size * self.peak_flops_per_s * self.step_s)


def evaluate(problem: Problem, at: Layouts, misses: Misses | None = None) -> Costs:
    """Costs of every layout. Layouts are taken as valid (``athanor.parallel.checks``). ``misses`` collects shapes of
    products that were interpolated. AthanorError where the cluster lacks what a layout needs (a network, a peak)."""
    config, engine = problem.config, problem.engine
    ops, links = Ops(problem.cluster.device, misses), Links(problem.cluster)
    load = _load(problem, at)
    at = settle_budget(config, at, load, engine)
    blocks = Blocks(config, at, load, ops, links, engine)
    stages = _stages(problem, at, load, blocks)
    p2p_s = _hop(config, at, load, links, engine)
    pipe = _pipeline(at, stages, p2p_s)
    held = memory(config, at, load, engine)
    data = data_parallel(config, at, links, engine, on_ranks(at, stages.forward), on_ranks(at, stages.backward))
    optimizer_s = _optimizer_s(problem, ops, data)
    allocated = held.allocated
    reserved = allocated + problem.cluster.device.fragmentation * held.moving
    step_s = pipe.total + data.exposed_s + optimizer_s
    tokens = float(problem.global_rows) * problem.seq_len
    model = {
        kind: step_flops(
            config, tokens, problem.documents.pairs_per_token(problem.seq_len, kind, config.sliding_window)
        )
        for kind in ("causal", "full")
    }
    kept = _kept(config, at, load, engine)
    return Costs(
        step_s=step_s,
        forward_s=stages.forward,
        backward_input_s=stages.input,
        backward_weight_s=stages.weight,
        forward_exposed_s=stages.forward_exposed,
        backward_exposed_s=stages.backward_exposed,
        activation_bytes=kept,
        p2p_s=p2p_s,
        pipeline_s=pipe.total,
        bubble_s=pipe.bubble,
        p2p_exposed_s=pipe.p2p,
        collectives_s=at.micro_batches * pipe.of_slowest(at, stages.forward_exposed + stages.backward_exposed),
        remade_s=at.micro_batches * pipe.of_slowest(at, stages.remade),
        data=data,
        optimizer_s=optimizer_s,
        memory=held,
        allocated_bytes=allocated.max(axis=1),
        reserved_bytes=reserved.max(axis=1),
        peak_bytes=reserved.max(axis=1) + problem.cluster.device.reserved_bytes,
        memory_bytes=problem.cluster.device.memory_bytes,
        model_flops=model,
        hardware_flops=model["full"] + stages.remade_flops * at.micro_batches * at.dp * at.cp * at.tp,
        peak_flops_per_s=ops.peak("bf16" if engine.dtype == "fp8" else engine.dtype),
        world_size=at.world_size.astype(np.float64),
        tokens=tokens,
    )


def _load(problem: Problem, at: Layouts) -> Load:
    tokens = at.rows * problem.seq_len / at.cp
    pairs = problem.documents.pairs_per_token(problem.seq_len, "causal", problem.config.sliding_window)
    imbalance = np.ones(len(at))
    if problem.documents.lengths:
        for cp in np.unique(at.cp[~at.context_by_document & (at.cp > 1)]):
            worst = problem.documents.imbalance(problem.seq_len, int(cp))
            imbalance = np.where(~at.context_by_document & (at.cp == cp), worst, imbalance)
    return Load(tokens.astype(np.float64), problem.seq_len, np.full(len(at), pairs), imbalance)


# --- stages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stages:
    """Seconds of one micro-batch, [N, S]; operations made again, [N] over all stages."""

    forward: Floats
    input: Floats
    weight: Floats
    forward_exposed: Floats
    backward_exposed: Floats
    remade: Floats
    remade_flops: Floats

    @property
    def backward(self) -> Floats:
        return self.input + self.weight


def _stages(problem: Problem, at: Layouts, load: Load, blocks: Blocks) -> _Stages:
    config = problem.config
    dense_blocks, expert_blocks = block_kinds(config, at)
    kinds: list[tuple[Floats, BlockTimes]] = []
    if bool(dense_blocks.any()):
        kinds.append((dense_blocks, blocks.dense()))
    if bool(expert_blocks.any()):
        kinds.append((expert_blocks, blocks.expert()))
    shape = at.blocks.shape
    forward, inputs, weights, ahead, behind, remade = (np.zeros(shape) for _ in range(6))
    flops = np.zeros(len(at))
    for count, times in kinds:

        def of(seconds: Floats | float, count: Floats = count) -> Floats:
            return np.asarray(count * np.broadcast_to(np.asarray(seconds, np.float64), (len(at),))[:, None])

        forward += of(times.total("forward_s"))
        inputs += of(times.total("input_s")) + of(times.remade_s)
        weights += of(times.total("weight_s"))
        ahead += of(times.exposed(False))
        behind += of(times.exposed(True)) + of(times.remade_exposed_s)
        remade += of(times.remade_s)
        flops += of(times.remade_flops).sum(axis=1)
    _add_ends(problem, at, load, blocks, forward, inputs, weights, ahead, behind)

    def there(seconds: Floats) -> Floats:
        return np.where(at.blocks >= 0, seconds, 0.0)

    return _Stages(
        forward=there(forward + ahead),
        input=there(inputs + behind),
        weight=there(weights),
        forward_exposed=there(ahead),
        backward_exposed=there(behind),
        remade=there(remade),
        remade_flops=flops,
    )


def _add_ends(
    problem: Problem, at: Layouts, load: Load, blocks: Blocks, forward: Floats, inputs: Floats, weights: Floats,
    ahead: Floats, behind: Floats,
) -> None:  # fmt: skip
    """The lookup in the first stage; final norm, head and loss in the last."""
    config, engine, ops = problem.config, problem.engine, blocks.ops
    n, t, d, c = load.tokens, at.tp.astype(np.float64), config.hidden_size, engine.activation_bytes
    rows, last = np.arange(len(at)), at.stages - 1
    vocabulary = config.vocab_size / t
    passes = ops.memory_s(engine.logit_traffic / 2 * n * vocabulary, "softmax", 4)
    norm = ops.memory_s(2 * c * blocks.stream_n * d, "norm")
    forward[rows, last] += ops.matmul_s(n, vocabulary, d, engine.head_dtype, c) + passes + norm
    inputs[rows, last] += ops.matmul_s(n, d, vocabulary, engine.head_dtype, c) + passes + 1.5 * norm
    weights[rows, last] += ops.matmul_s(d, vocabulary, n, engine.head_dtype, engine.grad_bytes)
    nbytes = n * d * c
    gather = blocks.links.all_gather_s(nbytes, blocks.tp_group, "tensor")
    scatter = blocks.links.reduce_scatter_s(nbytes, blocks.tp_group, "tensor")
    reduce = blocks.links.all_reduce_s(nbytes, blocks.tp_group, "tensor")
    ahead[rows, last] += np.where(at.sp, gather, 0.0)
    behind[rows, last] += np.where(at.sp, scatter, reduce)
    looked_up = ops.memory_s(3 * c * n * d, "elementwise", 2)
    forward[rows, 0] += looked_up
    weights[rows, 0] += 2 * looked_up
    ahead[rows, 0] += np.where(at.sp, scatter, reduce)
    behind[rows, 0] += np.where(at.sp, gather, 0.0)


def _hop(config: ModelConfig, at: Layouts, load: Load, links: Links, engine: Engine) -> Floats:
    """Seconds from a stage to the next: the stream, of which a rank sends its part."""
    nbytes = load.tokens * config.hidden_size * engine.activation_bytes
    parts = np.where(at.sp | engine.scattered_p2p, at.tp, 1)
    send = links.send_s(nbytes / parts, at.dp * at.cp * at.tp)
    gather = np.where(at.sp | (not engine.scattered_p2p), 0.0, links.all_gather_s(nbytes, links.group(at.tp, 1)))
    return np.asarray(np.where(at.pp > 1, send + gather, 0.0))


def _kept(config: ModelConfig, at: Layouts, load: Load, engine: Engine) -> Floats:
    """[N, S] bytes that a stage keeps of one micro-batch."""
    dense_blocks, expert_blocks = block_kinds(config, at)
    out = np.zeros(at.blocks.shape)
    for count, expert in ((dense_blocks, False), (expert_blocks, True)):
        if bool(count.any()):
            block = block_bytes(config, at, load, engine, expert)
            out += count * (at.full * block.full + (1 - at.full) * np.asarray(sum(block.kept.values())))[:, None]
    return out


# --- the pipeline ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pipe:
    total: Floats
    bubble: Floats
    p2p: Floats
    slowest: NDArray[np.int64]

    def of_slowest(self, at: Layouts, stages: Floats) -> Floats:
        """[N]: the sum over the slowest rank's stages."""
        return np.asarray(np.take_along_axis(on_ranks(at, stages), self.slowest[:, None], axis=1)[:, 0])


def _pipeline(at: Layouts, stages: _Stages, hop: Floats) -> _Pipe:
    """Closed form: the slowest rank does all its micro-batches, the others' first and last ones lie around it.

    GPipe, 1F1B and interleaved: Σ over the other ranks of forward and backward, over v (arXiv 2104.04473, section 2.2).
    ZBV fills with weights' gradients: (p−1)·(F + B − 2W) of a stage (arXiv 2401.10241, table 2, ZB-2p); DualPipeV:
    (p−1)·(F + 2B − 3W) with B the whole backward pass (arXiv 2412.19437, table 2), one micro-batch's pair not
    overlapped. Sends are exposed while the pipeline fills and drains, and at every turn where they do not run beside
    compute: always with one stage a rank, whose schedule waits for its neighbour.
    """
    forward, inputs, weights = (on_ranks(at, x) for x in (stages.forward, stages.input, stages.weight))
    both = forward + inputs + weights
    slowest = both.argmax(axis=1)
    most, v, p, m = both.max(axis=1), at.vpp, at.pp, at.micro_batches
    mean = [x.sum(axis=1) / p / v for x in (forward, inputs, weights)]
    plain = (both.sum(axis=1) - most) / v
    zbv = (p - 1) * np.maximum(mean[0] + mean[1] - 2 * mean[2], 0.0)
    dual = (p - 1) * np.maximum(mean[0] + 2 * mean[1] - mean[2], 0.0)
    by_kind = {"zbv": zbv, "dualpipev": dual}
    bubble = np.choose(at.schedule, [by_kind.get(name, plain) for name in SCHEDULES])
    turns = np.where((at.vpp > 1) & at.p2p_overlap, 0.0, 2.0 * m * v)
    sends = np.where(p > 1, hop * (2 * (p - 1) + turns), 0.0)
    bubble = np.where(p > 1, bubble, 0.0)
    return _Pipe(m * most + bubble + sends, bubble, sends, slowest)


def _optimizer_s(problem: Problem, ops: Ops, data: DataParallel) -> Floats:
    """The update of the rank with most parameters; in host memory the host's link is its bandwidth."""
    engine = problem.engine
    on_device = ops.memory_s(data.updated * engine.optimizer_traffic, "optimizer", 8)
    host = problem.cluster.node.host_bytes_per_s
    on_host = data.updated * (engine.grad_bytes + engine.param_bytes + engine.optimizer_traffic) / host
    return np.asarray(np.where(data.on_host, on_host, on_device) + data.norm_s)
