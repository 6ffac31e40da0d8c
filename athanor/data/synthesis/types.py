"""What walks through the synthesis room: a draft (one computed question in two languages) and a task (one told)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, Language] = ("zh", "en")
Form = Literal["documents", "conversations"]
Split = Literal["train", "heldout"]

#: How an answer is compared (``athanor.data.synthesis.answers``).
AnswerKind = Literal["number", "expression", "list", "set", "text", "code"]


class Both(NamedTuple):
    """The same words in Chinese and in English."""

    zh: str
    en: str

    def of(self, language: Language) -> str:
        """The words of one language."""
        return self.zh if language == "zh" else self.en


def both(value: Both | str | int | object) -> Both:
    """A value that reads the same in both languages (a formula, a number, code), or a pair as it is."""
    return value if isinstance(value, Both) else Both(str(value), str(value))


@dataclass(frozen=True, slots=True)
class Draft:
    """One question as a generator computes it.

    ``facts`` are the numbers (or the program) that the answer was computed from, JSON values: what an independent check
    begins with. ``steps`` are the worked lines; ``ask`` names the instruction templates that
    fit; ``tests`` are assertions that a program must hold (kind ``code``); ``verified_by`` says what made the
    answer certain.
    """

    facts: Mapping[str, Any]
    question: Both
    answer: Both
    steps: tuple[Both, ...] = ()
    kind: AnswerKind = "number"
    ask: str = "solve"
    tests: tuple[str, ...] = ()
    verified_by: str = "computed"


def draft(
    facts: Mapping[str, Any],
    question: Both,
    answer: object,
    *steps: Both | str,
    kind: AnswerKind = "number",
    **more: Any,
) -> Draft:
    """A draft from plain values: numbers and formulas stand for both languages."""
    return Draft(facts, question, both(answer), tuple(both(step) for step in steps), kind, **more)


@dataclass(frozen=True, slots=True)
class Task:
    """One question told in one language, with its instruction, worked solution and final answer.

    ``key`` names the question without its language: the split hangs on it. ``solution`` holds the steps and ends with
    the announced answer; ``question`` is the bare question, ``prompt`` the question inside an instruction template.
    """

    key: str
    point: str
    subject: str
    difficulty: int
    language: Language
    generator: str
    ask: str
    question: str
    prompt: str
    solution: str
    answer: str
    kind: AnswerKind
    verified_by: str
    tests: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def question_key(question: str) -> str:
    """32 hex digits that name a question by its English wording without white space: whatever language, template, leaf
    or generator it comes from, an equal question has an equal key."""
    return hashlib.sha256("".join(question.split()).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def split_of(key: str, holdout: float) -> Split:
    """The side a question is on, by its key alone: ``holdout`` is the share of questions held out."""
    bucket = int.from_bytes(hashlib.sha256(f"split:{key}".encode()).digest()[:8], "big")
    return "heldout" if bucket < holdout * 2**64 else "train"
