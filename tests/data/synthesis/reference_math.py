"""Independent answers for every mathematical generator: sympy, brute force, the calendar, never the generator's way.

Each takes the draft's facts and gives a number, a text, or a list (a set where order is free).
"""

# ruff: noqa: E501 (one reference a line)

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import sympy as sp

X = sp.Symbol("x")
Facts = dict[str, Any]
REFERENCE: dict[str, Callable[[Facts], Any]] = {}


def ref(function: Callable[[Facts], Any]) -> Callable[[Facts], Any]:
    """Register under the generator's name."""
    REFERENCE[function.__name__] = function
    return function


def expression(text: str) -> Any:
    """sympy's reading of a formula as the questions write it."""
    text = text.replace("^", "**").replace("×", "*").replace("·", "*").replace("√3", "sqrt(3)").replace("√2", "sqrt(2)")
    text = re.sub(r"(\d|\))\s*(?=[a-zA-Z(])", r"\1*", text)
    text = re.sub(r"x\s*\(", "x*(", text)
    text = re.sub(r"x(?=y)", "x*", text)
    return sp.sympify(text, rational=True)


def poly(coefficients: list[int]) -> Any:
    return sum(sp.Integer(c) * X ** (len(coefficients) - 1 - i) for i, c in enumerate(coefficients))


def solutions(equation: str) -> list[Any]:
    left, _, right = equation.partition("=")
    return sp.solve(sp.Eq(expression(left), expression(right)), X)


@ref
def add_subtract(f):
    return f["numbers"][0] + (1 if f["op"] == "add" else -1) * sum(f["numbers"][1:])


@ref
def multiply(f):
    return sum(f["a"] for _ in range(f["b"])) if f["b"] < 10**6 else None


@ref
def divide(f):
    return list(divmod(f["a"], f["b"])) if f.get("remainder") else F(f["a"], f["b"])


@ref
def order_of_operations(f):
    return eval(f["expression"].replace("×", "*"))


@ref
def signed_numbers(f):
    return {
        "add": lambda: f["a"] + f["b"] - f["c"],
        "multiply": lambda: f["a"] * f["c"] + f["b"],
        "distance": lambda: max(f["a"], f["b"]) - min(f["a"], f["b"]),
    }[f["op"]]()


@ref
def decimals(f):
    return (
        sp.Rational(f["a"]) * sp.Rational(f["b"])
        if f["op"] == "multiply"
        else sp.Rational(f["a"]) + (1 if f["op"] == "add" else -1) * sp.Rational(f["b"])
    )


@ref
def rounding(f):
    return min((k for k in range(0, f["n"] + 2 * f["place"], f["place"])), key=lambda k: (abs(k - f["n"]), -k))


@ref
def place_value(f):
    return f["digit"] * 10 ** (len(str(f["n"])) - 1 - str(f["n"]).index(str(f["digit"])))


@ref
def powers(f):
    return math.prod([f["base"]] * f["exponent"])


@ref
def roots(f):
    return sp.real_root(sp.Integer(f["n"]), f["degree"])


@ref
def simplify_radical(f):
    root = sp.sqrt(f["n"])
    return [root.as_coeff_Mul()[0], root.as_coeff_Mul()[1] ** 2]


@ref
def scientific(f):
    value = F(f.get("value") or f["n"])
    k = math.floor(math.log10(float(value)) + 1e-12)
    return k if "n" in f else [value / F(10) ** k, k]


@ref
def compare_fractions(f):
    return max(map(F, f["values"]))


@ref
def number_base(f):
    return f["n"] if f["back"] else {2: bin, 8: oct, 16: hex}[f["base"]](f["n"])[2:].upper()


@ref
def roman(f):
    table = [
        ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"],
        ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"],
        ["", "C", "CC", "CCC", "CD", "D", "DC", "DCC", "DCCC", "CM"],
        ["", "M", "MM", "MMM"],
    ]
    return "".join(table[i][int(d)] for i, d in reversed(list(enumerate(reversed(str(f["n"]))))))


