"""What the verifiers accept and refuse, in Chinese and English."""

from __future__ import annotations

from decimal import Decimal

import pytest

from athanor.align.verifiers import VERIFIERS, arithmetic, choice, exact, final_answer, parse_number, verifier
from athanor.data.arithmetic import questions
from athanor.errors import AthanorError


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 1234.",
        "6 × 200 = 1200. 1200 + 34 = 1234. The answer is 1,234.",
        "1200 + 34 = 1234。答案是 1234。",
        "答案：１２３４",
        "答案是：１，２３４ 个苹果。",
        "答：一共 1234 元",
        "最终答案为1234",
        "Answer: 1 234 apples",
        "Answer: 1200 + 34 = 1234",
        "answer = $1,234.00",
        "Answer: 5\nNo, wait.\nAnswer: 1234",
        "Answer: 1200 + 30 = 1230. The answer is 1234. It was 99 before.",
        "#### 1234",
        r"so \boxed{1234} it is, not 7",
        "**Answer:** is unclear\nThe final answer is: 1234",
    ],
)
def test_arithmetic_accepts(text: str) -> None:
    assert arithmetic(text, "1234") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234",
        "We answer questions: see 1234? No: 1235",
        "The answer is 1235.",
        "The answer is -1234.",
        "The answer is 1234.5",
        "The answer is 12345.",
        "Answer: 1234\nAnswer: 7",
        "The answer is",
        "答案是",
        "回答问题 1234",
    ],
)
def test_arithmetic_refuses(text: str) -> None:
    assert arithmetic(text, "1234") == 0.0


def test_numbers() -> None:
    cases = {"−７": -7, "3/4": Decimal("0.75"), ".5": Decimal("0.5"), "1,234,567": 1234567, "12,34": 12, "+8": 8}
    for text, value in cases.items():
        assert parse_number(text) == value, text
    assert parse_number("none") is None
    assert parse_number("1/0") is None
    assert arithmetic("答案是 0.75", "3/4") == 1.0


@pytest.mark.parametrize("split", ["sft", "test"])
def test_worked_and_short_answers_of_the_generator_are_right(split: str) -> None:
    problems = questions(40, 0, split)  # type: ignore[arg-type]
    for problem, other in zip(problems, problems[1:], strict=False):
        for text in (problem.worked(), problem.short()):
            assert arithmetic(text, str(problem.answer)) == 1.0, text
            assert arithmetic(text, str(problem.answer + 1)) == 0.0
        if other.answer != problem.answer:
            assert arithmetic(other.worked(), str(problem.answer)) == 0.0


def test_exact_and_choice() -> None:
    assert exact("The answer is Paris.", "paris") == 1.0
    assert exact(" Ｐａｒｉｓ ", "Paris") == 1.0
    assert exact("答案：北京。", "北京") == 1.0
    assert exact("The answer is Rome", "Paris") == 0.0
    assert choice("The answer is (B).", "B") == 1.0
    assert choice("答案：Ｂ", "b") == 1.0
    assert choice("B", "B") == 1.0
    assert choice("A or B", "B") == 0.0
    assert choice("Because it is blue. Answer: C", "B") == 0.0


def test_final_answer_is_the_last_announced() -> None:
    assert final_answer("nothing here") is None
    assert final_answer("Answer: 3\n答案是 4 个") == "4 个"


def test_bad_expectations_and_names_are_named() -> None:
    with pytest.raises(AthanorError, match="no number"):
        arithmetic("Answer: 3", "three")
    with pytest.raises(AthanorError, match="no letter"):
        choice("A", "7")
    with pytest.raises(AthanorError, match="arithmetic, exact, choice"):
        verifier("latex")
    assert verifier("exact") is VERIFIERS["exact"]
