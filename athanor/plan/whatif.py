"""What if: a demanded layout, two plans side by side, more devices, a whole token budget with failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan
from athanor.plan.best import find
from athanor.plan.cluster import Cluster
from athanor.plan.cost import Problem
from athanor.plan.enumerate import Axes, divisors
from athanor.plan.estimate import Estimate, estimate
from athanor.plan.goodput import HOUR_S, Bill, Prices, Reliability, bill
from athanor.plan.shape import parameters

#: Worlds of a scaling curve end here.
MOST_DEVICES = 100_000
#: Bytes a parameter in a checkpoint: float32 masters and two moments (``athanor.train.checkpoint``).
CHECKPOINT_BYTES = 12


def demanded(problem: Problem, plan: ParallelPlan, rows: int | None) -> Estimate:
    """The estimate of a layout that is given. ``rows`` None: the micro-batch that is fastest of those that fit (of all,
    where none fits). AthanorError: the layout is impossible, with all that is wrong with it."""
    if rows is not None:
        return estimate(problem, plan, rows)
    local = problem.global_rows // plan.dp
    found, problems = [], []
    for size in divisors(local) if local else [1]:
        try:
            found.append(estimate(problem, plan, size))
        except AthanorError as error:
            problems.append(error)
    if not found:
        raise problems[0]
    return min(found, key=lambda e: (not e.fits, e.step_s if e.fits else e.peak_bytes.max()))


# --- scaling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScalePoint:
    """The best plan on so many devices; ``efficiency``: throughput a device over that of the first point."""

    world: int
    rows: int
    best: Estimate
    efficiency: float

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"world": self.world, "global_rows": self.rows, "efficiency": self.efficiency, **self.best.summary()}


def scale(
    problem: Problem, worlds: Iterable[int], kind: Literal["strong", "weak"], *, axes: Axes | None = None
) -> tuple[list[ScalePoint], list[str]]:
    """Best plans over ``worlds``. ``strong``: the same batch everywhere; ``weak``: rows in proportion to the devices,
    the problem's on its own cluster. Worlds without a plan are left out, with the reason in the second list."""
    points: list[ScalePoint] = []
    left: list[str] = []
    for world in worlds:
        rows = problem.global_rows
        if kind == "weak":
            rows, rest = divmod(problem.global_rows * world, problem.cluster.devices)
            if rest or not rows:
                left.append(f"{world:,} devices: {problem.global_rows} rows do not scale to a whole number")
                continue
        here = dataclasses.replace(problem, global_rows=rows, cluster=problem.cluster.resized(world))
        try:
            best = find(here, world, top=1, axes=axes).best[0]
        except AthanorError as error:
            left.append(f"{world:,} devices: {str(error).splitlines()[0]}")
            continue
        each = best.tokens_per_s / world
        first = points[0].best.tokens_per_s / points[0].world if points else each
        points.append(ScalePoint(world, rows, best, each / first))
    return points, left


def worlds_up_to(cluster: Cluster, smallest: int, most: int = MOST_DEVICES) -> list[int]:
    """``smallest``, doubled while at most ``most``; ``most`` itself where it is a number of whole nodes."""
    found, size = [], smallest
    while size <= most:
        found.append(size)
        size *= 2
    if most not in found and most % cluster.node.devices == 0:
        found.append(most)
    return found


# --- the whole run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunCost:
    """A token budget with failures: ``ideal`` without them."""

    reliability: Reliability | None
    interval_s: float | None  #: between checkpoints
    goodput: float
    ideal: Bill
    expected: Bill
    currency: str

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "goodput": self.goodput,
            "checkpoint": self.reliability.summary(self.interval_s) if self.reliability else None,
            "checkpoint_s": self.reliability.checkpoint_s if self.reliability else None,
            "ideal": self.ideal.summary(),
            "expected": self.expected.summary(),
            "currency": self.currency,
        }


