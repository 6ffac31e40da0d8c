"""A plan is a value: how one training step is laid over ranks. The recipe pins it, or the planner finds it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: What a selection may name: parts of a block whose activations are dropped and made again in the backward pass.
RecomputeName = Literal["attention", "ffn", "norms", "up_proj", "gate_proj", "qkv_proj"]
ScheduleName = Literal["gpipe", "1f1b", "interleaved_1f1b", "zbv", "dualpipev"]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecomputePlan(_Value):
    """Which activations are made again instead of kept."""

    mode: Literal["none", "full", "every_k", "selective", "budget"] = "none"
    every_k: int = Field(default=2, gt=0, description="mode every_k: each k-th block is made again whole")
    names: tuple[RecomputeName, ...] = Field(default=(), description="mode selective: parts of every block")
    communication: Literal["save", "recompute"] = Field(
        default="recompute", description="whether results of collectives are kept (compute alone is made again) or not"
    )
    budget_bytes: int | None = Field(default=None, gt=0, description="mode budget: activation bytes a rank may hold")


class ParallelPlan(_Value):
    """The layout of a run. ``world_size`` is the product of ``dp_replicate · dp_shard · cp · pp · tp``.

    ``ep`` adds no ranks: it is folded over those of ``dp_shard · cp``.
    """

    dp_replicate: int = Field(default=1, gt=0, description="copies of the whole sharded model (hybrid sharding)")
    dp_shard: int = Field(default=1, gt=0, description="ranks over which ZeRO spreads state")
    zero: Literal[0, 1, 2, 3] = Field(
        default=3, description="0: plain data parallel; 1: optimizer; 2: and gradients; 3: and parameters sharded"
    )
    tp: int = Field(default=1, gt=0, description="tensor parallel")
    sp: bool = Field(default=True, description="with tp > 1: norms and residual stream sharded along the sequence")
    cp: int = Field(default=1, gt=0, description="context parallel")
    cp_split: Literal["document", "sequence"] = Field(
        default="document", description="two chunks of every document a rank, or two chunks of the whole row"
    )
    cp_kv: Literal["all_gather", "ring"] = "all_gather"
    pp: int = Field(default=1, gt=0, description="pipeline ranks")
    vpp: int = Field(default=1, gt=0, description="stages (model chunks) a pipeline rank holds")
    schedule: ScheduleName = "1f1b"
    layers_per_stage: tuple[int, ...] | None = Field(
        default=None, description="blocks of each of the pp · vpp stages in model order; 0 is allowed at both ends"
    )
    ep: int = Field(default=1, gt=0, description="expert parallel, folded over dp_shard · cp")
    copies: Literal[1, 2] = Field(
        default=1, description="2: the local batch in halves that compute and communicate in turn"
    )
    chunks: int = Field(
        default=1, gt=0, description="pieces of a matrix product whose collective overlaps with the next"
    )
    recompute: RecomputePlan = RecomputePlan()
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="keep optimizer state, or it and the parameters, in host memory"
    )

    @property
    def world_size(self) -> int:
        """Ranks that this plan needs."""
        return math.prod((self.dp_replicate, self.dp_shard, self.cp, self.pp, self.tp))

    @property
    def dp(self) -> int:
        """Ranks that read different data."""
        return self.dp_replicate * self.dp_shard

    @property
    def stages(self) -> int:
        """Pipeline stages of the whole model."""
        return self.pp * self.vpp
