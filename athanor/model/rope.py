"""Rotary position embedding (arXiv 2104.09864) and its extensions: linear, llama3 and YaRN (arXiv 2309.00071)."""

from __future__ import annotations

import math

import torch

from athanor.model.config import ModelConfig, RopeScaling


def _yarn(inv_freq: torch.Tensor, s: RopeScaling, theta: float, width: int) -> torch.Tensor:
    """Blend extrapolated and interpolated frequencies over YaRN's ramp (arXiv 2309.00071, section 3.2)."""

    def correction_dim(rotations: float) -> float:
        period = s.original_max_position_embeddings / (rotations * 2 * math.pi)
        return width * math.log(period) / (2 * math.log(theta))

    low = max(math.floor(correction_dim(s.beta_fast)), 0)
    high = min(math.ceil(correction_dim(s.beta_slow)), width - 1)
    ramp = (
        (torch.arange(width // 2, dtype=torch.float32, device=inv_freq.device) - low) / max(high - low, 1e-3)
    ).clamp(0, 1)
    return inv_freq / s.factor * ramp + inv_freq * (1 - ramp)


def _llama3(inv_freq: torch.Tensor, s: RopeScaling) -> torch.Tensor:
    """Llama 3.1's scaling: long wavelengths divided by ``factor``, short ones kept, a smooth band between."""
    wavelength = 2 * math.pi / inv_freq
    ratio = s.original_max_position_embeddings / wavelength
    smooth = ((ratio - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1)
    return (1 - smooth) * inv_freq / s.factor + smooth * inv_freq


def rope_inv_freq(config: ModelConfig, theta: float, device: torch.device) -> tuple[torch.Tensor, float]:
    """Inverse frequencies [rotary_width / 2] (float32) and the factor on cos and sin (1 except for YaRN)."""
    width = int(config.head_size * config.partial_rotary_factor)
    inv_freq = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width))
    s = config.rope_scaling
    if s is None:
        return inv_freq, 1.0
    if s.rope_type == "linear":
        return inv_freq / s.factor, 1.0
    if s.rope_type == "llama3":
        return _llama3(inv_freq, s), 1.0
    attention = s.attention_factor if s.attention_factor is not None else 0.1 * math.log(max(s.factor, 1.0)) + 1.0
    return _yarn(inv_freq, s, theta, width), attention


def rope_tables(
    positions_BT: torch.Tensor, config: ModelConfig, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of [B, T, 1, rotary_width / 2]; angles in float32, tables in ``dtype``. Made once a forward pass."""
    inv_freq, scale = rope_inv_freq(config, theta, positions_BT.device)
    angles = positions_BT[..., None, None].float() * inv_freq
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def apply_rope(x_BTHD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotate the first ``2 · cos.shape[-1]`` channels of each head; the rest passes through.

    Pairs are (i, i + width/2) as in Llama, or (2i, 2i + 1) when ``interleaved`` as in GLM.
    """
    half = cos.shape[-1]
    rotated, rest = x_BTHD[..., : 2 * half], x_BTHD[..., 2 * half :]
    if interleaved:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = rotated[..., :half], rotated[..., half:]
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return out if rest.shape[-1] == 0 else torch.cat((out, rest), dim=-1)
