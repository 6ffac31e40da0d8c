"""Charts: exact placement, ticks, downsampling that keeps spikes, escaping."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.report.svg import (
    Axes,
    Band,
    Series,
    bar_chart,
    line_chart,
    linear_ticks,
    log_ticks,
    number,
    row_chart,
    share_chart,
    smooth,
    thin,
)

SVG = "{http://www.w3.org/2000/svg}"
AXES = Axes(("Loss", "损失"), ("steps", "步"), ("nats", "nat"))


def test_line_lands_where_the_data_says() -> None:
    svg = line_chart(AXES, [Series(("a", "a"), [(0, 0.0), (5, 10.0), (10, 0.0)])])
    path = next(p for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("class") == "line s0")
    xy = [tuple(map(float, pair.split())) for pair in path.get("d", "").strip("M").split("L")]
    assert xy[1][0] == pytest.approx((xy[0][0] + xy[2][0]) / 2, abs=0.1)  # the middle step is in the middle
    assert xy[0][1] == xy[2][1] > xy[1][1]  # larger values are higher up, which is a smaller y
    height = AXES.height - 44 - 46
    assert (xy[0][1] - xy[1][1]) / height == pytest.approx(10 / 11.2, abs=0.01)  # range 10 with 6 % room on both sides


def test_titles_and_units_are_in_both_languages_and_escaped() -> None:
    axes = Axes(("a < b", "甲"), ("steps", "步数"), ("loss, nats", "损失"))
    svg = line_chart(axes, [Series(("x", "x"), [(0, 1), (1, 2)])], [Band("<script>", 0, 1)])
    words = "".join(ET.fromstring(svg).itertext())
    assert all(word in words for word in ("a < b", "甲", "steps", "步数", "loss, nats", "损失", "<script>"))
    assert "<script>" not in svg


def test_no_data_gives_no_chart() -> None:
    assert line_chart(AXES, [Series(("x", "x"), [])]) == ""
    assert bar_chart(AXES, ["a"], [(("x", "x"), [None])], 100) == ""
    assert share_chart(("m", "m"), [("stage", {})]) == ""


def test_log_axis_leaves_out_what_has_no_logarithm() -> None:
    axes = Axes(("g", "g"), ("x", "x"), ("y", "y"), log_y=True)
    svg = line_chart(axes, [Series(("x", "x"), [(0, 0.0), (1, 1.0), (2, 100.0), (3, -1.0)])])
    path = next(p for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("class") == "line s0")
    assert path.get("d", "").count("L") == 1


def test_bar_heights_are_proportional() -> None:
    svg = bar_chart(AXES, ["sft", "rl"], [(("all", "全部"), [40.0, 80.0])], 100.0)
    heights = [float(r.get("height", 0)) for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("class") == "f0"]
    tall = [h for h in heights if h != 10]  # 10 is the legend's swatch
    assert tall[1] / tall[0] == pytest.approx(2, abs=0.01)


def test_shares_fill_the_bar() -> None:
    svg = share_chart(("m", "m"), [("general", {"code": 3, "prose": 1})])
    bars = [r for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("height") == "24"]
    widths = [float(b.get("width", 0)) + 1 for b in bars]
    assert widths[0] / sum(widths) == pytest.approx(0.75, abs=0.002)
    assert re.findall(r"code (\d+) %", svg) == ["75"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5000))
def test_thinning_keeps_extremes_order_and_size(values: list[float]) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    kept = thin(points, 100)
    assert len(kept) <= max(100, 1) and kept == sorted(kept)
    assert max(v for _, v in kept) == max(values) and min(v for _, v in kept) == min(values)


@given(st.floats(-1e5, 1e5), st.floats(1e-4, 1e5))
def test_linear_ticks_are_inside_and_even(low: float, width: float) -> None:
    ticks = linear_ticks(low, low + width)
    gaps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert 1 <= len(ticks) <= 12 and all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in ticks)
    assert all(g == pytest.approx(gaps[0], rel=1e-4) for g in gaps)


def test_log_ticks_and_numbers() -> None:
    assert log_ticks(0.5, 30) == [0.5, 1, 2, 5, 10, 20]
    assert [number(v) for v in (0, 0.0003, 1.5, 1234, 4.7e6, 1.2e9)] == ["0", "3e-4", "1.5", "1,234", "4.7M", "1.2B"]


def test_smoothing_is_a_centred_mean() -> None:
    assert smooth([(0, 0.0), (1, 3.0), (2, 6.0)], 3) == [(0, 1.5), (1, 3.0), (2, 4.5)]


def test_rows_have_room_for_many_long_names_and_their_lengths_are_proportional() -> None:
    rows = [(f"a_long_name_of_a_step~{i}", 100.0 - 8 * i, f"{100 - 8 * i} MB") for i in range(13)]
    root = ET.fromstring(row_chart(("left", "所剩"), rows))
    bars = list(root.iter(f"{SVG}rect"))
    assert float(bars[12].get("width", 0)) / float(bars[0].get("width", 0)) == pytest.approx(0.04, abs=0.001)
    tops = [float(bar.get("y", 0)) for bar in bars]
    assert min(b - a for a, b in zip(tops, tops[1:], strict=False)) > 14  # a line of text is lower
    names = [text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("a_long")]
    assert len(names) == 13 and all(float(name.get("x", 0)) > 7 * len(name.text or "") for name in names)
    assert row_chart(("m", "m"), []) == ""
