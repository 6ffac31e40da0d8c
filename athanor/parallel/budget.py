"""Recomputation as a run needs it: a budget of bytes becomes a choice once batches, layout and schedule are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from athanor.model.decoder import Decoder
from athanor.parallel.activations import Layout, RecomputeChoice
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.recompute import apply_recompute
from athanor.recipe.schema import TrainRecipe


@dataclass(frozen=True, slots=True)
class Load:
    """The largest batches that a run brings: tokens of a micro-batch before it is split, the longest row, micro-batches
    of a data rank in one step."""

    micro_batch_tokens: int
    seq_len: int
    micro_batches: int

    @classmethod
    def of(cls, recipe: TrainRecipe, plan: ParallelPlan) -> Load:
        """The largest of all stages."""
        seq_lens = [stage.seq_len or recipe.seq_len for stage in recipe.stages] or [recipe.seq_len]
        sizes = [s.global_batch_tokens or recipe.global_batch_tokens for s in recipe.stages]
        sizes += [step.global_batch_tokens for s in recipe.stages for step in s.batch_ramp]
        local = max(sizes or [recipe.global_batch_tokens]) // plan.dp
        tokens = max(recipe.micro_batch_tokens or local, *seq_lens, 1)
        return cls(tokens, max(seq_lens), max(local // tokens, 1))


def in_flight(plan: ParallelPlan, place: int, micro_batches: int) -> int:
    """Micro-batches that a stage of pipeline rank ``place`` holds at once between forward and backward.

    1F1B p − r; interleaved ((v−1)·p + 2·(p−r−1) + 1)/v over a rank's stages (arXiv 2104.04473, section 2.2); GPipe all;
    ZBV p, DualPipeV p + 1 at most (arXiv 2412.19437, table 2).
    """
    p, v = plan.pp, plan.vpp
    held = {
        "gpipe": micro_batches,
        "1f1b": p - place,
        "interleaved_1f1b": -(-((v - 1) * p + 2 * (p - place - 1) + 1) // v),
        "zbv": p,
        "dualpipev": p + 1,
    }[plan.schedule]
    return 1 if p == 1 else min(held, micro_batches)


def recompute_for(
    model: Decoder, plan: ParallelPlan, place: int, load: Load | None, dtype: torch.dtype | None = None
) -> RecomputeChoice:
    """:func:`apply_recompute` as a run needs it: a rank's budget is shared evenly by its stages, and what a stage keeps
    follows from its batches, the layout and the schedule. ``place``: this rank's in the pipeline."""
    recompute = plan.recompute
    if recompute.mode != "budget" or load is None or recompute.budget_bytes is None:
        return apply_recompute(model, recompute)
    share = recompute.model_copy(update={"budget_bytes": max(recompute.budget_bytes // plan.vpp, 1)})
    layout = Layout(plan.tp, plan.sp, plan.cp, in_flight(plan, place, load.micro_batches))
    return apply_recompute(
        model, share, micro_batch_tokens=load.micro_batch_tokens, seq_len=load.seq_len, layout=layout, dtype=dtype
    )
