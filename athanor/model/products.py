"""The products of linear layers, and cross-entropy, by our own kernels where PyTorch's are slow (cpu_products*.cpp).

On a CPU in bfloat16 a weight gradient, dyᵀ x, runs at half the rate of other products in PyTorch, for its left operand
is copied transposed first. In float32 PyTorch's products wait for the memory of large matrices. Each function falls
back to PyTorch where the kernels do not serve: no compiler, no AVX-512 (in bfloat16 no AMX), another dtype, a width
that is no multiple of 32 (in float32 of 16), in float32 small matrices.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from athanor import native
from athanor.model.native import FLAGS, call

SOURCES = [
    Path(__file__).with_name(f"cpu_{name}")
    for name in ("products.cpp", "products_f32.cpp", "loss.cpp", "pieces.h", "tiles.h", "math.h")
]
_CROSS_ENTROPY = {torch.bfloat16: "athanor_cross_entropy", torch.float32: "athanor_cross_entropy_f32"}


class Sizes(NamedTuple):
    """Of the products of a linear layer."""

    tokens: int
    inputs: int
    outputs: int


class Kind(NamedTuple):
    """What the kernels of one dtype take."""

    suffix: str  #: of their names
    width_step: int  #: what widths must divide by: tiles in bfloat16, vectors in float32
    least_tokens: int  #: below these PyTorch's products are as fast
    least_weights: int


_KINDS = {torch.bfloat16: Kind("", 32, 1, 1), torch.float32: Kind("_f32", 16, 512, 2**18)}


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of this machine, built if the cache does not have them; None without a compiler or AVX-512."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return None
    return native.load("products", SOURCES, FLAGS)


@cache
def _multiplying(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The same, if they can multiply here in this precision: bfloat16 needs AMX."""
    found = library() if dtype in _KINDS else None
    able = found is not None and (dtype != torch.bfloat16 or found.athanor_products_available())
    return found if able else None


def _watched() -> bool:
    """Whether a dispatch mode is on."""
    return torch._C._len_torch_dispatch_stack() > 0


def fit(dtype: torch.dtype, sizes: Sizes) -> bool:
    """Whether products of these sizes are of a kind that the kernels are for."""
    kind = _KINDS.get(dtype)
    if kind is None or sizes.inputs % kind.width_step or sizes.outputs % kind.width_step:
        return False
    return sizes.tokens >= kind.least_tokens and sizes.inputs * sizes.outputs >= kind.least_weights


@torch.compiler.assume_constant_result
def serve(dtype: torch.dtype) -> bool:
    """Whether the kernels for products in this precision serve here and now; compiled code takes the answer as it is.

    They step aside while a dispatch mode is on, for it is there to see PyTorch's operators (counters, trackers, what
    selective recomputation saves).
    """
    return _multiplying(dtype) is not None and not _watched()


def in_memory(*tensors: torch.Tensor) -> bool:
    """Whether these are ordinary tensors in this machine's memory: a dry run's have no memory at all, a DTensor has its
    own rules."""
    return all(type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in tensors)


#: what a kernel makes of one layer: the layer's outputs, two operands, the result
Piece = tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]


def _made(name: str, dtype: torch.dtype, shape_NI: torch.Size, pieces: Sequence[Piece]) -> bool:
    """Whether the kernel of this name made the results of these products, whose input has this shape (cpu_pieces.h): it
    did where it serves for them. The operands are contiguous."""
    tokens, inputs = shape_NI
    for outputs, a, b, out in pieces:
        fitting = a.dtype == b.dtype == dtype and in_memory(a, b, out) and out.is_contiguous()
        if not fitting or not fit(dtype, Sizes(tokens, inputs, outputs)):
            return False
    if not serve(dtype):
        return False
    addresses = [x for outputs, *tensors in pieces for x in (outputs, *(t.data_ptr() for t in tensors))]
    kernel = getattr(_multiplying(dtype), f"athanor_{name}{_KINDS[dtype].suffix}")
    array = (ctypes.c_int64 * len(addresses))(*addresses)
    kernel(*map(ctypes.c_int64, (tokens, inputs, len(pieces))), array)
    return True


