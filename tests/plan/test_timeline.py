"""The simulated step against formulas, against an interpreter of what torch really does, and against hand counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.schedules import Order
from athanor.plan.timeline import PipelineWork, Timeline, simulate
from tests.plan.torch_programs import Step, programs

Case = tuple[ScheduleName, int, int, int]
UNIFORM: dict[str, Any] = {"forward_s": 1.0, "backward_input_s": 1.0, "backward_weight_s": 1.0}


def uniform(case: Case, **more: Any) -> Timeline:
    return simulate(PipelineWork(*case, **{**UNIFORM, **more}))


# --- published figures and formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "published"), [(("1f1b", 8, 1, 16), 0.3043), (("interleaved_1f1b", 8, 6, 16), 0.0680)]
)
def test_pangu_ultras_bubbles(case: Case, published: float) -> None:
    """arXiv 2504.07866, section 3.2: 30.45 % and 6.8 %; the former is 7/23 = 30.43 %."""
    assert round(uniform(case).idle_share, 4) == published


GRID: list[Case] = [
    *(("gpipe", p, 1, m) for p in (1, 2, 5, 8) for m in (1, 8, 13)),  # type: ignore[misc]
    *(("1f1b", p, 1, m) for p in (1, 2, 3, 8) for m in (8, 13, 40)),
    *(("interleaved_1f1b", p, v, k * p) for p in (2, 3, 4, 8) for v in (1, 2, 3, 6) for k in (1, 2, 5)),
]


@pytest.mark.parametrize("case", GRID, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("backward_s", [1.0, 2.7])
def test_idle_is_the_formulas_for_equal_stages_and_free_messages(case: Case, backward_s: float) -> None:
    """(p − 1)/(m·v + p − 1) of the wall time, (p − 1)/(m·v) of the ideal (arXiv 2104.04473, section 2.2)."""
    _, p, v, m = case
    line = uniform(case, backward_input_s=0.4 * backward_s, backward_weight_s=0.6 * backward_s)
    assert line.idle_share == pytest.approx((p - 1) / (m * v + p - 1), abs=1e-9)
    assert line.idle_ratio == pytest.approx((p - 1) / (m * v), abs=1e-9)
    assert line.wall_s == pytest.approx((m * v + p - 1) * (1 + backward_s), abs=1e-9)


@pytest.mark.parametrize(("p", "v", "m"), [(4, 2, 10), (4, 3, 7), (4, 2, 3), (8, 2, 12)])
def test_counts_that_pp_does_not_divide_cost_no_less(p: int, v: int, m: int) -> None:
    """The formula is the least: a rank cannot start before, nor end behind, p − 1 actions of the others. The most: all
    that 1F1B without chunks would idle."""
    idle = uniform(("interleaved_1f1b", p, v, m)).idle_share
    assert (p - 1) / (m * v + p - 1) - 1e-9 <= idle < (p - 1) / (m + p - 1)


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 8), (4, 16), (8, 32)])
def test_zero_bubbles(p: int, m: int) -> None:
    """ZBV with F = I = W: no idle time but the p − 1 actions at the start and, in a whole step, none at the end of the
    critical rank (arXiv 2401.10241, section 6); here rank 0's I of the first stage is in its W."""
    line = uniform(("zbv", p, 2, m))
    assert line.wall_s == pytest.approx(6 * m + p - 1, abs=1e-9)
    assert line.idle_share < uniform(("interleaved_1f1b", p, 2, m)).idle_share
    assert uniform(("dualpipev", p, 2, m)).idle_share < uniform(("1f1b", p, 1, m)).idle_share


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved_1f1b", "zbv", "dualpipev"])
def test_messages_cost_within_bounds(schedule: ScheduleName) -> None:
    """The wall time grows with messages, by no more than if every rank stood still for each of them: 2·(v·p − 1) hops
    on the way of one micro-batch, and a send and a receive around every action."""
    p, v, m, p2p_s = 4, 1 if schedule in ("gpipe", "1f1b") else 2, 16, 0.05
    free, line = uniform((schedule, p, v, m)), uniform((schedule, p, v, m), p2p_s=p2p_s)
    hops = 2 * (v * p - 1)
    assert free.wall_s < line.wall_s <= free.wall_s + p2p_s * (hops + 4 * m * v)
    assert line.idle_share > free.idle_share
    overlapped = uniform((schedule, p, v, m), p2p_s=p2p_s, messages="overlapped")
    assert overlapped.wall_s <= line.wall_s + 1e-9


