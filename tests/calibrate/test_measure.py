"""The whole calibration of a tiny recipe, and its command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from athanor.calibrate.measure import Calibration, Calibrator, Options, local_ranks, memory_bytes, reserved_bytes
from athanor.cli import app
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import load_cluster
from athanor.plan.of_stage import batches_of, stage_costs
from athanor.plan.ops import Misses
from athanor.recipe.schema import Recipe
from tests.parallel.ranks import run_ranks

TREE = {
    "name": "tiny",
    "model": {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
    "train": {"seq_len": 128, "global_batch_tokens": 512, "precision": "fp32", "steps": 2},
}
CPU = torch.device("cpu")


def calibrate(say: object = None) -> Calibration:
    options = Options(quick=True, recipe=Recipe.model_validate(TREE), cpu_clock=True)
    return Calibrator(CPU, options, say or (lambda text: None)).run()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> tuple[Calibration, list[str]]:
    told: list[str] = []
    return calibrate(told.append), told


def test_every_shape_of_the_recipe_has_a_point(made: tuple[Calibration, list[str]]):
    recipe, misses = Recipe.model_validate(TREE), Misses()
    assert recipe.model is not None
    (batch,) = batches_of(recipe.train, "fp32")
    stage_costs(recipe.model, batch, made[0].cluster, [ParallelPlan()], misses)
    assert misses.total == 0 and misses.hits > 0


def test_a_block_is_predicted_as_it_was_measured(made: tuple[Calibration, list[str]]):
    """Deeper by one block, and longer by the measured block: the formulas were solved for that."""
    recipe = Recipe.model_validate(TREE)
    assert recipe.model is not None
    (batch,) = batches_of(recipe.train, "fp32")
    shapes = [recipe.model.model_copy(update={"num_hidden_layers": n}) for n in (3, 4)]
    three, four = (
        float(stage_costs(shape, batch, made[0].cluster, [ParallelPlan()]).pipeline_s[0]) for shape in shapes
    )
    block_s = made[0].details["blocks"]["eager"][0]  # type: ignore[index]
    assert four - three == pytest.approx(block_s, rel=0.02) or any("busy" in text for text in made[1])


def test_figures_are_those_of_a_machine(made: tuple[Calibration, list[str]]):
    device, told = made[0].cluster.device, made[1]
    assert 1e9 < device.peak_flops_per_s["fp32"] < 1e13 and 1e8 < device.memory_bytes_per_s < 1e13
    assert device.memory_bytes == pytest.approx(memory_bytes(CPU), rel=1e-3)
    assert device.reserved_bytes < reserved_bytes(CPU) * 1.2
    assert told and "attention by document length" in told
    assert "athanor calibrate" in made[0].cluster.notes and "fp32" in made[0].cluster.notes


def _on_a_rank() -> tuple[Calibration, int]:
    return calibrate(), local_ranks()


def test_ranks_measure_together_and_agree():
    (first, ranks), (second, _) = run_ranks(2, _on_a_rank)
    assert first.cluster == second.cluster and ranks == 2
    assert first.cluster.devices == first.cluster.node.devices == 2
    assert first.cluster.node.bytes_per_s > 1e6 and first.details["node"]


def test_the_command_writes_a_cluster_that_loads(tmp_path: Path):
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "machine.yaml"
    recipe.write_text(yaml.safe_dump(TREE))
    words = ["calibrate", "--quick", "--cpu-clock", "--for", str(recipe), "--out", str(out), "model.hidden_size=32"]
    done = CliRunner().invoke(app, words, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.exit_code == 0, done.output
    cluster = load_cluster(out)
    assert cluster == load_cluster(tmp_path / "cache" / "athanor" / "calibrated-1.yaml")
    assert {32, 160} <= {size for p in cluster.device.matmul.points for size in (p.m, p.n, p.k)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "laptop"], "--base without --from-run"),
        (["model.hidden_size=3"], "changes no recipe"),
        (["--for", "none.yaml"], "none.yaml"),
        (["--from-run", "nowhere"], "no such run directory"),
    ],
)
def test_what_cannot_be_is_told(words: list[str], message: str):
    done = CliRunner().invoke(app, ["calibrate", *words])
    assert done.exit_code == 2 and message in done.output
