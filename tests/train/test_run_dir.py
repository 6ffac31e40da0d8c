"""Run directories: recipe guard, whole lines only, exact truncation, one writer."""

import json
import os
import subprocess
import sys

import pytest

from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe
from athanor.train.run_dir import LineLog, RunDir, recipe_differences


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_recipe_is_written_first_and_reopened(tmp_path):
    recipe = Recipe(name="a", seed=3)
    run = RunDir.open(tmp_path / "run", recipe)
    assert [p.name for p in run.path.iterdir()] == ["recipe.yaml"]
    RunDir.open(tmp_path / "run", recipe)


def test_other_recipe_is_refused_and_the_keys_named(tmp_path):
    RunDir.open(tmp_path, Recipe(seed=3))
    other = Recipe.model_validate({"seed": 4, "train": {"schedule": {"lr": 0.5}}})
    with pytest.raises(AthanorError) as caught:
        RunDir.open(tmp_path, other)
    text = str(caught.value)
    assert "seed: 3 → 4" in text and "train.schedule.lr: 0.0003 → 0.5" in text and str(tmp_path) in text
    assert "betas" not in text


def test_only_the_named_sections_count(tmp_path):
    RunDir.open(tmp_path, Recipe())
    other = Recipe.model_validate({"eval": {"questions": 7}})
    RunDir.open(tmp_path, other, sections=("seed", "train"))
    with pytest.raises(AthanorError, match="eval.questions"):
        RunDir.open(tmp_path, other)


def test_differences_name_list_entries_and_missing_keys():
    got = recipe_differences({"a": [{"b": 1}], "c": 2}, {"a": [{"b": 3}], "d": 4})
    assert got == ["a[0].b: 1 → 3", "c: 2 → null", "d: null → 4"]


def test_run_without_recipe_or_broken_recipe_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(AthanorError, match="no recipe.yaml"):
        RunDir.open(tmp_path, Recipe())
    (tmp_path / "recipe.yaml").write_text("a: [")
    with pytest.raises(AthanorError, match="cannot be read"):
        RunDir.open(tmp_path, Recipe())
    with pytest.raises(AthanorError, match="is a file"):
        RunDir(tmp_path / "recipe.yaml")


def test_torn_line_is_dropped_and_truncation_is_exact(tmp_path):
    path = tmp_path / "m.jsonl"
    log = LineLog(path, flush_every_s=0.0)
    log.write({"step": 1, "loss": float("nan"), "eval": {"a": float("inf")}, "stats": [float("nan"), 1.0]})
    mark = log.flush()
    log.write({"step": 2})
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    log = LineLog(path, flush_every_s=60.0)
    assert [r["step"] for r in lines(path)] == [1, 2]
    assert log.write({"step": 9}) is False  # still queued
    assert log.truncate(mark) is True
    log.write({"step": 2, "again": True})
    log.close()
    assert lines(path) == [
        {"step": 1, "loss": None, "eval": {"a": None}, "stats": [None, 1.0]},
        {"step": 2, "again": True},
    ]
    assert LineLog(path).truncate(10_000) is False


def test_events_and_done(tmp_path):
    run = RunDir(tmp_path)
    assert not run.is_done
    run.event("spike", step=3, loss=float("inf"))
    run.mark_done(step=4)
    (event,) = lines(run.events_path)
    assert event["kind"] == "spike" and event["step"] == 3 and event["loss"] is None
    assert run.is_done


def test_second_process_is_refused_until_the_first_ends(tmp_path):
    code = "import sys; from athanor.train.run_dir import RunDir\nwith RunDir(sys.argv[1]).locked(): pass"
    with RunDir(tmp_path).locked():
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 1 and "another process is training" in done.stderr
    with RunDir(tmp_path).locked():
        pass


def test_a_key_that_a_later_version_added_takes_its_default(tmp_path):
    run = RunDir.open(tmp_path, Recipe(seed=3))
    text = run.recipe_path.read_text()
    assert "keep_checkpoints" in text
    run.recipe_path.write_text("\n".join(line for line in text.splitlines() if "keep_checkpoints" not in line))
    RunDir.open(tmp_path, Recipe(seed=3))
