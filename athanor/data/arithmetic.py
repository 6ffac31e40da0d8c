"""Bilingual arithmetic word problems with worked steps, generated: the verified half of the quickstart's corpus.

A problem is a *calculation* (kind and numbers) told in a language with names and things. Splits are made on the hash of
the calculation, not of the text: a test question's numbers never occur, in either language, in any other split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from athanor.data.types import Document
from athanor.errors import AthanorError

Split = Literal["train", "sft", "rl", "test"]
Language = Literal["en", "zh"]

#: upper edges of each split on the hash of the calculation, in 1/100
_SPLITS: dict[str, tuple[int, int]] = {"train": (0, 60), "sft": (60, 75), "rl": (75, 93), "test": (93, 100)}

_NAMES: dict[str, list[str]] = {
    "en": ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry"],
    "zh": ["小明", "小红", "小华", "小刚", "小丽", "小军", "小芳", "小强"],
}
_THINGS: dict[str, list[str]] = {
    "en": ["apples", "books", "pencils", "stamps", "cards", "shells", "coins", "marbles"],
    "zh": ["苹果", "本子", "铅笔", "邮票", "卡片", "贝壳", "硬币", "弹珠"],
}


@dataclass(frozen=True, slots=True)
class Problem:
    """``steps`` are the worked lines (``6 × 14 = 84``), ``key`` names the calculation, ``kind`` its template family."""

    question: str
    steps: tuple[str, ...]
    answer: int
    language: Language
    kind: str
    key: str

    def worked(self) -> str:
        """The answer with its steps, as a careful person writes it."""
        if self.language == "zh":
            return "。".join(self.steps) + f"。{self.short()}"
        return ". ".join(self.steps) + f". {self.short()}"

    def short(self) -> str:
        """The bare answer."""
        return f"答案是 {self.answer}。" if self.language == "zh" else f"The answer is {self.answer}."


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to draw the numbers, work the steps, and tell the story in both languages."""

    draw: Callable[[random.Random], tuple[int, ...]]
    work: Callable[..., tuple[tuple[str, ...], int]]
    en: tuple[str, ...]
    zh: tuple[str, ...]


def _gather(n: int, each: int, more: int) -> tuple[tuple[str, ...], int]:
    total = n * each
    return (f"{n} × {each} = {total}", f"{total} + {more} = {total + more}"), total + more


def _change(n: int, price: int, left: int) -> tuple[tuple[str, ...], int]:
    total = n * price
    return (f"{n} × {price} = {total}", f"{total + left} - {total} = {left}"), left


def _add_take(a: int, b: int, c: int) -> tuple[tuple[str, ...], int]:
    return (f"{a} + {b} = {a + b}", f"{a + b} - {c} = {a + b - c}"), a + b - c


def _take_add(a: int, b: int, c: int) -> tuple[tuple[str, ...], int]:
    return (f"{a} - {b} = {a - b}", f"{a - b} + {c} = {a - b + c}"), a - b + c


def _share(n: int, each: int, more: int) -> tuple[tuple[str, ...], int]:
    return (f"{n * each} ÷ {n} = {each}", f"{each} + {more} = {each + more}"), each + more


def _draw_two_digits(r: random.Random) -> tuple[int, ...]:
    return r.randint(11, 50), r.randint(2, 9), r.randint(2, 9)


