"""Dropless mixture-of-experts feed-forward: every token reaches its top-k experts, whatever the load."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.feed_forward import ACTIVATIONS, FeedForward


class Router(nn.Module):
    """Scores [N, E] in float32 → top-k experts and weights of each token."""

    bias: torch.Tensor
    load: torch.Tensor

    def __init__(self, config: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        self.moe = moe
        self.weight = nn.Parameter(torch.empty(moe.num_experts, config.hidden_size))
        if moe.balance == "bias":
            self.register_buffer("bias", torch.zeros(moe.num_experts))
            self.register_buffer("load", torch.zeros(moe.num_experts), persistent=False)

    def forward(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns experts [N, k] (int64), weights [N, k] and probabilities [N, E] (both in at least float32)."""
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        return self.choose(F.linear(x_ND.to(wide), self.weight.to(wide)))

    def choose(self, logits_NE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The second half of :meth:`forward`: from the scores."""
        p_NE = logits_NE.softmax(-1) if self.moe.scoring == "softmax" else logits_NE.sigmoid()
        chooser_NE = p_NE + self.bias if self.moe.balance == "bias" else p_NE
        experts_NK = chooser_NE.topk(self.moe.num_experts_per_tok, dim=-1).indices
        weights_NK = p_NE.gather(-1, experts_NK)
        if self.moe.norm_topk_prob:
            weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)
        return experts_NK, weights_NK, p_NE


class Load(NamedTuple):
    """Of one micro-batch: assignments by expert [E] (no gradient), sum of probabilities [E], tokens (scalar tensor)."""

    counts_E: torch.Tensor
    p_sum_E: torch.Tensor
    n_tokens: torch.Tensor


def load_balancing_loss(load: Load) -> torch.Tensor:
    """E · Σ_e f_e · P_e, f the assignments a token and P the mean probability (Switch, arXiv 2101.03961, eq. 4–6)."""
    share_E = load.counts_E.to(load.p_sum_E.dtype) / load.n_tokens
    return len(share_E) * (share_E * load.p_sum_E / load.n_tokens).sum()


def gated(
    x_MD: torch.Tensor, w_gate_DF: torch.Tensor, w_up_DF: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """act(x w_gate) · (x w_up) of one expert [M, F]. An ``act`` with a method ``gated`` (x, w_gate, w_up) takes over:
    the door for ``athanor.parallel.recompute``."""
    take_over = getattr(act, "gated", None)
    if take_over is not None:
        return take_over(x_MD, w_gate_DF, w_up_DF)  # type: ignore[no-any-return]
    return act(x_MD @ w_gate_DF) * (x_MD @ w_up_DF)


def apply_experts(
    x_MD: torch.Tensor,
    counts: list[int],
    w_gate_EDF: torch.Tensor,
    w_up_EDF: torch.Tensor,
    w_down_EFD: torch.Tensor,
    act: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Expert e of the given weights on its ``counts[e]`` consecutive rows: [M, D] → [M, D]."""
    outs = []
    for e, rows in enumerate(x_MD.split(counts)):
        # Without any rows one empty product keeps the weights in the graph, with gradients of zero.
        if len(rows) or (e == 0 and not len(x_MD)):
            outs.append(gated(rows, w_gate_EDF[e], w_up_EDF[e], act) @ w_down_EFD[e])
    return torch.cat(outs)


def _as_it_is(load: Load) -> Load:
    return load


class MoEFeedForward(nn.Module):
    """Routed experts plus optional shared ones. [B, T, D] → ([B, T, D], auxiliary loss or None)."""

    def __init__(self, config: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        self.moe, self.act = moe, ACTIVATIONS[config.hidden_act]
        n, d, f = moe.num_experts, config.hidden_size, moe.moe_intermediate_size
        self.router = Router(config, moe)
        self.w_gate = nn.Parameter(torch.empty(n, d, f))
        self.w_up = nn.Parameter(torch.empty(n, d, f))
        self.w_down = nn.Parameter(torch.empty(n, f, d))
        self.shared = FeedForward(config, f * moe.num_shared_experts) if moe.num_shared_experts else None
        #: Doors for ``athanor.parallel``: where experts run, and over which ranks a micro-batch's load is summed.
        self.run_experts: Callable[[torch.Tensor, list[int]], torch.Tensor] = self.experts
        self.total_load: Callable[[Load], Load] = _as_it_is

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x_ND = x_BTD.flatten(0, 1)
        experts_NK, weights_NK, p_NE = self.router(x_ND)
        # Sort assignments by expert, so that each expert sees one contiguous run of tokens.
        order = experts_NK.flatten().argsort(stable=True)
        token = order // self.moe.num_experts_per_tok
        counts_E = torch.bincount(experts_NK.flatten(), minlength=self.moe.num_experts)
        routed = self.run_experts(x_ND[token], counts_E.tolist()) * weights_NK.flatten()[order, None].to(x_ND.dtype)
        out_ND = torch.zeros_like(x_ND).index_add(0, token, routed)
        if self.shared is not None:
            out_ND = out_ND + self.shared(x_ND)
        return out_ND.view_as(x_BTD), self._balance(counts_E, p_NE)

    def _balance(self, counts_E: torch.Tensor, p_NE: torch.Tensor) -> torch.Tensor | None:
        """Note the load for the bias, or give the auxiliary loss."""
        if self.moe.balance == "bias" and self.training:
            self.router.load += counts_E
        if self.moe.balance != "loss":
            return None
        n_tokens = torch.tensor(float(len(p_NE)), dtype=p_NE.dtype, device=p_NE.device)
        return load_balancing_loss(self.total_load(Load(counts_E, p_NE.sum(0), n_tokens)))

    def experts(self, x_MD: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Apply expert e to its ``counts[e]`` consecutive rows of ``x_MD``."""
        return apply_experts(x_MD, counts, self.w_gate, self.w_up, self.w_down, self.act)

    @torch.no_grad()
    def update_bias(self) -> None:
        """After a step, raise the bias of under-loaded experts (loss-free balancing, arXiv 2408.15664)."""
        if self.moe.balance == "bias":
            self.router.bias += self.moe.bias_update_rate * (self.router.load.mean() - self.router.load).sign()
            self.router.load.zero_()
