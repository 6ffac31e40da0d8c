"""Linear layers: ``torch.nn.functional.linear``, with the products of :mod:`athanor.model.products`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model import products


class _Linear(torch.autograd.Function):
    """x Wᵀ, its products by our kernels where these are faster: all in float32, weight gradients in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight_OI)
        if x.dtype != torch.float32:
            return F.linear(x, weight_OI)
        return products.linear(x.flatten(0, -2), weight_OI).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:  # type: ignore[override]
        x, weight_OI = ctx.saved_tensors
        d_weight = products.weight_grad(grad.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, d_weight
        if grad.dtype != torch.float32:
            return grad @ weight_OI, d_weight
        return products.input_grad(grad.flatten(0, -2), weight_OI).view_as(x), d_weight


def linear(x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """``F.linear``, by the kernels where they serve. x [..., I] → [..., O]."""
    ours = x.dtype == weight_OI.dtype and x.dim() > 1 and products.in_memory(x, weight_OI)
    ours = ours and products.fit(x.dtype, products.sizes_of(x.shape[:-1].numel(), weight_OI))
    if not ours or not products.serve(x.dtype):
        return F.linear(x, weight_OI, bias_O)
    out: torch.Tensor = _Linear.apply(x, weight_OI)  # type: ignore[no-untyped-call]
    return out if bias_O is None else out + bias_O


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
