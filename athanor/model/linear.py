"""Linear layers: ``torch.nn.functional.linear``, with the products of :mod:`athanor.model.products`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model import products

Gradients = tuple[torch.Tensor | None, ...]


class _Linears(torch.autograd.Function):
    """x Wᵀ of each weight; by our kernels, where these are faster, in float32 all products, in bfloat16 dW."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        if x.dtype != torch.float32:
            return tuple(F.linear(x, weight) for weight in weights)
        outs = products.operators.linears(x.flatten(0, -2), list(weights))
        return tuple(out.unflatten(0, x.shape[:-1]) for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Gradients:  # type: ignore[override]
        x, *weights = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        flat = [grad.flatten(0, -2) for grad in grads]
        d_weights: list[torch.Tensor | None] = [None] * len(weights)
        if any(needs):
            asked = [i for i, need in enumerate(needs) if need]
            made = products.operators.weight_grads([flat[i] for i in asked], x.flatten(0, -2))
            for i, d_weight in zip(asked, made, strict=True):
                d_weights[i] = d_weight
        if not needs_x:
            return None, *d_weights
        if x.dtype != torch.float32:
            terms = [grad @ weight for grad, weight in zip(grads, weights, strict=True)]
            return functools.reduce(torch.add, terms), *d_weights
        return products.operators.input_grad(flat, list(weights)).view_as(x), *d_weights


def _ours(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> bool:
    """Whether the kernels serve for the products of x with each of these weights."""
    if x.dim() < 2 or any(x.dtype != weight.dtype for weight in weights) or not products.in_memory(x, *weights):
        return False
    tokens = x.shape[:-1].numel()
    fit = all(products.fit(x.dtype, products.Sizes(tokens, w.shape[1], w.shape[0])) for w in weights)
    return fit and products.serve(x.dtype)


def linear(x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """``F.linear``, by the kernels where they serve. x [..., I] → [..., O]."""
    if not _ours(x, [weight_OI]):
        return F.linear(x, weight_OI, bias_O)
    (out,) = _Linears.apply(x, weight_OI)  # type: ignore[no-untyped-call]
    return out if bias_O is None else out + bias_O


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def _hooked(layer: nn.Module) -> bool:
    """Whether somebody wants to see calls of this layer."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks)


def linears(x: torch.Tensor, *layers: nn.Module) -> tuple[torch.Tensor, ...]:
    """What each layer makes of x [..., I]: together where they are plain :class:`Linear` layers and the kernels serve,
    which then read x once, and make one gradient of it."""
    plain = [layer for layer in layers if type(layer) is Linear and not _hooked(layer)]
    if len(plain) < len(layers) or not _ours(x, [layer.weight for layer in plain]):
        return tuple(layer(x) for layer in layers)
    outs = _Linears.apply(x, *(layer.weight for layer in plain))  # type: ignore[no-untyped-call]
    return tuple(out if layer.bias is None else out + layer.bias for out, layer in zip(outs, plain, strict=True))
