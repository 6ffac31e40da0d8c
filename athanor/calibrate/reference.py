"""The product's own step on a few blocks: what a block costs where it stands, between its neighbours.

Single kernels, called over and over, find their data in the caches and nobody beside them. Blocks of a real model do
not; and what ``torch.compile`` makes one loop of is known only when it has done so. So two models that differ in depth
alone are trained in turn: the difference is that of their blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from athanor.calibrate.clock import Clock
from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel.checks import check_plan
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan
from athanor.plan import shape
from athanor.recipe.schema import TrainRecipe
from athanor.train.engine import LocalEngine
from athanor.train.objective import CausalLM

SHALLOW, DEEP = 1, 3
#: Of the micro-batch beside which data-parallel collectives are measured; a rank's, for tensor-parallel ones.
_FEW_TOKENS = 8
FEW_TOKENS_A_RANK = 8


@dataclass(frozen=True, slots=True)
class BlockTiming:
    """Seconds of forward and backward of one block, and of all that is no block (lookup, head, loss)."""

    block_s: float
    ends_s: float


def time_block(
    clock: Clock, config: ModelConfig, rows: int, seq_len: int, doc_len: int, precision: str, compiled: bool
) -> BlockTiming:
    """A micro-batch of ``rows`` × ``seq_len`` tokens in documents of ``doc_len``."""
    batch = _batch(config, rows, seq_len, doc_len)
    objective = CausalLM()
    weight = float(objective.weight(batch))

    def trainer(layers: int) -> LocalEngine:
        model = Decoder(config.model_copy(update={"num_hidden_layers": layers}))
        init_weights(model, 0)
        recipe = TrainRecipe.model_validate({"precision": precision, "compile": compiled})
        engine = LocalEngine(model.to(clock.device).train(), recipe)
        if compiled:
            engine.compile()
        return engine

    engines = [trainer(SHALLOW), trainer(DEEP)]

    def step(engine: LocalEngine) -> None:
        engine.forward_backward(objective, [batch], weight)

    shallow, deep = clock.each([lambda e=e: step(e) for e in engines])  # type: ignore[misc]
    block_s = max(deep - shallow, 0.0) / (DEEP - SHALLOW)
    return BlockTiming(block_s, max(shallow - SHALLOW * block_s, 0.0))


@dataclass(frozen=True, slots=True)
class DataTiming:
    """What FSDP adds to a block of ``parameters`` parameters: one gather, one scatter of its gradients."""

    parameters: int
    gather_s: float
    scatter_s: float


def time_data_parallel(clock: Clock, config: ModelConfig, precision: str) -> list[DataTiming]:
    """A block's gather and scatter over all ranks as the engine runs them: copies into one buffer and out of it, hooks,
    the cast. Models with next to no tokens, so that they have nothing to hide beside; what the same models take on a
    rank by itself is taken off. Two widths of the feed-forward, so that bytes and calls can be told apart."""
    return [
        _data_timing(clock, config.model_copy(update={"intermediate_size": width}), precision)
        for width in (config.intermediate_size, 4 * config.intermediate_size)
    ]


def _data_timing(clock: Clock, config: ModelConfig, precision: str) -> DataTiming:
    ahead, both = _added(clock, config, ParallelPlan(dp_shard=clock.ranks), precision, _FEW_TOKENS)
    gather_s = max(ahead, 0.0)
    return DataTiming(shape.parameters(config).dense_block, gather_s, max(both - 2 * gather_s, 0.0))


def tensor_call_s(clock: Clock, config: ModelConfig, precision: str) -> float | None:
    """What each of the eight tensor collectives of a block's step costs where there are next to no tokens: its latency,
    and the engine's work around it (parameters as DTensors and back, functions of its own in the backward pass). Of all
    ranks as one group; None where the model cannot be cut so."""
    plan = ParallelPlan(tp=clock.ranks)
    tokens = FEW_TOKENS_A_RANK * clock.ranks
    try:
        check_plan(plan, config, world_size=clock.ranks, seq_len=tokens)
    except AthanorError:
        return None
    return max(_added(clock, config, plan, precision, tokens)[1], 0.0) / 8


def _added(clock: Clock, config: ModelConfig, plan: ParallelPlan, precision: str, tokens: int) -> tuple[float, float]:
    """Seconds that ``plan`` adds to a block's forward pass, and to forward and backward, on a row of ``tokens``."""
    recipe = TrainRecipe.model_validate({"precision": precision})
    batch, objective = _batch(config, 1, tokens, tokens), CausalLM()
    weight = float(objective.weight(batch))
    calls: list[Callable[[], object]] = []
    for make, share in ((parallel_engine(plan, clock.device), plan.dp), (LocalEngine, 1)):
        for layers in (SHALLOW, DEEP):
            model = Decoder(config.model_copy(update={"num_hidden_layers": layers}))
            init_weights(model, 0)
            engine = make(model.to(clock.device).train(), recipe)
            calls.append(partial(engine.evaluate, objective, [batch] * share))  # a rank has one of them
            calls.append(partial(engine.forward_backward, objective, [batch], weight))
    times = clock.each(calls, together=True)
    ahead, both = (((times[2 + i] - times[i]) - (times[6 + i] - times[4 + i])) / (DEEP - SHALLOW) for i in (0, 1))
    return ahead, both


def _batch(config: ModelConfig, rows: int, seq_len: int, doc_len: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (rows, seq_len + 1), generator=generator)
    lens = [doc_len] * (seq_len // doc_len)
    lens += [seq_len - sum(lens)] if sum(lens) < seq_len else []
    positions = torch.cat([torch.arange(n) for n in lens]).expand(rows, -1)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions.contiguous(), [lens] * rows)
