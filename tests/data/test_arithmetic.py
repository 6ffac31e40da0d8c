"""Generated problems: right by independent evaluation, apart by split, the same for the same seed."""

import re
from fractions import Fraction

import pytest

from athanor.data import arithmetic
from athanor.data.arithmetic import KINDS, Problem, conversations, documents, questions, split_of
from athanor.errors import AthanorError

OPERATORS = {"×": lambda a, b: a * b, "+": lambda a, b: a + b, "-": lambda a, b: a - b, "÷": Fraction}


def recalculated(problem: Problem) -> int:
    """The answer from the question's own numbers, by the story of its kind."""
    a, b, c = (int(x) for x in problem.key.split(":")[1].split(","))
    told = [int(x) for x in re.findall(r"\d+", problem.question)]
    match problem.kind:
        case "gather":
            n, each, more = told
            return n * each + more
        case "change":
            total = max(told)
            rest = list(told)
            rest.remove(total)
            return total - rest[0] * rest[1]
        case "add_take":
            return told[0] + told[1] - told[2]
        case "take_add":
            return told[0] - told[1] + told[2]
        case "share":
            total, n = max(a * b, 0), a
            assert total in told and n in told
            return total // n + c
    raise AssertionError(problem.kind)


@pytest.mark.parametrize("split", ["train", "sft", "rl", "test"])
def test_every_answer_and_every_step_is_right(split: arithmetic.Split) -> None:
    for problem in questions(400, 3, split):
        assert recalculated(problem) == problem.answer
        for step in problem.steps:
            left, right = step.split(" = ")
            a, operator, b = left.split(" ")
            assert OPERATORS[operator](int(a), int(b)) == int(right), step
        assert problem.worked().endswith(problem.short()) and str(problem.answer) in problem.short()


def test_splits_share_no_calculation_and_no_question() -> None:
    """The quickstart's own sizes; in either language a test calculation never occurs elsewhere."""
    sizes: dict[arithmetic.Split, int] = {"train": 40_000, "sft": 6_000, "rl": 4_000, "test": 200}
    made = {split: questions(n, 0, split) for split, n in sizes.items()}
    for split, problems in made.items():
        assert all(split_of(p.key) == split for p in problems)
        for other in made:
            if other != split:
                assert not {p.key for p in problems} & {p.key for p in made[other]}
                assert not {p.question for p in problems} & {p.question for p in made[other]}


def test_half_is_chinese_and_kinds_are_even() -> None:
    made = questions(200, 0, "test")
    assert sum(p.language == "zh" for p in made) == 100
    assert {kind: sum(p.kind == kind for p in made) for kind in KINDS} == dict.fromkeys(KINDS, 40)


def test_the_seed_decides() -> None:
    assert questions(50, 1, "train") == questions(50, 1, "train")
    assert questions(50, 1, "train") != questions(50, 2, "train")
    assert [d.text for d in documents(20, 1)] == [d.text for d in documents(20, 1)]


def test_documents_show_their_work_and_conversations_mix_styles() -> None:
    assert all(" = " in d.text for d in documents(50, 0))
    assert len({d.id for d in documents(50, 0)}) == 50
    answers = [talk[1]["content"] for talk in conversations(400, 0, "sft", {"short_share": 0.25})]
    short = sum(" = " not in answer for answer in answers)
    assert 60 <= short <= 140  # 100 expected, standard deviation 8.7


def test_conversations_of_several_turns_hold_each_question_once() -> None:
    talks = list(conversations(300, 0, "sft", {"max_turns": 3}))
    asked = [message["content"] for talk in talks for message in talk[::2]]
    assert sorted(asked) == sorted(p.question for p in questions(300, 0, "sft"))
    assert {len(talk) for talk in talks} == {2, 4, 6}
    assert all([m["role"] for m in talk] == ["user", "assistant"] * (len(talk) // 2) for talk in talks)
    answer_of = {p.question: p.short() for p in questions(300, 0, "sft")}
    assert all(
        answer["content"].endswith(answer_of[asked["content"]])
        for talk in talks
        for asked, answer in zip(talk[::2], talk[1::2], strict=True)
    )
    mixed = sum(
        asked.isascii() != other.isascii()
        for asked, other in ((t[0]["content"], t[2]["content"]) for t in talks if len(t) > 2)
    )
    assert mixed > 40  # English after Chinese and the other way round, too
    assert [len(talk) for talk in conversations(50, 0)] == [2] * 50


def test_sheets_of_sums_are_right_and_take_their_share() -> None:
    made = list(documents(200, 0, options={"drill_share": 0.4, "drill_lines": 5}))
    sheets = [d for d in made if d.language == "und"]
    assert len(made) == 200 and len({d.id for d in made}) == 200 and len(sheets) == 80
    for line in "\n".join(d.text for d in sheets).split("\n"):
        a, operator, b, _, result = line.split(" ")
        assert OPERATORS[operator](int(a), int(b)) == int(result), line
    assert all(d.text.count("\n") == 4 for d in sheets)


def test_bad_asks_are_named() -> None:
    with pytest.raises(AthanorError, match="unknown split"):
        questions(1, 0, "dev")  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match="different questions"):
        _ask_for_more_than_there_are()
    for bad in ({"drillshare": 1}, {"drill_share": 2}, {"drill_lines": 0}):
        with pytest.raises(AthanorError, match="drill_share"):
            list(documents(1, 0, options=bad))
    for bad in ({"short_share": 2}, {"max_turns": 0}):
        with pytest.raises(AthanorError, match="short_share"):
            list(conversations(1, 0, options=bad))


def _ask_for_more_than_there_are() -> None:
    """A split of one calculation: asking for more questions than exist must end, with the number found."""
    original = arithmetic._KINDS
    try:
        only = original["gather"]
        arithmetic._KINDS = {k: type(only)(lambda r: (2, 11, 12), only.work, only.en, only.zh) for k in original}
        split = split_of("gather:2,11,12")
        questions(1_200, 0, split)
    finally:
        arithmetic._KINDS = original
