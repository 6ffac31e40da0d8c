"""From a model on the meta device to this rank's part of it, without a whole model on any host.

A model is laid over ranks while it has shapes only. Then its values come one tensor after the other from
``Decoder.first_values`` (drawn by seed and name, or read from a model directory), and each rank keeps its shard: a host
holds its ranks' shards and one whole tensor a rank.
"""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from athanor.model.decoder import Decoder
from athanor.train.engine import stored_buffers


@torch.no_grad()
def materialize(part: Decoder, device: torch.device) -> None:
    """Give ``part`` (a laid-out model or stage on meta) memory on ``device`` and its share of the first values.

    Every value is what a whole model would have there. Nothing is sent: each rank makes or reads whole tensors by
    itself, of its own stage only. Counters that are no part of a saved model begin at zero.
    """
    values, part.first_values = part.first_values, None  # so that files are let go
    assert values is not None
    part.to_empty(device=device)
    stored = stored_buffers(part)
    for name, buffer in part.named_buffers():
        if name not in stored:
            buffer.zero_()
    mine = {**dict(part.named_parameters()), **stored}
    for name, whole in values({name: tensor.shape for name, tensor in mine.items()}):
        tensor = mine[name]
        if isinstance(tensor, DTensor):
            tensor.to_local().copy_(whole[_shard(tensor)])
        else:
            tensor.copy_(whole)


def _shard(tensor: DTensor) -> tuple[slice, ...]:
    """Where this rank's shard lies in the whole tensor: always one block."""
    sizes, starts = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
