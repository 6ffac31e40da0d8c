"""Schedules against closed formulas written out independently."""

import math

import pytest

from athanor.recipe.schema import ScheduleRecipe
from athanor.train.schedule import learning_rate


def rates(total, **keys):
    schedule = ScheduleRecipe(**keys)
    return [learning_rate(schedule, step, total) for step in range(total)]


def test_warmup_is_linear_and_reaches_the_peak():
    got = rates(10, kind="constant", lr=1.0, start_lr=0.2, warmup_steps=4)
    assert got == pytest.approx([0.4, 0.6, 0.8, 1.0] + [1.0] * 6)


def test_cosine():
    got = rates(12, kind="cosine", lr=1.0, min_lr=0.1, warmup_steps=3)
    assert got[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert got[3:] == pytest.approx([0.1 + 0.9 * math.cos(math.pi * k / 20) ** 2 for k in range(1, 10)])
    assert got[2:] == sorted(got[2:], reverse=True) and got[-1] > 0.1


def test_linear():
    got = rates(9, kind="linear", lr=1.0, min_lr=0.0, warmup_steps=0)
    assert got == pytest.approx([1 - k / 10 for k in range(1, 10)])


def test_wsd_is_flat_then_decays_in_its_share():
    got = rates(20, kind="wsd", lr=2.0, min_lr=0.5, warmup_steps=5, decay_share=0.25)
    assert got[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert got[5:15] == [2.0] * 10
    assert got[15:] == pytest.approx([0.5 + 1.5 * (1 - (k / 6) ** 0.5) for k in range(1, 6)])


def test_wsd_without_room_for_a_flat_part():
    got = rates(10, kind="wsd", lr=1.0, warmup_steps=8, decay_share=1.0)
    assert got[7] == 1.0 and got[7] > got[8] > got[9] > 0


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
def test_warmup_longer_than_the_stage_stays_in_the_warmup(kind):
    assert rates(3, kind=kind, lr=1.0, warmup_steps=10) == pytest.approx([0.1, 0.2, 0.3])