def linears(x_NI: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """x Wᵀ [N, O] of each weight [O, I]: by a kernel in float32; in bfloat16 PyTorch's product is the faster one."""
    x_NI = x_NI.contiguous()
    outs = [x_NI.new_empty(len(x_NI), len(weight)) for weight in weights]
    pieces = [(len(w), x_NI, w.contiguous(), out) for w, out in zip(weights, outs, strict=True)]
    if x_NI.dtype == torch.float32 and _made("linear", x_NI.dtype, x_NI.shape, pieces):
        return outs
    return [F.linear(x_NI, weight) for weight in weights]


def input_grad(grads: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Σ grad W [N, I]."""
    out_NI = grads[0].new_empty(len(grads[0]), weights[0].shape[1])
    pairs = [(grad.contiguous(), w.contiguous()) for grad, w in zip(grads, weights, strict=True)]
    pieces = [(len(w), grad, w, out_NI) for grad, w in pairs]
    if grads[0].dtype == torch.float32 and _made("input_grad", torch.float32, out_NI.shape, pieces):
        return out_NI
    return functools.reduce(torch.add, [grad @ w for grad, w in pairs])


def weight_grads(grads: Sequence[torch.Tensor], x_NI: torch.Tensor) -> list[torch.Tensor]:
    """gradᵀ x [O, I] of each, in the operands' dtype; bfloat16 is summed in float32 and rounded once."""
    x_NI, grads = x_NI.contiguous(), [grad.contiguous() for grad in grads]
    outs = [x_NI.new_empty(grad.shape[1], x_NI.shape[1]) for grad in grads]
    pieces = [(len(out), grad, x_NI, out) for grad, out in zip(grads, outs, strict=True)]
    if _made("weight_grad", x_NI.dtype, x_NI.shape, pieces):
        return outs
    return [grad.T @ x_NI for grad in grads]


# torch.library.custom_op would do the same with six times the overhead of a call: there are twelve of them a layer.
_LIBRARY = torch.library.Library("athanor_products", "DEF")
for _schema, _function in (
    ("linears(Tensor x, Tensor[] weights) -> Tensor[]", linears),
    ("input_grad(Tensor[] grads, Tensor[] weights) -> Tensor", input_grad),
    ("weight_grads(Tensor[] grads, Tensor x) -> Tensor[]", weight_grads),
):
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_schema.partition("(")[0], _function, "CPU")
operators = torch.ops.athanor_products


@torch.library.register_fake("athanor_products::linears", lib=_LIBRARY)
def _(x_NI: torch.Tensor, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x_NI.new_empty(x_NI.shape[0], weight.shape[0]) for weight in weights]


@torch.library.register_fake("athanor_products::input_grad", lib=_LIBRARY)
def _(grads: list[torch.Tensor], weights: list[torch.Tensor]) -> torch.Tensor:
    return grads[0].new_empty(grads[0].shape[0], weights[0].shape[1])


@torch.library.register_fake("athanor_products::weight_grads", lib=_LIBRARY)
def _(grads: list[torch.Tensor], x_NI: torch.Tensor) -> list[torch.Tensor]:
    return [grad.new_empty(grad.shape[1], x_NI.shape[1]) for grad in grads]


def add_weight_grad(sum_OI: torch.Tensor, grad_NO: torch.Tensor, x_NI: torch.Tensor) -> None:
    """sum += gradᵀ x, the sum in at least float32."""
    grad_NO, x_NI = grad_NO.contiguous(), x_NI.contiguous()
    wide = sum_OI.dtype == torch.float32
    if not wide or not _made("add_weight_grad", x_NI.dtype, x_NI.shape, [(len(sum_OI), grad_NO, x_NI, sum_OI)]):
        sum_OI += grad_NO.T @ x_NI


def input_grad_into(grad_NO: torch.Tensor, weight_OI: torch.Tensor, out_NI: torch.Tensor) -> None:
    """out = grad W."""
    grad_NO, weight_OI = grad_NO.contiguous(), weight_OI.contiguous()
    if not _made("input_grad", grad_NO.dtype, out_NI.shape, [(len(weight_OI), grad_NO, weight_OI, out_NI)]):
        torch.mm(grad_NO, weight_OI, out=out_NI)


def cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor, grad: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each row [N] in at least float32, and softmax − onehot in the logits' dtype (if ``grad``).

    The logits are used up: the gradient may lie in their place.
    """
    ours = in_memory(logits_NV, labels_N) and logits_NV.is_contiguous() and not _watched()
    name = _CROSS_ENTROPY.get(logits_NV.dtype) if ours else None
    if name is not None and (kernels := library()) is not None:
        losses_N = torch.empty(len(labels_N))
        call(kernels[name], (labels_N.contiguous(),), (*logits_NV.shape, grad), (logits_NV, losses_N))
        return losses_N, logits_NV
    statistics = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
    log_p, labels_N1 = logits_NV.to(statistics).log_softmax(-1), labels_N[:, None]
    losses_N = -log_p.gather(-1, labels_N1)[:, 0]
    if not grad:
        return losses_N, log_p
    one_less = log_p.new_full((1, 1), -1.0).expand_as(labels_N1)
    return losses_N, log_p.exp_().scatter_add_(-1, labels_N1, one_less).to(logits_NV.dtype)
