"""A stage of training as a value, and the evaluation that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from athanor.data.types import Batch
from athanor.model.decoder import Decoder
from athanor.recipe.schema import ScheduleRecipe
from athanor.train.objective import BatchSource, Objective

#: Held-out batches, or a function that makes them when they are first needed.
EvalSet = Sequence[Batch] | Callable[[], Sequence[Batch]]


@dataclass(frozen=True)
class Stage:
    """``total_steps`` updates on the batches of ``source``; steps given to it and to the schedule count from 0 here.

    ``rope_theta`` None keeps the base that the stage before left. ``evals``: held-out sets by name.
    """

    name: str
    source: BatchSource
    total_steps: int
    schedule: ScheduleRecipe
    rope_theta: float | None = None
    evals: Mapping[str, EvalSet] = field(default_factory=dict)


def batch_to(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; ``meta["n_targets"]`` is counted here, before a count needs a sync."""
    if batch.input_ids_BT.device == device:
        return batch
    if "n_targets" not in batch.meta:
        batch.meta["n_targets"] = batch.n_targets
    return replace(
        batch,
        input_ids_BT=batch.input_ids_BT.to(device, non_blocking=True),
        labels_BT=batch.labels_BT.to(device, non_blocking=True),
        positions_BT=batch.positions_BT.to(device, non_blocking=True),
        extras={name: tensor.to(device, non_blocking=True) for name, tensor in batch.extras.items()},
    )


@torch.no_grad()
def evaluate(model: Decoder, objective: Objective, batches: Sequence[Batch]) -> float:
    """Mean loss over the weights of all batches together, with the model's weights as they are; NaN without targets."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    try:
        for batch in batches:
            loss = objective(model, batch_to(batch, device))
            # without the router's auxiliary loss where the objective tells them apart
            loss_sum = loss.metrics["loss"][0] if "loss" in loss.metrics else loss.loss_sum.detach()
            total += torch.as_tensor(loss_sum).double().cpu()
            weight += loss.weight
    finally:
        model.train(was_training)
    return float(total) / weight if weight else float("nan")
