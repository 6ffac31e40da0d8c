"""The real training step of one rank of any world, on tensors that have shapes and no values."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.tensor import DTensor

from athanor.data.types import Batch
from athanor.dryrun.tracker import Collective, Trace, Tracker
from athanor.dryrun.world import Answers, fake_world
from athanor.model.decoder import Decoder
from athanor.model.packing import Packing
from athanor.parallel.context import split_batch
from athanor.parallel.data import sharded_modules
from athanor.parallel.engine import ParallelEngine
from athanor.parallel.mesh import FLAT, Ranks
from athanor.parallel.stages import carries_router_loss
from athanor.plan.workload import Workload, axis_of
from athanor.recipe.schema import TrainRecipe
from athanor.train.engine import Sums
from athanor.train.objective import CausalLM
from athanor.train.stages import batch_to

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class DryRun:
    """What one rank's step did. Bytes, floating-point operations, seconds of this process."""

    work: Workload
    rank: int
    trace: Trace
    #: storages of this rank at rest: bytes by category
    state_bytes: dict[str, int]
    #: (kind, axis, bytes of one call) → calls of the step; Python objects that ranks tell each other are not in it
    collectives: Counter[tuple[str, str, int]]
    build_s: float
    step_s: float
    cpu_s: float  #: of this process, both together
    rss_bytes: int

    @property
    def flops(self) -> dict[str, int]:
        """By phase: forward, backward (recompute apart), recompute."""
        return {name: self.trace.flops[name] for name in ("forward", "backward", "recompute")}  # type: ignore[index]


def dry_run(work: Workload, train: TrainRecipe, rank: int) -> DryRun:
    """One step of rank ``rank`` of the ``work.plan.world_size`` ranks, forward to optimizer, with ``CausalLM``.

    ``train``: optimizer and clipping; its precision is ``work``'s, blocks are not compiled, the update is the fused one
    (a loop over parameters reads numbers that are not there). AthanorError as the engine raises it.
    """
    precision = "fp32" if work.dtype == torch.float32 else "bf16"
    optimizer = train.optimizer.model_copy(update={"fused": True})
    train = train.model_copy(update={"precision": precision, "compile": False, "optimizer": optimizer})
    begun, cpu = time.perf_counter(), time.process_time()
    with fake_world(work.plan.world_size, rank):
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        answers = Answers()
        engine = build(work, train, fake, answers)
        batches = [_fake_batch(fake, _local_rows(engine, batch)) for batch in rows_of(work)]
        built = time.perf_counter()
        tracker = Tracker(fake, answers.run)
        with _no_collector(), fake, tracker:
            step(engine, tracker, batches, train)
        ended = time.perf_counter()
        axes = {group: axis_of(work.plan, ranks) for group, ranks in _groups(tracker.trace.collectives).items()}
        collectives = _by_axis(tracker.trace.collectives, axes)
        state = state_bytes(engine)
        del engine
    cpu_s = time.process_time() - cpu
    seconds = built - begun, ended - built, cpu_s
    return DryRun(work, rank, tracker.trace, state, collectives, *seconds, peak_rss_bytes())


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without Python's collector of circular garbage: what only it would free counts as held, always alike."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def build(work: Workload, train: TrainRecipe, fake: FakeTensorMode, answers: Answers) -> _Engine:
    """The engine of this rank, its tensors fake. The process group must be there."""
    ranks = Ranks.of(work.plan, _CPU)
    for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep", "expert_fsdp", *FLAT):
        ranks.sub(name)  # slices a mesh, which is a tensor: not possible among fake ones
    with fake:
        model = Decoder(work.config)
    model.pack = _pack
    with answers:
        return _Engine(model, train, work.plan, ranks)


def step(engine: ParallelEngine, tracker: Tracker, batches: list[Batch], train: TrainRecipe) -> None:
    """What the trainer does in one step, with ``tracker`` on; ``batches`` are this data rank's."""
    tag_state(engine, tracker)
    for batch in batches:
        tracker.tag((batch.input_ids_BT, batch.labels_BT, batch.positions_BT), "inputs")
    weight = float(sum(batch.meta["n_targets"] for batch in batches)) * engine.plan.cp
    engine.total([weight, 0.0, 0.0, 0.0])
    objective = CausalLM()
    with tracker.during("forward"), _whole_gradients(engine, tracker):
        sums = engine.forward_backward(objective, batches, weight * engine.plan.dp)
    tag_state(engine, tracker)  # in its first pass FSDP pads shards that are smaller than others: new tensors
    tracker.tag(_gradients(engine), "host" if engine.plan.offload == "all" else "gradients")
    tracker.tag(_gathered(engine), "gathered")
    with tracker.during("optimizer"):
        engine.optimizer.step(train.schedule.lr, train.clip_norm)
        engine.post_step()
        engine.totals_of(sums or _metrics(engine, weight))


def _metrics(engine: ParallelEngine, weight: float) -> Sums:
    """What the last stage would have told this one."""
    names = ["loss"] + (["router_aux_loss"] if carries_router_loss(engine.parts[0]) else [])
    return {name: (0.0, weight) for name in names}


def rows_of(work: Workload) -> list[Batch]:
    """Micro-batches of one data rank, each row one document of ``work.doc_len`` tokens or several."""
    docs = work.doc_lens
    positions = torch.cat([torch.arange(n) for n in docs]).expand(work.rows, -1).contiguous()
    tokens = torch.zeros_like(positions)
    lens = [list(docs) for _ in range(work.rows)]
    meta = {"n_targets": work.rows * work.seq_len}
    return [Batch(tokens, tokens.clone(), positions.clone(), lens, meta=dict(meta)) for _ in range(work.micro_batches)]


