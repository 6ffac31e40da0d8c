"""The plan's page and the commands: what a person sees."""

import json
import re

import pytest
from typer.testing import CliRunner

from athanor.cli import app
from athanor.model.hf import config_to_hf
from athanor.plan.best import find
from athanor.plan.cluster import load_cluster
from athanor.plan.cost import Problem
from athanor.plan.html import Page, render, stacked
from athanor.plan.switches import switch_table
from athanor.plan.whatif import scale
from athanor.recipe import PRESETS

SMALL = ["--cluster", "h100-8", "train.global_batch_tokens=262144"]


def run(*words: str):
    return CliRunner().invoke(app, ["plan", *words])


def test_page_holds_everything_and_needs_no_network():
    given = Problem(PRESETS["small-30m"], 512, 64, load_cluster("h100-8"))
    answer = find(given, 8, top=2)
    best = answer.best[0]
    lines = switch_table(given, best.plan, best.rows, best.micro_batches)
    curves = {"strong": scale(given, [4, 8], "strong")[0]}
    page = render(Page("small", answer, best, lines, curves))
    assert page.count("<svg") >= 6 and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "src=" not in page and "https://" not in page
    assert "{{" not in page and "最佳方案" in page and "The best plans" in page
    assert f"{best.step_s:.3f} s" in page and "dp_shard:" in page


def test_stacked_bars_are_to_scale():
    picture = stacked(("t", "t"), [("a", {"x": 1.0, "y": 3.0}), ("b", {"x": 2.0})], mark=4.0)
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="24"', picture)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.01) and widths[2] / widths[0] == pytest.approx(2, rel=0.01)


def test_best_plans_as_text_json_page_and_trace(tmp_path):
    page, trace = tmp_path / "plan.html", tmp_path / "plan.json"
    result = run("small-30m", *SMALL, "--top", "2", "--html", str(page), "--trace", str(trace))
    assert result.exit_code == 0, result.output
    assert "layouts bounded" in result.output and "memory by pipeline rank" in result.output
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(trace.read_text())["traceEvents"]
    same = run("best", "small-30m", *SMALL, "--top", "2", "--json")
    value = json.loads(same.output)
    assert len(value["best"]) == 2 and value["best"][0]["fits"]
    assert value["best"][0]["step_s"] <= value["best"][1]["step_s"]


def test_a_hugging_face_model_is_planned(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(PRESETS["llama3-8b"])))
    for word in (tmp_path, tmp_path / "config.json"):
        result = run(str(word), "--cluster", "h100-8", "--top", "1", "--json")
        assert result.exit_code == 0, result.output
    preset = run("llama3-8b", "--cluster", "h100-8", "--top", "1", "--json")
    assert json.loads(result.output)["best"] == json.loads(preset.output)["best"]


def test_a_recipes_own_layout_is_explained():
    pinned = ["parallel.dp_shard=8", "parallel.zero=1", "train.micro_batch_tokens=262144"]
    result = run("llama3-70b", "--cluster", "h100-8", "train.global_batch_tokens=2097152", "--top", "1", *pinned)
    assert result.exit_code == 0, result.output
    assert "it does not fit" in result.output and "too much" in result.output


def test_compare_switches_scale_and_cost():
    compared = run("compare", "small-30m", "mini", "--cluster", "h100-8", "train.global_batch_tokens=262144")
    assert compared.exit_code == 0 and "B − A" in compared.output, compared.output
    switched = run("switches", "small-30m", *SMALL, "--json")
    assert [line["name"] for line in json.loads(switched.output)][0] == "off"
    scaled = run("scale", "small-30m", *SMALL, "--from", "4", "--to", "8", "--json")
    value = json.loads(scaled.output)
    assert [p["world"] for p in value["strong"]["points"]] == [4, 8]
    cost = run("cost", "small-30m", *SMALL, "--tokens", "1e9", "--mtbf-hours", "10000", "--json")
    assert json.loads(cost.output)["expected"]["days"] > 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["no-such-thing", "--cluster", "h100-8"], "no such recipe, preset or model directory"),
        (["small-30m", "--cluster", "h100-9"], "h100-9"),
        (["small-30m", "--cluster", "h100-8", "--fix", "tp=5"], "tp=5 does not divide"),
        (["small-30m", "--cluster", "h100-8", "train.global_batch_tokens=1000"], "not a multiple of seq_len"),
        (["small-30m", "--cluster", "h100-8", "--stage", "dessert"], "no stage 'dessert'"),
        (["small-30m", "--cluster", "h100-8", "--objective", "joy"], "objective 'joy'"),
        (["small-30m", "--cluster", "h100-8", "parallel.tp=3"], "tp 3"),
        (["cost", "small-30m", "--cluster", "h100-8"], "no token budget"),
        (["scale", "small-30m", "--cluster", "h100-8", "--from", "9", "--to", "8"], "--from ≤ --to"),
    ],
)
def test_bad_input_exits_2_with_a_message(words, said):
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")
