"""``write_report``: one self-contained HTML page about a run, from its files alone; opens from disk, no network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.report import charts, data_charts
from athanor.report.predicted import compare
from athanor.report.read import RunFiles, StageRun, is_number, read_run
from athanor.report.svg import PALETTE, STYLE, Text, number

#: Most event rows the page lists; the page says how many there are in all.
MAX_EVENTS = 200


def write_report(run_dir: Path | str, out: Path | str | None = None) -> Path:
    """Write ``report.html`` for a stage RunDir, or for a folder of stages with a ``summary.json`` (the quickstart's).

    ``out``: the file to write; None: ``run_dir/report.html``. Written to a temporary name, then renamed. Missing or
    partial files still give a page that says what is missing. Raises AthanorError if ``run_dir`` is no folder or
    ``out`` cannot be written.
    """
    files = read_run(Path(run_dir))
    target = Path(out) if out is not None else files.root / "report.html"
    page = render(files)
    try:
        write_atomic(target, page)
    except OSError as error:
        raise AthanorError(f"cannot write the report ({error.strerror})", where=str(target)) from error
    return target


def render(files: RunFiles) -> str:
    """The page as a string."""
    return render_page("report.html", _view(files), fmt=_format, is_mapping=_is_mapping, is_matrix=_is_matrix)


def render_page(template: str, view: Mapping[str, Any], **functions: Any) -> str:
    """A page of the house: ``template`` extends ``base.html``; ``view`` has ``title``, ``subtitle`` and ``tiles``."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader("athanor.report")
    )
    environment.globals.update(t=translated, **functions)
    made = time.strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(style=Markup(PALETTE + STYLE), made=made, **view)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _is_matrix(value: Any) -> bool:
    """A map of maps: shown as a table with one row a key."""
    return _is_mapping(value) and all(_is_mapping(v) for v in value.values())


def _view(files: RunFiles) -> dict[str, Any]:
    summary = files.summary
    stages = [s for s in files.stages if s.lines or s.evals or s.info]
    return {
        "title": str(summary.get("name") or _recipe_name(files) or files.root.resolve().name),
        "tiles": _tiles(files),
        "subtitle": _status(files),
        "problems": files.problems,
        "charts": {name: Markup(svg) for name, svg in _charts(files).items()},
        "accuracy": charts.accuracies(files),
        "seen": data_charts.seen_rows(files),
        "stages": [_stage_row(s) for s in stages],
        "predicted": compare(files),
        "validation": _validation(files),
        "samples": _samples(summary.get("samples")),
        "conversation": [turn for turn in map(_turn, _list(summary.get("conversation"))) if turn],
        "events": [_event(e) for e in files.events[-MAX_EVENTS:]],
        "event_total": len(files.events),
        "event_counts": _counts(str(e.get("kind", "?")) for e in files.events),
        "facts": _facts(summary),
        "recipes": {k: yaml.safe_dump(v, sort_keys=False, allow_unicode=True) for k, v in files.recipes.items() if v},
        "next_steps": _next_steps(files),
    }


def _charts(files: RunFiles) -> dict[str, str]:
    return {
        "loss": charts.loss_chart(files),
        "grad_norm": charts.grad_norm_chart(files),
        "eval": charts.eval_chart(files),
        "lr": charts.lr_chart(files),
        "mixture": charts.mixture_chart(files),
        "shares": data_charts.shares_chart(files),
        "curriculum": data_charts.curriculum_chart(files),
        "source_loss": data_charts.source_loss_chart(files),
        "accuracy": charts.accuracy_chart(files),
        "reward": charts.reward_chart(files),
    }


