"""What is not a matrix product: memory, launches, fused attention, the optimizer.

Attention and optimizer are the product's own code (packed attention, flat AdamW), and each becomes the figure that the
planner's formula for it wants, so that the two stand for the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from athanor.calibrate.clock import Clock
from athanor.model.attention_ops import packed_attention
from athanor.model.packing import Packing
from athanor.plan.cluster import Attention
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import AdamW

#: Keys a query at which fused attention is measured, and tokens of each call.
LENGTHS, QUICK_LENGTHS = (16, 64, 128, 256, 512, 1024, 2048), (32, 128, 512)
TOKENS = 2048


def launch_s(clock: Clock) -> float:
    """Seconds of an operation with next to no work: what each costs that the host does not hide."""
    x = torch.zeros(16, device=clock.device)
    count = 200

    def call() -> None:
        for _ in range(count):
            torch.add(x, x, out=x)

    return clock.seconds(call, inner=count)


def copy_bytes_per_s(clock: Clock, nbytes: int) -> float:
    """Bytes read and written a second by a copy of ``nbytes``."""
    source = torch.ones(nbytes // 4, device=clock.device)
    target = torch.empty_like(source)
    return 2 * nbytes / clock.seconds(lambda: target.copy_(source))


# --- attention -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of attention: query heads, key-value heads, channels of each."""

    query: int
    key_value: int
    size: int


@dataclass(frozen=True, slots=True)
class AttentionTiming:
    """Seconds of one layer's attention over ``tokens`` in documents of ``length``."""

    length: int
    tokens: int
    forward_s: float
    backward_s: float

    @property
    def keys(self) -> float:
        """A query sees on average, itself included."""
        return (self.length + 1) / 2


def time_attention(clock: Clock, heads: Heads, dtype: torch.dtype, lengths: Sequence[int]) -> list[AttentionTiming]:
    """Packed attention over documents of each length, forward and backward."""
    found = []
    for length in lengths:
        tokens = max(TOKENS // length, 1) * length
        shapes = ((tokens, heads.query), (tokens, heads.key_value), (tokens, heads.key_value))
        q, k, v = (torch.randn(*shape, heads.size, device=clock.device).to(dtype).requires_grad_() for shape in shapes)
        packing = Packing.of([[length] * (tokens // length)], 1, tokens, clock.device)
        out = packed_attention(q, k, v, packing)
        grad = torch.randn_like(out)

        @torch.no_grad()
        def forward(q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v, packing: Packing = packing) -> None:
            packed_attention(q, k, v, packing)

        def backward(out: torch.Tensor = out, grad: torch.Tensor = grad) -> None:
            out.backward(grad, retain_graph=True)  # type: ignore[no-untyped-call]

        ahead, behind = clock.each([forward, backward])
        found.append(AttentionTiming(length, tokens, ahead, behind))
    return found


def fit_attention(
    timings: Sequence[AttentionTiming], heads: Heads, peak_flops_per_s: float, launch: float
) -> Attention:
    """Shares and half length by which ``Ops.attention_s`` comes nearest to ``timings`` (relative squares).

    It says t = flops/(peak·share) · (keys + half)/keys + launch, with 4 operations a channel and pair forward and
    2.5 times as many backward: for each ``half`` the best 1/share is a quotient of sums, so that only ``half`` is
    searched.
    """
    keys = np.array([t.keys for t in timings])
    flops = 4.0 * heads.query * heads.size * np.array([t.tokens for t in timings]) * keys
    seconds = np.array([[max(x - launch, x / 2) for x in (t.forward_s, t.backward_s)] for t in timings])
    best: tuple[float, float, float, float] | None = None
    for half in (0.0, *np.geomspace(0.5, 4096, 120)):
        ideal = (flops * (keys + half) / keys / peak_flops_per_s)[:, None] * np.array([1.0, 2.5]) / seconds
        inverse = ideal.sum(axis=0) / (ideal**2).sum(axis=0)
        error = float(((ideal * inverse - 1) ** 2).sum())
        if best is None or error < best[0]:
            best = error, 1 / inverse[0], 1 / inverse[1], half
    assert best is not None
    return Attention(forward=min(best[1], 1.0), backward=min(best[2], 1.0), half_length=best[3])


# --- optimizer --------------------------------------------------------------------------------------------------------


def optimizer_s(clock: Clock, parameters: int, dtype: torch.dtype) -> float:
    """Seconds of one update of about so many parameters with its gradient norm and the cast to ``dtype``."""
    side = max(int(parameters**0.5), 64)
    model = nn.Linear(side, side, bias=False, device=clock.device)
    optimizer = AdamW(model, OptimizerRecipe(), dtype)
    for group in optimizer.groups:
        group.grad.normal_()
    return clock.seconds(lambda: optimizer.step(1e-4, 1.0)) * parameters / side**2