def run_cost(
    best: Estimate,
    tokens: float,
    *,
    mtbf_s: float | None = None,
    checkpoint_s: float | None = None,
    restart_s: float | None = None,
) -> RunCost:
    """Days, money and energy for ``tokens`` with ``best``, at the checkpoint interval of the highest goodput.

    What is None comes from the cluster: mean time between failures of a device, restart, and a checkpoint's time from
    its bytes and the nodes' storage bandwidth. Without ``reliability`` there and without ``mtbf_s`` nothing fails.
    """
    cluster, world = best.problem.cluster, best.plan.world_size
    known = cluster.reliability
    prices, currency = Prices(), ""
    if cluster.cost is not None:
        prices = Prices(cluster.cost.device_hour, cluster.cost.device_w, cluster.cost.overhead)
        currency = cluster.cost.currency
    mtbf = mtbf_s if mtbf_s is not None else known.device_mtbf_s if known else None
    if mtbf is not None and not mtbf > 0:
        raise AthanorError(f"{mtbf} s", where="mean time between failures", fix="more than 0")
    common = {"tokens": tokens, "tokens_per_step": best.costs.tokens, "step_s": best.step_s, "devices": world}
    ideal = bill(**common, prices=prices)  # type: ignore[arg-type]
    if mtbf is None:
        return RunCost(None, None, 1.0, ideal, ideal, currency)
    if checkpoint_s is None:
        rate = (known.storage_bytes_per_s if known else 2e9) * -(-world // cluster.node.devices)
        checkpoint_s = parameters(best.problem.config).total * CHECKPOINT_BYTES / rate
    restart = restart_s if restart_s is not None else known.restart_s if known else 600.0
    reliability = Reliability(world, HOUR_S / mtbf, checkpoint_s, restart)
    steps = reliability.best_steps(best.step_s)
    interval = steps * best.step_s if steps else None
    goodput = reliability.goodput(interval) if interval else reliability.availability
    expected = bill(**common, goodput=goodput, prices=prices)  # type: ignore[arg-type]
    return RunCost(reliability, interval, goodput, ideal, expected, currency)


def differences(a: Estimate, b: Estimate) -> list[tuple[str, float, float]]:
    """(what, a, b) for a table: seconds of the step by part, then memory by category on the fullest rank."""
    rows = [("step", a.step_s, b.step_s), *((k, a.parts[k], b.parts[k]) for k in a.parts)]
    return [row for row in rows if max(row[1:]) > 0]


def held(plan: Estimate) -> dict[str, float]:
    """Bytes by category of the fullest rank."""
    rank = int(plan.peak_bytes.argmax())
    found = {name: float(values[rank]) for name, values in plan.memory.items()}
    found["lost between blocks"] = float(plan.fragments[rank])
    found["driver and runtime"] = plan.problem.cluster.device.reserved_bytes
    return found


def layout_words(plan: ParallelPlan, rows: int) -> str:
    """``tp 8 · cp 1 · pp 8 × v 12 · dp 128 · ZeRO 1 · interleaved_1f1b · 1 row``; sizes of 1 are left out."""
    parts: Sequence[str] = [
        f"tp {plan.tp}{'' if plan.sp else ' without sp'}" if plan.tp > 1 else "",
        f"cp {plan.cp} ({plan.cp_split}, {plan.cp_kv})" if plan.cp > 1 else "",
        f"pp {plan.pp}{f' × v {plan.vpp}' if plan.vpp > 1 else ''} {plan.schedule}" if plan.pp > 1 else "",
        f"ep {plan.ep}" if plan.ep > 1 else "",
        f"dp {plan.dp_replicate} × {plan.dp_shard}" if plan.dp_replicate > 1 else f"dp {plan.dp_shard}",
        f"ZeRO {plan.zero}",
        f"{rows} row{'s' if rows > 1 else ''} a micro-batch",
        f"{plan.copies} copies" if plan.copies > 1 else "",
        f"{plan.chunks} chunks" if plan.chunks > 1 else "",
        f"offload {plan.offload}" if plan.offload != "none" else "",
    ]
    return " · ".join(part for part in parts if part)
