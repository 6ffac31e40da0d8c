"""An objective turns a batch into a sum over tokens and a weight; the mean is taken once, by the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from athanor.data.types import Batch
from athanor.model.decoder import Decoder


@dataclass(slots=True)
class Loss:
    """``loss_sum`` is a float32 scalar summed over tokens (it carries the gradient), ``weight`` the token count.

    ``metrics`` maps a name to (sum, weight); the trainer adds them over micro-batches and ranks, then divides.
    """

    loss_sum: torch.Tensor
    weight: float
    metrics: dict[str, tuple[float | torch.Tensor, float]] = field(default_factory=dict)


class Objective(Protocol):
    """batch → loss sum, weight, metrics."""

    name: str

    def __call__(self, model: Decoder, batch: Batch) -> Loss: ...

    def weight(self, batch: Batch) -> float:
        """The weight this batch will have, known before the forward pass (so that one division serves the step)."""
        ...


class BatchSource(Protocol):
    """The micro-batches of a step. A function of (seed, step) alone, except for what ``model`` decides (rollouts)."""

    def micro_batches(self, step: int, model: Decoder) -> list[Batch]: ...


class CausalLM:
    """Next-token cross-entropy over labels that are not ``IGNORE``: pre-training and SFT."""

    name = "causal_lm"

    def __call__(self, model: Decoder, batch: Batch) -> Loss:
        loss_sum, aux = model.loss(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
        weight = self.weight(batch)
        metrics: dict[str, tuple[float | torch.Tensor, float]] = {"loss": (loss_sum.detach(), weight)}
        if aux is not None:
            metrics["router_aux_loss"] = (aux.detach() * weight, weight)
            loss_sum = loss_sum + aux * weight
        return Loss(loss_sum, weight, metrics)

    def weight(self, batch: Batch) -> float:
        known = batch.meta.get("n_targets")  # counted before the batch went to an accelerator: no wait for it here
        return float(batch.n_targets if known is None else known)
