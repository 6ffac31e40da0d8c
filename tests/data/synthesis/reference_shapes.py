"""Independent answers for geometry, vectors, calculus, measures, stories, logic; see ``reference_math``."""

# ruff: noqa: E501 (one reference a line)

from __future__ import annotations

import itertools
import re
from datetime import date, datetime, timedelta
from fractions import Fraction as F

import sympy as sp

from tests.data.synthesis.reference_math import X, poly, ref


@ref
def area(f):
    a, b, h = f["a"], f["b"], f["h"]
    corners = {
        "rectangle": [(0, 0), (a, 0), (a, b), (0, b)],
        "triangle": [(0, 0), (a, 0), (1, h)],
        "parallelogram": [(0, 0), (a, 0), (a + 3, h), (3, h)],
        "trapezoid": [(0, 0), (b, 0), (1 + a, h), (1, h)],
        "rhombus": [(0, F(b, 2)), (F(a, 2), 0), (a, F(b, 2)), (F(a, 2), b)],
    }[f["shape"]]
    shape = sp.Polygon(*[sp.Point(*map(sp.Rational, map(str, c))) for c in corners])
    return shape.perimeter if f["what"] == "perimeter" else abs(shape.area)


@ref
def circle(f):
    disc, t = sp.Circle((0, 0), f["radius"]), sp.Symbol("t")
    share = sp.Rational(f.get("angle", 360), 360)
    if f["what"] == "ring":
        return (disc.area - sp.Circle((0, 0), f["inner"]).area) / sp.pi
    if f["what"] == "sector":
        return sp.integrate(sp.Rational(f["radius"] ** 2, 2), (t, 0, 2 * sp.pi * share)) / sp.pi
    return (disc.area if f["what"] == "area" else disc.circumference * share) / sp.pi


@ref
def pythagoras(f):
    if f["what"] == "box":
        return sp.Point(0, 0, 0).distance(sp.Point(*f["box"])) ** 2
    a, b, c = f["sides"]
    return sp.sqrt(a * a + b * b) if f["what"] == "hypotenuse" else sp.sqrt(c * c - a * a)


@ref
def angles(f):
    w = f["what"]
    return {
        "triangle": lambda: next(c for c in range(181) if f["a"] + f["b"] + c == 180),
        "isosceles": lambda: sp.solve(2 * X + f["top"] - 180, X)[0],
        "polygon": lambda: f["n"] * 180 - 360,
        "parallel": lambda: 180 - f["a"] if f["inner"] else f["a"],
        "complement": lambda: f["whole"] - f["a"],
    }[w]()


@ref
def similar(f):
    return (
        sp.solve(sp.Rational(f["a"], f["b"]) - f["side"] / X, X)[0]
        if f["what"] == "side"
        else sp.solve(sp.Rational(f["a"], f["b"]) ** 2 - f["area"] / X, X)[0]
    )


@ref
def solid(f):
    a, b, c, t = f["a"], f["b"], f["c"], sp.Symbol("t")
    key = f["shape"], f["what"]
    if f["shape"] == "cuboid":
        return (
            sp.integrate(a * b, (t, 0, c))
            if f["what"] == "volume"
            else sum(2 * p * q for p, q in itertools.combinations((a, b, c), 2))
        )
    radius = {"cylinder": sp.Integer(a), "cone": a * (1 - t / b), "sphere": sp.sqrt(a * a - t * t)}
    if f["what"] == "volume" and f["shape"] in radius:
        return sp.integrate(
            radius[f["shape"]] ** 2, (t, -a if f["shape"] == "sphere" else 0, a if f["shape"] == "sphere" else b)
        )
    s = sp.Symbol("s")
    return {
        ("cube", "volume"): a * a * a,
        ("cube", "surface"): 6 * a * a,
        ("sphere", "surface"): sp.diff(sp.Rational(4, 3) * s**3, s).subs(s, a),
        ("cylinder", "surface"): 2 * a * a + 2 * a * b,
    }[key]


@ref
def special_angle(f):
    return getattr(sp, f["name"])(sp.rad(f["angle"]))


@ref
def trig_ratio(f):
    if f["what"] == "ratio":
        return getattr(sp, f["name"])(sp.atan(sp.Rational(f["a"], f["b"])))
    if f["what"] == "identity":
        s = sp.asin(sp.Rational(f["sin"]))
        return sp.cos(sp.pi - s if f["obtuse"] else s)
    p = sp.Point(f["x"] * sp.cos(sp.rad(f["angle"])), f["x"] * sp.sin(sp.rad(f["angle"])))
    return sp.simplify(p.distance(sp.Point(f["y"], 0)) ** 2)


@ref
def heron(f):
    a, b, c = f["sides"]
    x = sp.Rational(a * a - b * b + c * c, 2 * c)
    return sp.Rational(1, 2) * c * sp.sqrt(a * a - x * x)


@ref
def inscribed(f):
    return (
        sp.Triangle(sp.Point(0, 0), sp.Point(f["sides"][0], 0), sp.Point(0, f["sides"][1])).inradius
        if f["what"] == "inradius"
        else (f["radius"] * sp.sqrt(2)) ** 2
    )


