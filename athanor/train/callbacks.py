"""What happens around a step without being part of it: statistics, reports, experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from athanor.model.decoder import Decoder
from athanor.train.optimizer import AdamW

if TYPE_CHECKING:
    from athanor.train.stages import Stage
    from athanor.train.trainer import Trainer


@dataclass(slots=True)
class StepInfo:
    """One finished update. ``step`` counts updates of the whole run (the first is 1), ``stage_step`` is 0-based.

    ``loss`` and ``grad_norm`` (before clipping) may be NaN; then ``skipped`` is true and nothing was updated.
    ``optimizer.grads`` and ``optimizer.masters`` give gradients and float32 weights by parameter name.
    """

    step: int
    stage: str
    stage_step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    skipped: bool
    model: Decoder
    optimizer: AdamW
    metrics: dict[str, float] = field(default_factory=dict)


class Callback:
    """Base of all callbacks; override what you need. Methods left alone cost nothing.

    ``name`` keys the state in checkpoints: give it, and ``state_dict``/``load_state_dict``, to survive a resume.
    """

    name: str = ""

    def on_start(self, trainer: Trainer) -> None:
        """Once, after a resume if there is one, before the first step."""

    def on_stage_start(self, trainer: Trainer, stage: Stage) -> None:
        """When a stage begins, or goes on after a resume."""

    def on_gradients(self, step: int, model: Decoder, optimizer: AdamW) -> None:
        """Gradients of the whole batch are in ``optimizer.grads``, unclipped; the update has not happened."""

    def on_step(self, info: StepInfo) -> None:
        """After each update. Values added to ``info.metrics`` go into the metrics line."""

    def on_eval(self, trainer: Trainer, losses: dict[str, float]) -> None:
        """After each evaluation."""

    def on_stage_end(self, trainer: Trainer, stage: Stage) -> None:
        """When a stage's last step and evaluation are done."""

    def on_end(self, trainer: Trainer) -> None:
        """Once, after the last stage (not after a stop)."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: dicts, lists, JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""


def overridden(callbacks: list[Callback], method: str) -> list[Callback]:
    """The callbacks that have their own ``method``."""
    return [callback for callback in callbacks if getattr(type(callback), method) is not getattr(Callback, method)]
