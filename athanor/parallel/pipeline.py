"""Running the stages of a pipeline: torch's schedules for training, a plain wave for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.decoder import Context
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan, ScheduleName
from athanor.parallel.stages import V_SHAPED, Stage, Visit, carries_router_loss, placement
from athanor.train.objective import Objective

Metrics = dict[str, tuple[Any, float]]


class Pipeline:
    """The stages of this rank, and the ranks before and behind it. All ranks of a pipeline call the same methods at the
    same time with the same batches.

    ``dtype`` is the precision of what passes between stages: the one that the blocks compute in (default: that of the
    weights). Sizes: hidden states [B, T, D] of a batch [B, T], T / tp of them with sequence parallel (as the tensor
    parallel room does it: where tp divides T).
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        ranks: Ranks,
        plan: ParallelPlan,
        config: ModelConfig,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.stages, self.plan, self.config = list(stages), plan, config
        self.device, self.group, self.at = ranks.device, ranks.group("pp"), ranks.at("pp")
        self.dtype = dtype or self.stages[0].dtype
        self.places = placement(plan)
        self.has_last = self.places[-1] == self.at
        self._with_aux = carries_router_loss(self.stages[0])
        self._built = (0, 0, 0)
        self._schedule: Any = None

    def set_rope_theta(self, theta: float) -> None:
        """Change the RoPE base in every stage (a training stage may)."""
        for stage in self.stages:
            stage.set_rope_theta(theta)

    def forward_backward(self, objective: Objective, batches: Sequence[Batch], weight: float) -> Metrics:
        """One optimizer step's micro-batches: adds the gradients of Σ loss_sum / ``weight`` to the parameters of this
        rank's stages, and gives the objective's metrics, each a (sum, weight) over ``batches``, on every rank.

        All have the same number of rows; where lengths differ (context parallel pads documents, not rows), what passes
        between stages is padded to the longest. FSDP reduces once, behind the last micro-batch. AthanorError for too
        few micro-batches and for different numbers of rows.
        """
        check_micro_batches(self.plan, len(batches))
        rows = {batch.input_ids_BT.shape[0] for batch in batches}
        if len(rows) > 1:
            raise AthanorError(
                f"micro-batches of one step have different numbers of rows: {sorted(rows)}",
                where="parallel.pp",
                fix="as many rows in each micro-batch",
            )
        schedule = self._schedule_for(len(batches), rows.pop(), max(map(self._length, batches)))
        step = _Step(self, objective, batches, weight, self._built[2])
        for stage in self._torch_stages:
            stage.step = step
        with self._tied_gradients():
            # The target tells torch's last stage how many losses to take; our losses come out of the stage itself.
            schedule.step(target=torch.arange(len(batches)) if self.has_last else None, return_outputs=False)
        return self._share(step.metrics)

    @torch.no_grad()
    def forward(self, objective: Objective, batches: Sequence[Batch]) -> Metrics:
        """The same sums without gradients and in evaluation mode, for any number of micro-batches of any shapes."""
        step = _Step(self, objective, batches, 1.0)
        training = [stage.training for stage in self.stages]
        try:
            for stage in self.stages:
                stage.eval()
            self._wave(step)
        finally:
            for stage, mode in zip(self.stages, training, strict=True):
                stage.train(mode)
                _free_gathered(stage)
        return self._share(step.metrics)

    # --- training ----------------------------------------------------------------------------------------------------

    def _length(self, batch: Batch) -> int:
        """Tokens of a row that pass between two stages."""
        n_tokens = batch.input_ids_BT.shape[1]
        spread = self.plan.sp and n_tokens % self.plan.tp == 0
        return n_tokens // self.plan.tp if spread else n_tokens

    def _schedule_for(self, n_micro: int, n_rows: int, length: int) -> Any:
        """torch's schedule for these sizes. The last one is kept, with its receive buffers, and serves again while its
        length is enough and at most a quarter too long."""
        if self._built[:2] != (n_micro, n_rows) or not length <= self._built[2] <= 1.25 * length:
            self._schedule = None  # free the old buffers first
            if self.plan.schedule in V_SHAPED:
                self._allow_split_backward()
            self._torch_stages = [self._torch_stage(stage, n_rows, length) for stage in self.stages]
            self._schedule = build_schedule(self.plan.schedule, self._torch_stages, n_micro)
            self._built = (n_micro, n_rows, length)
        return self._schedule

    def _allow_split_backward(self) -> None:
        """Gradients of inputs first, of weights later: torch looks for a stage's parameters in the graph when the
        backward pass begins. Of a block that FSDP has freed it would find none and lose its gradients without a word,
        so blocks stay gathered from their first forward pass to the end of the step."""
        for module in (module for stage in self.stages for module in stage.modules()):
            if isinstance(module, FSDPModule):
                module.set_reshard_after_forward(False, recurse=False)
            if module._compiled_call_impl is not None:
                raise AthanorError(
                    f"schedule {self.plan.schedule} splits the backward pass, which compiled blocks do not allow",
                    where="parallel.schedule",
                    fix="parallel.schedule=interleaved_1f1b, or compile=false",
                )

    def _torch_stage(self, stage: Stage, n_rows: int, length: int) -> Any:
        """Shapes are given, so that torch runs no inference of its own."""
        flow = tuple(self._flow(n_rows, length, torch.device("meta")))
        loss = torch.empty((), dtype=torch.promote_types(self.dtype, torch.float32), device="meta", requires_grad=True)
        return _stage_class()(
            stage,
            stage.index,
            self.plan.stages,
            self.device,
            input_args=() if stage.is_first else flow,
            output_args=(loss,) if stage.is_last else flow,
            group=self.group,
        )

    def _flow(self, n_rows: int, length: int, device: torch.device) -> list[torch.Tensor]:
        """Empty tensors like those that pass between two stages."""
        grad = device.type == "meta"  # torch makes room for the gradients of what is marked so
        shape = (n_rows, length, self.config.hidden_size)
        flow = [torch.empty(shape, dtype=self.dtype, device=device, requires_grad=grad)]
        if self._with_aux:
            wide = torch.promote_types(self.dtype, torch.float32)
            flow.append(torch.empty((), dtype=wide, device=device, requires_grad=grad))
        return flow

    @contextmanager
    def _tied_gradients(self) -> Iterator[None]:
        """Around a step: with tied embeddings, what the step has added to the gradient of either matrix (embedding in
        the first stage, head in the last) is added to the other one too, so that both stay equal."""
        ends = [stage for stage in self.stages if stage.is_first or stage.is_last]
        if not self.config.tie_word_embeddings or not ends or not ends[0].embed_tokens.weight.requires_grad:
            yield
            return
        before = [None if (grad := _tied_gradient(stage)) is None else grad.clone() for stage in ends]
        yield
        with torch.no_grad():
            grads = [_tied_gradient(stage) for stage in ends]
            added = []
            for grad, old in zip(grads, before, strict=True):
                assert grad is not None
                added.append(grad.clone() if old is None else grad - old)
            if len(ends) == 1:
                other = torch.empty_like(added[0])
                peer = self.places[-1] if ends[0].is_first else self.places[0]
                ops = [
                    dist.P2POp(dist.isend, added[0], group=self.group, group_peer=peer),
                    dist.P2POp(dist.irecv, other, group=self.group, group_peer=peer),
                ]
                for work in dist.batch_isend_irecv(ops):
                    work.wait()
                added.append(other)
            for grad, more in zip(grads, reversed(added), strict=False):
                assert grad is not None
                grad += more

    # --- evaluation --------------------------------------------------------------------------------------------------

    def _wave(self, step: _Step) -> None:
        def empty(i: int) -> list[torch.Tensor]:
            batch = step.batches[i]
            return self._flow(len(batch.input_ids_BT), self._length(batch), self.device)

        wave(self.plan, self.group, self.stages, len(step.batches), step.run, empty)

    def _share(self, metrics: Metrics) -> Metrics:
        """The last stage's sums on every rank of the pipeline."""
        box = [{name: (float(total), weight) for name, (total, weight) in metrics.items()}]
        last = dist.get_global_rank(self.group, self.places[-1])
        dist.broadcast_object_list(box, src=last, group=self.group, device=self.device)
        return dict(box[0])


