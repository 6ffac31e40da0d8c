"""From run results to one row per architecture and learning rate, the table, and what the bar says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from athanor.stability.settings import Cell
from athanor.stability.spikes import batch_rise, model_loss_spikes

#: The architecture that the bar is about.
CHAMPION = "dssn+tiny"
#: Steps whose mean is the final training loss.
LAST_STEPS = 25

RunResult = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """All seeds of one architecture at one learning rate. Losses in nats per byte; spike counts one number a seed."""

    arch: str
    lr: float
    seeds: list[int]
    heldout_loss: list[float]
    train_loss: list[float]
    loss_spikes: list[int]
    model_loss_spikes: list[int]
    grad_spikes: list[int]
    grad_spike_steps: list[int]
    residual_rms: list[float]
    residual_rms_peak: list[float]
    cpu_s: list[float]
    wall_s: list[float]

    @property
    def heldout_mean(self) -> float:
        """Mean final held-out loss over seeds; inf when a seed has none (it diverged)."""
        return statistics.fmean(self.heldout_loss)

    @property
    def heldout_sd(self) -> float:
        """Sample standard deviation over seeds; nan for one seed."""
        return statistics.stdev(self.heldout_loss) if len(self.heldout_loss) > 1 else math.nan


def _number(value: float | None) -> float:
    """JSON keeps a value that was not finite as null."""
    return math.inf if value is None else float(value)


def summarise(results: Sequence[RunResult]) -> list[Row]:
    """One row per (architecture, learning rate), in order of first appearance; seeds sorted."""
    groups: dict[tuple[str, float], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result["cell"]["arch"], result["cell"]["lr"]), []).append(result)
    rises = batch_rises(results)
    return [_row(arch, lr, sorted(runs, key=lambda r: r["cell"]["seed"]), rises) for (arch, lr), runs in groups.items()]


def _losses(run: RunResult) -> list[float]:
    return [_number(loss) for loss in run["loss"]]


def batch_rises(results: Sequence[RunResult]) -> dict[int, np.ndarray]:
    """By seed, how much each step's batch raises the loss; runs of one seed read the same batches.

    From three runs on: the middle of fewer would be one of the runs that is judged.
    """
    by_seed: dict[int, list[list[float]]] = {}
    for run in results:
        by_seed.setdefault(run["cell"]["seed"], []).append(_losses(run))
    return {seed: batch_rise(runs) for seed, runs in by_seed.items() if len(runs) >= 3}


def _model_spikes(run: RunResult, rises: Mapping[int, np.ndarray]) -> int:
    rise_N = rises.get(run["cell"]["seed"])
    return len(run["loss_spikes"]) if rise_N is None else len(model_loss_spikes(_losses(run), rise_N))


def _row(arch: str, lr: float, runs: list[RunResult], rises: Mapping[int, np.ndarray]) -> Row:
    return Row(
        arch=arch,
        lr=lr,
        seeds=[run["cell"]["seed"] for run in runs],
        heldout_loss=[_number(run["heldout_loss"]) for run in runs],
        train_loss=[statistics.fmean(_losses(run)[-LAST_STEPS:]) for run in runs],
        loss_spikes=[len(run["loss_spikes"]) for run in runs],
        model_loss_spikes=[_model_spikes(run, rises) for run in runs],
        grad_spikes=[len(run["grad_spikes"]) for run in runs],
        grad_spike_steps=[sum(s["last"] - s["first"] + 1 for s in run["grad_spikes"]) for run in runs],
        residual_rms=[_number(run["probes"]["residual"][-1][-1]) for run in runs],
        residual_rms_peak=[max(_number(v) for v in run["probes"]["residual"][-1]) for run in runs],
        cpu_s=[run["cpu_s"] for run in runs],
        wall_s=[run["wall_s"] for run in runs],
    )


def _pm(row: Row) -> str:
    spread = "" if math.isnan(row.heldout_sd) else f" ± {row.heldout_sd:.3f}"
    return f"{row.heldout_mean:.3f}{spread}"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}–{high:.3g}"


def _counts(values: Sequence[int]) -> str:
    return f"{sum(values)} ({'/'.join(map(str, values))})" if len(values) > 1 else str(values[0])


def table_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the summary table; spike counts are totals with the seeds' own in brackets."""
    header = [
        "architecture",
        "learning rate",
        "held-out loss",
        f"training loss, last {LAST_STEPS}",
        "loss spikes",
        "of the model",
        "gradient spikes",
        "residual RMS, last block",
        "CPU s a run",
    ]
    ordered = sorted(rows, key=lambda row: (row.lr, [r.arch for r in rows].index(row.arch)))
    return header, [
        [
            row.arch,
            f"{row.lr:g}",
            _pm(row),
            f"{statistics.fmean(row.train_loss):.3f}",
            _counts(row.loss_spikes),
            _counts(row.model_loss_spikes),
            _counts(row.grad_spikes),
            _span(row.residual_rms),
            f"{statistics.fmean(row.cpu_s):.0f}",
        ]
        for row in ordered
    ]


