"""Shares, losses by source and what was read, from a run's files alone."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from athanor.report.data_charts import curriculum_chart, seen_rows, shares_chart, source_loss_chart
from athanor.report.html import write_report
from athanor.report.read import read_run


def a_run(folder: Path) -> Path:
    lines = [
        {
            "step": step,
            "stage": "mix",
            "loss": 3.0,
            "loss/code": 3.0 / step,
            "loss/prose": 2.0,
            "lr": 1e-3,
            "tokens": step,
        }
        for step in range(1, 31)
    ]
    events = [
        {"kind": "mixture", "stage": "mix", "step": 10, "from_row": 88, "shares": {"code": 0.25, "prose": 0.75}},
        {"kind": "mixture", "stage": "mix", "step": 20, "from_row": 168, "shares": {"code": 0.9, "prose": 0.1}},
        {"kind": "mixture", "stage": "mix", "step": 20, "from_row": 168, "shares": {"code": 0.5, "prose": 0.5}},
        {"kind": "data_seen", "step": 15, "tokens": {"code": 1, "prose": 1}, "domains": {}, "epochs": {}},
        {
            "kind": "data_seen",
            "step": 30,
            "tokens": {"code": 3000, "prose": 9000},
            "domains": {"code": 3000, "web": 9000},
            "epochs": {"code": 1.5, "prose": 0.25},
        },
    ]
    for name, rows in (("metrics", lines), ("events", events)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_shares_step_from_switch_to_switch(tmp_path: Path) -> None:
    files = read_run(a_run(tmp_path))
    svg = shares_chart(files)
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "code" in svg and "prose" in svg
    assert "loss/" not in source_loss_chart(files) and "prose" in source_loss_chart(files)


def test_the_latest_record_of_what_was_read(tmp_path: Path) -> None:
    rows = seen_rows(read_run(a_run(tmp_path)))
    assert [(r["name"], r["tokens"], r["share"], r["epochs"]) for r in rows["sources"]] == [
        ("code", 3000, 0.25, 1.5),
        ("prose", 9000, 0.75, 0.25),
    ]
    assert [r["name"] for r in rows["domains"]] == ["code", "web"]


def test_the_page_shows_them_and_older_runs_do_without(tmp_path: Path) -> None:
    page = Path(write_report(a_run(tmp_path))).read_text(encoding="utf-8")
    assert "Mixture that followed the losses" in page and "9,000" in page and "按领域" in page
    (tmp_path / "events.jsonl").unlink()
    page = Path(write_report(tmp_path)).read_text(encoding="utf-8")
    assert "Mixture that followed the losses" not in page and "read so far" not in page


def test_a_curriculum_is_drawn_over_the_steps_of_its_stage(tmp_path: Path) -> None:
    a_run(tmp_path)
    assert curriculum_chart(read_run(tmp_path)) == ""
    event = {
        "kind": "curriculum",
        "stage": "mix",
        "difficulty_by_part": {"essays": [0.1, 0.4, 0.8], "sums": [0.2, 0.9]},
    }
    with open(tmp_path / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
    svg = curriculum_chart(read_run(tmp_path))
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "essays" in svg
    assert "Curriculum: from easy to hard" in Path(write_report(tmp_path)).read_text(encoding="utf-8")
