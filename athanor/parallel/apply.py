"""The one place where a finished model, or a pipeline stage of it, is laid over ranks, in a fixed order."""

from __future__ import annotations

import torch

from athanor.model.decoder import Decoder
from athanor.parallel.budget import Load, recompute_for
from athanor.parallel.context_attention import apply_context_parallel
from athanor.parallel.data import apply_data_parallel
from athanor.parallel.expert import apply_expert_parallel
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.tensor import apply_tensor_parallel
from athanor.train.compiling import compile_blocks


def parallelize(
    model: Decoder,
    ranks: Ranks,
    plan: ParallelPlan,
    dtype: torch.dtype,
    *,
    compiled: bool = False,
    load: Load | None = None,
) -> None:
    """Change ``model`` in place: tensor and sequence → expert → context → overlap → recompute → compile → data.

    Each step relies on those before it: FSDP2 shards what tensor and expert parallel left on this rank, compiled blocks
    contain their recomputation, and recomputation wraps the collectives inside a block. ``dtype``: compute precision.
    ``load``: the batches to come, for recomputation within a budget.
    """
    if plan.tp > 1:
        apply_tensor_parallel(model, ranks, plan)
    if plan.ep > 1:
        apply_expert_parallel(model, ranks, plan)
    if plan.cp > 1:
        apply_context_parallel(model, ranks, plan)
    if plan.chunks > 1 or plan.copies > 1:
        from athanor.parallel.overlap import apply_chunked, apply_copies
    if plan.chunks > 1:
        apply_chunked(model, ranks, plan)
    if plan.copies > 1:
        apply_copies(model, ranks, plan)
    recompute_for(model, plan, ranks.at("pp"), load, dtype)
    if compiled:
        compile_blocks(model, ranks.device)
    apply_data_parallel(model, ranks, plan, dtype)
