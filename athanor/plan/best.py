"""The best plans of a model on a machine: search, then the timeline decides; by time, by cost, or by memory left."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from athanor.errors import AthanorError
from athanor.plan.cost import Problem
from athanor.plan.enumerate import Axes, Space
from athanor.plan.estimate import Estimate, estimate, leanest
from athanor.plan.explain import gave_up, smallest_world
from athanor.plan.layouts import Switches
from athanor.plan.search import Candidate, Search

Objective = Literal["time", "cost", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("time", "cost", "memory")
#: With the objective ``memory``, plans up to this share slower than the fastest compete for the most memory left.
SLOWER = 0.1
#: Estimates by timeline at most, and actions of all their timelines together (about a second).
REFINED, REFINED_ACTIONS = 24, 60_000


@dataclass(frozen=True)
class Answer:
    """The best plans, best first; ``notes``: what each gave up against the first (the first: what holds it back)."""

    problem: Problem
    world: int
    objective: Objective
    best: list[Estimate]
    notes: list[str]
    layouts: int  #: bounded or evaluated
    evaluations: int
    refined: int
    cpu_s: float

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "world": self.world,
            "objective": self.objective,
            "cluster": self.problem.cluster.name,
            "seq_len": self.problem.seq_len,
            "global_rows": self.problem.global_rows,
            "search": {
                "layouts": self.layouts,
                "evaluations": self.evaluations,
                "timelines": self.refined,
                "cpu_s": self.cpu_s,
            },
            "best": [{**e.summary(), "note": note} for e, note in zip(self.best, self.notes, strict=True)],
        }


def find(
    problem: Problem,
    world: int,
    *,
    top: int = 5,
    objective: Objective = "time",
    axes: Axes | None = None,
    switches: Switches | None = None,
) -> Answer:
    """The ``top`` best plans over ``world`` ranks of the problem's cluster.

    ``cost``: the fewest device-seconds a token, on ``world`` devices or any half, quarter, … of them. AthanorError: no
    layout is possible, none fits (with the smallest world on which one does), or an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise AthanorError(f"objective {objective!r}", where="--objective", fix=f"one of: {', '.join(OBJECTIVES)}")
    if top < 1:
        raise AthanorError(f"{top} plans", where="--top", fix="1 or more")
    if world > problem.cluster.devices:
        problem = dataclasses.replace(problem, cluster=problem.cluster.resized(world))
    began = time.process_time()
    worlds = [world]
    if objective == "cost":
        worlds = [world >> k for k in range(world.bit_length()) if world % (1 << k) == 0]
    best: list[Estimate] = []
    layouts = evaluations = refined = 0
    for size in worlds:
        search = Search(_space(problem, size, axes, switches), slack=SLOWER if objective == "memory" else 0.0)
        try:
            found = search.run()
        except AthanorError:
            if size == world:
                raise
            continue
        estimates = list(_refined(search, list(search.candidates(found)), objective, switches))
        layouts, evaluations, refined = (
            layouts + search.bounded,
            evaluations + search.evaluations,
            refined + len(estimates),
        )
        best += estimates
        if not estimates and best:
            break  # smaller worlds have less memory
    if not best:
        raise smallest_world(problem, world, axes, switches)
    best = _sorted(_distinct(best), objective)[:top]
    notes = [gave_up(e, best[0], objective) for e in best]
    return Answer(problem, world, objective, best, notes, layouts, evaluations, refined, time.process_time() - began)


def _space(problem: Problem, world: int, axes: Axes | None, switches: Switches | None) -> Space:
    smaller = dataclasses.replace(problem, cluster=problem.cluster.resized(world))
    return Space(smaller, world, axes or Axes(), switches or Switches())


def _distinct(best: list[Estimate]) -> list[Estimate]:
    """Without the same plan twice."""
    return list({(e.plan.model_dump_json(), e.rows): e for e in best}.values())


def _sorted(best: list[Estimate], objective: Objective) -> list[Estimate]:
    if objective == "cost":
        return sorted(best, key=lambda e: e.step_s * e.plan.world_size)
    best = sorted(best, key=lambda e: e.step_s)
    if objective == "memory":
        limit = best[0].step_s * (1 + SLOWER)
        return sorted((e for e in best if e.step_s <= limit), key=lambda e: -e.margin_bytes)
    return best


def _refined(
    search: Search, candidates: list[Candidate], objective: Objective, switches: Switches | None
) -> Iterator[Estimate]:
    """Estimates by timeline of those that promise most: two of each schedule, then in the order of the closed form
    corrected by how far it was off for that schedule."""
    problem, budget = search.space.problem, REFINED_ACTIONS
    if objective == "memory":
        yield from _leanest(problem, candidates, switches)
        return
    by_schedule = [list(group) for _, group in groupby(sorted(candidates, key=_schedule), key=_schedule)]
    factor: dict[str, float] = {}
    done = 0
    for group in by_schedule:
        ratios = []
        for candidate in sorted(group, key=lambda c: c.mixed_s)[:2]:
            found = _estimate(problem, candidate, search, switches)
            ratios.append(found.step_s / candidate.mixed_s)
            done, budget = done + 1, budget - _actions(candidate)
            yield found
        factor[_schedule(group[0])] = float(np.mean(ratios))
    rest = [c for group in by_schedule for c in sorted(group, key=lambda c: c.mixed_s)[2:]]
    for candidate in sorted(rest, key=lambda c: c.mixed_s * factor[_schedule(c)]):
        budget -= _actions(candidate)
        if done >= REFINED or budget < 0:
            return
        done += 1
        yield _estimate(problem, candidate, search, switches)


def _schedule(candidate: Candidate) -> str:
    return candidate.plan.schedule if candidate.plan.pp > 1 else ""


def _actions(candidate: Candidate) -> int:
    return 2 * candidate.micro_batches * candidate.plan.stages


def _estimate(problem: Problem, candidate: Candidate, search: Search, switches: Switches | None) -> Estimate:
    asked = bool(search.space.axes.recompute)  # a demanded recomputation stays as it is
    return estimate(problem, candidate.plan, candidate.rows, switches=switches, refine=not asked)


def _leanest(problem: Problem, candidates: Sequence[Candidate], switches: Switches | None) -> Iterator[Estimate]:
    """The fastest, and of the others those with most memory left, each with the recomputation that leaves most."""
    if not candidates:
        return
    fastest = min(candidates, key=lambda c: c.mixed_s)
    first = estimate(problem, fastest.plan, fastest.rows, switches=switches, refine=True)
    yield first
    near = [c for c in candidates if c.mixed_s <= fastest.mixed_s * (1 + SLOWER)]
    for candidate in sorted(near, key=lambda c: c.peak_bytes)[:REFINED]:
        yield leanest(problem, candidate.plan, candidate.rows, first.step_s * (1 + SLOWER), switches=switches)