@ref
def slope_grade(f):
    return sp.solve(sp.Rational(f["stick"]) / sp.Rational(f["shadow"]) - X / sp.Rational(f["long"]), X)[0]


@ref
def coordinates(f):
    if f["what"] == "transform":
        z = complex(*f["point"])
        w = {"x": z.conjugate(), "y": -z.conjugate(), "o": -z, "d": complex(z.imag, z.real), "r": z * 1j}[f["name"]]
        return [F(w.real), F(w.imag)]
    if f["what"] == "circle":
        return [*f["centre"], f["radius"]]
    p = f["points"]
    a, b = sp.Point(*p[:2]), sp.Point(*p[2:4])
    if f["what"] == "distance":
        return a.distance(b) ** 2
    return (
        list(a.midpoint(b).args)
        if f["what"] == "midpoint"
        else abs(sp.Matrix([[*p[:2], 1], [*p[2:4], 1], [*p[4:], 1]]).det()) / 2
    )


@ref
def vector(f):
    a, b = sp.Matrix(f["a"]), sp.Matrix(f["b"])
    return {
        "dot": lambda: a.dot(b),
        "combine": lambda: list(f["p"] * a + f["q"] * b),
        "cross": lambda: list(a.cross(b)),
        "perpendicular": lambda: sp.solve((a + X * b).dot(b), X)[0],
    }[f["what"]]()


@ref
def matrix(f):
    a = sp.Matrix(f["a"])
    b = sp.Matrix(f["b"]) if "b" in f else None
    w = f["what"]
    if w in ("determinant", "determinant3"):
        return a.det()
    if w == "eigenvalues":
        return set(a.eigenvals())
    return list(
        {"add": lambda: a + b, "multiply": lambda: a * b, "power": lambda: a ** f["k"], "inverse": lambda: a.inv()}[w]()
    )


@ref
def derivative(f):
    w = f["what"]
    p = (f["a"] * X + f["b"]) ** f["n"] if w == "chain" else poly(f["p"]) * (poly(f["q"]) if w == "product" else 1)
    d = sp.diff(p, X, 2 if w == "second" else 1)
    if w == "polynomial":
        return sp.expand(d)
    k = d.subs(X, f["x"])
    return [k, (p - k * X).subs(X, f["x"])] if w == "tangent" else k


@ref
def extremum(f):
    p = poly(f["f"])
    at = sp.solve(sp.diff(p, X), X)
    return sorted(at, key=lambda x: sp.diff(p, X, 2).subs(X, x))


@ref
def integral(f):
    if f["what"] == "between":
        gap = poly(f["parabola"]) - f["m"] * X
        return abs(sp.integrate(gap, (X, *sorted(sp.solve(gap, X)))))
    p = poly(f["p"])
    if f["what"] == "antiderivative":
        return sp.integrate(p, X)
    return sp.integrate(p, (X, f["a"], f["b"])) / (f["b"] - f["a"] if f["what"] == "mean" else 1)


@ref
def limit(f):
    if f["what"] == "factor":
        return sp.limit(f["k"] * (X - f["a"]) * (X - f["b"]) / (X - f["a"]), X, f["a"])
    return sp.limit(poly(f["p"]) / poly(f["q"]), X, sp.oo)


@ref
def unit(f):
    size = {
        "mm": 1,
        "cm": 10,
        "m": 10**3,
        "km": 10**6,
        "g": 1,
        "kg": 10**3,
        "t": 10**6,
        "seconds": 1,
        "minutes": 60,
        "hours": 3600,
        "days": 86400,
        "cm²": 1,
        "m²": 100**2,
        "ha": 100**4,
        "km²": 10**10,
        "ml": 1,
        "l": 10**3,
        "m³": 10**6,
        "bytes": 1,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    }
    return F(f["n"]) * F(size[f["from"]], size[f["to"]])


@ref
def temperature(f):
    return F(f["c"]) * F(180, 100) + 32 if "c" in f else sp.solve(X * sp.Rational(9, 5) + 32 - f["f"], X)[0]


@ref
def speed_unit(f):
    return F(f["kmh"]) * 1000 / 3600 if "kmh" in f else F(f["ms"]) * 3600 / 1000


@ref
def clock(f):
    if f["what"] == "angle":
        hour, minute = F(f["h"] % 12 * 60 + f["m"], 720), F(f["m"], 60)
        gap = abs(hour - minute)
        return min(gap, 1 - gap) * 360
    start = datetime(2001, 1, 1, *map(int, f["start"].split(":")))
    end = start + timedelta(minutes=f["minutes"])
    if f["what"] == "add":
        return end.strftime("%H:%M")
    return next(m for m in range(1, 1441) if (start + timedelta(minutes=m)).strftime("%H:%M") == end.strftime("%H:%M"))


@ref
def calendar(f):
    import calendar as library

    if f["what"] == "leap":
        return library.leapdays(f["low"], f["high"] + 1)
    end = date.fromisoformat(f["start"]) + timedelta(days=f["n"])
    return {
        "difference": lambda: (end - date.fromisoformat(f["start"])).days,
        "later": lambda: end.isoformat(),
        "weekday": lambda: library.day_name[library.weekday(end.year, end.month, end.day)],
    }[f["what"]]()


