"""Where post-training takes its questions and conversations from: jsonl files of a person's own, or the generator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from athanor.data import arithmetic
from athanor.data.conversations import Conversation, read_conversations
from athanor.data.readers import expand, lines
from athanor.errors import AthanorError
from athanor.recipe.schema import SourceRecipe
from athanor.tokenizer.chat import Message, check_messages


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with a known answer. ``id`` names it within its source; ``kind`` and ``language`` group the scores."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    language: str = "und"
    kind: str = "general"


def arithmetic_questions(n: int, seed: int, split: arithmetic.Split) -> list[Question]:
    """Generated word problems of a split, as prompts with answers."""
    return [
        Question(p.key, ({"role": "user", "content": p.question},), str(p.answer), p.language, p.kind)
        for p in arithmetic.questions(n, seed, split)
    ]


def load_questions(
    sources: Mapping[str, SourceRecipe], seed: int, split: arithmetic.Split, where: str
) -> list[Question]:
    """All questions of ``sources``, in order.

    A jsonl row holds ``question`` (text) or ``messages``, and ``answer``; ``language`` and ``kind`` if known. A row
    that does not is named in an AthanorError, as is a source without questions.
    """
    found: list[Question] = []
    for name, source in sources.items():
        if source.kind == "arithmetic":
            found += arithmetic_questions(_documents(source, f"{where}.{name}"), seed, split)
            continue
        rows = [_question(row, place, source) for place, row in _rows(source, f"{where}.{name}")]
        if not rows:
            raise AthanorError("no questions in these files", where=f"{where}.{name}", fix="add rows or take it out")
        found += rows
    if not found:
        raise AthanorError("no source of questions", where=where, fix=f"add one, e.g. {where}.math.kind=arithmetic")
    return found


def load_conversations(source: SourceRecipe, seed: int, where: str) -> Iterator[Conversation]:
    """(place, messages) of every conversation of one source: jsonl rows with ``messages``, or the generator's."""
    if source.kind == "arithmetic":
        n = _documents(source, where)
        for number, messages in enumerate(arithmetic.conversations(n, seed, "sft", source.options), 1):
            yield f"{where}#{number}", list(messages)
    else:
        yield from read_conversations(source.paths)


def _documents(source: SourceRecipe, where: str) -> int:
    if not source.documents:
        raise AthanorError("how many to generate is not given", where=where, fix=f"{where}.documents=2000")
    return source.documents


def _rows(source: SourceRecipe, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every jsonl row; blank lines are no rows. Anything else is named in an AthanorError."""
    files, dropped = expand(source.paths)
    if dropped:
        raise AthanorError(f"{dropped[0].id}: {dropped[0].reason}", where=where, fix="name jsonl files only")
    for file in files:
        for number, line in enumerate(lines(file.path), 1):
            place = f"{file.path}:{number}"
            if line is None or not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise AthanorError(f"not a JSON line: {error}", where=place, fix="one JSON object a line") from None
            if not isinstance(row, dict):
                raise AthanorError(f"{type(row).__name__} instead of an object", where=place, fix='{"messages": […]}')
            yield place, row


def _question(row: dict[str, Any], place: str, source: SourceRecipe) -> Question:
    messages = row.get("messages")
    if messages is None and isinstance(row.get("question"), str):
        messages = [{"role": "user", "content": row["question"]}]
    if messages is None:
        raise AthanorError("row without a question", where=place, fix='give "question": text or "messages": […]')
    check_messages(messages, place)
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise AthanorError("row without an answer", where=place, fix='give "answer": text or number')
    language = str(row.get("language", source.language))
    return Question(place, tuple(messages), str(answer), language, str(row.get("kind", source.domain)))
