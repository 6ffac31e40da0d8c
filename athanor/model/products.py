"""The products of a backward pass, and cross-entropy, by our own kernels where PyTorch's are slow (cpu_products.cpp).

On a CPU in bfloat16 a weight gradient, dyᵀ x, runs at half the rate of other products in PyTorch, for its left operand
is copied transposed first. Each function falls back to PyTorch where the kernels do not serve: no compiler, no AMX (for
cross-entropy AVX-512), another dtype, a width that is no multiple of 32.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from athanor import native
from athanor.model.native import FLAGS, call

SOURCES = [Path(__file__).with_name(name) for name in ("cpu_products.cpp", "cpu_loss.cpp", "cpu_tiles.h", "cpu_math.h")]
_WIDTH_STEP = 32  # what the kernel's tiles divide
_CROSS_ENTROPY = {torch.bfloat16: "athanor_cross_entropy", torch.float32: "athanor_cross_entropy_f32"}


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of this machine, built if the cache does not have them; None without a compiler or AVX-512."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return None
    return native.load("products", SOURCES, FLAGS)


@cache
def _multiplying() -> ctypes.CDLL | None:
    """The same, if they can multiply here, for which they need AMX."""
    found = library()
    return found if found is not None and found.athanor_products_available() else None


def _watched() -> bool:
    """Whether a dispatch mode is on."""
    return torch._C._len_torch_dispatch_stack() > 0


@torch.compiler.assume_constant_result
def serve() -> bool:
    """Whether the kernels for products serve here and now; compiled code takes the answer as it is.

    They step aside while a dispatch mode is on, for it is there to see PyTorch's operators (counters, trackers, what
    selective recomputation saves).
    """
    return _multiplying() is not None and not _watched()


def in_memory(*tensors: torch.Tensor) -> bool:
    """Whether these are ordinary tensors in this machine's memory: a dry run's have no memory at all, a DTensor has its
    own rules."""
    return all(type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in tensors)


def kernels_for(*operands: torch.Tensor) -> ctypes.CDLL | None:
    """The kernels for products, if these matrices are of their kind and this machine can run them."""
    fit = in_memory(*operands) and all(
        x.dtype == torch.bfloat16 and not x.shape[1] % _WIDTH_STEP and x.numel() for x in operands
    )
    return _multiplying() if fit and serve() else None


def _sizes(n: int, weight_OI: torch.Tensor) -> tuple[int, ...]:
    return n, weight_OI.shape[1], weight_OI.shape[0]


@torch.library.custom_op("athanor::weight_grad", mutates_args=(), device_types="cpu")
def weight_grad(grad_NO: torch.Tensor, x_NI: torch.Tensor) -> torch.Tensor:
    """gradᵀ x [O, I] in the operands' dtype; bfloat16 is summed in float32 and rounded once."""
    kernels = kernels_for(grad_NO, x_NI)
    if kernels is None:
        return grad_NO.T @ x_NI
    out_OI = grad_NO.new_empty(grad_NO.shape[1], x_NI.shape[1])
    read = grad_NO.contiguous(), x_NI.contiguous()
    call(kernels.athanor_weight_grad, read, _sizes(len(x_NI), out_OI), (out_OI,))
    return out_OI


@weight_grad.register_fake
def _(grad_NO: torch.Tensor, x_NI: torch.Tensor) -> torch.Tensor:
    return grad_NO.new_empty(grad_NO.shape[1], x_NI.shape[1])


def add_weight_grad(sum_OI: torch.Tensor, grad_NO: torch.Tensor, x_NI: torch.Tensor) -> None:
    """sum += gradᵀ x, the sum in at least float32."""
    kernels = kernels_for(grad_NO, x_NI)
    if kernels is None or sum_OI.dtype != torch.float32:
        sum_OI += grad_NO.T @ x_NI
        return
    read = grad_NO.contiguous(), x_NI.contiguous()
    call(kernels.athanor_add_weight_grad, read, _sizes(len(x_NI), sum_OI), (sum_OI,))


def input_grad(grad_NO: torch.Tensor, weight_OI: torch.Tensor, out_NI: torch.Tensor) -> None:
    """out = grad W."""
    kernels = kernels_for(grad_NO, weight_OI)
    if kernels is None:
        torch.mm(grad_NO, weight_OI, out=out_NI)
        return
    read = grad_NO.contiguous(), weight_OI.contiguous()
    call(kernels.athanor_input_grad, read, _sizes(len(grad_NO), weight_OI), (out_NI,))


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
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    log_p, labels_N1 = wide.log_softmax(-1), labels_N[:, None]
    losses_N = -log_p.gather(-1, labels_N1)[:, 0]
    if not grad:
        return losses_N, log_p
    one_less = log_p.new_full((1, 1), -1.0).expand_as(labels_N1)
    return losses_N, log_p.exp_().scatter_add_(-1, labels_N1, one_less).to(logits_NV.dtype)