_KINDS: dict[str, _Kind] = {
    "gather": _Kind(
        lambda r: (r.randint(2, 9), r.randint(2, 9), r.randint(2, 9)),
        _gather,
        (
            "{who} has {a} boxes with {b} {things} each and finds {c} more. How many {things} does {who} have now?",
            "There are {a} bags of {b} {things}. {who} adds {c} {things}. How many {things} are there in all?",
        ),
        (
            "{who}有{a}盒{things}，每盒{b}个，又找到{c}个。{who}现在有多少个{things}？",
            "这里有{a}袋{things}，每袋{b}个。{who}又放进{c}个。一共有多少个{things}？",
        ),
    ),
    "change": _Kind(
        lambda r: (r.randint(2, 9), r.randint(2, 9), r.randint(2, 9)),
        _change,
        (
            "{who} has {total} dollars and buys {a} toys for {b} dollars each. How many dollars are left?",
            "{a} tickets cost {b} dollars each. {who} pays with {total} dollars. How much change is due?",
        ),
        (
            "{who}有{total}元，买了{a}个玩具，每个{b}元。还剩多少元？",
            "每张票{b}元，{who}买{a}张，付了{total}元。应找回多少元？",
        ),
    ),
    "add_take": _Kind(
        _draw_two_digits,
        _add_take,
        (
            "{who} had {a} {things}, got {b} more and gave away {c}. How many {things} does {who} have now?",
            "A shop had {a} {things}, received {b} and sold {c}. How many {things} are left?",
        ),
        (
            "{who}原来有{a}个{things}，又得到{b}个，送出{c}个。{who}现在有多少个{things}？",
            "商店有{a}个{things}，进货{b}个，卖出{c}个。还剩多少个{things}？",
        ),
    ),
    "take_add": _Kind(
        _draw_two_digits,
        _take_add,
        (
            "{who} had {a} {things}, lost {b} and then bought {c}. How many {things} does {who} have now?",
            "A train carries {a} people. {b} get off and {c} get on. How many people are on the train?",
        ),
        (
            "{who}原来有{a}个{things}，丢了{b}个，又买了{c}个。{who}现在有多少个{things}？",
            "火车上有{a}人，下车{b}人，上车{c}人。现在车上有多少人？",
        ),
    ),
    "share": _Kind(
        lambda r: (r.randint(2, 9), r.randint(2, 9), r.randint(2, 9)),
        _share,
        (
            "{a} children share {total} {things} equally. {who}, one of them, had {c}. How many does {who} have now?",
            "{who} packs {total} {things} evenly into {a} boxes and adds {c} to one. How many are in that box?",
        ),
        (
            "{total}个{things}平均分给{a}个孩子，其中{who}原来有{c}个。{who}现在有多少个{things}？",
            "{who}把{total}个{things}平均装进{a}个盒子，再往一个盒子里放{c}个。这个盒子里有多少个{things}？",
        ),
    ),
}

KINDS = tuple(_KINDS)


