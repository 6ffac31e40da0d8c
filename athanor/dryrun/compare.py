"""Prediction and dry run side by side, and what counts as agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from athanor.dryrun.run import DryRun
from athanor.dryrun.tracker import CATEGORIES
from athanor.errors import AthanorError
from athanor.plan.engine_model import Prediction
from athanor.plan.workload import coordinates

#: How far the formula for the activations' peak may be off, as a share of what the dry run saw.
PEAK_TOLERANCE = 0.03


@dataclass(frozen=True)
class Row:
    """One figure of both; ``tolerance`` 0: they must be equal."""

    name: str
    predicted: int
    seen: int
    tolerance: float = 0.0

    @property
    def difference(self) -> float:
        """(predicted − seen) / seen."""
        if self.predicted == self.seen:
            return 0.0
        return (self.predicted - self.seen) / self.seen if self.seen else float("inf")

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.difference) <= self.tolerance


def compare(prediction: Prediction, run: DryRun) -> list[Row]:
    """Bytes at rest, the activations' peak, every kind of collective (calls), operations by phase."""
    rows = [
        Row("parameters, bytes", prediction.parameter_bytes, run.state_bytes["parameters"]),
        Row("gradients, bytes", prediction.gradient_bytes, run.state_bytes["gradients"]),
        Row("optimizer, bytes", prediction.optimizer_bytes, run.state_bytes["optimizer"]),
        Row("activations, peak bytes", prediction.activation_peak_bytes, activation_peak(run), PEAK_TOLERANCE),
    ]
    for call in sorted(prediction.collectives.keys() | run.collectives.keys()):
        kind, axis, n_bytes = call
        name = f"{kind} over {axis}, {n_bytes:,} bytes: calls"
        rows.append(Row(name, prediction.collectives[call], run.collectives[call]))
    rows += [Row(f"{phase}, FLOPs", prediction.flops[phase], run.flops[phase]) for phase in run.flops]
    return rows


def activation_peak(run: DryRun) -> int:
    """The most bytes that were held for backward passes at once."""
    return run.trace.peak(("activations",))[0]


def check(rows: list[Row]) -> None:
    """AthanorError that lists where prediction and dry run disagree."""
    wrong = [row for row in rows if not row.agrees]
    if wrong:
        listed = "\n".join(
            f"  {row.name}: {row.predicted:,} predicted, {row.seen:,} in the dry run ({row.difference:+.2%})"
            for row in wrong
        )
        raise AthanorError(
            f"the cost model of the engine and the engine disagree:\n{listed}",
            where="dryrun",
            fix="one of the two is wrong about this layout: trust the dry run and report the recipe",
        )


def check_memory(run: DryRun, capacity_bytes: int, what: str) -> None:
    """AthanorError where the step's peak is more than ``capacity_bytes``, with what it is made of."""
    peak, _, by = run.trace.peak()
    if peak <= capacity_bytes:
        return
    parts = sorted(((n, name) for name, n in by.items() if n and name != "host"), reverse=True)
    listed = "\n".join(f"  {name:<14}{gib(n):>10}  {n / peak:6.1%}" for n, name in parts)
    raise AthanorError(
        f"out of memory: rank {run.rank} needs {gib(peak)} at its peak, {what} has {gib(capacity_bytes)}\n{listed}",
        where="dryrun",
        fix=_advice(max(parts)[1], run),
    )


def _advice(largest: str, run: DryRun) -> str:
    plan = run.work.plan
    if largest in ("activations", "temporary"):
        more = "smaller micro-batches, more tp" + ("" if plan.pp > 1 else ", more pp")
        return more if plan.recompute.mode == "full" else f"parallel.recompute.mode=full, {more}"
    if plan.zero < 3:
        return f"parallel.zero={plan.zero + 1}, more dp_shard, tp or pp"
    return "more dp_shard, tp or pp; parallel.offload=optimizer"


