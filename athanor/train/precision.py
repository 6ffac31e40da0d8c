"""Which number format the forward and backward passes use on a device."""

from __future__ import annotations

import torch

from athanor.recipe.schema import Precision


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX on a CPU)."""
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
    module = torch.get_device_module(device)
    supported = getattr(module, "is_bf16_supported", None)
    return bool(supported()) if supported is not None else False


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the device has it natively, else float32."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
