"""Arrays of layouts against the rules that the engine runs by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from athanor.parallel.checks import layers_per_stage
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.parallel.stages import placement
from athanor.plan.layouts import NAMES, Layouts, Switches, even_split


def test_even_splits_are_those_of_the_engine():
    cases = [(pp, v) for pp, v in itertools.product(range(1, 13), range(1, 7)) if pp * v <= 94]
    ours = even_split(np.array([pp * v for pp, v in cases]), 94)
    for (pp, v), row in zip(cases, ours.tolist(), strict=True):
        plan = ParallelPlan(pp=pp, vpp=v, schedule="interleaved_1f1b" if v > 1 else "1f1b")
        assert tuple(row[: pp * v]) == layers_per_stage(plan, 94)
        assert set(row[pp * v :]) <= {-1}


@pytest.mark.parametrize(
    ("schedule", "pp", "vpp"),
    [("1f1b", 4, 1), ("gpipe", 3, 1), ("interleaved_1f1b", 4, 3), ("zbv", 4, 2), ("dualpipev", 3, 2)],
)
def test_stages_lie_on_the_ranks_that_the_engine_puts_them_on(schedule: str, pp: int, vpp: int):
    plan = ParallelPlan(pp=pp, vpp=vpp, schedule=schedule)  # type: ignore[arg-type]
    other = ParallelPlan(pp=8, vpp=2, schedule="interleaved_1f1b")
    at = Layouts.of([other, plan], 24, 1, 8)
    assert at.stage_rank()[1, : pp * vpp].tolist() == list(placement(plan))


def test_plans_become_columns():
    plans = [
        ParallelPlan(dp_shard=4, tp=2, pp=2, layers_per_stage=(5, 3), zero=1, recompute=RecomputePlan(mode="full")),
        ParallelPlan(
            dp_replicate=2,
            cp=2,
            cp_split="sequence",
            tp=4,
            sp=False,
            chunks=4,
            recompute=RecomputePlan(mode="selective", names=("ffn", "norms")),
        ),
        ParallelPlan(recompute=RecomputePlan(mode="every_k", every_k=4), offload="optimizer"),
        ParallelPlan(recompute=RecomputePlan(mode="budget", budget_bytes=1000)),
    ]
    at = Layouts.of(plans, 8, [1, 2, 1, 1], 3)
    assert at.world_size.tolist() == [plan.world_size for plan in plans]
    assert at.blocks.tolist() == [[5, 3], [8, -1], [8, -1], [8, -1]]
    assert at.full.tolist() == [1.0, 0.0, 0.25, 0.0]
    assert at.sp.tolist() == [True, False, False, False]  # without tp there is nothing to spread
    assert [NAMES[i] for i in np.flatnonzero(at.names[1])] == ["ffn", "norms"]
    assert at.chunked_tp.tolist() == [False, True, False, False]
    assert at.context_by_document.tolist() == [True, False, True, True]
    assert at.budget_bytes[3] == 1000 and np.isinf(at.budget_bytes[:3]).all()
    assert at.take(np.array([1])).rows.tolist() == [2]


def test_switches_can_be_given_for_all_or_for_each():
    plan = ParallelPlan(tp=2)
    at = Layouts.of([plan, plan], 4, 1, 1, [Switches(fused_ops=False), Switches()])
    assert at.fused_ops.tolist() == [False, True]
    assert Layouts.of([plan, plan], 4, 1, 1, Switches(dp_overlap=False)).dp_overlap.tolist() == [False, False]
