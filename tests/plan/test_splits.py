"""Splits of blocks over stages beside all splits there are."""

import itertools

import pytest

from athanor.errors import AthanorError
from athanor.parallel.checks import layers_per_stage
from athanor.parallel.plan import ParallelPlan
from athanor.plan.splits import GRAIN, stage_split


def all_splits(stages: int, layers: int):
    for inner in itertools.product(range(1, layers + 1), repeat=stages - 2):
        for first in range(layers - sum(inner) + 1):
            yield (first, *inner, layers - sum(inner) - first)


@pytest.mark.parametrize("first, last", [(0.0, 0.0), (0.25, 1.5), (2.0, 0.5), (0.0, 3.0)])
@pytest.mark.parametrize("stages, layers", [(3, 7), (4, 9), (5, 6), (4, 2)])
def test_the_slowest_stage_takes_least(stages, layers, first, last):
    def slowest(split):
        return max(n + extra for n, extra in zip(split, (first, *(0,) * (stages - 2), last), strict=True))

    assert GRAIN * first == int(GRAIN * first) and GRAIN * last == int(GRAIN * last)  # no rounding in this test
    best = min(slowest(split) for split in all_splits(stages, layers))
    ours = stage_split(stages, 1, "1f1b", layers, first, last)
    assert sum(ours) == layers and len(ours) == stages and min(ours[1:-1]) >= 1
    assert slowest(ours) == pytest.approx(best)


def test_the_published_pipeline_of_pangu_ultra():
    """94 layers over 48 stages; the first and the last have fewer (arXiv 2504.07866, section 4)."""
    split = stage_split(8, 6, "interleaved_1f1b", 94, 0.5, 0.9)
    assert split == (1, *(2,) * 46, 1)


@pytest.mark.parametrize("schedule, vpp", [("1f1b", 1), ("interleaved_1f1b", 3), ("zbv", 2)])
def test_checks_take_every_split(schedule, vpp):
    for layers in (6, 7, 11, 24):
        split = stage_split(2, vpp, schedule, layers, 0.1, 1.2)
        plan = ParallelPlan(pp=2, vpp=vpp, schedule=schedule, layers_per_stage=split)
        assert layers_per_stage(plan, layers) == split


def test_more_stages_than_blocks_and_ends():
    assert stage_split(4, 2, "interleaved_1f1b", 6) == (0, 1, 1, 1, 1, 1, 1, 0)
    with pytest.raises(AthanorError, match="9 stages for 6 layers"):
        stage_split(9, 1, "1f1b", 6)
