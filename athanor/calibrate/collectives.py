"""Collectives by size over the process group in use, and how much they cost the compute beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from athanor.calibrate.clock import Clock
from athanor.parallel import tensor as engine
from athanor.plan.cluster import CollectiveKind, CollectivePoint

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send"]
KINDS: tuple[Kind, ...] = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send")
#: Bytes of the whole tensor.
SIZES, QUICK_SIZES = (2**12, 2**15, 2**18, 2**20, 2**22, 2**24, 2**26), (2**12, 2**18, 2**21, 2**23)
#: Tokens of the streams that tensor-parallel collectives are measured on.
TOKENS = (16, 256, 1024, 4096, 8192)
#: What a step is made of most: these decide bandwidth and latency.
FITTED: tuple[Kind, ...] = ("all_gather", "reduce_scatter", "all_reduce", "send")


#: The names that collectives over one tensor have from torch 2.13 on, else the older ones.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True, slots=True)
class CollectiveTiming:
    """Seconds of one collective of ``nbytes`` (of the whole tensor) among ``ranks``."""

    kind: Kind
    ranks: int
    nbytes: int
    seconds: float

    @property
    def point(self) -> CollectivePoint:
        """As a cluster file has it."""
        return CollectivePoint(kind=self.kind, ranks=self.ranks, nbytes=self.nbytes, seconds=max(self.seconds, 1e-9))

    @property
    def moved(self) -> float:
        """Bytes over each link, as ``athanor.plan.collectives.Links`` counts them."""
        share = (self.ranks - 1) / self.ranks
        return self.nbytes * {"all_reduce": 2 * share, "send": 1.0}.get(self.kind, share)

    @property
    def steps(self) -> float:
        """Latencies that Links counts."""
        gossip = min(2 * (self.ranks - 1), 4 * int(np.ceil(np.log2(self.ranks))))
        return {"all_reduce": gossip, "all_to_all": 1, "send": 1}.get(self.kind, self.ranks - 1)


@dataclass(frozen=True, slots=True)
class Line:
    """Latency of a step and bytes a second over a link, with the median error of what they were fitted to."""

    latency_s: float
    bytes_per_s: float
    error: float


def time_collectives(
    clock: Clock, group: dist.ProcessGroup | None, ranks: list[int], quick: bool
) -> list[CollectiveTiming]:
    """Every kind at every size among ``ranks`` (this process is one of them); all groups of a machine at once."""
    out = []
    for nbytes in QUICK_SIZES if quick else SIZES:
        for kind in KINDS:
            call = _call(kind, group, ranks, nbytes, clock.device)
            out.append(CollectiveTiming(kind, len(ranks), nbytes, clock.seconds(call, together=True)))
    return out


def time_tensor_collectives(
    clock: Clock, group: dist.ProcessGroup, ranks: list[int], rows: int, width: int, dtype: torch.dtype, quick: bool
) -> list[CollectivePoint]:
    """Those of tensor and sequence parallel, by the engine's own functions on a stream [rows, T, width]: through the
    functional operators, and with the copies that bring pieces of rows into order."""
    points = []
    name, size = group.group_name, len(ranks)
    for tokens in TOKENS[::2] if quick else TOKENS:
        whole = torch.ones(rows, max(tokens // rows // size, 1) * size, width, device=clock.device, dtype=dtype)
        part = whole[:, : whole.shape[1] // size].contiguous()
        calls: dict[CollectiveKind, Callable[[], Any]] = {
            "tensor_all_gather": partial(engine._all_gather, part, size, name),
            "tensor_reduce_scatter": partial(engine._reduce_scatter, whole, size, name),
            "tensor_all_reduce": partial(engine._all_reduce, whole, name),
        }
        times = clock.each(list(calls.values()), together=True)
        nbytes = whole.numel() * dtype.itemsize
        points += [
            CollectivePoint(kind=kind, ranks=size, nbytes=nbytes, seconds=max(seconds, 1e-9))
            for kind, seconds in zip(calls, times, strict=True)
        ]
    return points


def _call(
    kind: Kind, group: dist.ProcessGroup | None, ranks: list[int], nbytes: int, device: torch.device
) -> Callable[[], Any]:
    count = max(nbytes // 4 // len(ranks), 1)
    whole, part = torch.ones(count * len(ranks), device=device), torch.ones(count, device=device)
    if kind == "all_gather":
        return lambda: _all_gather(whole, part, group=group)
    if kind == "reduce_scatter":
        return lambda: _reduce_scatter(part, whole, group=group)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if kind == "all_to_all":
        other = torch.empty_like(whole)
        return lambda: dist.all_to_all_single(other, whole, group=group)
    at = ranks.index(dist.get_rank())
    to, source = ranks[(at + 1) % len(ranks)], ranks[at - 1]
    other = torch.empty_like(whole)

    def around() -> None:
        ops = [dist.P2POp(dist.isend, whole, to, group), dist.P2POp(dist.irecv, other, source, group)]
        for work in dist.batch_isend_irecv(ops):
            work.wait()

    return around


def fit_line(timings: list[CollectiveTiming], launch_s: float) -> Line:
    """t = launch + latency · steps + moved / bandwidth, by least squares of the relative error; both positive."""
    chosen = [t for t in timings if t.kind in FITTED]
    seconds = np.array([max(t.seconds - launch_s, t.seconds / 2) for t in chosen])
    columns = np.array([[t.steps, t.moved] for t in chosen], np.float64) / seconds[:, None]
    (latency, inverse), *_ = np.linalg.lstsq(columns, np.ones(len(chosen)), rcond=None)
    if latency <= 0:  # then bandwidth alone explains them
        latency, inverse = 0.0, float(columns[:, 1].sum() / (columns[:, 1] ** 2).sum())
    if inverse <= 0:
        latency, inverse = float(columns[:, 0].sum() / (columns[:, 0] ** 2).sum()), 1e-15
    error = np.abs(columns @ np.array([latency, inverse]) - 1)
    return Line(float(latency), float(1 / inverse), float(np.median(error)))


def contention(clock: Clock, group: dist.ProcessGroup | None) -> float:
    """Seconds that compute loses for each second of a collective that runs beside it, 0 to 0.99.

    On an accelerator the two share little; on a CPU whose ranks fill the cores, a collective's copies take the time
    that the products want.
    """
    tensor = torch.ones(2**21, device=clock.device)
    side = 512 if clock.device.type == "cpu" else 4096
    matrix = torch.randn(side, side, device=clock.device)

    def alone() -> None:
        dist.all_reduce(tensor, group=group)

    comm_s = clock.seconds(alone, together=True)
    once_s = clock.seconds(lambda: matrix @ matrix, together=True)
    count = clock.most(int(np.ceil(2 * comm_s / once_s)))

    def compute() -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)

    def both() -> None:
        work = dist.all_reduce(tensor, group=group, async_op=True)
        compute()
        work.wait()

    compute_s, both_s = clock.each([compute, both], together=True)
    return float(np.clip((both_s - compute_s) / comm_s, 0.0, 0.99))
