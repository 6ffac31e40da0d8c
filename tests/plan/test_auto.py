"""``parallel: auto``: the best layout that fits, the same every time, on the cluster that somebody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.checks import check_plan
from athanor.parallel.plan import ParallelPlan
from athanor.plan.auto import SAME, best_plan, cached_path, default_cluster, known_cluster, layouts, sized
from athanor.plan.cluster import Cluster, MatmulPoint, load_cluster
from athanor.plan.of_stage import StageBatch, asked_shapes, stage_costs, stage_problem

CONFIG = ModelConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=2048,
)
BATCH = StageBatch(512, 512 * 32, 512, "bf16", True)


def _machine(memory_bytes: float = 80 * 2.0**30, bytes_per_s: float = 450e9) -> Cluster:
    h100 = load_cluster("h100-8")
    device = h100.device.model_copy(update={"memory_bytes": memory_bytes, "reserved_bytes": 0.0})
    return h100.model_copy(update={"device": device, "node": h100.node.model_copy(update={"bytes_per_s": bytes_per_s})})


@pytest.mark.parametrize("world", [1, 2, 6, 8])
def test_no_layout_is_faster(world: int):
    """Every layout by itself, one after another, against the choice among all."""
    machine = _machine()
    choice = best_plan(CONFIG, [BATCH], machine, world)
    assert choice.plan.world_size == world and choice.fits
    for plan in layouts(CONFIG, world, 8):
        try:
            check_plan(
                plan, CONFIG, world_size=world, seq_len=512, global_batch_tokens=512 * 32, micro_batch_tokens=512
            )
        except AthanorError:
            continue
        alone = stage_costs(CONFIG, BATCH, machine.resized(world), [plan])
        assert not alone.fits[0] or alone.step_s[0] * (1 + SAME) >= choice.step_s


def test_the_choice_is_the_same_again_and_serves_every_stage():
    long = StageBatch(2048, 2048 * 8, 2048, "bf16", True)
    choices = [best_plan(CONFIG, [BATCH, long], _machine(), 8) for _ in range(3)]
    assert choices[0] == choices[1] == choices[2]
    check_plan(
        choices[0].plan, CONFIG, world_size=8, seq_len=2048, global_batch_tokens=2048 * 8, micro_batch_tokens=2048
    )


def test_a_small_memory_is_kept_to():
    roomy = best_plan(CONFIG, [BATCH], _machine(), 8)
    tight = best_plan(CONFIG, [BATCH], _machine(0.8 * roomy.peak_bytes), 8)
    assert tight.fits and tight.peak_bytes <= 0.8 * roomy.peak_bytes and tight.step_s >= roomy.step_s * (1 - SAME)
    none = best_plan(CONFIG, [BATCH], _machine(1e6), 8)
    assert not none.fits


def test_a_slow_fabric_keeps_tensors_whole():
    """Tensor parallel moves activations in every block: over a thousandth of the bandwidth it does not pay."""
    assert best_plan(CONFIG, [BATCH], _machine(bytes_per_s=4.5e8), 8).plan.tp == 1


def test_rows_that_the_source_makes_need_not_divide():
    odd = StageBatch(512, 512 * 7, 512, "bf16", True)
    with pytest.raises(AthanorError, match="no layout of 5 ranks"):
        best_plan(CONFIG.model_copy(update={"num_hidden_layers": 1}), [odd], _machine(), 5)
    assert best_plan(CONFIG, [odd], _machine(), 5, own_batches=True).plan.world_size == 5


def test_what_is_named_first_is_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ATHANOR_CLUSTER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = cached_path(4)
    assert cached == tmp_path / "athanor" / "calibrated-4.yaml" and known_cluster(None, cached) is None
    cached.parent.mkdir()
    cached.write_text("base: laptop\nname: calibrated\n")
    found = known_cluster(None, cached)
    assert found is not None and found.cluster.name == "calibrated"
    monkeypatch.setenv("ATHANOR_CLUSTER", "h200-1")
    assert known_cluster(None, cached).cluster.name == "h200-1"  # type: ignore[union-attr]
    assert known_cluster("b200-8", cached).because == "plan.cluster"  # type: ignore[union-attr]
    with pytest.raises(AthanorError, match="no such cluster file"):
        known_cluster("nothing-like-it", cached)


@pytest.mark.parametrize(
    ("device", "name"), [(None, "laptop"), ("NVIDIA H100 80GB HBM3", "h100-8"), ("Ascend910B2", "ascend-910b-8192")]
)
def test_without_a_calibration_a_shipped_cluster_serves(device: str | None, name: str):
    assert default_cluster(device).cluster.name == name


def test_one_machine_holds_as_many_as_were_started():
    assert sized(load_cluster("laptop"), 6).nodes == 1
    assert sized(load_cluster("h100-1024"), 16).nodes == 2


def test_plans_are_different_and_of_the_world():
    plans = list(layouts(CONFIG, 8, 4))
    assert len(set(plans)) == len(plans) and {plan.world_size for plan in plans} == {8}
    assert ParallelPlan(dp_shard=8) in plans and ParallelPlan(dp_shard=4, dp_replicate=2) in plans


def test_shapes_without_a_measured_point_are_counted_and_listed():
    machine = _machine()
    before = asked_shapes(stage_problem(CONFIG, BATCH, machine), ParallelPlan(), 1, 32)
    assert before.hits == 0 and before.total > 0
    m, n, k, dtype = next(iter(before.shapes))
    times = before.shapes[m, n, k, dtype]
    assert f"{m} × {n} × {k} {dtype}: {times}" in before.lines(len(before.shapes))
    point = MatmulPoint(m=m, n=n, k=k, dtype="bf16", efficiency=0.5)
    matmul = machine.device.matmul.model_copy(update={"points": (point,)})
    device = machine.device.model_copy(update={"matmul": matmul})
    measured = machine.model_copy(update={"device": device})
    after = asked_shapes(stage_problem(CONFIG, BATCH, measured), ParallelPlan(), 1, 32)
    assert (after.hits, after.total) == (times, before.total - times)
