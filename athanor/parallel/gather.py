"""From shards back to whole tensors in the main rank's host memory, one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.parallel.data import free_gathered
from athanor.parallel.mesh import Ranks
from athanor.train.engine import stored_buffers


def export(parts: Sequence[Decoder], config: ModelConfig, ranks: Ranks, save: Callable[[Decoder], object]) -> None:
    """``save(model)`` on rank 0, with a model on the meta device whose ``first_values`` come from all ranks' shards;
    every rank calls it. ``parts``: this rank's pipeline stages.

    What ``save`` asks for is gathered on its stage's ranks, sent to the host of rank 0 and let go: no device holds more
    than its shards and one whole parameter, and neither does a host, but for what ``save`` keeps. What it raises ends
    the other ranks too.
    """
    shards = _Shards(parts, ranks)
    if ranks.rank != 0:
        shards.serve()
        return
    with torch.device("meta"):
        model = Decoder(config).to(shards.dtype)
    model.first_values = shards
    try:
        save(model)
    except BaseException as error:
        shards.end(str(error))
        raise
    shards.end(None)


def whole_model(parts: Sequence[Decoder], config: ModelConfig, ranks: Ranks) -> Decoder | None:
    """The whole model on rank 0's host, None elsewhere; every rank calls it."""
    found: list[Decoder] = []

    def fill(shapes: Decoder) -> None:
        whole = Decoder(config).to(next(shapes.parameters()).dtype)
        targets = _state(whole)
        assert shapes.first_values is not None
        with torch.no_grad():
            for name, tensor in shapes.first_values({name: target.shape for name, target in targets.items()}):
                targets[name].copy_(tensor)
        found.append(whole)

    export(parts, config, ranks, fill)
    return found[0] if found else None


class _Shards:
    """The values of a laid-out model by name. Rank 0 asks, all others serve until it has ended."""

    def __init__(self, parts: Sequence[Decoder], ranks: Ranks) -> None:
        for part in parts:
            free_gathered(part)  # else some parameters would be the copies that a forward pass gathered
        self.ranks = ranks
        self.mine = {name: tensor for part in parts for name, tensor in _state(part).items()}
        self.dtype = next(iter(self.mine.values())).dtype
        names: list[list[str]] = [[] for _ in range(ranks.size("pp"))]
        dist.all_gather_object(names, list(self.mine), group=ranks.group("pp"))
        self.place_of = {name: place for place, theirs in reversed(list(enumerate(names))) for name in theirs}

    def __call__(self, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
        """On rank 0: (name, whole tensor on the host) of each name."""
        for name in shapes:
            self._told((name, None))
            tensor = self._bring(name)
            assert tensor is not None
            yield name, tensor

    def end(self, error: str | None) -> None:
        """On rank 0, once: nothing more will be asked for."""
        self._told((None, error))

    def serve(self) -> None:
        """On the other ranks: give what rank 0 asks for."""
        while (order := self._told(None))[0] is not None:
            self._bring(order[0])
        if order[1] is not None:
            raise AthanorError(order[1], where="rank 0")

    def _told(self, order: tuple[str | None, str | None] | None) -> tuple[str | None, str | None]:
        box = [order]
        dist.broadcast_object_list(box, src=0, device=self.ranks.device)
        assert box[0] is not None
        return box[0]

    @torch.no_grad()
    def _bring(self, name: str) -> torch.Tensor | None:
        """One tensor to rank 0; other ranks do nothing, but for those that hold a piece of it."""
        place = self.place_of[name]
        full = _full(self.mine[name]) if self.ranks.at("pp") == place else None
        owner = place * (dist.get_world_size() // self.ranks.size("pp"))  # ranks of a pipeline place are neighbours
        if self.ranks.rank == 0 and owner != 0:
            shape, dtype = self._sent_from(owner)
            full = torch.empty(shape, dtype=dtype)
            dist.recv(full, src=owner)
        elif self.ranks.rank == owner != 0:
            assert full is not None
            dist.send_object_list([(full.shape, full.dtype)], dst=0, device=self.ranks.device)
            dist.send(full.contiguous(), dst=0)
        return full

    def _sent_from(self, owner: int) -> tuple[torch.Size, torch.dtype]:
        box: list[tuple[torch.Size, torch.dtype] | None] = [None]
        dist.recv_object_list(box, src=owner, device=self.ranks.device)
        assert box[0] is not None
        return box[0]


def _state(model: Decoder) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **stored_buffers(model)}


def _full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu()
