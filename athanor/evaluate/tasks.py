"""What an evaluation task is, and the tasks there are. A benchmark plugs in by a class with ``name`` and ``run``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from athanor.align.sources import Question
from athanor.align.verifiers import Verifier
from athanor.errors import AthanorError
from athanor.inference.engine import Generation, generate
from athanor.inference.sampling import GREEDY, Sampling
from athanor.inference.session import Speaker
from athanor.recipe.schema import Recipe

#: Samples of a task that go into the report.
SHOWN = 24


@dataclass(slots=True)
class TaskResult:
    """``metrics`` by name (shares in 0…1, losses in nats); ``samples`` are rows for a report: asked, said, score."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]] = field(default_factory=list)


class Task(Protocol):
    """A named measurement of a model. ``run`` is a function of the model and the recipe (its ``eval`` and ``seed``)."""

    @property
    def name(self) -> str: ...

    def run(self, speaker: Speaker, recipe: Recipe) -> TaskResult: ...


@dataclass(frozen=True, slots=True)
class QuestionTask:
    """Ask questions as a user's turn, verify the answers: greedy, and sampled too when ``eval.samples`` is above 0.

    ``questions`` makes them from the recipe. Metrics: ``accuracy`` with its parts ``accuracy.<language>`` and
    ``accuracy.<kind>``, ``finished``, ``answer_tokens``; sampled: ``sampled_accuracy`` (mean over all answers) and
    ``any_of_<n>`` (share of questions with a right answer among n).
    """

    name: str
    questions: Callable[[Recipe], Sequence[Question]]
    verify: Verifier

    def run(self, speaker: Speaker, recipe: Recipe) -> TaskResult:
        asked = list(self.questions(recipe))
        if not asked:
            raise AthanorError("no questions", where=f"task {self.name}")
        answers = self._ask(speaker, recipe, asked, GREEDY, 1)
        texts = [speaker.tokenizer.decode(g.ids) for g in answers]
        scores = [self.verify(text, q.answer) for text, q in zip(texts, asked, strict=True)]
        metrics = {
            **_means_by("accuracy", scores, asked),
            "questions": float(len(asked)),
            "finished": sum(g.finished for g in answers) / len(asked),
            "answer_tokens": sum(len(g.ids) for g in answers) / len(asked),
        }
        if recipe.eval.samples:
            metrics |= self._sampled(speaker, recipe, asked)
        rows = [
            {
                "id": q.id,
                "language": q.language,
                "kind": q.kind,
                "question": q.messages[-1]["content"],
                "expected": q.answer,
                "said": text,
                "score": score,
            }
            for q, text, score in zip(asked, texts, scores, strict=True)
        ]
        return TaskResult(metrics, rows[:SHOWN])

    def _sampled(self, speaker: Speaker, recipe: Recipe, asked: list[Question]) -> dict[str, float]:
        n = recipe.eval.samples
        sampling = Sampling(recipe.eval.temperature, seed=recipe.seed)
        said = self._ask(speaker, recipe, asked, sampling, n)
        scores = [self.verify(speaker.tokenizer.decode(g.ids), asked[i // n].answer) for i, g in enumerate(said)]
        best = [max(scores[i : i + n]) for i in range(0, len(scores), n)]
        return {"sampled_accuracy": sum(scores) / len(scores), f"any_of_{n}": sum(b >= 1 for b in best) / len(best)}

    def _ask(
        self, speaker: Speaker, recipe: Recipe, asked: list[Question], sampling: Sampling, times: int
    ) -> list[Generation]:
        prompts = [speaker.tokenizer.render_chat(list(q.messages), add_generation_prompt=True) for q in asked]
        return generate(
            speaker.model,
            [prompt for prompt in prompts for _ in range(times)],
            sampling,
            speaker.stop_ids,
            recipe.eval.max_new_tokens,
            batch_size=recipe.eval.batch_size,
        )


def _means_by(name: str, scores: Sequence[float], asked: Sequence[Question]) -> dict[str, float]:
    """The mean score, and its means by language and by kind."""
    groups: dict[str, list[float]] = {name: list(scores)}
    for part in ("language", "kind"):
        for score, q in zip(scores, asked, strict=True):
            groups.setdefault(f"{name}.{getattr(q, part)}", []).append(score)
    return {key: sum(values) / len(values) for key, values in groups.items()}