@ref
def motion(f):
    w = f["what"]
    if w == "stream":
        b, s = sp.symbols("b s")
        found = sp.solve([b + s - f["down"], b - s - f["up"]], [b, s])
        return [found[b], found[s]]
    return {
        "distance": lambda: F(f["v"]) / F(1, f["t"]),
        "meet": lambda: sp.solve(f["v"] * X + f["w"] * X - f["gap"], X)[0],
        "catch": lambda: sp.solve(f["v"] * X - f["w"] * X - f["gap"], X)[0],
        "average": lambda: 200 / (F(100, f["v"]) + F(100, f["w"])),
    }[w]()


@ref
def work(f):
    return sp.solve(sum(X / d for d in f["days"]) - 1, X)[0]


@ref
def mixture(f):
    return (
        (F(f["a"] * f["p"], 100) + F(f["b"] * f["q"], 100)) / (f["a"] + f["b"]) * 100
        if "low" not in f
        else sp.solve(sp.Rational(f["a"] * f["p"], 100) / (f["a"] + X) - sp.Rational(f["low"], 100), X)[0]
    )


@ref
def ages(f):
    return next(y for y in range(200) if f["parent"] + y == f["k"] * (f["child"] + y))


@ref
def heads_and_legs(f):
    return next([c, f["heads"] - c] for c in range(f["heads"] + 1) if 2 * c + 4 * (f["heads"] - c) == f["legs"])


@ref
def planting(f):
    return len(range(0, f["length"] + (0 if f["closed"] else 1), f["gap"]))


@ref
def shopping(f):
    return f["paid"] - sum((n * F(p) for n, p in f["goods"]), F(0))


@ref
def set_op(f):
    return (
        set(
            map(
                sp.Integer,
                [
                    x
                    for x in range(1, 100)
                    if {
                        "union": x in f["a"] or x in f["b"],
                        "intersection": x in f["a"] and x in f["b"],
                        "difference": x in f["a"] and x not in f["b"],
                        "symmetric": (x in f["a"]) != (x in f["b"]),
                    }[f["op"]]
                ],
            )
        )
        or "∅"
    )


@ref
def venn(f):
    if "n" in f:
        return f["n"] - (f["a"] - f["ab"]) - (f["b"] - f["ab"]) - f["ab"]
    a, b, c, ab, ac, bc, abc = f["sizes"]
    people = [{"a", "b", "c"}] * abc + [{"a", "b"}] * (ab - abc) + [{"a", "c"}] * (ac - abc) + [{"b", "c"}] * (bc - abc)
    for name, size in zip("abc", (a, b, c), strict=True):
        people += [{name}] * (size - sum(name in p for p in people))
    return len(people)


@ref
def proposition(f):
    text = f["formula"]
    if text.count("(") != text.count(")"):
        text = "(" * (text.count(")") - text.count("(")) + text + ")" * (text.count("(") - text.count(")"))
    tree = sp.sympify(_sympy_logic(text), locals={n: sp.Symbol(n) for n in "PQR"})
    if f["what"] == "value":
        return "true" if tree.subs({sp.Symbol(k): v for k, v in f["values"].items()}) == sp.true else "false"
    names = "PQ" if "R" not in f["formula"] and len(f.get("names", "PQ")) == 2 else "PQR"
    return tree, names


def _sympy_logic(text):
    """Parentheses as written; connectives bind by the parentheses alone."""
    text = re.sub(r"¬(\w)", r"Not(\1)", text)
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c == "(") - (c == ")")
        if depth == 0 and c in "∧∨→↔":
            parts += [current.strip(), c]
            current = ""
        else:
            current += c
    parts.append(current.strip())

    def inner(p):
        return _sympy_logic(p[1:-1]) if p.startswith("(") and p.endswith(")") else p

    if len(parts) == 1:
        return inner(parts[0]) if parts[0].startswith("(") else parts[0]
    left, sign, right = parts
    return {"∧": "And", "∨": "Or", "→": "Implies", "↔": "Equivalent"}[sign] + f"({inner(left)}, {inner(right)})"


@ref
def knights(f):
    found = []
    for mask in range(2 ** f["n"]):
        case = [bool(mask >> i & 1) for i in range(f["n"])]
        if all(
            (({"knave": not case[j], "same": case[i] == case[j], "count": case.count(True) == k}[kind]) == case[i])
            for i, (kind, j, k) in enumerate(f["says"])
        ):
            found.append(case)
    assert len(found) == 1
    return {"ABCD"[i] for i in range(f["n"]) if found[0][i]} or "none"


@ref
def sudoku_cell(f):
    grid = f["grid"]
    i, j = next((i, j) for i in range(4) for j in range(4) if grid[i][j] == "?")
    near = [
        grid[a][b]
        for a in range(4)
        for b in range(4)
        if (a == i or b == j or (a // 2, b // 2) == (i // 2, j // 2)) and (a, b) != (i, j)
    ]
    left = [v for v in range(1, 5) if str(v) not in near]
    assert len(left) == 1
    return left[0]
