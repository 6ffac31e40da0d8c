"""The orders are torch's own, action by action."""

from __future__ import annotations

import pytest

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.schedules import Order, pipeline_order
from tests.plan.torch_programs import compute_names


def our_names(order: Order) -> list[list[str]]:
    found = []
    for r in range(order.pp):
        names: list[str] = []
        glue = False
        for a in range(order.offsets[r], order.offsets[r + 1]):
            names = [*names[:-1], f"{names[-1]}+{order.name(a)}"] if glue else [*names, order.name(a)]
            glue = bool(order.joined[a])
        found.append(names)
    return found


GRID: list[tuple[ScheduleName, int, int, int]] = [
    *(
        (s, pp, 1, n)
        for s in ("gpipe", "1f1b")
        for pp in (1, 2, 3, 4, 8)
        for n in (1, 3, 8, 13)
        if n >= pp or s == "gpipe"
    ),  # type: ignore[misc]
    *(
        ("interleaved_1f1b", pp, v, n)
        for pp in (1, 2, 3, 4, 8)
        for v in (1, 2, 3, 6)
        for n in (1, 2, 3, 4, 8, 10, 16, 24)
        if n % max(1, n // pp) == 0
    ),  # type: ignore[misc]
    *(("zbv", pp, 2, n) for pp in (1, 2, 3, 4, 8) for n in (1, 2, 4, 7, 15, 16, 21)),
    *(("dualpipev", pp, 2, n) for pp in (1, 2, 3, 4, 8) for n in (2 * pp, 2 * pp + 1, 2 * pp + 5, 40)),
]


@pytest.mark.parametrize("case", GRID, ids=lambda c: "-".join(map(str, c)))
def test_order_is_torchs(case: tuple[ScheduleName, int, int, int]) -> None:
    assert our_names(pipeline_order(*case)) == compute_names(*case)


def test_grid_has_counts_that_pp_does_not_divide() -> None:
    assert {s for s, pp, _, n in GRID if n % pp} == {"gpipe", "1f1b", "interleaved_1f1b", "zbv", "dualpipev"}


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv", "dualpipev"])
def test_parse_reads_what_is_written(schedule: ScheduleName) -> None:
    order = pipeline_order(schedule, 3, 1 if schedule == "1f1b" else 2, 6)
    again = Order.parse(our_names(order))
    assert our_names(again) == our_names(order)
    assert again.place.tolist() == order.place.tolist()
    assert again.micro_batches == 6 and again.splits == (schedule in ("zbv", "dualpipev"))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (("1f1b", 4, 1, 3), "at least 4"),
        (("dualpipev", 4, 2, 7), "at least 8"),
        (("interleaved_1f1b", 4, 2, 9), "a multiple of 2"),
        (("zbv", 4, 3, 8), "vpp 2"),
        (("gpipe", 4, 2, 8), "vpp 1"),
        (("gpipe", 0, 1, 8), "pp is 0"),
    ],
)
def test_sizes_that_do_not_fit(sizes: tuple[ScheduleName, int, int, int], says: str) -> None:
    with pytest.raises(AthanorError, match=says):
        pipeline_order(*sizes)


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ([["0F0", "0X0"]], "'0X0' is no action"),
        ([[]], "without actions"),
        ([["0F0", "1F0", "1B0"], ["0B0"]], "stage 0 is on ranks 0 and 1"),
        ([["0F0"]], "stage 0, micro-batch 0"),
        ([["0F0", "0I0"]], "one I and one W"),
        ([["0F0", "0F0", "0B0"]], "'F': 2"),
    ],
)
def test_orders_made_by_hand_are_checked(ranks: list[list[str]], says: str) -> None:
    with pytest.raises(AthanorError, match=says):
        Order.parse(ranks)