@ref
def square_between(f):
    return max(k for k in range(int(f["n"] ** 0.5) + 3) if k * k <= f["n"])


@ref
def fraction_op(f):
    return {"add": sp.Add, "multiply": sp.Mul, "subtract": lambda a, b: a - b, "divide": lambda a, b: a / b}[f["op"]](
        sp.Rational(f["a"]), sp.Rational(f["b"])
    )


@ref
def simplify_fraction(f):
    return sp.Rational(f["top"], f["bottom"])


@ref
def mixed_number(f):
    return f["whole"] + sp.Rational(f["part"])


@ref
def fraction_of(f):
    return f["n"] * sp.Rational(f["f"])


@ref
def decimal_fraction(f):
    return (
        sp.Rational(f["value"])
        if "value" in f
        else sp.Sum(sp.Rational(int(f["period"]), 1) / 100**X, (X, 1, sp.oo)).doit()
    )


@ref
def percent(f):
    change = 1 + (1 if f.get("up") else -1) * sp.Rational(f["p"], 100)
    return {
        "of": sp.Rational(f["p"], 100) * f["base"],
        "share": f["p"],
        "change": f["base"] * change,
        "reverse": f["base"],
    }[f["what"]]


@ref
def ratio(f):
    if "terms" in f:
        g = max(d for d in range(1, min(f["terms"]) + 1) if all(t % d == 0 for t in f["terms"]))
        return [t // g for t in f["terms"]]
    return sp.Rational(f["total"] * max(f["parts"]), sum(f["parts"]))


@ref
def proportion(f):
    y = sp.Symbol("y")
    return sp.solve(y * f["c"] - f["a"] * f["b"] if f["inverse"] else sp.Rational(f["b"], f["a"]) - y / f["c"], y)[0]


@ref
def map_scale(f):
    return sp.Rational(f["cm"], 100) * f["scale"] / 1000


@ref
def money(f):
    if f["what"] == "profit":
        return (sp.Rational(f["sold"], f["cost"]) - 1) * 100
    rate = sp.Rational(f["p"], 100)
    if f["what"] == "discount":
        return f["price"] - f["price"] * rate
    return f["price"] * rate * f["years"] if f["what"] == "simple" else f["price"] * (1 + rate) ** f["years"]


@ref
def linear_equation(f):
    return solutions(f["equation"])[0]


@ref
def rational_equation(f):
    return sp.solve(f["a"] / (X + f["b"]) - f["c"] / (X + f["d"]), X)[0]


@ref
def radical_equation(f):
    return sp.solve(sp.sqrt(f["a"] * X + f["b"]) - f["c"], X)[0]


@ref
def absolute_equation(f):
    x = sp.Symbol("x", real=True)
    return set(sp.solve(sp.Abs(f["a"] * x + f["b"]) - f["c"], x))


@ref
def linear_system(f):
    return list(sp.Matrix(f["rows"]).LUsolve(sp.Matrix(f["right"])))


@ref
def quadratic(f):
    p = f["a"] * X**2 + f["b"] * X + f["c"]
    roots_ = sp.roots(p, X)
    if f["what"] == "roots":
        return set(roots_)
    if f["what"] == "discriminant":
        return sp.discriminant(p, X)
    if f["what"] == "vieta":
        return sum(r**2 * m for r, m in roots_.items())
    at = sp.solve(sp.diff(p, X), X)[0]
    return [at, p.subs(X, at)]


@ref
def inequality(f):
    if f["what"] == "linear":
        return sum(f["left"] < f["a"] * x + f["b"] <= f["right"] for x in range(-500, 500))
    return sum((x - f["p"]) * (x - f["q"]) < 0 for x in range(-100, 100))


@ref
def substitution(f):
    return expression(f["expression"]).subs({"x": f["x"], "y": f["y"]})


@ref
def logarithm(f):
    b, k = f["base"], f["k"]
    if f["what"] == "value":
        return sp.log(b**k, b)
    if f["what"] == "rules":
        return sp.simplify(
            sp.expand_log(sp.log(b**k * f["rest"]) - sp.log(b ** f["j"] * f["rest"]), force=True) / sp.log(b)
        )
    return sp.solve(f["a"] * X + f["b"] - (b**k if f["what"] == "equation" else k), X)[0]


@ref
def exponent_rules(f):
    x = sp.Symbol("x", positive=True)
    return sp.degree(sp.simplify((x ** f["a"]) ** f["inner"] * x ** f["b"] / x ** f["c"] * x**100), x) - 100


@ref
def function_value(f):
    a, b, c, d, x = (f[k] for k in "abcdx")
    g = sp.Lambda(X, a * X + b)
    return {
        "value": lambda: (a * X**2 + b * X + c).subs(X, x),
        "compose": lambda: g(sp.Lambda(X, c * X + d)(x)),
        "inverse": lambda: sp.solve(g(X) - x, X)[0],
        "piecewise": lambda: sp.Piecewise((a * X + b, c > X), (X**2 + d, True)).subs(X, x),
    }[f["what"]]()


@ref
def line(f):
    if f["what"] == "meet":
        m, n, j, c = f["lines"]
        y = sp.Symbol("y")
        s = sp.solve([m * X + n - y, j * X + c - y], [X, y])
        return [s[X], s[y]]
    x1, y1, x2, y2 = f["points"]
    k, b = sp.symbols("k b")
    s = sp.solve([k * x1 + b - y1, k * x2 + b - y2], [k, b])
    return s[k] if f["what"] == "slope" else [s[k], s[b]]


@ref
def consecutive(f):
    return next(x for x in range(-10, 5000) if sum(range(x, x + f["n"])) == f["total"])


@ref
def polynomial_op(f):
    return sp.expand(
        {"add": lambda p, q: p + q, "subtract": lambda p, q: p - q, "multiply": lambda p, q: p * q}[f["op"]](
            poly(f["p"]), poly(f["q"])
        )
    )


@ref
def factor(f):
    return expression(f["text"])


@ref
def remainder_theorem(f):
    return sp.rem(poly(f["p"]), X - f["a"], X)


@ref
def polynomial_division(f):
    return sp.quo(poly(f["p"]), X - f["a"], X)


@ref
def binomial_theorem(f):
    return sp.Poly((f["a"] * X + f["b"]) ** f["n"], X).coeff_monomial(X ** f["k"])


@ref
def complex_number(f):
    z, w = complex(*f["z"]), complex(*f["w"])
    if f["op"] == "modulus":
        return F(round(abs(z) ** 2))
    v = {"add": lambda: z + w, "multiply": lambda: z * w, "divide": lambda: z / w}[f["op"]]()
    return [F(v.real).limit_denominator(1000), F(v.imag).limit_denominator(1000)]


@ref
def arithmetic_sequence(f):
    terms = list(itertools.accumulate([f["a"]] + [f["d"]] * (f["n"] - 1)))
    return terms[-1] if f["what"] == "term" else sum(terms)


@ref
def geometric_sequence(f):
    if "n" not in f:
        return sp.Sum(f["a"] * sp.Rational(f["q"]) ** X, (X, 0, sp.oo)).doit()
    terms = list(itertools.accumulate([f["a"]] + [f["q"]] * (f["n"] - 1), lambda a, b: a * b))
    return terms[-1] if f["what"] == "term" else sum(terms)


@ref
def recurrence(f):
    def term(n):
        if n <= len(f["first"]):
            return f["first"][n - 1]
        return f["p"] * term(n - 1) + (f["q"] if len(f["first"]) == 1 else f["q"] * term(n - 2))

    return term(f["n"])


@ref
def next_term(f):
    points = [(i, v) for i, v in enumerate(f["shown"], 1)]
    return sp.interpolate(points, X).subs(X, len(points) + 1)


@ref
def sigma(f):
    return sp.summation(f["a"] * X ** f["power"] + f["b"], (X, 1, f["n"]))


@ref
def missing_term(f):
    shown = f["shown"]
    i = shown.index("?")
    a, b = int(shown[i - 1]), int(shown[i + 1])
    return sp.sqrt(a * b) if f["geometric"] else sp.Rational(a + b, 2)
