"""RMSNorm (arXiv 1910.07467) and LayerNorm over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model.config import ModelConfig


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """What :class:`RMSNorm` computes, with the gain [width] given."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension; statistics in at least float32, output in the input's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Mean-centred norm with gain and bias, for the older presets."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def make_norm(config: ModelConfig, width: int | None = None) -> RMSNorm | LayerNorm:
    """The config's norm over ``width`` (default: the hidden size)."""
    kind = RMSNorm if config.norm_type == "rmsnorm" else LayerNorm
    return kind(width or config.hidden_size, config.norm_eps)
