"""Incremental decoding over ranks: the layouts of training under the decode loop of ``athanor.inference.engine``.

Ranks of ``tp`` and ``pp`` decode the same rows together: tensor parallel as in training (each rank caches the keys of
its heads), and pipeline stages that pass on the hidden states of new tokens; each rank caches its own blocks. The last
stage chooses the tokens and tells the others: two numbers a row travel, not V logits. The other ranks
(``dp_replicate``, ``dp_shard``, ``cp``) hold copies, with all experts, and decode rows of their own.

Prompts are read in micro-batches of rows, so that stages work at the same time. A step of one token is not cut: it is
bound by reading the weights, which every part of a batch would do again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.cache import KVCache
from athanor.model.decoder import Choose, Context, Decoder
from athanor.parallel.materialize import materialize
from athanor.parallel.mesh import Ranks
from athanor.parallel.pipeline import Pipeline, wave
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.stages import Stage, split
from athanor.parallel.tensor import apply_tensor_parallel
from athanor.train.engine import stored_buffers
from athanor.train.objective import Loss

_T = TypeVar("_T")


def lay_out_for_decoding(model: Decoder, ranks: Ranks, plan: ParallelPlan) -> Decoder:
    """``model`` over the ranks of ``plan``: what ``generate`` and ``stream`` take, called on every rank alike.

    It has the same whole weights on every rank, or is on the meta device with ``first_values`` (else it stays there).
    ``model`` itself is of no further use. ``loss`` and ``token_logprobs`` work too, without gradients, for batches that
    are the same on every rank. AthanorError for a layout that does not fit; see ``athanor.parallel.checks``.
    """
    plan = plan.model_copy(update={"sp": False})  # a step has one token: there is no sequence to spread
    parts = split(model, plan, ranks.at("pp")) if plan.pp > 1 else [model]
    for part in parts:
        apply_tensor_parallel(part, ranks, plan)
        if part.first_values is not None:
            materialize(part, ranks.device)
    out = parts[0] if plan.pp == 1 else PipelinedDecoder(parts, ranks, plan)  # type: ignore[arg-type]
    if ranks.size("loss") > 1:
        out.share = Share(ranks.group("loss"))
    return out.requires_grad_(False).eval()


@dataclass(frozen=True)
class Share:
    """The door ``Decoder.share``: ranks of ``group`` hold copies of a model, and each decodes a part of the rows."""

    group: dist.ProcessGroup

    def part(self, rows: Sequence[_T]) -> Sequence[_T]:
        """This rank's rows: neighbours, so that equal prompts stay together."""
        at, n = self.group.rank(), self.group.size()
        return rows[len(rows) * at // n : len(rows) * (at + 1) // n]

    def gather(self, done: dict[int, _T]) -> dict[int, _T]:
        """What all ranks have done."""
        everyone: list[Any] = [None] * self.group.size()
        dist.all_gather_object(everyone, done, group=self.group)
        return {row: value for part in everyone for row, value in part.items()}


class PipelinedDecoder(Decoder):
    """The pipeline stages of a rank as the model that the decode loop knows: ``decode`` on every rank, with the same
    tokens, gives the same answer on every rank. ``layers`` and hidden states of the whole model are nowhere."""

    def __init__(self, stages: Sequence[Stage], ranks: Ranks, plan: ParallelPlan) -> None:
        nn.Module.__init__(self)  # not the decoder's: that one would make a whole model
        first = stages[0]
        self.config, self.rope_theta = first.config, first.rope_theta
        self.share, self.decoding_twin, self.first_values = None, None, None
        self.stages = nn.ModuleList(stages)
        self.plan, self.group = plan, ranks.group("pp")
        self.pipeline = Pipeline(stages, ranks, plan, first.config)
        self.last_at = dist.get_global_rank(self.group, self.pipeline.places[-1])
        attentions = [block.attn for stage in stages for block in stage.layers.values()]  # type: ignore[operator]
        for place, attention in enumerate(attentions):
            attention.layer = place  # in a cache that has this rank's blocks only
        self.cache_config = first.cache_config.model_copy(update={"num_hidden_layers": len(attentions)})

    def set_rope_theta(self, theta: float) -> None:
        """Change the RoPE base of every stage."""
        for stage in self.pipeline.stages:
            stage.set_rope_theta(theta)
        super().set_rope_theta(theta)

    def hidden(self, *_: Any, **__: Any) -> Any:
        """AthanorError: hidden states of the whole model are on no single rank."""
        raise AthanorError("a pipeline gives no hidden states", where="parallel.pp", fix="decode, loss, token_logprobs")

    def decode(
        self, input_ids_BT: torch.Tensor, cache: KVCache, rows_B: torch.Tensor, last_B: torch.Tensor, choose: Choose
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Decoder.decode`; ``choose`` runs on the last stage's ranks."""
        n_rows, n_tokens = input_ids_BT.shape
        pieces = min(self.plan.pp, n_rows) if n_tokens > 1 else 1
        cuts = [n_rows * i // pieces for i in range(pieces + 1)]
        parts = [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        contexts: dict[int, Context] = {}  # one for all stages of this rank
        done: list[torch.Tensor] = []

        def run(stage: Stage, i: int, received: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            ids_bT = input_ids_BT[parts[i]]
            if i not in contexts:
                contexts[i] = stage.context(ids_bT, None, None, cache.part(parts[i]), self.pipeline.dtype)
            h_bTD = stage.embed(ids_bT, contexts[i]) if stage.is_first else received[0]
            h_bTD, _ = stage.blocks(h_bTD, contexts[i])
            if stage.is_last:
                done.append(stage.final_norm(h_bTD))  # micro-batches come in their order
            return (h_bTD,)

        def empty(i: int) -> list[torch.Tensor]:
            shape = (parts[i].stop - parts[i].start, n_tokens, self.config.hidden_size)
            return [torch.empty(shape, dtype=self.pipeline.dtype, device=input_ids_BT.device)]

        wave(self.plan, self.group, self.pipeline.stages, len(parts), run, empty)
        return self._tell(done, rows_B, last_B, choose)

    def _tell(
        self, done: list[torch.Tensor], rows_B: torch.Tensor, last_B: torch.Tensor, choose: Choose
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last stage's choice on every rank of the pipeline, in one message: ids and the bits of float32s."""
        message = torch.empty(2, len(rows_B), dtype=torch.int64, device=rows_B.device)
        if done:
            hidden_BD = torch.cat(done)[rows_B, last_B]
            ids_B, logprobs_B = choose(self.pipeline.stages[-1].project(hidden_BD))
            message[0], message[1] = ids_B, logprobs_B.float().view(torch.int32)
        dist.broadcast(message, self.last_at, group=self.group)
        return message[0], message[1].to(torch.int32).view(torch.float32)

    def loss(
        self,
        input_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        losses_BT: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`Decoder.loss` on every rank, without gradients; losses by position are not told."""
        batch = Batch(input_ids_BT, labels_BT, positions_BT, doc_lens)  # type: ignore[arg-type]
        return self._ask(lambda last: last.loss(input_ids_BT, labels_BT, positions_BT, doc_lens), batch)

    def token_logprobs(
        self,
        input_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Decoder.token_logprobs` on every rank, without gradients."""
        batch = Batch(input_ids_BT, labels_BT, positions_BT, doc_lens)  # type: ignore[arg-type]
        asked = (input_ids_BT, labels_BT, positions_BT, doc_lens, temperature)
        return self._ask(lambda last: last.token_logprobs(*asked), batch)

    def _ask(self, question: Callable[[Decoder], _T], batch: Batch) -> _T:
        """The last stage's answer about one batch, on every rank."""
        asked = _Question(question)
        self.pipeline.forward(asked, [batch])
        box = [asked.answer]
        dist.broadcast_object_list(box, src=self.last_at, group=self.group, device=self.pipeline.device)
        moved: Any = tuple(None if x is None else x.to(self.pipeline.device) for x in box[0])
        return moved  # type: ignore[no-any-return]


class _Question:
    """What the pipeline calls an objective: keeps an answer instead of a loss."""

    name = "question"

    def __init__(self, question: Callable[[Decoder], Any]) -> None:
        self.question = question
        self.answer: Any = None

    def __call__(self, model: Decoder, batch: Batch) -> Loss:
        self.answer = tuple(None if x is None else x.cpu() for x in self.question(model))
        return Loss(torch.zeros((), device=batch.input_ids_BT.device), 1.0)

    def weight(self, batch: Batch) -> float:
        """Of no meaning here."""
        return 1.0


class DecodingTwin:
    """The door ``Decoder.decoding_twin`` of a model under training: a second model for decoding, over the same ranks.

    ``parts``: this rank's stages as ``ParallelEngine`` lays them out. A call brings the weights of now: one FSDP group
    after the other is gathered, copied in the compute precision and let go. Every rank calls it.
    """

    def __init__(self, parts: Sequence[Decoder], ranks: Ranks) -> None:
        self.parts, self.ranks = parts, ranks
        self._twin: Decoder | None = None

    def __call__(self) -> Decoder:
        """The twin, with the weights of now."""
        theirs = self.parts[0].config
        for i, part in enumerate(self.parts):
            for name, tensor in gathered(part):
                if self._twin is None or self._twin.config != theirs:
                    self._twin = self._make(tensor.dtype)
                ours = self._twin.stages[i] if isinstance(self._twin, PipelinedDecoder) else self._twin
                _local(_find(ours, name)).copy_(tensor)
        assert self._twin is not None
        return self._twin

    def beside(self, model: Decoder) -> Decoder:
        """Another whole model laid out as the twin is, on the same ranks."""
        return lay_out_for_decoding(model, self.ranks, self.ranks.plan)

    def _make(self, dtype: torch.dtype) -> Decoder:
        with torch.device("meta"):
            whole = Decoder(self.parts[0].config)
        for param in whole.parameters():
            param.data = param.data.to(dtype)  # buffers stay as they are
        return self.beside(whole).to_empty(device=self.ranks.device)


@torch.no_grad()
def gathered(part: Decoder) -> Any:
    """(name, tensor) of a laid-out part's parameters, whole but for tensor parallel, in the compute precision; then its
    stored buffers. A tensor is valid until the next one is asked for."""
    groups = {name: module for name, module in part.named_modules() if isinstance(module, FSDPModule)}
    names: dict[str, list[str]] = {name: [] for name in groups}
    for name, _ in part.named_parameters():
        owner = max((g for g in groups if g == "" or name.startswith(f"{g}.")), key=len)
        names[owner].append(name)
    for owner, module in groups.items():
        module.reshard()  # what a pass below ZeRO 3 left gathered may be older than the shards
        module.unshard()
        for name in names[owner]:
            param = _find(part, name)
            if isinstance(param, DTensor) and "ep" in (param.device_mesh.mesh_dim_names or ()):
                param = param.redistribute(placements=[Replicate(), *param.placements[1:]])
            yield name, _local(param)
        module.reshard()
    yield from stored_buffers(part).items()


def _find(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)  # type: ignore[no-any-return]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
