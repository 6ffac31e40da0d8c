"""The register of programmatic generators, and the small helpers that all of them use."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any

from athanor.data.synthesis.types import Draft
from athanor.errors import AthanorError

#: (random stream, difficulty 1–5, options of the leaf) → a draft, or None when these numbers make no good question.
Generator = Callable[..., Draft | None]

REGISTER: dict[str, Generator] = {}

_MODULES = (
    "arithmetic",
    "fractions",
    "algebra",
    "polynomials",
    "sequences",
    "number_theory",
    "counting",
    "chance",
    "geometry",
    "vectors",
    "calculus",
    "measures",
    "stories",
    "logic",
    "programs",
    "real_code",
)


def generator(function: Generator) -> Generator:
    """Register a generator under its function's name."""
    REGISTER[function.__name__] = function
    return function


@cache
def generators() -> dict[str, Generator]:
    """All generators by name, loaded once."""
    for module in _MODULES:
        import_module(f"athanor.data.synthesis.generators.{module}")
    return dict(REGISTER)


def check_options(name: str, options: dict[str, Any], where: str, *, draw: bool = True) -> None:
    """Refuse a generator that does not exist, options that it does not take, and (by drawing) values that fail."""
    known = generators()
    if name not in known:
        raise AthanorError(f"unknown generator {name!r}", where=where, fix=f"one of {', '.join(sorted(known))}")
    taken = [p for p in inspect.signature(known[name]).parameters if p not in ("r", "level")]
    for option in options:
        if option not in taken:
            fix = f"known: {', '.join(taken) or 'none'}"
            raise AthanorError(f"generator {name} takes no option {option!r}", where=where, fix=fix)
    try:
        for level in (1, 3, 5) if draw else ():
            known[name](random.Random(level), level, **options)
    except (KeyError, ValueError, TypeError) as error:
        fix = f"options of {name}: {inspect.signature(known[name])}"
        raise AthanorError(f"generator {name} cannot work with {options}: {error}", where=where, fix=fix) from None


def span(r: random.Random, level: int, *edges: int) -> int:
    """A whole number from 2 (or 1) up to the edge of the difficulty: ``edges`` for levels 1, 2, …; the last goes on."""
    return r.randint(2 if edges[0] > 2 else 1, edges[min(level, len(edges)) - 1])


def nonzero(r: random.Random, limit: int) -> int:
    """A whole number from −limit to limit, not 0."""
    return r.choice([-1, 1]) * r.randint(1, limit)


def show(value: int | Fraction) -> str:
    """``3``, ``-2``, ``3/4``."""
    value = Fraction(value)
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def signed(value: int | Fraction) -> str:
    """`` + 3`` or `` - 3``, to go on with a sum."""
    return f" - {show(-value)}" if value < 0 else f" + {show(value)}"


def bracket(value: int | Fraction) -> str:
    """A negative number in parentheses, others bare."""
    return f"({show(value)})" if value < 0 else show(value)


def polynomial(coefficients: Sequence[int | Fraction], name: str = "x") -> str:
    """Coefficients, highest power first, as it is written by hand: ``[1, -3, 2]`` → ``x^2 - 3x + 2``."""
    text = ""
    degree = len(coefficients) - 1
    for i, c in enumerate(coefficients):
        power = degree - i
        if c == 0:
            continue
        size = show(abs(Fraction(c)))
        body = size if power == 0 else ("" if size == "1" else f"({size})" if "/" in size else size) + name
        if power > 1:
            body += f"^{power}"
        text += (f" {'-' if c < 0 else '+'} " if text else ("-" if c < 0 else "")) + body
    return text or "0"


def decimal(value: Fraction) -> str:
    """A fraction whose denominator has no primes but 2 and 5, as a finite decimal: 7/4 → ``1.75``."""
    value = Fraction(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
        if places > 40:
            raise ValueError(f"{value} is no finite decimal")
    digits = str(abs(value.numerator * 10**places // value.denominator)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (digits if not places else f"{digits[:-places]}.{digits[-places:]}")


def listing(values: Sequence[object]) -> str:
    """``3, 1, 2``."""
    return ", ".join(map(str, values))
