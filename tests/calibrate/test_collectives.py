"""Bandwidth and latency of a group, from times that the planner's own formulas made and from real ones over gloo."""

from __future__ import annotations

import pytest
import torch

from athanor.calibrate.clock import Clock
from athanor.calibrate.collectives import KINDS, QUICK_SIZES, CollectiveTiming, contention, fit_line, time_collectives
from athanor.plan.cluster import Cluster, CollectivePoint, load_cluster
from athanor.plan.collectives import Links
from tests.parallel.ranks import run_ranks


def _machine(ranks: int) -> Cluster:
    laptop = load_cluster("laptop")
    node = laptop.node.model_copy(
        update={"devices": ranks, "fabric": "switch", "bytes_per_s": 3e9, "latency_s": 7e-5, "efficiency": 1.0}
    )
    return laptop.model_copy(update={"devices": ranks, "node": node})


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_planners_times_give_its_figures_back(ranks: int):
    cluster = _machine(ranks)
    links, launch = Links(cluster), cluster.device.launch_s
    group, timings = links.group(ranks, 1), []
    for nbytes in QUICK_SIZES:
        seconds = {
            "all_gather": links.all_gather_s(nbytes, group),
            "reduce_scatter": links.all_gather_s(nbytes, group),
            "all_reduce": links.all_reduce_s(nbytes, group),
            "send": links.send_s(nbytes, 1) + launch,
        }
        timings += [CollectiveTiming(kind, ranks, nbytes, float(s)) for kind, s in seconds.items()]
    line = fit_line(timings, launch)
    assert line.bytes_per_s == pytest.approx(3e9, rel=1e-6) and line.latency_s == pytest.approx(7e-5, rel=1e-6)
    assert line.error < 1e-6


def _measured() -> tuple[list[CollectiveTiming], float]:
    clock = Clock(torch.device("cpu"), budget_s=0.02, least=3)
    return time_collectives(clock, None, [0, 1], quick=True), contention(clock, None)


def test_both_ranks_of_a_group_have_the_same_figures():
    (first, beside), (second, other) = run_ranks(2, _measured)
    assert first == second and beside == other
    assert {(t.kind, t.nbytes) for t in first} == {(kind, n) for kind in KINDS for n in QUICK_SIZES}
    assert all(t.seconds > 0 for t in first) and 0 <= beside < 1
    slowest = {n: max(t.seconds for t in first if t.nbytes == n) for n in QUICK_SIZES}
    assert slowest[max(QUICK_SIZES)] > slowest[min(QUICK_SIZES)]


def test_measured_points_go_before_the_formulas_for_groups_of_their_size():
    machine = _machine(4)
    points = [("all_gather", 1e6, 1e-3), ("all_gather", 3e6, 2e-3), ("data_all_gather", 1e6, 7e-3)]
    values = [CollectivePoint(kind=kind, ranks=2, nbytes=n, seconds=s) for kind, n, s in points]  # type: ignore[arg-type]
    node = machine.node.model_copy(update={"points": tuple(values)})
    links, plain = Links(machine.model_copy(update={"node": node})), Links(machine)
    two, four = links.group(2, 1), links.group(4, 1)
    sizes = [5e5, 1e6, 2e6, 3e6, 5e6]  # below: the first point; between and above: straight lines
    assert links.all_gather_s(sizes, two) == pytest.approx([1e-3, 1e-3, 1.5e-3, 2e-3, 3e-3])
    assert links.all_gather_s(2e6, two, "data") == pytest.approx(14e-3)  # through nothing, where there is one point
    assert links.all_gather_s(2e6, two, "tensor") == pytest.approx(1.5e-3)  # none of its own: the raw ones
    assert links.all_gather_s(2e6, four) == plain.all_gather_s(2e6, four)
    assert links.reduce_scatter_s(2e6, two) == plain.reduce_scatter_s(2e6, two) == plain.all_gather_s(2e6, two)
