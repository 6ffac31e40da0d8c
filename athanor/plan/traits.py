"""What a training engine does with memory and collectives: traits of software, given as a value.

The same layout on the same machine takes different memory in Megatron-LM, torchtitan and Athanor. What they keep is in
their sources and papers; nothing here is fitted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from athanor.errors import AthanorError


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class States(_Value):
    """Bytes a parameter at one ZeRO level."""

    whole: float = Field(ge=0, description="held by every rank")
    sharded: float = Field(ge=0, description="divided by the ranks of the sharding group")
    gathered_blocks: float = Field(default=0.0, ge=0, description="blocks at once whole in compute precision")


class Engine(_Value):
    """Traits of a training engine."""

    name: str
    states: dict[Literal[0, 1, 2, 3], States]
    optimizer_share: dict[Literal[0, 1, 2, 3], float] = Field(
        description="bytes a parameter of masters and moments, of those in states"
    )
    activations: Literal["athanor", "megatron"]
    dtype: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"  #: of the products of blocks
    head_dtype: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    activation_bytes: int = 2
    grad_bytes: int = Field(default=4, description="of gradients in the data-parallel sum")
    state_grad_bytes: float = Field(default=4, description="of gradients, of those in states")
    param_bytes: int = Field(default=2, description="of parameters when gathered")
    gathers_by_block: int = Field(default=1, gt=0, description="collectives of a block at ZeRO 3")
    reduce_every: bool = Field(default=False, description="ZeRO 2 sums gradients after every micro-batch, as 3 does")
    tp_backward_overlap: bool = Field(
        default=True, description="input gradients' collectives beside the weights' gradients"
    )
    sp_regathers: bool = Field(default=True, description="inputs are gathered again for the weights' gradients")
    separate_products: bool = Field(default=False, description="q, k, v and gate, up are products of their own")
    tp_forward_overlap: float = Field(default=0.0, ge=0, le=1, description="without chunks: share hidden")
    scattered_p2p: bool = Field(default=True, description="stages send 1/tp each and gather (arXiv 2104.04473, 4.1)")
    fused_attention: bool = True
    causal_skips: bool = Field(default=True, description="fused attention skips blocks above the diagonal")
    dropout: bool = False
    logit_bytes: float = Field(description="a logit, alive at the peak of the loss")
    logit_traffic: float = Field(description="bytes read and written a logit, forward and backward")
    logit_chunk: int | None = Field(default=None, description="logits that a head in pieces makes at a time")
    fused_logit_bytes: float = Field(default=4.0, description="the same where the loss is fused and works in place")
    embedding_grad_bytes: float = Field(
        default=0.0, description="a weight of the head, beside its gradient, for a moment"
    )
    accumulate_traffic: float = Field(description="bytes a parameter and micro-batch, not inside the product")
    optimizer_traffic: float = Field(description="bytes a parameter in the optimizer step")
    loss_scaling: bool = Field(default=False, description="float16: gradients are read once more")
    workspace_bytes: float = Field(default=2.0**27, ge=0, description="of libraries, inside the allocator")
    backward_buffers: float = Field(default=1.0, ge=0, description="of a block's largest gradients, alive at a time")
    ends_stay_gathered: bool = Field(default=False, description="ZeRO 3: embedding and head are whole for the step")
    whole_in_pipeline: bool = Field(default=False, description="with pp, gradients are summed once and whole till then")
    receives_all: bool = Field(default=False, description="stages have a buffer for each micro-batch of a step")
    scatter_bytes: float = Field(default=0.0, ge=0, description="a weight of a block, while its gradient is spread")
    head_grad_bytes: float = Field(default=0.0, ge=0, description="a weight of the head, to the backward pass's end")

    def sums_each(self, zero: NDArray[np.int64], pp: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether gradients are summed after every micro-batch (else once a step). Arrays of one shape, or that
        broadcast."""
        each = (zero == 3) | ((zero == 2) & self.reduce_every)
        return np.asarray(each & ~(self.whole_in_pipeline & (pp > 1)))


