"""Divisors, primes, congruences, digits."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from math import gcd

from athanor.data.synthesis.generators.base import generator, listing, span
from athanor.data.synthesis.types import Both, Draft, draft


def factorise(n: int) -> list[tuple[int, int]]:
    """(prime, exponent) by trial division."""
    out, p = [], 2
    while p * p <= n:
        k = 0
        while n % p == 0:
            n, k = n // p, k + 1
        if k:
            out.append((p, k))
        p += 1
    return [*out, (n, 1)] if n > 1 else out


def _written(factors: list[tuple[int, int]]) -> str:
    return " × ".join(f"{p}^{k}" if k > 1 else str(p) for p, k in factors)


@generator
def common_divisor(r: random.Random, level: int, what: str = "gcd") -> Draft:
    """gcd by Euclid's algorithm, or the least common multiple from it."""
    g = span(r, level, 6, 12, 20, 40, 90)
    a, b = g * r.randint(2, 6 * level + 3), g * r.randint(2, 6 * level + 3)
    steps, x, y = [], a, b
    while y:
        steps.append(f"{x} = {x // y} × {y} + {x % y}")
        x, y = y, x % y
    if what == "gcd":
        question = Both(f"求 {a} 和 {b} 的最大公约数。", f"Find the greatest common divisor of {a} and {b}.")
        return draft({"what": what, "a": a, "b": b}, question, x, *steps)
    if what != "lcm":
        raise ValueError(what)
    question = Both(f"求 {a} 和 {b} 的最小公倍数。", f"Find the least common multiple of {a} and {b}.")
    m = a * b // x
    return draft({"what": what, "a": a, "b": b}, question, m, *steps, f"{a} × {b} ÷ {x} = {m}")


@generator
def prime_factors(r: random.Random, level: int, what: str = "list") -> Draft:
    """Prime factors; how many divisors; their sum; Euler's totient."""
    n = r.randint(12, (60, 200, 600, 2_000, 9_000)[level - 1])
    factors = factorise(n)
    first = f"{n} = {_written(factors)}"
    facts = {"what": what, "n": n}
    if what == "list":
        answer = listing([p for p, k in factors for _ in range(k)])
        question = Both(
            f"把 {n} 分解质因数，从小到大列出所有质因数（重复的也列出）。",
            f"Write {n} as a product of primes; list them in ascending order, repeats included.",
        )
        return draft(facts, question, answer, first, kind="list")
    if what == "count":
        value, step = 1, ""
        for _, k in factors:
            value *= k + 1
        step = " × ".join(f"({k} + 1)" for _, k in factors) + f" = {value}"
        question = Both(f"{n} 有多少个正约数？", f"How many positive divisors has {n}?")
        return draft(facts, question, value, first, step)
    if what == "sum":
        value = 1
        for p, k in factors:
            value *= (p ** (k + 1) - 1) // (p - 1)
        step = " × ".join(f"({' + '.join(str(p**i) for i in range(k + 1))})" for p, k in factors) + f" = {value}"
        question = Both(f"{n} 的所有正约数之和是多少？", f"What is the sum of all positive divisors of {n}?")
        return draft(facts, question, value, first, step)
    if what != "totient":
        raise ValueError(what)
    value = n
    for p, _ in factors:
        value = value // p * (p - 1)
    step = f"{n}" + "".join(f" × (1 - 1/{p})" for p, _ in factors) + f" = {value}"
    question = Both(
        f"不超过 {n} 且与 {n} 互质的正整数有多少个？", f"How many positive integers up to {n} are coprime to {n}?"
    )
    return draft(facts, question, value, first, step)


def is_prime(n: int) -> bool:
    """Whether trial division finds no divisor."""
    return n > 1 and factorise(n) == [(n, 1)]