class _Engine(ParallelEngine):
    """Batches come split already: cutting documents needs numbers."""

    def _local(self, batch: Batch) -> Batch:
        return batch_to(batch, self.device)


def _pack(doc_lens: Any, n_rows: int, n_tokens: int, device: torch.device) -> Packing:
    """As ``Packing.of``; the lengths stay numbers, for operations are counted by them."""
    with unset_fake_temporarily():
        return Packing.of(doc_lens, n_rows, n_tokens, device)


def _local_rows(engine: ParallelEngine, batch: Batch) -> Batch:
    plan = engine.plan
    return batch if plan.cp == 1 else split_batch(batch, engine.ranks.at("cp"), plan.cp, plan.cp_split)


def _fake_batch(fake: FakeTensorMode, batch: Batch) -> Batch:
    names = ("input_ids_BT", "labels_BT", "positions_BT")
    tensors: dict[str, Any] = {name: fake.from_tensor(getattr(batch, name)) for name in names}
    return replace(batch, **tensors)


# --- whose bytes -----------------------------------------------------------------------------------------------------


def tag_state(engine: ParallelEngine, tracker: Tracker) -> None:
    """Tell the tracker what is there before the step."""
    for category, tensors in _state(engine).items():
        tracker.tag(tensors, category)  # type: ignore[arg-type]


def _state(engine: ParallelEngine) -> dict[str, list[torch.Tensor]]:
    offload = engine.plan.offload
    params = [param for part in engine.parts for param in part.parameters()]
    buffers = [buffer for part in engine.parts for buffer in part.buffers()]
    moments = [x for group in engine.optimizer.groups for x in (*group.exp_avg, *group.exp_avg_sq)]
    moments.append(engine.optimizer.steps_done)
    copies = [x for group in engine.optimizer.groups for x in (*(group.host_masters or ()), *group.host_grads)]
    return {
        "host" if offload == "all" else "parameters": [*params, *buffers],
        "host" if offload != "none" else "optimizer": moments,
    } | ({"host": [*copies, *moments, *(params if offload == "all" else [])]} if offload != "none" else {})


def _gradients(engine: ParallelEngine) -> list[torch.Tensor]:
    return [p.grad for part in engine.parts for p in part.parameters() if p.grad is not None]


def _fsdp_params(engine: ParallelEngine) -> Iterator[tuple[Any, Any]]:
    """(parameter group, parameter) of FSDP2; its own names, for it has no public ones."""
    for part in engine.parts:
        for module in sharded_modules(part):
            state: Any = module._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            for group in filter(None, groups):
                for param in group.fsdp_params:
                    yield group, param


def _gathered(engine: ParallelEngine) -> list[torch.Tensor]:
    return [x for _, param in _fsdp_params(engine) for x in getattr(param, "all_gather_outputs", ())]


@contextmanager
def _whole_gradients(engine: ParallelEngine, tracker: Tracker) -> Iterator[None]:
    """Gradients that wait unreduced for the last micro-batch are gradients: FSDP keeps them in a field of its own."""
    groups = {id(group): group for group, _ in _fsdp_params(engine)}

    def watched(group: Any) -> Any:
        plain = group.post_backward

        def post_backward(*args: Any) -> None:
            plain(*args)
            for param in group.fsdp_params:
                kept = param.unsharded_accumulated_grad
                if kept is None and not group.reduce_grads and hasattr(param, "_unsharded_param"):
                    kept = param._unsharded_param.grad
                if kept is not None:
                    tracker.tag([kept], "gradients")

        return post_backward

    for group in groups.values():
        group.post_backward = watched(group)
    try:
        yield
    finally:
        for group in groups.values():
            del group.post_backward


def state_bytes(engine: ParallelEngine) -> dict[str, int]:
    """Bytes of this rank's storages of parameters, gradients and optimizer state (each storage once)."""
    params: list[torch.Tensor] = [p for part in engine.parts for p in part.parameters()]
    groups = {"parameters": params, "gradients": _gradients(engine)}
    groups["optimizer"] = [x for group in engine.optimizer.groups for x in (*group.exp_avg, *group.exp_avg_sq)]
    return {name: _storage_bytes(tensors) for name, tensors in groups.items()}


def _storage_bytes(tensors: list[torch.Tensor]) -> int:
    locals_ = [x.to_local() if isinstance(x, DTensor) else x for x in tensors]
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in locals_}.values())


# --- collectives -----------------------------------------------------------------------------------------------------


def _groups(collectives: Counter[Collective]) -> dict[str, list[int]]:
    resolve: Any = torch.distributed.distributed_c10d._resolve_process_group
    return {name: torch.distributed.get_process_group_ranks(resolve(name)) for name in {c.group for c in collectives}}


def _by_axis(collectives: Counter[Collective], axes: dict[str, str]) -> Counter[tuple[str, str, int]]:
    """Calls of groups of one rank move nothing and are left out."""
    out: Counter[tuple[str, str, int]] = Counter()
    for call, count in collectives.items():
        if call.size > 1:
            out[call.kind, axes[call.group], call.n_bytes] += count
    return out


def peak_rss_bytes() -> int:
    """The most memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