def split_of(key: str) -> Split:
    """The one split a calculation belongs to."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return next(name for name, (low, high) in _SPLITS.items() if low <= bucket < high)  # type: ignore[misc]


def _problem(kind: str, rng: random.Random, language: Language) -> Problem:
    spec = _KINDS[kind]
    numbers = spec.draw(rng)
    steps, answer = spec.work(*numbers)
    a, b, c = numbers
    total = a * b + (c if kind == "change" else 0)
    template = rng.choice(spec.en if language == "en" else spec.zh)
    who, things = rng.choice(_NAMES[language]), rng.choice(_THINGS[language])
    question = template.format(who=who, things=things, a=a, b=b, c=c, total=total)
    return Problem(question, steps, answer, language, kind, f"{kind}:{a},{b},{c}")


def questions(n: int, seed: int, split: Split) -> list[Problem]:
    """``n`` different problems of a split, languages alternating, kinds in equal shares; the same for the same seed.

    Raises AthanorError when the split has no ``n`` different questions.
    """
    if split not in _SPLITS:
        raise AthanorError(f"unknown split {split!r}", where="arithmetic", fix=f"one of {', '.join(_SPLITS)}")
    rng = random.Random(f"arithmetic:{seed}:{split}")
    found: list[Problem] = []
    seen: set[str] = set()
    tries = 0
    while len(found) < n:
        tries += 1
        if tries > 200 * n + 10_000:
            raise AthanorError(
                f"only {len(found)} different questions in split {split!r}, {n} asked",
                where="arithmetic",
                fix="ask for fewer documents",
            )
        language: Language = "zh" if len(found) % 2 else "en"
        problem = _problem(KINDS[len(found) // 2 % len(KINDS)], rng, language)
        if split_of(problem.key) == split and problem.question not in seen:
            seen.add(problem.question)
            found.append(problem)
    return found


_LAYOUTS = {
    "en": ("Question: {q}\nAnswer: {a}", "{q}\n{a}", "Exercise. {q}\nSolution. {a}"),
    "zh": ("问：{q}\n答：{a}", "{q}\n{a}", "题目：{q}\n解：{a}"),
}


def _sum(r: random.Random) -> str:
    """One line of an exercise sheet, with the numbers that the problems' steps have.

    Sums and differences are harder to learn than the times table: four lines of five.
    """
    kind = r.randrange(10)
    a, b, c = r.randint(2, 9), r.randint(2, 9), r.randint(2, 9)
    if kind < 4:  # a product or a number up to 59, and a digit more
        first = a * b if r.random() < 0.4 else r.randint(2, 59)
        return f"{first} + {c} = {first + c}"
    if kind < 6:
        first = r.randint(11, 59)
        return f"{first} - {c} = {first - c}"
    if kind < 8:  # change: what was paid, less what things cost
        return f"{a * b + c} - {a * b} = {c}"
    return f"{a} × {b} = {a * b}" if kind == 8 else f"{a * b} ÷ {a} = {b}"


def documents(n: int, seed: int, split: Split = "train", options: dict[str, Any] | None = None) -> Iterator[Document]:
    """``n`` documents for pre-training: problems with worked steps as plain text, and sheets of single sums.

    Options: ``drill_share`` (default 0), the share of documents that are sheets; ``drill_lines`` (default 10), the sums
    on one. Sheets teach the steps; they hold no problem, so they belong to no split.
    """
    opts = dict(options or {})
    drill_share, drill_lines = float(opts.pop("drill_share", 0.0)), int(opts.pop("drill_lines", 10))
    if opts or not 0 <= drill_share <= 1 or drill_lines < 1:
        fix = "drill_share, a number from 0 to 1; drill_lines, at least 1"
        raise AthanorError(f"bad options {options}", where="arithmetic", fix=fix)
    rng = random.Random(f"layout:{seed}:{split}")
    n_drills = round(n * drill_share)
    problems = iter(questions(n - n_drills, seed, split))
    sheets = {round((i + 0.5) * n / n_drills) for i in range(n_drills)} if n_drills else set()
    for i in range(n):
        name = f"arithmetic-{split}-{seed}-{i}"
        problem = None if i in sheets else next(problems, None)
        if problem is None:
            yield Document(name, "\n".join(_sum(rng) for _ in range(drill_lines)), "mathematics", "und")
            continue
        text = rng.choice(_LAYOUTS[problem.language]).format(q=problem.question, a=problem.worked())
        yield Document(name, text, "mathematics", problem.language)


def conversations(
    n: int, seed: int, split: Split = "sft", options: dict[str, Any] | None = None
) -> Iterator[list[dict[str, str]]]:
    """Conversations that hold ``n`` questions in all.

    Options: ``short_share``, how many answers come without steps (default 0.5): people's answers differ in style; the
    short ones are right but teach no method, and outcome-based RL has to find out which style earns the reward.
    ``max_turns`` (default 1): a conversation has one to that many questions, in any order of kinds and languages, so
    that the model learns to answer the last one.
    """
    opts = dict(options or {})
    short_share, max_turns = float(opts.pop("short_share", 0.5)), int(opts.pop("max_turns", 1))
    if opts or not 0 <= short_share <= 1 or max_turns < 1:
        fix = "short_share, a number from 0 to 1; max_turns, at least 1"
        raise AthanorError(f"bad options {options}", where="arithmetic", fix=fix)
    style, order = random.Random(f"style:{seed}:{split}"), random.Random(f"turns:{seed}:{split}")
    problems = questions(n, seed, split)
    if max_turns > 1:
        order.shuffle(problems)
    talk: list[dict[str, str]] = []
    turns = order.randint(1, max_turns)
    for problem in problems:
        answer = problem.short() if style.random() < short_share else problem.worked()
        talk += [{"role": "user", "content": problem.question}, {"role": "assistant", "content": answer}]
        if len(talk) == 2 * turns:
            yield talk
            talk, turns = [], order.randint(1, max_turns)
    if talk:
        yield talk
