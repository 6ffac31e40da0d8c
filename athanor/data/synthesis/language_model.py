"""Tasks that a language model poses or solves, kept only when they verify.

*pose*: for points without a generator the model writes a problem with its solution as JSON. A problem with code is
kept when its solution passes its tests in the sandbox, an empty solution fails them, and it is not a repetition. Any
other problem is kept when enough independent solutions of the bare question agree with one another (self-consistency,
Wang et al. 2022, arXiv 2203.11171) and with the stated answer.

*solve*: the model solves computed tasks; a solution is kept when its announced answer is the computed one, or its code
passes the tests (rejection sampling, Yuan et al. 2023, arXiv 2308.01825).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from athanor.align.verifiers import final_answer
from athanor.data.synthesis import sandbox
from athanor.data.synthesis.answers import check, same_answer
from athanor.data.synthesis.asking import Model, Reply, Request
from athanor.data.synthesis.engine import Cell, Coverage, synthesise
from athanor.data.synthesis.points import Point, Taxonomy, load_taxonomy
from athanor.data.synthesis.types import AnswerKind, Language, Task, question_key, split_of
from athanor.errors import AthanorError
from athanor.recipe.synthesis import EndpointOptions, SynthesisOptions

_LEVELS = {
    "zh": ("入门", "基础", "中等", "较难", "竞赛或专业水平"),
    "en": ("beginner", "basic", "intermediate", "advanced", "competition or professional"),
}

_POSE = {
    "zh": (
        "你是命题人。请围绕知识点“{point}”（{topic}）出一道全新的题，难度：{level}（{n}/5）。题目要自足、答案唯一。\n"
        "{form}\n只输出一个 JSON 对象，不要别的文字。编号 {k}。"
    ),
    "en": (
        "You set examination questions. Write one new problem on “{point}” ({topic}); difficulty: {level} ({n}/5). "
        "It must be self-contained and have one answer.\n{form}\nOutput one JSON object and nothing else. Number {k}."
    ),
}
_FORMS = {
    ("text", "zh"): "键：question（题目）、solution（逐步解答）、answer（最终答案，尽量简短，最好是数或式子）。",
    ("text", "en"): (
        "Keys: question, solution (step by step), answer (final and short, if possible a number or an expression)."
    ),
    ("code", "zh"): (
        "键：question（要实现的 Python 函数，写明函数名和参数）、solution（完整代码）、"
        "tests（至少 3 条 assert 语句的列表）。"
    ),
    ("code", "en"): (
        "Keys: question (a Python function to write, with its name and parameters), solution (the whole code), "
        "tests (a list of at least 3 assert statements)."
    ),
}
_SOLVE = {
    "zh": "{question}\n\n请逐步推理，最后一行写“答案：”加最终答案。",
    "en": "{question}\n\nReason step by step and end with a line “Answer: …”.",
}
_MIN_TESTS = 3
_MAX_CHARS = 8_000


@dataclass(frozen=True)
class Posed:
    """A problem as the model wrote it; ``tests`` only where it is code."""

    question: str
    solution: str
    answer: str
    tests: tuple[str, ...] = ()


class RejectedError(Exception):
    """Why a reply was not kept."""


def code_of(text: str) -> str:
    """The last fenced block of a text, or the text itself."""
    blocks = re.findall(r"```(?:[a-zA-Z0-9_+-]*)\n(.*?)```", text, re.DOTALL)
    return blocks[-1] if blocks else text


def parse_posed(text: str, code: bool) -> Posed:
    """The JSON object of a reply (it may stand in a fence or between words); ``RejectedError`` with the reason."""
    start, end = text.find("{"), text.rfind("}")
    try:
        value: Any = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError):
        raise RejectedError("no JSON object") from None
    if not isinstance(value, dict):
        raise RejectedError("no JSON object")
    needed = ("question", "solution", "tests") if code else ("question", "solution", "answer")
    for key in needed:
        if not value.get(key):
            raise RejectedError(f"no {key}")
    tests = value.get("tests") if code else []
    if not isinstance(tests, list) or not all(isinstance(t, str) for t in tests):
        raise RejectedError("tests are no list of texts")
    question, solution, answer = (str(value.get(key, "")).strip() for key in ("question", "solution", "answer"))
    if any(len(text) > _MAX_CHARS for text in (question, solution, answer)):
        raise RejectedError("too long")
    return Posed(question, solution, answer, tuple(t.strip() for t in tests))


def in_language(text: str, language: Language) -> bool:
    """Whether a question is written in the language asked: Chinese has Han characters, English next to none."""
    han = sum("\u4e00" <= c <= "\u9fff" for c in text)
    return han >= 4 if language == "zh" else han <= len(text) * 0.02


def verify_code(posed: Posed, limits: sandbox.Limits | None = None) -> None:
    """``RejectedError`` unless the solution passes its tests and the tests ask for something."""
    tests = [t for t in posed.tests if t.startswith("assert ")]
    if len(set(tests)) < _MIN_TESTS:
        raise RejectedError("fewer than 3 assertions")
    program = code_of(posed.solution)
    verdict = sandbox.run(program, tests, limits)
    if not verdict.ok:
        raise RejectedError(f"solution: {verdict.reason}")
    if sandbox.run(_hollow(program), tests, limits).ok:
        raise RejectedError("tests pass without a solution")


def _hollow(program: str) -> str:
    """The program's functions and classes with nothing in them."""
    import ast

    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(tree))


