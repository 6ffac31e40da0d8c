"""``parallel: auto``: the layout of a recipe's stages over the ranks that were started, on the cluster that is known.

What the recipe fixes stays fixed: rows, batch, micro-batch. So the layouts are few, all of them are evaluated for every
stage of the run, and the choice is a function of recipe, cluster and number of ranks alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.native import cache_dir
from athanor.parallel.checks import check_plan
from athanor.parallel.plan import ParallelPlan, RecomputePlan, ScheduleName
from athanor.plan.cluster import Cluster, load_cluster
from athanor.plan.of_stage import StageBatch, stage_costs

#: The environment variable that names a cluster for every run.
ENVIRONMENT = "ATHANOR_CLUSTER"
#: Layouts whose steps differ by less than this are as good as each other; then the simplest is taken.
SAME = 0.01
#: Shipped clusters that stand for an accelerator of this name, one after another.
SHIPPED = (
    ("H100", "h100-8"),
    ("H200", "h200-1"),
    ("B200", "b200-8"),
    ("A100", "a100-3072"),
    ("910", "ascend-910b-8192"),
)
_SCHEDULES: tuple[tuple[ScheduleName, int], ...] = (
    ("1f1b", 1), ("interleaved_1f1b", 2), ("interleaved_1f1b", 4), ("zbv", 2), ("dualpipev", 2),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """A cluster and where it was named."""

    cluster: Cluster
    path: str
    because: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The layout taken, what the planner says of it (seconds of all stages' steps added up, bytes of the fullest rank),
    and of how many it is the best. ``fits`` False: none fits in memory, and this one needs least."""

    plan: ParallelPlan
    step_s: float
    peak_bytes: float
    considered: int
    fits: bool


def cached_path(ranks: int) -> Path:
    """Where the last calibration of this machine for so many processes is kept: the user's cache."""
    return cache_dir() / f"calibrated-{ranks}.yaml"


def known_cluster(asked: str | None, cached: Path) -> Known | None:
    """The cluster of this machine: what the recipe says (``plan.cluster``), else ``$ATHANOR_CLUSTER``, else the last
    calibration for as many processes. None where nobody has said; AthanorError where what was said cannot be read."""
    for name, because in ((asked, "plan.cluster"), (os.environ.get(ENVIRONMENT), f"${ENVIRONMENT}")):
        if name:
            return Known(load_cluster(name), name, because)
    if cached.is_file():
        return Known(load_cluster(cached), str(cached), "athanor calibrate")
    return None


def default_cluster(device_name: str | None) -> Known:
    """A shipped cluster that is like this machine; ``device_name`` None: no accelerator."""
    name = "laptop"
    if device_name is not None:
        found = [cluster for part, cluster in SHIPPED if part in device_name]
        name = found[0] if found else "h100-8"
    return Known(load_cluster(name), name, "not calibrated")


def sized(cluster: Cluster, world: int) -> Cluster:
    """``cluster`` with ``world`` devices; a machine alone is taken to hold them all."""
    if cluster.network is None and world > cluster.node.devices:
        node = cluster.node.model_copy(update={"devices": world})
        cluster = cluster.model_copy(update={"node": node})
    return cluster.resized(world)


def best_plan(
    config: ModelConfig, batches: Sequence[StageBatch], cluster: Cluster, world: int, *, own_batches: bool = False
) -> Choice:
    """The layout of ``world`` ranks whose steps of all ``batches`` together take least and which fits in memory.

    Within ``SAME`` of the best the simplest is taken: fewer kinds of parallelism, then fewer ways cut. ``own_batches``:
    the source decides how many rows a step has, so that they need not divide. AthanorError where no layout divides.
    """
    plans, objection = [], None
    for plan in layouts(config, world, cluster.node.devices):
        try:
            for batch in batches:
                check_plan(
                    plan,
                    config,
                    world_size=world,
                    seq_len=batch.seq_len,
                    global_batch_tokens=None if own_batches else batch.global_batch_tokens,
                    micro_batch_tokens=batch.micro_batch_tokens,
                )
        except AthanorError as error:
            objection = objection or error
            continue
        plans.append(plan)
    if not plans:
        raise AthanorError(
            f"no layout of {world} ranks divides this model and batch; the plainest: {objection}",
            where="parallel",
            fix="another number of ranks, or a batch that they divide",
        )
    plans.sort(key=_complexity)
    machine = sized(cluster, world)
    costs = [stage_costs(config, _even(batch, plans, own_batches), machine, plans) for batch in batches]
    step_s = np.sum([cost.step_s for cost in costs], axis=0)
    peak_bytes = np.max([cost.peak_bytes for cost in costs], axis=0)
    fits = np.all([cost.fits for cost in costs], axis=0)
    if not fits.any():
        at = int(peak_bytes.argmin())
    else:
        at = int(np.flatnonzero(fits & (step_s <= step_s[fits].min() * (1 + SAME)))[0])
    return Choice(plans[at], float(step_s[at]), float(peak_bytes[at]), len(plans), bool(fits[at]))


def _even(batch: StageBatch, plans: Sequence[ParallelPlan], own_batches: bool) -> StageBatch:
    """Where a source makes batches of its own, one that divides for every plan stands for them."""
    if not own_batches:
        return batch
    rows = math.lcm(*(plan.dp * max(plan.stages, plan.pp) for plan in plans))
    rows *= -(-batch.rows // rows)
    return StageBatch(batch.seq_len, rows * batch.seq_len, batch.seq_len, batch.dtype, batch.compiled, batch.documents)


def layouts(config: ModelConfig, world: int, node_devices: int) -> Iterator[ParallelPlan]:
    """Every layout that is looked at; whether it divides is for ``check_plan`` to say."""
    for tp in _divisors(world):
        for cp in _divisors(world // tp):
            for pp in _divisors(world // tp // cp):
                dp = world // tp // cp // pp
                for pipe in _pipelines(pp, config.num_hidden_layers):
                    for data in _data(config, dp, cp, node_devices // max(tp * cp, 1)):
                        for recompute in (RecomputePlan(), RecomputePlan(mode="full")):
                            yield ParallelPlan(tp=tp, cp=cp, pp=pp, recompute=recompute, **pipe, **data)


def _pipelines(pp: int, layers: int) -> Iterator[dict[str, object]]:
    if pp == 1:
        yield {}
        return
    for schedule, vpp in _SCHEDULES:
        if pp * vpp <= layers:
            yield {"schedule": schedule, "vpp": vpp}


def _data(config: ModelConfig, dp: int, cp: int, inside: int) -> Iterator[dict[str, object]]:
    """All of dp sharded, or in copies of what shares a node; every ZeRO level; experts over every divisor."""
    shards = [dp] + ([inside] if 1 < inside < dp and dp % inside == 0 else [])
    experts = 1 if config.moe is None else config.moe.num_experts
    for shard in shards:
        for ep in _divisors(math.gcd(experts, shard * cp)):
            for zero in (3,) if shard * cp == 1 else (3, 2, 1, 0):
                yield {"dp_shard": shard, "dp_replicate": dp // shard, "zero": zero, "ep": ep}


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _complexity(plan: ParallelPlan) -> tuple[int, ...]:
    """Kinds of parallelism, then what each costs a person to think about; ZeRO 3 is the plain case."""
    kinds = sum(size > 1 for size in (plan.tp, plan.cp, plan.pp, plan.vpp, plan.ep, plan.dp_replicate))
    remade = int(plan.recompute.mode != "none")
    return kinds, plan.tp * plan.cp * plan.pp, plan.vpp, plan.ep, plan.dp_replicate, 3 - plan.zero, remade
