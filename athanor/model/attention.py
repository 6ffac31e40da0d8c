"""Grouped-query attention with optional biases, QK-norm and sliding window."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model.attention_ops import packed_attention
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.linear import Linear, linears
from athanor.model.norms import RMSNorm
from athanor.model.packing import Packing
from athanor.model.rope import apply_rope

#: cos and sin of one forward pass, or None for models with learned positions
Rope = tuple[torch.Tensor, torch.Tensor] | None


class Attention(nn.Module):
    """softmax(q kᵀ / √D) v over the earlier tokens of the same document (arXiv 2305.13245 for grouped queries)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = (
            config.num_attention_heads,
            config.num_key_value_heads,
        )
        self.head_size, self.interleaved = config.head_size, config.rope_interleaved
        self.window = config.sliding_window
        #: a door for ``athanor.parallel``: (q, k, v, packing, window) → out, flat tokens
        self.attend: Callable[..., torch.Tensor] = packed_attention
        width, q_width, kv_width = (
            config.hidden_size,
            self.n_heads * self.head_size,
            self.n_kv_heads * self.head_size,
        )
        self.q_proj = Linear(width, q_width, bias=config.attention_bias)
        self.k_proj = Linear(width, kv_width, bias=config.attention_bias)
        self.v_proj = Linear(width, kv_width, bias=config.attention_bias)
        self.o_proj = Linear(q_width, width, bias=config.attention_output_bias)
        self.q_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x_BTD: torch.Tensor,
        rope: Rope,
        packing: Packing | None,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """x [B, T, D] → [B, T, D]; exactly one of ``packing`` (training) and ``cache`` (decoding) is given."""
        q_BTHD, k_BTHD, v_BTHD = self.qkv(x_BTD, rope)
        if cache is not None:
            out_BTHD = self._incremental(q_BTHD, k_BTHD, v_BTHD, cache)
        else:
            assert packing is not None
            out_BTHD = self.mix(q_BTHD, k_BTHD, v_BTHD, packing)
        return self.o_proj(out_BTHD.flatten(-2))

    def mix(self, q_BTHD: torch.Tensor, k_BTHD: torch.Tensor, v_BTHD: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Each query's mixture of values inside its document [B, T, H, Dh]."""
        q, k, v = (x.flatten(0, 1) for x in (q_BTHD, k_BTHD, v_BTHD))
        return self.attend(q, k, v, packing, self.window).view(q_BTHD.shape)

    def qkv(self, x_BTD: torch.Tensor, rope: Rope) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [B, T, H, Dh], keys and values [B, T, Hkv, Dh], normalised and rotated."""
        q_BTHD, k_BTHD, v_BTHD = (x.unflatten(-1, (-1, self.head_size)) for x in self.products(x_BTD))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHD, k_BTHD = self.q_norm(q_BTHD), self.k_norm(k_BTHD)
        if rope is not None:
            q_BTHD = apply_rope(q_BTHD, *rope, self.interleaved)
            k_BTHD = apply_rope(k_BTHD, *rope, self.interleaved)
        return q_BTHD, k_BTHD, v_BTHD

    def products(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The three projections of x [B, T, D], heads side by side."""
        q_BTQ, k_BTK, v_BTK = linears(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        return q_BTQ, k_BTK, v_BTK

    def _incremental(
        self,
        q_BTHD: torch.Tensor,
        k_BTHD: torch.Tensor,
        v_BTHD: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        """Attend to everything this row has cached and to the new tokens up to each one."""
        n_new, fresh = q_BTHD.shape[1], cache.longest == 0
        k_BHSD, v_BHSD = cache.write(self.layer, k_BTHD, v_BTHD)
        gqa = self.n_heads != self.n_kv_heads
        if fresh and (self.window is None or n_new <= self.window):
            # Right padding lies behind every real query, so a plain causal mask is exact.
            out = F.scaled_dot_product_attention(
                q_BTHD.transpose(1, 2),
                k_BHSD,
                v_BHSD,
                is_causal=n_new > 1,
                enable_gqa=gqa,
            )
        else:
            seen_BTS = cache.visible_BTS(n_new)
            if self.window is not None:
                last_BT1 = (cache.lens_B[:, None] + torch.arange(n_new, device=cache.lens_B.device))[..., None]
                seen_BTS = seen_BTS & (
                    torch.arange(seen_BTS.shape[-1], device=last_BT1.device) > last_BT1 - self.window
                )
            out = F.scaled_dot_product_attention(
                q_BTHD.transpose(1, 2),
                k_BHSD,
                v_BHSD,
                attn_mask=seen_BTS[:, None],
                enable_gqa=gqa,
            )
        return out.transpose(1, 2)
