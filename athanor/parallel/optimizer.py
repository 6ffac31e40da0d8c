"""AdamW over the local shards of a laid-out model: the update of ``athanor.train.optimizer``, on whatever a rank holds.

Every element of every parameter is updated by the ranks that hold it; copies get the same gradient and stay equal.
What is global is one number: the gradient's norm. A rank adds the squares of its shard divided by the number of ranks
that hold the same elements, so that a plain sum over *all* ranks counts each element once, whichever of tensor, expert,
pipeline or data parallel laid it out. All ranks then clip by, or skip on, the same bits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from athanor.errors import AthanorError
from athanor.parallel.data import free_gathered
from athanor.parallel.mesh import Ranks
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import NORM_RUN, GroupOptions, StepStats, adamw_update, grouped, run_norms


class ShardedAdamW:
    """``athanor.train.optimizer.AdamW`` for models (one Decoder, or a rank's pipeline stages) after
    ``apply_data_parallel``.

    Same groups, decay, clipping, skipping and bias correction. Parameters that have one name on several pipeline ranks
    or stages (a tied embedding) must get the same gradient there before ``step``; they count once. With
    ``ranks.plan.offload == "optimizer"`` masters and moments are in host memory and the update runs there.
    """

    def __init__(self, models: Sequence[nn.Module], ranks: Ranks, recipe: OptimizerRecipe) -> None:
        self.models, self.ranks, self.recipe = list(models), ranks, recipe
        for model in self.models:
            free_gathered(model)
        named = [(n, p) for model in self.models for n, p in model.named_parameters() if p.requires_grad]
        on_host = ranks.plan.offload == "optimizer"
        holders = _holders(named, ranks)
        config = getattr(self.models[0], "config", None)
        self.groups = [
            _Group(group, [holders[name] for name, _ in group], options, on_host)
            for options, group in grouped(named, config, recipe).items()
        ]
        device = self.groups[0].exp_avg[0].device if self.groups else ranks.device
        #: updates done so far (skipped ones not counted)
        self.steps_done = torch.zeros((), dtype=torch.float32, device=device)

    @property
    def masters(self) -> dict[str, torch.Tensor]:
        """This rank's master weights by parameter name, as DTensors (in host memory when offloaded)."""
        return {
            name: _like(param, master)
            for group in self.groups
            for name, param, master in zip(group.names, group.params, group.masters(), strict=True)
        }

    @property
    def grads(self) -> dict[str, torch.Tensor]:
        """Reduced gradients by parameter name, as DTensors; zeros where none arrived. ``step`` clips them in place."""
        return {
            name: _like(param, grad)
            for group in self.groups
            for name, param, grad in zip(group.names, group.params, group.grads(), strict=True)
        }

    def zero_grad(self) -> None:
        """Free all gradients."""
        for group in self.groups:
            for param in group.params:
                param.grad = None

    @torch.no_grad()
    def grad_norm(self) -> torch.Tensor:
        """Global L2 norm of the gradient: a scalar in master precision, the same bits on every rank."""
        return self._norm([group.grads() for group in self.groups])

    def _norm(self, grads: list[list[torch.Tensor]]) -> torch.Tensor:
        squares = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for group, tensors in zip(self.groups, grads, strict=True):
            if parts := _squares(tensors, group.holders):
                squares += torch.stack(parts).sum().to(squares.device)
        dist.all_reduce(squares)
        return squares.sqrt().to(grads[0][0].dtype if grads else torch.float32)

    @torch.no_grad()
    def step(self, lr: float, clip_norm: float) -> StepStats:
        """One update with the gradients that the parameters have, clipped to ``clip_norm``; left undone, on every rank,
        if the norm is not finite. Every rank calls it. Gradients stay until ``zero_grad``."""
        grads = [group.grads() for group in self.groups]
        norm = self._norm(grads)
        skipped = (~torch.isfinite(norm)).to(torch.float32)
        scale = torch.clamp(norm / clip_norm, min=1.0)  # gradients are divided by it
        there = self.steps_done.device
        scale_there, skipped_there = scale.to(there), skipped.to(there)
        self.steps_done += 1 - skipped_there
        for group, tensors in zip(self.groups, grads, strict=True):
            group.update(tensors, self.steps_done, self.recipe, lr, scale_there, skipped_there)
        for model in self.models:
            free_gathered(model)
        return StepStats(norm, skipped)

    def snapshot(self) -> dict[str, dict[str, torch.Tensor]]:
        """Copies in host memory of master weights and moments by parameter name, each rank's shards as DTensors: what
        ``athanor.parallel.checkpoint.save`` takes, and the template that its ``load`` fills."""
        out: dict[str, dict[str, torch.Tensor]] = {"params": {}, "exp_avg": {}, "exp_avg_sq": {}}
        for group in self.groups:
            for key, tensors in group.state().items():
                for name, param, tensor in zip(group.names, group.params, tensors, strict=True):
                    if name not in out[key]:  # a second stage with the same parameter holds the same values
                        out[key][name] = _like(param, tensor.detach().to("cpu", copy=True))
        out["optimizer"] = {"steps_done": self.steps_done.detach().to("cpu", copy=True)}
        return out

    @torch.no_grad()
    def restore(self, state: dict[str, dict[str, torch.Tensor]], where: str = "checkpoint") -> None:
        """Take over what ``snapshot`` of the same layout gave, bit for bit; what does not fit is named."""
        for key in ("params", "exp_avg", "exp_avg_sq"):
            ours = {name for group in self.groups for name in group.names}
            if odd := sorted(ours ^ set(state[key])):
                raise AthanorError(f"parameters differ from the model's: {', '.join(odd[:5])}", where=where)
            for group in self.groups:
                for name, param, tensor in zip(group.names, group.params, group.state()[key], strict=True):
                    tensor.copy_(_shard_of(state[key][name], name, param, where))
        for group in self.groups:
            group.publish()
        self.steps_done.copy_(state["optimizer"]["steps_done"])
        for model in self.models:
            free_gathered(model)


class _Group:
    """Local shards of parameters that share their options; empty shards are carried along."""

    def __init__(
        self, named: list[tuple[str, nn.Parameter]], holders: list[int], options: GroupOptions, on_host: bool
    ) -> None:
        self.names, self.params = [name for name, _ in named], [param for _, param in named]
        self.holders, self.options = holders, options
        self.host_masters: list[torch.Tensor] | None = None
        self.host_grads: list[torch.Tensor] = []
        locals_ = [_local(param.detach()) for param in self.params]
        if on_host:
            self.host_masters = [_host_copy(tensor) for tensor in locals_]
            self.host_grads = [_host_copy(tensor) for tensor in locals_]
        self.exp_avg, self.exp_avg_sq = (
            [torch.zeros_like(tensor) for tensor in self.host_masters or locals_] for _ in range(2)
        )

    def live(self) -> list[torch.Tensor]:
        """The shards that FSDP gathers from."""
        return [_local(param.detach()) for param in self.params]

    def masters(self) -> list[torch.Tensor]:
        """What the update works on: the shards themselves, or their copies in host memory."""
        return self.live() if self.host_masters is None else self.host_masters

    def state(self) -> dict[str, list[torch.Tensor]]:
        """Everything that a checkpoint holds, by its key there."""
        return {"params": self.masters(), "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def grads(self) -> list[torch.Tensor]:
        """Local gradients where the backward pass left them, laid out like the parameters."""
        return [_local_grad(param) for param in self.params]

    def update(
        self,
        grads: list[torch.Tensor],
        steps_done: torch.Tensor,
        recipe: OptimizerRecipe,
        lr: float,
        scale: torch.Tensor,
        skipped: torch.Tensor,
    ) -> None:
        if self.host_masters is not None:
            for copy, grad in zip(self.host_grads, grads, strict=True):
                copy.copy_(grad, non_blocking=True)
            _wait_for(grads)
            grads = self.host_grads
        held = [i for i, grad in enumerate(grads) if grad.numel()]
        if held:
            tensors = (self.masters(), grads, self.exp_avg, self.exp_avg_sq)
            masters, grads, avgs, squares = ([of_kind[i] for i in held] for of_kind in tensors)
            adamw_update(masters, grads, avgs, squares, steps_done, recipe, lr, self.options, scale, skipped)
        self.publish()

    def publish(self) -> None:
        """Bring masters in host memory to the shards that FSDP gathers from."""
        if self.host_masters is not None:
            live = self.live()
            for shard, master in zip(live, self.host_masters, strict=True):
                shard.copy_(master, non_blocking=True)
            _wait_for(live)  # the host would change its copy in the next update


def _holders(named: list[tuple[str, nn.Parameter]], ranks: Ranks) -> dict[str, int]:
    """name → how many shards in the whole world hold the same elements as this rank's shard."""
    everywhere: list[Any] = [None] * ranks.size("pp")
    dist.all_gather_object(everywhere, [name for name, _ in named], group=ranks.group("pp"))
    stages = Counter(name for names in everywhere for name in names)
    stage_ranks = dist.get_world_size() // ranks.size("pp")
    return {name: stages[name] * stage_ranks // _pieces(param) for name, param in named}


def _pieces(param: torch.Tensor) -> int:
    """Into how many different shards a parameter is cut."""
    if not isinstance(param, DTensor):
        return 1
    mesh, placements = param.device_mesh, param.placements
    return math.prod(mesh.size(dim) for dim, placement in enumerate(placements) if not placement.is_replicate())


def _squares(grads: list[torch.Tensor], holders: list[int]) -> list[torch.Tensor]:
    """Sum of squares of each gradient over the number of its holders, float64 scalars.

    On the CPU long float32 sums lose digits (1.7e-3 of the norm of 30 million elements), so runs are summed first.
    """
    held = [(grad, n) for grad, n in zip(grads, holders, strict=True) if grad.numel()]
    if held and held[0][0].device.type != "cpu":
        norms = torch._foreach_norm([grad for grad, _ in held])
        return [norm.double().square() / n for norm, (_, n) in zip(norms, held, strict=True)]
    parts = []
    for grad, n in held:
        flat = grad.reshape(-1)
        whole = flat.numel() // NORM_RUN * NORM_RUN
        runs = [torch.linalg.vector_norm(flat[whole:]).view(1)]
        if whole:
            runs.append(run_norms(flat[:whole]))
        parts.append(torch.cat(runs).double().square().sum() / n)
    return parts


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_grad(param: nn.Parameter) -> torch.Tensor:
    """The gradient's shard; partial sums over ranks are added up first. Zeros where there is none."""
    grad = param.grad
    if grad is None:
        return torch.zeros_like(_local(param.detach()))
    if isinstance(grad, DTensor) and isinstance(param, DTensor) and grad.placements != param.placements:
        param.grad = grad = grad.redistribute(placements=param.placements)
    return _local(grad)


def _like(param: nn.Parameter, local: torch.Tensor) -> torch.Tensor:
    """A local shard as the whole that it is a part of, laid out like ``param``; it may be in other memory."""
    if not isinstance(param, DTensor):
        return local
    return DTensor(local, param._spec, requires_grad=False)  # from_local would move it to the mesh's device


def _shard_of(stored: torch.Tensor, name: str, param: nn.Parameter, where: str) -> torch.Tensor:
    if stored.shape != param.shape:
        shapes = f"{tuple(stored.shape)}, the model's is {tuple(param.shape)}"
        raise AthanorError(f"{name} has shape {shapes}", where=where)
    if isinstance(stored, DTensor) != isinstance(param, DTensor) or _local(stored).shape != _local(param).shape:
        fix = "load it with athanor.parallel.checkpoint.load and this optimizer's snapshot as the template"
        raise AthanorError(f"{name} is laid out in another way than the model's", where=where, fix=fix)
    return _local(stored)


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory, in pages that an accelerator can reach by itself where there is one."""
    if tensor.device.type == "cpu":
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def _wait_for(tensors: Sequence[torch.Tensor]) -> None:
    """Until copies that were started from or to the device of ``tensors`` are done."""
    if tensors and tensors[0].device.type != "cpu":
        torch.accelerator.current_stream(tensors[0].device).synchronize()
