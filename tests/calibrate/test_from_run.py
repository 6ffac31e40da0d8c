"""A run's step times correct the cluster that it was predicted with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from athanor.calibrate.from_run import recalibrate, scaled
from athanor.calibrate.measure import GENERAL
from athanor.cli import app
from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import load_cluster
from athanor.plan.of_stage import StageBatch, stage_costs

BATCH = StageBatch(512, 4096, 1024, "bf16", True)


def write_run(folder: Path, stages: dict[str, tuple[float, float]], data_s: float = 0.0) -> Path:
    """Stages by name with (predicted, measured) seconds; the first step of each compiles for a minute."""
    folder.mkdir(parents=True, exist_ok=True)
    events, lines, step = [], [], 0
    for name, (predicted, measured) in stages.items():
        events.append({"time": 0, "kind": "prediction", "stage": name, "step_s": predicted, "cluster": "laptop"})
        for i in range(5):
            step += 1
            seconds = 60.0 if i == 0 else measured + data_s
            lines.append({"step": step, "stage": name, "loss": 1.0, "step_s": seconds, "data_s": data_s})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


@pytest.mark.parametrize("plan", [ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(dp_shard=2)])
def test_all_of_a_step_takes_the_factor(plan: ParallelPlan):
    laptop = load_cluster("laptop")
    cluster = laptop if plan.world_size == 2 else laptop.resized(1)
    before, after = (
        stage_costs(GENERAL, BATCH, machine, [plan]).step_s[0] for machine in (cluster, scaled(cluster, 1.7, "run"))
    )
    assert after / before == pytest.approx(1.7, rel=1e-9)


def test_the_factor_is_the_median_over_stages_without_waiting_for_data(tmp_path: Path):
    stages = {"a": (1.0, 1.2), "b": (2.0, 3.0), "c": (1.0, 4.0)}
    made = recalibrate(write_run(tmp_path / "run", stages, data_s=0.25))
    assert made.factor == pytest.approx(1.5)
    assert made.cluster.device.memory_bytes_per_s == pytest.approx(
        load_cluster("laptop").device.memory_bytes_per_s / 1.5
    )
    assert [stage.stage for stage in made.stages] == ["a", "b", "c"]


def test_another_base_may_be_given(tmp_path: Path):
    run = write_run(tmp_path / "run", {"a": (1.0, 2.0)})
    base = load_cluster("h200-1")
    assert recalibrate(run, base).cluster.node.latency_s == pytest.approx(2 * base.node.latency_s)


def test_a_run_without_predictions_is_refused(tmp_path: Path):
    run = write_run(tmp_path / "run", {"a": (1.0, 2.0)})
    (run / "events.jsonl").write_text("")
    with pytest.raises(AthanorError, match="no stage of this run has both"):
        recalibrate(run)
    with pytest.raises(AthanorError, match="no such run directory"):
        recalibrate(tmp_path / "none")


@pytest.mark.parametrize("command", ["plan", "calibrate"])
def test_both_commands_write_the_corrected_cluster(tmp_path: Path, command: str):
    run, out = write_run(tmp_path / "run", {"a": (1.0, 2.0)}), tmp_path / "corrected.yaml"
    done = CliRunner().invoke(app, [command, "--from-run", str(run), "--out", str(out)])
    assert done.exit_code == 0 and "-50.0%" in done.output, done.output
    assert load_cluster(out).device.launch_s == pytest.approx(2 * load_cluster("laptop").device.launch_s)


@pytest.mark.parametrize("words", [["--out", "x"], ["--from-run", "run", "recipe.yaml"], ["--base", "laptop"]])
def test_from_run_stands_alone(words: list[str]):
    done = CliRunner().invoke(app, ["plan", *words])
    assert done.exit_code == 2 and "athanor plan" in done.output
