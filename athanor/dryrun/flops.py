"""Floating-point operations of one operator, by its shapes: 2 a multiply-add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils.flop_counter import flop_registry

import athanor.model.attention_ops  # noqa: F401  # defines the operators below


def attention_flops(pairs: int, heads: int, width: int, backward: bool) -> int:
    """Of ``pairs`` (query, key) that attend: scores and weighted values, 2 products of 2 operations. Backward: 5
    products, the scores among them a second time (FlashAttention-2, arXiv 2307.08691, algorithm 2)."""
    return (10 if backward else 4) * pairs * heads * width


def _packed(q_NHD: torch.Tensor, _k: Any, _v: Any, lens: torch.Tensor, *, backward: bool = False) -> int:
    with unset_fake_temporarily():  # lengths are numbers even where everything else is fake
        pairs = sum(n * (n + 1) // 2 for n in lens.tolist())
    return attention_flops(pairs, q_NHD.shape[1], q_NHD.shape[2], backward)


def _packed_backward(_grad: Any, q: Any, k: Any, v: Any, _out: Any, _lse: Any, lens: Any) -> int:
    return _packed(q, k, v, lens, backward=True)


def _pairs(q: torch.Tensor, k: torch.Tensor, causal: bool) -> int:
    n_q, n_k = q.shape[-2], k.shape[-2]
    return q.shape[0] * (n_q * (n_q + 1) // 2 if causal else n_q * n_k)


def _flash(q: Any, k: Any, _v: Any, _dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    return attention_flops(_pairs(q, k, causal), q.shape[1], q.shape[-1], backward=False)


def _flash_backward(
    _grad: Any, q: Any, k: Any, _v: Any, _out: Any, _lse: Any, _dropout: float = 0.0, causal: bool = False, **_: Any
) -> int:
    return attention_flops(_pairs(q, k, causal), q.shape[1], q.shape[-1], backward=True)


_aten = torch.ops.aten
_OWN: dict[Any, Callable[..., int]] = {
    torch.ops.athanor.packed_attention: _packed,
    torch.ops.athanor.packed_attention_backward: _packed_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _flash,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _flash_backward,
}


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Operations of one call of an operator; 0 for what is no product (elementwise work is not counted).

    Attention counts the pairs that attend, so half the square for causal documents.
    """
    packet = getattr(func, "_overloadpacket", None)
    own = _OWN.get(packet)
    if own is not None:
        return own(*args, **kwargs)
    known = flop_registry.get(packet)
    return int(known(*args, **kwargs, out_val=out)) if known is not None else 0
