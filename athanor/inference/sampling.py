"""Choosing the next token: temperature, top-k, top-p, one uniform number per row and step.

A row's random numbers come from its own counter-based stream, so that what a row says does not depend on the rows that
happen to share its batch, on the device, or on how many rows have finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from athanor.errors import AthanorError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose a token. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep the whole vocabulary.

    Filters apply in the order temperature, top-k, top-p (the mass is renormalised in between), as in transformers.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise AthanorError(f"temperature is {self.temperature}", fix="give 0 (greedy) or a positive finite number")
        if self.top_k < 0:
            raise AthanorError(f"top_k is {self.top_k}", fix="give 0 (off) or a positive number of tokens")
        if not 0 < self.top_p <= 1:
            raise AthanorError(f"top_p is {self.top_p}", fix="give a number above 0, at most 1 (1: off)")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


GREEDY = Sampling(temperature=0.0)


def row_uniforms(seed: int, row_seeds: Sequence[int], n: int) -> torch.Tensor:
    """[rows, n] float64 in [0, 1): the first ``n`` numbers of each row's Philox stream, keyed by (seed, row seed).

    A longer ``n`` only appends: number t of a row is always the same.
    """
    streams = [np.random.Generator(np.random.Philox(key=_key(seed, row))).random(n) for row in row_seeds]
    return torch.from_numpy(np.stack(streams)) if streams else torch.empty(0, n, dtype=torch.float64)


def _key(seed: int, row: int) -> np.ndarray:
    return np.array([seed % 2**64, row % 2**64], dtype=np.uint64)


def _top_p(logits_BK: torch.Tensor, top_p: float) -> torch.Tensor:
    """Mask (−inf) all but the smallest set with mass ≥ top_p. ``logits_BK`` is sorted, largest first."""
    probs_BK = logits_BK.softmax(-1)
    before_BK = probs_BK.cumsum(-1) - probs_BK
    before_BK[:, 0] = 0.0
    return logits_BK.masked_fill(before_BK >= top_p, float("-inf"))


def candidates(logits_BV: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(scores [B, K] float32, their token ids [B, K]): softmax(scores) is the distribution sampled from.

    ids are None when K = V and nothing is reordered. Equal logits at the edge of top-k are cut to exactly k.
    """
    scores_BV = logits_BV.float()
    if sampling.temperature not in (0, 1):
        scores_BV = scores_BV / sampling.temperature
    vocab = scores_BV.shape[-1]
    k = sampling.top_k if 0 < sampling.top_k < vocab else vocab
    if k == vocab and sampling.top_p == 1.0:
        return scores_BV, None
    kept_BK, ids_BK = scores_BV.topk(k, dim=-1) if k < vocab else scores_BV.sort(dim=-1, descending=True)
    return (_top_p(kept_BK, sampling.top_p) if sampling.top_p < 1.0 else kept_BK), ids_BK


def sample(logits_BV: torch.Tensor, sampling: Sampling, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_B int64, logprobs_B float32). Inverse of the cumulative distribution at one uniform number a row.

    The log-probability is that of the token in the distribution it was drawn from (after temperature and filters);
    for greedy it is the model's own (temperature 1, no filter).
    """
    if sampling.greedy:
        scores_BV = logits_BV.float()
        best_B, ids_B = scores_BV.max(-1)
        return ids_B, best_B - scores_BV.logsumexp(-1)
    scores_BK, ids_BK = candidates(logits_BV, sampling)
    shifted_BK = scores_BK - scores_BK.amax(-1, keepdim=True)
    cdf_BK = shifted_BK.exp().cumsum(-1)
    total_B1 = cdf_BK[:, -1:]
    # Rounding may carry u·total up to total, past every token; the largest float below it is still inside the last one.
    target_B1 = torch.minimum(
        uniform_B[:, None].to(cdf_BK.dtype) * total_B1, total_B1.nextafter(total_B1.new_zeros(()))
    )
    pick_B1 = torch.searchsorted(cdf_BK, target_B1, right=True).clamp_(max=cdf_BK.shape[-1] - 1)
    logp_B1 = shifted_BK.gather(-1, pick_B1) - total_B1.log()
    ids_B1 = pick_B1 if ids_BK is None else ids_BK.gather(-1, pick_B1)
    return ids_B1[:, 0], logp_B1[:, 0]
