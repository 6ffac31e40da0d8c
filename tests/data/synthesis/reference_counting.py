"""Independent answers for number theory, counting, chance; see ``reference_math``."""

# ruff: noqa: E501 (one reference a line)

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction as F

import sympy as sp

from tests.data.synthesis.reference_math import X, ref


@ref
def common_divisor(f):
    both = [d for d in range(1, f["a"] * f["b"] + 1 if f["what"] == "lcm" and f["a"] * f["b"] < 3000 else f["a"] + 1)]
    g = max(d for d in both[: f["a"]] if f["a"] % d == 0 and f["b"] % d == 0)
    return g if f["what"] == "gcd" else next(m for m in itertools.count(f["a"], f["a"]) if m % f["b"] == 0)


@ref
def prime_factors(f):
    n = f["n"]
    return {
        "list": lambda: [p for p, k in sorted(sp.factorint(n).items()) for _ in range(k)],
        "count": lambda: sum(n % d == 0 for d in range(1, n + 1)),
        "sum": lambda: sum(d for d in range(1, n + 1) if n % d == 0),
        "totient": lambda: sum(math.gcd(n, d) == 1 for d in range(1, n + 1)),
    }[f["what"]]()


@ref
def prime_test(f):
    return sp.nextprime(f["n"]) if "m" not in f else len(list(sp.primerange(f["n"], f["m"] + 1)))


@ref
def modular(f):
    return {
        "expression": lambda: (f["a"] * f["b"] + f["c"]) % f["m"],
        "power": lambda: f["a"] ** f["b"] % f["m"],
        "last_digit": lambda: int(str(f["a"] ** f["b"])[-1]),
        "inverse": lambda: next(x for x in range(1, f["m"]) if f["a"] * x % f["m"] == 1),
    }[f["what"]]()


@ref
def chinese_remainder(f):
    return next(x for x in itertools.count() if all(x % m == a for m, a in zip(f["moduli"], f["rests"], strict=True)))


