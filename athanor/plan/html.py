"""A plan as one self-contained HTML page, in the look of a run's report; opens from disk, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.plan.best import Answer
from athanor.plan.estimate import CATEGORIES, Estimate
from athanor.plan.explain import GIB, why_not
from athanor.plan.switches import SwitchLine
from athanor.plan.text import PUBLISHED_MFU, cost_text
from athanor.plan.timeline_svg import lanes_chart, memory_chart
from athanor.plan.whatif import RunCost, ScalePoint, layout_words
from athanor.recipe.source import to_yaml
from athanor.report.html import render_page
from athanor.report.svg import Axes, Series, Text, label, legend, line_chart, linear_ticks, number, wrap

NAMES: dict[str, Text] = {
    "parameters": ("parameters", "参数"),
    "gradients": ("gradients", "梯度"),
    "optimizer": ("optimizer", "优化器状态"),
    "gathered": ("gathered parameters", "聚合的参数"),
    "activations": ("activations", "激活"),
    "transient": ("for a moment", "瞬时"),
    "buffers": ("buffers", "通信缓冲"),
    "fragments": ("lost between blocks", "碎片"),
    "runtime": ("driver and runtime", "驱动与运行时"),
    "compute": ("compute", "计算"),
    "recomputation": ("recomputation", "重计算"),
    "bubble": ("bubble", "流水线气泡"),
    "exposed tensor, context and expert collectives": ("exposed collectives", "未隐藏的集合通信"),
    "exposed sends between stages": ("exposed sends", "未隐藏的点对点通信"),
    "exposed data-parallel collectives": ("exposed data-parallel collectives", "未隐藏的数据并行通信"),
}


@dataclass(frozen=True)
class Page:
    """What the page shows beside the best plans; what is empty is left out."""

    name: str
    answer: Answer
    demanded: Estimate | None = None
    switches: Sequence[SwitchLine] = ()
    curves: dict[str, list[ScalePoint]] = field(default_factory=dict)  #: by ``strong`` or ``weak``
    cost: RunCost | None = None
    tokens: float | None = None


def write_page(page: Page, out: Path | str) -> Path:
    """Write the page to a temporary name, then rename. AthanorError where that cannot be done."""
    target = Path(out)
    try:
        write_atomic(target, render(page))
    except OSError as error:
        raise AthanorError(f"cannot write the plan's page ({error.strerror})", where=str(target)) from error
    return target


def render(page: Page) -> str:
    """The page as a string."""
    return render_page("plan.html", _view(page))


def _view(page: Page) -> dict[str, Any]:
    answer, best = page.answer, page.answer.best[0]
    cluster = answer.problem.cluster
    return {
        "title": page.name,
        "subtitle": (
            f"plan for {answer.world:,} × {cluster.device.name}",
            f"{answer.world:,} × {cluster.device.name} 的训练方案",
        ),
        "tiles": _tiles(best),
        "summary": _summary(answer),
        "plans": [{**_plan(e), "note": note} for e, note in zip(answer.best, answer.notes, strict=True)],
        "charts": {
            "parts": Markup(parts_chart(answer.best)),
            "lanes": [Markup(chart) for chart in lanes_chart(best.timeline).split("\n") if chart],
            "memory": Markup(memory_chart(best.timeline, best.memory_bytes)),
            "ranks": Markup(ranks_chart(best)),
            "scale": [Markup(chart) for chart in _curves(page.curves)],
        },
        "demanded": {**_plan(page.demanded), "problems": why_not(page.demanded)} if page.demanded else None,
        "switches": _switches(page.switches),
        "published": PUBLISHED_MFU.get(page.name, ""),
        "cost": cost_text(page.tokens, page.cost) if page.cost and page.tokens else "",
        "yaml": to_yaml(
            {
                "parallel": best.plan.model_dump(mode="json"),
                "train": {"micro_batch_tokens": best.rows * best.problem.seq_len},
            }
        ),
    }


def _plan(plan: Estimate) -> dict[str, Any]:
    return {
        "layout": layout_words(plan.plan, plan.rows),
        "step_s": plan.step_s,
        "tokens_per_s": plan.tokens_per_s,
        "mfu_causal": plan.mfu("causal"),
        "mfu_full": plan.mfu("full"),
        "bubble": plan.timeline.idle_share,
        "peak_gib": float(plan.peak_bytes.max()) / GIB,
    }


def _tiles(best: Estimate) -> list[tuple[Text, str]]:
    return [
        (("step", "步时"), f"{best.step_s:.3f} s"),
        (("tokens a second", "每秒 token 数"), f"{best.tokens_per_s:,.0f}"),
        (("MFU, causal half", "MFU（因果一半）"), f"{100 * best.mfu('causal'):.1f} %"),
        (("MFU, full square", "MFU（整个方阵）"), f"{100 * best.mfu('full'):.1f} %"),
        (("bubble of the wall time", "气泡占比"), f"{100 * best.timeline.idle_share:.1f} %"),
        (("fullest rank", "最满的进程"), f"{best.peak_bytes.max() / GIB:.1f} / {best.memory_bytes / GIB:.0f} GiB"),
    ]


def _summary(answer: Answer) -> Text:
    best = answer.best[0]
    words = layout_words(best.plan, best.rows)
    english = (
        f"Of {answer.layouts:,} layouts on {answer.world:,} devices, the best is {words}: "
        f"{best.step_s:.3f} s a step "
        f"of {best.costs.tokens:,.0f} tokens, with {best.margin_bytes / GIB:.1f} GiB left on the fullest rank. "
        f"The search took {answer.cpu_s:.1f} s of CPU time."
    )
    chinese = (
        f"在 {answer.world:,} 个设备的 {answer.layouts:,} 种布局中，最佳方案为 {words}："
        f"每步 {best.costs.tokens:,.0f} 个 token，用时 {best.step_s:.3f} 秒，"
        f"最满的进程还剩 {best.margin_bytes / GIB:.1f} GiB。搜索用了 {answer.cpu_s:.1f} 秒 CPU 时间。"
    )
    return english, chinese


# --- charts ----------------------------------------------------------------------------------------------------------


def parts_chart(plans: Sequence[Estimate]) -> str:
    """Seconds of the step by part, a bar a plan."""
    rows = [(f"{i}", {k: v for k, v in plan.parts.items() if v > 0}) for i, plan in enumerate(plans, 1)]
    return stacked(("Seconds of a step by part, plan by plan", "各方案一步的时间构成（秒）"), rows)


def ranks_chart(plan: Estimate) -> str:
    """GiB by category, a bar a pipeline rank, with the device's memory as a line."""
    ranks = len(plan.peak_bytes)
    rows = []
    for r in range(ranks):
        held = {name: float(plan.memory[name][r]) / GIB for name in CATEGORIES}
        held |= {
            "fragments": float(plan.fragments[r]) / GIB,
            "runtime": plan.problem.cluster.device.reserved_bytes / GIB,
        }
        rows.append((str(r), {k: v for k, v in held.items() if v > 0}))
    title = (
        "GiB at the peak by pipeline rank; the line is a device's memory",
        "各流水线进程的内存峰值（GiB），竖线为设备内存",
    )
    return stacked(title, rows, mark=plan.memory_bytes / GIB)