@generator
def prime_test(r: random.Random, level: int, what: str = "next") -> Draft:
    """The next prime after n, or how many primes lie in a range."""
    n = r.randint(5, (40, 100, 300, 1_000, 5_000)[level - 1])
    if what == "next":
        p, steps = n + 1, []
        while not is_prime(p):
            steps.append(f"{p} = {_written(factorise(p))}")
            p += 1
        question = Both(f"大于 {n} 的最小质数是多少？", f"What is the smallest prime greater than {n}?")
        end = Both(
            f"{p} 没有小于等于其平方根的质因数，是质数。",
            f"{p} has no prime divisor up to its square root: it is prime.",
        )
        return draft({"n": n}, question, p, *steps, end)
    if what != "count":
        raise ValueError(what)
    m = n + r.randint(10, 20 + 5 * level)
    primes = [p for p in range(n, m + 1) if is_prime(p)]
    question = Both(f"从 {n} 到 {m}（含两端）有多少个质数？", f"How many primes are there from {n} to {m} inclusive?")
    step = Both(f"质数有：{listing(primes) or '无'}", f"The primes are: {listing(primes) or 'none'}")
    return draft({"n": n, "m": m}, question, len(primes), step)


@generator
def modular(r: random.Random, level: int, what: str = "power") -> Draft | None:
    """Remainders of sums, products and powers; inverses; last digit of a power."""
    m = span(r, level, 9, 13, 30, 60, 120) + 2
    a, b = r.randint(2, 10 * level + 10), r.randint(2, 10 * level + 10)
    facts = {"what": what, "a": a, "b": b, "m": m}
    if what == "expression":
        c = r.randint(2, 99)
        value = (a * b + c) % m
        question = Both(
            f"求 {a} × {b} + {c} 除以 {m} 的余数。", f"Find the remainder of {a} × {b} + {c} divided by {m}."
        )
        steps = (
            f"{a} ≡ {a % m}, {b} ≡ {b % m}, {c} ≡ {c % m} (mod {m})",
            f"{a % m}×{b % m} + {c % m} = {a % m * (b % m) + c % m} ≡ {value} (mod {m})",
        )
        return draft(facts | {"c": c}, question, value, *steps)
    if what in ("power", "last_digit"):
        m = 10 if what == "last_digit" else m
        facts["m"] = m
        value, square, k = 1, a % m, b
        shown: list[str] = []
        power = 1
        while k:  # binary exponentiation, shown
            shown.append(f"{a}^{power} ≡ {square} (mod {m})")
            if k & 1:
                value = value * square % m
            k, square, power = k >> 1, square * square % m, power * 2
        question = (
            Both(f"{a}^{b} 的个位数字是多少？", f"What is the last digit of {a}^{b}?")
            if what == "last_digit"
            else Both(f"求 {a}^{b} 除以 {m} 的余数。", f"Find the remainder of {a}^{b} divided by {m}.")
        )
        bits = " + ".join(str(1 << i) for i in range(b.bit_length()) if b >> i & 1)
        return draft(facts, question, value, *shown, f"{b} = {bits}; {a}^{b} ≡ {value} (mod {m})")
    if what != "inverse":
        raise ValueError(what)
    if gcd(a, m) != 1:
        return None
    value = pow(a, -1, m)
    question = Both(
        f"求 {a} 模 {m} 的逆元（取 1 到 {m - 1} 之间）。", f"Find the inverse of {a} modulo {m}, between 1 and {m - 1}."
    )
    return draft(facts, question, value, f"{a} × {value} = {a * value} = {a * value // m} × {m} + 1")


