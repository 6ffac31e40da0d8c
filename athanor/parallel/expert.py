"""Expert parallel: every routed expert lives on one rank, tokens travel there and back. No token is dropped.

**Beside tensor parallel** (applied before this): a mixture-of-experts block gathers the whole sequence of tokens on
every tp rank, cuts each expert's inner features over tp, and sums behind all experts (``TensorMoE``). Expert parallel
changes nothing of that: each tp rank sends its tokens to the ranks with the same place in tp, where the same part of
the expert's features lies, and gets back a part of the sum. So an expert's weight is a DTensor on (``ep``, ``tp``), and
neither the router's load nor its auxiliary loss needs a sum over tp: every tp rank has routed all tokens.

After the backward pass a local expert's gradient holds the tokens of all ``ep`` ranks, so the data room sums it over
``expert_fsdp`` (and ``dp_replicate``) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard

from athanor.errors import AthanorError
from athanor.model.moe import MoEFeedForward, apply_experts
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan

EXPERT_WEIGHTS = ("w_gate", "w_up", "w_down")

_ops = torch.ops._c10d_functional


def moe_blocks(model: nn.Module) -> Iterator[tuple[str, MoEFeedForward]]:
    """(name, module) of the mixture-of-experts feed-forwards of a Decoder or pipeline stage, in model order."""
    for number, layer in model.layers.named_children():  # type: ignore[operator, union-attr]
        if isinstance(layer.mlp, MoEFeedForward):
            yield f"layers.{number}.mlp", layer.mlp


def apply_expert_parallel(model: nn.Module, ranks: Ranks, plan: ParallelPlan) -> None:
    """Spread the routed experts of ``model``, a Decoder or pipeline stage (also on meta), and set ``run_experts``.

    ``w_gate``, ``w_up``, ``w_down`` become DTensors: Shard(0) on ``ranks.sub("ep")``; after tensor parallel on
    ``ranks.sub("ep", "tp")``, the second placement as that room chose it. Every rank holds the same whole experts
    before; nothing is sent. Nothing happens for ep 1. Raises AthanorError where ep does not divide the experts.
    """
    if plan.ep == 1:
        return
    for name, mlp in moe_blocks(model):
        if mlp.moe.num_experts % plan.ep:
            raise AthanorError(
                f"ep {plan.ep} does not divide the {mlp.moe.num_experts} experts",
                where="parallel.ep",
                fix=f"choose a divisor of {mlp.moe.num_experts}",
            )
        for weight in EXPERT_WEIGHTS:
            _shard(mlp, weight, ranks, f"{name}.{weight}")
        mlp.run_experts = Dispatch(mlp, ranks.group("ep"))


def sync_router_load(model: nn.Module, ranks: Ranks) -> None:
    """Before ``model.post_step()``: the load noted on this rank becomes that of the whole step, on every rank.

    For balance ``bias``: one sum for all of this model's (or stage's) routers over ``loss``, the ranks that hold
    different tokens. Every rank of those calls it once a step and stage.
    """
    loads = [mlp.router.load for _, mlp in moe_blocks(model) if mlp.moe.balance == "bias"]
    if not loads or ranks.size("loss") == 1:
        return
    total = torch.stack(loads).double()  # counts beyond 2²⁴ are not all float32 numbers
    dist.all_reduce(total, group=ranks.group("loss"))
    for load, summed in zip(loads, total, strict=True):
        load.copy_(summed)


def _shard(mlp: MoEFeedForward, name: str, ranks: Ranks, full_name: str) -> None:
    """Keep this rank's experts of one parameter."""
    param = getattr(mlp, name)
    mesh: DeviceMesh = ranks.sub("ep")
    placements: list[Placement] = [Shard(0)]
    part = param.detach()
    if isinstance(part, DTensor):
        if part.device_mesh != ranks.sub("tp"):
            raise AthanorError("experts are already spread", where=full_name, fix="apply expert parallel once")
        mesh, placements = ranks.sub("ep", "tp"), [Shard(0), *part.placements]
        part = part.to_local()
    n_local = param.shape[0] // ranks.size("ep")
    part = part.narrow(0, ranks.at("ep") * n_local, n_local).clone(memory_format=torch.contiguous_format)
    whole = DTensor.from_local(part, mesh, placements, run_check=False, shape=param.shape, stride=param.stride())
    mlp.register_parameter(name, nn.Parameter(whole, requires_grad=param.requires_grad))


@dataclass(frozen=True)
class Dispatch:
    """The door ``run_experts`` of ``mlp``: assignments, sorted by expert, go to their experts' ranks and come back."""

    mlp: MoEFeedForward
    group: dist.ProcessGroup

    def __deepcopy__(self, memo: Any) -> Dispatch:
        return Dispatch(memo.get(id(self.mlp), self.mlp), self.group)  # a process group is no value to copy

    def __call__(self, x_MD: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """``counts[e]`` consecutive rows for each expert of the whole model → their results, in the same order."""
        size = self.group.size()
        n_local = len(counts) // size
        arriving = _exchange_counts(counts, x_MD.device, self.group)
        sent = [sum(counts[r * n_local : (r + 1) * n_local]) for r in range(size)]
        received = [sum(arriving[r * n_local : (r + 1) * n_local]) for r in range(size)]
        x_RD = exchange_rows(x_MD, sent, received, self.group)
        # Rows come by sender and then expert; experts want one run each. A stable sort keeps the senders in order.
        expert = torch.arange(n_local, device=x_MD.device).repeat(size)
        repeats = torch.tensor(arriving, device=x_MD.device)
        order = expert.repeat_interleave(repeats, output_size=sum(received)).argsort(stable=True)
        local = [sum(arriving[e::n_local]) for e in range(n_local)]
        # Weights are read at each call: data parallel gathers them just before.
        gate, up, down = (_local(getattr(self.mlp, name)) for name in EXPERT_WEIGHTS)
        out_RD = apply_experts(x_RD.index_select(0, order), local, gate, up, down, self.mlp.act)
        return exchange_rows(out_RD.index_select(0, order.argsort()), received, sent, self.group)


def _local(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _exchange_counts(counts: list[int], device: torch.device, group: dist.ProcessGroup) -> list[int]:
    """What each rank of ``group`` will send to each local expert: [ranks · local experts], the sender slowest."""
    mine = torch.tensor(counts, dtype=torch.int64, device=device)
    theirs = torch.empty_like(mine)
    dist.all_to_all_single(theirs, mine, group=group)
    return theirs.tolist()  # type: ignore[no-any-return]


def exchange_rows(x_MD: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    """All-to-all of rows with a gradient: ``sent[r]`` consecutive rows go to rank r of ``group``, ``received[r]`` come
    from it, in rank order. [sum(sent), D] → [sum(received), D]; sizes of zero are fine, every rank takes part."""
    return _ExchangeRows.apply(x_MD, sent, received, group)  # type: ignore[no-any-return]


def _all_to_all(x: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    out = _ops.all_to_all_single(x.contiguous(), received, sent, group.group_name)
    return _ops.wait_tensor(out)  # type: ignore[no-any-return]


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_MD: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(x_MD, sent, received, group)

    @staticmethod
    def backward(ctx: Any, grad_RD: torch.Tensor) -> Any:  # type: ignore[override]
        return _all_to_all(grad_RD, ctx.received, ctx.sent, ctx.group), None, None, None