@ref
def diophantine(f):
    return sum(f["a"] * x + f["b"] * y == f["n"] for x in range(f["n"] + 1) for y in range(f["n"] // f["b"] + 1))


@ref
def digits(f):
    if f["what"] == "zeros":
        text = str(math.factorial(f["n"])) if f["n"] < 1500 else None
        return len(text) - len(text.rstrip("0")) if text else sum(sp.multiplicity(5, k) for k in range(1, f["n"] + 1))
    if f["what"] == "sum":
        return sum(int(c) for c in str(f["n"]))
    return next(d for d in range(10) if int(f["shown"].replace("?", str(d))) % 9 == 0)


@ref
def multiples(f):
    return sum(k % f["a"] == 0 or k % f["b"] == 0 for k in range(1, f["n"] + 1))


@ref
def count_choices(f):
    if f["what"] == "product":
        return len(list(itertools.product(*(range(s) for s in f["sizes"]))))
    if f["what"] == "permutation":
        return sp.ff(f["n"], f["k"])
    if f["what"] == "combination":
        return len(list(itertools.combinations(range(f["n"]), f["k"])))
    return sum(any(i >= f["n"] for i in c) for c in itertools.combinations(range(f["n"] + f["m"]), f["k"]))


@ref
def word_arrangements(f):
    return sp.utilities.iterables.multiset_permutations(list(f["word"])) and sum(
        1 for _ in sp.utilities.iterables.multiset_permutations(list(f["word"]))
    )


@ref
def circular(f):
    n = f["n"]
    if f["what"] == "derangement":
        return sp.subfactorial(n)
    t = f["together"]
    if n > 7:
        return math.factorial(n - t) * math.factorial(t) if t else math.factorial(n - 1)

    def near(order):
        places = sorted(order.index(p) for p in range(t))
        return any(sorted((s + i) % n for i in range(t)) == places for s in range(n))

    return sum(1 for rest in itertools.permutations(range(1, n)) if not t or near((0, *rest)))


@ref
def grid_paths(f):
    def ways(x, y, block):
        if (x, y) == block:
            return 0
        return 1 if (x, y) == (0, 0) else (ways(x - 1, y, block) if x else 0) + (ways(x, y - 1, block) if y else 0)

    whole = ways(f["a"], f["b"], None)
    if "c" not in f:
        return whole
    avoiding = ways(f["a"], f["b"], (f["c"], f["d"]))
    return avoiding if f["avoid"] else whole - avoiding


@ref
def stars_and_bars(f):
    low = 0 if f["empty"] else 1
    ways = {0: 1}
    for _ in range(f["k"]):
        ways = {s: sum(ways.get(s - i, 0) for i in range(low, f["n"] + 1)) for s in range(f["n"] + 1)}
    return ways[f["n"]]


@ref
def pigeonhole(f):
    return next(d for d in itertools.count(1) if d > sum(min(c, f["k"] - 1) for c in f["counts"]))


@ref
def handshakes(f):
    return sum(
        1
        for a, b in itertools.combinations(range(f["n"]), 2)
        if f["what"] == "handshakes" or (b - a) % f["n"] not in (1, f["n"] - 1)
    )


@ref
def partition_numbers(f):
    coins, n = f["coins"], f["n"]
    if f["what"] == "coins":
        return sum(
            sum(c * k for c, k in zip(coins[1:], ks, strict=True)) <= n
            and (n - sum(c * k for c, k in zip(coins[1:], ks, strict=True))) % coins[0] == 0
            for ks in itertools.product(*(range(n // c + 1) for c in coins[1:]))
        )
    return sum(
        math.factorial(sum(ks)) // math.prod(map(math.factorial, ks))
        for ks in itertools.product(*(range(n // c + 1) for c in coins))
        if sum(c * k for c, k in zip(coins, ks, strict=True)) == n
    )


@ref
def subsets(f):
    return sum(bin(m).count("1") <= (f["n"] if f["k"] is None else f["k"]) for m in range(2 ** f["n"]))


@ref
def balls(f):
    bag = ["r"] * f["red"] + ["b"] * f["blue"]
    if f["what"] == "one":
        return F(bag.count("r"), len(bag))
    if f["what"] == "replace":
        pairs = list(itertools.product(bag, repeat=2))
        return F(sum(a != b for a, b in pairs), len(pairs))
    if f["what"] == "at_least":
        none = F(1)
        for i in range(f["k"]):
            none *= F(max(f["blue"] - i, 0), len(bag) - i)
        return 1 - none
    pairs = list(itertools.permutations(bag, 2))
    both = sum(a == b == "r" for a, b in pairs)
    return F(both, len(pairs)) if f["what"] == "two" else F(both, sum(a == "r" for a, _ in pairs))


@ref
def dice(f):
    throws = list(itertools.product(range(1, 7), repeat=f["n"]))
    return F(sum(sum(t) >= f["total"] if f["at_least"] else sum(t) == f["total"] for t in throws), len(throws))


@ref
def coins(f):
    p = F(f["p"])
    return sum(
        (
            math.prod((p if s else 1 - p) for s in row)
            for row in itertools.product([0, 1], repeat=f["n"])
            if sum(row) == f["k"]
        ),
        F(0),
    )


@ref
def expectation(f):
    population = [v for v, w in zip(f["values"], f["weights"], strict=True) for _ in range(w)]
    return (
        F(sum(population), len(population)) if f["what"] == "mean" else statistics.pvariance([F(v) for v in population])
    )


@ref
def bayes(f):
    a, b = F(f["share"], 100) * F(f["p"], 100), (1 - F(f["share"], 100)) * F(f["q"], 100)
    return a / (a + b) if f["inverse"] else a + b


@ref
def summary(f):
    v = [F(x) for x in f["values"]]
    return {
        "mean": statistics.mean,
        "median": statistics.median,
        "mode": statistics.mode,
        "range": lambda v: max(v) - min(v),
        "variance": statistics.pvariance,
    }[f["what"]](v)


@ref
def weighted_mean(f):
    return (
        F(sum(v * w for v, w in zip(f["values"], f["weights"], strict=True)), sum(f["weights"]))
        if f["what"] == "weighted"
        else sp.solve((sum(f["values"]) + X) / (len(f["values"]) + 1) - f["mean"], X)[0]
    )


@ref
def z_score(f):
    return F(f["z"]) if not f["back"] else f["mean"] + F(f["z"]) * f["deviation"]


@ref
def regression(f):
    k, b = sp.symbols("k b")
    error = sum((k * x + b - y) ** 2 for x, y in zip(f["xs"], f["ys"], strict=True))
    return sp.solve([sp.diff(error, k), sp.diff(error, b)], [k, b])[k]
