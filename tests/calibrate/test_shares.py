"""The planner's formulas solved for a machine: a machine that is known comes out again."""

from __future__ import annotations

import pytest

from athanor.calibrate.measure import GENERAL
from athanor.calibrate.shares import (
    FASTEST,
    memory_shares,
    optimizer_share,
    predicted,
    solve_share,
    with_device,
)
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import load_cluster
from athanor.plan.of_stage import StageBatch, stage_costs
from athanor.plan.shape import parameters


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_shares_of_a_known_machine_are_found(dtype: str):
    known = {"elementwise": 0.4, "norm": 0.4, "softmax": 0.15, "unfused_passes": 2.7}
    machine = with_device(load_cluster("laptop"), memory_bound=known)
    fused, plain = (StageBatch(512, 2048, None, dtype, compiled) for compiled in (True, False))
    timings = predicted(machine, GENERAL, fused), predicted(machine, GENERAL, plain)
    found = memory_shares(load_cluster("laptop"), GENERAL, fused, *timings)
    assert found == pytest.approx(known, rel=1e-6)


def test_a_known_update_is_found():
    machine = with_device(load_cluster("laptop"), memory_bound={"optimizer": 0.3})
    batch = StageBatch(512, 2048, None, "bf16", True)
    seconds = float(stage_costs(GENERAL, batch, machine.resized(1), [ParallelPlan()]).optimizer_s[0])
    assert optimizer_share(machine, parameters(GENERAL).total, seconds, "bf16") == pytest.approx(0.3, rel=1e-6)


def test_noise_does_not_make_passes_free():
    """A block that took less than its products alone: as fast as is believed, and no faster."""
    assert solve_share(0.5, lambda x: 1.0 + 0.2 / x) == FASTEST
    assert solve_share(1.4, lambda x: 1.0 + 0.2 / x) == pytest.approx(0.5)
