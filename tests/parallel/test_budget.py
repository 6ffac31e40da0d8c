"""A budget of activation bytes in a recipe: what it comes to for a run's batches, layout and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.errors import AthanorError
from athanor.parallel.budget import Load, in_flight, recompute_for
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.parallel.session import _local
from athanor.plan.schedules import pipeline_order
from athanor.recipe.schema import StageRecipe, TrainRecipe
from tests.train.tiny import lines, make_model, make_trainer, recipe_of


def budget(n_bytes: int, **layout: Any) -> ParallelPlan:
    return ParallelPlan(recompute=RecomputePlan(mode="budget", budget_bytes=n_bytes), **layout)


def test_the_load_is_the_largest_of_all_stages() -> None:
    stages = [StageRecipe(name="a"), StageRecipe(name="b", seq_len=1024, global_batch_tokens=65536)]
    recipe = TrainRecipe(seq_len=512, global_batch_tokens=16384, micro_batch_tokens=2048, stages=stages)
    assert Load.of(recipe, ParallelPlan(dp_shard=4)) == Load(2048, 1024, 8)
    whole = recipe.model_copy(update={"micro_batch_tokens": None, "stages": []})
    assert Load.of(whole, ParallelPlan()) == Load(16384, 512, 1)


@pytest.mark.parametrize("micro_batches", [4, 8, 16])
@pytest.mark.parametrize(
    "schedule, pp, vpp",
    [
        ("gpipe", 4, 1),
        ("1f1b", 4, 1),
        ("interleaved_1f1b", 4, 3),
        ("interleaved_1f1b", 2, 2),
        ("zbv", 4, 2),
        ("dualpipev", 2, 2),
    ],
)
def test_as_many_are_held_as_the_schedule_says(schedule: Any, pp: int, vpp: int, micro_batches: int) -> None:
    """Against the orders that torch's schedules run: a rank's stages never hold more, plain schedules just as many."""
    order = pipeline_order(schedule, pp, vpp, micro_batches)
    plan = ParallelPlan(pp=pp, vpp=vpp, schedule=schedule)
    for rank in range(pp):
        held = most = 0
        for name in order.names(rank):  # in a schedule that splits the backward pass, W lets go; in others B
            held += 1 if "F" in name else -1 if "W" in name or "B" in name else 0
            most = max(most, held)
        ours = in_flight(plan, rank, micro_batches) * vpp
        assert most <= ours
        assert vpp > 1 or most == ours


def test_a_run_within_its_budget_trains_to_the_same_numbers(tmp_path: Path) -> None:
    """Of six blocks some are made again, some not; recomputation repeats the same operations, so the bits are equal."""

    recipe = recipe_of(seq_len=32, global_batch_tokens=64)

    def losses(name: str, plan: ParallelPlan) -> list[float]:
        trainer = make_trainer(tmp_path / name, recipe, model=make_model(num_hidden_layers=6), engine=_local(plan))
        trainer.fit()
        return [line["loss"] for line in lines(tmp_path / name / "metrics.jsonl") if "loss" in line]

    model, load = make_model(num_hidden_layers=6), Load.of(recipe, ParallelPlan())
    none, full = (recompute_for(model, budget(n), 0, load) for n in (2**40, _least(model, load)))
    assert none.peak_bytes and full.peak_bytes and full.peak_bytes < none.peak_bytes
    half = budget((none.peak_bytes + full.peak_bytes) // 2)
    assert len(set(recompute_for(model, half, 0, load).blocks.values())) == 2
    assert losses("tight", half) == losses("free", ParallelPlan())


def _least(model: Any, load: Load) -> int:
    """The smallest budget, which the refusal of a smaller one names."""
    with pytest.raises(AthanorError) as refused:
        recompute_for(model, budget(10), 0, load)
    assert "the budget is 10" in str(refused.value)
    return int(str(refused.value.fix).split("at least ")[1].split(", fewer")[0].replace(",", ""))


def test_virtual_stages_share_a_ranks_budget() -> None:
    with torch.device("meta"):
        model = make_model(num_hidden_layers=2)
    load = Load(64, 32, 4)
    one = recompute_for(model, budget(2**20, pp=2), 0, load, torch.float32)
    two = recompute_for(model, budget(2**21, pp=2, vpp=2, schedule="interleaved_1f1b"), 0, load, torch.float32)
    assert one.peak_bytes is not None and two.peak_bytes is not None and two.peak_bytes <= 2**20