def vote(answers: Sequence[str], expected: str, agreement: float, asked: int) -> str:
    """How the vote went, e.g. ``majority 4/5``; ``RejectedError`` when too few agree or the majority says otherwise."""
    groups: list[list[str]] = []
    for answer in answers:
        for group in groups:
            if same_answer(answer, group[0], "number") or same_answer(answer, group[0], "text"):
                group.append(answer)
                break
        else:
            groups.append([answer])
    best = max(groups, key=len, default=[])
    if not best or len(best) < agreement * asked:
        raise RejectedError("no majority")
    if not (same_answer(expected, best[0], "number") or same_answer(expected, best[0], "text")):
        raise RejectedError("the majority contradicts the stated answer")
    return f"majority {len(best)}/{asked}"


class Poser:
    """Poses and verifies in batches; what was rejected is counted in ``coverage``."""

    def __init__(self, model: Model, options: SynthesisOptions, seed: int, coverage: Coverage) -> None:
        assert options.endpoint is not None
        self.model, self.options, self.seed, self.coverage = model, options, seed, coverage
        self.endpoint: EndpointOptions = options.endpoint
        self.taxonomy: Taxonomy = load_taxonomy(options.taxonomy)
        self.seen: set[str] = set()

    def tasks(self, n: int) -> Iterator[Task]:
        """Up to ``n`` verified tasks over the points that need a model (all selected ones if none does)."""
        cells = self._cells()
        made, k, barren = 0, 0, 0
        size = max(self.endpoint.concurrency, 1) * 2
        while made < n and barren < 8:
            batch = [(cells[i % len(cells)], i) for i in range(k, k + min(size, max(1, n - made)))]
            k += len(batch)
            before = made
            for task in self._batch(batch):
                yield task
                made += 1
                if made == n:
                    return
            barren = 0 if made > before else barren + 1

    def _cells(self) -> list[Cell]:
        low, high = self.options.difficulty
        points = self.taxonomy.select(self.options.subjects, self.options.points)
        wanting = [p for p in points if not p.served] or points
        cells = [Cell(p.id, level) for p in wanting for level in p.levels if low <= level <= high]
        if not cells:
            raise AthanorError(
                "no knowledge point to pose problems on", where="points", fix="other points or difficulty"
            )
        random.Random(f"pose:{self.seed}").shuffle(cells)
        return cells

    def _batch(self, batch: list[tuple[Cell, int]]) -> Iterator[Task]:
        languages = sorted(self.options.languages)
        asked = [
            (self.taxonomy.points[cell.point], cell.level, random.Random(f"{self.seed}:{k}").choice(languages), k)
            for cell, k in batch
        ]
        requests = [self._request(*one) for one in asked]
        posed: list[tuple[Point, int, Language, Posed]] = []
        for (point, level, language, _), reply in zip(asked, self.model.ask(requests), strict=True):
            try:
                problem = self._read(reply, point, language)
                if point.subject == "code":
                    verify_code(problem)
                posed.append((point, level, language, problem))
            except RejectedError as reason:
                self.coverage.rejected[str(reason)] += 1
        plain = [one for one in posed if one[0].subject != "code"]
        votes = self._votes(plain)
        for point, level, language, problem in posed:
            try:
                how = "tests executed" if point.subject == "code" else next(votes)
                yield self._task(point, level, language, problem, how)
            except RejectedError as reason:
                self.coverage.rejected[str(reason)] += 1

    def _request(self, point: Point, level: int, language: Language, k: int) -> Request:
        topic = self.taxonomy.topics[f"{point.subject}.{point.topic}"].of(language)
        form = _FORMS["code" if point.subject == "code" else "text", language]
        words = _LEVELS[language][level - 1]
        prompt = _POSE[language].format(
            point=point.names.of(language), topic=topic, level=words, n=level, form=form, k=k
        )
        return Request.of(prompt, self.seed * 1_000_003 + k, self.endpoint.temperature)

    def _read(self, reply: Reply, point: Point, language: Language) -> Posed:
        if reply.text is None:
            raise RejectedError(reply.error)
        problem = parse_posed(reply.text, point.subject == "code")
        if not in_language(problem.question, language):
            raise RejectedError("wrong language")
        key = question_key(problem.question)
        if key in self.seen:
            raise RejectedError("repeated question")
        self.seen.add(key)
        return problem

    def _votes(self, posed: Sequence[tuple[Point, int, Language, Posed]]) -> Iterator[str]:
        """Each problem's vote in turn; raises in the caller's loop, so it is a list of outcomes, not a generator."""
        n = self.endpoint.samples
        requests = [
            Request.of(
                _SOLVE[language].format(question=p.question), self.seed * 1_000_003 + i, self.endpoint.temperature
            )
            for _, _, language, p in posed
            for i in range(n)
        ]
        replies = list(self.model.ask(requests)) if requests else []
        return _Outcomes(
            [replies[i * n : i * n + n] for i in range(len(posed))], [p.answer for *_, p in posed], self.endpoint
        )

    def _task(self, point: Point, level: int, language: Language, problem: Posed, how: str) -> Task:
        kind: AnswerKind = "code" if problem.tests else "expression"
        solution, r = problem.solution, random.Random(problem.question)
        if kind != "code" and not check(solution, problem.answer, "expression"):
            solution += "\n" + r.choice(self.taxonomy.answers[language]).format(answer=problem.answer)
        key = question_key(problem.question)
        prompt = r.choice(self.taxonomy.templates["write" if kind == "code" else "solve"][language]).format(
            question=problem.question
        )
        answer = code_of(problem.solution) if kind == "code" else problem.answer
        split = split_of(key, self.options.holdout)
        if self.options.split not in ("all", split):
            raise RejectedError("on the other side of the split")
        task = Task(
            key,
            point.id,
            point.subject,
            level,
            language,
            "language model",
            "solve",
            problem.question,
            prompt,
            solution,
            answer,
            kind,
            how,
            problem.tests,
        )
        self.coverage.count(task, split)
        return task


