"""The planner's timeline beside real pipelines: idle share of one step, simulated and measured, for every schedule.

    python bench/timeline_vs_pipeline.py
    python bench/timeline_vs_pipeline.py --bars
    python bench/timeline_vs_pipeline.py --ranks 2 --stage-ms 20 --repeats 3 --out results.json

Ranks are processes that talk over gloo and run torch's schedules with stages that sleep a fixed time, so that any
number of them shares a core: forward one time, gradient of the input one, of the weights one. The simulation knows
these times and that messages take none; what is measured beyond it are the messages and the wake-ups of the machine.
Of ``--repeats`` measurements the least idle one counts, for other work on the machine only adds. Differences in
percentage points of the wall time. ``--bars`` only simulates: Pangu Ultra's published bubbles, and the CPU time of a
large timeline, generated, simulated and summed up with empty caches.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from athanor.files import write_atomic
from athanor.parallel.bubble import measure_bubble
from athanor.parallel.plan import ScheduleName
from athanor.plan.event_graph import event_graph
from athanor.plan.schedules import pipeline_order
from athanor.plan.timeline import PipelineWork, simulate
from bench.common import environment, show

Case = tuple[ScheduleName, int, int]  #: schedule, stages a rank, micro-batches

SIZES = ("schedule", "ranks", "stages a rank", "micro-batches")
CASES: dict[int, list[Case]] = {
    2: [("gpipe", 1, 4), ("1f1b", 1, 4), ("interleaved_1f1b", 2, 4), ("zbv", 2, 4), ("dualpipev", 2, 5)],
    3: [("gpipe", 1, 4), ("1f1b", 1, 5), ("interleaved_1f1b", 2, 4), ("zbv", 2, 5), ("dualpipev", 2, 7)],
    4: [("gpipe", 1, 8), ("1f1b", 1, 8), ("interleaved_1f1b", 3, 8), ("zbv", 2, 8), ("dualpipev", 2, 9)],
}


def simulated(schedule: ScheduleName, pp: int, vpp: int, micro_batches: int, stage_s: float) -> float:
    """Idle share of the step that ``measure`` runs."""
    times = {"forward_s": stage_s, "backward_input_s": stage_s, "backward_weight_s": stage_s}
    return simulate(PipelineWork(schedule, pp, vpp, micro_batches, **times)).idle_share  # type: ignore[arg-type]


def measured(cases: Sequence[Case], stage_s: float, repeats: int) -> list[list[float]]:
    """On a rank of a pipeline: the idle shares of each case, the same numbers on every rank."""
    pp = dist.get_world_size()
    return [[measure_bubble(s, pp, vpp, n, stage_s) for _ in range(repeats)] for s, vpp, n in cases]


def _rank(rank: int, folder: str, pp: int, stage_s: float, repeats: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", pp)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=pp)
    found = measured(CASES[pp], stage_s, repeats)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def compare(pp: int, stage_s: float, repeats: int) -> list[dict[str, Any]]:
    """A row for each case of ``pp`` ranks."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder, pp, stage_s, repeats), nprocs=pp)  # type: ignore[no-untyped-call]
        found = torch.load(f"{folder}/found.pt")
    rows = []
    for (schedule, vpp, n), idle in zip(CASES[pp], found, strict=True):
        expected, seen = simulated(schedule, pp, vpp, n, stage_s), min(idle)
        sizes = {"schedule": schedule, "ranks": pp, "stages_a_rank": vpp, "micro_batches": n}
        rows.append({**sizes, "simulated": expected, "measured": seen, "all_measured": idle})
    return rows


def bars() -> None:
    """Print what the simulation alone has to reach."""
    pangu = [(name, vpp, simulated(name, 8, vpp, 16, 1.0)) for name, vpp in (("1f1b", 1), ("interleaved_1f1b", 6))]  # type: ignore[arg-type]
    rows = [[name, "8", str(vpp), "16", f"{100 * idle:.2f}"] for name, vpp, idle in pangu]
    show("Pangu Ultra, 8 ranks, 16 micro-batches (published: 30.45, 6.8)", [*SIZES, "simulated %"], rows)
    pipeline_order.cache_clear()
    event_graph.cache_clear()
    start = time.process_time()
    work = PipelineWork(
        "interleaved_1f1b", 16, 8, 512, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0, p2p_s=0.01
    )
    actions = simulate(work).summary()["actions"]
    print(f"pp 16 × v 8 × 512 micro-batches, {actions:,} actions: {time.process_time() - start:.2f} CPU s (bar: 2)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--stage-ms", type=float, default=100.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bars", action="store_true", help="simulate the bars only")
    options = parser.parse_args(arguments)
    if options.bars:
        bars()
        return
    rows = [row for pp in options.ranks for row in compare(pp, options.stage_ms / 1000, options.repeats)]
    columns = [*SIZES, "simulated %", "measured %", "difference"]
    table = [
        [
            *(str(row[key]) for key in ("schedule", "ranks", "stages_a_rank", "micro_batches")),
            f"{100 * row['simulated']:.2f}",
            f"{100 * row['measured']:.2f}",
            f"{100 * (row['measured'] - row['simulated']):+.2f}",
        ]
        for row in rows
    ]
    show("Idle share of one step", columns, table)
    worst = max(abs(row["measured"] - row["simulated"]) for row in rows)
    print(f"largest difference {100 * worst:.2f} points; stages sleep {options.stage_ms:g} ms")
    if options.out:
        result = {"stage_ms": options.stage_ms, "rows": rows, "environment": environment()}
        write_atomic(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
