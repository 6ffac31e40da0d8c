"""Equations, inequalities, logarithms, functions."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction
from math import isqrt

from athanor.data.synthesis.generators.base import bracket, generator, nonzero, polynomial, show, signed
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def linear_equation(r: random.Random, level: int, what: str = "one_side") -> Draft | None:
    """ax + b = c, ax + b = cx + d, or with a fraction (x/a + b = c)."""
    x = nonzero(r, 5 + 5 * level) if level < 4 else Fraction(nonzero(r, 30), r.randint(2, 7))
    a, b = nonzero(r, 3 + 3 * level), nonzero(r, 10 * level)
    if what == "fraction":
        a = abs(a) + 1
        total = Fraction(x) / a + b
        text = f"x/{a}{signed(b)} = {show(total)}"
        return draft({"equation": text}, _solve(text), show(x), f"x/{a} = {show(total - b)}", f"x = {show(x)}")
    if what == "one_side":
        right = a * x + b
        text = f"{polynomial([a, b])} = {show(right)}"
        return draft(
            {"equation": text}, _solve(text), show(x), f"{polynomial([a, 0])} = {show(right - b)}", f"x = {show(x)}"
        )
    if what != "two_sides":
        raise ValueError(what)
    c = nonzero(r, 3 + 2 * level)
    if a == c:
        return None
    d = (a - c) * x + b
    if Fraction(d).denominator != 1:
        return None
    text = f"{polynomial([a, b])} = {polynomial([c, d])}"
    return draft(
        {"equation": text}, _solve(text), show(x), f"{polynomial([a - c, 0])} = {show(d - b)}", f"x = {show(x)}"
    )


def _solve(text: str) -> Both:
    return Both(f"解方程 {text}。", f"Solve for x: {text}.")


@generator
def rational_equation(r: random.Random, level: int) -> Draft | None:
    """a/(x + b) = c/(x + d)."""
    a, c, b, d = nonzero(r, 4 + level), nonzero(r, 4 + level), nonzero(r, 6), nonzero(r, 6 + level)
    if a == c or b == d:
        return None
    x = Fraction(c * b - a * d, a - c)
    text = f"{a}/(x{signed(b)}) = {c}/(x{signed(d)})"
    steps = (f"{bracket(a)}(x{signed(d)}) = {bracket(c)}(x{signed(b)})", f"{polynomial([a - c, 0])} = {c * b - a * d}")
    return draft({"a": a, "b": b, "c": c, "d": d}, _solve(text), show(x), *steps, f"x = {show(x)}")


@generator
def radical_equation(r: random.Random, level: int) -> Draft:
    """√(ax + b) = c."""
    a, c, b = r.randint(1, 3 + level), r.randint(1, 4 + 2 * level), nonzero(r, 10 * level)
    x = Fraction(c * c - b, a)
    text = f"√({polynomial([a, b])}) = {c}"
    return draft({"a": a, "b": b, "c": c}, _solve(text), show(x), f"{polynomial([a, b])} = {c * c}", f"x = {show(x)}")


@generator
def absolute_equation(r: random.Random, level: int) -> Draft:
    """|ax + b| = c: both solutions."""
    a, b, c = r.randint(1, 1 + level), nonzero(r, 5 * level), r.randint(1, 10 * level)
    low, high = sorted((Fraction(c - b, a), Fraction(-c - b, a)))
    text = f"|{polynomial([a, b])}| = {c}"
    question = Both(f"求方程 {text} 的所有解。", f"Find all solutions of {text}.")
    step = Both(
        f"{polynomial([a, b])} = {c} 或 {polynomial([a, b])} = {-c}",
        f"{polynomial([a, b])} = {c} or {polynomial([a, b])} = {-c}",
    )
    return draft({"a": a, "b": b, "c": c}, question, f"{show(low)}, {show(high)}", step, kind="set")


@generator
def linear_system(r: random.Random, level: int, unknowns: int = 2) -> Draft | None:
    """Two or three linear equations with a whole solution."""
    names = "xyz"[:unknowns]
    values = [nonzero(r, 4 + 2 * level) for _ in names]
    rows = [[nonzero(r, 2 + level) for _ in names] for _ in names]
    if _det(rows) == 0:
        return None
    right = [sum(a * v for a, v in zip(row, values, strict=True)) for row in rows]
    lines = [f"{_form(row, names)} = {c}" for row, c in zip(rows, right, strict=True)]
    joined = "; ".join(lines)
    order = ", ".join(names)
    question = Both(
        f"解方程组：{joined}。按“{order}”的顺序回答。", f"Solve the system: {joined}. Answer in the order “{order}”."
    )
    facts = {"rows": rows, "right": right}
    return draft(facts, question, ", ".join(map(str, values)), *_eliminate(rows, right, names), kind="list")


def _form(row: list[int], names: str) -> str:
    text = ""
    for a, name in zip(row, names, strict=True):
        if a:
            size = "" if abs(a) == 1 else str(abs(a))
            text += (f" {'-' if a < 0 else '+'} " if text else ("-" if a < 0 else "")) + size + name
    return text or "0"


def _eliminate(rows: list[list[int]], right: list[int], names: str) -> list[Both | str]:
    """Worked Gaussian elimination without fractions, then back substitution."""
    system = [[*row, c] for row, c in zip(rows, right, strict=True)]
    steps: list[Both | str] = []
    n = len(names)
    for i in range(n):
        pivot = next(k for k in range(i, n) if system[k][i])
        system[i], system[pivot] = system[pivot], system[i]
        for k in range(i + 1, n):
            f, g = system[i][i], system[k][i]
            system[k] = [f * b - g * a for a, b in zip(system[i], system[k], strict=True)]
            steps.append(
                Both(
                    f"消去 {names[i]}：{_form(system[k][:n], names)} = {system[k][n]}",
                    f"Eliminate {names[i]}: {_form(system[k][:n], names)} = {system[k][n]}",
                )
            )
    found: dict[int, Fraction] = {}
    for i in reversed(range(n)):
        rest = system[i][n] - sum(system[i][k] * found[k] for k in range(i + 1, n))
        found[i] = Fraction(rest) / system[i][i]
        steps.append(f"{names[i]} = {show(found[i])}")
    return steps


def _det(rows: list[list[int]]) -> int:
    if len(rows) == 1:
        return rows[0][0]
    return sum((-1) ** j * rows[0][j] * _det([row[:j] + row[j + 1 :] for row in rows[1:]]) for j in range(len(rows)))


@generator
def quadratic(r: random.Random, level: int, what: str = "roots") -> Draft | None:
    """ax² + bx + c with rational roots: roots, discriminant, sum of the roots' squares, vertex, extremum."""
    a = 1 if level < 3 else nonzero(r, 3)
    p, q = nonzero(r, 3 + 2 * level), nonzero(r, 3 + 2 * level)
    b, c = -a * (p + q), a * p * q
    text, facts = polynomial([a, b, c]), {"what": what, "a": a, "b": b, "c": c}
    if what == "roots":
        question = Both(f"求方程 {text} = 0 的所有不同的实根。", f"Find all distinct real roots of {text} = 0.")
        d = b * b - 4 * a * c
        steps = (f"Δ = {bracket(b)}^2 - 4×{bracket(a)}×{bracket(c)} = {d}", f"x = ({-b} ± {isqrt(d)})/{2 * a}")
        answer = ", ".join(map(str, sorted({p, q})))
        return draft(facts, question, answer, *steps, kind="set")
    if what == "discriminant":
        c += r.randint(-4, 4)
        facts["c"] = c
        d = b * b - 4 * a * c
        text = polynomial([a, b, c])
        question = Both(f"方程 {text} = 0 的判别式是多少？", f"What is the discriminant of {text} = 0?")
        return draft(facts, question, d, f"b^2 - 4ac = {bracket(b)}^2 - 4×{bracket(a)}×{bracket(c)} = {d}")
    if what == "vieta":
        s, t = Fraction(-b, a), Fraction(c, a)
        value = s * s - 2 * t
        question = Both(
            f"设 x1、x2 是方程 {text} = 0 的两根，求 x1^2 + x2^2。",
            f"x1 and x2 are the roots of {text} = 0. Find x1^2 + x2^2.",
        )
        steps = (f"x1 + x2 = {show(s)}, x1·x2 = {show(t)}", f"{bracket(s)}^2 - 2×{bracket(t)} = {show(value)}")
        return draft(facts, question, show(value), *steps)
    if what != "vertex":
        raise ValueError(what)
    x = Fraction(-b, 2 * a)
    y = a * x * x + b * x + c
    question = Both(
        f"求抛物线 y = {text} 的顶点坐标，按“x, y”回答。",
        f"Find the vertex of the parabola y = {text}. Answer as “x, y”.",
    )
    steps = (f"x = -b/(2a) = {show(x)}", f"y = {show(y)}")
    return draft(facts, question, f"{show(x)}, {show(y)}", *steps, kind="list")


