"""In words: what a plan gave up against a better one, why a demanded layout does not fit, and how many devices do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.cost import Problem
from athanor.plan.enumerate import Axes, Space
from athanor.plan.estimate import CATEGORIES, Estimate, estimate
from athanor.plan.layouts import Switches
from athanor.plan.search import Search
from athanor.plan.shape import parameters

GIB = 2.0**30
#: Worlds that are tried for the smallest one that fits.
TRIED = 512


def gave_up(plan: Estimate, winner: Estimate, objective: str = "time") -> str:
    """The winner: what its step is not compute. Another: where its step is longer, and its memory."""
    if plan is winner:
        lost = {k: v for k, v in plan.parts.items() if k not in ("compute",) and v > 0.005 * plan.step_s}
        named = [f"{k} {100 * v / plan.step_s:.1f} %" for k, v in sorted(lost.items(), key=lambda item: -item[1])]
        return f"{_memory(plan)}; of its step: {', '.join(named) or 'compute alone'}"
    more = {k: plan.parts[k] - winner.parts[k] for k in plan.parts}
    words = [
        f"{name} {1e3 * by:+,.0f} ms"
        for name, by in sorted(more.items(), key=lambda item: -abs(item[1]))
        if abs(by) > 0.002 * winner.step_s
    ][:3]
    left = plan.margin_bytes - winner.margin_bytes
    if plan.plan.world_size != winner.plan.world_size:
        words.insert(0, f"{plan.plan.world_size:,} devices")
    words.append("as much memory left" if abs(left) < 0.05 * GIB else f"{left / GIB:+.1f} GiB of memory left")
    return "; ".join(words)


def _memory(plan: Estimate) -> str:
    rank = int(plan.peak_bytes.argmax())
    most = max(CATEGORIES, key=lambda name: float(plan.memory[name][rank]))
    share = plan.memory[most][rank] / plan.peak_bytes[rank]
    state = "is short of memory" if plan.margin_bytes < 0.05 * plan.memory_bytes else "has memory left"
    return f"rank {rank} {state} ({plan.margin_bytes / GIB:.1f} GiB; {most} {100 * share:.0f} %)"


def why_not(plan: Estimate, switches: Switches | None = None) -> list[str]:
    """Why the plan does not fit, rank by rank at its worst, what takes the memory, and which single changes would make
    it fit. Empty where it fits."""
    if plan.fits:
        return []
    rank = int(plan.peak_bytes.argmax())
    over = plan.peak_bytes[rank] - plan.memory_bytes
    short = int((plan.peak_bytes > plan.memory_bytes).sum())
    lines = [
        f"pipeline rank {rank} needs {_bytes(plan.peak_bytes[rank])}, a device has {_bytes(plan.memory_bytes)}: "
        f"{_bytes(over)} ({over:,.0f} bytes) too much; {short} of {len(plan.peak_bytes)} ranks do not fit"
    ]
    held = {name: float(plan.memory[name][rank]) for name in CATEGORIES}
    held |= {"lost between blocks": float(plan.fragments[rank])}
    held |= {"driver and runtime": plan.problem.cluster.device.reserved_bytes}
    listed = [f"{name} {_bytes(v)}" for name, v in sorted(held.items(), key=lambda item: -item[1]) if v > 0]
    lines.append("it holds " + ", ".join(listed))
    fixes = [
        f"{words}: fits with {_bytes(e.margin_bytes)} left, {e.step_s:.3g} s a step"
        for words, e in _fixes(plan, switches)
    ]
    lines += [f"would fit: {text}" for text in fixes] or ["no single change makes it fit"]
    return lines


def _fixes(plan: Estimate, switches: Switches | None) -> Iterator[tuple[str, Estimate]]:
    """Single changes of the plan that fit."""
    base, rows = plan.plan, plan.rows
    changes: list[tuple[str, dict[str, object], int, bool]] = [("the least recomputation", {}, rows, True)]
    changes += [
        (f"zero {z}", {"zero": z}, rows, False) for z in range(base.zero + 1, 4) if z in plan.problem.engine.states
    ]
    if base.dp_replicate > 1:
        shards: dict[str, object] = {"dp_replicate": 1, "dp_shard": base.dp}
        changes.append((f"dp_shard {base.dp} (no replicas)", shards, rows, False))
    if rows % 2 == 0:
        changes.append((f"micro-batches of {rows // 2} rows", {}, rows // 2, False))
    if base.offload == "none":
        changes.append(("offload: optimizer", {"offload": "optimizer"}, rows, False))
    if base.dp_shard % 2 == 0:
        half = {"dp_shard": base.dp_shard // 2}
        changes.append((f"tp {2 * base.tp}, dp_shard {half['dp_shard']}", {"tp": 2 * base.tp, **half}, rows, False))
        deeper: dict[str, object] = {"pp": 2 * base.pp, "layers_per_stage": None, **half}
        changes.append((f"pp {2 * base.pp}, dp_shard {half['dp_shard']}", deeper, rows, False))
    changes.append(("recompute: full", {"recompute": RecomputePlan(mode="full")}, rows, False))
    for words, update, size, refine in changes:
        try:
            changed = ParallelPlan.model_validate(base.model_copy(update=update).model_dump())
            found = estimate(plan.problem, changed, size, switches=switches, refine=refine)
        except AthanorError:
            continue  # the checks refuse it
        if found.fits:
            yield words, found


def smallest_world(
    problem: Problem, world: int, axes: Axes | None = None, switches: Switches | None = None
) -> AthanorError:
    """The error for a model that fits nowhere on ``world`` devices, with the smallest number of devices (of whole nodes
    where it is more than one) on which it does."""
    device = problem.cluster.device
    what = f"the model fits in no layout of {world} device{'s' if world > 1 else ''} of {_bytes(device.memory_bytes)}"
    size = world
    for size in _worlds(problem, world):
        try:
            here = dataclasses.replace(problem, cluster=problem.cluster.resized(size))
            if Search(Space(here, size, axes or Axes(), switches or Switches()), keep=1).fits():
                return AthanorError(
                    what, where=problem.cluster.name, fix=f"the smallest world on which it fits is {size}"
                )
        except AthanorError:
            continue  # no layout, or no network that joins so many
    fix = f"none up to {size:,} devices fits either: a smaller model, shorter rows, or devices with more memory"
    return AthanorError(what, where=problem.cluster.name, fix=fix)


def _worlds(problem: Problem, world: int) -> Iterator[int]:
    """Larger worlds that could hold the states: one by one within a node, then by nodes."""
    node, engine, device = problem.cluster.node.devices, problem.engine, problem.cluster.device
    least = min(s.whole + s.sharded - engine.optimizer_share.get(z, 0.0) for z, s in engine.states.items())
    held = least * parameters(problem.config).total / (device.memory_bytes - device.reserved_bytes)
    if problem.cluster.node.host_memory_bytes == 0:
        held = min(s.whole + s.sharded for s in engine.states.values()) / least * held
    first = max(world + 1, int(held) + 1)
    sizes = [n for n in range(first, node)] if first < node else []
    nodes = range(max(-(-first // node), 1), max(-(-first // node), 1) + TRIED)
    yield from sizes
    yield from (n * node for n in nodes)


def _bytes(value: float) -> str:
    return f"{value / GIB:.2f} GiB" if abs(value) >= 0.1 * GIB else f"{value / 2**20:.1f} MiB"
