"""Goodput against published figures, a simulated life of failures, and hand counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.plan.goodput import HOUR_S, Prices, Reliability, bill


def run(mean_s: float, checkpoint_s: float, restart_s: float = 0.0) -> Reliability:
    """A run of 1,000 devices that fails every ``mean_s`` on average."""
    return Reliability(1000, HOUR_S / mean_s / 1000, checkpoint_s, restart_s)


@pytest.mark.parametrize(("mean_h", "minutes"), [(24, "117"), (6, "57"), (0.25, "9.1")])
def test_dalys_figures(mean_h: float, minutes: str) -> None:
    """Daly 2006, figures 3–5: checkpoints of 5 minutes, restarts of 10."""
    found = run(mean_h * HOUR_S, 300, 600).daly_interval_s / 60
    assert f"{found:.{len(minutes.partition('.')[2])}f}" == minutes


def test_youngs_formula() -> None:
    """√(2 · 300 s · 24 h) = 2 h."""
    assert run(24 * HOUR_S, 300).young_interval_s == pytest.approx(2 * HOUR_S)
    assert Reliability(8192, 1e-5, 30, 600).failure_interval_s == pytest.approx(HOUR_S / 0.08192)


@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.1, 1.0, 1.9, 3.0])
def test_best_interval_is_the_best(share: float) -> None:
    """By search over a grid of intervals; Daly's estimate loses less than 0.2 %, Young's never gains."""
    found = run(HOUR_S, share * HOUR_S, 60)
    best = found.goodput(found.best_interval_s)
    grid = found.best_interval_s * np.geomspace(0.5, 2, 401)
    values = [found.goodput(float(t)) for t in grid]
    assert grid[int(np.argmax(values))] == pytest.approx(found.best_interval_s, rel=0.004)
    assert max(values) <= best * (1 + 1e-12)
    assert best * 0.998 < found.goodput(found.daly_interval_s) <= best * (1 + 1e-12)
    assert found.goodput(found.young_interval_s) <= best * (1 + 1e-12)


def _lived(mean_s: float, save_s: float, restart_s: float, interval_s: float, segments: int) -> tuple[float, float]:
    """(goodput, availability) of one life, failure by failure: train and save, and on a failure restart until a restart
    lives through."""
    random = np.random.default_rng(7)
    now = up = 0.0
    left = random.exponential(mean_s)  # until the next failure
    for _ in range(segments):
        while left < interval_s + save_s:
            now, up = now + left, up + left
            left = random.exponential(mean_s)
            while left < restart_s:
                now += left
                left = random.exponential(mean_s)
            now, left = now + restart_s, left - restart_s
        now, up, left = now + interval_s + save_s, up + interval_s + save_s, left - interval_s - save_s
    return segments * interval_s / now, up / now


@pytest.mark.parametrize(
    ("mean_s", "save_s", "restart_s", "interval_s"),
    [(10_000, 60, 900, 1_000), (3_000, 200, 600, 900), (1_000, 100, 1_500, 400), (50_000, 5, 300, 20_000)],
)
def test_a_simulated_life(mean_s: float, save_s: float, restart_s: float, interval_s: float) -> None:
    found = run(mean_s, save_s, restart_s)
    goodput, availability = _lived(mean_s, save_s, restart_s, interval_s, 40_000)
    assert found.goodput(interval_s) == pytest.approx(goodput, rel=0.02)
    assert found.availability == pytest.approx(availability, rel=0.02)


def test_teleai_ten_thousand_cards() -> None:
    """1.5 interruptions a week, about 15 minutes each: 98 % availability is reported, failures alone leave more."""
    rate = 1.5 / (7 * 24 * 10_000)
    found = Reliability(10_000, rate, 30, 15 * 60)
    assert found.summary()["failures_a_week"] == pytest.approx(1.5)
    assert found.availability == pytest.approx(1 - 1.5 * 15 / (7 * 24 * 60), abs=1e-5) and found.availability > 0.98


def test_nothing_fails() -> None:
    found = Reliability(8, 0.0, 10, 60)
    assert found.availability == 1 and math.isinf(found.best_interval_s) and math.isinf(found.daly_interval_s)
    assert found.goodput(90) == 0.9 and found.goodput(math.inf) == 1
    assert found.best_steps(2.0) is None
    assert found.summary()["failure_interval_s"] is None and found.summary()["goodput"] == 1
    free = run(HOUR_S, 0, 360)
    assert free.best_interval_s == free.daly_interval_s == free.young_interval_s == 0
    assert free.summary()["goodput"] == pytest.approx(math.exp(-0.1))
    assert free.best_steps(2.0) == 1


def test_everything_fails() -> None:
    assert run(1.0, 0, 0).goodput(1e6) == 0


def test_whole_steps() -> None:
    found = run(24 * HOUR_S, 300)
    steps = found.best_steps(10.0)
    assert steps is not None and abs(10 * steps - found.best_interval_s) <= 10
    assert all(found.goodput(10 * steps) >= found.goodput(10 * s) for s in (steps - 1, steps + 1))


def test_bill_by_hand() -> None:
    """10¹² tokens in steps of 4 M at 10 s on 1,000 devices: 250,000 steps, 2.5 · 10⁶ s of kept work."""
    found = bill(
        tokens=1e12,
        tokens_per_step=4e6,
        step_s=10,
        devices=1000,
        goodput=0.8,
        prices=Prices(cost_per_device_hour=2.0, power_w=700, overhead=1.2),
    )
    assert found.steps == 250_000 and found.wall_s == pytest.approx(3.125e6)
    assert found.days == pytest.approx(36.169, abs=1e-3)
    assert found.device_hours == pytest.approx(3.125e9 / 3600)
    assert found.cost == pytest.approx(2 * 3.125e9 / 3600)
    assert found.energy_kwh == pytest.approx(3.125e9 / 3600 * 0.84)
    assert found.tokens_per_s == pytest.approx(1e12 / 3.125e6)
    assert bill(tokens=10, tokens_per_step=4, step_s=1, devices=1).summary()["steps"] == 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Reliability(0, 1e-5, 1, 1), "devices"),
        (lambda: Reliability(8, -1e-5, 1, 1), "failures_per_device_hour"),
        (lambda: Reliability(8, 1e-5, float("nan"), 1), "checkpoint_s"),
        (lambda: Reliability(8, 1e-5, 1, 1).goodput(0), "checkpoint interval"),
        (lambda: Reliability(8, 1e-5, 1, 1).best_steps(0), "step time"),
        (lambda: Prices(overhead=0.9), "overhead"),
        (lambda: bill(tokens=0, tokens_per_step=1, step_s=1, devices=1), "tokens"),
        (lambda: bill(tokens=1, tokens_per_step=1, step_s=1, devices=1, goodput=1.1), "goodput"),
    ],
)
def test_bad_values(make: Any, says: str) -> None:
    with pytest.raises(AthanorError, match=says):
        make()
