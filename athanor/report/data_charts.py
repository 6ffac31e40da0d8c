"""What a run read: shares that followed losses, losses by source, tokens and epochs so far."""

from __future__ import annotations

from typing import Any

from athanor.report.charts import STEPS, bands, offsets, points
from athanor.report.read import RunFiles, StageRun, is_number
from athanor.report.svg import Axes, Point, Series, line_chart, smooth

LOSS_OF = "loss/"


def _switches(files: RunFiles, stage: StageRun) -> list[dict[str, Any]]:
    """Events ``mixture`` of a stage by step; one that was written twice (killed, then resumed) counts once."""
    found = {
        int(event["step"]): event
        for event in files.events
        if event.get("kind") == "mixture"
        and event.get("stage") in {stage.name, stage.dir.name}
        and is_number(event.get("step"))
        and isinstance(event.get("shares"), dict)
    }
    return [found[step] for step in sorted(found)]


def shares_chart(files: RunFiles) -> str:
    """Share of each source over the steps of the stages that re-weighted; nothing where none did."""
    lines: dict[str, list[list[Point]]] = {}
    for stage, start, end in offsets(files.stages):
        first = float(stage.lines[0]["step"])
        here: dict[str, list[Point]] = {}
        for event in _switches(files, stage):
            for name, share in event["shares"].items():
                if is_number(share):
                    before = here.setdefault(str(name), [])
                    x = start + float(event["step"]) - first
                    before += [(x, before[-1][1])] if before else []  # a step, not a slope
                    before.append((x, float(share)))
        for name, found in here.items():
            lines.setdefault(name, []).append([*found, (end, found[-1][1])])
    axes = Axes(
        ("Mixture that followed the losses", "随损失调整的数据配比"),
        STEPS,
        ("share of tokens", "token 占比"),
        zero_y=True,
        height=260,
    )
    series = [Series((name, name), run, i) for i, (name, runs) in enumerate(lines.items()) for run in runs]
    return line_chart(axes, series, bands(files.stages)) if series else ""


def source_loss_chart(files: RunFiles) -> str:
    """Training loss of each source, where it was measured; a moving mean over a fortieth of the stage."""
    names = dict.fromkeys(
        key for stage in files.stages for line in stage.lines[:50] for key in line if key.startswith(LOSS_OF)
    )
    series = []
    for color, key in enumerate(names):
        label = (key.removeprefix(LOSS_OF),) * 2
        for stage, start, _ in offsets(files.stages):
            found = points(stage, start, key)
            if found:
                window = max(1, len(found) // 40)
                series.append(Series(label, smooth(found, window) if window > 2 else found, color))
    axes = Axes(
        ("Training loss by source", "各来源的训练损失"),
        STEPS,
        ("loss, nats per token", "损失（nat/token）"),
        height=260,
    )
    return line_chart(axes, series, bands(files.stages)) if series else ""


def curriculum_chart(files: RunFiles) -> str:
    """Mean difficulty of what stages in order easy_to_hard read, part by part; nothing where none did."""
    found = {e.get("stage"): e["difficulty_by_part"] for e in files.events if e.get("kind") == "curriculum"}
    lines: dict[str, list[list[Point]]] = {}
    for stage, start, end in offsets(files.stages):
        for name, parts in found.get(stage.name, found.get(stage.dir.name, {})).items():
            width = (end - start) / max(1, len(parts))
            run = [(start + (i + at) * width, float(value)) for i, value in enumerate(parts) for at in (0, 1)]
            lines.setdefault(str(name), []).append(run)
    axes = Axes(
        ("Curriculum: from easy to hard", "课程学习：由易到难"),
        STEPS,
        ("mean difficulty", "平均难度"),
        height=260,
    )
    series = [Series((name, name), run, i) for i, (name, runs) in enumerate(lines.items()) for run in runs if run]
    return line_chart(axes, series, bands(files.stages)) if series else ""


def seen_rows(files: RunFiles) -> dict[str, list[dict[str, Any]]]:
    """Tokens and epochs by source, and tokens by domain, at the latest record of what was read."""
    found = [
        event for event in files.events if event.get("kind") == "data_seen" and isinstance(event.get("tokens"), dict)
    ]
    if not found:
        return {"sources": [], "domains": []}
    last = max(found, key=lambda event: event["step"] if is_number(event.get("step")) else -1)
    total = sum(v for v in last["tokens"].values() if is_number(v)) or 1

    def row(name: str, count: Any) -> dict[str, Any]:
        epochs = last.get("epochs", {}).get(name)
        return {"name": name, "tokens": count, "share": count / total, "epochs": epochs if is_number(epochs) else None}

    rows = [row(str(name), count) for name, count in last["tokens"].items() if is_number(count)]
    domains = [row(str(name), count) for name, count in (last.get("domains") or {}).items() if is_number(count)]
    return {"sources": rows, "domains": domains}
