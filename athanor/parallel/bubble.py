"""How much of a pipeline's time its ranks wait, measured on stages that take a fixed time."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from athanor.parallel.pipeline import build_schedule
from athanor.parallel.plan import ParallelPlan, ScheduleName
from athanor.parallel.stages import placement


class _Rest(torch.autograd.Function):
    """The value as it is; its gradient takes ``stage_s`` seconds. Sleeping leaves the core to others, so that any
    number of ranks can share it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stage: _FixedTime) -> torch.Tensor:
        ctx.stage = stage
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        ctx.stage.rest()
        return grad.clone(), None


class _FixedTime(nn.Module):
    """A stage that only sleeps, and notes how long: one time forward, one for the gradient of its input and one for
    that of its weight, which torch can take apart. The usual ratio; the first stage's gradient takes as long."""

    def __init__(self, stage_s: float) -> None:
        super().__init__()
        self.stage_s, self.busy_s = stage_s, 0.0
        self.weight = nn.Parameter(torch.zeros(1))

    def rest(self) -> None:
        start = time.perf_counter()
        time.sleep(self.stage_s)
        self.busy_s += time.perf_counter() - start

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor:
        self.rest()
        weight: torch.Tensor = _Rest.apply(self.weight, self)
        if x is None:
            return _Rest.apply(weight, self)  # type: ignore[no-any-return]
        return weight + _Rest.apply(x, self)  # type: ignore[no-any-return]


def ideal_bubble(pp: int, vpp: int, micro_batches: int) -> float:
    """(p − 1) / (m·v + p − 1): the idle share of GPipe and 1F1B (v = 1) and of interleaved 1F1B when every stage takes
    the same time and messages take none (arXiv 2104.04473, sections 2.2.1–2.2.2, as a share of the whole step)."""
    return (pp - 1) / (micro_batches * vpp + pp - 1)


def measure_bubble(schedule: ScheduleName, pp: int, vpp: int, micro_batches: int, stage_s: float) -> float:
    """The idle share of one step: 1 − (Σ time that ranks are busy) / (pp · wall), the wall time from a common start to
    the end of the slowest rank. Every stage takes ``stage_s`` seconds forward and twice that backward, which schedules
    that split the backward pass have in halves.

    Call it on all of ``pp`` ranks of the default process group; every rank gets the same number.
    """
    from torch.distributed.pipelining import PipelineStage

    places = placement(ParallelPlan(pp=pp, vpp=vpp, schedule=schedule))
    mine = [s for s, rank in enumerate(places) if rank == dist.get_rank()]
    modules = [_FixedTime(stage_s) for _ in mine]
    value, device = torch.empty(1, device="meta", requires_grad=True), torch.device("cpu")
    stages = [
        PipelineStage(module, s, len(places), device, input_args=() if s == 0 else (value,), output_args=(value,))
        for s, module in zip(mine, modules, strict=True)
    ]
    run = build_schedule(schedule, stages, micro_batches)
    target = torch.arange(micro_batches) if len(places) - 1 in mine else None
    wall_s = busy_s = 0.0
    for _ in range(2):  # the first step opens connections
        for module in modules:
            module.busy_s = 0.0
        dist.barrier()
        start = time.perf_counter()
        run.step(target=target, return_outputs=False)
        wall_s, busy_s = time.perf_counter() - start, sum(module.busy_s for module in modules)
    slowest, total = torch.tensor(wall_s), torch.tensor(busy_s)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    dist.all_reduce(total)
    return 1.0 - float(total) / (pp * float(slowest))