# --- what torch does --------------------------------------------------------------------------------------------------


def interpret(
    steps_of: list[list[Step]], seconds: Callable[[str], float], travel_s: Callable[[str], float]
) -> dict[str, tuple[float, float]]:
    """(start, end) of every computation, when ranks follow ``steps_of`` step by step. A message travels when both ends
    are posted and its directed link has carried the earlier ones."""
    clock = [0.0] * len(steps_of)
    at = [0] * len(steps_of)
    posts: dict[tuple[str, str], tuple[float, int]] = {}
    links: dict[tuple[int, int], list[str]] = {}
    arrived: dict[str, float] = {}
    found: dict[str, tuple[float, float]] = {}
    receivers = {w[1]: r for r, steps in enumerate(steps_of) for s, w in steps if s == "post" and w[0] == "recv"}

    def settle() -> None:
        for name, (_, sender) in [(n[1], p) for n, p in posts.items() if n[0] == "send"]:
            queue = links.setdefault((sender, receivers[name]), [])
            if name not in queue:
                queue.append(name)
        for queue in links.values():
            free = 0.0
            for name in queue:
                if ("recv", name) not in posts:
                    break
                arrived[name] = max(posts["send", name][0], posts["recv", name][0], free) + travel_s(name)
                free = arrived[name]

    moved = True
    while moved:
        moved = False
        for r, steps in enumerate(steps_of):
            while at[r] < len(steps):
                step, what = steps[at[r]]
                if step == "post":
                    posts[what] = (clock[r], r)
                elif step == "run":
                    found[what] = (clock[r], clock[r] + seconds(what))
                    clock[r] = found[what][1]
                else:
                    settle()
                    if what[1] not in arrived:
                        break
                    clock[r] = max(clock[r], arrived[what[1]])
                at[r], moved = at[r] + 1, True
    assert all(at[r] == len(steps) for r, steps in enumerate(steps_of))
    return found


CASES: list[Case] = [
    ("gpipe", 4, 1, 6),
    ("1f1b", 2, 1, 5),
    ("1f1b", 4, 1, 4),
    ("1f1b", 4, 1, 9),
    ("interleaved_1f1b", 2, 2, 4),
    ("interleaved_1f1b", 3, 2, 4),
    ("interleaved_1f1b", 4, 3, 8),
    ("zbv", 2, 2, 3),
    ("zbv", 4, 2, 8),
    ("dualpipev", 2, 2, 5),
    ("dualpipev", 4, 2, 10),
]


@pytest.mark.parametrize("p2p_s", [0.0, 0.01, 0.6])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_every_action_starts_when_it_does_in_torchs_program(case: Case, p2p_s: float) -> None:
    schedule, pp, vpp, n = case
    random = np.random.default_rng(sum(case[1:]))
    forward_s, input_s, weight_s = random.uniform(0.5, 1.5, (3, pp * vpp))
    hop_s = p2p_s * random.uniform(0.5, 1.5, pp * vpp - 1)
    split = schedule in ("zbv", "dualpipev")

    def seconds(name: str) -> float:
        kind = next(c for c in name if c.isalpha())
        s = int(name.split(kind)[0])
        whole_s = input_s[s] + weight_s[s]
        halves = {"I": 0.0, "W": whole_s} if s == 0 and split else {"I": input_s[s], "W": weight_s[s]}
        return float({"F": forward_s[s], "B": whole_s, **halves}[kind])

    def travel_s(name: str) -> float:
        kind = next(c for c in name if c.isalpha())
        return float(hop_s[int(name.split(kind)[0]) - (kind == "B")])

    wanted = interpret(programs(*case), seconds, travel_s)
    line = simulate(
        PipelineWork(*case, forward_s=forward_s, backward_input_s=input_s, backward_weight_s=weight_s, p2p_s=hop_s)
    )
    names = [line.order.name(a) for a in range(len(line.order))]
    assert set(names) == set(wanted)
    np.testing.assert_allclose(line.start_s, [wanted[name][0] for name in names], atol=1e-9)
    np.testing.assert_allclose(line.end_s, [wanted[name][1] for name in names], atol=1e-9)


