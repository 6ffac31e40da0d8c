"""The validation as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.plan.validate import Row, Validation

if TYPE_CHECKING:
    from athanor.plan.fit import HeldOut

#: What the three sources of the step-time bar are called in source and table.
BAR_TIME = ("2104.04473 Table 1", "2205.05198 Table 5", "Megatron-LM README")
BAR_MEMORY = ("SimuMax",)


def validation_text(found: Validation, held: Sequence[HeldOut] = (), all_rows: bool = False) -> str:
    """Row by row, then by source, the two bars, what cannot be predicted, and what held-out sources give."""
    rows = [row for row in found.rows if row.primary or all_rows]
    lines = [
        f"{'line':>4}  {'source, table':48} {'model':22} {'quantity':24} {'published':>10} {'predicted':>10} error"
    ]
    lines += [_line(row) for row in rows]
    lines += ["", *_by_source(found), "", *_bars(found)]
    if assumed := Counter(text for row in found.rows if row.primary for text in row.assumed):
        lines += ["", "What rows leave open, and how often it was filled in:"]
        lines += [f"  {count:3d} × {text}" for text, count in assumed.most_common()]
    if found.unusable:
        lines += ["", "Rows that are not predicted:"]
        lines += [f"  line {run.line}: {run.table}, {run.quantity}: {why}" for run, why in found.unusable]
    if held:
        lines += ["", "Each source by constants that were fitted without it:"]
        lines += [f"  {_held(item)}" for item in held]
    return "\n".join(lines)


def _line(row: Row) -> str:
    run = row.run
    name = f"{run.source}, {run.table}"
    what = f"{run.quantity} {run.unit}"[:24]
    size = f"{run.model[:14]} {run.counts['gpus']}"
    return (
        f"{run.line:4d}  {name[:48]:48} {size[:22]:22} {what:24} {run.value:10.2f} {row.predicted:10.2f} "
        f"{100 * row.error:+.1f} %"
    )


def _by_source(found: Validation) -> list[str]:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in found.rows:
        if row.primary:
            table = "" if "torchtitan" in row.run.source or "SimuMax" in row.run.source else f", {row.run.table}"
            groups.setdefault((row.run.source + table, row.kind), []).append(abs(row.error))
    lines = [f"{'source':58} {'what':7} {'runs':>4} {'mean':>7} {'median':>7} {'worst':>7}"]
    for (name, kind), errors in groups.items():
        figures = (np.mean(errors), np.median(errors), np.max(errors))
        lines.append(f"{name[:58]:58} {kind:7} {len(errors):4d} " + " ".join(f"{100 * x:6.1f}%" for x in figures))
    return lines


def _bars(found: Validation) -> list[str]:
    lines = []
    for kind, words, title in (
        ("time", BAR_TIME, "step time and throughput: SC'21 table 1, Korthikanti table 5, Megatron-LM's H100 table"),
        ("memory", BAR_MEMORY, "peak memory (allocated): SimuMax B200"),
    ):
        errors = [abs(row.error) for row in found.chosen(*words, kind=kind)]
        if errors:
            mean, worst = 100 * np.mean(errors), 100 * np.max(errors)
            lines.append(f"{title}: {len(errors)} runs, mean {mean:.2f} %, worst {worst:.2f} %")
    return lines


def _held(item: HeldOut) -> str:
    worst = 100 * max(abs(row.error) for row in item.rows)
    what = f"{item.source} ({item.cluster}), by {item.by}"
    return f"{what}: {len(item.rows)} runs, mean {100 * item.mape:.1f} %, worst {worst:.1f} %"


def validation_json(found: Validation, held: Sequence[HeldOut] = ()) -> dict[str, Any]:
    """The same as plain values; errors are shares."""
    return {
        "rows": [
            {
                "line": row.run.line,
                "source": row.run.source,
                "table": row.run.table,
                "model": row.run.model,
                "gpus": row.run.counts["gpus"],
                "quantity": row.run.quantity,
                "unit": row.run.unit,
                "published": row.run.value,
                "predicted": row.predicted,
                "error": row.error,
                "kind": row.kind,
                "primary": row.primary,
                "assumed": list(row.assumed),
            }
            for row in found.rows
        ],
        "unusable": [{"line": run.line, "why": why} for run, why in found.unusable],
        "bars": {"time_mape": found.mape(*BAR_TIME), "memory_mape": found.mape(*BAR_MEMORY, kind="memory")},
        "held_out": [
            {"source": item.source, "cluster": item.cluster, "by": item.by, "mape": item.mape} for item in held
        ],
    }
