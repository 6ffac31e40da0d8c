"""Dense feed-forward: gated (SwiGLU, arXiv 2002.05202) or the plain two-matrix form of the older presets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model.config import ModelConfig
from athanor.model.linear import Linear, linears

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class FeedForward(nn.Module):
    """down(act(gate(x)) · up(x)), or down(act(up(x))) when not gated. [.., D] → [.., D]."""

    def __init__(self, config: ModelConfig, intermediate_size: int | None = None) -> None:
        super().__init__()
        inner, bias = intermediate_size or config.intermediate_size, config.mlp_bias
        self.act = ACTIVATIONS[config.hidden_act]
        self.gate_proj = Linear(config.hidden_size, inner, bias=bias) if config.mlp_gated else None
        self.up_proj = Linear(config.hidden_size, inner, bias=bias)
        self.down_proj = Linear(inner, config.hidden_size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x)))
        gate, up = linears(x, self.gate_proj, self.up_proj)
        return self.down_proj(self.act(gate) * up)
