"""The measured idle share of a pipeline is what the formula says."""

from __future__ import annotations

import pytest

from athanor.parallel.bubble import ideal_bubble, measure_bubble
from tests.parallel.ranks import run_ranks

#: (schedule, vpp, micro-batches) measured on each number of pipeline ranks
CASES = {
    2: [("gpipe", 1, 4), ("1f1b", 1, 2), ("1f1b", 1, 6), ("interleaved_1f1b", 2, 4)],
    4: [("1f1b", 1, 4), ("1f1b", 1, 8), ("interleaved_1f1b", 2, 4)],
}
#: long beside what a message and an action cost (1 to 3 ms over gloo), which the formula takes as nothing
STAGE_S = 0.15


def _measure(pp: int) -> list[float]:
    return [measure_bubble(schedule, pp, vpp, m, STAGE_S) for schedule, vpp, m in CASES[pp]]  # type: ignore[arg-type]


@pytest.mark.slow  # needs cores that nobody else uses: beside other tests idle time is theirs
@pytest.mark.parametrize("pp", [2, 4])
def test_idle_share_is_the_formulas(pp: int) -> None:
    for (schedule, vpp, m), idle in zip(CASES[pp], run_ranks(pp, _measure, pp)[0], strict=True):
        assert idle == pytest.approx(ideal_bubble(pp, vpp, m), abs=0.02), (schedule, vpp, m)
        assert abs(idle - ideal_bubble(pp, vpp + 1, m)) > 0.02  # and the numbers are apart far enough to be told


def test_a_known_number() -> None:
    assert ideal_bubble(4, 2, 8) == 3 / 19