def translated(english: str, chinese: str) -> Markup:
    """Both languages; the page shows one, or both without JavaScript."""
    if english == chinese:
        return Markup(escape(english))
    return Markup('<span class="en">{}</span><span class="sep"> · </span><span class="zh">{}</span>').format(
        english, chinese
    )


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _format(value: Any, key: str = "") -> str:
    """A value for a person: the unit follows the name (``_s``, ``_bytes``, ``mfu``, ``accuracy``)."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        if key == "bytes" or key.endswith("_bytes") or (key.startswith("bytes_") and "_per_" not in key):
            return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
        if key.endswith("_s"):
            return duration(float(value))
        if key.endswith(("share", "percent")) or key in {"mfu", "accuracy"}:
            return f"{100 * value:.1f} %"
        if isinstance(value, int):
            return f"{value:,}"
        return number(float(value))
    if isinstance(value, list | tuple):
        return ", ".join(_format(v) for v in value)
    return str(value)


def _recipe_name(files: RunFiles) -> str | None:
    return next((str(r["name"]) for r in files.recipes.values() if r.get("name")), None)


def _status(files: RunFiles) -> Text:
    if files.done:
        return ("finished", "已完成")
    if any(s.lines for s in files.stages):
        return ("running, or stopped before its end", "进行中，或提前停止")
    return ("just begun: no training step is written yet", "刚刚开始：还没有训练步写出")


def _tiles(files: RunFiles) -> list[tuple[Text, str]]:
    """The few numbers at the top."""
    tiles: list[tuple[Text, str]] = []
    params = _dig(files.summary, ("model", "params"), ("model", "parameters"), ("params",))
    if is_number(params):
        tiles.append((("parameters", "参数量"), number(float(params))))
    tokens = [s.tokens for s in files.stages if s.tokens]
    if tokens:
        tiles.append((("tokens trained on", "训练 token 数"), number(float(sum(tokens)))))
    walls = [s.wall_s for s in files.stages if s.wall_s]
    total = files.summary.get("wall_s")
    wall_s = total if isinstance(total, int | float) and is_number(total) else sum(walls)
    if wall_s:
        tiles.append((("time", "用时"), duration(float(wall_s))))
    peaks = [s.peak_bytes for s in files.stages if s.peak_bytes]
    if peaks:
        tiles.append((("peak memory", "内存峰值"), _format(max(peaks), "peak_bytes")))
    last_loss = next((s.values("loss")[-1] for s in reversed(files.stages) if not s.is_rl and s.values("loss")), None)
    if last_loss is not None:
        tiles.append((("last training loss", "最后训练损失"), f"{last_loss:.3f}"))
    scores = [v["accuracy"] for v in charts.accuracies(files).values() if "accuracy" in v]
    if scores:
        tiles.append((("questions answered exactly", "答对率"), f"{100 * scores[-1]:.1f} %"))
    return tiles


def _dig(tree: dict[str, Any], *paths: tuple[str, ...]) -> Any:
    """The first of ``paths`` that leads to a value."""
    for path in paths:
        node: Any = tree
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if node is not None:
            return node
    return None


def _stage_row(stage: StageRun) -> dict[str, Any]:
    losses = [] if stage.is_rl else stage.values("loss")
    norms = stage.values("grad_norm")
    return {
        "name": stage.name,
        "kind": stage.kind,
        "steps": len(stage.lines) or None,
        "tokens": None if stage.tokens is None else int(stage.tokens),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "max_grad_norm": max(norms) if norms else None,
        "tokens_per_s": stage.median("tokens_per_s"),
        "mfu": stage.median("mfu"),
        "wall_s": stage.wall_s,
        "peak_bytes": stage.peak_bytes,
    }


def _validation(files: RunFiles) -> list[dict[str, Any]]:
    """First and last validation loss by stage and set."""
    rows = []
    for stage in files.stages:
        found: dict[str, list[float]] = {}
        for line in stage.evals:
            for name, value in line["eval"].items():
                if is_number(value):
                    found.setdefault(str(name), []).append(float(value))
        rows += [
            {"stage": stage.name, "set": n, "first": v[0], "last": v[-1], "count": len(v)} for n, v in found.items()
        ]
    return rows


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _samples(value: Any) -> dict[str, Any]:
    """Rows of (question, expected, cells by stage); ``answers`` and ``correct`` are maps by stage, or one value."""
    rows: list[dict[str, Any]] = []
    stages: dict[str, None] = {}
    for sample in _list(value):
        if not isinstance(sample, dict):
            continue
        answers = sample.get("answers", sample.get("answer"))
        answers = answers if isinstance(answers, dict) else {"answer": answers}
        correct = sample.get("correct")
        cells = {}
        for stage, answer in answers.items():
            stages[str(stage)] = None
            ok = correct.get(stage) if isinstance(correct, dict) else correct
            cells[str(stage)] = {"text": "" if answer is None else str(answer), "ok": ok}
        rows.append({"question": str(sample.get("question", "")), "expected": sample.get("expected"), "cells": cells})
    return {"stages": list(stages), "rows": rows, "has_expected": any(r["expected"] is not None for r in rows)}


def _turn(value: Any) -> dict[str, str] | None:
    if isinstance(value, dict) and value.get("content") is not None:
        return {"role": str(value.get("role", "user")), "content": str(value["content"])}
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"role": str(value[0]), "content": str(value[1])}
    return None


def _event(event: dict[str, Any]) -> dict[str, str]:
    moment = event.get("time")
    when = time.strftime("%m-%d %H:%M:%S", time.localtime(moment)) if is_number(moment) else str(moment or "")
    rest = {k: v for k, v in event.items() if k not in {"time", "kind", "stage"}}
    detail = ", ".join(f"{k} {_format(v, k)}" for k, v in rest.items() if v is not None)
    return {"when": when, "kind": str(event.get("kind", "?")), "stage": str(event.get("stage", "")), "detail": detail}


def _counts(kinds: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _facts(summary: dict[str, Any]) -> list[tuple[Text, dict[str, Any]]]:
    """The descriptive sections of the summary that are there."""
    sections: tuple[tuple[Text, str], ...] = (
        (("Corpus", "语料"), "corpus"),
        (("Tokenizer", "分词器"), "tokenizer"),
        (("Model", "模型"), "model"),
        (("Environment", "运行环境"), "environment"),
    )
    return [(name, summary[key]) for name, key in sections if isinstance(summary.get(key), dict) and summary[key]]


def _next_steps(files: RunFiles) -> list[dict[str, Text | str]]:
    """What to do next: the summary's own list, else what a stage's folder allows."""
    given = [s for s in _list(files.summary.get("next_steps")) if s]
    steps: list[dict[str, Text | str]] = []
    for step in given:
        if isinstance(step, dict):
            english = str(step.get("en") or step.get("text") or "")
            steps.append({"command": str(step.get("command", "")), "text": (english, str(step.get("zh") or english))})
        elif isinstance(step, list | tuple) and len(step) >= 2:
            steps.append({"command": str(step[0]), "text": (str(step[1]), str(step[-1]))})
        else:
            steps.append({"command": str(step), "text": ("", "")})
    if steps:
        return steps
    model = files.root / "model"
    if model.is_dir():
        return [
            {"command": f"athanor chat {model}", "text": ("Talk to the model", "与模型对话")},
            {"command": f"athanor generate {model} 'import '", "text": ("Continue a text", "续写文本")},
        ]
    return [{"command": f"athanor report {files.root}", "text": ("Write this page again later", "稍后重新生成本页")}]
