"""The report page of a build: where every byte went, why, what it cost, and samples of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from athanor.data.pipeline.figures import histograms, tables
from athanor.files import write_atomic
from athanor.recipe.source import to_yaml
from athanor.report.html import duration, render_page
from athanor.report.svg import Text, number, row_chart

_FLOW: list[Text] = [
    ("documents in", "输入文档"),
    ("documents out", "输出文档"),
    ("MB in", "输入 MB"),
    ("MB out", "输出 MB"),
    ("kept", "保留"),
]
_LABELS: list[tuple[Text, int]] = [
    (("By source", "按来源"), 0),
    (("By domain", "按领域"), 1),
    (("By language", "按语言"), 2),
]


def write_page(report: Mapping[str, Any], name: str, path: Path) -> None:
    """Write ``report.html``, self-contained."""
    write_atomic(path, render_page("data.html", view(report, name)))


def view(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the template shows."""
    tally = report["tally"]
    names = [step for step in dict.fromkeys(s["name"] for s in report["steps"]) if step in tally["flows"]]
    flows = {step: _sum(tally["flows"][step].values()) for step in names}
    return {
        "title": name,
        "subtitle": ("corpus build", "语料构建"),
        "tiles": _tiles(report, flows),
        "failures": report["failures"],
        "charts": {"left": Markup(_left_chart(report, flows))},
        "steps": _steps(tally, flows),
        "by": [_by(tally, names, title, at) for title, at in _LABELS] if names else [],
        "reading": _reading(report["sources"]),
        "reasons": _reasons(tally, flows),
        "figure_charts": [(n, Markup(svg)) for n, svg in histograms(report["figures"])],
        "figures": tables(report["figures"]),
        "samples": [_samples(step, tally["samples"].get(step, {})) for step in names],
        "options": to_yaml([{"step": s["name"], **s["options"]} for s in report["steps"]]),
    }


def _sum(flows: Any) -> list[int]:
    total = [0, 0, 0, 0]
    for flow in flows:
        total = [a + b for a, b in zip(total, flow, strict=True)]
    return total


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.2f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _tiles(report: Mapping[str, Any], flows: Mapping[str, Sequence[int]]) -> list[tuple[Text, str]]:
    sources = report["sources"].values()
    n_in = sum(source["documents_in"] for source in sources)
    bytes_in = sum(source["bytes_in"] for source in sources)
    n_out = sum(split["documents"] for source in sources for split in source["out"].values())
    bytes_out = sum(split["bytes"] for source in sources for split in source["out"].values())
    cpu_s = sum(report["tally"]["cpu_s"].values()) + sum(source["read"]["cpu_s"] for source in sources)
    return [
        (("documents in", "输入文档"), f"{n_in:,}"),
        (("documents out", "输出文档"), f"{n_out:,}"),
        (("MB in", "输入 MB"), _mb(bytes_in)),
        (("MB out", "输出 MB"), _mb(bytes_out)),
        (("of the bytes kept", "保留的字节"), _percent(bytes_out, bytes_in)),
        (("processor time", "处理器时间"), duration(cpu_s)),
        (("MB/s a core", "每核 MB/s"), number(bytes_in / 1e6 / cpu_s) if cpu_s else "–"),
    ]


def _left_chart(report: Mapping[str, Any], flows: Mapping[str, Sequence[int]]) -> str:
    bytes_in = sum(source["bytes_in"] for source in report["sources"].values())
    left = {"read": bytes_in, **{step: flow[3] for step, flow in flows.items()}}
    rows = [(name, n / 1e6, f"{_mb(n)} MB, {_percent(n, bytes_in)}") for name, n in left.items()]
    return row_chart(("text left after each step", "每一步之后所剩的文本"), rows)


def _steps(tally: Mapping[str, Any], flows: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    head: list[Text] = [("step", "步骤"), *_FLOW, ("edited", "修改"), ("CPU", "CPU"), ("MB/s", "MB/s")]
    rows = []
    for step, flow in flows.items():
        cpu_s = tally["cpu_s"].get(step, 0.0)
        speed = number(flow[1] / 1e6 / cpu_s) if cpu_s else "–"
        rows.append([step, *_flow_cells(flow), f"{tally['edited'].get(step, [0])[0]:,}", duration(cpu_s), speed])
    return {"head": head, "rows": rows}


def _flow_cells(flow: Sequence[int]) -> list[str]:
    return [f"{flow[0]:,}", f"{flow[2]:,}", _mb(flow[1]), _mb(flow[3]), _percent(flow[3], flow[1])]


def _by(tally: Mapping[str, Any], names: Sequence[str], title: Text, at: int) -> dict[str, Any]:
    """What came into the first step and left the last one, by source, domain or language.

    Language is told by a step, so what came in of each is what that step let on; a row of its own says what it and the
    steps before it took.
    """
    flows = tally["flows"]
    telling = next((step for step in names if step.split("~")[0] == "language"), None) if at == 2 else None
    first, taken = (names[0], (0, 1)) if telling is None else (telling, (2, 3))
    totals: dict[str, list[int]] = {}
    for step, columns, into in ((first, taken, (0, 1)), (names[-1], (2, 3), (2, 3))):
        for labels, flow in flows[step].items():
            entry = totals.setdefault(labels.split("\t")[at], [0, 0, 0, 0])
            for column, target in zip(columns, into, strict=True):
                entry[target] += flow[column]
    rows = [[label, *_flow_cells(flow)] for label, flow in sorted(totals.items()) if any(flow)]
    if telling is not None:
        whole = _sum(flows[names[0]].values())
        told = [sum(flow[column] for flow in totals.values()) for column in (0, 1)]
        gone = [whole[0] - told[0], whole[1] - told[1], 0, 0]
        rows.append([f"… up to {telling}", *_flow_cells(gone)])
    return {"title": title, "head": [("", ""), *_FLOW], "rows": rows}


def _reading(sources: Mapping[str, Any]) -> dict[str, Any]:
    head: list[Text] = [
        ("source", "来源"),
        ("documents", "文档"),
        ("MB", "MB"),
        ("formats", "格式"),
        ("no document", "未成文档"),
        ("ids given twice", "重复的自带 id"),
        ("CPU", "CPU"),
    ]
    rows, examples, notes = [], [], []
    for name, source in sources.items():
        read = source["read"]
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(read["formats"].items()))
        dropped = ", ".join(f"{reason} {n:,}" for reason, n in sorted(read["dropped"].items())) or "0"
        ids = f"{read['own_ids']['repeated']:,}" if read["own_ids"]["documents"] else "–"
        cost = duration(read["cpu_s"])
        rows.append([name, f"{read['documents']:,}", _mb(read["n_bytes"]), kinds, dropped, ids, cost])
        notes += [f"{name}: {note}" for note in source["notes"]]
        examples += [{"source": name, **example} for example in read["examples"]]
    return {"head": head, "rows": rows, "examples": examples, "notes": notes}


def _reasons(tally: Mapping[str, Any], flows: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    rows = [
        [f"{step}: {reason}", f"{documents:,}", _percent(documents, flows[step][0]), _mb(n_bytes)]
        for step in flows
        for reason, (documents, n_bytes) in sorted(tally["reasons"].get(step, {}).items(), key=lambda kv: -kv[1][0])
    ]
    return {"head": [("reason", "原因"), ("documents", "文档"), ("of its input", "占输入"), ("MB", "MB")], "rows": rows}


def _samples(step: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": step, "kinds": [{"name": kind, "samples": found} for kind, found in sorted(kinds.items())]}
