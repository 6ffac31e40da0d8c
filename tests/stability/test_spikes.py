"""Spikes planted in known series, and an independent step-by-step reading of the definition."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from athanor.stability.spikes import (
    SpikeRule,
    batch_rise,
    grad_spike_steps,
    grad_spikes,
    loss_spike_steps,
    loss_spikes,
    model_loss_spikes,
)


def falling(n: int, seed: int = 0, noise: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [2.0 + 3.0 * math.exp(-i / 40) + rng.gauss(0, noise) for i in range(n)]


def literal_loss(losses: list[float]) -> list[bool]:
    flags = []
    for i, value in enumerate(losses):
        before = losses[max(0, i - 32) : i]
        if len(before) < 32:
            flags.append(False)
            continue
        median = statistics.median(before)
        mad = statistics.median(abs(v - median) for v in before)
        flags.append(value > median + max(0.4, 6 * mad))
    return flags


def literal_grad(norms: list[float]) -> list[bool]:
    return [i >= 32 and v > 5 * statistics.median(norms[i - 32 : i]) for i, v in enumerate(norms)]


@pytest.mark.parametrize("seed", range(5))
def test_flags_equal_the_literal_definition(seed: int) -> None:
    rng = random.Random(seed)
    losses = [v + (rng.random() < 0.05) * rng.uniform(0, 3) for v in falling(300, seed, 0.1)]
    norms = [math.exp(rng.gauss(0, 1)) for _ in range(300)]
    assert loss_spike_steps(losses).tolist() == literal_loss(losses)
    assert grad_spike_steps(norms).tolist() == literal_grad(norms)
    assert any(literal_loss(losses)) and any(literal_grad(norms))


def test_a_smooth_run_has_no_spikes() -> None:
    assert loss_spikes(falling(200)) == []
    assert grad_spikes([1.0 + 0.5 * math.sin(i) for i in range(200)]) == []


def test_planted_loss_spikes_are_found_where_they_are() -> None:
    losses = falling(400)
    losses[60] += 1.0  # inside the steep descent, where 6 · MAD is larger than this
    losses[200] += 1.0
    losses[300] += 0.9
    losses[301] += 0.7
    losses[350] += 0.3  # below the floor of 0.4
    found = loss_spikes(losses)
    assert [(s.first, s.last) for s in found] == [(200, 200), (300, 301)]
    assert found[1].steps == 2 and found[1].peak == losses[300]
    assert found[0].baseline == pytest.approx(statistics.median(losses[168:200]))


def test_consecutive_steps_are_one_event_and_a_hole_makes_two() -> None:
    norms = [1.0] * 100
    for i in (50, 51, 52, 54):
        norms[i] = 6.0
    assert [(s.first, s.last) for s in grad_spikes(norms)] == [(50, 52), (54, 54)]
    assert int(grad_spike_steps(norms).sum()) == 4


def test_the_limits_are_strict() -> None:
    assert grad_spikes([1.0] * 40 + [5.0]) == []
    assert len(grad_spikes([1.0] * 40 + [5.01])) == 1
    assert loss_spikes([2.0] * 40 + [2.4]) == []
    assert len(loss_spikes([2.0] * 40 + [2.41])) == 1


def test_noise_raises_the_loss_limit() -> None:
    noisy = [2.0, 3.0] * 20  # median 2.5, MAD 0.5: the limit is 5.5
    assert loss_spikes([*noisy, 5.4]) == []
    assert len(loss_spikes([*noisy, 5.6])) == 1


def test_the_first_window_is_not_judged_but_a_nan_is_anywhere() -> None:
    assert grad_spikes([1.0] * 31 + [100.0]) == []
    assert len(grad_spikes([1.0] * 32 + [100.0])) == 1
    found = loss_spikes([2.0, float("nan"), 2.0])
    assert [(s.first, s.last) for s in found] == [(1, 1)] and math.isnan(found[0].baseline)
    assert [s.first for s in grad_spikes([1.0] * 40 + [float("inf")] + [1.0] * 40)] == [40]


def test_a_level_that_stays_is_one_spike_then_the_baseline() -> None:
    found = grad_spikes([1.0] * 64 + [10.0] * 64)
    assert [(s.first, s.steps) for s in found] == [(64, 16)]  # with 16 of 32 high the median is 5.5


def test_short_and_empty_series() -> None:
    assert loss_spikes([]) == [] and grad_spikes([]) == []
    assert loss_spike_steps([1.0] * 32).tolist() == [False] * 32


def test_the_rule_can_be_given() -> None:
    norms = [1.0] * 8 + [4.0]
    assert grad_spikes(norms) == []
    assert len(grad_spikes(norms, SpikeRule(window=8, grad_factor=3.0))) == 1


def test_a_diverged_window_still_flags_only_the_bad_steps() -> None:
    losses = [2.0] * 40 + [float("nan")] * 40 + [2.0] * 20
    assert loss_spike_steps(losses).tolist() == [False] * 40 + [True] * 40 + [False] * 20


def test_a_hard_batch_is_told_from_a_spike_of_the_model() -> None:
    runs = [[2.0 + 0.1 * k] * 100 for k in range(5)]
    for run in runs:
        run[60] += 0.7  # hard for every run
    runs[0][80] += 0.7  # one run only
    runs[1][60] += 0.7  # hard, and a spike of the model on top
    rise_N = batch_rise(runs)
    assert rise_N[60] == pytest.approx(0.7) and rise_N[80] == 0 and rise_N[:32].tolist() == [0.0] * 32
    assert [[s.first for s in loss_spikes(run)] for run in runs] == [[60, 80], [60], [60], [60], [60]]
    assert [[s.first for s in model_loss_spikes(run, rise_N)] for run in runs] == [[80], [60], [], [], []]


def test_an_easy_batch_excuses_nothing_and_a_diverged_run_hides_nothing() -> None:
    runs = [[2.0] * 60 for _ in range(3)]
    for run in runs:
        run[50] -= 1.0
    assert batch_rise(runs).max() == 0.0
    runs[0][40:] = [float("nan")] * 20
    rise_N = batch_rise(runs)
    assert np.isfinite(rise_N).all() and [s.steps for s in model_loss_spikes(runs[0], rise_N)] == [20]
    assert batch_rise([[1.0] * 10] * 3).tolist() == [0.0] * 10
