"""The attention kernels for CPUs (cpu_attention*.cpp): built on first use, kept in the user's cache.

Where there is no C++ compiler, no AVX-512 (float32) or AMX (bfloat16), or ``ATHANOR_NATIVE=0`` is set,
``attention_kernel`` is None and PyTorch's own kernels serve.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from athanor import native

SOURCES = [
    Path(__file__).with_name(f"cpu_{name}") for name in ("attention.cpp", "attention_f32.cpp", "softmax.h", "tiles.h")
]
#: -ffast-math itself would make the whole process flush denormal numbers: libraries linked with it do that when loaded
FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only"),
    *("-fassociative-math", "-freciprocal-math"),
]
#: what the width of a head must divide by: tiles in bfloat16, vectors in float32
WIDTH_STEPS = {torch.bfloat16: 32, torch.float32: 16}


class AttentionKernel:
    """Causal attention inside documents of one dtype; tensors [N, H, D], contiguous; scale 1/√D."""

    def __init__(self, forward: ctypes._NamedFuncPointer, backward: ctypes._NamedFuncPointer) -> None:
        self._forward, self._backward = forward, backward

    def forward(
        self, q_NHD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, lens: torch.Tensor, lse_HN: torch.Tensor
    ) -> torch.Tensor:
        """The output [N, H, D]; writes the log-sum-exp of the scores, float32. ``lens``: int64, they add up to N."""
        out_NHD = torch.empty_like(q_NHD)
        call(self._forward, (q_NHD, k_NHD, v_NHD, lens), _sizes(q_NHD, k_NHD, lens), (out_NHD, lse_HN))
        return out_NHD

    def backward(
        self,
        grad_NHD: torch.Tensor,
        q_NHD: torch.Tensor,
        k_NHD: torch.Tensor,
        v_NHD: torch.Tensor,
        out_NHD: torch.Tensor,
        lse_HN: torch.Tensor,
        lens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v, accumulated in float32."""
        grads = torch.empty_like(q_NHD), torch.empty_like(k_NHD), torch.empty_like(v_NHD)
        read = (grad_NHD, q_NHD, k_NHD, v_NHD, out_NHD, lse_HN, lens)
        call(self._backward, read, _sizes(q_NHD, k_NHD, lens), grads)
        return grads


def _sizes(q_NHD: torch.Tensor, k_NHD: torch.Tensor, lens: torch.Tensor) -> tuple[int, ...]:
    n_tokens, n_heads, width = q_NHD.shape
    return len(lens), n_tokens, n_heads, k_NHD.shape[1], width


def call(
    function: ctypes._NamedFuncPointer,
    read: tuple[torch.Tensor, ...],
    sizes: tuple[int, ...],
    written: tuple[torch.Tensor, ...],
) -> None:
    """Call a kernel: pointers of what it reads, then sizes (int64), then pointers of what it writes."""

    def pointers(tensors: tuple[torch.Tensor, ...]) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(x.data_ptr()) for x in tensors]

    function(*pointers(read), *map(ctypes.c_int64, sizes), *pointers(written))


def kernel_for(q_NHD: torch.Tensor) -> AttentionKernel | None:
    """The kernel, if these queries are of its kind and this machine can run it."""
    step = WIDTH_STEPS.get(q_NHD.dtype)
    return attention_kernel(q_NHD.dtype) if step and not q_NHD.shape[2] % step else None


@cache
def attention_kernel(dtype: torch.dtype = torch.bfloat16) -> AttentionKernel | None:
    """This machine's kernel of bfloat16 or float32, built if the cache does not have it."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return None
    library = native.load("attention", SOURCES, FLAGS)
    if library is None or (dtype == torch.bfloat16 and not library.athanor_attention_available()):
        return None
    suffix = "_f32" if dtype == torch.float32 else ""
    functions = (getattr(library, f"athanor_attention_{way}{suffix}") for way in ("forward", "backward"))
    return AttentionKernel(*functions)
