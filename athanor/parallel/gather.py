"""From shards back to one model in the main rank's host memory, one parameter at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.parallel.data import free_gathered
from athanor.parallel.mesh import Ranks
from athanor.train.engine import stored_buffers


@torch.no_grad()
def whole_model(parts: Sequence[Decoder], config: ModelConfig, ranks: Ranks) -> Decoder | None:
    """The whole model on rank 0's host, None elsewhere; every rank calls it.

    No device ever holds more than its shards and one whole parameter: each is gathered, sent to the host of rank 0 and
    freed before the next. ``parts``: this rank's pipeline stages.
    """
    for part in parts:
        free_gathered(part)  # else some parameters would be the copies that a forward pass gathered
    mine = {name: tensor for part in parts for name, tensor in _state(part).items()}
    names: list[list[str]] = [[] for _ in range(ranks.size("pp"))]
    dist.all_gather_object(names, list(mine), group=ranks.group("pp"))
    whole = Decoder(config).to(next(iter(mine.values())).dtype) if ranks.rank == 0 else None
    targets = _state(whole) if whole is not None else {}
    first_of_stage = dist.get_world_size() // ranks.size("pp")  # ranks of one pipeline place are neighbours
    for place, theirs in enumerate(names):
        for name in theirs:
            full = _full(mine[name]) if place == ranks.at("pp") else None
            _to_main(full, place * first_of_stage, targets.get(name), ranks)
    return whole


def _state(model: Decoder) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **stored_buffers(model)}


def _full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu()


def _to_main(full: torch.Tensor | None, owner: int, target: torch.Tensor | None, ranks: Ranks) -> None:
    """Copy rank ``owner``'s tensor into rank 0's ``target``; other ranks do nothing."""
    if ranks.rank == 0 and target is not None:
        if owner == 0:
            assert full is not None
            target.copy_(full)
            return
        received = torch.empty(target.shape, dtype=target.dtype)
        dist.recv(received, src=owner)
        target.copy_(received)
    elif ranks.rank == owner:
        assert full is not None
        dist.send(full.contiguous(), dst=0)
