"""The benchmark of predictions: its recipes are valid, and its figures are those of the run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from athanor.parallel.checks import check_plan, resolve_plan
from athanor.recipe import load
from bench.predict_here import CASES, WARM_UP, recipes, row


def test_every_case_is_a_recipe_that_its_processes_can_train(tmp_path: Path):
    paths = recipes(tmp_path, steps=7)
    for case in CASES:
        recipe = load(paths[case.recipe], case.changes)
        assert recipe.model is not None and resolve_plan(recipe, case.processes).world_size == case.processes
        check_plan(
            resolve_plan(recipe, case.processes),
            recipe.model,
            world_size=case.processes,
            seq_len=recipe.train.seq_len,
            global_batch_tokens=recipe.train.global_batch_tokens,
        )
        assert [recipe.train.steps or stage.steps for stage in recipe.train.stages or [recipe.train]] == [7]


def test_figures_come_from_the_files(tmp_path: Path):
    said = {"kind": "prediction", "stage": "a", "step_s": 0.9, "interpolated_shapes": 2}
    said |= {"pipeline_s": 0.8, "data_parallel_s": 0.06, "optimizer_s": 0.04}
    times = [99.0] * WARM_UP + [1.0, 1.0, 1.0, 1.2]
    lines = [{"step": i + 1, "stage": "a", "step_s": s, "data_s": 0.01} for i, s in enumerate(times)]
    (tmp_path / "events.jsonl").write_text(json.dumps(said) + "\n")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = row(CASES[0], tmp_path)
    assert found["measured_s"] == 1.0 and found["error"] == pytest.approx(-0.1) and found["interpolated"] == 2
    (tmp_path / "events.jsonl").write_text(json.dumps({"kind": "no_prediction", "why": "no network"}) + "\n")
    with pytest.raises(RuntimeError, match="no network"):
        row(CASES[0], tmp_path)
