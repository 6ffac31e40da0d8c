"""``athanor data synthesise`` from the command line."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from athanor.cli import _Guarded
from athanor.commands.data_synthesise import register


@pytest.fixture
def ask():
    app = typer.Typer(cls=_Guarded)
    app.callback()(lambda: None)
    register(app)
    return lambda *words: CliRunner().invoke(app, ["synthesise", *map(str, words)])


def test_it_writes_a_file_and_reports_coverage(ask, tmp_path):
    out = tmp_path / "tasks.jsonl"
    words = (
        "--n",
        120,
        "--subject",
        "math",
        "--language",
        "zh",
        "--difficulty",
        "1-2",
        "--holdout",
        "0.1",
        "--seed",
        4,
    )
    done = ask("--out", out, *words)
    assert done.exit_code == 0, done.output
    rows = [json.loads(x) for f in (out, tmp_path / "tasks.heldout.jsonl") for x in f.read_text().splitlines()]
    assert len(rows) == 120 and {r["meta"]["language"] for r in rows} == {"zh"}
    assert all(r["meta"]["difficulty"] <= 2 and r["meta"]["knowledge_point"].startswith("math.") for r in rows)
    assert re.search(r"^math\.algebra .*\d", done.output, re.MULTILINE) and "120 tasks on" in done.output
    again = tmp_path / "again.jsonl"
    assert ask("--out", again, *words).exit_code == 0 and again.read_bytes() == out.read_bytes()


def test_documents(ask, tmp_path):
    out = tmp_path / "d.jsonl"
    assert ask("--out", out, "--n", 10, "--form", "documents", "--points", "code.lists.*").exit_code == 0
    assert all(
        {"id", "text", "domain", "language", "meta"} == json.loads(x).keys() for x in out.read_text().splitlines()
    )


def test_the_list_is_a_tree_with_both_names(ask):
    done = ask("--list", "--points", "math.calculus.*")
    assert "数学 · Mathematics" in done.output and "chain  链式法则 · Chain rule  [3–5]  ← derivative" in done.output
    assert re.search(r"\d+ points: \d+ computed \(\d+%\), \d+ need a language model", done.output)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "where to?"),
        (("--out", "x.jsonl", "--language", "fr"), "fr"),
        (("--out", "x.jsonl", "--subject", "maths"), "unknown subject"),
        (("--out", "x.jsonl", "--difficulty", "hard"), "not a range"),
        (("--out", "x.jsonl", "--difficulty", "0-9"), "within 1–5"),
        (("--out", "x.jsonl", "--form", "poems"), "unknown form"),
        (("--out", "x.jsonl", "--taxonomy", "none.yaml"), "no such taxonomy file"),
        (("--out", "x.jsonl", "--endpoint", "http://a", "--model-dir", "b"), "one of the two"),
        (("--out", "x.jsonl", "--endpoint", "nowhere"), "not a web address"),
    ],
)
def test_bad_input_exits_2_and_leaves_nothing(ask, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    done = ask(*words)
    assert done.exit_code == 2 and told in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
