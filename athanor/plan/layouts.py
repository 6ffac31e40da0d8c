"""Many layouts side by side, as arrays: what the cost model works on. One layout is arrays of length one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from athanor.parallel.plan import ParallelPlan, RecomputePlan, ScheduleName

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SCHEDULES: tuple[ScheduleName, ...] = ("gpipe", "1f1b", "interleaved_1f1b", "zbv", "dualpipev")
#: Schedules that lay stages out as a V: the first and the last on rank 0.
V_SHAPED = (SCHEDULES.index("zbv"), SCHEDULES.index("dualpipev"))
OFFLOADS = ("none", "optimizer", "all")
#: What a selection names (``athanor.parallel.plan.RecomputeName``), and ``core``: attention without its projections,
#: which is what Megatron-LM calls selective (arXiv 2205.05198, section 5).
NAMES = ("attention", "ffn", "norms", "up_proj", "gate_proj", "qkv_proj", "core")


@dataclass(frozen=True, slots=True)
class Switches:
    """Parts of an implementation that can be there or not; each is one line of ``switch_table``."""

    chunked_tp: bool = False  #: matrix products in pieces beside their collectives (MC², asynchronous TP)
    fused_attention: bool = True  #: scores never in memory, masked blocks skipped
    fused_ops: bool = True  #: norm, rotary, activation, residual each one pass over memory
    compressed_mask: bool = True  #: no T × T mask is read
    fused_accumulation: bool = True  #: weight gradients are added inside the product
    dp_overlap: bool = True  #: data-parallel collectives beside the first forward and last backward passes
    p2p_overlap: bool = True  #: stages send and receive beside compute
    context_by_document: bool = True  #: context parallel cuts each document, not the row


@dataclass(frozen=True)
class Layouts:
    """Arrays [N] of layouts; names as in :class:`~athanor.parallel.plan.ParallelPlan`."""

    tp: Ints
    cp: Ints
    pp: Ints
    vpp: Ints
    ep: Ints
    dp_replicate: Ints
    dp_shard: Ints
    zero: Ints
    sp: Bools
    ring: Bools  #: keys and values of cp go round, instead of being gathered
    schedule: Ints  #: index into SCHEDULES
    copies: Ints
    chunks: Ints
    offload: Ints  #: index into OFFLOADS
    rows: Ints  #: of a micro-batch
    micro_batches: Ints  #: of a data rank in one step
    full: Floats  #: share of blocks that are made again whole
    budget_bytes: Floats  #: activations a rank may hold; blocks are made again until they fit; inf: not asked
    names: Bools  #: [N, len(NAMES)], parts of every block that are made again
    keep_collectives: Bools  #: of what is made again
    blocks: Ints  #: [N, S] in each stage in model order, −1 where there is no such stage
    chunked_tp: Bools
    fused_attention: Bools
    fused_ops: Bools
    compressed_mask: Bools
    fused_accumulation: Bools
    dp_overlap: Bools
    p2p_overlap: Bools
    context_by_document: Bools

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def stages(self) -> Ints:
        """pp · vpp."""
        return self.pp * self.vpp

    @property
    def dp(self) -> Ints:
        """Ranks that read different data."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> Ints:
        """Ranks."""
        return self.dp * self.cp * self.pp * self.tp

    def named(self, name: str) -> Bools:
        """Which layouts make this part of every block again."""
        return self.names[:, NAMES.index(name)]

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Layouts:
        """Those at ``index``."""
        return Layouts(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def stage_rank(self) -> Ints:
        """[N, S]: the pipeline rank that holds each stage; 0 where there is none."""
        return self._stage_rank

    @cached_property
    def _stage_rank(self) -> Ints:
        stage = np.arange(self.blocks.shape[1])[None, :]
        pp = self.pp[:, None]
        loop = stage % pp
        v_shape = np.where(stage < pp, stage, 2 * pp - 1 - stage)
        rank = np.where(np.isin(self.schedule, V_SHAPED)[:, None], v_shape, loop)
        return np.where(self.blocks >= 0, rank, 0)

    @classmethod
    def of(
        cls,
        plans: Sequence[ParallelPlan],
        n_layers: int,
        rows: Sequence[int] | int,
        micro_batches: Sequence[int] | int,
        switches: Sequence[Switches] | Switches | None = None,
    ) -> Layouts:
        """From plans. ``switches``: None derives ``chunked_tp`` and the split of cp from each plan."""
        n = len(plans)
        each = [_switches(plan) for plan in plans] if switches is None else switches
        each = [each] * n if isinstance(each, Switches) else list(each)

        def ints(name: str) -> Ints:
            return np.array([getattr(plan, name) for plan in plans], np.int64)

        recompute = [plan.recompute for plan in plans]
        given = {f.name: np.array([getattr(s, f.name) for s in each], bool) for f in dataclasses.fields(Switches)}
        return cls(
            tp=ints("tp"),
            cp=ints("cp"),
            pp=ints("pp"),
            vpp=ints("vpp"),
            ep=ints("ep"),
            dp_replicate=ints("dp_replicate"),
            dp_shard=ints("dp_shard"),
            zero=ints("zero"),
            sp=np.array([plan.sp and plan.tp > 1 for plan in plans], bool),
            ring=np.array([plan.cp_kv == "ring" for plan in plans], bool),
            schedule=np.array([SCHEDULES.index(plan.schedule) for plan in plans], np.int64),
            copies=ints("copies"),
            chunks=ints("chunks"),
            offload=np.array([OFFLOADS.index(plan.offload) for plan in plans], np.int64),
            rows=np.broadcast_to(np.asarray(rows, np.int64), (n,)).copy(),
            micro_batches=np.broadcast_to(np.asarray(micro_batches, np.int64), (n,)).copy(),
            full=np.array([_full(r) for r in recompute]),
            budget_bytes=np.array([r.budget_bytes if r.mode == "budget" else np.inf for r in recompute], np.float64),
            names=np.array([[r.mode == "selective" and name in r.names for name in NAMES] for r in recompute], bool),
            keep_collectives=np.array([r.communication == "save" for r in recompute], bool),
            blocks=_split(plans, n_layers),
            **given,
        )


def _switches(plan: ParallelPlan) -> Switches:
    return Switches(chunked_tp=plan.chunks > 1, context_by_document=plan.cp_split == "document")


def _full(recompute: RecomputePlan) -> float:
    return {"full": 1.0, "every_k": 1.0 / recompute.every_k}.get(recompute.mode, 0.0)


def _split(plans: Sequence[ParallelPlan], n_layers: int) -> Ints:
    stages = np.array([plan.stages for plan in plans], np.int64)
    blocks = even_split(stages, n_layers)
    for i, plan in enumerate(plans):
        if plan.layers_per_stage is not None:
            blocks[i, : plan.stages] = plan.layers_per_stage
    return blocks


def even_split(stages: Ints, n_layers: int) -> Ints:
    """[N, max(stages)] blocks of each stage, −1 behind the last: what ``parallel.checks.layers_per_stage`` gives
    where a plan says nothing. As even as possible; those with one block fewer are the last, the first, and so on
    inwards."""
    more = -(-n_layers // stages)
    missing = (more * stages - n_layers)[:, None]
    index = np.arange(int(stages.max()))[None, :]
    from_end = stages[:, None] - 1 - index
    counts = more[:, None] - (index < missing // 2) - (from_end < (missing + 1) // 2)
    return np.where(from_end >= 0, counts, -1)