# --- where the time goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_the_parts_of_a_ranks_time_are_its_wall_time(case: Case) -> None:
    line = uniform(
        case,
        forward_comm_s=0.1,
        p2p_s=0.2,
        gather_s=0.7,
        gather_hidden_s=0.3,
        reduce_s=0.9,
        reduce_hidden_s=0.2,
    )
    order, wall = line.order, line.wall_s
    gaps = line.wait_s + line.wait_p2p_s + line.wait_dp_s
    before = np.where(np.diff(order.rank, prepend=-1) == 0, np.roll(line.end_s, 1), 0.0)
    np.testing.assert_allclose(gaps, line.start_s - before, atol=1e-9)
    assert (gaps > -1e-12).all() and (line.bubble_s > -1e-9).all()
    assert line.exposed_p2p_s.sum() > 0 and line.exposed_dp_s.sum() > 0
    parts = line.busy_s + line.bubble_s + line.exposed_p2p_s + line.exposed_dp_s
    np.testing.assert_allclose(parts, wall)
    forwards = np.bincount(order.rank, order.kind == 0)
    np.testing.assert_allclose(line.exposed_collective_s, 0.1 * forwards)
    assert line.idle_share == pytest.approx(1 - line.busy_s.sum() / (order.pp * wall))
    assert line.idle_ratio == pytest.approx(line.idle_share / (1 - line.idle_share))


def test_two_ranks_by_hand() -> None:
    """Rank 1 waits for 0F0 (1 s) and its message (0.5 s); rank 0 waits from 2 to 4.5 for the way back."""
    line = simulate(PipelineWork("gpipe", 2, 1, 1, **UNIFORM, p2p_s=0.5))
    assert line.start_s.tolist() == [0, 5.0, 1.5, 2.5]
    assert line.wall_s == 7.0
    assert line.exposed_p2p_s.tolist() == [0.5, 0.5]
    assert line.bubble_s.tolist() == [3.5, 3.5]


def test_gathers_and_reductions_on_one_rank() -> None:
    """Two chunks: gathers at 0–2 and 2–4, of which the last second may run beside the first forward. Chunk 1's
    reduction runs beside chunk 0's backward; of chunk 0's the part that nothing hides comes behind it."""
    work = PipelineWork(
        "interleaved_1f1b",
        1,
        2,
        1,
        **UNIFORM,
        gather_s=2.0,
        gather_hidden_s=1.0,
        reduce_s=[3.0, 1.0],
        reduce_hidden_s=[2.0, 0.0],
    )
    line = simulate(work)
    # 0F0 ends with its gather at 2; 1F0 may start when its first half is there (3) and ends at 4
    assert line.start_s.tolist() == [1.0, 3.0, 4.0, 6.0]
    rows = zip(line.collectives.gather, line.collectives.start_s, line.collectives.end_s, strict=True)
    assert [tuple(map(float, row)) for row in rows] == [(1, 0, 2), (1, 2, 4), (0, 6, 7), (0, 7, 10)]
    assert line.wall_s == 10.0 and line.exposed_dp_s.tolist() == [4.0] and line.bubble_s.tolist() == [0.0]


def test_slow_link_queues_messages() -> None:
    line = simulate(PipelineWork("gpipe", 2, 1, 4, **UNIFORM, p2p_s=3.0, messages="overlapped"))
    forward = line.transfers.producer < 4
    assert line.transfers.start_s[forward].tolist() == [1.0, 4.0, 7.0, 10.0]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 16), (8, 9)])
