"""What each part of an implementation is worth: one line a switch, turned on one after another in one layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from athanor.parallel.plan import ParallelPlan
from athanor.plan.cost import Problem, evaluate
from athanor.plan.layouts import Layouts, Switches

#: The order of the lines, with what a person calls each.
NAMES = {
    "fused_attention": "fused attention: scores never in memory",
    "dp_overlap": "data-parallel collectives beside compute",
    "p2p_overlap": "sends between stages beside compute",
    "compressed_mask": "compressed masks: masked blocks skipped, no T × T mask read",
    "fused_ops": "fused norm, rotary, activation, residual",
    "fused_accumulation": "weight gradients added inside the product",
    "chunked_tp": "products in pieces beside their collectives",
    "context_by_document": "context parallel cuts every document",
}


@dataclass(frozen=True, slots=True)
class SwitchLine:
    """The layout with this switch and those of the lines above on."""

    name: str
    words: str
    step_s: float
    mfu_causal: float
    mfu_full: float
    peak_bytes: float


def switch_table(
    problem: Problem, plan: ParallelPlan, rows: int, micro_batches: int, order: Sequence[str] = tuple(NAMES)
) -> list[SwitchLine]:
    """First line: every switch of ``order`` off (those not named as the plan says). Each further line turns one on.

    ``plan.chunks`` of 1 would leave ``chunked_tp`` without effect: it counts as pieces of one for each tensor rank.
    """
    pieces = plan.model_copy(update={"chunks": plan.chunks if plan.chunks > 1 else plan.tp})
    state = dataclasses.replace(Switches(), **dict.fromkeys(order, False))
    steps = [state]
    for name in order:
        state = dataclasses.replace(state, **{name: True})
        steps.append(state)
    at = Layouts.of([pieces] * len(steps), problem.config.num_hidden_layers, rows, micro_batches, steps)
    costs = evaluate(problem, at)
    causal, full = costs.mfu("causal"), costs.mfu("full")
    words = ["all of these off", *(NAMES[name] for name in order)]
    return [
        SwitchLine(name, text, *(float(x[i]) for x in (costs.step_s, causal, full, costs.peak_bytes)))
        for i, (name, text) in enumerate(zip(["off", *order], words, strict=True))
    ]
