"""How one training step is carried out. The loop (``trainer.py``) decides *when*, an engine knows on what.

``LocalEngine`` is one process with one model. ``athanor.parallel.engine.ParallelEngine`` lays the same step over ranks;
the two give the same numbers, and the loop cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from athanor.data.types import Batch
from athanor.model.decoder import Decoder
from athanor.recipe.schema import TrainRecipe
from athanor.train.checkpoint import CheckpointIO, LocalCheckpoints
from athanor.train.compiling import compile_blocks
from athanor.train.objective import BatchSource, Loss, Objective
from athanor.train.optimizer import AdamW, StepStats
from athanor.train.precision import compute_dtype
from athanor.train.stages import batch_to, evaluate

#: metric name → (sum, weight), summed over micro-batches (and ranks)
Sums = dict[str, tuple[Any, float]]


class StepOptimizer(Protocol):
    """What the loop and its callbacks use of an optimizer."""

    @property
    def masters(self) -> dict[str, torch.Tensor]: ...
    @property
    def grads(self) -> dict[str, torch.Tensor]: ...
    def step(self, lr: float, clip_norm: float) -> StepStats: ...
    def snapshot(self) -> dict[str, dict[str, torch.Tensor]]: ...
    def restore(self, state: dict[str, dict[str, torch.Tensor]], where: str = "checkpoint") -> None: ...


class Engine(Protocol):
    """``model`` is what sources and callbacks may look at: the whole model, or this rank's first part of it."""

    model: Decoder
    device: torch.device
    dtype: torch.dtype
    optimizer: Any
    checkpoints: CheckpointIO
    #: the one process that writes metrics, events and checkpoints' bookkeeping
    is_main: bool

    def compile(self) -> bool: ...
    def micro_batches(self, source: BatchSource, step: int) -> list[Batch]: ...
    def total(self, values: Sequence[float]) -> list[float]: ...
    def forward_backward(self, objective: Objective, batches: Sequence[Batch], weight: float) -> Sums: ...
    def totals_of(self, sums: Sums) -> Sums: ...
    def evaluate(self, objective: Objective, batches: Sequence[Batch]) -> float: ...
    def set_rope_theta(self, theta: float) -> None: ...
    def post_step(self) -> None: ...
    def buffers(self) -> dict[str, torch.Tensor]: ...
    def agree(self, signal: int | None) -> int | None: ...
    def release(self) -> None: ...
    def export(self, save: Callable[[Decoder], object]) -> None: ...


class LocalEngine:
    """One process, one model, on its device."""

    is_main = True

    def __init__(self, model: Decoder, recipe: TrainRecipe) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.dtype = compute_dtype(recipe.precision, self.device)
        self.optimizer = AdamW(model, recipe.optimizer, self.dtype)
        self.checkpoints: CheckpointIO = LocalCheckpoints()

    def compile(self) -> bool:
        """Compile the blocks; False where this machine cannot."""
        return compile_blocks(self.model, self.device)

    def micro_batches(self, source: BatchSource, step: int) -> list[Batch]:
        """All batches of the stage's step ``step``."""
        return source.micro_batches(step, self.model)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over processes that read different data: here what was given."""
        return list(values)

    def forward_backward(self, objective: Objective, batches: Sequence[Batch], weight: float) -> Sums:
        """Accumulate the gradient of Σ loss_sum / ``weight``; ``weight`` is that of the whole global batch."""
        sums: Sums = {}
        for batch in batches:
            loss = objective(self.model, batch_to(batch, self.device))
            (loss.loss_sum / weight).backward()
            self.optimizer.accumulate()
            add_metrics(sums, loss)
        return sums

    def totals_of(self, sums: Sums) -> Sums:
        """Metric sums over processes: here as they are."""
        return sums

    def evaluate(self, objective: Objective, batches: Sequence[Batch]) -> float:
        """Mean loss over all batches together."""
        return evaluate(self.model, objective, batches)

    def set_rope_theta(self, theta: float) -> None:
        """Another RoPE base, from the next forward pass on."""
        self.model.set_rope_theta(theta)

    def post_step(self) -> None:
        """What a model does after each update."""
        self.model.post_step()

    def buffers(self) -> dict[str, torch.Tensor]:
        """Buffers that belong to the model's state."""
        return stored_buffers(self.model)

    def agree(self, signal: int | None) -> int | None:
        """The signal that any process has received."""
        return signal

    def release(self) -> None:
        """Give the model float32 parameters of its own again."""
        self.optimizer.release()

    def export(self, save: Callable[[Decoder], object]) -> None:
        """Call ``save`` with the trained model (of several processes, the one that writes does)."""
        save(self.model)


#: builds the engine of a run from the model and the recipe
EngineFactory = Callable[[Decoder, TrainRecipe], Engine]


def stored_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that belong to the model's state (a router's bias), not those it can compute again (RoPE tables)."""
    stored = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def add_metrics(sums: Sums, loss: Loss) -> None:
    """Add one micro-batch's metrics; the loss itself is one of them."""
    metrics = loss.metrics if "loss" in loss.metrics else {"loss": (loss.loss_sum.detach(), loss.weight)}
    for name, (value, weight) in {**loss.metrics, **metrics}.items():
        before = sums.get(name)
        sums[name] = (value, weight) if before is None else (before[0] + value, before[1] + weight)