def wave(
    plan: ParallelPlan,
    group: dist.ProcessGroup,
    stages: Sequence[Stage],
    n_micro: int,
    run: Callable[[Stage, int, Sequence[torch.Tensor]], Sequence[torch.Tensor]],
    empty: Callable[[int], list[torch.Tensor]],
) -> None:
    """All stages forward over all micro-batches; ``stages`` are those of this rank of ``group``.

    ``run(stage, i, received)`` gives what passes on (of the last stage it is not looked at), ``empty(i)`` tensors of
    the same shapes. Every rank walks the same list, so that sends and receives of any two ranks come in one order: no
    deadlock, also where a send waits for its receive.
    """
    at, places = group.rank(), placement(plan)
    mine = {stage.index: stage for stage in stages}
    inbox: dict[tuple[int, int], tuple[list[torch.Tensor], list[Any]]] = {}
    sent: list[tuple[Any, Any]] = []
    for s, i in forward_order(plan, n_micro):
        behind = places[s + 1] if s + 1 < plan.stages else None
        if s in mine:
            tensors, works = inbox.pop((s, i), ([], []))
            for work in works:
                work.wait()
            out = run(mine[s], i, tensors)
            if behind == at:
                inbox[s + 1, i] = (list(out), [])
            elif behind is not None:
                out = [x.contiguous() for x in out]
                sent += [(dist.isend(x, group=group, group_dst=behind), x) for x in out]
        elif behind == at:
            buffers = empty(i)
            inbox[s + 1, i] = (buffers, [dist.irecv(x, group=group, group_src=places[s]) for x in buffers])
    for work, _ in sent:
        work.wait()


