"""The bfloat16 attention kernel for CPUs (cpu_attention.cpp): built on first use, kept in the user's cache.

Where there is no C++ compiler, no bfloat16 matrix instructions, or ``ATHANOR_NATIVE=0`` is set, ``attention_kernel``
is None and PyTorch's own kernels serve.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from athanor import native

SOURCES = [Path(__file__).with_name(name) for name in ("cpu_attention.cpp", "cpu_tiles.h")]
#: -ffast-math itself would make the whole process flush denormal numbers: libraries linked with it do that when loaded
FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only"),
    *("-fassociative-math", "-freciprocal-math"),
]
_WIDTH_STEP = 32  # what the kernel's panels divide


class AttentionKernel:
    """Causal attention inside documents; tensors bfloat16 [N, H, D], contiguous, D a multiple of 32; scale 1/√D."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = library.athanor_attention_forward
        self._backward = library.athanor_attention_backward

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
    if q_NHD.dtype != torch.bfloat16 or q_NHD.shape[2] % _WIDTH_STEP:
        return None
    return attention_kernel()


@cache
def attention_kernel() -> AttentionKernel | None:
    """The kernel of this machine, built if the cache does not have it."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return None
    library = native.load("attention", SOURCES, FLAGS)
    return AttentionKernel(library) if library is not None and library.athanor_attention_available() else None
