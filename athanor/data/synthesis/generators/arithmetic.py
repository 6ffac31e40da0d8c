"""Whole numbers, decimals, powers, bases."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction
from math import isqrt

from athanor.data.synthesis.generators.base import bracket, decimal, generator, listing, nonzero, span
from athanor.data.synthesis.types import Both, Draft, draft


def _size(level: int) -> int:
    return int(10 ** min(level + 1, 7)) - 1


@generator
def add_subtract(r: random.Random, level: int, op: str = "add") -> Draft:
    """Two (three from level 3) whole numbers, added or subtracted."""
    sign = {"add": 1, "subtract": -1}[op]
    numbers = [r.randint(2, _size(level)) for _ in range(3 if level >= 3 else 2)]
    numbers.sort(reverse=True)
    if sign > 0:
        r.shuffle(numbers)
    total, steps, symbol = numbers[0], [], "+" if sign > 0 else "-"
    for n in numbers[1:]:
        steps.append(f"{total} {symbol} {n} = {total + sign * n}")
        total += sign * n
    text = f" {symbol} ".join(map(str, numbers))
    return draft({"op": op, "numbers": numbers}, Both(f"计算 {text}。", f"Compute {text}."), total, *steps)


@generator
def multiply(r: random.Random, level: int) -> Draft:
    """A product, worked by the places of the second factor."""
    a, b = span(r, level, 12, 99, 999, 9_999, 99_999), span(r, level, 12, 99, 99, 999, 9_999)
    digits = [(int(d), 10**i) for i, d in enumerate(reversed(str(b))) if d != "0"]
    parts = [f"{a} × {d * p} = {a * d * p}" for d, p in digits] if len(digits) > 1 else []
    end = (" + ".join(str(a * d * p) for d, p in digits) + " = " if parts else f"{a} × {b} = ") + str(a * b)
    return draft({"a": a, "b": b}, Both(f"计算 {a} × {b}。", f"Compute {a} × {b}."), a * b, *parts, end)


@generator
def divide(r: random.Random, level: int, remainder: bool = False) -> Draft:
    """Exact division, or division with remainder (the answer is ``quotient, remainder``)."""
    b, q = span(r, level, 9, 12, 99, 99, 999), span(r, level, 12, 99, 99, 999, 9_999)
    b = max(b, 2)
    rest = r.randrange(b) if remainder else 0
    a = b * q + rest
    if not remainder:
        question = Both(f"计算 {a} ÷ {b}。", f"Compute {a} ÷ {b}.")
        return draft({"a": a, "b": b}, question, q, f"{b} × {q} = {a}", f"{a} ÷ {b} = {q}")
    question = Both(
        f"{a} 除以 {b}，商和余数各是多少？按“商, 余数”的形式回答。",
        f"What are the quotient and the remainder of {a} divided by {b}? Answer as “quotient, remainder”.",
    )
    return draft(
        {"a": a, "b": b, "remainder": True},
        question,
        f"{q}, {rest}",
        f"{b} × {q} = {b * q}",
        f"{a} - {b * q} = {rest}",
        kind="list",
    )


@generator
def order_of_operations(r: random.Random, level: int) -> Draft:
    """An expression with +, −, × and parentheses, worked innermost first."""
    steps: list[str] = []

    def build(depth: int) -> tuple[str, int, int]:
        """(text, value, binding strength) of a random expression."""
        if depth == 0:
            n = r.randint(1, 9 + 3 * level)
            return str(n), n, 3
        left, right = build(depth - 1), build(r.randint(0, depth - 1))
        if r.random() < 0.5:
            left, right = right, left
        op = r.choice("+-×")
        strength = 2 if op == "×" else 1
        texts = [
            f"({t})" if s < strength or (s == strength and i and op == "-") else t
            for i, (t, _, s) in enumerate((left, right))
        ]
        a, b = left[1], right[1]
        value = a + b if op == "+" else a - b if op == "-" else a * b
        steps.append(f"{bracket(a)} {op} {bracket(b)} = {value}")
        return f"{texts[0]} {op} {texts[1]}", value, strength

    text, value, _ = build(2 if level < 3 else 3)
    return draft({"expression": text}, Both(f"计算 {text}。", f"Evaluate {text}."), value, *steps)


@generator
def signed_numbers(r: random.Random, level: int, op: str = "add") -> Draft:
    """Negative numbers: a sum, a product, or the distance |a − b|."""
    a, b = nonzero(r, 10 * 3**level), nonzero(r, 10 * 2**level)
    if op == "distance":
        question = Both(f"数轴上 {a} 与 {b} 两点的距离是多少？", f"How far apart are {a} and {b} on the number line?")
        return draft(
            {"a": a, "b": b, "op": op}, question, abs(a - b), f"|{a} - {bracket(b)}| = |{a - b}| = {abs(a - b)}"
        )
    c = nonzero(r, 9)
    if op == "multiply":
        text, value = f"{bracket(a)} × {bracket(c)} + {bracket(b)}", a * c + b
        steps = [f"{bracket(a)} × {bracket(c)} = {a * c}", f"{a * c} + {bracket(b)} = {value}"]
    else:
        text, value = f"{bracket(a)} + {bracket(b)} - {bracket(c)}", a + b - c
        steps = [f"{a} + {bracket(b)} = {a + b}", f"{a + b} - {bracket(c)} = {value}"]
    return draft({"a": a, "b": b, "c": c, "op": op}, Both(f"计算 {text}。", f"Compute {text}."), value, *steps)


@generator
def decimals(r: random.Random, level: int, op: str = "add") -> Draft:
    """Finite decimals: sum, difference or product, worked on whole numbers."""
    places = 1 + (level > 2)
    unit = 10**places
    m, n = r.randint(unit, unit * 10 * level), r.randint(2, unit * 5 * level)
    a, b = Fraction(m, unit), Fraction(n, unit)
    value, whole = {"add": (a + b, m + n), "subtract": (a - b, m - n), "multiply": (a * b, m * n)}[op]
    sign = {"add": "+", "subtract": "-", "multiply": "×"}[op]
    text = f"{decimal(a)} {sign} {decimal(b)}"
    scale = unit * unit if op == "multiply" else unit
    steps = (f"{m} {sign} {n} = {whole}", f"{whole} ÷ {scale} = {decimal(value)}")
    facts = {"a": str(a), "b": str(b), "op": op}
    return draft(facts, Both(f"计算 {text}。", f"Compute {text}."), decimal(value), *steps)


@generator
def rounding(r: random.Random, level: int) -> Draft:
    """Round half up to a power of ten."""
    n, place = r.randint(1_000, 10 ** (level + 4)), 10 ** r.randint(1, min(level + 1, 3))
    value = (n + place // 2) // place * place
    low = n // place * place
    steps = (
        Both(
            f"{n} 在 {low} 与 {low + place} 之间，中点是 {low + place // 2}。",
            f"{n} lies between {low} and {low + place}; the middle is {low + place // 2}.",
        ),
        Both(f"所以取 {value}。", f"So it rounds to {value}."),
    )
    question = Both(
        f"把 {n} 四舍五入到 {place} 的整数倍。", f"Round {n} to the nearest multiple of {place} (halves go up)."
    )
    return draft({"n": n, "place": place}, question, value, *steps)


@generator
def place_value(r: random.Random, level: int) -> Draft:
    """What a digit of a number is worth."""
    digits = r.sample("123456789", min(level + 2, 8))
    n = int("".join(digits))
    i = r.randrange(len(digits))
    place = 10 ** (len(digits) - 1 - i)
    value = int(digits[i]) * place
    question = Both(f"在数 {n} 中，数字 {digits[i]} 表示的值是多少？", f"What is the digit {digits[i]} worth in {n}?")
    return draft({"n": n, "digit": int(digits[i])}, question, value, f"{digits[i]} × {place} = {value}")


@generator
def powers(r: random.Random, level: int) -> Draft:
    """A whole power of a whole number (negative from level 3)."""
    base, exponent = r.randint(2, 6 + 3 * level), r.randint(2, 2 + level // 2 + 1)
    if level >= 3 and r.random() < 0.5:
        base = -base
    steps, value = [], base
    for _ in range(exponent - 1):
        steps.append(f"{bracket(value)} × {bracket(base)} = {value * base}")
        value *= base
    text = f"{bracket(base)}^{exponent}"
    return draft({"base": base, "exponent": exponent}, Both(f"计算 {text}。", f"Compute {text}."), value, *steps)


@generator
def roots(r: random.Random, level: int, degree: int = 2) -> Draft:
    """The root of a perfect square or cube."""
    x = span(r, level, 12, 25, 60, 120, 400)
    n = x**degree
    name = Both("平方根（取非负）", "non-negative square root") if degree == 2 else Both("立方根", "cube root")
    question = Both(f"求 {n} 的{name.zh}。", f"Find the {name.en} of {n}.")
    return draft({"n": n, "degree": degree}, question, x, f"{x}^{degree} = {n}")


@generator
def simplify_radical(r: random.Random, level: int) -> Draft:
    """√n = a√b with b free of squares; the answer is ``a, b``."""
    a, b = r.randint(2, 3 + 2 * level), r.choice([2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23])
    n = a * a * b
    question = Both(
        f"把 √{n} 化成 a√b 的最简形式（b 不含大于 1 的平方因数），按“a, b”回答。",
        f"Write √{n} as a√b in simplest form (b has no square factor above 1). Answer as “a, b”.",
    )
    return draft({"n": n}, question, f"{a}, {b}", f"{n} = {a}^2 × {b}", f"√{n} = {a}√{b}", kind="list")


@generator
def scientific(r: random.Random, level: int) -> Draft:
    """A number in scientific notation: the exponent; from level 3 a product of two."""
    a, b = r.randint(11, 99), r.randint(2, 6 + level)
    if level < 3:
        n = a * 10**b
        question = Both(
            f"把 {n} 写成 m × 10^k（1 ≤ m < 10），k 是多少？", f"Write {n} as m × 10^k with 1 ≤ m < 10. What is k?"
        )
        return draft({"n": str(n)}, question, b + 1, f"{n} = {a / 10} × 10^{b + 1}")
    c, d = r.randint(2, 9), r.randint(-6, 6)
    text = f"({decimal(Fraction(a, 10))} × 10^{b}) × ({c} × 10^{d})"
    value = Fraction(a * c, 10) * Fraction(10) ** (b + d)
    m, k = Fraction(a * c, 10), b + d
    while m >= 10:
        m, k = m / 10, k + 1
    question = Both(
        f"{text} 用科学记数法 m × 10^k（1 ≤ m < 10）表示时，按“m, k”回答。",
        f"Write {text} as m × 10^k with 1 ≤ m < 10. Answer as “m, k”.",
    )
    steps = (f"{decimal(Fraction(a, 10))} × {c} = {decimal(Fraction(a * c, 10))}", f"{b} + {bracket(d)} = {b + d}")
    return draft({"value": str(value)}, question, f"{decimal(m)}, {k}", *steps, kind="list")


@generator
def compare_fractions(r: random.Random, level: int) -> Draft | None:
    """The largest of several fractions."""
    values = [Fraction(r.randint(1, 8 + level), r.randint(2, 9 + 2 * level)) for _ in range(2 + (level > 1))]
    if len(set(values)) < len(values):
        return None
    top = max(values)
    common = 1
    for v in values:
        common = common * v.denominator // _gcd(common, v.denominator)
    steps = [f"{v.numerator}/{v.denominator} = {v * common}/{common}" for v in values]
    names = [f"{v.numerator}/{v.denominator}" for v in values]
    question = Both(f"下列各数中最大的是哪一个：{listing(names)}？", f"Which is the largest: {listing(names)}?")
    return draft({"values": names}, question, f"{top.numerator}/{top.denominator}", *steps)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


_DIGITS = "0123456789ABCDEF"


def in_base(n: int, base: int) -> str:
    """The digits of a whole number ≥ 0 in a base up to 16."""
    text = ""
    while n:
        n, d = divmod(n, base)
        text = _DIGITS[d] + text
    return text or "0"


@generator
def number_base(r: random.Random, level: int, base: int = 2, back: bool = False) -> Draft:
    """From base ten to another base by repeated division, or ``back``."""
    n = r.randint(base + 1, (30, 100, 500, 3_000, 60_000)[level - 1])
    text = in_base(n, base)
    facts = {"n": n, "base": base, "back": back}
    if back:
        question = Both(f"把 {base} 进制数 {text} 化为十进制。", f"Write the base-{base} number {text} in base ten.")
        terms = [f"{_DIGITS.index(d)}×{base}^{len(text) - 1 - i}" for i, d in enumerate(text) if d != "0"]
        return draft(facts, question, n, f"{' + '.join(terms)} = {n}")
    steps, rest = [], n
    while rest:
        steps.append(
            Both(
                f"{rest} ÷ {base} = {rest // base} 余 {rest % base}",
                f"{rest} ÷ {base} = {rest // base} remainder {rest % base}",
            )
        )
        rest //= base
    steps.append(Both(f"把余数倒序读出：{text}", f"The remainders, read upwards: {text}"))
    question = Both(f"把十进制数 {n} 化为 {base} 进制。", f"Write {n} in base {base}.")
    return draft(facts, question, text, *steps, kind="text")


_ROMAN = [
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
]


@generator
def roman(r: random.Random, level: int) -> Draft:
    """A number in Roman numerals."""
    n = r.randint(4, (30, 100, 500, 1_500, 3_999)[level - 1])
    text, rest, steps = "", n, []
    for value, letters in _ROMAN:
        while rest >= value:
            text, rest = text + letters, rest - value
            steps.append(f"{letters} = {value}")
    question = Both(f"把 {n} 写成罗马数字。", f"Write {n} in Roman numerals.")
    return draft({"n": n}, question, text, "; ".join(steps), kind="text")


@generator
def square_between(r: random.Random, level: int) -> Draft:
    """Between which whole numbers a square root lies: its whole part."""
    n = r.randint(10, 10 ** (level + 1) * 5)
    root = isqrt(n)
    question = Both(f"√{n} 的整数部分是多少？", f"What is the whole part of √{n}?")
    return draft({"n": n}, question, root, f"{root}^2 = {root**2} ≤ {n} < {(root + 1) ** 2} = {root + 1}^2")
