"""``athanor dryrun`` as a person meets it."""

import json

import pytest
from typer.testing import CliRunner

import athanor.plan.engine_model
from athanor.cli import app
from athanor.plan.cluster import load_cluster

RECIPE = "recipes/tiny.yaml"
RUN = ("dryrun", RECIPE, "parallel.dp_shard=2", "parallel.tp=2", "--world", "4")


def _run(*words):
    return CliRunner().invoke(app, list(words))


def test_text_and_json():
    told = _run(*RUN, "--rank", "3")
    assert told.exit_code == 0, told.output
    assert "rank 3 of 4" in told.output and "exact" in told.output
    seen = json.loads(_run(*RUN, "--rank", "3", "--json").output)
    assert all(row["agrees"] for row in seen["compared"])
    assert seen["peak_bytes"] == sum(n for name, n in seen["peak_by_category"].items() if name != "host")
    assert (
        max(sum(v for k, v in p.items() if k not in ("event", "host")) for p in seen["over_time"])
        == (seen["peak_bytes"])
    )


def test_memory_that_is_and_is_not_enough():
    assert "fits: a device has 1.00 GiB" in _run(*RUN, "--memory", "1GiB").output
    assert "fits" in _run(*RUN, "--cluster", "h100-8").output
    assert load_cluster("h100-8").device.memory_bytes > 2**30
    short = _run(*RUN, "--memory", "10MiB")
    assert short.exit_code == 2
    assert "out of memory: rank 0 needs" in short.output and "activations" in short.output
    assert "parallel.recompute.mode=full" in short.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--memory", "10 apples"), "unknown unit"),
        (("--rank", "4"), "rank 4 of 4"),
        (("--world", "6"), "the plan needs 4 ranks"),
        (("--stage", "nowhere"), "no stage is called"),
        (("parallel.tp=3", "--world", "6"), "not divisible by tp 3"),
        (("train.stages.0.seq_len=250",), "is not a multiple of seq_len 250"),
        (("parallel.pp=16", "--world", "64"), "16 stages for 4 layers"),
    ],
)
def test_bad_input(words, told):
    result = _run(*RUN, *words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_disagreement_is_an_error(monkeypatch):
    plain = athanor.plan.engine_model.Flops.count
    monkeypatch.setattr(
        athanor.plan.engine_model.Flops, "count", lambda self: {k: v + 2 for k, v in plain(self).items()}
    )
    result = _run(*RUN)
    assert result.exit_code == 2
    assert "disagree" in result.output and "forward, FLOPs" in result.output


def test_what_the_formulas_do_not_know_is_said():
    result = _run(*RUN, "parallel.copies=2")
    assert result.exit_code == 0, result.output
    assert "not compared" in result.output and "two copies" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4096, 8191])
def test_pangu_ultra_on_8192_ranks(rank):
    from bench.dryrun import MAX_RSS, MAX_S, pangu

    row = pangu(rank, ())
    assert row["exact"] and abs(row["difference"]) < 0.03
    assert row["cpu_s"] < MAX_S and row["rss_bytes"] < MAX_RSS  # a busy machine takes longer by the clock
