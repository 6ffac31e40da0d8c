"""Rollouts as a source of batches: sample groups of answers, verify, compare within the group, pack.

A step's rollouts are a function of (seed, step, weights), so a resumed run samples what an unbroken one would have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from athanor.align.advantages import group_advantages
from athanor.align.packing import Episode, cut_rows, pack_episodes, pack_state, unpack_state
from athanor.align.sources import Question
from athanor.align.verifiers import Verifier
from athanor.data.packing import seeded_order
from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.files import digest
from athanor.inference.engine import Generation, check_prompts, generate
from athanor.inference.sampling import Sampling
from athanor.model.decoder import Decoder
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import RLRecipe
from athanor.tokenizer.chat import END
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.train.stages import batch_to

ONE_PROCESS = ParallelPlan()


@dataclass(slots=True)
class Rollouts:
    """A step's groups: P questions with G answers each; rewards and advantages float64 [P, G]."""

    questions: list[Question]
    prompts: list[list[int]]
    generations: list[list[Generation]]
    texts: list[list[str]]
    rewards_PG: torch.Tensor
    advantages_PG: torch.Tensor
    seconds: float
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    def kept(self) -> list[int]:
        """Groups that teach something: their rewards differ. When none do, the first stays: a step is a step."""
        return (self.advantages_PG != 0).any(1).nonzero()[:, 0].tolist() or [0]

    def episodes(self) -> list[Episode]:
        """The answers of the kept groups."""
        return [
            Episode(self.prompts[p], g.ids, g.logprobs, float(self.advantages_PG[p, i]))
            for p in self.kept()
            for i, g in enumerate(self.generations[p])
        ]


