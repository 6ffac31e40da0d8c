"""One estimate: parts add up, uniform recomputation is the cost model's, mixes lie between, bubbles as published."""

import dataclasses

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.cluster import load_cluster
from athanor.plan.cost import Problem, evaluate
from athanor.plan.estimate import estimate
from athanor.plan.explain import why_not
from athanor.plan.layouts import Layouts
from athanor.plan.whatif import demanded, run_cost, scale, worlds_up_to
from athanor.recipe import PRESETS

PANGU = PRESETS["pangu-ultra-135b"]


@pytest.fixture(scope="module")
def given() -> Problem:
    return Problem(PANGU, 4096, 2048, load_cluster("ascend-910b-8192"))


def layout(**changes) -> ParallelPlan:
    return ParallelPlan(tp=8, pp=8, vpp=6, dp_shard=128, zero=1, schedule="interleaved_1f1b").model_copy(update=changes)


@pytest.mark.parametrize(
    "recompute",
    [
        RecomputePlan(),
        RecomputePlan(mode="full"),
        RecomputePlan(mode="selective", names=("norms", "ffn")),
        RecomputePlan(mode="selective", names=("attention",), communication="save"),
    ],
    ids=str,
)
def test_one_choice_for_all_blocks_is_the_cost_model(given, recompute):
    plan = layout(recompute=recompute)
    found = estimate(given, plan, 1)
    costs = evaluate(given, Layouts.of([plan], 94, 1, 16))
    assert found.closed_s == pytest.approx(float(costs.step_s[0]), rel=1e-9)
    assert found.peak_bytes.max() == pytest.approx(float(costs.peak_bytes[0]), rel=1e-9)
    assert found.hfu * found.step_s == pytest.approx(float(costs.hfu()[0] * costs.step_s[0]), rel=1e-9)
    assert found.plan.recompute.mode == recompute.mode


def test_parts_add_up_to_the_step(given):
    for plan in (layout(), layout(zero=3), layout(recompute=RecomputePlan(mode="full"))):
        found = estimate(given, plan, 1)
        assert sum(found.parts.values()) == pytest.approx(found.step_s, rel=1e-6)
        assert min(found.parts.values()) >= -1e-9


def test_recomputation_that_just_fits_costs_less_than_a_choice_for_all(given):
    plain = estimate(given, layout(), 1)
    mixed = estimate(given, layout(), 1, refine=True)
    full = estimate(given, layout(recompute=RecomputePlan(mode="full")), 1)
    assert not plain.fits and mixed.fits and full.fits
    assert plain.step_s < mixed.step_s < full.step_s
    assert mixed.plan.recompute.mode == "budget"


def test_a_pinned_budget_is_kept_again(given):
    mixed = estimate(given, layout(), 1, refine=True)
    again = estimate(given, mixed.plan, 1)
    assert again.fits and again.step_s == pytest.approx(mixed.step_s, rel=0.02)
    with pytest.raises(AthanorError, match="activations do not fit"):
        estimate(given, layout(recompute=RecomputePlan(mode="budget", budget_bytes=1)), 1)


@pytest.mark.parametrize("vpp, bubble", [(1, 7 / 23), (6, 7 / 103)])
def test_bubble_of_equal_stages_is_the_published_one(vpp, bubble):
    """(p − 1) / (m·v + p − 1), p 8, m 16: 30.43 % and 6.80 % (arXiv 2504.07866, section 4), from simulated steps."""
    from athanor.plan.timeline import PipelineWork, simulate

    schedule = "interleaved_1f1b" if vpp > 1 else "1f1b"
    work = PipelineWork(schedule, 8, vpp, 16, forward_s=1 / vpp, backward_input_s=1 / vpp, backward_weight_s=1 / vpp)
    assert simulate(work).idle_share == pytest.approx(bubble, rel=1e-9)


def test_why_a_layout_does_not_fit(given):
    plain = estimate(given, layout(), 1)
    lines = why_not(plain)
    over = plain.peak_bytes.max() - plain.memory_bytes
    assert f"{over:,.0f} bytes" in lines[0]
    assert "activations" in lines[1].split(",")[0]
    assert any("least recomputation" in line for line in lines)
    assert why_not(estimate(given, layout(), 1, refine=True)) == []


def test_a_demanded_layout(given):
    found = demanded(given, layout(vpp=1, schedule="1f1b", recompute=RecomputePlan(mode="full")), None)
    assert found.fits and found.rows == 1
    with pytest.raises(AthanorError, match="tp 3"):
        demanded(given, layout(tp=3), None)


def test_a_step_of_too_many_actions_is_refused():
    small = Problem(PRESETS["tiny"], 512, 1 << 21, load_cluster("h100-8"))
    with pytest.raises(AthanorError, match="too many for a timeline"):
        estimate(small, ParallelPlan(dp_shard=2), 1)


def test_scaling_and_bill():
    base = Problem(PRESETS["llama3-8b"], 4096, 24, load_cluster("h100-1024").resized(16))
    worlds = worlds_up_to(base.cluster, 8, 32)
    assert worlds == [8, 16, 32] and worlds_up_to(base.cluster, 8, 24) == [8, 16, 24]
    weak, left = scale(base, [8, 16, 17], "weak")
    assert [p.rows for p in weak] == [12, 24] and len(left) == 1
    assert weak[0].efficiency == 1.0
    best = weak[1].best
    bill = run_cost(best, 1e12, mtbf_s=30 * 86400.0, checkpoint_s=60, restart_s=600)
    assert bill.goodput < 1 and bill.expected.days == pytest.approx(bill.ideal.days / bill.goodput)
    assert bill.ideal.days == pytest.approx(1e12 / best.tokens_per_s / 86400, rel=1e-4)
    assert bill.ideal.device_hours == pytest.approx(bill.ideal.days * 24 * 16)
    never = dataclasses.replace(base, cluster=base.cluster.model_copy(update={"reliability": None}))
    assert run_cost(dataclasses.replace(best, problem=never), 1e12).goodput == 1.0
    with pytest.raises(AthanorError, match="mean time between failures"):
        run_cost(best, 1e12, mtbf_s=0.0)


def test_memory_over_time_peaks_where_the_formula_says(given):
    found = estimate(given, layout(), 1)
    line, formula = found.timeline.peak_bytes, found.peak_bytes - found.fragments
    assert np.abs(line / formula - 1).max() < 0.1
