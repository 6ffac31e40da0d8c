"""The dry run beside the engine's cost model: 16 layouts of two models, and Pangu Ultra on 8,192 ranks.

    python bench/dryrun.py                     # all; --out bench/results/dryrun.json
    python bench/dryrun.py --only layouts      # seconds
    python bench/dryrun.py --only pangu --recompute

Counted, not timed: bytes, calls and operations are the same on every machine. Seconds are those of this one; each
Pangu rank is a process of its own (``athanor dryrun``), so its memory is its own. Exit status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.dryrun.compare import PEAK_TOLERANCE, activation_peak, compare, gib
from athanor.dryrun.planned import planned_peak_bytes
from athanor.dryrun.run import dry_run
from athanor.model.config import ModelConfig, MoEConfig
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.engine_model import predict
from athanor.plan.workload import Workload
from athanor.recipe.schema import TrainRecipe
from bench.common import environment, show

#: A dense model with the structure of Pangu Ultra, and one with experts.
DENSE = ModelConfig(
    vocab_size=32_000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16,
    num_key_value_heads=8, norm_placement="depth_scaled_sandwich",
)  # fmt: skip
EXPERTS = ModelConfig(
    vocab_size=32_000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
    num_key_value_heads=4,
    moe=MoEConfig(num_experts=16, num_experts_per_tok=2, moe_intermediate_size=704, num_shared_experts=1,
                  first_k_dense=1),
)  # fmt: skip
SEQ_LEN, MICRO_BATCHES = 2048, 8
MAX_S, MAX_RSS = 60.0, 2e9
#: Of the planner's peak of everything, whose formulas are closed (no schedule is walked through).
PLANNER_TOLERANCE = 0.05
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "pangu-ultra-135b.yaml"
PANGU = (
    "parallel.tp=8", "parallel.pp=8", "parallel.dp_shard=128", "parallel.zero=1", "train.micro_batch_tokens=4096",
    "train.seq_len=4096", "train.global_batch_tokens=8388608", "train.stages=[]",
)  # fmt: skip


class Layout(NamedTuple):
    """One row of the table."""

    name: str
    config: ModelConfig
    plan: dict[str, Any]
    rank: int


def _recompute(mode: str, *names: str) -> dict[str, Any]:
    return {"recompute": RecomputePlan(mode=mode, names=names)}  # type: ignore[arg-type]


LAYOUTS = (
    Layout("dp 8, ZeRO 0", DENSE, {"dp_shard": 8, "zero": 0}, 0),
    Layout("dp 8, ZeRO 1", DENSE, {"dp_shard": 8, "zero": 1}, 7),
    Layout("dp 8, ZeRO 2", DENSE, {"dp_shard": 8, "zero": 2}, 3),
    Layout("dp 8, ZeRO 3, recompute full", DENSE, {"dp_shard": 8, "zero": 3, **_recompute("full")}, 5),
    Layout("dp 2 × 4, ZeRO 3 (hybrid)", DENSE, {"dp_replicate": 2, "dp_shard": 4, "zero": 3}, 6),
    Layout("tp 8", DENSE, {"tp": 8, "sp": False}, 7),
    Layout("tp 8 + sp, recompute attention, norms", DENSE,
           {"tp": 8, **_recompute("selective", "attention", "norms")}, 2),
    Layout("cp 4 · dp 2", DENSE, {"cp": 4, "dp_shard": 2}, 5),
    Layout("pp 4, GPipe", DENSE, {"pp": 4, "schedule": "gpipe"}, 2),
    Layout("pp 4 · dp 2, 1F1B, uneven", DENSE,
           {"pp": 4, "dp_shard": 2, "zero": 1, "layers_per_stage": (3, 5, 5, 3)}, 0),
    Layout("pp 4 × 2 · tp 2, interleaved", DENSE,
           {"pp": 4, "vpp": 2, "tp": 2, "schedule": "interleaved_1f1b"}, 3),
    Layout("pp 4 · dp 2, 1F1B, ZeRO 3, the head's rank", DENSE, {"pp": 4, "dp_shard": 2, "zero": 3}, 7),
    Layout("tp 2 · pp 2 · dp 2, ZeRO 2, recompute full", DENSE,
           {"tp": 2, "pp": 2, "dp_shard": 2, "zero": 2, **_recompute("full")}, 7),
    Layout("experts: dp 8, ep 4, ZeRO 3", EXPERTS, {"dp_shard": 8, "ep": 4, "zero": 3}, 6),
    Layout("experts: tp 2 · dp 4, ep 4, ffn recompute", EXPERTS,
           {"tp": 2, "dp_shard": 4, "ep": 4, **_recompute("selective", "ffn")}, 3),
    Layout("experts: pp 2 · dp 2 · cp 2 · tp 2, ep 2, ring", EXPERTS,
           {"pp": 2, "dp_shard": 2, "cp": 2, "tp": 2, "ep": 2, "cp_kv": "ring", **_recompute("every_k")}, 13),
)  # fmt: skip


def workload(layout: Layout) -> Workload:
    """One row a micro-batch, ``MICRO_BATCHES`` of them a data rank."""
    plan = ParallelPlan(**layout.plan)
    return Workload.of(
        layout.config,
        plan,
        seq_len=SEQ_LEN,
        global_batch_tokens=SEQ_LEN * MICRO_BATCHES * plan.dp,
        micro_batch_tokens=SEQ_LEN,
    )


def measure(layout: Layout) -> dict[str, Any]:
    """One layout, both ways."""
    work = workload(layout)
    begun = time.perf_counter()
    predicted = predict(work, layout.rank)
    predict_s = time.perf_counter() - begun
    run = dry_run(work, TrainRecipe(), layout.rank)
    rows = compare(predicted, run)
    exact = [row for row in rows if row.tolerance == 0]
    peak = next(row for row in rows if row.tolerance > 0)
    return {
        "layout": layout.name,
        "ranks": work.plan.world_size,
        "rank": layout.rank,
        "state_bytes": run.state_bytes,
        "exact": all(row.agrees for row in exact),
        "exact_figures": len(exact),
        "collectives": sum(run.collectives.values()),
        "activations_predicted": peak.predicted,
        "activations": activation_peak(run),
        "difference": peak.difference,
        "peak_bytes": run.trace.peak()[0],
        "planned_peak_bytes": planned_peak_bytes(work, layout.rank),
        "dry_run_s": run.build_s + run.step_s,
        "cpu_s": run.cpu_s,
        "predict_s": predict_s,
    }


def pangu(rank: int, more: Sequence[str]) -> dict[str, Any]:
    """One rank of Pangu Ultra's 8,192, in a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "athanor", "dryrun", str(RECIPE), *PANGU, *more]
    done = subprocess.run([*command, "--world", "8192", "--rank", str(rank), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seen = json.loads(done.stdout)
    rows = seen["compared"]
    peak = next(row for row in rows if row["tolerance"] > 0)
    return {
        "rank": rank,
        "place": seen["place"],
        "recompute": "full" if more else "none",
        "exact": all(row["agrees"] for row in rows if row["tolerance"] == 0),
        "collectives": sum(call["calls"] for call in seen["collectives"]),
        "activations_predicted": peak["predicted"],
        "activations": peak["dry_run"],
        "difference": peak["difference"],
        "peak_bytes": seen["peak_bytes"],
        "peak_by_category": seen["peak_by_category"],
        "wall_s": time.perf_counter() - begun,
        "cpu_s": seen["cpu_s"],
        "rss_bytes": seen["rss_bytes"],
    }


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("layouts", "pangu"))
    parser.add_argument("--recompute", action="store_true", help="Pangu with full recompute beside none")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    layouts = [measure(layout) for layout in LAYOUTS] if args.only != "pangu" else []
    ranks = []
    if args.only != "layouts":
        for more in [()] + ([("parallel.recompute.mode=full",)] if args.recompute else []):
            ranks += [pangu(rank, more) for rank in (0, 4096, 8191)]
    if layouts:
        show("Layouts: cost model against dry run", _LAYOUT_COLUMNS, [_layout_row(row) for row in layouts])
    if ranks:
        show(
            "Pangu Ultra, tp 8 · pp 8 · dp 128, ZeRO 1, 16 × 4,096 tokens", _RANK_COLUMNS, [_rank_row(r) for r in ranks]
        )
    if args.out is not None:
        result = {"layouts": layouts, "pangu": ranks, "environment": environment()}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    good = all(row["exact"] and abs(row["difference"]) <= PEAK_TOLERANCE for row in [*layouts, *ranks])
    good &= all(abs(row["planned_peak_bytes"] / row["peak_bytes"] - 1) <= PLANNER_TOLERANCE for row in layouts)
    good &= all(row["wall_s"] <= MAX_S and row["rss_bytes"] <= MAX_RSS for row in ranks)
    return 0 if good else 1


_LAYOUT_COLUMNS = ("layout", "rank", "state, collectives, FLOPs", "calls", "activations: formula", "dry run",
                   "difference", "peak", "planner", "difference", "CPU s", "formula, s")  # fmt: skip
_RANK_COLUMNS = ("rank", "recompute", "state, collectives, FLOPs", "calls", "activations: formula", "dry run",
                 "difference", "peak", "s", "CPU s", "RSS")  # fmt: skip


def _layout_row(row: dict[str, Any]) -> list[Any]:
    told = f"{row['exact_figures']} exact" if row["exact"] else "differ"
    return [row["layout"], f"{row['rank']} of {row['ranks']}", told, f"{row['collectives']:,}",
            gib(row["activations_predicted"]), gib(row["activations"]), f"{row['difference']:+.3%}",
            gib(row["peak_bytes"]), gib(row["planned_peak_bytes"]),
            f"{row['planned_peak_bytes'] / row['peak_bytes'] - 1:+.1%}", f"{row['cpu_s']:.1f}",
            f"{row['predict_s']:.3f}"]  # fmt: skip


def _rank_row(row: dict[str, Any]) -> list[Any]:
    return [row["rank"], row["recompute"], "exact" if row["exact"] else "differ", f"{row['collectives']:,}",
            gib(row["activations_predicted"]), gib(row["activations"]), f"{row['difference']:+.3%}",
            gib(row["peak_bytes"]), f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", gib(row["rss_bytes"])]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
