"""The planner in a stage: one answer on all ranks, kept by the run, and a prediction that the files hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import CONFIG, TinyLoader

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import load_cluster
from athanor.plan.of_stage import StageBatch, stage_costs
from athanor.plan.shape import Documents
from athanor.recipe.schema import Recipe, ScheduleRecipe, TrainRecipe
from athanor.train.planned import predict, settle
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from tests.parallel.ranks import run_ranks

TRAIN = TrainRecipe(seq_len=32, global_batch_tokens=128, steps=4, precision="fp32")


@pytest.fixture(autouse=True)
def _nobody_has_calibrated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("ATHANOR_CLUSTER", raising=False)


def _recipe(parallel: object = "auto", cluster: str | None = None) -> Recipe:
    tree = {"model": CONFIG.model_dump(), "train": TRAIN.model_dump(), "parallel": parallel}
    return Recipe.model_validate({**tree, "plan": {"cluster": cluster}})


def _events(run: RunDir, kind: str) -> list[dict]:
    if not run.events_path.exists():
        return []
    return [e for e in map(json.loads, run.events_path.read_text().splitlines()) if e["kind"] == kind]


def _stages() -> list[Stage]:
    schedule = ScheduleRecipe()
    return [
        Stage(name, PackedSource(TinyLoader(32), BatchPlan(32, 128)), 4, schedule) for name in ("general", "annealing")
    ]


# --- auto ------------------------------------------------------------------------------------------------------------


def _settled(out: str, clusters: tuple[str, str]) -> ParallelPlan:
    os.environ["ATHANOR_CLUSTER"] = clusters[int(os.environ["RANK"])]
    plan = settle(_recipe(), TRAIN, CONFIG, out).parallel
    assert isinstance(plan, ParallelPlan)
    return plan


def test_ranks_that_know_different_machines_take_the_first_ones_plan(tmp_path: Path):
    first, second = run_ranks(2, _settled, str(tmp_path), ("laptop", "h100-8"))
    assert first == second and first.world_size == 2


def _refused(out: str) -> str:
    recipe = _recipe(cluster="nothing-like-it" if os.environ["RANK"] == "0" else None)
    with pytest.raises(AthanorError) as error:
        settle(recipe, TRAIN, CONFIG, out)
    return str(error.value)


def test_an_error_of_the_first_rank_is_everybodys(tmp_path: Path):
    first, second = run_ranks(2, _refused, str(tmp_path))
    assert first == second and "no such cluster file" in first


def test_a_run_keeps_the_plan_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chosen = settle(_recipe(), TRAIN, CONFIG, tmp_path / "run")
    assert isinstance(chosen.parallel, ParallelPlan) and "not calibrated" in capsys.readouterr().err
    begun = _recipe({"recompute": {"mode": "full"}})
    RunDir.open(tmp_path / "run", begun)
    assert settle(_recipe(), TRAIN, CONFIG, tmp_path / "run").parallel == begun.parallel != chosen.parallel


@pytest.mark.parametrize("text", ["parallel: auto\n", "parallel: {tp: 4}\n", "[]\n", "parallel: {tp: no}\n", "a: [\n"])
def test_a_plan_of_other_ranks_or_none_is_not_kept(tmp_path: Path, text: str):
    (tmp_path / "recipe.yaml").write_text(text)
    plan = settle(_recipe(), TRAIN, CONFIG, tmp_path).parallel
    assert isinstance(plan, ParallelPlan) and plan.world_size == 1


def test_a_plan_in_the_recipe_is_left_alone(tmp_path: Path):
    recipe = _recipe({"dp_shard": 3})
    assert settle(recipe, TRAIN, CONFIG, tmp_path) is recipe


# --- predictions -----------------------------------------------------------------------------------------------------


def test_every_stage_is_predicted_with_its_own_documents(tmp_path: Path):
    run = RunDir(tmp_path)
    predict(run, _recipe({}, "laptop"), TRAIN, CONFIG, _stages())
    events = _events(run, "prediction")
    assert [event["stage"] for event in events] == ["general", "annealing"]
    lens = [n for row in TinyLoader(32).rows(0, 64).doc_lens for n in row]
    batch = StageBatch(32, 128, None, "fp32", False, Documents.of(lens))
    costs = stage_costs(CONFIG, batch, load_cluster("laptop").resized(1), [ParallelPlan()])
    assert events[0]["step_s"] == pytest.approx(float(costs.step_s[0]), rel=1e-12)
    assert events[0]["peak_bytes"] == pytest.approx(float(costs.peak_bytes[0]), rel=1e-12)
    assert events[0]["cluster"] == "laptop" and events[0]["interpolated_shapes"] > 0


def test_a_machine_that_nobody_knows_is_not_predicted(tmp_path: Path):
    run = RunDir(tmp_path)
    predict(run, _recipe({}), TRAIN, CONFIG, _stages())
    assert _events(run, "prediction") == _events(run, "no_prediction") == []


def test_a_cluster_that_cannot_be_read_does_not_end_the_run(tmp_path: Path):
    run = RunDir(tmp_path)
    predict(run, _recipe({}, "nothing-like-it"), TRAIN, CONFIG, _stages())
    (event,) = _events(run, "no_prediction")
    assert "no such cluster file" in event["why"]
