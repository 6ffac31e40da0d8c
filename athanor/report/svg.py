"""Small inline-SVG charts: text stays text (the reader's own fonts show it, Chinese too) and colours follow the page.

Every chart is a string of one ``<svg>`` element. Colours are classes (``c0`` … ``c7``, ``axis``, ``grid``) that
``STYLE`` or the page defines, so that a chart follows light and dark. A label is ``(english, chinese)``; both are
written and the page hides one of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

#: A label in English and Chinese.
Text = tuple[str, str]
Point = tuple[float, float]

COLORS = 8
_VIEW = re.compile(r'viewBox="0 0 (\d+) (\d+)"')
#: Most points a line keeps; a longer one keeps the smallest and largest value of each bucket, so no spike is lost.
MAX_POINTS = 900

STYLE = """
.chart{font-family:system-ui,-apple-system,"Segoe UI","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
.chart text{fill:var(--ink);font-size:12px}
.chart .title{font-size:15px;font-weight:600}
.chart .muted,.chart .tick{fill:var(--muted)}
.chart .grid{stroke:var(--line);stroke-width:1;fill:none}
.chart .axis{stroke:var(--muted);stroke-width:1;fill:none}
.chart .band0{fill:var(--band0)}.chart .band1{fill:var(--band1)}
.chart .mark{stroke:var(--bad);stroke-width:1;stroke-dasharray:3 3;fill:none}
.chart .line{fill:none;stroke-width:1.6;stroke-linejoin:round}
.chart .faint{opacity:.28}
.chart .later{opacity:.72}
""" + "".join(f".chart .s{i}{{stroke:var(--c{i})}}.chart .f{i}{{fill:var(--c{i})}}\n" for i in range(COLORS))

#: Palette variables; the page and a standalone picture share them.
PALETTE = """
:root{--ink:#22262b;--muted:#6a7078;--line:#e3e5e8;--paper:#fbfaf7;--card:#ffffff;--band0:#f3f4f2;--band1:#fbfbfa;
--bad:#b4372f;--good:#2c7a4b;--c0:#2f5d8a;--c1:#c26a2d;--c2:#3f7f5f;--c3:#8a4f7d;--c4:#a18a2b;--c5:#4a8a96;--c6:#94443f;
--c7:#6b6f95}
@media (prefers-color-scheme:dark){:root{--ink:#e4e2dc;--muted:#9a9fa6;--line:#33373c;--paper:#16181b;--card:#1d2024;
--band0:#23272b;--band1:#1d2024;--bad:#e5837a;--good:#7cc79a;--c0:#7fb0e0;--c1:#e8a06a;--c2:#82c4a2;--c3:#cf9ac3;--c4:#d8c267;
--c5:#86c7d3;--c6:#dd938d;--c7:#aab0dd}}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points (x, y) with finite numbers; a gap in the data is a second series of the same colour."""

    label: Text
    points: Sequence[Point]
    color: int = 0
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded range of the x axis, [start, end), with its name and an optional note."""

    label: str
    start: float
    end: float
    note: Text | None = None


@dataclass(frozen=True, slots=True)
class Axes:
    """What a chart says around its data. Labels carry units."""

    title: Text
    x_label: Text
    y_label: Text
    log_y: bool = False
    zero_y: bool = False
    width: int = 940
    height: int = 300


@dataclass(slots=True)
class _Frame:
    """The map from data to pixels."""

    axes: Axes
    x0: float
    x1: float
    y0: float
    y1: float
    left: float = 66
    top: float = 44
    right: float = 16
    bottom: float = 46
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.axes.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high, v = self.y0, self.y1, value
        if self.axes.log_y:
            low, high, v = math.log10(low), math.log10(high), math.log10(v)
        return self.axes.height - self.bottom - (v - low) / (high - low) * (self.axes.height - self.top - self.bottom)


def both(text: Text) -> str:
    """The label in both languages, as ``<tspan>`` pairs that the page shows or hides."""
    english, chinese = escape(text[0]), escape(text[1])
    if english == chinese or not chinese:
        return english
    return f'<tspan class="en">{english}</tspan><tspan class="sep"> · </tspan><tspan class="zh">{chinese}</tspan>'


def label(x: float, y: float, text: str, *, css: str = "", anchor: str = "start", extra: str = "") -> str:
    """A ``<text>`` element; ``text`` is already escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}"{extra}>{text}</text>'


def number(value: float) -> str:
    """A short, exact-enough number for a tick or a value label: 0.0003, 1,200, 3.4M."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if size >= limit:
            return f"{value / limit:.3g}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def linear_ticks(low: float, high: float, want: int = 5) -> list[float]:
    """Round ticks (1, 2, 5 × 10ⁿ apart) inside [low, high]."""
    raw = (high - low) / max(want, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks at powers of ten, with 2 and 5 between them when the range is short."""
    digits = (1, 2, 5) if high / low < 1e3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        d * 10.0**p
        for p in powers
        for d in digits
        if low <= d * 10.0**p * 1.0000001 and d * 10.0**p <= high * 1.0000001
    ]


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` points, in order, keeping the extremes of every bucket."""
    if len(points) <= limit:
        return list(points)
    buckets = limit // 2
    kept: list[Point] = []
    for b in range(buckets):
        part = points[b * len(points) // buckets : (b + 1) * len(points) // buckets]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Centred moving mean over ``window`` points (shorter at the ends); the x values stay."""
    half = window // 2
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out: list[Point] = []
    for i, (x, _) in enumerate(points):
        a, b = max(0, i - half), min(len(points), i + half + 1)
        out.append((x, (sums[b] - sums[a]) / (b - a)))
    return out


def _limits(axes: Axes, series: Sequence[Series], bands: Sequence[Band]) -> tuple[float, float, float, float] | None:
    ys = [y for s in series for _, y in s.points if not axes.log_y or y > 0]
    if not ys:
        return None
    xs = [x for s in series for x, _ in s.points] + [edge for b in bands for edge in (b.start, b.end)]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1 = x1 if x1 > x0 else x0 + 1
    if axes.log_y:
        y0, y1 = (y0 / 1.5, y1 * 1.5) if y1 / y0 < 10 else (y0 / 1.15, y1 * 1.15)
    else:
        y0 = min(0.0, y0) if axes.zero_y else y0
        pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
        y0, y1 = (y0 if axes.zero_y else y0 - pad), y1 + pad
    return x0, x1, y0, y1


def _axes(frame: _Frame) -> None:
    axes, parts = frame.axes, frame.parts
    right, floor = axes.width - frame.right, axes.height - frame.bottom
    y_ticks = log_ticks(frame.y0, frame.y1) if axes.log_y else linear_ticks(frame.y0, frame.y1)
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(label(frame.left - 8, y + 4, number(tick), css="tick", anchor="end"))
    for tick in linear_ticks(frame.x0, frame.x1, 8):
        parts.append(label(frame.x(tick), floor + 17, number(tick), css="tick", anchor="middle"))
    parts.append(f'<path class="axis" d="M{frame.left:.1f} {floor:.1f}H{right:.1f}"/>')
    _axis_names(frame)


def _axis_names(frame: _Frame) -> None:
    axes = frame.axes
    centre, middle = (frame.left + axes.width - frame.right) / 2, (frame.top + axes.height - frame.bottom) / 2
    turn = f' transform="rotate(-90 14 {middle:.1f})"'
    frame.parts.append(label(centre, axes.height - 8, both(axes.x_label), css="muted", anchor="middle"))
    frame.parts.append(label(14, middle, both(axes.y_label), css="muted", anchor="middle", extra=turn))


def _bands(frame: _Frame, bands: Sequence[Band]) -> None:
    floor = frame.axes.height - frame.bottom
    for i, band in enumerate(bands):
        a, b = frame.x(band.start), frame.x(band.end)
        frame.parts.append(
            f'<rect class="band{i % 2}" x="{a:.1f}" y="{frame.top:.1f}" width="{max(b - a, 0):.1f}" '
            f'height="{floor - frame.top:.1f}"><title>{escape(band.label)}</title></rect>'
        )


def _band_names(frame: _Frame, bands: Sequence[Band]) -> None:
    for band in bands:
        a, b = frame.x(band.start), frame.x(band.end)
        room = int((b - a) / 6.6)
        name = band.label if len(band.label) <= room else band.label[: max(room - 1, 0)] + "…" if room > 2 else ""
        frame.parts.append(label((a + b) / 2, frame.top + 14, escape(name), css="muted", anchor="middle"))
        if band.note and room >= len(band.note[0]):
            middle = (frame.top + frame.axes.height - frame.bottom) / 2
            for i, line in enumerate(band.note):
                tongue = ("en", "zh")[i]
                words = f'<tspan class="{tongue}">{escape(line)}</tspan>'
                frame.parts.append(label((a + b) / 2, middle + 16 * i, words, css="muted", anchor="middle"))


def legend(entries: Sequence[tuple[Text, int]], y: float, left: float) -> str:
    """One row of swatches. Widths are estimated from the longer language, so that nothing overlaps."""
    parts, x = [], left
    for text, color in entries:
        parts.append(f'<rect class="f{color % COLORS}" x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2"/>')
        parts.append(label(x + 15, y, both(text)))
        same = text[0] == text[1] or not text[1]
        x += 34 + 6.6 * len(text[0]) + (0 if same else 14 + 12 * len(text[1]))
    return "".join(parts)


def _path(frame: _Frame, line: Series) -> str:
    points = [p for p in thin(line.points) if not frame.axes.log_y or p[1] > 0]
    if not points:
        return ""
    d = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    color, faint = line.color % COLORS, " faint" if line.faint else ""
    out = f'<path class="line s{color}{faint}" d="{d}"/>' if len(points) > 1 else ""
    if line.dots or len(points) == 1:
        out += "".join(
            f'<circle class="f{color}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3">'
            f"<title>{number(y)}</title></circle>"
            for x, y in points
        )
    return out


def wrap(axes: Axes, body: str) -> str:
    """The ``<svg>`` element of a chart with its title."""
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {axes.width} {axes.height}" role="img" '
        f'aria-label="{escape(axes.title[0])}">{label(8, 20, both(axes.title), css="title")}{body}</svg>'
    )


def line_chart(
    axes: Axes, series: Sequence[Series], bands: Sequence[Band] = (), marks: Sequence[Point | float] = ()
) -> str:
    """Lines over shaded bands; ``marks`` are x values with a dashed vertical line. Empty string without any data."""
    limits = _limits(axes, series, bands)
    if limits is None:
        return ""
    frame = _Frame(axes, *limits)
    _bands(frame, bands)
    _axes(frame)
    for mark in marks:
        x = frame.x(mark if isinstance(mark, int | float) else mark[0])
        frame.parts.append(f'<path class="mark" d="M{x:.1f} {frame.top:.1f}V{axes.height - frame.bottom:.1f}"/>')
    frame.parts += [_path(frame, line) for line in series]
    _band_names(frame, bands)
    named: dict[Text, int] = {}
    for line in series:
        if not line.faint:
            named.setdefault(line.label, line.color)
    if len(named) > 1:
        frame.parts.append(legend(list(named.items()), 38, frame.left))
    return wrap(axes, "".join(frame.parts))


def bar_chart(
    axes: Axes, groups: Sequence[str], bars: Sequence[tuple[Text, Sequence[float | None]]], top: float
) -> str:
    """Grouped vertical bars from 0 to ``top``; ``bars`` holds (name, one value a group, None where unknown)."""
    if not groups or not any(v is not None for _, values in bars for v in values):
        return ""
    frame = _Frame(axes, 0, len(groups), 0, top, top=54)
    floor = frame.y(0)
    for tick in linear_ticks(0, top, 5):
        frame.parts.append(f'<path class="grid" d="M{frame.left} {frame.y(tick):.1f}H{axes.width - frame.right}"/>')
        frame.parts.append(label(frame.left - 8, frame.y(tick) + 4, number(tick), css="tick", anchor="end"))
    slot = min((frame.x(1) - frame.x(0)) * 0.74, 64.0 * len(bars))
    for g, group in enumerate(groups):
        centre = frame.x(g + 0.5)
        frame.parts.append(label(centre, floor + 18, escape(group), anchor="middle"))
        for i, (_, values) in enumerate(bars):
            value = values[g]
            if value is None:
                continue
            width = slot / len(bars)
            x, y = centre - slot / 2 + i * width, frame.y(min(value, top))
            box = f'x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{floor - y:.1f}"'
            frame.parts.append(f'<rect class="f{i}" {box} rx="2"/>')
            frame.parts.append(label(x + width / 2, y - 5, number(value), anchor="middle"))
    frame.parts.append(f'<path class="axis" d="M{frame.left} {floor:.1f}H{axes.width - frame.right}"/>')
    _axis_names(frame)
    if len(bars) > 1:
        frame.parts.append(legend([(name, i) for i, (name, _) in enumerate(bars)], 40, frame.left))
    return wrap(axes, "".join(frame.parts))


def row_chart(title: Text, rows: Sequence[tuple[str, float, str]], width: int = 940) -> str:
    """One horizontal bar a row (name, value ≥ 0, what is written beside it): room for any number of long names."""
    if not rows:
        return ""
    # 7.2 px: a little more than a character's mean width at 12 px
    left = min(24.0 + 7.2 * max(len(name) for name, _, _ in rows), width / 2)
    room = width - left - 24 - 7.2 * max(len(note) for _, _, note in rows)
    top = max(value for _, value, _ in rows) or 1.0
    body = []
    for r, (name, value, note) in enumerate(rows):
        y, bar = 36 + 26 * r, max(value / top * room, 1.0)
        body.append(label(left - 10, y + 14, escape(name), anchor="end"))
        body.append(f'<rect class="f0" x="{left:.1f}" y="{y}" width="{bar:.1f}" height="20" rx="2"/>')
        body.append(label(left + bar + 8, y + 14, escape(note), css="muted"))
    return wrap(Axes(title, ("", ""), ("", ""), width=width, height=48 + 26 * len(rows)), "".join(body))


def share_chart(title: Text, rows: Sequence[tuple[str, dict[str, float]]], width: int = 940) -> str:
    """One horizontal bar a row, cut by share (the weights are normalised); the legend names the parts."""
    rows = [(name, {k: v for k, v in parts.items() if v > 0}) for name, parts in rows]
    rows = [(name, parts) for name, parts in rows if parts]
    if not rows:
        return ""
    names = list(dict.fromkeys(k for _, parts in rows for k in parts))
    axes = Axes(title, ("", ""), ("", ""), width=width, height=66 + 32 * len(rows))
    body, left, right = [legend([((n, n), i) for i, n in enumerate(names)], 44, 150)], 150.0, width - 16.0
    for r, (name, parts) in enumerate(rows):
        y, x, total = 58 + 32 * r, left, sum(parts.values())
        body.append(label(left - 10, y + 17, escape(name), anchor="end"))
        for key, value in parts.items():
            w = value / total * (right - left)
            percent = f"{100 * value / total:.0f} %"
            color = names.index(key) % COLORS
            body.append(
                f'<rect class="f{color}" x="{x:.1f}" y="{y}" width="{max(w - 1, 0):.1f}" height="24" rx="2">'
                f"<title>{escape(key)} {percent}</title></rect>"
            )
            if w > 40:
                body.append(label(x + w / 2, y + 17, percent, anchor="middle", extra=' style="fill:var(--card)"'))
            x += w
    return wrap(axes, "".join(body))


def standalone(charts: Sequence[str]) -> str:
    """Charts below each other as one picture of its own, which follows light and dark."""
    parts, y, width = [], 16, 0
    for svg in charts:
        found = _VIEW.search(svg)
        assert found is not None
        w, h = int(found[1]), int(found[2])
        parts.append(svg.replace("<svg ", f'<svg x="16" y="{y}" width="{w}" height="{h}" ', 1))
        y, width = y + h + 8, max(width, w)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 32} {y + 8}">'
    paper = '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>'
    return f"{head}<style>{PALETTE}{STYLE}</style>{paper}{''.join(parts)}</svg>\n"
