"""A timeline drawn: what every rank does over time, and the memory it holds. Pieces of the report, or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.plan.event_graph import Floats
from athanor.plan.schedules import B, F, I, Ints, W
from athanor.plan.timeline import Timeline
from athanor.report.svg import (
    Axes,
    Series,
    Text,
    both,
    label,
    legend,
    line_chart,
    linear_ticks,
    number,
    standalone,
    wrap,
)

#: Most rectangles of one chart; a longer step is drawn as shares of time, with its beginning and end apart.
MAX_BOXES = 2400
MAX_ROWS = 64
MAX_MEMORY_LINES = 8
COLUMNS = 160  #: pieces of time in which shares are drawn

KINDS: dict[int, tuple[Text, int]] = {
    F: (("forward", "前向"), 0),
    B: (("backward", "反向"), 1),
    I: (("backward of input", "输入梯度"), 1),
    W: (("backward of weights", "权重梯度"), 2),
}
EXPOSED: tuple[Text, int] = (("exposed collectives", "未隐藏的集合通信"), 6)
MESSAGES: tuple[Text, int] = (("waiting for a message", "等待点对点消息"), 4)
DATA_PARALLEL: tuple[Text, int] = (("data-parallel collectives", "数据并行通信"), 3)


def lanes_chart(line: Timeline, width: int = 940) -> str:
    """One row a rank: actions, the collectives they do not hide, waits for messages; blank is the bubble.

    With more than ``MAX_BOXES`` actions the whole step is drawn as shares of time, and its first and last actions one
    by one below it. Every action tells stage, micro-batch and times on hover.
    """
    title = (
        f"Timeline of one step: {100 * line.idle_share:.2f} % of the wall time idle",
        f"单步时间线：空闲占墙钟时间 {100 * line.idle_share:.2f} %",
    )
    if len(line.order) <= MAX_BOXES:
        return _Chart(line, title, 0.0, line.wall_s, width).boxes()
    starts_s, ends_s = np.sort(line.start_s), np.sort(line.end_s)
    shown = MAX_BOXES // 2
    first, last = float(starts_s[shown]), float(ends_s[-shown])
    charts = [
        _Chart(line, title, 0.0, line.wall_s, width).shares(),
        _Chart(line, ("Its beginning", "开头"), 0.0, first, width).boxes(),
        _Chart(line, ("Its end", "结尾"), last, line.wall_s, width).boxes(),
    ]
    return "\n".join(charts)


def memory_chart(line: Timeline, capacity_bytes: float | None = None) -> str:
    """Memory of the ranks over time in GiB: all of them, or the first, the last, the fullest and some between."""
    scale, unit = _time_unit(line.wall_s)
    fullest = int(np.argmax(line.peak_bytes))
    between = np.linspace(0, line.order.pp - 1, min(MAX_MEMORY_LINES, line.order.pp)).round().astype(int).tolist()
    ranks = sorted({*between, fullest})
    series = []
    for color, rank in enumerate(ranks):
        seconds, held = line.memory(rank)
        x, y = np.repeat(seconds * scale, 2)[1:], np.repeat(held / 2**30, 2)[:-1]
        series.append(Series((f"rank {rank}", f"进程 {rank}"), list(zip(x.tolist(), y.tolist(), strict=True)), color))
    if capacity_bytes is not None:
        ends = [(0.0, capacity_bytes / 2**30), (line.wall_s * scale, capacity_bytes / 2**30)]
        series.append(Series(("capacity", "容量"), ends, len(ranks)))
    peak = number(float(line.peak_bytes[fullest]) / 2**30)
    axes = Axes(
        (f"Memory: at most {peak} GiB, on rank {fullest}", f"内存：峰值 {peak} GiB，进程 {fullest}"),
        (f"time, {unit[0]}", f"时间（{unit[1]}）"),
        ("held, GiB", "占用（GiB）"),
        zero_y=True,
    )
    return line_chart(axes, series)


def draw(line: Timeline, out: Path | str, capacity_bytes: float | None = None) -> Path:
    """Write both charts as one picture of its own. AthanorError if ``out`` is no .svg or cannot be written."""
    target = Path(out)
    if target.suffix.lower() != ".svg":
        raise AthanorError(f"cannot draw a {target.suffix} picture", where=str(target), fix="name a .svg file")
    charts = [*lanes_chart(line).split("\n"), memory_chart(line, capacity_bytes)]
    try:
        write_atomic(target, standalone(charts))
    except OSError as error:
        raise AthanorError(f"cannot write the picture ({error.strerror})", where=str(target)) from error
    return target


def _time_unit(wall_s: float) -> tuple[float, Text]:
    return (1.0, ("s", "秒")) if wall_s >= 1 else (1e3, ("ms", "毫秒"))


@dataclass(frozen=True)
class _Chart:
    """Rows of ranks over a window of time, [``begin_s``, ``end_s``]."""

    line: Timeline
    title: Text
    begin_s: float
    end_s: float
    width: int
    left: float = 66
    top: float = 54
    right: float = 16

    @property
    def ranks(self) -> list[int]:
        pp = self.line.order.pp
        return sorted(set(np.linspace(0, pp - 1, min(pp, MAX_ROWS)).round().astype(int).tolist()))

    @property
    def row(self) -> float:
        """Height of a row."""
        return max(9.0, min(24.0, 380 / len(self.ranks)))

    def x(self, seconds: Floats | float) -> Floats:
        """Pixels, kept inside the window."""
        share = (np.clip(seconds, self.begin_s, self.end_s) - self.begin_s) / (self.end_s - self.begin_s or 1.0)
        return np.asarray(self.left + share * (self.width - self.left - self.right))

    def y(self, row: int) -> float:
        return self.top + row * self.row

    # --- one by one --------------------------------------------------------------------------------------------------

    def boxes(self) -> str:
        """Every action of the window as a rectangle."""
        parts: list[str] = []
        for row, rank in enumerate(self.ranks):
            parts += self._actions(row, rank) + self._waits(row, rank) + self._collectives(row, rank)
        return self._framed(parts)

    def _seen(self, rank: int) -> Ints:
        line, (low, high) = self.line, self.line.order.offsets[rank : rank + 2]
        at = np.arange(low, high)
        return at[(line.end_s[at] > self.begin_s) & (line.start_s[at] < self.end_s)]

    def _box(self, row: int, start_s: float, end_s: float, css: str, title: str, band: tuple[float, float]) -> str:
        """A rectangle in the part ``band`` of the row's height, both from 0 to 1."""
        a, b = float(self.x(start_s)), float(self.x(end_s))
        room = self.row - 2
        y, height = self.y(row) + 1 + band[0] * room, (band[1] - band[0]) * room
        gap = 0.4 if b - a > 2 else 0.0
        return (
            f'<rect class="{css}" x="{a:.2f}" y="{y:.1f}" width="{max(b - a - gap, 0.2):.2f}" height="{height:.1f}">'
            f"<title>{title}</title></rect>"
        )

    def _actions(self, row: int, rank: int) -> list[str]:
        line, order, parts = self.line, self.line.order, []
        for a in self._seen(rank).tolist():
            kind, stage = int(order.kind[a]), int(order.stage[a])
            (name, _), color = KINDS[kind]
            start_s, end_s = float(line.start_s[a]), float(line.end_s[a])
            times = f"{self._time(start_s)} – {self._time(end_s)}"
            what = f"{order.name(a)}: {name}, stage {stage}, micro-batch {order.micro[a]}, {times}"
            css = f"f{color} later" if stage // order.pp % 2 else f"f{color}"
            parts.append(self._box(row, start_s, end_s, css, what, (0, 0.82)))
            if line.comm_s[a]:
                exposed = f"{order.name(a)}: exposed collectives, {self._time(line.comm_s[a])}"
                parts.append(self._box(row, end_s - line.comm_s[a], end_s, f"f{EXPOSED[1]}", exposed, (0, 0.82)))
        return parts

    def _waits(self, row: int, rank: int) -> list[str]:
        """Thin, at the end of the gap: that is when the message is on its way."""
        line, parts = self.line, []
        for a in self._seen(rank).tolist():
            wait_s, end_s = float(line.wait_p2p_s[a]), float(line.start_s[a] - line.wait_dp_s[a])
            if wait_s > 0:
                what = f"{line.order.name(a)} waits for a message, {self._time(wait_s)}"
                parts.append(self._box(row, end_s - wait_s, end_s, f"f{MESSAGES[1]}", what, (0.3, 0.52)))
        return parts

    def _collectives(self, row: int, rank: int) -> list[str]:
        found, parts = self.line.collectives, []
        for c in np.flatnonzero(found.rank == rank).tolist():
            start_s, end_s = float(found.start_s[c]), float(found.end_s[c])
            if end_s > self.begin_s and start_s < self.end_s:
                name = "gather of parameters" if found.gather[c] else "reduction of gradients"
                what = f"{name}, stage {found.stage[c]}"
                times = f"{self._time(start_s)} – {self._time(end_s)}"
                parts.append(self._box(row, start_s, end_s, f"f{DATA_PARALLEL[1]}", f"{what}, {times}", (0.84, 1)))
        return parts

    def _time(self, seconds: float) -> str:
        scale, (unit, _) = _time_unit(self.line.wall_s)
        return f"{seconds * scale:.4g} {unit}"

    # --- shares ------------------------------------------------------------------------------------------------------

    def shares(self) -> str:
        """Each row cut into columns of time: how much of each a kind of action takes, one above the other."""
        edges_s = np.linspace(self.begin_s, self.end_s, COLUMNS + 1)
        parts = []
        for row, rank in enumerate(self.ranks):
            floor = np.zeros(COLUMNS)
            for kind, (_, color) in KINDS.items():
                share = self._share(rank, kind, edges_s)
                if share.any():
                    parts.append(self._steps(row, floor, floor + share, edges_s, f"f{color}"))
                    floor = floor + share
        note = (f"{len(self.line.order):,} actions, as shares of time", f"{len(self.line.order):,} 个动作，按时间占比")
        return self._framed(parts, note)

    def _share(self, rank: int, kind: int, edges_s: Floats) -> Floats:
        """Of each column the share in which ``rank`` runs actions of ``kind`` [columns]."""
        line, (low, high) = self.line, self.line.order.offsets[rank : rank + 2]
        mine = np.flatnonzero(line.order.kind[low:high] == kind) + low
        if not len(mine):
            return np.zeros(len(edges_s) - 1)
        moments_s = np.stack((line.start_s[mine], line.end_s[mine]), axis=1).ravel()
        took_s = np.cumsum(line.end_s[mine] - line.start_s[mine])
        done_s = np.stack((np.concatenate(([0.0], took_s[:-1])), took_s), axis=1).ravel()
        return np.clip(np.diff(np.interp(edges_s, moments_s, done_s)) / np.diff(edges_s), 0.0, 1.0)

    def _steps(self, row: int, low: Floats, high: Floats, edges_s: Floats, css: str) -> str:
        """The area between two step lines, shares of the row's height."""
        x, room, base = self.x(edges_s), self.row - 2, self.y(row + 1) - 1
        top, bottom = base - np.minimum(high, 1.0) * room, base - np.minimum(low, 1.0) * room
        there = "".join(f"V{t:.1f}H{b:.1f}" for t, b in zip(top, x[1:], strict=True))
        back = "".join(f"V{t:.1f}H{b:.1f}" for t, b in zip(bottom[::-1], x[-2::-1], strict=True))
        return f'<path class="{css}" d="M{x[0]:.1f} {bottom[0]:.1f}{there}{back}Z"/>'

    # --- around them -------------------------------------------------------------------------------------------------

    def _framed(self, parts: list[str], note: Text | None = None) -> str:
        """Rows' background and names, the axis, the legend, and a note below."""
        scale, unit = _time_unit(self.line.wall_s)
        right, floor = self.width - self.right, self.y(len(self.ranks))
        under = [
            f'<rect class="band{row % 2}" x="{self.left}" y="{self.y(row):.1f}" width="{right - self.left:.1f}" '
            f'height="{self.row:.1f}"/>'
            for row in range(len(self.ranks))
        ]
        every = max(1, round(13 / self.row))
        names = [
            label(self.left - 8, self.y(row) + self.row / 2 + 4, str(rank), css="tick", anchor="end")
            for row, rank in enumerate(self.ranks)
            if row % every == 0
        ]
        middle = (self.top + floor) / 2
        clock = (f"time, {unit[0]}", f"时间（{unit[1]}）")
        turn = f' transform="rotate(-90 14 {middle:.1f})"'
        around = [
            f'<path class="axis" d="M{self.left} {floor:.1f}H{right:.1f}"/>',
            label(14, middle, both(("rank", "进程")), css="muted", anchor="middle", extra=turn),
            label((self.left + right) / 2, floor + 36, both(clock), css="muted", anchor="middle"),
            legend(self._legend(boxes=note is None), 40, self.left),
        ]
        if note:
            around.append(label(self.left, floor + 56, both(note), css="muted"))
        if self.end_s > self.begin_s:
            for tick in linear_ticks(self.begin_s * scale, self.end_s * scale, 8):
                at = float(self.x(tick / scale))
                around.append(label(at, floor + 17, number(tick), css="tick", anchor="middle"))
        axes = Axes(self.title, ("", ""), ("", ""), width=self.width, height=round(floor) + (64 if note else 44))
        return wrap(axes, "".join([*under, *parts, *names, *around]))

    def _legend(self, boxes: bool) -> list[tuple[Text, int]]:
        line = self.line
        entries = [entry for kind, entry in KINDS.items() if (line.order.kind == kind).any()]
        if line.order.splits and (line.order.kind == B).any():  # one colour for whole and half
            entries.remove(KINDS[I])
        for there, entry in (
            (line.comm_s.any(), EXPOSED),
            ((line.wait_p2p_s > 0).any(), MESSAGES),
            (len(line.collectives.stage), DATA_PARALLEL),
        ):
            entries += [entry] if there and boxes else []
        return entries
