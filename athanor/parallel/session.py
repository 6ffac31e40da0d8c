"""What a stage's command does about ranks: join them, let one prepare, and choose the engine of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from athanor.errors import AthanorError
from athanor.inference.session import Speaker
from athanor.model.config import ModelConfig, Strict
from athanor.model.decoder import Decoder
from athanor.model.hf import read_config
from athanor.parallel.budget import Load, recompute_for
from athanor.parallel.checks import check_plan, resolve_plan
from athanor.parallel.launch import agree, join
from athanor.parallel.plan import ParallelPlan
from athanor.ranks import is_main, world_size
from athanor.recipe.schema import Recipe, TrainRecipe
from athanor.train.engine import Engine, EngineFactory, LocalEngine

#: Corpora take hours to build; whoever waits is ended by the launcher if the builder dies.
_PREPARING = timedelta(days=7)


def begin(recipe: Recipe) -> None:
    """First thing in a stage: join the group, if this process was launched as part of one, and compare recipes."""
    if join():
        agree(recipe)


@contextmanager
def main_first(what: str) -> Iterator[None]:
    """The body runs on the main rank first, and on the others when it is done there (they find it ready).

    ``what`` names the place: each use in a run needs a name of its own. An error on the main rank ends the others too.
    """
    if world_size() == 1:
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    key = f"main_first/{what}"
    if not is_main():
        store.wait([key], _PREPARING)
        if (answer := store.get(key).decode()) != "ready":
            raise AthanorError(answer, where="rank 0")
        yield
        return
    try:
        yield
    except BaseException as error:
        store.set(key, f"{what}: {error}")
        raise
    store.set(key, "ready")


def engine_for(recipe: Recipe, train: TrainRecipe, config: ModelConfig, *, own_batches: bool = False) -> EngineFactory:
    """The engine that carries out a run's steps in this group, after a check that the plan fits; see ``check_plan``.

    ``own_batches``: the source decides how many rows a step has, not ``train.global_batch_tokens``.
    """
    plan = resolve_plan(recipe, world_size())
    for seq_len, global_batch_tokens in _batches(train):
        check_plan(
            plan,
            config,
            world_size=world_size(),
            seq_len=seq_len,
            global_batch_tokens=None if own_batches else global_batch_tokens,
            micro_batch_tokens=train.micro_batch_tokens,
        )
    if world_size() > 1:
        from athanor.parallel.engine import parallel_engine

        return parallel_engine(plan, _device())
    return _local(plan)


class Layout(Strict):
    """What a command without a recipe takes: ``parallel.tp=2``."""

    parallel: ParallelPlan | Literal["auto"] = ParallelPlan()


def open_speaker(layout: Layout | Recipe, model_dir: str | Path, device: torch.device | str | None = None) -> Speaker:
    """A model directory ready to speak on this process, or laid over this group's ranks: what is asked of it must be
    asked on all of them. A layout that does not fit is refused before weights are read."""
    launched = join()
    plan = resolve_plan(layout, world_size())
    if not launched or world_size() == 1:
        return Speaker.open(model_dir, device=device)
    agree(layout)
    check_plan(plan, read_config(model_dir), world_size=world_size())
    from athanor.parallel.inference import lay_out_for_decoding
    from athanor.parallel.mesh import Ranks

    speaker = Speaker.open(model_dir, device=device, later=True)
    ranks = Ranks.of(plan, _device() if device is None else torch.device(device))
    return replace(speaker, model=lay_out_for_decoding(speaker.model, ranks, plan))


def _batches(train: TrainRecipe) -> list[tuple[int, int]]:
    """Every (row length, global batch) that a stage of the run has, in their order."""
    found: dict[tuple[int, int], None] = {}
    for stage in train.stages:
        seq_len = stage.seq_len or train.seq_len
        sizes = [step.global_batch_tokens for step in stage.batch_ramp]
        for size in (stage.global_batch_tokens or train.global_batch_tokens, *sizes):
            found[seq_len, size] = None
    return list(found) or [(train.seq_len, train.global_batch_tokens)]


def _local(plan: ParallelPlan) -> EngineFactory:
    def make(model: Decoder, recipe: TrainRecipe) -> Engine:
        recompute_for(model, plan, 0, Load.of(recipe, plan))
        return LocalEngine(model, recipe)

    return make


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type, torch.accelerator.current_device_index())
