"""The planner's bars: how fast it evaluates, searches and simulates, and what it says of Pangu Ultra's own layout.

    python bench/planner.py

Seconds are CPU seconds of one core, best of three for the short ones (one BLAS thread: set OMP_NUM_THREADS=1). Bubbles
come from simulated timelines of equal stages, not from a formula. Published: arXiv 2504.07866, section 4.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from athanor.parallel.plan import ParallelPlan, ScheduleName
from athanor.plan.best import find
from athanor.plan.bounds import Bounds
from athanor.plan.cluster import load_cluster
from athanor.plan.cost import Problem
from athanor.plan.enumerate import Axes, Space
from athanor.plan.estimate import Estimate, estimate
from athanor.plan.schedules import pipeline_order
from athanor.plan.search import Search
from athanor.plan.shape import parameters
from athanor.plan.switches import switch_table
from athanor.plan.timeline import PipelineWork, simulate
from athanor.recipe import PRESETS
from bench.common import show

GIB = 2.0**30
BARS = {"evaluations_per_s": 20_000, "search_s": 5.0, "timeline_s": 2.0}
PUBLISHED = ParallelPlan(
    tp=8, pp=8, vpp=6, dp_shard=128, zero=1, schedule="interleaved_1f1b", layers_per_stage=(1, *(2,) * 46, 1)
)


def pangu() -> Problem:
    """Pangu Ultra on 8,192 devices: rows of 4,096 tokens, 2,048 of them a step."""
    return Problem(PRESETS["pangu-ultra-135b"], 4096, 2048, load_cluster("ascend-910b-8192"))


def cpu_s(work: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds, the best of ``times``."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def evaluations(problem: Problem, count: int = 20_000) -> dict[str, float]:
    """Different layouts of the whole space a second, as the cost model takes them; and those of the published pipeline
    (48 stages), which are dearer than the mean."""
    out = {}
    for name, axes in (("whole space", Axes()), ("pp 8, 6 virtual stages", Axes(pp=(8,), vpp=(6,)))):
        space = Space(problem, 8192, axes)
        search, bounds = Search(space), Bounds(space)
        search.__dict__["_bounds"] = bounds
        cores = np.unique(np.linspace(0, len(bounds.cores[0]) - 1, 4000).astype(np.int64))
        core, option, _ = bounds.pairs(cores, np.inf)
        chosen = np.random.default_rng(0).permutation(len(core))[:count]
        core, option = cores[core[chosen]], option[chosen]
        out[name] = len(core) / cpu_s(partial(search.costs, core, option))
    return out


def bubbles() -> list[dict[str, Any]]:
    """Idle share of the wall time of equal stages, simulated; published 30.45 and 6.8 %."""
    rows = []
    for vpp, published in ((1, 30.45), (6, 6.8)):
        share = 1 / vpp
        schedule: ScheduleName = "interleaved_1f1b" if vpp > 1 else "1f1b"
        work = PipelineWork(schedule, 8, vpp, 16, forward_s=share, backward_input_s=share, backward_weight_s=share)
        rows.append({"vpp": vpp, "simulated_percent": 100 * simulate(work).idle_share, "published_percent": published})
    return rows


def large_timeline() -> None:
    """pp 16 × v 8 × 512 micro-batches, the order of actions made anew."""
    pipeline_order.cache_clear()
    work = PipelineWork(
        "interleaved_1f1b", 16, 8, 512, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0, p2p_s=0.05
    )
    simulate(work)


def describe(plan: Estimate) -> dict[str, Any]:
    """What the table shows."""
    return {
        "step_s": plan.step_s,
        "closed_form_s": plan.closed_s if np.isfinite(plan.closed_s) else None,
        "mfu_causal": plan.mfu("causal"),
        "mfu_full": plan.mfu("full"),
        "bubble_share": plan.timeline.idle_share,
        "peak_gib": float(plan.peak_bytes.max()) / GIB,
        "fits": plan.fits,
        "recompute": plan.mix.label,
    }


def layouts(problem: Problem, best: Estimate) -> dict[str, Estimate]:
    """The published layout without and with what came later, and the best found."""
    chunked = PUBLISHED.model_copy(update={"chunks": 8})
    return {
        "published layout": estimate(problem, PUBLISHED, 1, refine=True),
        "published layout, products in pieces": estimate(problem, chunked, 1, refine=True),
        "found": best,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write; returns what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/planner.json"))
    args = parser.parse_args(argv)
    problem = pangu()
    rates = evaluations(problem)
    answers = [find(problem, 8192, top=5) for _ in range(2)]
    answer = min(answers, key=lambda a: a.cpu_s)
    timeline_s = cpu_s(large_timeline)
    plans = layouts(problem, answer.best[0])
    lines = switch_table(problem, PUBLISHED, 1, 16)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python bench/planner.py",
        "bars": BARS,
        "evaluations_per_s": rates,
        "search_s": answer.cpu_s,
        "search": {"layouts": answer.layouts, "evaluations": answer.evaluations, "timelines": answer.refined},
        "timeline_s": timeline_s,
        "bubbles": bubbles(),
        "parameters": parameters(problem.config).total,
        "plans": {name: describe(plan) for name, plan in plans.items()},
        "found_plan": answer.best[0].plan.model_dump(mode="json"),
        "switches": [
            {"name": x.words, "step_s": x.step_s, "mfu_full": x.mfu_full, "mfu_causal": x.mfu_causal} for x in lines
        ],
        "published_mfu": {"with virtual pipeline": 0.43, "with all": 0.52},
    }
    report(result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return result


def report(result: dict[str, Any]) -> None:
    """The tables."""
    bars = result["bars"]
    rows = [
        [f"evaluations a second, {name}", f"{rate:,.0f}", f"≥ {bars['evaluations_per_s']:,}"]
        for name, rate in result["evaluations_per_s"].items()
    ]
    rows.append(["complete search, 8,192 devices, s", f"{result['search_s']:.2f}", f"≤ {bars['search_s']}"])
    rows.append(["timeline pp 16 × v 8 × 512, s", f"{result['timeline_s']:.2f}", f"≤ {bars['timeline_s']}"])
    rows.append(["parameters, B", f"{result['parameters'] / 1e9:.1f}", "133.9"])
    for b in result["bubbles"]:
        simulated = f"{b['simulated_percent']:.2f}"
        rows.append([f"bubble v {b['vpp']}, %, simulated", simulated, f"{b['published_percent']}"])
    show("the planner's bars", ["figure", "measured", "bar or published"], rows)
    plans = [
        [name, f"{p['step_s']:.3f}", *_mfu(p), f"{p['peak_gib']:.1f}", str(p["fits"])]
        for name, p in result["plans"].items()
    ]
    columns = ["step s", "MFU causal %", "MFU full %"]
    show("Pangu Ultra on 8,192 devices", ["layout", *columns, "GiB", "fits"], plans)
    lines = [[x["name"], f"{x['step_s']:.3f}", *_mfu(x)] for x in result["switches"]]
    show("switches, one after another (published: about 43 %, then over 52 %)", ["switch", *columns], lines)


def _mfu(values: dict[str, Any]) -> list[str]:
    return [f"{100 * values[name]:.1f}" for name in ("mfu_causal", "mfu_full")]


if __name__ == "__main__":
    main()
