"""Cutting a decoder into pipeline stages: which blocks lie where, and what one stage computes."""

from __future__ import annotations

import copy
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.decoder import Context, Decoder
from athanor.parallel.checks import layers_per_stage
from athanor.parallel.plan import ParallelPlan
from athanor.train.objective import Loss, Objective

#: Schedules whose stages go down the ranks and come back: the first and the last stage are on rank 0.
V_SHAPED = ("zbv", "dualpipev")


def placement(plan: ParallelPlan) -> tuple[int, ...]:
    """The pipeline rank of each of the pp · vpp stages, in model order.

    In a loop stage s is on rank s % pp (interleaved 1F1B, arXiv 2104.04473, section 2.2); the V-shaped schedules
    (arXiv 2401.10241, section 6) turn round at the last rank.
    """
    ranks = []
    for stage in range(plan.stages):
        turn, place = divmod(stage, plan.pp)
        back = plan.schedule in V_SHAPED and turn % 2 == 1
        ranks.append(plan.pp - 1 - place if back else place)
    return tuple(ranks)


def carries_router_loss(decoder: Decoder) -> bool:
    """Whether a router loss travels beside the hidden states of this model."""
    moe = decoder.config.moe
    return moe is not None and moe.balance == "loss" and moe.first_k_dense < decoder.config.num_hidden_layers


class Visit:
    """One micro-batch in one stage: everything but the hidden states.

    A plain class on purpose: FSDP casts the tensors that it finds among a module's arguments to its compute precision,
    and the router loss ``aux`` (a sum in at least float32) must stay what it is.
    """

    __slots__ = ("aux", "batch", "context", "objective", "weight", "loss")

    def __init__(
        self, batch: Batch, context: Context, objective: Objective, weight: float, aux: torch.Tensor | None
    ) -> None:
        self.batch, self.context, self.objective, self.weight = batch, context, objective, weight
        self.aux = aux  # what earlier stages have summed
        self.loss: Loss | None = None  # the objective's answer, set by the last stage


class Stage(Decoder):
    """Consecutive blocks of a decoder under their global parameter names; the first one embeds, the last one has the
    head. What is not here is None. ``config`` is that of the whole model.

    The last stage is what an objective gets for a model: ``loss`` and ``token_logprobs`` are the decoder's own, and
    ``hidden`` gives what the pipeline has computed. ``copies`` names parameters that an earlier stage has too (tied
    embeddings): equal values and equal gradients, to be counted once in a norm over all stages.
    """

    def __init__(self, model: Decoder, index: int, n_stages: int, layers: range) -> None:
        nn.Module.__init__(self)  # not the decoder's: that one would make a whole model
        for name, value in vars(model).items():  # config, RoPE base, training mode and the doors of parallel/
            if not name.startswith("_"):
                setattr(self, name, value)
        self.index, self.is_first, self.is_last = index, index == 0, index == n_stages - 1
        tied = self.is_last and model.lm_head is None
        self.copies: frozenset[str] = frozenset({"embed_tokens.weight"} if tied and not self.is_first else ())
        self.embed_tokens = model.embed_tokens if self.is_first or tied else None  # type: ignore[assignment]
        self.embed_positions = model.embed_positions if self.is_first else None
        blocks = list(model.layers.values() if isinstance(model.layers, nn.ModuleDict) else model.layers)
        self.layers = nn.ModuleDict({str(i): blocks[i] for i in layers})  # type: ignore[assignment]
        self.final_norm = model.final_norm if self.is_last else None  # type: ignore[assignment]
        self.lm_head = model.lm_head if self.is_last else None
        self._arrived: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None

    def forward(  # type: ignore[override]
        self, h_BTD: torch.Tensor | None, visit: Visit
    ) -> tuple[torch.Tensor, ...] | torch.Tensor:
        """Hidden states [B, T, D] (None for the first stage) → (hidden states, router loss so far if there is one).

        The last stage gives the micro-batch's share of the step's loss instead: loss sum / ``visit.weight``, a scalar.
        The objective runs in here, so that hooks on this module (FSDP's) hold around the head as well.
        """
        if self.is_first:
            h_BTD = self.embed(visit.batch.input_ids_BT, visit.context)
        assert h_BTD is not None
        h_BTD, part = self.blocks(h_BTD, visit.context)
        aux = visit.aux
        if carries_router_loss(self):
            if aux is None:
                wide = torch.promote_types(h_BTD.dtype, torch.float32)
                aux = torch.zeros((), dtype=wide, device=h_BTD.device)
            aux = aux + (0.0 if part is None else part)
        if not self.is_last:
            return (h_BTD,) if aux is None else (h_BTD, aux)
        self._arrived = (visit.batch.input_ids_BT, h_BTD, aux)
        try:
            visit.loss = visit.objective(self, visit.batch)
        finally:
            self._arrived = None
        loss = visit.loss.loss_sum / visit.weight
        # An objective may leave the router loss out; earlier stages wait for its gradient all the same.
        return loss if aux is None else loss + 0.0 * aux

    def hidden(
        self,
        input_ids_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        cache: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """In the last stage, while its objective runs: the micro-batch's hidden states after the final norm [B, T, D],
        and the router loss or None. AthanorError for any other input: the pipeline has computed this one only."""
        if self._arrived is None or input_ids_BT is not self._arrived[0]:
            raise AthanorError(
                "an objective asks for hidden states of something else than the micro-batch it was given",
                where="parallel.pp",
                fix="call the model with batch.input_ids_BT itself; other inputs need pp 1",
            )
        _, h_BTD, aux = self._arrived
        return self.final_norm(h_BTD), aux


def split(model: Decoder, plan: ParallelPlan, at: int) -> list[Stage]:
    """The stages of pipeline rank ``at``, in model order: vpp of them.

    They take the modules of ``model``, which may be on the meta device, and its doors; ``model`` itself is of no
    further use. Blocks are spread by ``checks.layers_per_stage``. With tied embeddings first and last stage each have
    the matrix; where both are on this rank the last one's is a copy. AthanorError for a split that does not fit.
    """
    counts = layers_per_stage(plan, model.config.num_hidden_layers)
    ends = list(accumulate(counts))
    here = [s for s, rank in enumerate(placement(plan)) if rank == at]
    stages = [Stage(model, s, plan.stages, range(ends[s] - counts[s], ends[s])) for s in here]
    if len(stages) > 1 and stages[0].is_first and stages[-1].copies:
        stages[-1].embed_tokens = copy.deepcopy(model.embed_tokens)  # FSDP shards a parameter in one place only
    return stages
