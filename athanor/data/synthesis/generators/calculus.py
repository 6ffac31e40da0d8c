"""Derivatives, integrals and limits of polynomials and what is made of them."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from athanor.data.synthesis.generators.base import bracket, generator, nonzero, polynomial, show, signed
from athanor.data.synthesis.generators.polynomials import value_at
from athanor.data.synthesis.types import Both, Draft, draft


def derivative_of(p: Sequence[int]) -> list[int]:
    """Coefficients, highest power first."""
    n = len(p) - 1
    return [c * (n - i) for i, c in enumerate(p[:-1])] or [0]


def _poly(r: random.Random, level: int, degree: int | None = None) -> list[int]:
    degree = degree or 2 + level // 2
    return [nonzero(r, 2 + level), *(r.randint(-4 - level, 4 + level) for _ in range(degree))]


@generator
def derivative(r: random.Random, level: int, what: str = "polynomial") -> Draft:
    """Derivative of a polynomial (as expression), at a point, second derivative, chain and product rule."""
    p = _poly(r, level)
    facts: dict[str, object] = {"what": what, "p": p}
    d = derivative_of(p)
    if what == "polynomial":
        question = Both(f"求 f(x) = {polynomial(p)} 的导数。", f"Differentiate f(x) = {polynomial(p)}.")
        return draft(facts, question, polynomial(d), f"f'(x) = {polynomial(d)}", kind="expression")
    facts["x"] = x = nonzero(r, 2 + level // 2)
    if what in ("point", "second"):
        d = derivative_of(d) if what == "second" else d
        mark = "''" if what == "second" else "'"
        question = Both(f"f(x) = {polynomial(p)}，求 f{mark}({x})。", f"f(x) = {polynomial(p)}. Find f{mark}({x}).")
        return draft(
            facts, question, value_at(d, x), f"f{mark}(x) = {polynomial(d)}", f"f{mark}({x}) = {value_at(d, x)}"
        )
    if what == "tangent":
        k, y = value_at(d, x), value_at(p, x)
        b = y - k * x
        question = Both(
            f"求曲线 y = {polynomial(p)} 在 x = {x} 处的切线 y = kx + b，按“k, b”回答。",
            f"Find the tangent y = kx + b of y = {polynomial(p)} at x = {x}. Answer as “k, b”.",
        )
        return draft(
            facts,
            question,
            f"{k}, {b}",
            f"y' = {polynomial(d)}",
            f"k = {k}",
            f"b = {y} - {bracket(k)}×{bracket(x)} = {b}",
            kind="list",
        )
    if what == "chain":
        a, b, n = nonzero(r, 2 + level // 2), nonzero(r, 4), r.randint(2, 3 + level // 2)
        value = n * a * (a * x + b) ** (n - 1)
        text = f"({polynomial([a, b])})^{n}"
        question = Both(f"f(x) = {text}，求 f'({x})。", f"f(x) = {text}. Find f'({x}).")
        return draft(
            {"what": what, "a": a, "b": b, "n": n, "x": x},
            question,
            value,
            f"f'(x) = {n}×{bracket(a)}×({polynomial([a, b])})^{n - 1}",
            f"f'({x}) = {value}",
        )
    if what != "product":
        raise ValueError(what)
    q = _poly(r, level, 1)
    e = derivative_of(q)
    value = value_at(d, x) * value_at(q, x) + value_at(p, x) * value_at(e, x)
    text = f"({polynomial(p)})({polynomial(q)})"
    question = Both(f"f(x) = {text}，求 f'({x})。", f"f(x) = {text}. Find f'({x}).")
    step = f"f'({x}) = {bracket(value_at(d, x))}×{bracket(value_at(q, x))} + {bracket(value_at(p, x))}×{bracket(value_at(e, x))} = {value}"
    return draft(facts | {"q": q}, question, value, step)


@generator
def extremum(r: random.Random, level: int) -> Draft:
    """Local maximum and minimum places of a cubic."""
    p, q = sorted(r.sample(range(-2 - level, 3 + level), 2))
    a = nonzero(r, 1 + level // 2)
    # f' = 6a(x - p)(x - q)
    f = [2 * a, -3 * a * (p + q), 6 * a * p * q, nonzero(r, 5 + level)]
    high, low = (p, q) if a > 0 else (q, p)
    question = Both(
        f"f(x) = {polynomial(f)} 在何处取极大值、极小值？按“极大值点, 极小值点”回答。",
        f"Where has f(x) = {polynomial(f)} its local maximum and minimum? Answer as “maximum at, minimum at”.",
    )
    d = polynomial(derivative_of(f))
    steps = (f"f'(x) = {d} = {6 * a}(x{signed(-p)})(x{signed(-q)})", f"f''({high}) < 0, f''({low}) > 0")
    return draft({"f": f}, question, f"{high}, {low}", *steps, kind="list")


def antiderivative(p: Sequence[int]) -> list[Fraction]:
    """Coefficients with constant 0."""
    n = len(p) - 1
    return [*(Fraction(c, n - i + 1) for i, c in enumerate(p)), Fraction(0)]


def _at(p: Sequence[Fraction], x: int) -> Fraction:
    total = Fraction(0)
    for c in p:
        total = total * x + c
    return total


@generator
def integral(r: random.Random, level: int, what: str = "definite") -> Draft:
    """Antiderivative, definite integral, mean value, area between a parabola and a line."""
    p = _poly(r, level, 1 + level // 2)
    whole = antiderivative(p)
    a = r.randint(-2, 2)
    b = a + r.randint(1, 1 + level)
    facts = {"what": what, "p": p, "a": a, "b": b}
    if what == "antiderivative":
        question = Both(
            f"求 f(x) = {polynomial(p)} 的原函数 F(x)，使 F(0) = 0。",
            f"Find the antiderivative F of f(x) = {polynomial(p)} with F(0) = 0.",
        )
        answer = polynomial(whole)
        return draft({"what": what, "p": p}, question, answer, f"F(x) = {answer}", kind="expression")
    if what == "definite":
        value = _at(whole, b) - _at(whole, a)
        question = Both(f"求 {polynomial(p)} 从 {a} 到 {b} 的定积分。", f"Integrate {polynomial(p)} from {a} to {b}.")
        return draft(facts, question, show(value), f"F(x) = {polynomial(whole)}", f"F({b}) - F({a}) = {show(value)}")
    if what == "mean":
        value = (_at(whole, b) - _at(whole, a)) / (b - a)
        question = Both(
            f"求 f(x) = {polynomial(p)} 在 [{a}, {b}] 上的平均值。",
            f"Find the mean value of f(x) = {polynomial(p)} on [{a}, {b}].",
        )
        return draft(
            facts, question, show(value), f"({show(_at(whole, b))} - {bracket(_at(whole, a))})/{b - a} = {show(value)}"
        )
    if what != "between":
        raise ValueError(what)
    k, m = r.randint(1, 1 + level // 2), nonzero(r, 4)
    # parabola − line = k(x − a)(x − b)
    parabola = [k, -k * (a + b) + m, k * a * b]
    value = Fraction(k * (b - a) ** 3, 6)
    question = Both(
        f"求抛物线 y = {polynomial(parabola)} 与直线 y = {polynomial([m, 0])} 围成的面积。",
        f"Find the area between the parabola y = {polynomial(parabola)} and the line y = {polynomial([m, 0])}.",
    )
    return draft(
        {"what": what, "parabola": parabola, "m": m},
        question,
        show(value),
        f"x = {a}, x = {b}",
        f"{k}×({b - a})^3/6 = {show(value)}",
    )


@generator
def limit(r: random.Random, level: int, what: str = "factor") -> Draft:
    """Limits: a removable gap, and at infinity."""
    if what == "factor":
        a, b, k = nonzero(r, 3 + level), nonzero(r, 3 + 2 * level), nonzero(r, 1 + level)
        top = polynomial([k, -k * (a + b), k * a * b])
        value = k * (a - b)
        question = Both(
            f"求 x → {a} 时 ({top})/(x{signed(-a)}) 的极限。", f"Find the limit of ({top})/(x{signed(-a)}) as x → {a}."
        )
        return draft(
            {"what": what, "a": a, "b": b, "k": k},
            question,
            value,
            f"{k}(x{signed(-a)})(x{signed(-b)})/(x{signed(-a)}) = {k}(x{signed(-b)})",
            f"{k}×({a}{signed(-b)}) = {value}",
        )
    if what != "infinity":
        raise ValueError(what)
    p, q = _poly(r, level, 2 + level // 3), _poly(r, level, 2 + level // 3)
    if r.random() < 0.25:
        p = p[1:]
        while p and p[0] == 0:
            p = p[1:]
        p = p or [1]
    lead = Fraction(p[0], q[0]) if len(p) == len(q) else Fraction(0)
    question = Both(
        f"求 x → ∞ 时 ({polynomial(p)})/({polynomial(q)}) 的极限。",
        f"Find the limit of ({polynomial(p)})/({polynomial(q)}) as x → ∞.",
    )
    step = Both(f"比较最高次项：{show(lead)}", f"Compare the leading terms: {show(lead)}")
    return draft({"what": what, "p": p, "q": q}, question, show(lead), step)
