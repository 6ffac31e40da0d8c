"""Causal attention inside documents, without ever making a T×T mask.

CPU: one custom operator, so that ``torch.compile`` neither breaks on it nor recompiles when the lengths change. In it,
bfloat16 and float32 go to our own kernels where the machine can build them (``native.py``); else documents of about one
length share a call of PyTorch's fused CPU kernel. Other devices: the
variable-length kernel where PyTorch has one for the dtype, else the same buckets over ``scaled_dot_product_attention``.
"""

from __future__ import annotations

import inspect
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from athanor.model.native import kernel_for
from athanor.model.packing import Bucket, Packing, make_buckets

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@lru_cache(maxsize=8)
def _buckets_of(lens: tuple[int, ...]) -> list[Bucket]:
    """The same boundaries come back for every layer, forward and backward, so a small cache serves a whole step."""
    return make_buckets(list(lens), torch.device("cpu"))


def _take(x_NHD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """[n_docs, H, L, D] of a bucket's documents: a view where they are contiguous, else a gathered copy."""
    if bucket.start >= 0:
        run = x_NHD[bucket.start : bucket.start + bucket.n_docs * bucket.length]
        return run.view(bucket.n_docs, bucket.length, *x_NHD.shape[1:]).transpose(1, 2)
    flat = x_NHD.view(x_NHD.shape[0], -1).index_select(0, bucket.gather.flatten())
    return flat.view(bucket.n_docs, bucket.length, *x_NHD.shape[1:]).transpose(1, 2)


def _put(out_NHD: torch.Tensor, x_nHLD: torch.Tensor, bucket: Bucket) -> None:
    """Write a bucket's real tokens to their places in ``out_NHD``."""
    flat = x_nHLD.transpose(1, 2).reshape(bucket.n_docs * bucket.length, -1)
    out = out_NHD.view(out_NHD.shape[0], -1)
    if bucket.start >= 0:
        out[bucket.start : bucket.start + len(flat)] = flat
    else:
        out.index_copy_(0, bucket.tokens, flat.index_select(0, bucket.scatter))


def _take_grad(x_NHD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """As :func:`_take` for a gradient: padded places must be zero, so that they add nothing to keys and values."""
    if bucket.start >= 0:
        return _take(x_NHD, bucket)
    flat = x_NHD.new_zeros(bucket.n_docs * bucket.length, x_NHD.shape[1] * x_NHD.shape[2])
    flat.index_copy_(0, bucket.scatter, x_NHD.view(x_NHD.shape[0], -1).index_select(0, bucket.tokens))
    return flat.view(bucket.n_docs, bucket.length, *x_NHD.shape[1:]).transpose(1, 2)


@torch.library.custom_op("athanor::packed_attention", mutates_args=(), device_types="cpu")
def _packed_attention(
    q_NHD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, lens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention per document; returns out [N, H, D] and the log-sum-exp, flat: float32 [H, N] of our own kernel,
    else [H, length] of each padded document by buckets."""
    q_NHD, k_NHD, v_NHD = q_NHD.contiguous(), k_NHD.contiguous(), v_NHD.contiguous()
    if (kernel := kernel_for(q_NHD)) is not None:
        lse_all = torch.zeros(_lse_size(q_NHD))  # longer than what is written
        return kernel.forward(q_NHD, k_NHD, v_NHD, lens, lse_all), lse_all
    out_NHD = torch.empty_like(q_NHD)
    lses = []
    for bucket in _buckets_of(tuple(lens.tolist())):
        out, lse = _flash(_take(q_NHD, bucket), _take(k_NHD, bucket), _take(v_NHD, bucket), 0.0, True)
        _put(out_NHD, out, bucket)
        lses.append(lse.flatten())
    # Padded to a size that depends on shapes alone, so that compiled code serves any lengths.
    lse_all = torch.zeros(_lse_size(q_NHD), dtype=lses[0].dtype)
    torch.cat(lses, out=lse_all[: sum(x.numel() for x in lses)])
    return out_NHD, lse_all


def _lse_size(q_NHD: torch.Tensor) -> int:
    """Upper bound of the log-sum-exp count: every document padded by less than ``BUCKET_RATIO`` (1.15 < 5/4)."""
    return q_NHD.shape[0] * q_NHD.shape[1] * 5 // 4


@_packed_attention.register_fake
def _(q_NHD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, lens: torch.Tensor) -> Any:
    stats = torch.float64 if q_NHD.dtype == torch.float64 else torch.float32
    return torch.empty_like(q_NHD, memory_format=torch.contiguous_format), q_NHD.new_empty(
        _lse_size(q_NHD), dtype=stats
    )


@torch.library.custom_op("athanor::packed_attention_backward", mutates_args=(), device_types="cpu")
def _packed_attention_backward(
    grad_NHD: torch.Tensor,
    q_NHD: torch.Tensor,
    k_NHD: torch.Tensor,
    v_NHD: torch.Tensor,
    out_NHD: torch.Tensor,
    lse_all: torch.Tensor,
    lens: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_NHD, q_NHD, k_NHD, v_NHD = (x.contiguous() for x in (grad_NHD, q_NHD, k_NHD, v_NHD))
    if (kernel := kernel_for(q_NHD)) is not None:
        return kernel.backward(grad_NHD, q_NHD, k_NHD, v_NHD, out_NHD, lse_all, lens)
    dq, dk, dv = torch.empty_like(q_NHD), torch.empty_like(k_NHD), torch.empty_like(v_NHD)
    at = 0
    for bucket in _buckets_of(tuple(lens.tolist())):
        size = bucket.n_docs * bucket.length * q_NHD.shape[1]
        lse = lse_all[at : at + size].view(bucket.n_docs, q_NHD.shape[1], bucket.length)
        at += size
        q, k, v = _take(q_NHD, bucket), _take(k_NHD, bucket), _take(v_NHD, bucket)
        grads = _flash_backward(_take_grad(grad_NHD, bucket), q, k, v, _take(out_NHD, bucket), lse, 0.0, True)
        for target, grad in zip((dq, dk, dv), grads, strict=True):
            _put(target, grad, bucket)
    return dq, dk, dv


@_packed_attention_backward.register_fake
def _(
    grad_NHD: Any,
    q_NHD: Any,
    k_NHD: Any,
    v_NHD: Any,
    out_NHD: Any,
    lse_all: Any,
    lens: Any,
) -> Any:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_NHD, k_NHD, v_NHD))


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, ...],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    ctx.save_for_backward(*inputs[:3], *output, inputs[3])


def _backward(ctx: Any, grad_NHD: torch.Tensor, _grad_lse: torch.Tensor) -> Any:
    q, k, v, out, lse, lens = ctx.saved_tensors
    return (*_packed_attention_backward(grad_NHD, q, k, v, out, lse, lens), None)


_packed_attention.register_autograd(_backward, setup_context=_save)


@cache
def _varlen_kernel() -> tuple[Any, dict[str, Any]] | None:
    """PyTorch's variable-length attention and how this version spells "causal", or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    if "enable_gqa" in names:
        causal["enable_gqa"] = True
    return varlen_attn, causal


def _windowed(q_nHLD: torch.Tensor, k_nHLD: torch.Tensor, v_nHLD: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention to the last ``window`` positions, in blocks of ``window`` queries over 2·window keys."""
    length = q_nHLD.shape[2]
    if length <= window:
        return F.scaled_dot_product_attention(q_nHLD, k_nHLD, v_nHLD, is_causal=True, enable_gqa=True)
    outs = []
    for start in range(0, length, window):
        end, first = min(start + window, length), max(start - window + 1, 0)
        query = torch.arange(start, end, device=q_nHLD.device)[:, None]
        key = torch.arange(first, end, device=q_nHLD.device)
        band = (key <= query) & (key > query - window)
        outs.append(
            F.scaled_dot_product_attention(
                q_nHLD[:, :, start:end],
                k_nHLD[:, :, first:end],
                v_nHLD[:, :, first:end],
                attn_mask=band,
                enable_gqa=True,
            )
        )
    return torch.cat(outs, dim=2)


def _bucketed_sdpa(
    q_NHD: torch.Tensor,
    k_NHD: torch.Tensor,
    v_NHD: torch.Tensor,
    packing: Packing,
    window: int | None,
) -> torch.Tensor:
    """Any device, any dtype, differentiable: the same buckets over ``scaled_dot_product_attention``."""
    out_NHD = torch.zeros_like(q_NHD)
    width = window or packing.max_len
    for bucket in make_buckets(packing.lens, q_NHD.device):
        out = _windowed(_take(q_NHD, bucket), _take(k_NHD, bucket), _take(v_NHD, bucket), width)
        flat = out.transpose(1, 2).reshape(bucket.n_docs * bucket.length, *q_NHD.shape[1:])
        if bucket.start >= 0:
            index = torch.arange(bucket.start, bucket.start + len(flat), device=q_NHD.device)
            out_NHD = out_NHD.index_copy(0, index, flat)
        else:
            out_NHD = out_NHD.index_copy(0, bucket.tokens, flat.index_select(0, bucket.scatter))
    return out_NHD


def packed_attention(
    q_NHD: torch.Tensor,
    k_NHD: torch.Tensor,
    v_NHD: torch.Tensor,
    packing: Packing,
    window: int | None = None,
) -> torch.Tensor:
    """Softmax attention, causal and inside documents. q [N, H, D], k and v [N, Hkv, D] → [N, H, D]; scale 1/√D.

    ``window`` limits a query to the last ``window`` positions (itself included).
    """
    device = q_NHD.device.type
    if window is not None and window < packing.max_len:
        return _bucketed_sdpa(q_NHD.contiguous(), k_NHD.contiguous(), v_NHD.contiguous(), packing, window)
    if device == "cpu":
        return _packed_attention(q_NHD, k_NHD, v_NHD, packing.lens_tensor)[0]
    kernel = _varlen_kernel() if device == "cuda" and q_NHD.dtype in (torch.bfloat16, torch.float16) else None
    if kernel is not None:
        varlen_attn, causal = kernel
        if "enable_gqa" not in causal and k_NHD.shape[1] != q_NHD.shape[1]:
            repeat = q_NHD.shape[1] // k_NHD.shape[1]
            k_NHD, v_NHD = (
                k_NHD.repeat_interleave(repeat, 1),
                v_NHD.repeat_interleave(repeat, 1),
            )
        cu = packing.cu_seqlens()
        return varlen_attn(q_NHD, k_NHD, v_NHD, cu, cu, packing.max_len, packing.max_len, **causal)
    return _bucketed_sdpa(q_NHD.contiguous(), k_NHD.contiguous(), v_NHD.contiguous(), packing, None)