@generator
def chinese_remainder(r: random.Random, level: int) -> Draft | None:
    """The smallest x ≥ 0 with two (three from level 3) given remainders."""
    moduli = r.sample([3, 4, 5, 7, 9, 11, 13, 16, 17][: 4 + level], 2 + (level > 2))
    if any(gcd(a, b) > 1 for i, a in enumerate(moduli) for b in moduli[i + 1 :]):
        return None
    rests = [r.randrange(m) for m in moduli]
    x, step, steps = rests[0], moduli[0], []
    for m, rest in zip(moduli[1:], rests[1:], strict=True):
        while x % m != rest:
            x += step
        step *= m
        steps.append(f"x ≡ {x} (mod {step})")
    listed = ", ".join(f"x ≡ {a} (mod {m})" for a, m in zip(rests, moduli, strict=True))
    question = Both(f"求满足 {listed} 的最小非负整数 x。", f"Find the smallest x ≥ 0 with {listed}.")
    return draft({"moduli": moduli, "rests": rests}, question, x, *steps)


@generator
def diophantine(r: random.Random, level: int) -> Draft:
    """How many solutions in non-negative integers ax + by = n has."""
    a, b = r.randint(2, 4 + level), r.randint(3, 6 + 2 * level)
    n = r.randint(2 * a * b, 2 * a * b + 20 * level)
    pairs = [(x, (n - a * x) // b) for x in range(n // a + 1) if (n - a * x) % b == 0]
    question = Both(
        f"方程 {a}x + {b}y = {n} 有多少组非负整数解？",
        f"How many solutions in non-negative integers has {a}x + {b}y = {n}?",
    )
    step = Both(
        f"逐一检验 x，得 (x, y)：{listing(pairs) or '无'}", f"Trying each x gives (x, y): {listing(pairs) or 'none'}"
    )
    return draft({"a": a, "b": b, "n": n}, question, len(pairs), step)


@generator
def digits(r: random.Random, level: int, what: str = "sum") -> Draft:
    """Digit sums, divisibility by 9 or 11 (a missing digit), trailing zeros of a factorial."""
    if what == "zeros":
        n = r.randint(5, (30, 80, 200, 600, 3_000)[level - 1])
        parts, p = [], 5
        while p <= n:
            parts.append(n // p)
            p *= 5
        question = Both(f"{n}! 的末尾有多少个 0？", f"How many zeros end {n}!?")
        return draft({"what": what, "n": n}, question, sum(parts), f"{' + '.join(map(str, parts))} = {sum(parts)}")
    n = r.randint(10 ** (level + 1), 10 ** (level + 2) - 1)
    total = sum(map(int, str(n)))
    if what == "sum":
        question = Both(f"{n} 的各位数字之和是多少？", f"What is the sum of the digits of {n}?")
        return draft({"what": what, "n": n}, question, total, f"{' + '.join(str(n))} = {total}")
    if what != "missing":
        raise ValueError(what)
    text = list(str(n))
    i = r.randrange(1, len(text))
    text[i] = "?"
    shown = "".join(text)
    rest = sum(int(d) for d in text if d != "?")
    fits = [d for d in range(10) if (rest + d) % 9 == 0]
    question = Both(
        f"要使 {shown} 能被 9 整除，“?”最小填几？", f"Which smallest digit “?” makes {shown} divisible by 9?"
    )
    step = Both(
        f"其余数字之和 {rest}，需使总和是 9 的倍数。",
        f"The other digits sum to {rest}; the total must be a multiple of 9.",
    )
    return draft({"what": what, "shown": shown}, question, fits[0], step, f"{rest} + {fits[0]} = {rest + fits[0]}")


@generator
def multiples(r: random.Random, level: int) -> Draft:
    """How many numbers up to n are divisible by a or b."""
    a, b = r.sample(range(2, 8 + 2 * level), 2)
    n = r.randint(30, 100 * level)
    m = a * b // gcd(a, b)
    value = n // a + n // b - n // m
    question = Both(
        f"1 到 {n} 中能被 {a} 或 {b} 整除的数有多少个？",
        f"How many numbers from 1 to {n} are divisible by {a} or by {b}?",
    )
    step = f"{n // a} + {n // b} - {n // m} = {value}"
    return draft({"a": a, "b": b, "n": n}, question, value, f"lcm({a}, {b}) = {m}", step)
