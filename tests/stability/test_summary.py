"""Rows, table and verdicts from planted results."""

from __future__ import annotations

import math
from typing import Any

import pytest

from athanor.stability.summary import markdown_table, sentences, summarise, verdicts


def result(arch: str, lr: float, seed: int, heldout: float | None, spikes: int = 0) -> dict[str, Any]:
    spike = {"first": 40, "last": 41, "peak": 9.0, "baseline": 1.0}
    return {
        "cell": {"arch": arch, "lr": lr, "seed": seed},
        "loss": [9.0] * 5 + [2.0, 3.0] * 12 + [2.5],
        "heldout_loss": heldout,
        "loss_spikes": [],
        "grad_spikes": [spike] * spikes,
        "probes": {"residual": [[1.0, 1.0], [2.0, 4.0 + seed]]},
        "cpu_s": 10.0,
        "wall_s": 20.0,
    }


RESULTS = [
    result("pre+small", 1e-3, 1, 2.6, 2),
    result("pre+small", 1e-3, 0, 2.4, 1),
    result("dssn+tiny", 1e-3, 0, 2.2),
    result("dssn+tiny", 1e-3, 1, 2.3),
    result("pre+small", 1e-2, 0, 2.1),
    result("dssn+tiny", 1e-2, 0, 2.2),
]


def test_rows_hold_seeds_in_order_with_mean_and_spread() -> None:
    row = summarise(RESULTS)[0]
    assert row.seeds == [0, 1] and row.heldout_loss == [2.4, 2.6] and row.grad_spikes == [1, 2]
    assert row.heldout_mean == pytest.approx(2.5) and row.heldout_sd == pytest.approx(math.sqrt(0.02))
    assert row.grad_spike_steps == [2, 4] and row.residual_rms == [4.0, 5.0]
    assert row.train_loss == pytest.approx([2.5, 2.5])


def test_table_is_by_learning_rate_and_shows_every_seed() -> None:
    lines = markdown_table(summarise(RESULTS)).splitlines()
    assert len(lines) == 6
    assert lines[2] == "| pre+small | 0.001 | 2.500 ± 0.141 | 2.500 | 0 (0/0) | 0 (0/0) | 3 (1/2) | 4–5 | 10 |"
    assert lines[4].startswith("| pre+small | 0.01 | 2.100 |")


def test_the_bar_needs_no_spikes_and_the_lowest_loss() -> None:
    at = {verdict.lr: verdict for verdict in verdicts(summarise(RESULTS))}
    assert at[1e-3].holds and at[1e-3].margin == pytest.approx(-0.25) and at[1e-3].others_spikes == {"pre+small": 3}
    assert not at[1e-2].holds and at[1e-2].lowest_loss == "pre+small"
    spiky = verdicts(summarise([*RESULTS[:3], result("dssn+tiny", 1e-3, 1, 2.3, 1)]))[0]
    assert not spiky.holds and spiky.champion_spikes == 1
    english, chinese = sentences(at[1e-2])
    assert "does not hold" in english and "0.100 nats above" in english and "未达到" in chinese


def test_a_diverged_run_is_infinite_not_missing() -> None:
    rows = summarise([result("pre+small", 1e-3, 0, None), result("dssn+tiny", 1e-3, 0, 2.0)])
    assert rows[0].heldout_mean == math.inf and verdicts(rows)[0].holds
    assert "inf" in markdown_table(rows)


def test_without_the_champion_there_is_no_verdict() -> None:
    assert verdicts(summarise(RESULTS[:2])) == []


def test_a_batch_that_is_hard_for_all_is_no_spike_of_the_model() -> None:
    runs = [result(arch, lr, 0, 2.0) for arch in ("pre+small", "dssn+tiny") for lr in (1e-3, 1e-2)]
    for run in runs:
        run["loss"] = [2.0] * 60
        run["loss"][50] = 3.0
        run["loss_spikes"] = [{"first": 50, "last": 50, "peak": 3.0, "baseline": 2.0}]
    runs[0]["loss"][55] = 3.0
    runs[0]["loss_spikes"] = runs[0]["loss_spikes"] * 2
    rows = summarise(runs)
    assert [row.loss_spikes for row in rows] == [[2], [1], [1], [1]]
    assert [row.model_loss_spikes for row in rows] == [[1], [0], [0], [0]]
    assert [row.model_loss_spikes for row in summarise(runs[:2])] == [[2], [1]]  # two runs cannot tell


def test_a_half_done_grid_is_compared_on_the_seeds_that_all_have() -> None:
    runs = [result("pre+small", 1e-3, 0, 2.0), result("pre+small", 1e-3, 1, 3.0, 5), result("dssn+tiny", 1e-3, 0, 2.1)]
    verdict = verdicts(summarise(runs))[0]
    assert verdict.seeds == [0] and verdict.margin == pytest.approx(0.1) and verdict.others_spikes == {"pre+small": 0}
    assert verdicts(summarise(runs[1:])) == []