def gib(n_bytes: float) -> str:
    """``48.53 GiB``, or smaller units."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= size:
            return f"{n_bytes / size:,.2f} {unit}"
    return f"{n_bytes:,.0f} B"


def as_json(run: DryRun, prediction: Prediction | None, notes: list[str], points: int = 200) -> dict[str, Any]:
    """Everything as plain values. Bytes, seconds, floating-point operations."""
    peak, _, by = run.trace.peak()
    out: dict[str, Any] = {
        "world": run.work.plan.world_size,
        "rank": run.rank,
        "place": coordinates(run.work.plan, run.rank),
        "seq_len": run.work.seq_len,
        "micro_batches": run.work.micro_batches,
        "rows": run.work.rows,
        "state_bytes": run.state_bytes,
        "peak_bytes": peak,
        "peak_by_category": by,
        "activation_peak_bytes": activation_peak(run),
        "over_time": run.trace.curve(points),
        "flops": run.flops,
        "collectives": [
            {"kind": kind, "axis": axis, "bytes": n_bytes, "calls": count}
            for (kind, axis, n_bytes), count in sorted(run.collectives.items())
        ],
        "build_s": run.build_s,
        "step_s": run.step_s,
        "cpu_s": run.cpu_s,
        "rss_bytes": run.rss_bytes,
        "notes": notes,
    }
    if prediction is not None:
        out["compared"] = [
            {
                "name": row.name,
                "predicted": row.predicted,
                "dry_run": row.seen,
                "difference": row.difference,
                "tolerance": row.tolerance,
                "agrees": row.agrees,
            }
            for row in compare(prediction, run)
        ]
    return out


def as_text(run: DryRun, prediction: Prediction | None, notes: list[str]) -> str:
    """What a person reads."""
    plan, at = run.work.plan, coordinates(run.work.plan, run.rank)
    place = ", ".join(f"{name} {at[name]}" for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp"))
    work = run.work
    lines = [
        f"rank {run.rank:,} of {plan.world_size:,} ({place})",
        f"{work.micro_batches} micro-batches of {work.rows} × {work.seq_len:,} tokens, {str(work.dtype)[6:]}",
        "",
    ]
    peak, _, by = run.trace.peak()
    lines.append(f"peak {gib(peak)}:")
    lines += [f"  {name:<14}{gib(by[name]):>12}" for name in CATEGORIES if by[name]]
    lines.append("")
    if prediction is not None:
        rows = compare(prediction, run)
        plain = [row for row in rows if not row.name.endswith("calls")]
        lines.append(f"{'':<26}{'predicted':>26}{'dry run':>26}  difference")
        lines += [f"{row.name:<26}{row.predicted:>26,}{row.seen:>26,}  {_told(row)}" for row in plain]
        calls = [row for row in rows if row.name.endswith("calls")]
        wrong = sum(not row.agrees for row in calls)
        lines.append(f"{'collectives, kinds':<26}{len(prediction.collectives):>26,}{len(run.collectives):>26,}  "
                     f"{'exact' if not wrong else f'{wrong} differ'}")  # fmt: skip
    else:
        lines += [f"{name + ', FLOPs':<26}{n:>26,}" for name, n in run.flops.items()]
    lines += ["", f"{'collective':<16}{'axis':<30}{'calls':>9}{'bytes each':>16}{'bytes':>18}"]
    lines += [
        f"{kind:<16}{axis:<30}{count:>9,}{n_bytes:>16,}{n_bytes * count:>18,}"
        for (kind, axis, n_bytes), count in sorted(run.collectives.items(), key=lambda x: (x[0][1], x[0]))
    ]
    lines += ["", f"built in {run.build_s:.1f} s, step in {run.step_s:.1f} s ({run.cpu_s:.1f} s of CPU), "
              f"{gib(run.rss_bytes)} of this process"]  # fmt: skip
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _told(row: Row) -> str:
    return "exact" if row.predicted == row.seen else f"{row.difference:+.3%}"
