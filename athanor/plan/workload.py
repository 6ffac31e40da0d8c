"""What one step of training is: a model shape, a layout, and the batch of one data rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.checks import check_plan, micro_batches
from athanor.parallel.plan import ParallelPlan


class NotModelled(AthanorError):
    """The formulas do not know this; the engine itself does."""


#: Dimensions of the ranks, outermost first (as ``athanor.parallel.mesh`` lays them out).
DIMS = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


@dataclass(frozen=True)
class Workload:
    """One optimizer step of ``plan``. Every data rank has ``micro_batches`` micro-batches of ``rows`` × ``seq_len``
    tokens (before context parallel); ``doc_lens`` are the documents of a row (they sum to ``seq_len``)."""

    config: ModelConfig
    plan: ParallelPlan
    seq_len: int
    rows: int
    micro_batches: int
    doc_lens: tuple[int, ...]
    dtype: torch.dtype = torch.bfloat16  #: of the computation; masters, gradients and moments are float32

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        plan: ParallelPlan,
        *,
        seq_len: int,
        global_batch_tokens: int,
        micro_batch_tokens: int | None = None,
        doc_len: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Workload:
        """From what a recipe says; AthanorError with all that does not fit. ``doc_len``: the row's documents are this
        long (None: one document a row)."""
        check_plan(
            plan,
            config,
            world_size=plan.world_size,
            seq_len=seq_len,
            global_batch_tokens=global_batch_tokens,
            micro_batch_tokens=micro_batch_tokens,
        )
        count, rows = micro_batches(
            plan,
            seq_len=seq_len,
            global_batch_tokens=global_batch_tokens,
            micro_batch_tokens=micro_batch_tokens,
        )
        length = doc_len or seq_len
        if not 0 < length <= seq_len:
            raise AthanorError(f"documents of {length} tokens in rows of {seq_len}", fix=f"1 to {seq_len}")
        docs = [length] * (seq_len // length)
        docs += [seq_len - sum(docs)] if sum(docs) < seq_len else []
        return cls(config, plan, seq_len, rows, count, tuple(docs), dtype)

    @property
    def tokens(self) -> int:
        """Of one micro-batch, before context parallel."""
        return self.rows * self.seq_len

    @property
    def local_tokens(self) -> int:
        """Of one micro-batch on one context-parallel rank."""
        return self.rows * -(-self.seq_len // self.plan.cp)

    @property
    def spread(self) -> bool:
        """Whether the residual stream is cut over tensor-parallel ranks along the sequence."""
        return self.plan.tp > 1 and self.plan.sp and (-(-self.seq_len // self.plan.cp)) % self.plan.tp == 0


def coordinates(plan: ParallelPlan, rank: int) -> dict[str, int]:
    """Where a rank is: its place in each of ``DIMS``, and in ``fsdp`` (dp_shard · cp), ``expert_fsdp``, ``ep``."""
    shape = tuple(getattr(plan, name) for name in DIMS)
    at = dict(zip(DIMS, (int(x) for x in np.unravel_index(rank, shape)), strict=True))
    at["fsdp"] = at["dp_shard"] * plan.cp + at["cp"]
    at["expert_fsdp"], at["ep"] = divmod(at["fsdp"], plan.ep)
    return at


def group_of(plan: ParallelPlan, rank: int, dims: Sequence[str]) -> list[int]:
    """The ranks that differ from ``rank`` in ``dims`` at most (of ``DIMS``, or of pp, dp_replicate, expert_fsdp, ep,
    tp), in order."""
    names, shape = _grid(plan, bool({"ep", "expert_fsdp"} & set(dims)))
    grid = np.arange(plan.world_size).reshape(shape)
    place = np.unravel_index(rank, shape)
    index = tuple(slice(None) if name in dims else int(at) for name, at in zip(names, place, strict=True))
    return [int(x) for x in grid[index].flatten()]


def _grid(plan: ParallelPlan, experts: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not experts:
        return DIMS, tuple(getattr(plan, name) for name in DIMS)
    names = ("pp", "dp_replicate", "expert_fsdp", "ep", "tp")
    return names, (plan.pp, plan.dp_replicate, plan.dp_shard * plan.cp // plan.ep, plan.ep, plan.tp)


def axis_of(plan: ParallelPlan, ranks: Sequence[int]) -> str:
    """What a group of ranks spans, by the dimensions of the plan that are larger than 1: ``tp``, ``dp_shard·cp``, …

    The same ranks have the same name whichever way they came together. ``none``: one rank.
    """
    for experts in (False, True):
        names, shape = _grid(plan, experts)
        places = np.stack(np.unravel_index(np.asarray(ranks), shape))
        spans = [i for i in range(len(shape)) if len(set(places[i].tolist())) > 1]
        if math.prod(shape[i] for i in spans) == len(ranks):
            return "·".join(names[i] for i in spans) or "none"
    return f"{len(ranks)} ranks"
