"""Predicted beside measured, from a run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from athanor.report import write_report
from athanor.report.predicted import compare
from athanor.report.read import read_run


def _run(folder: Path, events: list[dict[str, Any]], steps_s: list[float]) -> Path:
    folder.mkdir()
    lines = [
        {"step": i + 1, "stage": "general", "loss": 2.0, "step_s": s, "data_s": 0.01, "peak_bytes": 2**30}
        for i, s in enumerate(steps_s)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def _said(step_s: Any, **more: Any) -> dict[str, Any]:
    base = {"time": 1.0, "kind": "prediction", "stage": "general", "cluster": "here.yaml", "peak_bytes": 1.1 * 2**30}
    return {**base, "step_s": step_s, "measured_shapes": 9, "interpolated_shapes": 3, **more}


def test_errors_are_of_the_median_step_without_the_first(tmp_path: Path):
    (row,) = compare(read_run(_run(tmp_path / "run", [_said(0.9)], [30.0, 1.0, 1.0, 9.0])))
    assert (row.predicted_s, row.measured_s, row.data_s) == (0.9, 1.0, 0.01)
    assert row.error == pytest.approx(-0.1) and row.memory_error == pytest.approx(0.1)
    assert (row.interpolated, row.shapes) == (3, 12)


def test_the_last_prediction_counts_and_damaged_ones_do_not(tmp_path: Path):
    events = [_said(5.0), _said(2.0), _said("fast"), _said(None), {"kind": "prediction"}]
    (row,) = compare(read_run(_run(tmp_path / "run", events, [1.0, 1.0])))
    assert row.predicted_s == 2.0


@pytest.mark.parametrize(("events", "steps"), [([], [1.0, 1.0]), ([_said(1.0)], [1.0]), ([_said(1.0)], [])])
def test_without_both_there_is_nothing_to_show(tmp_path: Path, events: list[dict[str, Any]], steps: list[float]):
    run = _run(tmp_path / "run", events, steps)
    assert compare(read_run(run)) == []
    assert "Predicted and measured" not in write_report(run).read_text("utf-8")


def test_the_page_shows_both(tmp_path: Path):
    page = write_report(_run(tmp_path / "run", [_said(0.9)], [30.0, 1.0, 1.0])).read_text("utf-8")
    for text in ("Predicted and measured", "预测与实测", "-10.0 %", "+10.0 %", "0.9 s", "3 / 12", "here.yaml"):
        assert text in page
