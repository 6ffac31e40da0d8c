"""The head when the vocabulary is spread over the ranks of tensor parallel.

Each rank holds V/tp rows of the output matrix and makes V/tp logits of every token. What the softmax needs of the other
ranks is three numbers a token: the greatest logit, the sum of exponentials, the label's own logit (Megatron-LM, arXiv
1909.08053, section 3). The logits of one rank's tokens are never brought together, and never held for more than a chunk
of tokens, as in ``athanor.model.head``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from athanor.errors import AthanorError
from athanor.model.head import CHUNK_ELEMENTS

_ops = torch.ops._c10d_functional


@dataclass(frozen=True)
class VocabParallel:
    """This rank's part of a vocabulary: rows ``start`` … ``start + rows`` of a matrix of ``vocab_size`` rows.

    The rows are cut as DTensor's ``Shard(0)`` cuts them: ⌈V/tp⌉ each, fewer on the last rank. Its three methods take
    hidden states that are whole and equal on every rank of the group, and give results and gradients that are whole and
    equal on every rank; every rank of the group calls them together.
    """

    group: dist.ProcessGroup
    vocab_size: int

    def __post_init__(self) -> None:
        if self.block * (self.group.size() - 1) >= self.vocab_size:
            raise AthanorError(
                f"a vocabulary of {self.vocab_size} leaves one of {self.group.size()} ranks without a row",
                where="parallel.tp",
                fix="use fewer tensor-parallel ranks or a larger vocabulary",
            )

    def __deepcopy__(self, memo: Any) -> VocabParallel:
        return self  # a process group is no value to copy

    @property
    def block(self) -> int:
        """Rows of every rank but perhaps the last."""
        return -(-self.vocab_size // self.group.size())

    @property
    def start(self) -> int:
        """Token id of this rank's first row."""
        return self.block * self.group.rank()

    @property
    def rows(self) -> int:
        """How many rows this rank holds."""
        return min(self.block, self.vocab_size - self.start)

    def find(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of this rank for token ids (0 where the id is elsewhere), and a mask: true where it is here."""
        row = ids - self.start
        here = (row >= 0) & (row < self.rows)
        return row.masked_fill(~here, 0), here

    def cross_entropy(
        self,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        losses_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``athanor.model.head.cross_entropy_sum``; ``weight_VD`` is the sharded DTensor or this rank's rows."""
        return _CrossEntropySum.apply(  # type: ignore[no-any-return]
            hidden_ND, local(weight_VD), labels_N, self, losses_N
        )

    def token_logprobs(
        self,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``athanor.model.head.token_logprobs``; ``weight_VD`` is the sharded DTensor or this rank's rows."""
        return _TokenLogProbs.apply(  # type: ignore[no-any-return]
            hidden_ND, local(weight_VD), labels_N, temperature, self
        )

    def logits(self, hidden: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
        """[..., D] → all logits [..., V], equal on every rank: for decoding, where few tokens are looked at."""
        return _Logits.apply(hidden, local(weight_VD), self)  # type: ignore[no-any-return]


def local(weight: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a DTensor (differentiable); anything else as it is."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _softmax_parts(
    scores_nV: torch.Tensor, row_n: torch.Tensor, here_n: torch.Tensor, vocab: VocabParallel, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of this rank's scores (overwritten by their softmax over the whole vocabulary): (probabilities [n, V/tp],
    log-probability of the label [n], log of the sum of exponentials [n], entropy [n] or an empty tensor)."""
    top_n = scores_nV.amax(-1)
    dist.all_reduce(top_n, dist.ReduceOp.MAX, group=vocab.group)
    scores_nV -= top_n[:, None]
    label_n = scores_nV.gather(-1, row_n[:, None])[:, 0].masked_fill(~here_n, 0.0)
    exp_nV = torch.exp(scores_nV)
    parts = [exp_nV.sum(-1), label_n]
    if entropy:
        parts.append((scores_nV.mul_(exp_nV)).sum(-1))
    sums = torch.stack(parts)
    dist.all_reduce(sums, group=vocab.group)  # one message for all that is summed
    log_sum_n = sums[0].log()
    entropy_n = log_sum_n - sums[2] / sums[0] if entropy else sums.new_empty(0)
    return exp_nV.div_(sums[0][:, None]), sums[1] - log_sum_n, log_sum_n + top_n, entropy_n


def _chunks(vocab: VocabParallel, *tensors: torch.Tensor) -> Any:
    """Tensors of N tokens, cut so that one chunk's logits on this rank stay within ``CHUNK_ELEMENTS``."""
    if not len(tensors[0]):
        return []
    size = max(64, CHUNK_ELEMENTS // vocab.block)  # the same on every rank: each chunk has collectives
    return list(zip(*(x.split(size) for x in tensors), strict=True))


class _CrossEntropySum(torch.autograd.Function):
    """Σ −log softmax(h Wᵀ)[label]; as on one device, the gradient of the sum is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        vocab: VocabParallel,
        losses_N: torch.Tensor | None,
    ) -> torch.Tensor:
        need_h, need_w = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=hidden_ND.device)
        grad_h = torch.empty_like(hidden_ND, memory_format=torch.contiguous_format) if need_h else None
        grad_w = torch.zeros_like(weight_VD, dtype=wide) if need_w else None
        at = 0
        for h, row, here in _chunks(vocab, hidden_ND, *vocab.find(labels_N)):
            p, logp, _, _ = _softmax_parts(_wide(F.linear(h, weight_VD)), row, here, vocab, entropy=False)
            total -= logp.sum()
            if losses_N is not None:
                losses_N[at : at + len(h)] = -logp
            if need_h or need_w:
                grad = p.scatter_add_(-1, row[:, None], -here[:, None].to(p.dtype)).to(h.dtype)
                if grad_h is not None:
                    torch.mm(grad, weight_VD, out=grad_h[at : at + len(h)])
                if grad_w is not None:
                    grad_w += grad.T @ h
            at += len(h)
        if grad_h is not None and len(grad_h):
            dist.all_reduce(grad_h, group=vocab.group)
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
            None,
        )


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ / temperature)[label] and the entropy (no gradient). The backward pass makes the logits again;
    the kept log-sum-exp [N] turns them into probabilities without another collective."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        temperature: float,
        vocab: VocabParallel,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        logp_N, log_sum_N, entropy_N = (hidden_ND.new_empty(len(labels_N), dtype=wide) for _ in range(3))
        at = 0
        for h, row, here in _chunks(vocab, hidden_ND, *vocab.find(labels_N)):
            part = slice(at, at + len(h))
            scores = _wide(F.linear(h, weight_VD)).div_(temperature)
            _, logp_N[part], log_sum_N[part], entropy_N[part] = _softmax_parts(scores, row, here, vocab, entropy=True)
            at += len(h)
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N, log_sum_N)
        ctx.temperature, ctx.vocab = temperature, vocab
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, _entropy: torch.Tensor) -> Any:  # type: ignore[override]
        hidden_ND, weight_VD, labels_N, log_sum_N = ctx.saved_tensors
        vocab: VocabParallel = ctx.vocab
        grad_h = torch.zeros_like(hidden_ND, memory_format=torch.contiguous_format)
        grad_w = torch.zeros_like(weight_VD, dtype=grad_N.dtype)
        at = 0
        for h, row, here, log_sum, grad in _chunks(vocab, hidden_ND, *vocab.find(labels_N), log_sum_N, grad_N):
            scores = _wide(F.linear(h, weight_VD)).div_(ctx.temperature)
            p = scores.sub_(log_sum[:, None]).exp_().neg_()
            p.scatter_add_(-1, row[:, None], here[:, None].to(p.dtype))
            d_logits = p.mul_((grad / ctx.temperature)[:, None]).to(h.dtype)
            torch.mm(d_logits, weight_VD, out=grad_h[at : at + len(h)])
            grad_w += d_logits.T @ h
            at += len(h)
        if len(grad_h):
            dist.all_reduce(grad_h, group=vocab.group)
        return grad_h, grad_w.to(weight_VD.dtype), None, None, None


class _Logits(torch.autograd.Function):
    """h Wᵀ with the vocabulary gathered. Every rank computes the same from it, so a rank's own columns of the incoming
    gradient are the whole gradient of its logits."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight_VD: torch.Tensor, vocab: VocabParallel) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight_VD)
        ctx.vocab = vocab
        mine_NV = F.linear(hidden.flatten(0, -2), weight_VD)
        mine_NV = F.pad(mine_NV, (0, vocab.block - vocab.rows))
        all_RNV = _ops.all_gather_into_tensor(mine_NV.contiguous(), vocab.group.size(), vocab.group.group_name)
        all_RNV = _ops.wait_tensor(all_RNV)
        logits_NV = all_RNV.unflatten(0, (vocab.group.size(), -1)).transpose(0, 1).flatten(1)[:, : vocab.vocab_size]
        return logits_NV.unflatten(0, hidden.shape[:-1]).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        hidden, weight_VD = ctx.saved_tensors
        vocab: VocabParallel = ctx.vocab
        mine = grad[..., vocab.start : vocab.start + vocab.rows]
        grad_h = mine @ weight_VD
        dist.all_reduce(grad_h, group=vocab.group)
        return grad_h, mine.flatten(0, -2).T @ hidden.flatten(0, -2), None
