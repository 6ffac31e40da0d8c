"""Data parallel: FSDP2 spreads parameters, gradients and optimizer state over the ranks that read different data.

``plan.zero`` chooses what is spread (ZeRO, arXiv 1910.02054, section 5). In all levels a rank updates its own shard:

====  ==========================================  ======================================================
zero  parameters in compute precision             gradients
====  ==========================================  ======================================================
0     whole on every rank, so are the masters     one all-reduce a step
1     whole from the first micro-batch to the     one reduce-scatter a step; whole until then
      last; masters and moments spread
2     as 1, but freed after each backward pass    reduce-scatter in every micro-batch, kept spread
      that reduces
3     gathered block by block, freed behind it    as 2
      (with schedules zbv and dualpipev: as 2)
====  ==========================================  ======================================================

It is applied on a single rank too, so that mixed precision is the same everywhere: float32 masters are the sharded
parameters, blocks compute in ``dtype``, gradients are summed in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard

from athanor.errors import AthanorError
from athanor.model.moe import MoEFeedForward
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan

#: Methods that are called from outside ``forward`` and use parameters of the root (embeddings, final norm, head).
ENTRY_POINTS = ("loss", "token_logprobs", "hidden")


def apply_data_parallel(
    model: nn.Module,
    ranks: Ranks,
    plan: ParallelPlan,
    dtype: torch.dtype,
    entry_points: tuple[str, ...] = ENTRY_POINTS,
) -> None:
    """Shard a Decoder, or a pipeline stage with its attribute names, in place. Every rank calls it, last of all.

    ``model`` has float32 parameters (float64: everything stays float64) that are plain tensors or DTensors on ``tp`` /
    ``ep``; afterwards they are DTensors that are also spread over ``fsdp``, copied over ``dp_replicate``. ``dtype`` is
    the precision of the computation. Gradients are summed over ranks, never averaged. ``entry_points`` are methods that
    may be called from outside beside ``forward``; names that ``model`` lacks are left out.
    """
    dense, experts = _parameter_meshes(ranks, plan)
    wide = next((p.dtype for p in model.parameters() if p.dtype == torch.float64), torch.float32)
    shared: dict[str, Any] = {
        # inputs are cast nowhere: activations have the precision of the weights already, float32 values stay
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.float64 if wide == torch.float64 else dtype, reduce_dtype=wide, cast_forward_inputs=False
        ),
        "offload_policy": _offload_policy(ranks, plan),
    }

    def shard(module: nn.Module, mesh: DeviceMesh, reshard: bool) -> None:
        dim = _shard_dim(mesh.size(mesh.ndim - 1))
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard, shard_placement_fn=dim, **shared)

    # Schedules that compute weight gradients later than input gradients find the weights by ``parameters()`` then:
    # they must still be those that the forward pass used, or their gradients are lost without a word.
    free = plan.zero == 3 and not (plan.pp > 1 and plan.schedule in ("zbv", "dualpipev"))
    for block in _blocks(model):
        mlp = getattr(block, "mlp", None)
        if isinstance(mlp, MoEFeedForward) and plan.ep > 1:
            # FSDP spreads what a module holds: the feed-forward keeps its experts, its other parts go their own way
            for part in filter(None, (mlp.router, mlp.shared)):
                shard(part, dense, free)
            shard(mlp, experts, free)
            # FSDP fears that a view is changed in place, which would drop its hook; a block adds it to the stream
            warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPMoEFeedForward\) returned a view")
        shard(block, dense, free)
    shard(model, dense, reshard=False)  # the head is needed again at once, in the backward pass
    for module in sharded_modules(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other kind of sum that knows a factor
    _register(model, entry_points)
    root: Any = model
    root.zero = plan.zero


def gradient_sync(model: nn.Module, on: bool) -> None:
    """Whether the next backward passes reduce gradients over ranks; the last one of a step must.

    Off: gradients of whole parameters add up on this rank in float32 (memory for communication), and with ZeRO 0, 1, 2
    gathered parameters stay for the next micro-batch. See :func:`reduces_each_micro_batch` for the plan's own choice.
    """
    root: Any = model
    root.set_requires_gradient_sync(on)
    root.set_reshard_after_backward(on or root.zero == 3)


def reduces_each_micro_batch(plan: ParallelPlan) -> bool:
    """Whether gradients stay spread within a step: what ZeRO 2 and 3 mean. 0 and 1 reduce once, at its end."""
    return plan.zero >= 2


def sharded_modules(model: nn.Module) -> Iterator[FSDPModule]:
    """The modules of ``model`` that gather and reduce on their own, itself included."""
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def free_gathered(model: nn.Module) -> None:
    """Drop gathered parameters, so that ``model.parameters()`` are the shards and the next pass gathers anew.

    Evaluation without gradients leaves them gathered below ZeRO 3; they are stale once the shards change.
    """
    for module in sharded_modules(model):
        module.reshard()


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    layers = model.layers
    assert isinstance(layers, nn.ModuleList | nn.ModuleDict)
    return iter(layers.values() if isinstance(layers, nn.ModuleDict) else layers)


def _offload_policy(ranks: Ranks, plan: ParallelPlan) -> OffloadPolicy:
    if plan.offload != "all":
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=ranks.device.type != "cpu")  # only an accelerator can pin, and gains by it


def _shard_dim(n_ranks: int) -> Callable[[nn.Parameter], Shard | None]:
    """Which dimension FSDP cuts: the first, as it comes. Where tensor or expert parallel has cut that one already, the
    first dimension that divides evenly: uneven pieces of pieces are no layout that can be gathered or saved."""

    def choose(param: nn.Parameter) -> Shard | None:
        pieces = [1] * param.ndim
        if isinstance(param, DTensor):
            for size, placement in zip(param.device_mesh.shape, param.placements, strict=True):
                if isinstance(placement, Shard):
                    pieces[placement.dim] *= size
        if pieces[0] == 1:
            return None
        for dim, n in enumerate(pieces):
            if param.shape[dim] % (n * n_ranks) == 0:
                return Shard(dim)
        raise AthanorError(
            f"a parameter {tuple(param.shape)} in {' × '.join(map(str, pieces))} pieces does not divide evenly over "
            f"{n_ranks} more ranks",
            where="parallel",
            fix="choose dp_shard · cp so that it divides one of the cut sizes",
        )

    return choose


def _parameter_meshes(ranks: Ranks, plan: ParallelPlan) -> tuple[DeviceMesh, DeviceMesh]:
    """Meshes for ordinary and for expert parameters: one dimension to shard over, or (copies, shards).

    ZeRO 0 has everything in the first dimension. Making its groups is collective, hence once a process and for both
    kinds, whatever a stage holds.
    """
    if plan.zero == 0:
        if "copies" not in ranks._flat:
            ranks._flat["copies"], ranks._flat["expert_copies"] = _copy_meshes(ranks, plan)
        return ranks._flat["copies"], ranks._flat["expert_copies"]
    dense, experts = ranks.sub("fsdp"), ranks.sub("expert_fsdp")
    if plan.dp_replicate == 1:
        return dense, experts
    beside = DeviceMesh._concatenate  # slicing a flattened dimension out of its root is deprecated
    return beside([ranks.sub("dp_replicate"), dense]), beside([ranks.experts["dp_replicate"], experts])


def _copy_meshes(ranks: Ranks, plan: ParallelPlan) -> tuple[DeviceMesh, DeviceMesh]:
    n_ranks, n_ep, kind = ranks.size("loss"), plan.ep, ranks.device.type
    dense = init_device_mesh(kind, (plan.pp, n_ranks, 1, plan.tp), mesh_dim_names=("pp", "copies", "whole", "tp"))
    names = ("pp", "expert_copies", "expert_whole", "ep", "tp")
    experts = init_device_mesh(kind, (plan.pp, n_ranks // n_ep, 1, n_ep, plan.tp), mesh_dim_names=names)
    return dense["copies", "whole"], experts["expert_copies", "expert_whole"]


def _register(model: nn.Module, names: tuple[str, ...]) -> None:
    """Let FSDP gather the root's parameters around more methods than ``forward``.

    They call each other (``loss`` calls ``hidden``), and the inner call must not free what the outer one still uses:
    only the outermost call passes through FSDP.
    """
    depth = [0]

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            try:
                return method(*args, **kwargs)
            finally:
                depth[0] -= 1

        return call

    def outermost(plain: Callable[..., Any], hooked: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return (plain if depth[0] else hooked)(*args, **kwargs)

        return call

    root: Any = model
    for name in names:
        if hasattr(model, name):
            plain = getattr(model, name)
            setattr(model, name, counted(plain))
            register_fsdp_forward_method(model, name)
            setattr(model, name, outermost(plain, getattr(model, name)))
    root.forward = counted(root.forward)
