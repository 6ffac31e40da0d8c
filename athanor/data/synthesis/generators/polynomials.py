"""Polynomials: sums, products, division, factors, the binomial theorem; complex numbers."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from math import comb

from athanor.data.synthesis.generators.base import bracket, generator, nonzero, polynomial, signed
from athanor.data.synthesis.types import Both, Draft, draft


def value_at(coefficients: Sequence[int], x: int) -> int:
    """Horner's rule, highest power first."""
    total = 0
    for c in coefficients:
        total = total * x + c
    return total


def times(p: Sequence[int], q: Sequence[int]) -> list[int]:
    """Product of two polynomials, highest power first."""
    out = [0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return out


def _random(r: random.Random, degree: int, limit: int) -> list[int]:
    return [nonzero(r, limit), *(r.randint(-limit, limit) for _ in range(degree))]


@generator
def polynomial_op(r: random.Random, level: int, op: str = "add") -> Draft:
    """Sum, difference or product of two polynomials, expanded."""
    degree = 1 + level // 3
    p, q = _random(r, degree + (op != "multiply"), 2 + 2 * level), _random(r, degree, 2 + 2 * level)
    if op == "multiply":
        out = times(p, q)
        text = f"({polynomial(p)})({polynomial(q)})"
        steps = [
            f"{polynomial([c] + [0] * (len(p) - 1 - i))}·({polynomial(q)}) = "
            f"{polynomial(times([c] + [0] * (len(p) - 1 - i), q))}"
            for i, c in enumerate(p)
            if c
        ]
    else:
        sign = {"add": 1, "subtract": -1}[op]
        padded = [0] * (len(p) - len(q)) + q
        out = [a + sign * b for a, b in zip(p, padded, strict=True)]
        text = f"({polynomial(p)}) {'+' if sign > 0 else '-'} ({polynomial(q)})"
        steps = []
    question = Both(f"化简 {text}。", f"Expand and simplify {text}.")
    facts = {"op": op, "p": p, "q": q}
    return draft(facts, question, polynomial(out), *steps, f"= {polynomial(out)}", kind="expression")


@generator
def factor(r: random.Random, level: int, what: str = "trinomial") -> Draft | None:
    """Factorise: a trinomial, a difference of squares, a common factor. Any equivalent *product* is right."""
    if what == "squares":
        a, b = r.randint(1, 2 + level), r.randint(1, 4 + 3 * level)
        text, answer = polynomial([a * a, 0, -b * b]), f"({polynomial([a, b])})({polynomial([a, -b])})"
        step = f"a^2 - b^2 = (a + b)(a - b), a = {polynomial([a, 0])}, b = {b}"
    elif what == "common":
        k, a, b = r.randint(2, 3 + 2 * level), r.choice([1, 3, 5, 7]), r.choice([-8, -4, -2, 2, 4, 8])
        text, answer = polynomial([k * a, k * b, 0]), f"{k}x({polynomial([a, b])})"
        step = f"gcd = {k}x"
    elif what == "trinomial":
        p, q = nonzero(r, 4 + 2 * level), nonzero(r, 4 + 2 * level)
        text, answer = polynomial([1, p + q, p * q]), f"(x{signed(p)})(x{signed(q)})".replace(" ", "")
        step = f"{bracket(p)} + {bracket(q)} = {p + q}, {bracket(p)} × {bracket(q)} = {p * q}"
    else:
        raise ValueError(what)
    question = Both(f"分解因式：{text}。", f"Factorise {text}.")
    return draft({"what": what, "text": text}, question, answer, step, kind="expression")


@generator
def remainder_theorem(r: random.Random, level: int) -> Draft:
    """The remainder of p(x) divided by x − a is p(a)."""
    p, a = _random(r, 2 + level // 2, 5), nonzero(r, 2 + level // 2)
    value = value_at(p, a)
    divisor = f"x{signed(-a)}"
    question = Both(
        f"{polynomial(p)} 除以 {divisor} 的余数是多少？",
        f"What is the remainder of {polynomial(p)} divided by {divisor}?",
    )
    step = Both(f"余数等于 p({a})。", f"The remainder is p({a}).")
    return draft({"p": p, "a": a}, question, value, step, f"p({a}) = {value}")


@generator
def polynomial_division(r: random.Random, level: int) -> Draft:
    """The quotient of an exact division by x − a."""
    q, a = _random(r, 1 + level // 2, 3 + level), nonzero(r, 2 + level)
    p = times(q, [1, -a])
    question = Both(
        f"求 ({polynomial(p)}) ÷ (x{signed(-a)}) 的商。", f"Find the quotient ({polynomial(p)}) ÷ (x{signed(-a)})."
    )
    carry, steps = 0, []
    for c in p[:-1]:
        steps.append(f"{bracket(c)} + {bracket(a)}×{bracket(carry)} = {c + a * carry}")
        carry = c + a * carry
    return draft({"p": p, "a": a}, question, polynomial(q), *steps, kind="expression")


@generator
def binomial_theorem(r: random.Random, level: int) -> Draft:
    """A coefficient of (ax + b)^n."""
    a, b, n = r.randint(1, 1 + level // 2), nonzero(r, 1 + level), r.randint(3, 3 + level)
    k = r.randint(1, n - 1)
    value = comb(n, k) * a**k * b ** (n - k)
    text = f"({polynomial([a, b])})^{n}"
    question = Both(f"求 {text} 展开式中 x^{k} 的系数。", f"Find the coefficient of x^{k} in {text}.")
    step = f"C({n},{k})×{a}^{k}×{bracket(b)}^{n - k} = {comb(n, k)}×{a**k}×{bracket(b ** (n - k))} = {value}"
    return draft({"a": a, "b": b, "n": n, "k": k}, question, value, step)


@generator
def complex_number(r: random.Random, level: int, op: str = "multiply") -> Draft | None:
    """Sum, product, quotient, squared modulus of complex numbers; the answer is ``real, imaginary``."""
    a, b, c, d = (nonzero(r, 2 + 2 * level) for _ in range(4))
    z, w = f"({a}{signed(b)}i)", f"({c}{signed(d)}i)"
    facts = {"op": op, "z": [a, b], "w": [c, d]}
    if op == "modulus":
        question = Both(f"求复数 z = {z} 的模的平方 |z|^2。", f"Find |z|^2 for z = {z}.")
        return draft(facts, question, a * a + b * b, f"{bracket(a)}^2 + {bracket(b)}^2 = {a * a + b * b}")
    if op == "divide":
        x, y = a, b  # the quotient; the dividend is made from it
        a, b = x * c - y * d, x * d + y * c
        z, facts = f"({a}{signed(b)}i)", {"op": op, "z": [a, b], "w": [c, d]}
        n = c * c + d * d
        step = f"{z}({c}{signed(-d)}i)/{n} = {x}{signed(y)}i"
    elif op == "multiply":
        x, y = a * c - b * d, a * d + b * c
        step = f"{bracket(a)}×{bracket(c)} - {bracket(b)}×{bracket(d)} = {x}, {bracket(a)}×{bracket(d)} + {bracket(b)}×{bracket(c)} = {y}"
    else:
        x, y = {"add": (a + c, b + d)}[op]
        step = f"{a} + {bracket(c)} = {x}, {b} + {bracket(d)} = {y}"
    sign = {"add": "+", "multiply": "×", "divide": "÷"}[op]
    question = Both(
        f"计算 {z} {sign} {w}，按“实部, 虚部”回答。", f"Compute {z} {sign} {w}. Answer as “real part, imaginary part”."
    )
    return draft(facts, question, f"{Fraction(x)}, {Fraction(y)}", step, kind="list")