@generator
def inequality(r: random.Random, level: int, what: str = "linear") -> Draft | None:
    """How many whole numbers fulfil a linear or quadratic inequality."""
    if what == "linear":
        a, low, high = r.randint(2, 3 + level), r.randint(-9, 9), r.randint(1, 10 * level + 5)
        b = nonzero(r, 9)
        left, right = a * low + b + r.randint(0, a - 1), a * (low + high) + b + r.randint(0, a - 1)
        count = sum(left < a * x + b <= right for x in range(low - 5, low + high + 6))
        text = f"{left} < {polynomial([a, b])} ≤ {right}"
        step = f"{show(Fraction(left - b, a))} < x ≤ {show(Fraction(right - b, a))}"
        facts = {"what": what, "a": a, "b": b, "left": left, "right": right}
    elif what == "quadratic":
        p = r.randint(-8, 6)
        q = p + r.randint(1, 6 + 3 * level)
        text = f"{polynomial([1, -(p + q), p * q])} < 0"
        count = q - p - 1
        step = f"(x{signed(-p)})(x{signed(-q)}) < 0, {p} < x < {q}"
        facts = {"what": what, "p": p, "q": q}
    else:
        raise ValueError(what)
    question = Both(f"满足 {text} 的整数 x 有多少个？", f"How many integers x satisfy {text}?")
    return draft(facts, question, count, step)


