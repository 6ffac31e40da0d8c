"""Coordinates, vectors, matrices."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction

from athanor.data.synthesis.generators.base import bracket, generator, nonzero, show, signed
from athanor.data.synthesis.types import Both, Draft, draft

Matrix = list[list[int]]


@generator
def coordinates(r: random.Random, level: int, what: str = "distance") -> Draft:
    """Distance squared, midpoint, polygon area (shoelace), transformations, the circle equation."""
    n = 4 + 3 * level
    x1, y1, x2, y2 = (nonzero(r, n) for _ in range(4))
    facts: dict[str, object] = {"what": what, "points": [x1, y1, x2, y2]}
    if what == "distance":
        value = (x1 - x2) ** 2 + (y1 - y2) ** 2
        question = Both(
            f"求点 ({x1}, {y1}) 与 ({x2}, {y2}) 的距离的平方。",
            f"Find the squared distance of ({x1}, {y1}) and ({x2}, {y2}).",
        )
        return draft(facts, question, value, f"({x2} - {bracket(x1)})^2 + ({y2} - {bracket(y1)})^2 = {value}")
    if what == "midpoint":
        mx, my = Fraction(x1 + x2, 2), Fraction(y1 + y2, 2)
        question = Both(
            f"求点 ({x1}, {y1}) 与 ({x2}, {y2}) 的中点，按“x, y”回答。",
            f"Find the midpoint of ({x1}, {y1}) and ({x2}, {y2}). Answer as “x, y”.",
        )
        return draft(
            facts,
            question,
            f"{show(mx)}, {show(my)}",
            f"({x1} + {bracket(x2)})/2 = {show(mx)}",
            f"({y1} + {bracket(y2)})/2 = {show(my)}",
            kind="list",
        )
    if what == "triangle":
        x3, y3 = nonzero(r, n), nonzero(r, n)
        twice = x1 * (y2 - y3) + x2 * (y3 - y1) + x3 * (y1 - y2)
        half = abs(Fraction(twice, 2))
        question = Both(
            f"求顶点为 ({x1}, {y1})、({x2}, {y2})、({x3}, {y3}) 的三角形的面积。",
            f"Find the area of the triangle ({x1}, {y1}), ({x2}, {y2}), ({x3}, {y3}).",
        )
        facts["points"] = [x1, y1, x2, y2, x3, y3]
        return draft(facts, question, show(half), f"|{twice}| ÷ 2 = {show(half)}")
    if what == "transform":
        return _transformed(r, level, x1, y1)
    if what != "circle":
        raise ValueError(what)
    radius = r.randint(1, n)
    c = x1 * x1 + y1 * y1 - radius * radius
    text = f"x^2 + y^2{signed(-2 * x1)}x{signed(-2 * y1)}y{signed(c) if c else ''} = 0"
    question = Both(
        f"圆 {text} 的圆心和半径是什么？按“x, y, r”回答。",
        f"Find centre and radius of the circle {text}. Answer as “x, y, r”.",
    )
    step = f"(x{signed(-x1)})^2 + (y{signed(-y1)})^2 = {radius * radius}"
    return draft(
        {"what": what, "centre": [x1, y1], "radius": radius}, question, f"{x1}, {y1}, {radius}", step, kind="list"
    )


def _transformed(r: random.Random, level: int, x1: int, y1: int) -> Draft:
    name = r.choice(["x", "y", "o", "d", "r"][: 3 + level // 2])
    zh, en, (x, y) = {
        "x": ("关于 x 轴的对称点", "reflected in the x-axis", (x1, -y1)),
        "y": ("关于 y 轴的对称点", "reflected in the y-axis", (-x1, y1)),
        "o": ("关于原点的对称点", "reflected in the origin", (-x1, -y1)),
        "d": ("关于直线 y = x 的对称点", "reflected in the line y = x", (y1, x1)),
        "r": ("绕原点逆时针旋转 90° 后的点", "turned by 90° anticlockwise about the origin", (-y1, x1)),
    }[name]
    question = Both(
        f"求点 ({x1}, {y1}) {zh}，按“x, y”回答。", f"Where does ({x1}, {y1}) go when {en}? Answer as “x, y”."
    )
    return draft(
        {"what": "transform", "point": [x1, y1], "name": name},
        question,
        f"{x}, {y}",
        f"({x1}, {y1}) → ({x}, {y})",
        kind="list",
    )


@generator
def vector(r: random.Random, level: int, what: str = "dot") -> Draft:
    """Sum, dot and cross product, the factor that makes vectors perpendicular."""
    n = 2 if level < 3 and what != "cross" else 3
    a, b = ([nonzero(r, 2 + 2 * level) for _ in range(n)] for _ in range(2))
    facts = {"what": what, "a": a, "b": b}
    ta, tb = (f"({', '.join(map(str, v))})" for v in (a, b))
    given = Both(f"已知向量 a = {ta}，b = {tb}，", f"Let a = {ta} and b = {tb}. ")
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    if what == "dot":
        steps = " + ".join(f"{bracket(x)}×{bracket(y)}" for x, y in zip(a, b, strict=True)) + f" = {dot}"
        return draft(facts, Both(given.zh + "求 a·b。", given.en + "Find a·b."), dot, steps)
    if what == "combine":
        p, q = nonzero(r, 4), nonzero(r, 4)
        out = [p * x + q * y for x, y in zip(a, b, strict=True)]
        text = f"{bracket(p)}a + {bracket(q)}b"
        question = Both(f"{given.zh}求 {text}，依次列出分量。", f"{given.en}Find {text}; list the components.")
        return draft(
            facts | {"p": p, "q": q}, question, ", ".join(map(str, out)), f"({', '.join(map(str, out))})", kind="list"
        )
    if what == "cross":
        out = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
        question = Both(given.zh + "求 a×b，依次列出分量。", given.en + "Find a×b; list the components.")
        step = f"({a[1]}×{bracket(b[2])} - {bracket(a[2])}×{bracket(b[1])}, …) = ({', '.join(map(str, out))})"
        return draft(facts, question, ", ".join(map(str, out)), step, kind="list")
    if what != "perpendicular":
        raise ValueError(what)
    square = sum(x * x for x in b)
    value = Fraction(-dot, square)
    question = Both(
        given.zh + "求使 a + tb 与 b 垂直的 t。", given.en + "Find t such that a + tb is perpendicular to b."
    )
    return draft(facts, question, show(value), f"a·b = {dot}, b·b = {square}", f"t = {show(value)}")


def _text(m: Matrix) -> str:
    return "[" + ", ".join("[" + ", ".join(map(str, row)) + "]" for row in m) + "]"


def _flat(m: Matrix) -> str:
    return ", ".join(str(x) for row in m for x in row)


def product(a: Matrix, b: Matrix) -> Matrix:
    """Matrix product."""
    return [[sum(x * y for x, y in zip(row, col, strict=True)) for col in zip(*b, strict=True)] for row in a]


@generator
def matrix(r: random.Random, level: int, what: str = "multiply") -> Draft | None:
    """Sum, product, determinant, inverse, trace, transpose, power, eigenvalues of small matrices."""
    n = 3 if what == "determinant3" else 2
    a: Matrix = [[r.randint(-2 - level, 2 + level) for _ in range(n)] for _ in range(n)]
    b: Matrix = [[r.randint(-2 - level, 2 + level) for _ in range(n)] for _ in range(n)]
    det = a[0][0] * a[1][1] - a[0][1] * a[1][0]
    rows = Both("，按行依次列出各元素。", "; list the entries row by row.")
    facts = {"what": what, "a": a}
    if what in ("add", "multiply"):
        out = (
            product(a, b)
            if what == "multiply"
            else [[x + y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
        )
        sign = "×" if what == "multiply" else "+"
        question = Both(f"计算 {_text(a)} {sign} {_text(b)}{rows.zh}", f"Compute {_text(a)} {sign} {_text(b)}{rows.en}")
        first = (
            f"{bracket(a[0][0])}×{bracket(b[0][0])} + {bracket(a[0][1])}×{bracket(b[1][0])} = {out[0][0]}"
            if what == "multiply"
            else f"{a[0][0]} + {bracket(b[0][0])} = {out[0][0]}"
        )
        return draft(facts | {"b": b}, question, _flat(out), first, _text(out), kind="list")
    if what == "power":
        k = r.randint(2, 2 + level // 2)
        out, steps = a, []
        for i in range(2, k + 1):
            out = product(out, a)
            steps.append(f"A^{i} = {_text(out)}")
        question = Both(f"A = {_text(a)}，求 A^{k}{rows.zh}", f"A = {_text(a)}. Find A^{k}{rows.en}")
        return draft(facts | {"k": k}, question, _flat(out), *steps, kind="list")
    if what == "determinant":
        question = Both(f"求行列式 det {_text(a)}。", f"Find det {_text(a)}.")
        return draft(
            facts,
            question,
            det,
            f"{bracket(a[0][0])}×{bracket(a[1][1])} - {bracket(a[0][1])}×{bracket(a[1][0])} = {det}",
        )
    if what == "determinant3":
        minors = [a[1][(j + 1) % 3] * a[2][(j + 2) % 3] - a[1][(j + 2) % 3] * a[2][(j + 1) % 3] for j in range(3)]
        value = sum(x * m for x, m in zip(a[0], minors, strict=True))
        question = Both(f"求行列式 det {_text(a)}。", f"Find det {_text(a)}.")
        step = " + ".join(f"{bracket(x)}×{bracket(m)}" for x, m in zip(a[0], minors, strict=True)) + f" = {value}"
        return draft(facts, question, value, step)
    if what == "inverse":
        if det == 0:
            return None
        inverse = [[Fraction(a[1][1], det), Fraction(-a[0][1], det)], [Fraction(-a[1][0], det), Fraction(a[0][0], det)]]
        question = Both(f"求矩阵 {_text(a)} 的逆{rows.zh}", f"Find the inverse of {_text(a)}{rows.en}")
        return draft(facts, question, ", ".join(show(x) for row in inverse for x in row), f"det = {det}", kind="list")
    if what != "eigenvalues":
        raise ValueError(what)
    # Whole eigenvalues p, q: a triangular matrix in another basis of determinant 1.
    p, q, s, t = nonzero(r, 2 + level), nonzero(r, 2 + level), r.randint(-2, 2), r.randint(-level, level)
    m = product(product([[1, 0], [s, 1]], [[p, t], [0, q]]), [[1, 0], [-s, 1]])
    trace, d = m[0][0] + m[1][1], m[0][0] * m[1][1] - m[0][1] * m[1][0]
    question = Both(f"求矩阵 {_text(m)} 的所有不同的特征值。", f"Find all distinct eigenvalues of {_text(m)}.")
    answer = ", ".join(map(str, sorted({p, q})))
    return draft({"what": what, "a": m}, question, answer, f"λ^2{signed(-trace)}λ{signed(d)} = 0", kind="set")
