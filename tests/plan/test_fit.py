"""Fitting finds the constants that made the data, keeps typical ones where data are silent, and survives outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import Cluster, load_cluster
from athanor.plan.cost import Problem, evaluate
from athanor.plan.fit import fit, fit_runs, leave_one_out, typical, with_constants
from athanor.plan.layouts import Layouts
from athanor.plan.runs import read_runs
from athanor.plan.traits import ENGINES
from athanor.recipe.presets import PRESETS
from bench.fit_cluster import lines, main

FILE = Path(__file__).with_name("published_runs.csv")
PLANS = [
    ParallelPlan(dp_shard=64),
    ParallelPlan(dp_shard=16, tp=4),
    ParallelPlan(dp_shard=8, tp=8),
    ParallelPlan(dp_shard=4, tp=8, pp=2),
    ParallelPlan(dp_shard=4, tp=4, pp=4),
]


def _times(cluster: Cluster) -> np.ndarray:
    """Logarithms of step times of a small and a larger model, short and long rows."""
    found = []
    for name, seq_len in (("llama3-8b", 2048), ("llama3-8b", 16384), ("llama3-70b", 4096)):
        problem = Problem(PRESETS[name], seq_len, 256, cluster, ENGINES["megatron-core"])
        layers = PRESETS[name].num_hidden_layers
        found.append(np.log(evaluate(problem, Layouts.of(PLANS, layers, 1, 4)).step_s))
    return np.concatenate(found)


def test_constants_that_made_the_times_are_found():
    base = load_cluster("a100-3072")
    true = typical() | {"matmul.top": 0.62, "attention": 0.3, "node.efficiency": 0.6}
    target = _times(with_constants(base, true))
    found = fit(base, lambda machine: (_times(machine) - target).tolist(), sigma=0.01)
    assert np.abs(found.errors).max() < 0.01
    for name in ("matmul.top", "attention", "node.efficiency"):
        assert found.values[name] == pytest.approx(true[name], rel=0.1)


def test_silence_leaves_typical_constants():
    found = fit(load_cluster("a100-3072"), lambda machine: [])
    assert found.values == pytest.approx(typical())


def test_an_outlier_does_not_bend_the_machine():
    base = load_cluster("a100-3072")
    target = _times(with_constants(base, typical()))
    target[0] += 1.0
    found = fit(base, lambda machine: (_times(machine) - target).tolist())
    assert np.abs(found.errors[1:]).max() < 0.06


def test_published_runs_fit_and_the_script_prints_yaml(capsys: pytest.CaptureFixture[str]):
    found = fit_runs(read_runs(FILE), "h100-1024")
    assert 0.5 < found.values["matmul.top"] < 0.9
    text = "\n".join(lines(found))
    assert "by_size:" in text and "half_k:" in text and "contention:" in text
    assert main([]) == 2
    assert main(["nothing.csv", "h100-8"]) == 2
    assert "no such CSV" in capsys.readouterr().err


def test_sources_are_held_out_one_by_one():
    a100 = ("Narayanan", "Korthikanti")
    runs = [run for run in read_runs(FILE) if run.source.startswith((*a100, "Megatron-LM"))]
    held = {item.source.split()[0]: item for item in leave_one_out(runs)}
    assert held["Narayanan"].by.startswith("Korthikanti") and held["Korthikanti"].by.startswith("Narayanan")
    assert held["Megatron-LM"].by == "the mean of other devices"
    assert all(0 < held[name].mape < 0.1 for name in a100)
    assert held["Megatron-LM"].mape > held["Narayanan"].mape  # another device's constants tell less
