"""One line a switch, and no switch that is worth less than nothing in the published layout."""

from __future__ import annotations

from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import load_cluster
from athanor.plan.cost import Problem
from athanor.plan.switches import NAMES, switch_table
from athanor.plan.traits import ENGINES
from athanor.recipe.presets import PRESETS


def test_pangu_ultra_line_by_line():
    problem = Problem(
        PRESETS["pangu-ultra-135b"], 4096, 2048, load_cluster("ascend-910b-8192"), ENGINES["megatron-core"]
    )
    plan = ParallelPlan(dp_shard=128, zero=1, tp=8, pp=8, vpp=6, schedule="interleaved_1f1b")
    lines = switch_table(problem, plan, rows=1, micro_batches=16)
    assert [line.name for line in lines] == ["off", *NAMES]
    by_name = {line.name: line for line in lines}
    assert all(after.step_s <= before.step_s for before, after in zip(lines, lines[1:], strict=False))
    # Scores of a 4,096-token row take most of what 64 GB leaves; cp is 1, so that its split changes nothing.
    assert by_name["off"].peak_bytes > 64 * 2**30 > by_name["fused_attention"].peak_bytes
    assert by_name["context_by_document"].step_s == by_name["chunked_tp"].step_s
    # Published: 43 % with hybrid parallelism and virtual pipeline, over 52 % with the fused and overlapped rest.
    gain = by_name["chunked_tp"].mfu_full / by_name["p2p_overlap"].mfu_full
    assert 1.1 < gain < 1.4


def test_an_order_of_ones_own_leaves_other_switches_on():
    problem = Problem(PRESETS["llama3-70b"], 4096, 1024, load_cluster("h100-1024"), ENGINES["megatron-core"])
    plan = ParallelPlan(dp_shard=128, tp=8)
    lines = switch_table(problem, plan, 1, 8, order=("fused_ops",))
    everything = switch_table(problem, plan, 1, 8)
    assert [line.name for line in lines] == ["off", "fused_ops"]
    assert lines[0].step_s < everything[0].step_s