class _Step:
    """The micro-batches of one call, and what this rank's stages share of each: positions, RoPE tables and packing are
    made when its first stage runs and let go behind its last one."""

    def __init__(
        self, pipeline: Pipeline, objective: Objective, batches: Sequence[Batch], weight: float, length: int = 0
    ) -> None:
        self.pipeline, self.objective, self.batches, self.weight = pipeline, objective, batches, weight
        self.length = length  # of a row between two stages, 0: as the micro-batch has it
        self.metrics: Metrics = {}
        self._contexts: dict[int, Context] = {}

    def run(self, stage: Stage, i: int, received: Sequence[torch.Tensor]) -> Any:
        """``stage`` over micro-batch ``i``; ``received``: nothing for the first stage, else the last one's output."""
        batch, pipeline = self.batches[i], self.pipeline
        if i not in self._contexts:
            self._contexts[i] = pipeline.stages[0].context(
                batch.input_ids_BT, batch.positions_BT, batch.doc_lens, dtype=pipeline.dtype
            )
        context = self._contexts[i]
        if stage is pipeline.stages[-1]:
            del self._contexts[i]
        h_BTD, aux = (*received, None, None)[:2]
        own = pipeline._length(batch)
        padding = max(0, self.length - own)
        if h_BTD is not None and padding:
            h_BTD = h_BTD[:, :own]
        visit = Visit(batch, context, self.objective, self.weight, aux)
        out = stage(h_BTD, visit)
        if visit.loss is not None:
            for name, (total, weight) in visit.loss.metrics.items():
                old = self.metrics.get(name, (0.0, 0.0))
                self.metrics[name] = (old[0] + total, old[1] + weight)
            return out
        h_BTD, *rest = out
        if h_BTD.dtype != pipeline.dtype or h_BTD.shape[1] != own:  # the other side would read the bytes as its own
            raise AthanorError(
                f"stage {stage.index} gives {h_BTD.dtype} {tuple(h_BTD.shape)}, "
                f"the pipeline passes {pipeline.dtype} in rows of {own}"
            )
        return (F.pad(h_BTD, (0, 0, 0, padding)) if padding else h_BTD, *rest)