class _Outcomes(Iterator[str]):
    """The votes of a batch; ``next`` raises ``RejectedError`` for a problem that lost its own."""

    def __init__(self, replies: list[list[Reply]], answers: list[str], options: EndpointOptions) -> None:
        self.rows = iter(zip(replies, answers, strict=True))
        self.options = options

    def __next__(self) -> str:
        replies, expected = next(self.rows)
        said = [answer for reply in replies if reply.text and (answer := final_answer(reply.text))]
        return vote(said, expected, self.options.agreement, self.options.samples)


def solved(
    model: Model, options: SynthesisOptions, n: int, seed: int, coverage: Coverage, workers: int = 1
) -> Iterator[Task]:
    """Computed tasks with a model's own solutions, up to ``samples`` tries each, kept when they verify."""
    assert options.endpoint is not None
    endpoint, computed = options.endpoint, Coverage()
    source = synthesise(options, 4 * n, seed, workers=workers, coverage=computed)
    made = 0
    while made < n and (batch := list(islice(source, min(2 * endpoint.concurrency, n - made)))):
        requests = [
            Request.of(
                task.prompt if task.kind == "code" else _SOLVE[task.language].format(question=task.question),
                seed + i,
                endpoint.temperature,
            )
            for task in batch
            for i in range(endpoint.samples)
        ]
        replies = list(model.ask(requests))
        for number, task in enumerate(batch):
            mine = replies[number * endpoint.samples : (number + 1) * endpoint.samples]
            right = next((reply.text for reply in mine if _right(reply, task, coverage)), None)
            if right is not None:
                made += 1
                done = replace(
                    task,
                    solution=right,
                    verified_by=f"model, {task.verified_by}",
                    generator=f"{task.generator} + language model",
                )
                coverage.count(done, split_of(done.key, options.holdout))
                yield done


def _right(reply: Reply, task: Task, coverage: Coverage) -> bool:
    """Whether a reply solves the task; why not is counted."""
    if reply.text is None:
        reason = reply.error
    elif task.kind == "code":
        verdict = sandbox.run(code_of(reply.text), task.tests)
        reason = "" if verdict.ok else f"solution: {verdict.reason}"
    else:
        reason = "" if check(reply.text, task.answer, task.kind) else "wrong answer"
    if reason:
        coverage.rejected[reason] += 1
    return not reason
