"""How a quickstart model answers when one question follows another: exact match by the place of a question in a talk.

    python bench/talks.py runs/quickstart/rl/model [--turns 5] [--questions 200]

The held-out questions of the quickstart's evaluation, shuffled, are asked in talks of ``--turns``; the model's own
answers stand in between, as in ``athanor chat``. Greedy.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data.arithmetic import questions
from athanor.inference.chat import Conversation
from athanor.inference.sampling import GREEDY
from athanor.inference.session import Speaker
from bench.common import show


def measure(speaker: Speaker, n_questions: int, turns: int, max_new_tokens: int = 72) -> list[float]:
    """Share of right answers by place in the talk [turns]; a last talk that would be shorter is left out."""
    asked = questions(n_questions, 0, "test")
    random.Random(0).shuffle(asked)
    right = [0] * turns
    n_talks = n_questions // turns
    for talk in range(n_talks):
        conversation = Conversation(speaker, GREEDY, max_new_tokens)
        for place, problem in enumerate(asked[talk * turns : (talk + 1) * turns]):
            answer = "".join(conversation.reply(problem.question))
            right[place] += answer.strip().endswith(problem.short())
    return [n / n_talks for n in right]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model directory")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--questions", type=int, default=200)
    given = parser.parse_args()
    if not 1 <= given.turns <= given.questions:
        parser.error("--turns: from 1 to the number of --questions")
    shares = measure(Speaker.open(given.model, device="cpu"), given.questions, given.turns)
    show("right, by place in the talk", [str(place) for place in range(1, given.turns + 1)], [shares])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
