"""Whether a text's final answer equals the expected one: numbers, expressions, lists, sets, words.

Expressions are parsed by a small grammar (nothing of the text is executed) and compared by their values at random
rational points: two polynomials of degree d that differ agree at such a point with probability at most d / |S|
(Schwartz 1980, Zippel 1979). Rational values are exact; roots and π are compared in floating point to 1e-9.
"""

from __future__ import annotations

import ast
import cmath
import math
import random
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from athanor.align.verifiers import final_answer, normalise
from athanor.data.synthesis.types import AnswerKind

_POINTS, _TOLERANCE, _MAX_POWER, _MAX_CHARS = 6, 1e-9, 200, 400

_LATEX: list[tuple[str, str]] = [
    (r"\\(?:left|right|,|;|!|quad|displaystyle)", ""),
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\\(?:cdot|times)", "*"),
    (r"\\div", "/"),
    (r"\\pi", "pi"),
    (r"\\(?:text|mathrm|boxed)\s*\{([^{}]*)\}", r"\1"),
    (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
]
_SIGNS = str.maketrans(
    {
        "×": "*",
        "·": "*",
        "÷": "/",
        "−": "-",
        "–": "-",
        "（": "(",
        "）": ")",
        "，": ",",
        "、": ",",
        "；": ";",
        "²": "2",
        "³": "3",
    }
)
_TOKEN = re.compile(r"\s*(?:(\d+\.\d+|\.\d+|\d+)|(sqrt|sin|cos|tan|log|ln|exp|abs|pi|[a-zA-Z])|(\*\*|[-+*/^(),!]))")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": cmath.sqrt,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "log": cmath.log,
    "ln": cmath.log,
    "exp": cmath.exp,
    "abs": abs,
}


class NotAnExpressionError(ValueError):
    """The text is no expression of the grammar."""


def _plain(text: str) -> str:
    text = text.strip().strip("$").strip()
    for _ in range(3):  # fractions in fractions
        for pattern, new in _LATEX:
            text = re.sub(pattern, new, text)
    text = re.sub(r"[√]\s*(\d+|[a-z]|\([^()]*\))", r"sqrt(\1)", text)
    return re.sub(r"([a-zA-Z0-9)])([²³])", r"\1^\2", text).translate(_SIGNS).replace("π", "pi")


def _python(text: str) -> ast.expr:
    """The tree of an expression, with implicit products made explicit."""
    text = _plain(text)
    if not text or len(text) > _MAX_CHARS:
        raise NotAnExpressionError(text[:40])
    parts: list[str] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            if text[place:].strip():
                raise NotAnExpressionError(text)
            break
        number, name, sign = found.groups()
        place = found.end()
        token = number or name or ("**" if sign == "^" else sign)
        closes = bool(parts) and (parts[-1] == ")" or parts[-1][-1].isalnum()) and parts[-1] not in _FUNCTIONS
        if closes and (number or name or token == "("):
            parts.append("*")
        parts.append(token)
    try:
        return ast.parse("".join(f" {p}" for p in parts).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotAnExpressionError(text) from None


def _value(node: ast.expr, names: Mapping[str, Fraction]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.Name(id="pi"):
            return math.pi
        case ast.Name(id="e") if "e" not in names:
            return math.e
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner, names)
        case ast.Call(func=ast.Name(id=name), args=[inner]) if name in _FUNCTIONS:
            argument = _value(inner, names)
            return abs(argument) if name == "abs" else _FUNCTIONS[name](complex(argument))
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, names), _value(right, names))
    raise NotAnExpressionError(ast.dump(node)[:60])


def _binary(op: ast.operator, a: Any, b: Any) -> Any:
    match op:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.Div():
            return a / b
        case ast.Pow():
            if isinstance(b, Fraction) and b.denominator == 1:
                if abs(b) > _MAX_POWER:
                    raise NotAnExpressionError("power")
                return a ** int(b)
            return complex(a) ** complex(b)
    raise NotAnExpressionError("operator")


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = complex(a), complex(b)
    return abs(a - b) <= _TOLERANCE * max(1.0, abs(a), abs(b))


def same_expression(a: str, b: str) -> bool:
    """Whether two expressions have equal values wherever both were tried; False when one cannot be read."""
    try:
        left, right = _python(a), _python(b)
    except NotAnExpressionError:
        return False
    known = {*_FUNCTIONS, "pi"}
    letters = {n.id for tree in (left, right) for n in ast.walk(tree) if isinstance(n, ast.Name)} - known
    r = random.Random(f"{a}|{b}")
    compared = 0
    for _ in range(3 * _POINTS):
        names = {letter: Fraction(r.randint(-999, 999), r.randint(1, 40)) for letter in sorted(letters)}
        try:
            values = _value(left, names), _value(right, names)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError):
            if not letters:
                return False
            continue
        if not _same_value(*values):
            return False
        compared += 1
        if compared == (_POINTS if letters else 1):
            return True
    return False


def _items(text: str) -> list[str]:
    text = re.sub(r"^[\s({\[（【]+|[\s)}\]）】]+$", "", text) if "(" not in text[1:] else text
    return [
        part
        for part in (re.sub(r"^\s*[a-z]\w*\s*=\s*", "", p).strip() for p in re.split(r"[,，、;；]| and |和", text))
        if part
    ]


def _word(text: str) -> str:
    return normalise(text).casefold().strip(" .。`\"'“”")


def _same_item(a: str, b: str) -> bool:
    return _word(a) == _word(b) or same_expression(a, b)


def _powers(text: str) -> str:
    """Raised digits as powers, before normalisation makes plain digits of them."""
    return text.replace("²", "^2").replace("³", "^3")


def same_answer(said: str, expected: str, kind: AnswerKind) -> bool:
    """Whether a bare answer equals the expected one."""
    said, expected = normalise(_powers(said)), normalise(_powers(expected))
    if kind in ("list", "set"):
        mine, right = _items(said), _items(expected)
        if len(mine) != len(right):
            return False
        if kind == "list":
            return all(_same_item(a, b) for a, b in zip(mine, right, strict=True))
        left = list(right)
        for item in mine:
            match = next((i for i, other in enumerate(left) if _same_item(item, other)), None)
            if match is None:
                return False
            left.pop(match)
        return True
    if kind == "text":
        return _word(said) == _word(expected)
    if same_expression(said, expected):
        return True
    # "x = 7", "7 cm", "= 7": the part behind the last equals sign, without a unit behind it
    bare = re.sub(r"(?<=\d)\s*(?:%|°|[^\W\d_]+.*)$", "", said.rpartition("=")[2].strip())
    return bool(bare) and kind == "number" and same_expression(bare.rstrip(".。 "), expected)


def check(text: str, expected: str, kind: AnswerKind) -> bool:
    """Whether a whole solution announces the expected answer (a text of one line counts as its own answer)."""
    said = final_answer(_powers(text))
    if said is None:
        lines = [line for line in text.strip().splitlines() if line.strip()]
        if len(lines) != 1:
            return False
        said = lines[0]
    for candidate in (said, said.rstrip(".。 "), re.split(r"。|\.\s|;\s", said)[0]):
        if same_answer(candidate, expected, kind):
            return True
    return False
