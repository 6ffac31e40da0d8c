"""Floating-point operations of training, and what a device can do: the two sides of MFU.

MFU is (operations the mathematics needs) / (time × peak rate); recomputation and padding rows of a kernel do not count.
Two conventions are in use and differ in the attention term only:

* ``full``: every query meets every key, T² pairs a document (PaLM, arXiv 2204.02311, appendix B);
* ``causal``: a query meets itself and the keys before it, T(T+1)/2 pairs. Metrics and progress bars use this one, with
  the real document lengths, so that packing short documents does not flatter the figure.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from athanor.model.config import ModelConfig

Convention = Literal["causal", "full"]
#: What ``mfu`` in metrics.jsonl means.
MFU_CONVENTION = "causal attention pairs of the real documents, head on labelled tokens; 3 × forward; no recompute"

#: Dense peak FLOP/s by device name, from the vendors' data sheets (no sparsity): (float32 without TF32, bfloat16).
DEVICE_PEAKS: dict[str, tuple[float, float]] = {
    "B200": (75e12, 2250e12),
    "H200": (67e12, 989e12),
    "H100 PCIe": (51e12, 756e12),
    "H100": (67e12, 989e12),
    "A100": (19.5e12, 312e12),
    "L40S": (91.6e12, 362e12),
    "A10": (31.2e12, 125e12),
    "RTX 4090": (82.6e12, 165e12),
}


def layer_matmul_params(config: ModelConfig) -> int:
    """Weights that multiply one token in all layers together (of experts, those it visits); no head, no lookup."""
    d, heads, kv_heads, width = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_size,
    )
    attention = d * width * (2 * heads + 2 * kv_heads)
    matrices = 3 if config.mlp_gated else 2
    dense = matrices * d * config.intermediate_size
    moe, layers = config.moe, config.num_hidden_layers
    sparse_layers = 0 if moe is None else max(0, layers - moe.first_k_dense)
    total = layers * attention + (layers - sparse_layers) * dense
    if moe is not None:
        visited = 3 * moe.num_experts_per_tok + matrices * moe.num_shared_experts
        total += sparse_layers * (d * moe.num_experts + visited * d * moe.moe_intermediate_size)
    return total


def attended_pairs(
    doc_lens: Sequence[int], convention: Convention = "causal", sliding_window: int | None = None
) -> int:
    """(query, key) pairs that attention must compute for documents of these lengths."""
    lens = np.asarray(doc_lens, dtype=np.int64)
    if convention == "full":
        return int((lens * lens).sum())
    reach = lens if sliding_window is None else np.minimum(lens, sliding_window)
    return int((reach * (reach + 1) // 2 + (lens - reach) * reach).sum())


def train_flops(config: ModelConfig, tokens: int, pairs: int, head_tokens: int | None = None) -> int:
    """Operations of forward and backward (3 × forward) over ``tokens`` with ``pairs`` attended.

    A weight costs 2 operations a token; a pair costs 4·heads·head_dim a layer (scores and weighted values).
    ``head_tokens``: positions whose logits are taken (those with a label); None means all.
    """
    head = config.vocab_size * config.hidden_size * (tokens if head_tokens is None else head_tokens)
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_size * pairs
    return 3 * (2 * (layer_matmul_params(config) * tokens + head) + attention)


def flops_per_token(config: ModelConfig, seq_len: int, convention: Convention) -> float:
    """Training operations a token when every document is ``seq_len`` long."""
    pairs = attended_pairs([seq_len], convention, config.sliding_window)
    return train_flops(config, seq_len, pairs) / seq_len


def measured_gemm_flops(device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 6) -> float:
    """FLOP/s of the best of ``repeats`` square matrix products on this device, with this process's threads."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        _synchronize(device)
        begun = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        best_s = min(best_s, time.perf_counter() - begun)
    return 2 * size**3 / best_s


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """(peak FLOP/s, where it comes from): the data sheet of a known accelerator, else a product measured once.

    A CPU has no honest data-sheet figure for the threads a process has, so its peak is the GEMM rate itself.
    """
    if device.type != "cpu":
        name = torch.get_device_module(device).get_device_name(device)
        for known, (fp32, bf16) in DEVICE_PEAKS.items():
            if known in name:
                return (bf16 if dtype == torch.bfloat16 else fp32), f"data sheet of {known}"
        return measured_gemm_flops(device, dtype, size=8192), f"measured GEMM on {name}"
    return measured_gemm_flops(device, dtype), f"measured GEMM, {torch.get_num_threads()} threads"
