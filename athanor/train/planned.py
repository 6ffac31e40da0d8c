"""The planner in a stage: ``parallel: auto`` becomes a plan, and the run writes down what it is predicted to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from pydantic import ValidationError

from athanor.errors import AthanorError
from athanor.inference.session import default_device
from athanor.model.config import ModelConfig
from athanor.parallel.checks import resolve_plan
from athanor.parallel.plan import ParallelPlan
from athanor.plan.auto import Choice, Known, best_plan, cached_path, default_cluster, known_cluster, sized
from athanor.plan.of_stage import StageBatch, batches_of, stage_costs
from athanor.plan.ops import Misses
from athanor.plan.shape import Documents
from athanor.ranks import is_main, world_size
from athanor.recipe.schema import Recipe, TrainRecipe
from athanor.train.precision import compute_dtype
from athanor.train.progress import say
from athanor.train.run_dir import RunDir
from athanor.train.sources import PackedSource
from athanor.train.stages import Stage

#: Rows of a stage whose documents stand for all.
_SAMPLED_ROWS = 64


def settle(
    recipe: Recipe, train: TrainRecipe, config: ModelConfig, out: str | Path, *, own_batches: bool = False
) -> Recipe:
    """``recipe`` with a plan where it says ``parallel: auto``: that of the run in ``out`` if it was made for as many
    ranks, else the planner's best. Collective: rank 0 decides, and all have its answer (or its error)."""
    if recipe.parallel != "auto":
        return recipe
    answer: list[Any] = [None]
    if is_main():
        try:
            answer[0] = _decide(recipe, train, config, Path(out), own_batches)
        except AthanorError as error:
            answer[0] = error
    if world_size() > 1:
        dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], AthanorError):
        raise answer[0]
    return recipe.model_copy(update={"parallel": answer[0]})


def _decide(recipe: Recipe, train: TrainRecipe, config: ModelConfig, out: Path, own_batches: bool) -> ParallelPlan:
    world = world_size()
    if (kept := _kept(out, world)) is not None:
        say(f"layout of this run: {described(kept)}")
        return kept
    known = _known(recipe) or default_cluster(_accelerator())
    dtype = dtype_of(train)
    choice = best_plan(config, batches_of(train, dtype), known.cluster, world, own_batches=own_batches)
    text = _told(choice, known)
    if not choice.fits and train.micro_batch_tokens is None:
        text += "; with train.micro_batch_tokens it may take pipelines and smaller micro-batches"
    say(text)
    return choice.plan


def _told(choice: Choice, known: Known) -> str:
    text = f"layout: {described(choice.plan)}, the best of {choice.considered} on {known.path} ({known.because})"
    if known.because == "not calibrated":
        text += "; `athanor calibrate` measures this machine"
    return text if choice.fits else f"{text}; by the planner none fits in memory, and this one needs least"


def described(plan: ParallelPlan) -> str:
    """What differs from the default, as a recipe writes it."""
    values = plan.model_dump(exclude_defaults=True)
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "one process"


def _kept(out: Path, world: int) -> ParallelPlan | None:
    """The plan in the run's recipe.yaml, if it is for ``world`` ranks: a run goes on as it was begun."""
    path = out / "recipe.yaml"
    if not path.is_file():
        return None
    try:
        plan = ParallelPlan.model_validate((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("parallel"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, ValidationError):
        return None  # what is wrong with the file is told where it is opened
    return plan if plan.world_size == world else None


def _known(recipe: Recipe) -> Known | None:
    return known_cluster(recipe.plan.cluster, cached_path(world_size()))


def _accelerator() -> str | None:
    device = default_device()
    return None if device.type == "cpu" else str(torch.get_device_module(device).get_device_name(device))


def dtype_of(train: TrainRecipe) -> str:
    """``bf16`` or ``fp32``: what this machine computes in."""
    return "bf16" if compute_dtype(train.precision, default_device()) == torch.bfloat16 else "fp32"


def predict(run: RunDir, recipe: Recipe, train: TrainRecipe, config: ModelConfig, stages: Sequence[Stage]) -> None:
    """Write an event ``prediction`` for every stage that reads packed rows, where this machine's cluster is known.

    ``step_s`` and its parts, ``peak_bytes``, ``mfu``, and how many products' shapes were measured or interpolated. A
    cluster that cannot be read, or lacks what the layout needs, is an event too: it must not end a training run.
    """
    if not is_main():
        return
    try:
        plan = resolve_plan(recipe, world_size())
        if plan.world_size > 1:
            run.event("layout", ranks=plan.world_size, plan=described(plan))
        known = _known(recipe)
        if known is None:
            return
        for stage in stages:
            if isinstance(stage.source, PackedSource):
                run.event(
                    "prediction", stage=stage.name, **_prediction(stage, stage.source, plan, known, train, config)
                )
    except AthanorError as error:
        run.event("no_prediction", why=str(error))


def _prediction(
    stage: Stage, source: PackedSource, plan: ParallelPlan, known: Known, train: TrainRecipe, config: ModelConfig
) -> dict[str, Any]:
    rows = source.plan.rows(stage.total_steps // 2)[1]
    seq_len = source.plan.seq_len
    sample = source.loader.rows(source.plan.rows(0)[0], _SAMPLED_ROWS)
    documents = Documents.of([n for row in sample.doc_lens for n in row])
    batch = StageBatch(seq_len, rows * seq_len, train.micro_batch_tokens, dtype_of(train), train.compile, documents)
    misses = Misses()
    costs = stage_costs(config, batch, sized(known.cluster, plan.world_size), [plan], misses)
    return {
        "cluster": known.path,
        "step_s": float(costs.step_s[0]),
        "pipeline_s": float(costs.pipeline_s[0]),
        "data_parallel_s": float(costs.data.exposed_s[0]),
        "optimizer_s": float(costs.optimizer_s[0]),
        "peak_bytes": float(costs.peak_bytes[0]),
        "mfu": float(costs.mfu("causal")[0]),
        "measured_shapes": misses.hits,
        "interpolated_shapes": misses.total,
        "interpolated": misses.lines(5),
    }
