"""GRPO: the policy-gradient objective over packed rollouts, and the stage that runs it.

Per token t of an answer with advantage A (arXiv 2402.03300, equation 3; upper clip of its own as in arXiv 2503.14476):

    r_t = exp(logπ(t) − logπ_old(t))
    loss_t = −min(r_t·A, clip(r_t, 1 − ε_low, 1 + ε_high)·A) + β·k3_t
    k3_t = exp(logπ_ref(t) − logπ(t)) − (logπ_ref(t) − logπ(t)) − 1

summed over all answer tokens of the global batch and divided once by their number, so that a token weighs the same in a
short answer and in a long one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from athanor.align.post_training import fit_and_save, one_stage, open_for_chat
from athanor.align.rollouts import RolloutSource
from athanor.align.sources import load_questions
from athanor.align.verifiers import verifier
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.inference.session import default_device
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, open_model_dir
from athanor.parallel.checks import resolve_plan
from athanor.parallel.session import begin, engine_for, main_first
from athanor.ranks import world_size
from athanor.recipe.schema import Recipe, RLRecipe
from athanor.train.objective import Loss
from athanor.train.planned import settle
from athanor.train.precision import compute_dtype
from athanor.train.run_dir import RunDir
from athanor.train.stages import Stage


class GRPO:
    """Objective over batches with extras ``advantage_BT`` and, off policy, ``old_logprob_BT``.

    ``on_policy``: one update for each batch of rollouts, so π_old is π itself: the ratio is exactly 1 and the recorded
    log-probabilities are not used. Otherwise ``old_logprob_BT`` holds those recorded while sampling. Where ``kl_coef``
    is not 0, ``ref_logprob_BT`` holds those of the frozen reference model (at the same temperature).
    """

    name = "grpo"

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        kl_coef: float = 0.0,
        on_policy: bool = True,
    ) -> None:
        self.temperature, self.clip_low, self.clip_high = temperature, clip_low, clip_high
        self.kl_coef, self.on_policy = kl_coef, on_policy

    def weight(self, batch: Batch) -> float:
        """Answer tokens in the batch."""
        known = batch.meta.get("n_targets")  # counted before the batch went to an accelerator: no wait for it here
        return float(batch.n_targets if known is None else known)

    def __call__(self, model: Decoder, batch: Batch) -> Loss:
        mask_BT = batch.labels_BT != IGNORE
        logp_BT, entropy_BT = model.token_logprobs(
            batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens, self.temperature
        )
        advantage_BT = _extra(batch, "advantage_BT").to(logp_BT.dtype)
        old_BT = logp_BT.detach() if self.on_policy else _extra(batch, "old_logprob_BT").to(logp_BT.dtype)
        ratio_BT = (logp_BT - old_BT).exp()
        clipped_BT = ratio_BT.clamp(1 - self.clip_low, 1 + self.clip_high)
        gain_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
        loss_BT = -gain_BT
        weight = self.weight(batch)
        # The clip binds where the clipped branch is strictly the smaller one: there the gradient is zero.
        bound_BT = (clipped_BT * advantage_BT < ratio_BT * advantage_BT) & mask_BT
        metrics: dict[str, tuple[float | torch.Tensor, float]] = {
            "entropy": ((entropy_BT.detach() * mask_BT).sum(), weight),
            "clip_share": (bound_BT.sum(), weight),
            **batch.meta.get("metrics", {}),
        }
        if self.kl_coef:
            delta_BT = _extra(batch, "ref_logprob_BT").to(logp_BT.dtype) - logp_BT
            k3_BT = delta_BT.exp() - delta_BT - 1
            loss_BT = loss_BT + self.kl_coef * k3_BT
            metrics["kl"] = ((k3_BT.detach() * mask_BT).sum(), weight)
        loss_sum = (loss_BT * mask_BT).sum()
        metrics["loss"] = (loss_sum.detach(), weight)
        return Loss(loss_sum, weight, metrics)


def _extra(batch: Batch, name: str) -> torch.Tensor:
    if name not in batch.extras:
        raise AthanorError(f"the batch has no {name}", where="grpo", fix="let RolloutSource make the batches")
    return batch.extras[name]


def run_rl(recipe: Recipe, model_dir: str | Path, out: str | Path) -> Path:
    """Reinforcement learning of ``model_dir`` on ``recipe.rl``; returns the model directory ``out/model``.

    Run again it resumes, or does nothing when it is done. Over ranks, those that hold different data share the prompts;
    tensor and pipeline ranks decode together.
    """
    settings = recipe.rl
    one_stage(settings.train, "rl.train")
    if settings.train.steps is None:
        raise AthanorError("how long to train is not given", where="rl.train", fix="rl.train.steps=40")
    # What can be refused is looked at first: a refused call leaves no run directory behind.
    questions = load_questions(settings.sources, recipe.seed, "rl", "rl.sources")
    begin(recipe)
    speaker = open_for_chat(model_dir)
    recipe = settle(recipe, settings.train, speaker.model.config, out, own_batches=True)
    engine = engine_for(recipe, settings.train, speaker.model.config, own_batches=True)
    with main_first("run directory"):
        run = RunDir.open(out, recipe, sections=("seed", "rl"))
    if run.is_done:
        return run.model_dir
    source = RolloutSource(
        questions,
        speaker.tokenizer,
        verifier(settings.verifier),
        settings,
        recipe.seed,
        plan=resolve_plan(recipe, world_size()),
        reference=partial(_reference, settings, model_dir) if settings.kl_coef else None,
    )
    objective = GRPO(
        temperature=settings.temperature,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        kl_coef=settings.kl_coef,
        on_policy=settings.updates_per_batch == 1,
    )
    stage = Stage("rl", source, settings.train.steps, settings.train.schedule)
    return fit_and_save(run, speaker, objective, stage, settings.train, recipe.seed, model_dir, engine)


def _reference(settings: RLRecipe, model_dir: str | Path) -> Decoder:
    """The model as it was, frozen, in the precision that the trained one computes in; over ranks on the meta device,
    for the source to lay out."""
    device = default_device()
    dtype = compute_dtype(settings.train.precision, device)
    if world_size() > 1:
        return open_model_dir(model_dir, dtype=dtype)
    return load_model_dir(model_dir, dtype=dtype, device=device).requires_grad_(False).eval()
