"""The order in which a pipeline rank computes, and when FSDP gathers on the way: what torch's schedules do.

1F1B and its interleaved form: arXiv 2104.04473, section 2.2. The V-shaped schedules split the backward pass in two and
are not modelled here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from athanor.parallel.activations import Choice
from athanor.parallel.plan import ParallelPlan
from athanor.plan.engine_states import V_SHAPED, States, Unit
from athanor.plan.workload import NotModelled, Workload

#: torch keeps at most this many stages of an interleaved schedule gathered
ACTIVE_STAGES = 3


class Action(NamedTuple):
    """``F``/``B``: forward or backward of a stage over a micro-batch; ``U``/``R``: gather or free all of a stage."""

    kind: Literal["F", "B", "U", "R"]
    stage: int
    micro_batch: int = -1


def actions(plan: ParallelPlan, pp_rank: int, n_micro: int) -> list[Action]:
    """What rank ``pp_rank`` of a pipeline does in one step, in order; NotModelled for the V-shaped schedules."""
    if plan.pp == 1:
        return [Action(kind, 0, i) for i in range(n_micro) for kind in ("F", "B")]  # type: ignore[arg-type]
    if plan.schedule in V_SHAPED:
        raise NotModelled(
            f"schedule {plan.schedule} has a backward pass in two halves, which the engine's cost model does not know",
            where="parallel.schedule",
        )
    if plan.schedule == "gpipe":
        return [Action(kind, pp_rank, i) for kind in ("F", "B") for i in range(n_micro)]  # type: ignore[arg-type]
    if plan.schedule == "1f1b":
        return list(_alternate([pp_rank] * n_micro, [pp_rank] * n_micro, min(n_micro, plan.pp - pp_rank) - 1))
    per_round = n_micro // max(1, n_micro // plan.pp)
    warm_up = (plan.vpp - 1) * per_round + 2 * (plan.pp - 1 - pp_rank)
    turns = [step // per_round % plan.vpp for step in range(n_micro * plan.vpp)]
    forward = [turn * plan.pp + pp_rank for turn in turns]
    backward = [(plan.vpp - 1 - turn) * plan.pp + pp_rank for turn in turns]
    return _with_gathers(list(_alternate(forward, backward, min(warm_up, len(turns)))))


def _alternate(forward: Sequence[int], backward: Sequence[int], warm_up: int) -> Iterator[Action]:
    """``warm_up`` forward passes, then one forward and one backward in turn, then the backward passes left."""
    seen: dict[str, Counter[int]] = {"F": Counter(), "B": Counter()}

    def next_of(kind: Literal["F", "B"], stage: int) -> Action:
        seen[kind][stage] += 1
        return Action(kind, stage, seen[kind][stage] - 1)

    for i, stage in enumerate(forward):
        yield next_of("F", stage)
        if i >= warm_up:
            yield next_of("B", backward[i - warm_up])
    for stage in backward[len(forward) - warm_up :]:
        yield next_of("B", stage)


def _with_gathers(order: list[Action]) -> list[Action]:
    """As torch's runtime does it: the next stages to compute are gathered ahead, others freed."""
    active: set[int] = set()
    out: list[Action] = []
    for i, action in enumerate(order):
        coming: list[int] = []
        for later in order[i:]:
            if later.stage not in coming:
                coming.append(later.stage)
                if len(coming) == ACTIVE_STAGES:
                    break
        fetch = [stage for stage in coming if stage not in active]
        out += [Action("R", stage) for stage in active if stage not in coming]
        out += [Action("U", stage) for stage in fetch]
        active = (active & set(coming)) | set(fetch)
        out.append(action)
    return out


def gathers(states: States, order: Sequence[Action]) -> Counter[Unit]:
    """How often every unit is gathered in a step."""
    plan, counts = states.plan, Counter[Unit]()
    whole: set[tuple[int, str]] = set()

    def gather(stage: int, unit: Unit) -> None:
        if (stage, unit.name) not in whole:
            whole.add((stage, unit.name))
            counts[unit] += 1

    last = max((a.micro_batch for a in order), default=0)
    for action in order:
        for unit in states.units[action.stage]:
            key = (action.stage, unit.name)
            if action.kind == "R":
                whole.discard(key)
                continue
            gather(action.stage, unit)
            if action.kind == "F" and not unit.stays:
                whole.discard(key)
            # A pipeline frees after the last backward pass; elsewhere also each one that reduces or shards parameters.
            if action.kind == "B" and plan.pp == 1 and (plan.zero >= 2 or action.micro_batch == last):
                whole.discard(key)
    return counts


def choice_of(plan: ParallelPlan, layer: int) -> Choice:
    """What block ``layer`` of the whole model recomputes (``athanor.parallel.recompute`` decides likewise)."""
    recompute = plan.recompute
    if recompute.mode == "budget":
        raise NotModelled(
            "what a budget of activation bytes comes to is decided where the model is laid out",
            where="parallel.recompute.mode",
        )
    if recompute.mode == "selective":
        if recompute.names:
            return tuple(sorted(set(recompute.names)))
        return "gathers" if recompute.communication == "recompute" else "none"
    if recompute.mode == "every_k":
        return "full" if layer % recompute.every_k == 0 else "none"
    return "full" if recompute.mode == "full" else "none"


def keeps_input(work: Workload, names: set[str]) -> bool:
    """Whether a post-norm asks for its input again: an RMSNorm in half precision keeps a wider copy instead."""
    copied = work.config.norm_type == "rmsnorm" and work.dtype.itemsize < 4
    return "norms" in names or not copied
