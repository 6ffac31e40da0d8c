"""Small random decoders of several architectures."""

from __future__ import annotations

from typing import Any

import torch

from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights

KINDS: dict[str, dict[str, Any]] = {
    "sandwich-gqa": {"norm_placement": "depth_scaled_sandwich", "qk_norm": True},
    "glm-rope": {"rope_interleaved": True, "partial_rotary_factor": 0.5, "attention_bias": True},
    "learned-mha": {
        "position_embedding": "learned",
        "num_key_value_heads": 4,
        "norm_type": "layernorm",
        "mlp_gated": False,
    },
    "window": {"sliding_window": 5},
    "moe": {"moe": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, num_shared_experts=1)},
}


def small_decoder(kind: str = "sandwich-gqa", seed: int = 0, **changes: Any) -> Decoder:
    """Two layers, 32 wide, vocabulary 61, context 64; initialised wide enough that its choices differ."""
    fields: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "init": "normal",
        "initializer_range": 0.3,
    }
    model = Decoder(ModelConfig(**(fields | KINDS[kind] | changes)))
    init_weights(model, seed)
    return model.to(torch.float32).eval()
