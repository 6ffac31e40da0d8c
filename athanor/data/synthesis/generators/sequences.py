"""Sequences, recurrences and their sums."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction

from athanor.data.synthesis.generators.base import bracket, generator, listing, nonzero, show
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def arithmetic_sequence(r: random.Random, level: int, what: str = "term") -> Draft:
    """The n-th term or the sum of the first n."""
    a, d, n = nonzero(r, 10 * level), nonzero(r, 3 + 2 * level), r.randint(5, 10 * level + 5)
    last = a + (n - 1) * d
    facts = {"a": a, "d": d, "n": n, "what": what}
    if what == "term":
        question = Both(
            f"等差数列首项 {a}，公差 {d}，第 {n} 项是多少？",
            f"An arithmetic sequence starts at {a} with difference {d}. What is term {n}?",
        )
        return draft(facts, question, last, f"{a} + {n - 1}×{bracket(d)} = {last}")
    total = n * (a + last) // 2
    question = Both(
        f"等差数列首项 {a}，公差 {d}，前 {n} 项的和是多少？",
        f"An arithmetic sequence starts at {a} with difference {d}. What is the sum of its first {n} terms?",
    )
    return draft(facts, question, total, f"a_{n} = {last}", f"{n}×({a} + {bracket(last)})/2 = {total}")


@generator
def geometric_sequence(r: random.Random, level: int, what: str = "term") -> Draft:
    """Term, finite sum, or infinite sum."""
    a = nonzero(r, 3 + 2 * level)
    if what == "infinite":
        ratio = Fraction(nonzero(r, 4), r.randint(5, 6 + level))
        value = a / (1 - ratio)
        question = Both(
            f"无穷等比级数首项 {a}，公比 {show(ratio)}，和是多少？",
            f"What is the sum of the infinite geometric series with first term {a} and ratio {show(ratio)}?",
        )
        return draft({"a": a, "q": str(ratio)}, question, show(value), f"{a}/(1 - {bracket(ratio)}) = {show(value)}")
    q, n = r.choice([2, 3, -2, 4, -3, 5][: 1 + level]), r.randint(3, 4 + level)
    term, total = a * q ** (n - 1), sum(a * q**i for i in range(n))
    facts = {"a": a, "q": q, "n": n, "what": what}
    if what == "term":
        question = Both(
            f"等比数列首项 {a}，公比 {q}，第 {n} 项是多少？",
            f"A geometric sequence starts at {a} with ratio {q}. What is term {n}?",
        )
        return draft(facts, question, term, f"{a}×{bracket(q)}^{n - 1} = {term}")
    question = Both(
        f"等比数列首项 {a}，公比 {q}，前 {n} 项的和是多少？",
        f"A geometric sequence starts at {a} with ratio {q}. What is the sum of its first {n} terms?",
    )
    return draft(facts, question, total, f"{a}×({bracket(q)}^{n} - 1)/({q} - 1) = {total}")


@generator
def recurrence(r: random.Random, level: int) -> Draft:
    """a(n) = p·a(n−1) + q (first order), from level 3 p·a(n−1) + q·a(n−2): a term by hand."""
    p, q, n = r.randint(2, 2 + level // 2), nonzero(r, 1 + level), r.randint(4, 4 + level)
    first = [r.randint(1, 5) for _ in range(1 if level < 3 else 2)]
    values = list(first)
    while len(values) < n:
        values.append(p * values[-1] + (q if len(first) == 1 else q * values[-2]))
    tail = f" {'-' if q < 0 else '+'} " + (f"{abs(q)}" if len(first) == 1 else f"{'' if abs(q) == 1 else abs(q)}a(n-2)")
    rule = f"a(n) = {p}a(n-1){tail}"
    start = ", ".join(f"a({i}) = {v}" for i, v in enumerate(first, 1))
    question = Both(f"数列满足 {start}，{rule}。求 a({n})。", f"A sequence has {start} and {rule}. Find a({n}).")
    steps = [f"a({i}) = {v}" for i, v in enumerate(values, 1) if i > len(first)]
    return draft({"rule": rule, "first": first, "p": p, "q": q, "n": n}, question, values[-1], *steps)


@generator
def next_term(r: random.Random, level: int) -> Draft:
    """A pattern with constant first (level 1), second (2–3) or third differences: the next term."""
    order = 1 if level == 1 else 2 if level < 4 else 3
    coefficients = [nonzero(r, 2 + level) for _ in range(order + 1)]
    values = [sum(c * n**k for k, c in enumerate(coefficients)) for n in range(1, order + 5)]
    rows, row = [], values[:-1]
    for _ in range(order):
        row = [b - a for a, b in zip(row, row[1:], strict=False)]
        rows.append(Both(f"差分：{listing(row)}", f"Differences: {listing(row)}"))
    question = Both(
        f"数列 {listing(values[:-1])}, … 是 n 的 {order} 次多项式，下一项是多少？",
        f"The terms {listing(values[:-1])}, … are a polynomial in n of degree {order}. What comes next?",
    )
    return draft({"shown": values[:-1], "order": order}, question, values[-1], *rows)


@generator
def sigma(r: random.Random, level: int) -> Draft:
    """A sum in sigma notation: k, k² or k³ terms."""
    a, b, n = r.randint(1, 2 + level), nonzero(r, 5), r.randint(3, 4 + 3 * level)
    power = 1 if level < 3 else 2 if level < 5 else 3
    value = sum(a * k**power + b for k in range(1, n + 1))
    body = f"{'' if a == 1 else a}k{f'^{power}' if power > 1 else ''}{signed_text(b)}"
    whole = sum(k**power for k in range(1, n + 1))
    question = Both(f"求 k 从 1 到 {n} 时 ({body}) 的和。", f"Sum ({body}) for k from 1 to {n}.")
    name = "k" if power == 1 else f"k^{power}"
    steps = (f"Σ{name} = {whole}", f"{a}×{whole} + {bracket(b)}×{n} = {value}")
    return draft({"a": a, "b": b, "n": n, "power": power}, question, value, *steps)


def signed_text(value: int) -> str:
    """`` + 3`` / `` - 3``."""
    return f" {'-' if value < 0 else '+'} {abs(value)}"


@generator
def missing_term(r: random.Random, level: int) -> Draft:
    """The gap in an arithmetic (odd draws: geometric) sequence."""
    a, d, geometric = r.randint(1, 5 + 5 * level), r.randint(2, 2 + level), r.random() < 0.5
    n = r.randint(5, 6)
    values = [a * d**i if geometric else a + i * d for i in range(n)]
    hole = r.randint(1, n - 2)
    shown = [str(v) if i != hole else "?" for i, v in enumerate(values)]
    name = Both("等比" if geometric else "等差", "geometric" if geometric else "arithmetic")
    question = Both(
        f"{name.zh}数列 {listing(shown)} 中，“?”是多少？",
        f"Which number is “?” in the {name.en} sequence {listing(shown)}?",
    )
    step = f"{values[hole - 1]} {'×' if geometric else '+'} {d} = {values[hole]}"
    return draft({"shown": shown, "geometric": geometric}, question, values[hole], step)
