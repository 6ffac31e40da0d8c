"""The report: whole, partial and damaged runs; self-contained; what the files say is what the page says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from athanor.errors import AthanorError
from athanor.report import write_report
from athanor.report.charts import offsets
from athanor.report.hero import draw
from athanor.report.read import read_run


def _lines(stage: str, first: int, n: int, **extra: Any) -> list[dict[str, Any]]:
    base = {"lr": 1e-3, "tokens_per_s": 100.0, "mfu": 0.5, "step_s": 2.0, "peak_bytes": 2**30}
    return [
        {"step": first + i, "stage": stage, "loss": 4.0 - i / n, "grad_norm": 1.0, "tokens": (first + i) * 10}
        | base
        | extra
        for i in range(n)
    ]


def _write(
    folder: Path, rows: list[dict[str, Any]], events: list[dict[str, Any]] | None = None, done: bool = True
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("name: demo\nseed: 3\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events or []))
    if done:
        (folder / "DONE").write_text("")


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """A finished quickstart of two pre-training stages in one folder, SFT and RL."""
    evals = [{"step": s, "stage": "general", "eval": {"stdlib": v}} for s, v in ((1, 4.5), (4, 3.25))]
    spike = {"time": 5.0, "kind": "spike", "step": 2, "stage": "general", "loss": 9.0}
    _write(tmp_path / "pretrain", _lines("general", 1, 4) + evals + _lines("annealing", 5, 3), [spike])
    _write(tmp_path / "sft", _lines("sft", 1, 3))
    _write(tmp_path / "rl", _lines("rl", 1, 3, loss=-0.001, reward=0.75))
    summary = {
        "name": "quick",
        "stages": [
            {
                "name": "general",
                "kind": "pretrain",
                "dir": "pretrain",
                "wall_s": 61.0,
                "peak_bytes": 2**30,
                "tokens": 40,
            },
            {"name": "annealing", "kind": "pretrain", "dir": "pretrain", "wall_s": 10.0, "tokens": 30},
            {"name": "sft", "kind": "sft", "dir": "sft", "wall_s": 20.0, "tokens": 30},
            {"name": "rl", "kind": "rl", "dir": "rl", "wall_s": 30.0, "tokens": 30},
        ],
        "mixture": {"general": {"code": 3, "arithmetic": 1}, "annealing": {"arithmetic": 1}},
        "eval": {"sft": {"accuracy": 0.755, "en": 0.8, "zh": 0.71, "by_kind": {"add": 0.9}}, "rl": {"accuracy": 0.935}},
        "samples": [
            {
                "question": "2 + <3>?",
                "answers": {"sft": "6", "rl": "5"},
                "correct": {"sft": False, "rl": True},
                "expected": 5,
            }
        ],
        "conversation": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hello & welcome"}],
        "corpus": {"documents": 12, "sources": {"code": {"documents": 5}, "prose": {"documents": 7}}},
        "next_steps": [{"command": "athanor chat m", "en": "Talk", "zh": "对话"}],
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary, ensure_ascii=False))
    return tmp_path


class _Page(HTMLParser):
    """Text, tags and every attribute that could reach the network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "action"}]
        if tag not in {"meta", "path", "rect", "circle", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_quickstart_page_says_what_the_files_say(quickstart: Path) -> None:
    text = write_report(quickstart).read_text("utf-8")
    page = _Page(text)
    words = " ".join(" ".join(page.words).split())
    for fact in (
        "75.5 %",
        "93.5 %",
        "1 min 01 s",
        "1.00 GiB",
        "2 + <3>?",
        "你好",
        "athanor chat m",
        "4.5000",
        "3.2500",
        "-1.2500",
    ):
        assert fact in words, fact
    assert "spike: 1" in words and "finished" in words and "已完成" in words
    assert "<3>" not in text  # what a file holds never becomes markup
    assert page.open == []


def test_page_is_self_contained(quickstart: Path) -> None:
    text = write_report(quickstart).read_text("utf-8")
    assert _Page(text).links == []
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text and "url(" not in text


def test_every_heading_is_in_both_languages(quickstart: Path) -> None:
    text = write_report(quickstart).read_text("utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text, re.S)
    assert len(headings) >= 9
    for heading in headings:
        assert 'class="en"' in heading and re.search(r'class="zh">[^<]*[\u4e00-\u9fff]', heading), heading


def test_stages_share_one_axis(quickstart: Path) -> None:
    files = read_run(quickstart)
    assert [(s.name, a, b) for s, a, b in offsets(files.stages)] == [
        ("general", 0, 4),
        ("annealing", 4, 7),
        ("sft", 7, 10),
        ("rl", 10, 13),
    ]
    assert [s.is_rl for s in files.stages] == [False, False, False, True]
    assert files.stages[0].tokens == 40 and files.stages[0].wall_s == 61.0


def test_single_run_dir(tmp_path: Path) -> None:
    _write(tmp_path, _lines("general", 1, 5) + _lines("long_context", 6, 5))
    (tmp_path / "model").mkdir()
    words = " ".join(_Page(write_report(tmp_path, tmp_path / "x.html").read_text("utf-8")).words)
    assert "general" in words and "long_context" in words and "demo" in words and "athanor chat" in words
    stages = read_run(tmp_path).stages
    assert [s.wall_s for s in stages] == [10.0, 10.0] and [s.tokens for s in stages] == [50, 50]


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    words = " ".join(_Page(write_report(tmp_path).read_text("utf-8")).words)
    assert "no training step is written yet" in words and "还没有写出训练损失" in words


def test_summary_without_its_folders(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        '{"stages": [{"name": "general", "kind": "pretrain", "dir": "gone"}], "eval": []}'
    )
    words = " ".join(_Page(write_report(tmp_path).read_text("utf-8")).words)
    assert "gone: the stage's folder is missing" in words


def test_corrupt_summary_falls_back_to_the_folders(quickstart: Path) -> None:
    (quickstart / "summary.json").write_text('{"stages": [')
    files = read_run(quickstart)
    assert {s.name for s in files.stages} == {"general", "annealing", "sft", "rl"}
    assert any("summary.json" in english for english, _ in files.problems)


def test_corrupt_and_repeated_lines_are_counted_and_shown(tmp_path: Path) -> None:
    _write(tmp_path, _lines("general", 1, 6), done=False)
    with open(tmp_path / "metrics.jsonl", "ab") as out:
        out.write(b"[1, 2]\n\xff\xfe\n")
        out.write(json.dumps({"step": 6, "stage": "general", "loss": 1.0}).encode() + b"\n")
        out.write(json.dumps({"step": 7, "stage": "general", "loss": float("nan")}).encode() + b"\n")
        out.write(json.dumps({"stage": "general", "loss": 2.0}).encode() + b'\n{"step": 8, "lo')
    files = read_run(tmp_path)
    problems = "\n".join(english for english, _ in files.problems)
    assert "3 unreadable line(s), left out (line 7, 8, 12)" in problems
    assert (
        "1 step(s) run again" in problems and "1 line(s) without a step" in problems and "1 loss value(s)" in problems
    )
    assert files.stages[0].values("loss")[-1] == 1.0  # the later of the two lines of step 6
    assert problems.split("\n")[0] in " ".join(_Page(write_report(tmp_path).read_text("utf-8")).words)


def test_long_event_lists_say_how_many_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path, _lines("general", 1, 3), [{"time": float(i), "kind": "checkpoint", "step": i} for i in range(250)])
    words = " ".join(_Page(write_report(tmp_path).read_text("utf-8")).words)
    assert "checkpoint: 250" in words and "the last 200 of 250 are listed" in words


def test_missing_folder_and_unwritable_target(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="no such run directory"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(AthanorError, match="cannot write the report"):
        write_report(tmp_path, tmp_path / "file" / "r.html")  # a file is no folder


def test_hero_is_one_standalone_picture(quickstart: Path, tmp_path: Path) -> None:
    picture = draw(quickstart, tmp_path / "hero.svg").read_text("utf-8")
    assert picture.count("<svg") == 3 and picture.count("xmlns=") == 3 and "prefers-color-scheme" in picture
    assert "Training loss" in picture and "93.5" in picture
    with pytest.raises(AthanorError, match="cannot draw"):
        draw(quickstart, tmp_path / "hero.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AthanorError, match="nothing to draw"):
        draw(tmp_path / "empty", tmp_path / "hero.svg")