@generator
def substitution(r: random.Random, level: int) -> Draft:
    """The value of an expression in two letters."""
    a, b, c = nonzero(r, 2 + level), nonzero(r, 2 + level), nonzero(r, 9)
    x, y = nonzero(r, 4 + level), nonzero(r, 4 + level)
    p = 1 + (level > 2)
    value = a * x**p + b * x * y + c
    term = "x" if p == 1 else "x^2"
    text = f"{'' if a == 1 else '-' if a == -1 else a}{term}{' - ' if b < 0 else ' + '}{'' if abs(b) == 1 else abs(b)}xy{signed(c)}"
    question = Both(f"当 x = {x}，y = {y} 时，求 {text} 的值。", f"Evaluate {text} for x = {x}, y = {y}.")
    step = f"{bracket(a)}×{bracket(x)}{'^2' if p == 2 else ''} + {bracket(b)}×{bracket(x)}×{bracket(y)} + {bracket(c)} = {value}"
    return draft({"expression": text, "x": x, "y": y}, question, value, step)


@generator
def logarithm(r: random.Random, level: int, what: str = "value") -> Draft:
    """log_b(n) of a power; log equations; exponential equations; the product rule."""
    base, k = r.choice([2, 3, 5, 10, 4, 7][: 2 + level]), r.randint(1, 3 + level)
    facts = {"what": what, "base": base, "k": k}
    if what == "value":
        n = base**k
        question = Both(f"求 log_{base}({n})。", f"Find log_{base}({n}).")
        return draft(facts, question, k, f"{base}^{k} = {n}")
    a, b = r.randint(1, 2 + level), nonzero(r, 9)
    facts |= {"a": a, "b": b}
    if what == "equation":
        x = Fraction(base**k - b, a)
        text = f"log_{base}({polynomial([a, b])}) = {k}"
        return draft(facts, _solve(text), show(x), f"{polynomial([a, b])} = {base}^{k} = {base**k}", f"x = {show(x)}")
    if what == "exponential":
        x = Fraction(k - b, a)
        text = f"{base}^({polynomial([a, b])}) = {base**k}"
        return draft(facts, _solve(text), show(x), f"{polynomial([a, b])} = {k}", f"x = {show(x)}")
    if what != "rules":
        raise ValueError(what)
    j = facts["j"] = r.randint(1, 3)
    rest = nonzero(r, 9) ** 2 + 1
    facts["rest"] = rest
    n, m = base**k * rest, base**j * rest
    question = Both(f"求 log_{base}({n}) - log_{base}({m})。", f"Find log_{base}({n}) - log_{base}({m}).")
    return draft(facts, question, k - j, f"log_{base}({n}/{m}) = log_{base}({show(Fraction(n, m))}) = {k - j}")


@generator
def exponent_rules(r: random.Random, level: int) -> Draft:
    """x^a · x^b / x^c: the exponent."""
    a, b, c = (r.randint(2, 4 + 3 * level) for _ in range(3))
    inner = r.randint(2, 1 + level) if level > 1 else 1
    text = f"(x^{a})^{inner} · x^{b} / x^{c}" if inner > 1 else f"x^{a} · x^{b} / x^{c}"
    value = a * inner + b - c
    question = Both(f"把 {text} 写成 x^n，n 是多少？", f"Write {text} as x^n. What is n?")
    return draft({"a": a, "b": b, "c": c, "inner": inner}, question, value, f"{a}×{inner} + {b} - {c} = {value}")


