"""Predicted against published for every usable row of a CSV of runs: one machine file by device, no constant by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from athanor.plan.cluster import Cluster, load_cluster
from athanor.plan.cost import Costs, Problem, evaluate
from athanor.plan.layouts import NAMES, Layouts
from athanor.plan.runs import Run, Setup, same_run, setup, with_parts
from athanor.plan.shape import megatron_flops
from athanor.plan.switches import NAMES as SWITCHES
from athanor.plan.switches import switch_table

#: The quantity that stands for a run where several are published, first one first.
_TIME = ("iteration_time", "tokens_per_s_per_gpu", "achieved_tflops_per_gpu", "MFU", "layer_total_time")
_MEMORY = ("peak_allocated_memory", "peak_memory")
_UNITS = {"ms": 1e-3, "s": 1.0, "GiB": 2.0**30}


@dataclass(frozen=True, slots=True)
class Row:
    """A predicted row. ``primary``: the row that stands for its run; ``assumed``: what the row left open."""

    run: Run
    predicted: float
    kind: str  #: time or memory
    primary: bool
    assumed: tuple[str, ...]

    @property
    def error(self) -> float:
        """(predicted − published) / published."""
        return self.predicted / self.run.value - 1


@dataclass(frozen=True, slots=True)
class Validation:
    """All rows of a file: predicted ones, and those that cannot be, with the reason."""

    rows: tuple[Row, ...]
    unusable: tuple[tuple[Run, str], ...]

    def mape(self, *words: str, kind: str = "time", primary: bool = True) -> float:
        """Mean absolute error of rows whose source and table contain any of ``words`` (none: all)."""
        errors = [abs(row.error) for row in self.chosen(*words, kind=kind, primary=primary)]
        return float(np.mean(errors)) if errors else float("nan")

    def chosen(self, *words: str, kind: str = "time", primary: bool = True) -> list[Row]:
        """Rows whose source and table contain any of ``words``."""
        found = []
        for row in self.rows:
            text = f"{row.run.source} {row.run.table}"
            if row.kind == kind and (row.primary or not primary) and (not words or any(w in text for w in words)):
                found.append(row)
        return found


def validate(runs: Sequence[Run], clusters: Mapping[str, Cluster] | None = None) -> Validation:
    """Predict every row. ``clusters``: other machines by the name of the shipped file they replace."""
    rows: list[Row] = []
    unusable: list[tuple[Run, str]] = []
    for group in same_run(runs).values():
        taken = setup(next((run for run in group if not run.analytic), group[0]))
        if isinstance(taken, str):
            unusable += [(run, taken if not run.analytic else "ANALYTIC: not a measurement") for run in group]
            continue
        costs, problem, best = _predict(taken, group[0], clusters or {})
        first = {kind: min((names.index(r.quantity) for r in group if r.quantity in names), default=-1)
                 for kind, names in (("time", _TIME), ("memory", _MEMORY))}  # fmt: skip
        for run in group:
            value = _value(run, taken, problem, costs, best)
            if run.analytic or value is None:
                unusable.append((run, "ANALYTIC: not a measurement" if run.analytic else "no such quantity"))
                continue
            kind = "memory" if "memory" in run.quantity else "time"
            names = _MEMORY if kind == "memory" else _TIME
            primary = run.quantity in names and names.index(run.quantity) == first[kind]
            rows.append(Row(run, value, kind, primary, taken.assumed))
    order = sorted(rows, key=lambda row: row.run.line)
    return Validation(tuple(order), tuple(sorted(unusable, key=lambda item: item[0].line)))


def _predict(taken: Setup, run: Run, clusters: Mapping[str, Cluster]) -> tuple[Costs, Problem, int]:
    """Costs of the row's layouts, and the fastest that fits."""
    plans, rows, switches, parts = zip(*taken.choices, strict=True)
    local = [taken.global_rows // plan.dp // size for plan, size in zip(plans, rows, strict=True)]
    at = Layouts.of(plans, taken.config.num_hidden_layers, rows, [max(m, 1) for m in local], switches)
    at = dataclasses.replace(at, names=np.array(with_parts(parts, NAMES), bool))
    cluster = clusters.get(taken.cluster) or load_cluster(taken.cluster)
    gpus = run.counts["gpus"]
    assert gpus is not None
    problem = Problem(taken.config, taken.seq_len, taken.global_rows, cluster.resized(gpus), taken.engine)
    costs = _layer(problem, at) if run.quantity.startswith("layer_") else evaluate(problem, at)
    # The run took place, so that where nothing seems to fit the estimate of memory must be what is wrong.
    may = costs.fits if bool(costs.fits.any()) else np.ones(len(at), bool)
    return costs, problem, int(np.argmin(np.where(may, costs.step_s, np.inf)))


def _layer(problem: Problem, at: Layouts) -> Costs:
    """A block by itself: two blocks less one, without the ends of the model."""
    two = problem.config.model_copy(update={"num_hidden_layers": 2})
    more = evaluate(dataclasses.replace(problem, config=two), dataclasses.replace(at, blocks=at.blocks + 1))
    less = evaluate(problem, at)
    names = ("forward_s", "backward_input_s", "backward_weight_s")
    return dataclasses.replace(more, **{name: getattr(more, name) - getattr(less, name) for name in names})


def _value(run: Run, taken: Setup, problem: Problem, costs: Costs, i: int) -> float | None:
    """The published quantity in its unit, or None for one that the planner does not predict."""
    step_s, gpus = float(costs.step_s[i]), float(costs.world_size[i])
    remade = "full" in run.recompute and taken.engine.name.endswith("2021")
    per_s = megatron_flops(taken.config, problem.global_rows, problem.seq_len, remade) / step_s
    peak = costs.peak_flops_per_s
    layer = {
        "layer_fwd_time": costs.forward_s,
        "layer_bwd_time": costs.backward_input_s + costs.backward_weight_s,
        "layer_total_time": costs.forward_s + costs.backward_input_s + costs.backward_weight_s,
    }
    values = {
        "iteration_time": step_s,
        "tokens_per_s_per_gpu": costs.tokens / step_s / gpus,
        "achieved_tflops_per_gpu": per_s / gpus / 1e12,
        "percent_of_peak_hw_flops": 100 * per_s / gpus / peak,
        "aggregate_pflops": per_s / 1e15,
        "training_time_300B_tokens": 300e9 * step_s / costs.tokens / 86400,
        "MFU": 100 * float(costs.mfu("full")[i]),
        "HFU": 100 * float(costs.hfu()[i]),
        "peak_allocated_memory": float(costs.allocated_bytes[i]),
        "peak_reserved_memory": float(costs.reserved_bytes[i]),
        "peak_memory": float(costs.reserved_bytes[i]),
    }
    if run.quantity == "MFU_before_optimisations":
        # Hybrid parallelism and virtual pipeline stand, and the usual overlap; the report's five parts are off.
        plan, rows, _, _ = taken.choices[i]
        lines = switch_table(problem, plan, rows, problem.global_rows // plan.dp // rows)
        return 100 * lines[list(SWITCHES).index("p2p_overlap") + 1].mfu_full
    if run.quantity in layer:
        return float(layer[run.quantity][i].sum()) / _UNITS.get(run.unit, 1.0)
    if run.quantity == "MFU" and run.unit.startswith("% (stated"):
        return values["MFU"]
    value = values.get(run.quantity)
    return None if value is None else value / _UNITS.get(run.unit, 1.0)
