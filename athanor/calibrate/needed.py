"""Which products a recipe will ask the planner for: asked of the planner itself, which notes what it misses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.checks import check_plan, micro_batches
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import Cluster
from athanor.plan.of_stage import StageBatch, stage_costs
from athanor.plan.ops import Misses


@dataclass(frozen=True, slots=True)
class Needed:
    """Shapes (m, n, k), most asked first, and the token counts of the micro-batches they come from."""

    shapes: list[tuple[int, int, int]]
    tokens: frozenset[int]


def needed_by(config: ModelConfig, batch: StageBatch, cluster: Cluster, world: int) -> Needed:
    """Of every layout of ``world`` ranks that divides: all tp, with pp, cp and data parallel in the rest."""
    plans = [plan for plan in _plans(world) if _fits(plan, config, batch)]
    if not plans:
        return Needed([], frozenset())
    misses = Misses()
    stage_costs(config, batch, cluster.resized(world), plans, misses)
    tokens = set()
    for plan in plans:
        _, rows = micro_batches(
            plan,
            seq_len=batch.seq_len,
            global_batch_tokens=batch.global_batch_tokens,
            micro_batch_tokens=batch.micro_batch_tokens,
        )
        tokens.add(rows * batch.seq_len // plan.cp)
    shapes = [(m, n, k) for (m, n, k, _), _ in misses.shapes.most_common()]
    return Needed(shapes, frozenset(tokens))


def _plans(world: int) -> Iterator[ParallelPlan]:
    for tp in _divisors(world):
        for cp in _divisors(world // tp):
            for pp in _divisors(world // tp // cp):
                yield ParallelPlan(tp=tp, cp=cp, pp=pp, dp_shard=world // tp // cp // pp)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _fits(plan: ParallelPlan, config: ModelConfig, batch: StageBatch) -> bool:
    try:
        check_plan(
            plan,
            config,
            world_size=plan.world_size,
            seq_len=batch.seq_len,
            global_batch_tokens=batch.global_batch_tokens,
            micro_batch_tokens=batch.micro_batch_tokens,
        )
    except AthanorError:
        return False
    return True