@generator
def function_value(r: random.Random, level: int, what: str = "value") -> Draft | None:
    """f(x), f(g(x)), the inverse of a linear function, a piecewise function."""
    a, b, c, d, x = (nonzero(r, 3 + 2 * level) for _ in range(5))
    facts = {"what": what, "a": a, "b": b, "c": c, "d": d, "x": x}
    f = polynomial([a, b])
    if what == "value":
        coefficients = [a, b, c]
        value = a * x * x + b * x + c
        question = Both(
            f"已知 f(x) = {polynomial(coefficients)}，求 f({x})。", f"f(x) = {polynomial(coefficients)}. Find f({x})."
        )
        return draft(
            facts, question, value, f"{bracket(a)}×{bracket(x)}^2 + {bracket(b)}×{bracket(x)} + {bracket(c)} = {value}"
        )
    if what == "compose":
        inner = c * x + d
        question = Both(
            f"已知 f(x) = {f}，g(x) = {polynomial([c, d])}，求 f(g({x}))。",
            f"f(x) = {f} and g(x) = {polynomial([c, d])}. Find f(g({x})).",
        )
        return draft(facts, question, a * inner + b, f"g({x}) = {inner}", f"f({inner}) = {a * inner + b}")
    if what == "inverse":
        before = Fraction(x - b, a)
        question = Both(f"已知 f(x) = {f}，求反函数的值 f^(-1)({x})。", f"f(x) = {f}. Find f^(-1)({x}).")
        return draft(facts, question, show(before), f"{f} = {x}", f"x = {show(before)}")
    if what != "piecewise":
        raise ValueError(what)
    value = a * x + b if x < c else x * x + d
    question = Both(
        f"当 x < {c} 时 f(x) = {f}；当 x ≥ {c} 时 f(x) = {polynomial([1, 0, d])}。求 f({x})。",
        f"f(x) = {f} for x < {c}, and f(x) = {polynomial([1, 0, d])} for x ≥ {c}. Find f({x}).",
    )
    sign = "<" if x < c else "≥"
    return draft(facts, question, value, f"{x} {sign} {c}", f"f({x}) = {value}")


@generator
def line(r: random.Random, level: int, what: str = "slope") -> Draft | None:
    """Slope and intercept through two points; where two lines meet."""
    x1, y1, y2 = (nonzero(r, 4 + 2 * level) for _ in range(3))
    x2 = x1 + nonzero(r, 3 + level)
    k = Fraction(y2 - y1, x2 - x1)
    b = y1 - k * x1
    facts = {"what": what, "points": [x1, y1, x2, y2]}
    if what == "slope":
        question = Both(
            f"求过点 ({x1}, {y1}) 和 ({x2}, {y2}) 的直线的斜率。",
            f"Find the slope of the line through ({x1}, {y1}) and ({x2}, {y2}).",
        )
        return draft(facts, question, show(k), f"({y2} - {bracket(y1)})/({x2} - {bracket(x1)}) = {show(k)}")
    if what == "equation":
        question = Both(
            f"求过点 ({x1}, {y1}) 和 ({x2}, {y2}) 的直线 y = kx + b，按“k, b”回答。",
            f"Find the line y = kx + b through ({x1}, {y1}) and ({x2}, {y2}). Answer as “k, b”.",
        )
        return draft(facts, question, f"{show(k)}, {show(b)}", f"k = {show(k)}", f"b = {show(b)}", kind="list")
    if what != "meet":
        raise ValueError(what)
    m, n = nonzero(r, 5), nonzero(r, 9)
    j = m + nonzero(r, 1 + level)
    c = n + (m - j) * x1
    facts = {"what": what, "lines": [m, n, j, c]}
    y = m * x1 + n
    question = Both(
        f"求直线 y = {polynomial([m, n])} 与 y = {polynomial([j, c])} 的交点，按“x, y”回答。",
        f"Where do the lines y = {polynomial([m, n])} and y = {polynomial([j, c])} meet? Answer as “x, y”.",
    )
    step = f"{polynomial([m, n])} = {polynomial([j, c])}, x = {x1}"
    return draft(facts, question, f"{x1}, {y}", step, f"y = {y}", kind="list")


@generator
def consecutive(r: random.Random, level: int) -> Draft:
    """Consecutive whole numbers with a given sum: the smallest."""
    n, first = r.randint(3, 3 + 2 * level), r.randint(2, 20 * level)
    total = n * first + n * (n - 1) // 2
    question = Both(
        f"{n} 个连续整数的和是 {total}，最小的一个是多少？",
        f"The sum of {n} consecutive integers is {total}. What is the smallest?",
    )
    return draft({"n": n, "total": total}, question, first, f"{n}x + {n * (n - 1) // 2} = {total}", f"x = {first}")
