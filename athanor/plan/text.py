"""Plans as text on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from athanor.plan.best import Answer
from athanor.plan.estimate import CATEGORIES, Estimate
from athanor.plan.explain import GIB, why_not
from athanor.plan.layouts import Switches
from athanor.plan.switches import SwitchLine
from athanor.plan.whatif import RunCost, ScalePoint, differences, held, layout_words

#: What the report of this model says its system reached (arXiv 2504.07866, section 4): percent of the peak.
PUBLISHED_MFU = {
    "pangu-ultra-135b": "published (arXiv 2504.07866): about 43 % with the virtual pipeline, over 52 % with all of its "
    "optimisations; of its own peak figure, which it does not state"
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    number = [all(_numeric(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, number, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(head)), *map(line, cells)])


def _numeric(text: str) -> bool:
    return bool(text) and text.replace(",", "").replace("%", "").strip().lstrip("+-").replace(".", "", 1).isdigit()


def answer_text(answer: Answer) -> str:
    """The best plans, what each gave up, and memory and time of the first."""
    head = ("#", "step s", "tokens/s", "MFU causal", "MFU full", "bubble", "fullest GiB", "layout")
    rows = [
        (
            i,
            f"{e.step_s:.3f}",
            f"{e.tokens_per_s:,.0f}",
            _percent(e.mfu("causal")),
            _percent(e.mfu("full")),
            _percent(e.timeline.idle_share),
            f"{e.peak_bytes.max() / GIB:.1f}",
            layout_words(e.plan, e.rows),
        )
        for i, e in enumerate(answer.best, 1)
    ]
    cluster = answer.problem.cluster
    lines = [
        f"{answer.world:,} devices of {cluster.name} ({cluster.device.name}, "
        f"{cluster.device.memory_bytes / GIB:.0f} GiB), {answer.problem.global_rows:,} rows of "
        f"{answer.problem.seq_len:,} tokens a step; objective: {answer.objective}",
        f"{answer.layouts:,} layouts bounded, {answer.evaluations:,} evaluated, {answer.refined} timelines, "
        f"{answer.cpu_s:.2f} s of CPU time",
        "",
        table(head, rows),
        "",
        *(f"{i}. {note}" for i, note in enumerate(answer.notes, 1)),
        "",
        *estimate_lines(answer.best[0]),
    ]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def estimate_lines(plan: Estimate) -> list[str]:
    """One plan: time by part, memory by rank, recomputation."""
    parts = ", ".join(f"{name} {1e3 * v:,.0f} ms" for name, v in plan.parts.items() if v >= 5e-4)
    line = plan.timeline
    ranks = len(plan.peak_bytes)
    shown = (
        range(ranks) if ranks <= 8 else sorted({0, 1, ranks // 2, ranks - 2, ranks - 1, int(plan.peak_bytes.argmax())})
    )
    rows = [
        (r, *(f"{plan.memory[name][r] / GIB:.2f}" for name in CATEGORIES), f"{plan.peak_bytes[r] / GIB:.2f}")
        for r in shown
    ]
    return [
        f"step {plan.step_s:.3f} s: {parts}",
        f"HFU {_percent(plan.hfu)} (full pairs, repeated operations counted); bubble {_percent(line.idle_share)} of "
        f"the wall time, {_percent(line.idle_ratio)} of the ideal time",
        f"blocks by stage: {', '.join(map(str, plan.blocks))}" if plan.plan.pp > 1 else "no pipeline",
        f"recompute: {plan.mix.label}",
        "",
        "memory by pipeline rank, GiB:",
        table(("rank", *CATEGORIES, "peak"), rows),
    ]


def demanded_text(plan: Estimate, switches: Switches | None = None) -> str:
    """The recipe's own layout: whether it fits, else why not."""
    words = layout_words(plan.plan, plan.rows)
    lines = [f"the recipe's own layout: {words}", *estimate_lines(plan)]
    if not plan.fits:
        lines += ["", "it does not fit:", *(f"  {text}" for text in why_not(plan, switches))]
    return "\n".join(lines)


