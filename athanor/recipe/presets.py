"""Named model shapes: tiny ones that train on a CPU, and published ones with their parameter counts and sources."""

from __future__ import annotations

from typing import Any, NamedTuple

from athanor.model.config import ModelConfig, RopeScaling


class Published(NamedTuple):
    """A published parameter count, how near ours must be (a share), and where the figure comes from."""

    params: int
    tolerance: float
    source: str


def _furnace(**shape: Any) -> ModelConfig:
    """The house architecture: depth-scaled sandwich norm with TinyInit (Pangu Ultra, arXiv 2504.07866)."""
    return ModelConfig(norm_placement="depth_scaled_sandwich", init="tiny", **shape)


def _llama3(**shape: Any) -> ModelConfig:
    """Llama 3 (arXiv 2407.21783, table 3): GQA with 8 key-value heads, SwiGLU, RoPE base 500,000, untied."""
    common: dict[str, Any] = {"vocab_size": 128_256, "num_key_value_heads": 8, "rope_theta": 500_000.0}
    common |= {"max_position_embeddings": 8192, "bos_token_id": 128_000, "eos_token_id": 128_001}
    return ModelConfig(**(common | shape))


def _gpt(**shape: Any) -> ModelConfig:
    """GPT-3-like: LayerNorm, GELU, biases everywhere, learned positions, tied embeddings."""
    return ModelConfig(
        norm_type="layernorm",
        hidden_act="gelu_tanh",
        mlp_gated=False,
        position_embedding="learned",
        tie_word_embeddings=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        **shape,
    )


PRESETS: dict[str, ModelConfig] = {
    # --- for a CPU ---------------------------------------------------------------------------------------------------
    "tiny": _furnace(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    ),
    "mini": _furnace(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    ),
    "small-30m": _furnace(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    ),
    # The depth of Pangu Ultra at a width that a laptop carries: the stability laboratory's shape.
    "deep-94": _furnace(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=94,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    ),
    # --- published ---------------------------------------------------------------------------------------------------
    # 128 K positions because that is where its long-context extension ends; the RoPE base is the first stage's.
    "pangu-ultra-135b": _furnace(
        vocab_size=153_376,
        hidden_size=12_288,
        intermediate_size=28_672,
        num_hidden_layers=94,
        num_attention_heads=96,
        num_key_value_heads=8,
        rope_theta=10_000.0,
        max_position_embeddings=131_072,
    ),
    # The checkpoint also has a bias on each down projection (786,432 numbers in all), which mlp_bias would also put
    # on gate and up; left out.
    "telechat2-115b": ModelConfig(
        vocab_size=131_072,
        hidden_size=8192,
        intermediate_size=40_960,
        num_hidden_layers=96,
        num_attention_heads=64,
        num_key_value_heads=8,
        attention_output_bias=True,
        norm_eps=1e-8,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    ),
    # Of its 64 layers the last is a query layer: its attention queries come from an embedding of the next position
    # instead of from the layer below. Our decoder has no such layer; here it is an ordinary one of the same size.
    "pangu-alpha-200b": _gpt(
        vocab_size=40_000,
        hidden_size=16_384,
        intermediate_size=65_536,
        num_hidden_layers=64,
        num_attention_heads=128,
        num_key_value_heads=128,
        max_position_embeddings=1024,
    ),
    # 39 ordinary layers and a query layer (as in PanGu-α), which is an ordinary fortieth here.
    "codegeex-13b": _gpt(
        vocab_size=52_224,
        hidden_size=5120,
        intermediate_size=20_480,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
        max_position_embeddings=2048,
    ),
    "llama3-8b": _llama3(hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32),
    "llama3-70b": _llama3(hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64),
    # Published only as 3.1, whose 128 K context comes from a scaled RoPE.
    "llama3-405b": _llama3(
        hidden_size=16_384,
        intermediate_size=53_248,
        num_hidden_layers=126,
        num_attention_heads=128,
        max_position_embeddings=131_072,
        rope_scaling=RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=8192),
    ),
    "qwen2.5-72b": ModelConfig(
        vocab_size=152_064,
        hidden_size=8192,
        intermediate_size=29_568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        attention_bias=True,
        norm_eps=1e-5,
        rope_theta=1_000_000.0,
        max_position_embeddings=131_072,
        bos_token_id=151_643,
        eos_token_id=151_643,
    ),
}

PUBLISHED_PARAMS: dict[str, Published] = {
    "pangu-ultra-135b": Published(135_000_000_000, 0.01, "arXiv 2504.07866, abstract: 135 B (133.9 B by its table)"),
    "telechat2-115b": Published(
        113_282_916_352, 1e-5, "TeleChat2-115B checkpoint index: 453,131,665,408 bytes of float32 (named 115 B)"
    ),
    "pangu-alpha-200b": Published(207_000_000_000, 0.002, "arXiv 2104.12369, table of sizes: 207.0 B"),
    "codegeex-13b": Published(13_000_000_000, 0.015, "arXiv 2303.17568, abstract: 13 billion"),
    "llama3-8b": Published(8_030_261_248, 0.0, "Meta-Llama-3-8B checkpoint: 16,060,522,496 bytes of bfloat16"),
    "llama3-70b": Published(70_553_706_496, 0.0, "Meta-Llama-3-70B checkpoint: 141,107,412,992 bytes of bfloat16"),
    "llama3-405b": Published(405_850_000_000, 1e-5, "Llama-3.1-405B repository page: 405.85 B (8 key-value heads)"),
    "qwen2.5-72b": Published(72_706_203_648, 0.0, "Qwen2.5-72B checkpoint: 145,412,407,296 bytes of bfloat16"),
}