def markdown_table(rows: Sequence[Row]) -> str:
    """The summary table as Markdown."""
    header, cells = table_rows(rows)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells]) + "\n"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the bar says at one learning rate, for the champion against the other architectures that were run."""

    lr: float
    seeds: list[int]
    champion_spikes: int
    others_spikes: dict[str, int]
    lowest_loss: str
    margin: float  # champion's mean held-out loss minus the best other's, nats; negative is better
    holds: bool


def _at_seeds(row: Row, seeds: set[int]) -> tuple[float, int]:
    """Mean held-out loss and spikes of both kinds over ``seeds`` only."""
    picked = [i for i, seed in enumerate(row.seeds) if seed in seeds]
    loss = statistics.fmean(row.heldout_loss[i] for i in picked)
    return loss, sum(row.loss_spikes[i] + row.grad_spikes[i] for i in picked)


def verdicts(rows: Sequence[Row], champion: str = CHAMPION) -> list[Verdict]:
    """The bar by learning rate: the champion has no spike of either kind and the lowest mean held-out loss.

    Compared are the seeds that every architecture has at that rate, so a grid that is half done is not unfair.
    """
    found = []
    for lr in sorted({row.lr for row in rows}):
        at = {row.arch: row for row in rows if row.lr == lr}
        seeds = set.intersection(*(set(row.seeds) for row in at.values()))
        if champion not in at or len(at) < 2 or not seeds:
            continue
        measured = {arch: _at_seeds(row, seeds) for arch, row in at.items()}
        loss, spikes = measured.pop(champion)
        best_other = min(measured, key=lambda arch: measured[arch][0])
        margin = loss - measured[best_other][0]
        found.append(
            Verdict(
                lr=lr,
                seeds=sorted(seeds),
                champion_spikes=spikes,
                others_spikes={arch: count for arch, (_, count) in measured.items()},
                lowest_loss=champion if margin < 0 else best_other,
                margin=margin,
                holds=spikes == 0 and margin < 0,
            )
        )
    return found


def sentences(verdict: Verdict, champion: str = CHAMPION) -> tuple[str, str]:
    """One sentence about one learning rate, in English and Chinese."""
    others = ", ".join(f"{arch} {n}" for arch, n in verdict.others_spikes.items())
    others_zh = "、".join(f"{arch} {n} 次" for arch, n in verdict.others_spikes.items())
    seeds = ", ".join(map(str, verdict.seeds))
    where = f"{abs(verdict.margin):.3f} nats {'below' if verdict.margin < 0 else 'above'}"
    where_zh = f"{'低' if verdict.margin < 0 else '高'} {abs(verdict.margin):.3f} 奈特"
    plural = "" if verdict.champion_spikes == 1 else "s"
    english = (
        f"Learning rate {verdict.lr:g} (seeds {seeds}): the bar {'holds' if verdict.holds else 'does not hold'}. "
        f"{champion} has {verdict.champion_spikes} spike{plural} ({others}); "
        f"its held-out loss is {where} the best other architecture's."
    )
    chinese = [
        f"学习率 {verdict.lr:g}（种子 {seeds}）：目标{'达到' if verdict.holds else '未达到'}。",
        f"{champion} 出现尖峰 {verdict.champion_spikes} 次（{others_zh}）；",
        f"其留出损失比其他架构中最好的{where_zh}。",
    ]
    return english, "".join(chinese)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows with their means, for ``results.json``."""
    return [{**asdict(row), "heldout_mean": row.heldout_mean, "heldout_sd": row.heldout_sd} for row in rows]


def cell_of(result: RunResult) -> Cell:
    """The cell that a result belongs to."""
    return Cell(**result["cell"])