def check_micro_batches(plan: ParallelPlan, count: int) -> None:
    """AthanorError where a schedule cannot run ``count`` micro-batches a step."""
    least = plan.stages if plan.schedule == "dualpipev" else plan.pp
    every = plan.pp if plan.schedule == "interleaved_1f1b" else 1
    if count < least or count % every:
        wanted = f"at least {least}" if count < least else f"a multiple of {every}"
        raise AthanorError(
            f"{count} micro-batches a step, schedule {plan.schedule} over pp {plan.pp} needs {wanted}",
            where="parallel.pp",
            fix="smaller micro-batches or a larger global batch",
        )


def forward_order(plan: ParallelPlan, n_micro: int) -> list[tuple[int, int]]:
    """All (stage, micro-batch) in an order that keeps every rank busy: groups of pp micro-batches go through one turn
    of the ranks after the other, as in the warm-up of interleaved 1F1B. A stage comes behind the one it waits for."""

    def tick(pair: tuple[int, int]) -> tuple[int, int]:
        (turn, place), (group, within) = divmod(pair[0], plan.pp), divmod(pair[1], plan.pp)
        return (group * plan.vpp + turn) * plan.pp + place + within, pair[0]

    return sorted(((s, i) for s in range(plan.stages) for i in range(n_micro)), key=tick)


def build_schedule(name: ScheduleName, stages: Sequence[Any], n_micro: int) -> Any:
    """torch's schedule over this rank's ``PipelineStage`` values. The last stage's output is its loss; gradients are
    summed as they are, for the loss is divided already."""
    from torch.distributed.pipelining import schedules

    kinds: dict[ScheduleName, Any] = {
        "gpipe": schedules.ScheduleGPipe,
        "1f1b": schedules.Schedule1F1B,
        "interleaved_1f1b": schedules.ScheduleInterleaved1F1B,
        "zbv": schedules.ScheduleZBVZeroBubble,
        "dualpipev": schedules.ScheduleDualPipeV,
    }
    single = name in ("gpipe", "1f1b")
    return kinds[name](stages[0] if single else list(stages), n_micro, loss_fn=_the_loss_itself, scale_grads=False)


def _the_loss_itself(loss: torch.Tensor, _target: torch.Tensor) -> torch.Tensor:
    return loss


@cache
def _stage_class() -> Any:
    """torch's PipelineStage with our stages: imported when a pipeline is built, not with this module."""
    from torch.distributed.pipelining import PipelineStage

    class _TorchStage(PipelineStage):
        step: _Step

        def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
            self._micro_batch = fwd_chunk_id
            try:
                return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
            except RuntimeError as error:
                if isinstance(error.__cause__, AthanorError):  # torch wraps it: show what is wrong, not where it passed
                    raise error.__cause__ from None
                raise

        def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
            assert isinstance(self.submod, Stage)
            return self.step.run(self.submod, self._micro_batch, args)

    return _TorchStage


def _free_gathered(stage: Stage) -> None:
    """Where FSDP has gathered parameters, go back to the shards: those have the gradients and are what changes."""
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _tied_gradient(stage: Stage) -> torch.Tensor | None:
    """This rank's part of the embedding's gradient; of a module that FSDP has sharded, its shard."""
    _free_gathered(stage)
    grad = stage.embed_tokens.weight.grad
    with torch.no_grad():
        return grad.to_local() if isinstance(grad, DTensor) else grad
