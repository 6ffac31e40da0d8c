"""An objective turns a batch into a sum over tokens and a weight; the mean is taken once, by the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from athanor.data.types import IGNORE, Batch
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
        return self._loss(model, batch)

    def _loss(self, model: Decoder, batch: Batch, losses_BT: torch.Tensor | None = None) -> Loss:
        more = {} if losses_BT is None else {"losses_BT": losses_BT}
        loss_sum, aux = model.loss(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens, **more)
        weight = self.weight(batch)
        metrics: dict[str, tuple[float | torch.Tensor, float]] = {"loss": (loss_sum.detach(), weight)}
        if aux is not None:
            metrics["router_aux_loss"] = (aux.detach() * weight, weight)
            loss_sum = loss_sum + aux * weight
        return Loss(loss_sum, weight, metrics)

    def weight(self, batch: Batch) -> float:
        known = batch.meta.get("n_targets")  # counted before the batch went to an accelerator: no wait for it here
        return float(batch.n_targets if known is None else known)


LOSS_SUM, TARGETS = "loss_sum/", "targets/"


class CausalLMBySource(CausalLM):
    """The same loss, and what each source had of it: metrics ``loss_sum/NAME`` and ``targets/NAME`` (counts), each with
    weight 1, so that their ratio is the source's mean loss however a step is cut or laid over ranks.

    Batches carry ``extras["source"]`` (int64 [B]: of each row a place in ``names``); one without is like any other.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def __call__(self, model: Decoder, batch: Batch) -> Loss:
        source_B = batch.extras.get("source")
        if source_B is None:
            return super().__call__(model, batch)
        losses_BT = torch.zeros(batch.labels_BT.shape, dtype=torch.float32, device=batch.labels_BT.device)
        loss = self._loss(model, batch, losses_BT)
        of_row_2B = torch.stack([losses_BT.sum(1), (batch.labels_BT != IGNORE).sum(1).float()])
        is_from_SB = source_B == torch.arange(len(self.names), device=source_B.device)[:, None]
        sums_S2 = (of_row_2B * is_from_SB[:, None]).sum(2)  # no scatter: the same order of sums on every device
        for name, (total, count) in zip(self.names, sums_S2, strict=True):
            loss.metrics[f"{LOSS_SUM}{name}"] = (total, 1.0)
            loss.metrics[f"{TARGETS}{name}"] = (count, 1.0)
        return loss