def test_micro_batches_in_flight(p: int, m: int) -> None:
    """GPipe keeps all m, 1F1B p − rank (arXiv 2104.04473, section 2.2.1), the interleaved one a warm-up of
    2 (p − 1 − rank) + (v − 1) p chunks and one more (section 2.2.2), ZBV 2 p chunks at most (arXiv 2401.10241)."""
    ranks = np.arange(p)
    assert uniform(("gpipe", p, 1, m)).peak_in_flight.tolist() == [m] * p
    assert uniform(("1f1b", p, 1, m)).peak_in_flight.tolist() == (p - ranks).tolist()
    wanted = np.minimum(2 * (p - 1 - ranks) + 2 * p + 1, 3 * 2 * p)
    assert uniform(("interleaved_1f1b", p, 3, 2 * p)).peak_in_flight.tolist() == wanted.tolist()
    assert uniform(("zbv", p, 2, 2 * m)).peak_in_flight.tolist() == [2 * p] * p


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_memory_is_what_a_ledger_says(case: Case) -> None:
    """Sorted alloc and free events of every rank, one by one."""
    random = np.random.default_rng(1)
    stages = case[1] * case[2]
    kept, part = random.integers(10, 20, stages), random.integers(1, 10, stages)
    static = random.integers(100, 200, case[1])
    line = uniform(
        case,
        activation_bytes=kept,
        weight_pass_bytes=part,
        static_bytes=static,
        forward_extra_bytes=3,
        backward_extra_bytes=7,
    )
    order = line.order
    split = set(zip(order.stage[order.kind == 2], order.micro[order.kind == 2], strict=True))
    for rank in range(order.pp):
        held = peak = int(static[rank])
        for a in range(order.offsets[rank], order.offsets[rank + 1]):
            s, kind, halves = order.stage[a], order.kind[a], (order.stage[a], order.micro[a]) in split
            left = kept[s] if s == 0 else part[s]
            idle = kind == (2 if s == 0 else 3) and halves  # torch: the first stage's I does nothing, its W all
            held += kept[s] if kind == 0 else 0
            peak = max(peak, held + (3 if kind == 0 else 0 if idle else 7))
            held -= {0: 0, 1: kept[s], 2: kept[s] - left, 3: left}[int(kind)]
        assert held == static[rank]
        assert line.peak_bytes[rank] == peak
        seconds, held_bytes = line.memory(rank)
        assert (np.diff(seconds) >= 0).all() and held_bytes.max() == peak and held_bytes[-1] == static[rank]


# --- orders made by hand, bad input, speed ----------------------------------------------------------------------------


def by_hand(ranks: list[list[str]], **more: Any) -> Timeline:
    order = Order.parse(ranks)
    sizes = (order.pp, order.stages // order.pp, order.micro_batches)
    return simulate(PipelineWork("1f1b", *sizes, **UNIFORM, order=order, **{"messages": "overlapped", **more}))


def test_an_order_made_by_hand() -> None:
    line = by_hand([["0F0", "0F1", "0B0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]])
    assert line.wall_s == uniform(("1f1b", 2, 1, 2)).wall_s == 9.0


@pytest.mark.parametrize("messages", ["overlapped", "posted", "on_demand", "blocking"])
def test_a_deadlock_is_named(messages: str) -> None:
    """Rank 0 wants the gradient of micro-batch 1 before it has sent it; rank 1 the other way round."""
    ranks = [["0F0", "0B0", "0F1", "0B1"], ["1F0", "1F1", "1B0", "1B1"]]
    with pytest.raises(AthanorError, match="for ever") as error:
        by_hand(ranks, messages=messages)
    assert "0B0 on rank 0 waits for" in str(error.value) and "1F1 on rank 1 waits for" in str(error.value)


def test_a_rank_that_waits_for_itself_is_named() -> None:
    with pytest.raises(AthanorError, match="0B0 comes before 0F0"):
        by_hand([["0B0", "0F0"]])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"forward_s": [1.0, 2.0]}, r"forward_s: \(2,\) values"),
        ({"p2p_s": -1.0}, "p2p_s"),
        ({"static_bytes": [1.0, float("nan")]}, "static_bytes"),
        ({"order": Order.parse([["0F0", "0B0"]])}, "an order of 1 ranks"),
    ],
)
def test_bad_work(more: dict[str, Any], says: str) -> None:
    with pytest.raises(AthanorError, match=says):
        uniform(("interleaved_1f1b", 2, 2, 4), **more)


def test_summary_is_plain() -> None:
    summary = uniform(("zbv", 2, 2, 4), activation_bytes=5.0).summary()
    assert summary["idle_share_of_wall"] == pytest.approx(1 - 24 / summary["wall_s"])
    assert summary["actions"] == 48 and len(summary["peak_bytes"]) == 2
    assert all(type(value) in (str, int, float, list) for value in summary.values())


def test_large_timeline_is_fast() -> None:
    """pp 16 × v 8 × 512 micro-batches, 131,072 actions: 2 s on one core."""
    from athanor.plan.event_graph import event_graph
    from athanor.plan.schedules import pipeline_order

    pipeline_order.cache_clear()
    event_graph.cache_clear()
    start = time.process_time()
    line = uniform(("interleaved_1f1b", 16, 8, 512), p2p_s=0.01, activation_bytes=1.0)
    summary = line.summary()
    took_s = time.process_time() - start
    assert summary["actions"] == 131_072 and summary["peak_bytes"][0] == max(summary["peak_bytes"])
    assert took_s < 2.0
