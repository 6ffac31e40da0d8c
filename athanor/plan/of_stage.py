"""The problem that a stage of training poses to the planner: its model, batch, precision and documents."""

from __future__ import annotations

from dataclasses import dataclass

from athanor.model.config import ModelConfig
from athanor.parallel.checks import micro_batches
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import Cluster
from athanor.plan.cost import Costs, Problem, evaluate
from athanor.plan.layouts import Layouts, Switches
from athanor.plan.ops import Misses
from athanor.plan.shape import Documents
from athanor.plan.traits import ENGINES, Engine, States
from athanor.recipe.schema import StageRecipe, TrainRecipe


@dataclass(frozen=True, slots=True)
class StageBatch:
    """What a stage trains on in each step; ``compiled`` blocks have fused operators."""

    seq_len: int
    global_batch_tokens: int
    micro_batch_tokens: int | None
    dtype: str  #: ``fp32`` or ``bf16``, of the computation
    compiled: bool
    documents: Documents = Documents()

    @property
    def rows(self) -> int:
        """Of a step over all ranks."""
        return self.global_batch_tokens // self.seq_len


def batches_of(train: TrainRecipe, dtype: str) -> list[StageBatch]:
    """Every batch that the stages of ``train`` have, in their order, each once; documents as long as rows."""
    found: dict[StageBatch, None] = {}
    for stage in train.stages or [StageRecipe(name="train")]:
        ramp = [step.global_batch_tokens for step in stage.batch_ramp]
        for tokens in (stage.global_batch_tokens or train.global_batch_tokens, *ramp):
            seq_len = stage.seq_len or train.seq_len
            found[StageBatch(seq_len, tokens, train.micro_batch_tokens, dtype, train.compile)] = None
    return list(found)


def athanor_engine(dtype: str) -> Engine:
    """Athanor's engine computing in ``dtype``. In float32 masters are what is multiplied with: no second copy, and
    everything that moves is four bytes wide; logits are not widened for the loss."""
    engine = ENGINES["athanor"]
    if dtype == "bf16":
        return engine
    return engine.model_copy(
        update={
            "dtype": "fp32",
            "head_dtype": "fp32",
            "activation_bytes": 4,
            "param_bytes": 4,
            "states": {
                0: States(whole=20, sharded=0),
                1: States(whole=8, sharded=16),
                2: States(whole=4, sharded=16, gathered_blocks=0),
                3: States(whole=0, sharded=16, gathered_blocks=2),
            },
            "logit_bytes": 8,
            "logit_traffic": 24,
            "accumulate_traffic": 8,
            "optimizer_traffic": 32,
        }
    )


def stage_problem(config: ModelConfig, batch: StageBatch, cluster: Cluster) -> Problem:
    """The stage on ``cluster``, for any layout."""
    engine = athanor_engine(batch.dtype)
    return Problem(config, batch.seq_len, batch.rows, cluster, engine, batch.documents)


def stage_layouts(config: ModelConfig, batch: StageBatch, plans: list[ParallelPlan]) -> Layouts:
    """``plans`` with the micro-batches that the engine makes of the stage's batch; AthanorError where one does not
    divide."""
    count, rows = zip(
        *(
            micro_batches(
                plan,
                seq_len=batch.seq_len,
                global_batch_tokens=batch.global_batch_tokens,
                micro_batch_tokens=batch.micro_batch_tokens,
            )
            for plan in plans
        ),
        strict=True,
    )
    switches = [
        Switches(chunked_tp=plan.chunks > 1, context_by_document=plan.cp_split == "document", fused_ops=batch.compiled)
        for plan in plans
    ]
    return Layouts.of(plans, config.num_hidden_layers, rows, count, switches)


def stage_costs(
    config: ModelConfig, batch: StageBatch, cluster: Cluster, plans: list[ParallelPlan], misses: Misses | None = None
) -> Costs:
    """Costs of one step of the stage under each of ``plans``."""
    return evaluate(stage_problem(config, batch, cluster), stage_layouts(config, batch, plans), misses)


def asked_shapes(problem: Problem, plan: ParallelPlan, rows: int, micro_batches: int) -> Misses:
    """Products that a plan's costs ask for: how many have a measured point, and those that are interpolated."""
    misses = Misses()
    evaluate(problem, Layouts.of([plan], problem.config.num_hidden_layers, rows, micro_batches), misses)
    return misses
