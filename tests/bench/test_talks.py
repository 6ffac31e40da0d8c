"""Talks are counted by the place of a question; every question is asked once, with the answers before it in mind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from athanor.data.arithmetic import questions
from bench import talks


class Told:
    """Stands for a conversation: knows the answers, but not from the third question of a talk on."""

    asked: list[str]
    answers = {p.question: p.worked() for p in questions(10, 0, "test")}

    def __init__(self, *_: object) -> None:
        self.turns = 0

    def reply(self, text: str) -> Iterator[str]:
        Told.asked.append(text)
        self.turns += 1
        yield from (self.answers[text] if self.turns < 3 else "The answer is -1.")


def test_places_in_a_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    Told.asked = []
    monkeypatch.setattr(talks, "Conversation", Told)
    assert talks.measure(None, 10, 3) == [1.0, 1.0, 0.0]  # type: ignore[arg-type]
    assert len(set(Told.asked)) == 9
