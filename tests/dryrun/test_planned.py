"""The planner's closed formulas for the peak of everything, beside the engine's own step on fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.dryrun.planned import planned_peak_bytes
from athanor.dryrun.run import dry_run
from athanor.model.config import ModelConfig
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.workload import Workload
from athanor.recipe.presets import PRESETS
from athanor.recipe.schema import TrainRecipe

#: Large enough that tensors, and not counters and masks, are what is held.
SHAPE = ModelConfig(
    vocab_size=16_000,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    norm_placement="depth_scaled_sandwich",
)
FULL = RecomputePlan(mode="full")


def step(plan: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> Workload:
    layout = ParallelPlan(**plan)
    tokens = 1024
    return Workload.of(
        SHAPE,
        layout,
        seq_len=tokens,
        global_batch_tokens=4 * tokens * layout.dp,
        micro_batch_tokens=tokens,
        dtype=dtype,
    )


@pytest.mark.parametrize(
    ("plan", "rank"),
    [
        ({"dp_shard": 4, "zero": 1}, 1),
        ({"dp_shard": 4, "zero": 3, "recompute": FULL}, 0),
        ({"tp": 2, "dp_shard": 2, "zero": 2}, 3),
        ({"pp": 2, "dp_shard": 2, "zero": 3}, 3),
        ({"pp": 2, "dp_shard": 2, "zero": 2, "recompute": FULL}, 0),
        ({"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b", "tp": 2}, 1),
    ],
)
def test_the_planners_peak_is_within_six_percent_of_the_engines(plan: dict[str, Any], rank: int) -> None:
    work = step(plan)
    seen = dry_run(work, TrainRecipe(), rank).trace.peak()[0]
    planned = planned_peak_bytes(work, rank)
    assert planned is not None
    assert abs(planned / seen - 1) < 0.06, (planned / 2**20, seen / 2**20)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_same_at_full_size(recompute: str) -> None:
    plan = ParallelPlan(tp=2, dp_shard=4, zero=3, recompute=RecomputePlan(mode=recompute))  # type: ignore[arg-type]
    config = PRESETS["llama3-8b"]
    work = Workload.of(config, plan, seq_len=4096, global_batch_tokens=4096 * 8, micro_batch_tokens=4096)
    planned, seen = planned_peak_bytes(work, 0), dry_run(work, TrainRecipe(), 0).trace.peak()[0]
    assert planned is not None
    assert abs(planned / seen - 1) < 0.05, (planned / 2**30, seen / 2**30)


def test_no_figure_is_made_up_for_what_the_planner_does_not_know() -> None:
    assert planned_peak_bytes(step({"dp_shard": 2}, torch.float32), 0) is None
    budget = RecomputePlan(mode="budget", budget_bytes=2**30)
    assert planned_peak_bytes(step({"dp_shard": 2, "recompute": budget}), 0) is None