def stacked(
    title: Text, rows: Sequence[tuple[str, dict[str, float]]], mark: float | None = None, width: int = 940
) -> str:
    """One horizontal bar a row, parts one after another on a common scale; ``mark``: a vertical line."""
    names = list(dict.fromkeys(k for _, parts in rows for k in parts))
    most = max([sum(parts.values()) for _, parts in rows] + [mark or 0.0]) or 1.0
    step = 32 if len(rows) <= 16 else 16
    axes = Axes(title, ("", ""), ("", ""), width=width, height=96 + step * len(rows))
    left, right, floor = 60.0, width - 24.0, 64 + step * len(rows)

    def at(value: float) -> float:
        return left + value / most * (right - left)

    body = [legend([(NAMES.get(n, (n, n)), i) for i, n in enumerate(names)], 44, 60)]
    for r, (name, parts) in enumerate(rows):
        y, x = 58 + step * r, 0.0
        body.append(label(left - 8, y + step - 14, str(escape(name)), anchor="end"))
        for key, value in parts.items():
            box = f'x="{at(x):.1f}" y="{y}" width="{max(at(x + value) - at(x) - 0.5, 0.2):.1f}" height="{step - 8}"'
            tip = f"<title>{escape(NAMES.get(key, (key, key))[0])}: {number(value)}</title>"
            body.append(f'<rect class="f{names.index(key) % 8}" {box}>{tip}</rect>')
            x += value
    for tick in linear_ticks(0, most, 6):
        body.append(label(at(tick), floor + 18, number(tick), css="tick", anchor="middle"))
    if mark is not None:
        body.append(f'<path class="mark" d="M{at(mark):.1f} 54V{floor}"/>')
    return wrap(axes, "".join(body))


def _curves(curves: dict[str, list[ScalePoint]]) -> list[str]:
    """Throughput and efficiency over devices (powers of two on a linear axis of log2)."""
    from math import log2

    names: dict[str, Text] = {
        "strong": ("strong: the same batch", "强扩展：批量不变"),
        "weak": ("weak: the batch grows with the devices", "弱扩展：批量随设备增加"),
    }
    known = {kind: points for kind, points in curves.items() if points}
    if not known:
        return []
    x_label: Text = ("log2 of devices", "设备数的以 2 为底的对数")
    share = [
        Series(names[kind], [(log2(p.world), 100 * p.best.mfu("causal")) for p in points], i, dots=True)
        for i, (kind, points) in enumerate(known.items())
    ]
    speed = [
        Series(names[kind], [(log2(p.world), p.best.tokens_per_s) for p in points], i, dots=True)
        for i, (kind, points) in enumerate(known.items())
    ]
    return [
        line_chart(
            Axes(("MFU over devices", "MFU 随设备数的变化"), x_label, ("MFU causal, %", "MFU causal，%"), zero_y=True),
            share,
        ),
        line_chart(
            Axes(("Tokens a second over devices", "吞吐随设备数的变化"), x_label, ("tokens/s", "token/s"), log_y=True),
            speed,
        ),
    ]


def _switches(lines: Sequence[SwitchLine]) -> dict[str, Any] | None:
    if not lines:
        return None
    head: list[Text] = [
        ("switch", "开关"),
        ("step, s", "步时（秒）"),
        ("MFU causal, %", "MFU causal，%"),
        ("MFU full, %", "MFU full，%"),
        ("points", "百分点"),
        ("fullest rank, GiB", "最满的进程，GiB"),
    ]
    rows = []
    for i, line in enumerate(lines):
        gain = f"{100 * (line.mfu_full - lines[i - 1].mfu_full):+.1f}" if i else ""
        rows.append(
            (("+ " if i else "") + line.words, f"{line.step_s:.3f}", f"{100 * line.mfu_causal:.1f}",
             f"{100 * line.mfu_full:.1f}", gain, f"{line.peak_bytes / GIB:.1f}")
        )  # fmt: skip
    return {"head": head, "rows": rows}