#: arXiv 2104.04473: float16, unfused attention, gradients all-reduced after the last backward pass.
_MEGATRON_2021 = Engine(
    name="megatron-2021",
    states={0: States(whole=16, sharded=0)},
    optimizer_share={0: 12},
    activations="megatron",
    dtype="fp16",
    head_dtype="fp16",
    grad_bytes=2,
    state_grad_bytes=2,
    reduce_every=True,
    tp_backward_overlap=False,
    fused_attention=False,
    causal_skips=False,
    dropout=True,
    logit_bytes=10,
    logit_traffic=34,
    accumulate_traffic=6,
    optimizer_traffic=44,
    loss_scaling=True,
)

ENGINES: dict[str, Engine] = {
    "megatron-2021": _MEGATRON_2021,
    # arXiv 2205.05198: the same with sequence parallel and selective recomputation; input gradients' collectives run
    # beside weights' gradients (its section 4.2.2), which are added inside the product.
    "megatron-2022": _MEGATRON_2021.model_copy(
        update={"name": "megatron-2022", "tp_backward_overlap": True, "accumulate_traffic": 0.0, "grad_bytes": 4}
    ),
    # DeepSpeed as that paper compares with: each of a block's twelve tensors has collectives of its own, with nothing
    # beside them.
    "zero3-2021": _MEGATRON_2021.model_copy(
        update={
            "name": "zero3-2021",
            "states": {3: States(whole=0, sharded=16, gathered_blocks=2)},
            "optimizer_share": {3: 12.0},
            "gathers_by_block": 12,
        }
    ),
    "megatron-core": Engine(
        name="megatron-core",
        states={
            0: States(whole=18, sharded=0),
            1: States(whole=6, sharded=12),
            2: States(whole=6, sharded=12),
            3: States(whole=0, sharded=18, gathered_blocks=2),
        },
        optimizer_share={0: 12, 1: 12, 2: 12, 3: 12},
        activations="megatron",
        logit_bytes=10,
        logit_traffic=20,
        embedding_grad_bytes=2,
        accumulate_traffic=0,
        optimizer_traffic=40,
    ),
    # FSDP2: float32 parameters, gradients and moments, all spread; blocks gathered in bfloat16. With a pipeline its
    # default keeps parameters gathered and sums gradients once (ZeRO 2).
    "torchtitan": Engine(
        name="torchtitan",
        states={2: States(whole=6, sharded=16), 3: States(whole=0, sharded=16, gathered_blocks=2)},
        optimizer_share={2: 8, 3: 8},
        activations="megatron",
        logit_bytes=14,
        logit_traffic=40,
        embedding_grad_bytes=8,
        accumulate_traffic=4,
        optimizer_traffic=36,
    ),
    # athanor.parallel.data: float32 masters are the sharded parameters; gradients are summed in float32. Its tensor
    # collectives are waited for where they are issued, and a gathered input is kept (athanor.parallel.tensor).
    "athanor": Engine(
        name="athanor",
        states={
            0: States(whole=18, sharded=0),
            1: States(whole=6, sharded=12),
            2: States(whole=2, sharded=16, gathered_blocks=0),
            3: States(whole=0, sharded=16, gathered_blocks=2),
        },
        optimizer_share={0: 8, 1: 8, 2: 8, 3: 8},
        activations="athanor",
        reduce_every=True,
        tp_backward_overlap=False,
        sp_regathers=False,
        separate_products=True,
        logit_bytes=10,
        logit_chunk=8 * 2**20,
        # model/head.py: the head's gradient is summed in float32, beside a chunk's part of it in bfloat16; what the
        # loss leaves in bfloat16 goes to the root's own reduction, the last of a backward pass.
        embedding_grad_bytes=6,
        head_grad_bytes=2,
        # FSDP2: a block's gradients in bfloat16 and their float32 copy that is scattered; the root, which has
        # embedding and head, is not freed between its forward and its backward pass; under torch's pipeline schedules
        # gradients are summed after the last micro-batch.
        scatter_bytes=6,
        # It makes room for what a stage receives of every micro-batch when a schedule begins.
        ends_stay_gathered=True,
        receives_all=True,
        whole_in_pipeline=True,
        logit_traffic=30,
        accumulate_traffic=4,
        optimizer_traffic=36,
    ),
}


def engine(name: str) -> Engine:
    """A known engine by name; AthanorError for another."""
    if name not in ENGINES:
        raise AthanorError(f"no engine {name!r}", fix=f"one of: {', '.join(ENGINES)}")
    return ENGINES[name]
