"""Tasks from program families: predict, write, repair, complete, count, judge the growth. Every answer is run."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

from athanor.data.synthesis import running
from athanor.data.synthesis.generators.base import generator
from athanor.data.synthesis.narration import narrate
from athanor.data.synthesis.programs.base import Instance, Program, instance, programs
from athanor.data.synthesis.types import Both, Draft, both

_EXECUTED = "executed"
#: Growth orders as they are written in an answer, and how a doubling of n multiplies the executed lines (low, high).
ORDERS: dict[str, tuple[str, float, float]] = {
    "log n": ("O(log n)", 1.0, 1.45),
    "n": ("O(n)", 1.75, 2.2),
    "n log n": ("O(n log n)", 2.05, 2.6),
    "n^2": ("O(n^2)", 3.3, 4.4),
    "n^3": ("O(n^3)", 6.0, 8.6),
    "2^n": ("O(2^n)", 5.0, 1e9),
}


def _family(r: random.Random, names: str | Sequence[str]) -> Program:
    known = programs()
    chosen = names if isinstance(names, str) else r.choice(list(names))
    if not chosen:
        chosen = r.choice(sorted(known))
    return known[chosen]


def _args(program: Program, r: random.Random, level: int, shift: int = 0) -> tuple[Any, ...]:
    return program.inputs(r, 3 + 2 * max(1, level + shift))


def code_block(source: str) -> str:
    """A fenced block."""
    return f"```python\n{source}\n```"


def _call(name: str, args: tuple[Any, ...]) -> str:
    return f"{name}({', '.join(map(repr, args))})"


@generator
def predict_output(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """What does this program print? The steps are its variables as they changed when it ran."""
    family = _family(r, program)
    made, args = instance(family.name, r), _args(family, r, level)
    source = made.source
    try:
        result, trace = running.call(running.load(source, family.name), args)
    except running.OverBudgetError:
        return None
    whole = f"{source}\n\nprint({_call(family.name, args)})"
    question = Both(f"下面的程序输出什么？\n{code_block(whole)}", f"What does this program print?\n{code_block(whole)}")
    facts = {"source": source, "call": _call(family.name, args)}
    steps = _walk(source, trace, 6 + 3 * level)
    return Draft(facts, question, both(str(result)), steps, "text", "output", verified_by=_EXECUTED)


def _walk(source: str, trace: running.Trace, most: int) -> tuple[Both, ...]:
    """The first events of a trace in words."""
    lines = source.splitlines()
    steps = []
    for line, name, value in trace.events[:most]:
        code = lines[line - 1].strip()
        steps.append(Both(f"执行 `{code}` 后，{name} = {value}", f"After `{code}`: {name} = {value}"))
    if len(trace.events) > most:
        rest = len(trace.events) - most
        steps.append(Both(f"（其后还有 {rest} 次变化）", f"({rest} more changes follow)"))
    return tuple(steps)


def _examples(made: Instance, r: random.Random, level: int, n: int = 6) -> list[tuple[tuple[Any, ...], Any]]:
    """Different inputs of rising size with what the program returns for them."""
    function = running.load(made.source, made.tree.name)
    out: list[tuple[tuple[Any, ...], Any]] = []
    seen: set[str] = set()
    for i in range(3 * n):
        args = _args(made.program, r, level, (i % 3) - 1)
        if repr(args) not in seen:
            seen.add(repr(args))
            out.append((args, function(*copy.deepcopy(args))))
        if len(out) == n:
            break
    return out


def _assertions(name: str, examples: Sequence[tuple[tuple[Any, ...], Any]]) -> tuple[str, ...]:
    return tuple(f"assert {_call(name, args)} == {value!r}" for args, value in examples)


@generator
def write_function(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """Write a function from its description, signature and two examples; unit tests decide."""
    family = _family(r, program)
    made = instance(family.name, r)
    examples = _examples(made, r, level)
    if len(examples) < 3:
        return None
    shown = "\n".join(f">>> {_call(family.name, args)}\n{value!r}" for args, value in examples[:2])
    head = code_block(f"{made.signature}\n    ...")
    question = Both(
        f"写一个 Python 函数：{made.about.zh}。\n{head}\n例如：\n```\n{shown}\n```",
        f"Write a Python function. {made.about.en}\n{head}\nFor example:\n```\n{shown}\n```",
    )
    steps = [Both(f"函数要做的是：{made.about.zh}。", f"What is asked: {made.about.en}")]
    steps += [Both("逐句来看：", "Statement by statement:"), *narrate(made.tree)]
    if family.order in ORDERS:
        order = ORDERS[family.order][0]
        steps.append(Both(f"下面的写法的时间复杂度为 {order}。", f"The version below takes {order} time."))
    facts = {"about": made.about.en, "signature": made.signature, "examples": repr(examples)}
    tests = _assertions(family.name, examples)
    return Draft(facts, question, both(code_block(made.source)), tuple(steps), "code", "write", tests, "tests executed")


class _Mutation(ast.NodeTransformer):
    """Changes the ``target``-th changeable place of a tree; ``count`` is how many there are."""

    _COMPARE: dict[type, type] = {
        ast.Lt: ast.LtE,
        ast.LtE: ast.Lt,
        ast.Gt: ast.GtE,
        ast.GtE: ast.Gt,
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    }
    _BINARY: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mod}

    def __init__(self, target: int = -1) -> None:
        self.target, self.count = target, 0

    def _hit(self) -> bool:
        self.count += 1
        return self.count - 1 == self.target

    def visit_Compare(self, node: ast.Compare) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        new = self._COMPARE.get(type(node.ops[0]))
        if new is not None and self._hit():
            node.ops[0] = new()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        new = self._BINARY.get(type(node.op))
        if new is not None and self._hit():
            node.op = new()
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        new = self._BINARY.get(type(node.op))
        if new is not None and self._hit():
            node.op = new()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:  # noqa: N802
        if type(node.value) is bool:
            if self._hit():
                node.value = not node.value
        elif type(node.value) is int and self._hit():
            node.value += 1
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        if self._hit():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node


def mutants(tree: ast.FunctionDef, r: random.Random) -> Iterator[ast.FunctionDef]:
    """Copies of a function with one small change each, in random order."""
    counter = _Mutation()
    counter.visit(copy.deepcopy(tree))
    for target in r.sample(range(counter.count), counter.count):
        changed = copy.deepcopy(tree)
        _Mutation(target).visit(changed)
        yield ast.fix_missing_locations(changed)


def _outcome(source: str, name: str, args: tuple[Any, ...]) -> str:
    """What a call comes to: the result's text, the exception's name, or that it does not end."""
    try:
        return repr(running.call(running.load(source, name), args, 2_000)[0])
    except running.OverBudgetError:
        return "…"
    except Exception as error:  # a mutant may do anything: that it fails is the point
        return type(error).__name__


@generator
def fix_bug(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """One place of a working function is changed so that a test fails: find and mend it."""
    family = _family(r, program)
    made = instance(family.name, r)
    examples = _examples(made, r, level)
    if len(examples) < 3:
        return None
    name, right = family.name, made.source
    for tree in mutants(made.tree, r):
        wrong = ast.unparse(tree)
        failing = next(
            ((a, v, got) for a, v in examples if (got := _outcome(wrong, name, a)) not in (repr(v), "…")), None
        )
        if failing is not None and wrong != right:
            break
    else:
        return None
    args, expected, got = failing
    old, new = _difference(wrong, right)
    question = Both(
        f"下面的函数应当：{made.about.zh}。但 `{_call(name, args)}` 应得 `{expected!r}`，实际得到 `{got}`。找出并改正错误。\n{code_block(wrong)}",
        f"This function should do the following. {made.about.en} But `{_call(name, args)}` should give `{expected!r}` and gives `{got}`. Find and fix the bug.\n{code_block(wrong)}",
    )
    steps = (Both(f"错误在 `{old}`，应为 `{new}`。", f"The bug is in `{old}`; it should be `{new}`."),)
    facts = {"wrong": wrong, "right": right, "failing": _call(name, args)}
    return Draft(
        facts, question, both(code_block(right)), steps, "code", "fix", _assertions(name, examples), "tests executed"
    )


def _difference(wrong: str, right: str) -> tuple[str, str]:
    return next((a.strip(), b.strip()) for a, b in zip(wrong.splitlines(), right.splitlines(), strict=False) if a != b)


@generator
def complete_line(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """One line is missing; the tests decide whether a completion is right. The answer is the whole function."""
    family = _family(r, program)
    made = instance(family.name, r)
    lines = made.source.splitlines()
    holes = [i for i, line in enumerate(lines) if i > 0 and _is_simple(line)]
    examples = _examples(made, r, level)
    if not holes or len(examples) < 3:
        return None
    i = r.choice(holes)
    indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
    blank = "\n".join([*lines[:i], indent + "...  # ?", *lines[i + 1 :]])
    if all(_outcome(blank, family.name, a) == repr(v) for a, v in examples):
        return None  # the line does not matter for these inputs: no question
    question = Both(
        f"函数的用途：{made.about.zh}。补上用 `...  # ?` 标出的一行，给出完整函数。\n{code_block(blank)}",
        f"{made.about.en} Replace the line marked `...  # ?` and give the whole function.\n{code_block(blank)}",
    )
    steps = (Both(f"缺的一行是 `{lines[i].strip()}`。", f"The missing line is `{lines[i].strip()}`."),)
    facts = {"blank": blank}
    return Draft(
        facts,
        question,
        both(code_block(made.source)),
        steps,
        "code",
        "complete",
        _assertions(family.name, examples),
        "tests executed",
    )


def _is_simple(line: str) -> bool:
    text = line.strip()
    return (
        not text.endswith(":") and (text.startswith("return ") or "=" in text or "(" in text) and "import " not in text
    )


@generator
def count_steps(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """How often is one line executed? Counted while the program runs."""
    family = _family(r, program)
    made, args = instance(family.name, r), _args(family, r, level)
    source = made.source
    try:
        _, trace = running.call(running.load(source, family.name), args, 2_000)
    except running.OverBudgetError:
        return None
    lines = source.splitlines()
    often = [i for i, k in sorted(trace.counts.items()) if k > 1 and _countable(lines[i - 1], lines)]
    if not often:
        return None
    line = r.choice(often)
    code, n = lines[line - 1].strip(), trace.counts[line]
    question = Both(
        f"调用 `{_call(family.name, args)}` 时，语句 `{code}` 执行多少次？\n{code_block(source)}",
        f"How often is the statement `{code}` executed by `{_call(family.name, args)}`?\n{code_block(source)}",
    )
    facts = {"source": source, "call": _call(family.name, args), "line": line}
    return Draft(
        facts, question, both(n), _walk(source, trace, 4 + 2 * level), "number", "output", verified_by=_EXECUTED
    )


def _countable(line: str, lines: Sequence[str]) -> bool:
    """Whether a trace counts a line as a reader would: no heads of blocks (a ``with`` is passed twice), no inner loops,
    and no second line with the same words."""
    text = line.strip()
    plain = not text.endswith(":") and " for " not in text and "lambda" not in text and not text.startswith("@")
    return bool(text) and plain and lines.count(line) == 1


def growth(family: Program, made: Instance) -> list[tuple[int, int]]:
    """(n, executed lines) at growing sizes, measured."""
    assert family.grow is not None
    sizes = {"2^n": (4, 8, 16), "n^3": (4, 8, 16), "n^2": (16, 32, 64)}.get(family.order or "", (64, 128, 256))
    function = running.load(made.source, family.name)
    return [(n, running.call(function, family.grow(n), 1_000_000)[1].lines) for n in sizes]


@generator
def complexity(r: random.Random, level: int, program: str | Sequence[str] = "") -> Draft | None:
    """The order of growth in the worst case, agreed with the lines executed at doubling sizes."""
    names = [program] if isinstance(program, str) else list(program)
    known = programs()
    names = [n for n in (names if names != [""] else sorted(known)) if known[n].grow is not None]
    if not names:
        return None
    family = known[r.choice(names)]
    made = instance(family.name, r)
    measured = growth(family, made)
    answer, low, high = ORDERS[family.order or ""]
    if not low <= measured[-1][1] / measured[-2][1] <= high:
        return None
    table = ", ".join(f"n={n}: {lines}" for n, lines in measured)
    choices = ", ".join(text for text, _, _ in ORDERS.values())
    question = Both(
        f"设输入规模为 n（算术运算按常数时间计），下面函数最坏情况的时间复杂度是哪一个：{choices}？\n{code_block(made.source)}",
        f"For input of size n (arithmetic in constant time), which is the worst-case time of this function: {choices}?\n{code_block(made.source)}",
    )
    steps = (
        Both(f"实际执行的行数：{table}", f"Lines executed when run: {table}"),
        Both(
            f"n 翻倍时约变为 {measured[-1][1] / measured[-2][1]:.1f} 倍。",
            f"Doubling n multiplies them by about {measured[-1][1] / measured[-2][1]:.1f}.",
        ),
    )
    return Draft({"source": made.source}, question, both(answer), steps, "text", verified_by=_EXECUTED)
