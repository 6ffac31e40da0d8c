"""Cross-entropy and token log-probabilities that never hold the full logits: the vocabulary product runs in chunks.

Both take hidden states of the positions that carry a label only, and compute in at least float32 after the product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from athanor.model.linear import linear
from athanor.model.products import add_weight_grad, cross_entropy, input_grad_into

#: logits held at once: tokens × vocabulary elements, 32 MB in float32 (known to athanor.plan.traits too)
CHUNK_ELEMENTS = 8 * 2**20


def _chunk(vocab_size: int) -> int:
    return max(64, CHUNK_ELEMENTS // vocab_size)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _CrossEntropySum(torch.autograd.Function):
    """Σ −log softmax(h Wᵀ)[label]; the gradient of the sum is made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        losses_N: torch.Tensor | None,
    ) -> torch.Tensor:
        need_h, need_w = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=hidden_ND.device)
        grad_h = torch.empty_like(hidden_ND) if need_h else None
        grad_w = torch.zeros_like(weight_VD, dtype=wide) if need_w else None
        size = _chunk(weight_VD.shape[0])
        for start in range(0, len(labels_N), size):
            part = slice(start, start + size)
            h_nD = hidden_ND[part]
            losses_n, grad_nV = cross_entropy(linear(h_nD, weight_VD), labels_N[part], need_h or need_w)
            total += losses_n.sum()
            if losses_N is not None:
                losses_N[part] = losses_n
            if grad_h is not None:
                input_grad_into(grad_nV, weight_VD, grad_h[part])
            if grad_w is not None:
                add_weight_grad(grad_w, grad_nV, h_nD)
        ctx.save_for_backward(grad_h, None if grad_w is None else grad_w.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        grad_h, grad_w = ctx.saved_tensors
        return (
            None if grad_h is None else grad_h * grad.to(grad_h.dtype),
            None if grad_w is None else grad_w * grad.to(grad_w.dtype),
            None,
            None,
        )


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ / temperature)[label] of each token, and the entropy (without gradient); logits are remade."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        picked, entropy = [], []
        for h, label in zip(*_split(weight_VD, hidden_ND, labels_N), strict=True):
            log_p = (_wide(F.linear(h, weight_VD)) / temperature).log_softmax(-1)
            picked.append(log_p.gather(-1, label[:, None])[:, 0])
            entropy.append(-(log_p.exp() * log_p).sum(-1))
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N)
        ctx.temperature = temperature
        out = torch.cat(picked), torch.cat(entropy)
        ctx.mark_non_differentiable(out[1])
        return out

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, _entropy: torch.Tensor) -> Any:  # type: ignore[override]
        hidden_ND, weight_VD, labels_N = ctx.saved_tensors
        grad_h, grad_w = [], torch.zeros_like(weight_VD, dtype=grad_N.dtype)
        for h, label, grad in zip(*_split(weight_VD, hidden_ND, labels_N, grad_N), strict=True):
            p = (_wide(F.linear(h, weight_VD)) / ctx.temperature).softmax(-1).neg_()
            p.scatter_add_(-1, label[:, None], p.new_ones(1, 1).expand(len(label), 1))
            d_logits = (p * (grad / ctx.temperature)[:, None]).to(h.dtype)
            grad_h.append(d_logits @ weight_VD)
            add_weight_grad(grad_w, d_logits, h)
        return torch.cat(grad_h), grad_w.to(weight_VD.dtype), None, None


def _split(weight_VD: torch.Tensor, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    return [x.split(_chunk(weight_VD.shape[0])) for x in tensors]


def cross_entropy_sum(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, labels_N: torch.Tensor, losses_N: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum of next-token cross-entropy (nats): a float32 scalar (float64 for float64 input). Labels are all real.

    ``losses_N``, where given, is filled with the loss of each token (without a gradient).
    """
    return _CrossEntropySum.apply(hidden_ND, weight_VD, labels_N, losses_N)  # type: ignore[no-any-return]


def token_logprobs(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label and entropy of its distribution, both float32 [N]; entropy has no gradient."""
    return _TokenLogProbs.apply(hidden_ND, weight_VD, labels_N, temperature)  # type: ignore[no-any-return]