def compare_text(names: tuple[str, str], a: Estimate, b: Estimate) -> str:
    """Two plans side by side."""
    time_rows = [
        (name, f"{1e3 * x:,.0f}", f"{1e3 * y:,.0f}", f"{1e3 * (y - x):+,.0f}") for name, x, y in differences(a, b)
    ]
    left, right = held(a), held(b)
    memory_rows = [
        (name, f"{left[name] / GIB:.2f}", f"{right[name] / GIB:.2f}", f"{(right[name] - left[name]) / GIB:+.2f}")
        for name in left
        if max(left[name], right[name]) > 0
    ]
    ratio = (b.tokens_per_s / b.plan.world_size) / (a.tokens_per_s / a.plan.world_size)
    return "\n".join(
        [
            f"A  {names[0]}: {layout_words(a.plan, a.rows)}{'' if a.fits else '  (does not fit)'}",
            f"B  {names[1]}: {layout_words(b.plan, b.rows)}{'' if b.fits else '  (does not fit)'}",
            "",
            table(("ms a step", "A", "B", "B − A"), time_rows),
            "",
            table(("GiB, fullest rank", "A", "B", "B − A"), memory_rows),
            "",
            f"tokens a second and device: A {a.tokens_per_s / a.plan.world_size:,.1f}, "
            f"B {b.tokens_per_s / b.plan.world_size:,.1f} (B/A {ratio:.3f})",
        ]
    )


def scale_text(kind: str, points: Sequence[ScalePoint], left: Sequence[str]) -> str:
    """A scaling curve as a table."""
    rows = [
        (
            f"{p.world:,}",
            f"{p.rows:,}",
            f"{p.best.step_s:.3f}",
            f"{p.best.tokens_per_s:,.0f}",
            _percent(p.best.mfu("causal")),
            _percent(p.efficiency),
            layout_words(p.best.plan, p.best.rows),
        )
        for p in points
    ]
    head = ("devices", "rows", "step s", "tokens/s", "MFU causal", "efficiency", "layout")
    lines = [f"{kind} scaling", table(head, rows)]
    return "\n".join([*lines, *(f"left out: {text}" for text in left)])


def switches_text(name: str, lines: Sequence[SwitchLine], memory_bytes: float) -> str:
    """One line a switch, turned on one after another."""
    rows = []
    for i, line in enumerate(lines):
        before = lines[i - 1].mfu_full if i else line.mfu_full
        rows.append(
            (
                f"{'+ ' if i else ''}{line.words}",
                f"{line.step_s:.3f}",
                _percent(line.mfu_causal),
                _percent(line.mfu_full),
                f"{100 * (line.mfu_full - before):+.1f}" if i else "",
                f"{line.peak_bytes / GIB:.1f}{'' if line.peak_bytes <= memory_bytes else ' too much'}",
            )
        )
    head = ("switch", "step s", "MFU causal", "MFU full", "points", "fullest GiB")
    published = [PUBLISHED_MFU[name]] if name in PUBLISHED_MFU else []
    return "\n".join([table(head, rows), *published])


def cost_text(tokens: float, cost: RunCost) -> str:
    """The bill of a token budget."""
    rows = [
        (
            what,
            f"{b.days:,.1f}",
            f"{b.device_hours:,.0f}",
            f"{b.cost:,.0f}",
            f"{b.energy_kwh / 1e3:,.0f}",
            f"{b.tokens_per_s:,.0f}",
        )
        for what, b in (("without failures", cost.ideal), ("with failures", cost.expected))
    ]
    head = ("", "days", "device-hours", cost.currency or "cost", "MWh", "tokens/s")
    lines = [f"{tokens:.4g} tokens, {cost.ideal.steps:,} steps, all of them priced as this one", table(head, rows)]
    if cost.reliability is not None:
        figures = cost.reliability.summary(cost.interval_s)
        lines += [
            f"failures of the whole run: {figures['failures_a_week']:.2f} a week; a checkpoint takes "
            f"{cost.reliability.checkpoint_s:.1f} s, a restart {cost.reliability.restart_s:.0f} s",
            f"save every {_minutes(cost.interval_s)} (Young {_minutes(figures['young_interval_s'])}, Daly "
            f"{_minutes(figures['daly_interval_s'])}); goodput {_percent(cost.goodput)}",
        ]
    else:
        lines.append("no failures: the cluster file has no `reliability`, and no --mtbf is given")
    return "\n".join(lines)


def _minutes(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds / 60:.1f} min"
