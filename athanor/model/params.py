"""How many parameters a model shape has, by a closed formula (the test compares it with modules on the meta device)."""

from __future__ import annotations

from athanor.model.config import ModelConfig


def count_params(config: ModelConfig, *, active: bool = False) -> int:
    """Number of parameters; with ``active``, only the experts that one token visits are counted.

    Tied embeddings count once. Buffers (RoPE tables, the bias of loss-free routing) are not parameters.
    """
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    if config.position_embedding == "learned":
        embeddings += config.max_position_embeddings * config.hidden_size
    norms = (2 if config.norm_placement == "pre" else 4) * _norm(config, config.hidden_size)
    layers = config.num_hidden_layers * (_attention(config) + norms)
    sparse = 0 if config.moe is None else max(0, config.num_hidden_layers - config.moe.first_k_dense)
    layers += (config.num_hidden_layers - sparse) * _feed_forward(config, config.intermediate_size)
    if sparse:
        layers += sparse * _experts(config, active)
    return embeddings + layers + _norm(config, config.hidden_size)


def _norm(config: ModelConfig, width: int) -> int:
    return width if config.norm_type == "rmsnorm" else 2 * width


def _attention(config: ModelConfig) -> int:
    q_width = config.num_attention_heads * config.head_size
    qkv_width = q_width + 2 * config.num_key_value_heads * config.head_size
    total = config.hidden_size * (qkv_width + q_width)
    total += qkv_width if config.attention_bias else 0
    total += config.hidden_size if config.attention_output_bias else 0
    return total + (2 * config.head_size if config.qk_norm else 0)  # one RMS gain each for q and k


def _feed_forward(config: ModelConfig, width: int) -> int:
    inputs = 2 if config.mlp_gated else 1
    total = (inputs + 1) * config.hidden_size * width
    return total + (inputs * width + config.hidden_size if config.mlp_bias else 0)


def _experts(config: ModelConfig, active: bool) -> int:
    """Router, routed experts (three matrices each, no biases) and the shared expert (one of the joint width)."""
    moe = config.moe
    assert moe is not None
    visited = moe.num_experts_per_tok if active else moe.num_experts
    total = moe.num_experts * config.hidden_size + visited * 3 * config.hidden_size * moe.moe_intermediate_size
    if moe.num_shared_experts:
        total += _feed_forward(config, moe.num_shared_experts * moe.moe_intermediate_size)
    return total
