"""The clock: medians, spreads, and what it says of a machine that is disturbed."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from athanor.calibrate.clock import Clock

CPU = torch.device("cpu")


def test_a_median_is_taken_and_its_spread_kept(monkeypatch: pytest.MonkeyPatch):
    """A false clock: calls take 1, 2, 3, … seconds, the first (which warms up) 1."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    length = itertools.count(0)

    def call() -> None:
        now[0] += max(next(length), 1)

    clock = Clock(CPU, budget_s=7.0)
    assert clock.seconds(call) == 4.0  # of 1 … 7
    assert clock.spread == pytest.approx((6 - 2) / 4)


def test_calls_are_made_in_turn_and_equally_often():
    made: list[str] = []
    Clock(CPU, budget_s=0.0, least=3).each([lambda: made.append("a"), lambda: made.append("b")])
    assert made == ["a", "b"] * 4  # once before the clock runs, then three times


def test_work_that_is_repeated_inside_is_divided():
    clock = Clock(CPU, budget_s=0.0, least=3)
    assert clock.seconds(lambda: time.sleep(0.02), inner=4) == pytest.approx(0.005, rel=0.5)


def test_processor_time_does_not_count_waiting():
    clock = Clock(CPU, budget_s=0.0, least=3, kind="cpu")
    assert clock.seconds(lambda: time.sleep(0.02)) < 0.01