class RolloutSource:
    """BatchSource of GRPO. Rollouts come from a twin of the model: plain code, never compiled or wrapped; over ranks
    from the twin that the engine lays out as its ``plan`` says. Every rank has all rollouts of a step.

    ``reference`` opens the frozen model of the KL term (whole; it is laid out like the twin), when first needed.
    With ``updates_per_batch`` above 1 a batch serves several steps although the weights move on; then it goes into the
    checkpoint, so that a run stopped in between resumes with the very same batch.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Tokenizer,
        verify: Verifier,
        recipe: RLRecipe,
        seed: int,
        *,
        batch_size: int = 256,
        plan: ParallelPlan = ONE_PROCESS,
        reference: Callable[[], Decoder] | None = None,
    ) -> None:
        if recipe.kl_coef and reference is None:
            raise AthanorError("kl_coef needs a reference model", where="rl", fix="kl_coef=0, or give the reference")
        self.questions, self.tokenizer, self.verify, self.recipe = list(questions), tokenizer, verify, recipe
        self.seed, self.batch_size, self.plan = seed, batch_size, plan
        self._open_reference = reference
        self.stop_ids = [tokenizer.special(END), tokenizer.eos_id]
        self.sampling = Sampling(temperature=recipe.temperature)
        self.prompts = [tokenizer.render_chat(list(q.messages), add_generation_prompt=True) for q in self.questions]
        self._check_room()
        self._digest = digest([[prompt, q.answer] for prompt, q in zip(self.prompts, self.questions, strict=True)])
        self._twin: Decoder | None = None
        self._reference: Decoder | None = None
        self._checked = False
        self._held: tuple[int, list[Batch]] | None = None

    def _check_room(self) -> None:
        """A prompt and its longest answer must fit a training row, or part of the answer could not be learned from."""
        longest = max(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        need, room = len(self.prompts[longest]) + self.recipe.max_new_tokens - 1, self.recipe.train.seq_len
        if need > room:
            raise AthanorError(
                f"question {self.questions[longest].id} and an answer of max_new_tokens={self.recipe.max_new_tokens} "
                f"take {need} positions, {need - room} more than a row of {room}",
                where="rl.train.seq_len",
                fix=f"rl.train.seq_len={-(-need // 64) * 64}, or lower rl.max_new_tokens",
            )

    def micro_batches(self, step: int, model: Decoder) -> list[Batch]:
        """The packed rollouts of a step (tensors on the host)."""
        first = step - step % self.recipe.updates_per_batch
        if first == step:
            self._held = step, self._scored(self._pack(self.rollout(step, model)), model)
        elif self._held is None or self._held[0] != first:
            raise AthanorError(
                f"the rollouts of step {first} are gone", where="rl", fix="resume from a whole checkpoint"
            )
        batches = self._held[1]
        if first != step:
            batches = [replace(batch, meta={}) for batch in batches]  # what sampling told was counted once
        return batches

    @torch.no_grad()
    def _scored(self, batches: list[Batch], model: Decoder) -> list[Batch]:
        """With log-probabilities of the reference model, if the objective will ask for them. Copies share the work."""
        if self._open_reference is None or not self.recipe.kl_coef:
            return batches
        if self._reference is None:
            whole = self._open_reference()
            self._reference = whole if model.decoding_twin is None else model.decoding_twin.beside(whole)
        share, device = self._reference.share, next(self._reference.parameters()).device
        scores: dict[int, torch.Tensor] = {}
        for i in range(len(batches)) if share is None else share.part(range(len(batches))):
            at = batch_to(batches[i], device)
            where = (at.input_ids_BT, at.labels_BT, at.positions_BT, at.doc_lens, self.recipe.temperature)
            scores[i] = self._reference.token_logprobs(*where)[0].cpu()
        for i, logp_BT in (scores if share is None else share.gather(scores)).items():
            batches[i].extras["ref_logprob_BT"] = logp_BT
        return batches

    def picks(self, step: int) -> list[int]:
        """Questions of a step: a new order every epoch, no question twice in one (numbers into ``questions``)."""
        n, per_step = len(self.questions), self.recipe.prompts_per_step
        first = step // self.recipe.updates_per_batch * per_step
        orders: dict[int, Any] = {}
        picks = []
        for place in range(first, first + per_step):
            epoch, at = divmod(place, n)
            if epoch not in orders:
                orders[epoch] = seeded_order(n, self.seed, epoch)
            picks.append(int(orders[epoch][at]))
        return picks

    def rollout(self, step: int, model: Decoder) -> Rollouts:
        """Sample, verify and compare: P questions × G answers with the model's present weights."""
        began = time.perf_counter()
        picks, group = self.picks(step), self.recipe.group_size
        prompts = [self.prompts[i] for i in picks]
        rows = [prompt for prompt in prompts for _ in range(group)]
        first = step * len(rows)
        done = generate(
            self._refreshed_twin(model),
            rows,
            self.sampling,
            self.stop_ids,
            self.recipe.max_new_tokens,
            self.seed,
            row_seeds=range(first, first + len(rows)),
            batch_size=self.batch_size,
        )
        groups = [done[i : i + group] for i in range(0, len(done), group)]
        texts = [[self.tokenizer.decode(g.ids) for g in answers] for answers in groups]
        asked = [self.questions[i] for i in picks]
        rewards = [[self.verify(text, q.answer) for text in said] for q, said in zip(asked, texts, strict=True)]
        rewards_PG = torch.tensor(rewards, dtype=torch.float64)
        advantages_PG = group_advantages(rewards_PG, self.recipe.normalize_std)
        seconds = time.perf_counter() - began
        rollouts = Rollouts(asked, prompts, groups, texts, rewards_PG, advantages_PG, seconds)
        rollouts.metrics = rollout_metrics(rollouts)
        return rollouts

    def _refreshed_twin(self, model: Decoder) -> Decoder:
        """A copy of the model for decoding, with its weights of now."""
        if not self._checked:
            check_prompts(model, self.prompts, self.recipe.max_new_tokens)
            self._checked = True
        if model.decoding_twin is not None:
            return model.decoding_twin()  # type: ignore[no-any-return]
        if self._twin is None or self._twin.config != model.config:
            weight = next(model.parameters())
            with torch.device("meta"):
                twin = Decoder(model.config)
            self._twin = twin.to(weight.dtype).to_empty(device=weight.device).requires_grad_(False).eval()
        self._twin.load_state_dict(model.state_dict())
        return self._twin

    def _pack(self, rollouts: Rollouts) -> list[Batch]:
        train = self.recipe.train
        batches = pack_episodes(rollouts.episodes(), train.seq_len, train.micro_batch_tokens, self.tokenizer.pad_id)
        batches = self._cut(batches)
        for batch in batches[: self.plan.dp]:  # the first of each data rank: all of them report the same names
            batch.meta["metrics"] = dict(rollouts.metrics)
        return batches

    def _cut(self, batches: Sequence[Batch]) -> list[Batch]:
        return cut_rows(batches, self.recipe.train.micro_batch_tokens, self.tokenizer.pad_id, self.plan)

    def state_dict(self) -> dict[str, Any]:
        """The batch that later steps will use again; nothing when every step samples its own."""
        if self.recipe.updates_per_batch == 1 or self._held is None:
            return {}
        first, batches = self._held
        return {"first": first, "batches": [pack_state(batch) for batch in batches]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""
        if state:
            self._held = state["first"], self._cut([unpack_state(batch) for batch in state["batches"]])

    def position(self, step: int) -> dict[str, int | str]:
        """Where a step reads, and of what: a resumed run checks that its questions are the same."""
        return {"question": step // self.recipe.updates_per_batch * self.recipe.prompts_per_step, "data": self._digest}


def rollout_metrics(rollouts: Rollouts) -> dict[str, tuple[float, float]]:
    """(sum, weight) of what a step's rollouts tell: rewards, groups all right or all wrong, answer lengths."""
    rewards_PG = rollouts.rewards_PG
    n_groups, n_rows = len(rewards_PG), rewards_PG.numel()
    right_PG = rewards_PG >= 1
    lengths = [len(g.ids) for answers in rollouts.generations for g in answers]
    finished = [g.finished for answers in rollouts.generations for g in answers]
    return {
        "reward": (float(rewards_PG.sum()), n_rows),
        "accuracy": (float(right_PG.sum()), n_rows),
        "solved_groups": (float(right_PG.all(1).sum()), n_groups),
        "unsolved_groups": (float((~right_PG).all(1).sum()), n_groups),
        "dropped_groups": (float((rollouts.advantages_PG == 0).all(1).sum()), n_groups),
        "answer_tokens": (float(sum(lengths)), n_rows),
        "finished": (float(sum(finished)), n_rows),
        "rollout_s": (rollouts.seconds, 1.0),
        "rollout_tokens_per_s": (sum(lengths) / rollouts.seconds, 1.0),
    }
