"""A small model and steps of it for the dry run's tests."""

from __future__ import annotations

from typing import Any

import torch

from athanor.model.config import ModelConfig, MoEConfig
from athanor.parallel.plan import ParallelPlan
from athanor.plan.workload import Workload

T = 64


def config(**changes: Any) -> ModelConfig:
    shape = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return ModelConfig(**{**shape, **changes})


def experts(**changes: Any) -> MoEConfig:
    return MoEConfig(
        **{
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "num_shared_experts": 1,
            **changes,
        }
    )


def work(
    plan: dict[str, Any],
    micro_batches: int = 2,
    dtype: torch.dtype = torch.bfloat16,
    doc_len: int | None = None,
    **shape: Any,
) -> Workload:
    layout = ParallelPlan(**plan)
    return Workload.of(
        config(**shape),
        layout,
        seq_len=T,
        global_batch_tokens=2 * T * micro_batches * layout.dp,
        micro_batch_tokens=2 * T,
        doc_len=doc_len,
        dtype=dtype,
    )
