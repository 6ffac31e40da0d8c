"""The product's own step on a few blocks: what a block costs where it stands, between its neighbours.

Single kernels, called over and over, find their data in the caches and nobody beside them. Blocks of a real model do
not; and what ``torch.compile`` makes one loop of is known only when it has done so. So two models that differ in depth
alone are trained in turn: the difference is that of their blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from athanor.calibrate.clock import Clock
from athanor.data.types import Batch
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.schema import TrainRecipe
from athanor.train.engine import LocalEngine
from athanor.train.objective import CausalLM

SHALLOW, DEEP = 1, 3


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


def _batch(config: ModelConfig, rows: int, seq_len: int, doc_len: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (rows, seq_len + 1), generator=generator)
    lens = [doc_len] * (seq_len // doc_len)
    lens += [seq_len - sum(lens)] if sum(lens) < seq_len else []
    positions = torch.cat([torch.arange(n) for n in lens]).expand(rows, -1)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions.contiguous(), [lens] * rows)
