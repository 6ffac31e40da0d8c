"""Tasks that a person declares in YAML: variables with ranges, a condition, an answer as an expression.

    tasks:
      - let: {i: 1..9, r: [2, 5, 10]}
        where: i * r < 60
        zh: 电流 {i} A 通过 {r} Ω 的电阻，电压是多少伏？
        en: A current of {i} A flows through {r} Ω. What is the voltage in volts?
        answer: i * r
        steps: ["U = {i} × {r} = {answer}"]

Expressions are arithmetic on exact fractions with comparisons and a few functions; nothing else is evaluated. A range
``a..b`` widens with the difficulty: level n of 5 draws from its first n fifths.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from pydantic import Field

from athanor.data.synthesis.types import Both, Draft, both, draft
from athanor.model.config import Strict

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: Fraction(a) / Fraction(b),
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "gcd": math.gcd,
    "lcm": math.lcm,
    "comb": math.comb,
    "factorial": math.factorial,
    "isqrt": math.isqrt,
}
_MAX_POWER = 64


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The exact value of an arithmetic expression. ``ValueError`` for anything that is not one."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no expression: {error.msg}") from None
    try:
        return _value(tree.body, values)
    except (ZeroDivisionError, OverflowError, TypeError) as error:
        raise ValueError(f"{text!r} cannot be evaluated: {error}") from None


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number if isinstance(number, int) else Fraction(str(number))
        case ast.Name(id=name):
            if name not in values:
                raise ValueError(f"unknown name {name!r}; known: {', '.join(values) or 'none'}")
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, values)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _value(inner, values)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _value(left, values), _value(right, values)
            if not isinstance(power, int) or abs(power) > _MAX_POWER:
                raise ValueError(f"power {power}: a whole number up to {_MAX_POWER}")
            return Fraction(base) ** power if power < 0 else base**power
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.BoolOp(op=op, values=parts):
            results = [bool(_value(part, values)) for part in parts]
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            items = [_value(left, values), *(_value(item, values) for item in rest)]
            return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, items, items[1:], strict=False))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(arg, values) for arg in args))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed; arithmetic, comparisons and {', '.join(_FUNCTIONS)} are")


class OwnTask(Strict):
    """One declared task; ``let`` gives each variable a range ``a..b`` or a list of numbers."""

    let: dict[str, str | list[int | float]]
    where: str = ""
    zh: str = Field(min_length=1)
    en: str = Field(min_length=1)
    answer: str
    steps: list[str | dict[str, str]] = Field(default_factory=list)

    def check(self) -> None:
        """``ValueError`` when no draw of the first thousand gives a task."""
        for name in self.let:
            if not name.isidentifier() or name == "answer":
                raise ValueError(f"variable {name!r} is no plain name")
        for level in (1, 3, 5):
            if all(self.draw(random.Random(f"{level}:{i}"), level) is None for i in range(1_000)):
                raise ValueError(f"no numbers of difficulty {level} fulfil `where: {self.where}`")

    def draw(self, r: random.Random, level: int) -> Draft | None:
        """One draft; None when the numbers do not fulfil ``where``."""
        values = {name: _draw(name, given, r, level) for name, given in self.let.items()}
        if self.where and not evaluate(self.where, values):
            return None
        answer = Fraction(evaluate(self.answer, values))
        shown = {name: str(value) for name, value in values.items()} | {"answer": str(answer)}
        question = Both(
            _fill(self.zh, {k: v for k, v in shown.items() if k != "answer"}),
            _fill(self.en, {k: v for k, v in shown.items() if k != "answer"}),
        )
        steps = [
            Both(_fill(s["zh"], shown), _fill(s["en"], shown)) if isinstance(s, dict) else both(_fill(s, shown))
            for s in self.steps
        ]
        return draft({"task": self.en} | {k: str(v) for k, v in values.items()}, question, str(answer), *steps)


def _fill(text: str, values: Mapping[str, str]) -> str:
    try:
        return text.format(**values)
    except (KeyError, IndexError) as error:
        raise ValueError(f"unknown field {error} in {text!r}; known: {', '.join(values)}") from None


def _draw(name: str, given: str | list[int | float], r: random.Random, level: int) -> int | Fraction:
    if isinstance(given, list):
        if not given:
            raise ValueError(f"{name} has no values")
        value = r.choice(given)
        return value if isinstance(value, int) else Fraction(str(value))
    low, dots, high = given.partition("..")
    try:
        a, b = int(low), int(high)
    except ValueError:
        raise ValueError(f"{name}: {given!r} is no range; write 1..9 or a list") from None
    if not dots or a > b:
        raise ValueError(f"{name}: {given!r} is no range; write 1..9 or a list")
    return r.randint(a, a + (b - a) * level // 5)
