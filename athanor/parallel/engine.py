"""One training step laid over ranks: the engine that the trainer's loop calls in place of the local one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.inference.session import default_device
from athanor.model.decoder import Decoder
from athanor.parallel.apply import parallelize
from athanor.parallel.budget import Load
from athanor.parallel.checkpoint_io import ParallelCheckpoints
from athanor.parallel.context import split_batch
from athanor.parallel.data import gradient_sync, reduces_each_micro_batch
from athanor.parallel.expert import sync_router_load
from athanor.parallel.gather import export, whole_model
from athanor.parallel.inference import DecodingTwin
from athanor.parallel.materialize import materialize
from athanor.parallel.mesh import Ranks
from athanor.parallel.optimizer import ShardedAdamW
from athanor.parallel.pipeline import Pipeline
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.stages import split
from athanor.recipe.schema import TrainRecipe
from athanor.train.compiling import cpp_compiler
from athanor.train.engine import EngineFactory, Sums, add_metrics, stored_buffers
from athanor.train.objective import BatchSource, Objective
from athanor.train.precision import compute_dtype
from athanor.train.stages import batch_to


class ParallelEngine:
    """Every rank builds one from the same model and keeps its own part of it. The model (float32, or float64) is whole,
    or on the meta device with ``first_values``: then no host ever holds more than its ranks' parts.

    The loss is summed over all ranks' tokens and divided once by the global weight, gradients are summed, and metrics
    are totals over all ranks: a step's numbers are those of one process, to the rounding of the order of sums.
    """

    def __init__(self, model: Decoder, recipe: TrainRecipe, plan: ParallelPlan, ranks: Ranks) -> None:
        self.plan, self.ranks, self.device = plan, ranks, ranks.device
        self.config = model.config
        first = next(model.parameters()).dtype
        self.dtype = first if first == torch.float64 else compute_dtype(recipe.precision, self.device)
        self._compiled = recipe.compile and (self.device.type != "cpu" or cpp_compiler() is not None)
        stages = split(model, plan, ranks.at("pp")) if plan.pp > 1 else []
        self.parts: list[Decoder] = [*stages] or [model]
        for part in self.parts:
            later = part.first_values is not None
            if not later and any(tensor.device != self.device for tensor in (*part.parameters(), *part.buffers())):
                part.to(self.device)
            parallelize(part, ranks, plan, self.dtype, compiled=self._compiled, load=Load.of(recipe, plan))
            if later:  # what is offloaded as a whole lives on the host
                materialize(part, torch.device("cpu") if plan.offload == "all" else self.device)
        self.model = self.parts[0]
        self.model.decoding_twin = DecodingTwin(self.parts, ranks)
        self.optimizer = ShardedAdamW(self.parts, ranks, recipe.optimizer)
        self.pipeline = Pipeline(stages, ranks, plan, self.config, self.dtype) if stages else None
        self.checkpoints = ParallelCheckpoints(ranks, self.optimizer.snapshot)
        self.is_main = ranks.rank == 0

    def compile(self) -> bool:
        """Whether the blocks are compiled: that was decided when the model was laid out."""
        return self._compiled

    def micro_batches(self, source: BatchSource, step: int) -> list[Batch]:
        """This data rank's micro-batches; all ranks together have each row of the step once."""
        at, n = self.ranks.at("dp"), self.plan.dp
        share = getattr(source, "share", None)
        if share is not None:
            batches: list[Batch] = share(step, at, n)
            return batches
        every = source.micro_batches(step, self.model)
        if len(every) % n:
            raise AthanorError(
                f"a step has {len(every)} micro-batches: {n} data ranks cannot share them evenly",
                where="parallel",
                fix=f"a number of micro-batches that {n} divides",
            )
        return every[at::n]

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks that read different data."""
        return self._sum(values, "dp")

    def _sum(self, values: Sequence[float], over: str) -> list[float]:
        if self.ranks.size(over) == 1 or not values:
            return list(values)
        numbers = torch.tensor([float(v) for v in values], dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers, group=self.ranks.group(over))
        return numbers.tolist()  # type: ignore[no-any-return]

    def _local(self, batch: Batch) -> Batch:
        if self.plan.cp > 1:
            batch = split_batch(batch, self.ranks.at("cp"), self.plan.cp, self.plan.cp_split)
        return batch_to(batch, self.device)

    def forward_backward(self, objective: Objective, batches: Sequence[Batch], weight: float) -> Sums:
        """Gradients of Σ loss_sum / ``weight`` over all ranks' micro-batches, left in the parameters."""
        self.optimizer.zero_grad()
        mine = [self._local(batch) for batch in batches]
        if self.pipeline is not None:
            return self.pipeline.forward_backward(objective, mine, weight)
        sums: Sums = {}
        for i, batch in enumerate(mine):
            gradient_sync(self.model, i + 1 == len(mine) or reduces_each_micro_batch(self.plan))
            loss = objective(self.model, batch)
            (loss.loss_sum / weight).backward()
            add_metrics(sums, loss)
        return sums

    def totals_of(self, sums: Sums) -> Sums:
        """Metric sums over all ranks that hold different tokens."""
        names = sorted(sums)
        numbers = self._sum([x for name in names for x in sums[name]], "loss")
        return {name: (numbers[2 * i], numbers[2 * i + 1]) for i, name in enumerate(names)}

    @torch.no_grad()
    def evaluate(self, objective: Objective, batches: Sequence[Batch]) -> float:
        """Mean loss over all batches. Data ranks share them; what does not divide is done by all and counted once."""
        at, n = self.ranks.at("dp"), self.plan.dp
        even = len(batches) // n * n
        total = [0.0, 0.0]
        for part, counts in ((batches[at:even:n], True), (batches[even:], at == 0)):
            value, weight = self._evaluate([self._local(batch) for batch in part], objective)
            if counts:
                total = [total[0] + value, total[1] + weight]
        value, weight = self._sum(total, "loss")
        return value / weight if weight else float("nan")

    def _evaluate(self, batches: Sequence[Batch], objective: Objective) -> tuple[float, float]:
        """(sum, weight) of the loss; without the router's auxiliary loss where the objective tells them apart."""
        if not batches:
            return 0.0, 0.0
        sums: Sums = {}
        modes = [part.training for part in self.parts]
        try:
            for part in self.parts:
                part.eval()
            if self.pipeline is not None:
                sums = self.pipeline.forward(objective, batches)
            else:
                for batch in batches:
                    add_metrics(sums, objective(self.model, batch))
        finally:
            for part, training in zip(self.parts, modes, strict=True):
                part.train(training)
        value, weight = sums["loss"]
        return float(value), float(weight)

    def set_rope_theta(self, theta: float) -> None:
        """Another RoPE base, from the next forward pass on."""
        for part in self.parts:
            part.set_rope_theta(theta)
        self.config = self.config.model_copy(update={"rope_theta": theta})

    def post_step(self) -> None:
        """Move the router biases by the load that all ranks saw."""
        for part in self.parts:
            sync_router_load(part, self.ranks)
            part.post_step()

    def buffers(self) -> dict[str, torch.Tensor]:
        """Buffers of this rank's parts that belong to the model's state."""
        return {name: buffer for part in self.parts for name, buffer in stored_buffers(part).items()}

    def agree(self, signal: int | None) -> int | None:
        """The signal that any rank has received, so that all stop after the same step."""
        seen = torch.tensor([signal or 0], device=self.device)
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        return int(seen) or None

    def release(self) -> None:
        """Nothing to give back: parameters are float32 between steps already."""

    def export(self, save: Callable[[Decoder], object]) -> None:
        """``save(model)`` on the main rank, with a model whose values come from all ranks as they are asked for."""
        export(self.parts, self.config, self.ranks, save)

    def whole_model(self) -> Decoder | None:
        """The whole model in host memory of the main rank, parameter by parameter; None on the others."""
        return whole_model(self.parts, self.config, self.ranks)


def parallel_engine(plan: ParallelPlan, device: torch.device | None = None) -> EngineFactory:
    """The trainer's ``engine`` for a plan; the process group must be there (``athanor.parallel.launch.join``)."""

    def make(model: Decoder, recipe: TrainRecipe) -> Any:
        where = device or (default_device() if model.first_values else next(model.parameters()).device)
        return ParallelEngine(model, recipe, plan, Ranks.of(plan, where))

    return make
