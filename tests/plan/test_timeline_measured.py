"""The simulated idle share is the measured one of torch's schedules over gloo."""

from __future__ import annotations

import pytest

from bench.timeline_vs_pipeline import CASES, measured, simulated
from tests.parallel.ranks import run_ranks

STAGE_S, REPEATS = 0.04, 3


@pytest.mark.slow  # needs cores that nobody else uses: beside other tests idle time is theirs
@pytest.mark.parametrize("pp", [2, 3])
def test_idle_share_of_real_pipelines(pp: int) -> None:
    found = run_ranks(pp, measured, CASES[pp], STAGE_S, REPEATS)[0]
    for case, idle in zip(CASES[pp], found, strict=True):
        assert min(idle) == pytest.approx(simulated(case[0], pp, *case[1:], STAGE_S), abs=0.03), case
