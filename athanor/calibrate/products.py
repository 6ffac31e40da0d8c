"""Matrix products by shape, as training makes them (athanor.model.products): forward, gradients of input and weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from athanor.calibrate.clock import Clock
from athanor.model import products
from athanor.plan.cluster import Dtype

Role = Literal["forward", "input", "weight"]
#: (m, n, k) of [m, k] @ [k, n]
Shape = tuple[int, int, int]

TORCH: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Operands that are used in turn hold about this much, so that not all come from the nearest cache.
_ROTATED_BYTES, _MOST_SETS = 64 * 2**20, 8

#: Square products (by size), and narrow ones of the same operations (how much a short k costs).
CUBES = (32, 64, 128, 256, 512, 1024, 2048)
NARROW_K = 64
ACCELERATOR_CUBES = (128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one product."""

    shape: Shape
    dtype: Dtype
    seconds: float

    @property
    def flops(self) -> float:
        """2·m·n·k."""
        m, n, k = self.shape
        return 2.0 * m * n * k


def roles(shape: Shape, tokens: Collection[int]) -> tuple[Role, ...]:
    """What a product of this shape is in a step whose micro-batches have one of ``tokens`` tokens: the gradient of
    weights sums over them, the other two have a row for each."""
    m, _, k = shape
    return ("weight",) if k in tokens and m not in tokens else ("forward", "input")


def time_product(clock: Clock, shape: Shape, dtype: Dtype, as_roles: Iterable[Role]) -> Timing:
    """The mean over ``as_roles`` of a product's median seconds."""
    each = [_seconds(clock, shape, TORCH[dtype], role) for role in as_roles]
    return Timing(shape, dtype, sum(each) / len(each))


def _seconds(clock: Clock, shape: Shape, dtype: torch.dtype, role: Role) -> float:
    m, n, k = shape
    size = dtype.itemsize * (m * k + k * n + m * n)
    sets = int(min(max(_ROTATED_BYTES // size, 1), _MOST_SETS))

    def make(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=clock.device).to(dtype)

    pairs = [_operands(role, m, n, k, make) for _ in range(sets)]

    @torch.no_grad()
    def call() -> None:
        for left, right in pairs:
            if role == "forward":
                products.linears(left, [right])
            elif role == "input":
                products.input_grad([left], [right])
            else:
                products.weight_grads([left], right)

    return clock.seconds(call, inner=sets)


def _operands(
    role: Role, m: int, n: int, k: int, make: Callable[[int, int], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """x and W of x Wᵀ as a linear layer has it; g and W of g W; g and x of gᵀ x."""
    if role == "forward":
        return make(m, k), make(n, k)
    if role == "input":
        return make(m, k), make(k, n)
    # The planner's [m, n] is inputs × outputs; the gradient that is made has the weight's shape, outputs × inputs.
    return make(k, n), make(k, m)


def general_grid(clock: Clock, dtype: Dtype, quick: bool) -> tuple[list[Timing], list[Timing]]:
    """(square products, as large ones with a short k) on this device."""
    on_cpu = clock.device.type == "cpu"
    sizes = (CUBES if on_cpu else ACCELERATOR_CUBES)[: -1 if quick else None]
    cubes = [time_product(clock, (s, s, s), dtype, ("forward",)) for s in sizes]
    wide = [int((s**3 / NARROW_K) ** 0.5) // 8 * 8 for s in sizes[2:-1]]
    narrow = [time_product(clock, (w, w, NARROW_K), dtype, ("forward",)) for w in wide]
    return cubes, narrow


def half_k(cubes: list[Timing], narrow: list[Timing], launch_s: float) -> float:
    """k at which a product runs at half its rate, from narrow products beside square ones of as many operations.

    With rate ∝ k/(k + h): r = rate(narrow)/rate(square) = (k₁/(k₁+h))/(k₂/(k₂+h)), solved for h; 0 where narrow ones
    are no slower. Median over sizes.
    """
    found = []
    sizes, rates = [t.flops for t in cubes], [rate(t, launch_s) for t in cubes]
    for timing in narrow:
        square = float(np.exp(np.interp(np.log(timing.flops), np.log(sizes), np.log(rates))))
        ratio = min(rate(timing, launch_s) / square, 1.0)
        short, long = float(timing.shape[2]), (timing.flops / 2) ** (1 / 3)
        # ratio is above short/long unless something else than the main loop binds
        below = ratio * long - short
        found.append(0.0 if ratio >= 1 else (short * long * (1 - ratio) / below if below > 0 else long))
    return float(np.median(found)) if found else 0.0


def rate(timing: Timing, launch_s: float) -> float:
    """FLOP/s without the launch, which the planner adds to every product."""
    return timing.flops / net(timing.seconds, launch_s)


def net(seconds: float, launch_s: float) -> float:
    """Seconds without the launch; at least half, since a measured launch is not exact either."""
    return max(seconds - launch_s, seconds / 2)
