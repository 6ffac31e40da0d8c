"""Initialisations. A matrix's standard deviation depends on width d and depth L alone, so any sharding draws the same.

- ``tiny``: √(1 / (2dL)) for every matrix, embedding 0.5 (Pangu Ultra, arXiv 2504.07866, section 3.2);
- ``small``: √(2 / (5d)) (Nguyen & Salazar, arXiv 1910.05895);
- ``scaled-residual``: small, with √(2 / (5dL)) on the two matrices that write to the residual stream;
- ``normal``: ``initializer_range`` everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder

_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "w_down")


def matrix_std(config: ModelConfig, name: str) -> float:
    """Standard deviation of the parameter called ``name``."""
    d, depth = config.hidden_size, config.num_hidden_layers
    if name.startswith(("embed_tokens", "embed_positions")):
        if config.embedding_init_std is not None:
            return config.embedding_init_std
        if config.init == "tiny" and not config.tie_word_embeddings:
            return 0.5
    if name.startswith("lm_head") and config.head_init_std is not None:
        return config.head_init_std
    if config.init == "normal":
        return config.initializer_range
    if config.init == "tiny":
        return math.sqrt(1 / (2 * d * depth))
    if config.init == "scaled-residual" and name.endswith(_RESIDUAL_OUTPUTS):
        return math.sqrt(2 / (5 * d * depth))
    return math.sqrt(2 / (5 * d))


def post_norm_scale(config: ModelConfig, name: str) -> float:
    """c/√L for what belongs to a norm behind attention or feed-forward when depth-scaled (section 3.1), else 1."""
    if config.norm_placement == "depth_scaled_sandwich":
        if "post_attn_norm" in name:
            return config.depth_scale_attn / math.sqrt(config.num_hidden_layers)
        if "post_mlp_norm" in name:
            return config.depth_scale_mlp / math.sqrt(config.num_hidden_layers)
    return 1.0


@torch.no_grad()
def init_weights(model: Decoder, seed: int) -> None:
    """Fill every parameter. Each draws from a generator of its own (seed, name), so order and layout do not matter."""
    for name, param in model.named_parameters():
        param.copy_(initial_value(model.config, name, param.shape, seed))


def initial_value(config: ModelConfig, name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """The whole parameter (or buffer) called ``name`` before the first step: float32 on the host."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.full(shape, post_norm_scale(config, name))
    generator = torch.Generator().manual_seed(_stable_seed(seed, name))
    draw = torch.empty(shape, dtype=torch.float32)
    return nn.init.normal_(draw, std=matrix_std(config, name), generator=generator)


def drawn_later(config: ModelConfig, seed: int) -> Decoder:
    """A model on the meta device with the values of ``init_weights(model, seed)`` as its ``first_values``."""
    with torch.device("meta"):
        model = Decoder(config)
    model.first_values = lambda shapes: (
        (name, initial_value(config, name, shape, seed)) for name, shape in shapes.items()
    )
    return model


def _stable_seed(seed: int, name: str) -> int:
    """63-bit seed from text: Python's own hash changes between processes."""
    value = 0xCBF29CE484222325
    for byte in f"{seed}:{name}".encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value & 0x7FFFFFFFFFFFFFFF
