"""Linear layers: ``torch.nn.functional.linear``, with the weight gradient of :mod:`athanor.model.products`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model import products


class _Linear(torch.autograd.Function):
    """x Wᵀ, with our weight gradient in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight_OI)
        return F.linear(x, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:  # type: ignore[override]
        x, weight_OI = ctx.saved_tensors
        d_weight = products.weight_grad(grad.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return grad @ weight_OI if ctx.needs_input_grad[0] else None, d_weight


def linear(x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """``F.linear``; its weight gradient by the kernel where that serves. x [..., I] → [..., O]."""
    ours = x.dtype == weight_OI.dtype == torch.bfloat16 and x.dim() > 1 and products.in_memory(x, weight_OI)
    if not ours or not products.serve():
        return F.linear(x, weight_OI, bias_O)
    out: torch.Tensor = _Linear.apply(x, weight_OI)  # type: ignore[no-untyped-call]
    return out if bias_O is None else out + bias_O


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
