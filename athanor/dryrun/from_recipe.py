"""What a recipe asks of one rank."""

from __future__ import annotations

import torch

from athanor.errors import AthanorError
from athanor.parallel.checks import resolve_plan
from athanor.plan.workload import Workload
from athanor.recipe.schema import Recipe, TrainRecipe


def workload_of(
    recipe: Recipe, world_size: int | None = None, stage: str | None = None, doc_len: int | None = None
) -> tuple[Workload, list[str]]:
    """(the step of one pre-training stage, what to know about the others).

    ``world_size`` None: what the plan says. ``stage`` None: the first one; of a batch ramp the largest batch.
    ``doc_len``: length of the documents in a row. Precision ``auto`` counts as bf16. AthanorError for a recipe without
    a model, an unknown stage, and with everything about the layout that does not fit.
    """
    if recipe.model is None:
        raise AthanorError("the recipe has no model", where="model", fix="give a preset or a shape under `model:`")
    if world_size is None:
        if recipe.parallel == "auto":
            raise AthanorError("parallel: auto needs the number of ranks", where="--world", fix="--world N")
        world_size = recipe.parallel.world_size
    plan = resolve_plan(recipe, world_size)
    batches = _batches(recipe.train)
    if stage is not None and stage not in batches:
        raise AthanorError(f"no stage is called {stage!r}", where="--stage", fix=", ".join(batches))
    chosen = stage or next(iter(batches))
    dtype = torch.float32 if recipe.train.precision == "fp32" else torch.bfloat16
    notes: list[str] = [] if len(batches) == 1 else [f"this is stage {chosen}"]
    found: Workload | None = None
    for name, (seq_len, global_batch_tokens) in batches.items():
        try:
            work = Workload.of(
                recipe.model,
                plan,
                seq_len=seq_len,
                global_batch_tokens=global_batch_tokens,
                micro_batch_tokens=recipe.train.micro_batch_tokens,
                doc_len=doc_len if name == chosen else None,
                dtype=dtype,
            )
        except AthanorError as error:
            if name == chosen:
                raise
            notes.append(f"stage {name} does not fit this layout: {error}")
            continue
        if name == chosen:
            found = work
    assert found is not None
    return found, notes


def _batches(train: TrainRecipe) -> dict[str, tuple[int, int]]:
    """By stage: row length and the largest global batch, in tokens."""
    out: dict[str, tuple[int, int]] = {}
    for stage in train.stages:
        ramp = [step.global_batch_tokens for step in stage.batch_ramp]
        tokens = max([stage.global_batch_tokens or train.global_batch_tokens, *ramp])
        out[stage.name] = stage.seq_len or train.seq_len, tokens
    return out or {"pretrain": (train.seq_len, train.global_batch_tokens)}
