"""Drawings: every action where its times say, shares of time when there are too many, no text that breaks a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.timeline import PipelineWork, Timeline, simulate
from athanor.plan.timeline_svg import COLUMNS, MAX_BOXES, draw, lanes_chart, memory_chart

SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT = 66, 940 - 16


def step(schedule: ScheduleName, pp: int, vpp: int, n: int, **more: Any) -> Timeline:
    times = {"forward_s": 0.02, "backward_input_s": 0.03, "backward_weight_s": 0.01}
    return simulate(PipelineWork(schedule, pp, vpp, n, **{**times, "activation_bytes": 2**30, **more}))


def boxes(svg: str) -> dict[str, ET.Element]:
    """Rectangles by the first word of what they tell on hover."""
    found = {}
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text:
            found[title.text] = rect
    return found


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_every_action_is_where_its_times_say(schedule: ScheduleName) -> None:
    line = step(schedule, 4, 1 if schedule == "1f1b" else 2, 8)
    found = {title.split(":")[0]: rect for title, rect in boxes(lanes_chart(line)).items()}
    names = [line.order.name(a) for a in range(len(line.order))]
    assert set(found) == set(names)
    for a, name in enumerate(names):
        x = LEFT + line.start_s[a] / line.wall_s * (RIGHT - LEFT)
        assert float(found[name].get("x", "")) == pytest.approx(x, abs=0.01)
        width = (line.end_s[a] - line.start_s[a]) / line.wall_s * (RIGHT - LEFT)
        assert float(found[name].get("width", "")) == pytest.approx(max(width, 0.2), abs=0.41)
    rows = {float(found[name].get("y", "")) for name in names}
    assert len(rows) == 4
    assert found["2F3"].get("class", "").startswith("f0")


def test_waits_and_collectives_are_drawn_and_named() -> None:
    line = step("interleaved_1f1b", 2, 2, 4, p2p_s=0.004, forward_comm_s=0.005, gather_s=0.01, reduce_s=0.01)
    told = list(boxes(lanes_chart(line)))
    assert sum("waits for a message" in t for t in told) == int((line.wait_p2p_s > 0).sum()) > 0
    assert sum("exposed collectives" in t for t in told) == 16
    assert sum("gather of parameters" in t or "reduction of gradients" in t for t in told) == 8
    assert "0F0: forward, stage 0, micro-batch 0, 10 ms – 35 ms" in told
    svg = lanes_chart(line)
    for words in ("未隐藏的集合通信", "waiting for a message", f"{100 * line.idle_share:.2f} %"):
        assert words in svg
    assert "backward of weights" not in lanes_chart(step("1f1b", 2, 1, 2))


def test_many_actions_become_shares_of_time() -> None:
    """Areas of the whole step are what the ranks are busy; beginning and end stay readable."""
    line = step("1f1b", 4, 1, 600)
    whole, beginning, end = lanes_chart(line).split("\n")
    paths = [p for p in ET.fromstring(whole).iter(f"{SVG}path") if (p.get("class") or "").startswith("f")]
    assert len(paths) == 8  # forward and backward of four ranks
    area = 0.0
    for path in paths:
        start, *moves = re.findall(r"[MVHZ][^MVHZ]*", path.get("d", ""))
        x, y = map(float, start[1:].split())
        points = [(x, y)]
        for move in moves[:-1]:
            x, y = (float(move[1:]), y) if move[0] == "H" else (x, float(move[1:]))
            points.append((x, y))
        xs, ys = np.array(points).T
        area += abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) / 2
    busy = area / ((RIGHT - LEFT) * (24 - 2))
    assert busy == pytest.approx(line.busy_s.sum() / line.wall_s, abs=0.03)
    for part in (beginning, end):
        assert 0 < len(boxes(part)) <= MAX_BOXES
    assert "0F0: " in beginning and "0B599: " in end and "4,800 actions" in whole
    assert len(whole) < 40 * COLUMNS * len(paths)


def test_many_ranks_are_thinned() -> None:
    chart = lanes_chart(step("gpipe", 130, 1, 2))
    rows = {rect.get("y") for rect in boxes(chart).values()}
    assert len(rows) == 64 and "129F1" in chart


def test_memory_lines_reach_the_peak() -> None:
    line = step("1f1b", 16, 1, 32, static_bytes=np.arange(16) * 2**30)
    svg = memory_chart(line, capacity_bytes=80 * 2**30)
    lines = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if (p.get("class") or "").startswith("line")]
    assert len(lines) in (9, 10)  # eight ranks over all, the fullest, the capacity
    assert "at most 16 GiB, on rank 0" in svg and "容量" in svg


def test_picture_of_its_own(tmp_path: Path) -> None:
    out = draw(step("dualpipev", 2, 2, 6), tmp_path / "step.svg", capacity_bytes=2**33)
    root = ET.fromstring(out.read_text("utf-8"))
    assert len(root.findall(f"{SVG}svg")) == 2
    assert "http" not in out.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


def test_bad_places(tmp_path: Path) -> None:
    line = step("1f1b", 2, 1, 2)
    with pytest.raises(AthanorError, match="a .svg file"):
        draw(line, tmp_path / "step.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(AthanorError, match="cannot write"):
        draw(line, tmp_path / "file" / "step.svg")


def test_a_step_that_takes_no_time_is_drawn() -> None:
    nothing = step("1f1b", 2, 1, 2, forward_s=0, backward_input_s=0, backward_weight_s=0)
    assert nothing.idle_share == 0
    ET.fromstring(lanes_chart(nothing))
    ET.fromstring(memory_chart(nothing))
