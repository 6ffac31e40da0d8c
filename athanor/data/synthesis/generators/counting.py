"""Combinatorics."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from collections import Counter
from math import comb, factorial, perm

from athanor.data.synthesis.generators.base import generator
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def count_choices(r: random.Random, level: int, what: str = "combination") -> Draft:
    """Product rule, permutations, combinations, committees with a condition."""
    n = r.randint(4, 6 + 2 * level)
    k = r.randint(2, min(n - 1, 2 + level))
    if what == "product":
        sizes = [r.randint(2, 4 + level) for _ in range(2 + (level > 1))]
        value = 1
        for s in sizes:
            value *= s
        question = Both(
            f"一套搭配从 {len(sizes)} 类物品中各选一件，各类分别有 {', '.join(map(str, sizes))} 件，共有多少种搭配？",
            f"One item is picked from each of {len(sizes)} groups of {', '.join(map(str, sizes))} items. How many choices are there?",
        )
        return draft({"what": what, "sizes": sizes}, question, value, f"{' × '.join(map(str, sizes))} = {value}")
    if what == "permutation":
        value = perm(n, k)
        question = Both(
            f"从 {n} 人中选 {k} 人排成一排，有多少种排法？", f"In how many ways can {k} of {n} people stand in a row?"
        )
        return draft(
            {"what": what, "n": n, "k": k}, question, value, f"{' × '.join(str(n - i) for i in range(k))} = {value}"
        )
    if what == "combination":
        value = comb(n, k)
        question = Both(f"从 {n} 人中选出 {k} 人，有多少种选法？", f"In how many ways can {k} of {n} people be chosen?")
        return draft({"what": what, "n": n, "k": k}, question, value, f"C({n},{k}) = {n}!/({k}!·{n - k}!) = {value}")
    if what != "committee":
        raise ValueError(what)
    m = r.randint(2, 4 + level)
    k = min(k, n)
    value = comb(n + m, k) - comb(n, k)
    question = Both(
        f"从 {n} 名男生和 {m} 名女生中选 {k} 人，至少有一名女生，有多少种选法？",
        f"A team of {k} is chosen from {n} boys and {m} girls, with at least one girl. In how many ways?",
    )
    step = f"C({n + m},{k}) - C({n},{k}) = {comb(n + m, k)} - {comb(n, k)} = {value}"
    return draft({"what": what, "n": n, "m": m, "k": k}, question, value, step)


@generator
def word_arrangements(r: random.Random, level: int) -> Draft:
    """Arrangements of letters with repeats."""
    word = "".join(r.choice("ABCDE"[: 2 + level // 2]) for _ in range(3 + level))
    value, parts = factorial(len(word)), []
    for _, k in sorted(Counter(word).items()):
        value //= factorial(k)
        parts.append(f"{k}!")
    question = Both(
        f"字母 {word} 重新排列（含原排列），共有多少种不同的排法？",
        f"How many different arrangements have the letters of {word}?",
    )
    return draft({"word": word}, question, value, f"{len(word)}!/({'·'.join(parts)}) = {value}")


@generator
def circular(r: random.Random, level: int, what: str = "table") -> Draft:
    """Round tables, and derangements."""
    n = r.randint(3, 5 + level)
    if what == "table":
        extra = r.randint(2, 1 + level) if level > 1 and n > level + 1 else 0
        question = Both(
            f"{n} 人围圆桌就座（旋转后相同视为一种）"
            + (f"，其中指定的 {extra} 人必须相邻" if extra else "")
            + "，有多少种坐法？",
            f"{n} people sit at a round table (rotations count once)"
            + (f"; {extra} given people must sit together" if extra else "")
            + ". In how many ways?",
        )
        value = factorial(n - extra) * factorial(extra) if extra else factorial(n - 1)
        step = f"{n - extra}! × {extra}! = {value}" if extra else f"({n} - 1)! = {value}"
        return draft({"what": what, "n": n, "together": extra}, question, value, step)
    if what != "derangement":
        raise ValueError(what)
    d = [1, 0]
    for i in range(2, n + 1):
        d.append((i - 1) * (d[-1] + d[-2]))
    question = Both(
        f"{n} 封信装入 {n} 个写好的信封，全部装错，有多少种装法？",
        f"{n} letters go into {n} addressed envelopes. In how many ways is every letter in a wrong one?",
    )
    steps = [f"D({i}) = {i - 1}×(D({i - 1}) + D({i - 2})) = {d[i]}" for i in range(2, n + 1)]
    return draft({"what": what, "n": n}, question, d[n], "D(0) = 1, D(1) = 0", *steps)


@generator
def grid_paths(r: random.Random, level: int) -> Draft:
    """Shortest lattice paths; from level 3 through a point."""
    a, b = r.randint(2, 3 + level), r.randint(2, 3 + level)
    value = comb(a + b, a)
    if level < 3:
        question = Both(
            f"只能向右或向上，从 (0, 0) 走到 ({a}, {b}) 有多少条最短路线？",
            f"Moving only right or up, how many shortest paths lead from (0, 0) to ({a}, {b})?",
        )
        return draft({"a": a, "b": b}, question, value, f"C({a + b},{a}) = {value}")
    c, d = r.randint(1, a - 1), r.randint(1, b - 1)
    first, second = comb(c + d, c), comb(a + b - c - d, a - c)
    avoid = r.random() < 0.5
    value = value - first * second if avoid else first * second
    question = Both(
        f"只能向右或向上，从 (0, 0) 走到 ({a}, {b})，{'不' if avoid else '必须'}经过 ({c}, {d})，有多少条最短路线？",
        f"Moving only right or up from (0, 0) to ({a}, {b}), how many shortest paths {'avoid' if avoid else 'pass through'} ({c}, {d})?",
    )
    steps = [f"{first} × {second} = {first * second}"] + (
        [f"{comb(a + b, a)} - {first * second} = {value}"] if avoid else []
    )
    return draft({"a": a, "b": b, "c": c, "d": d, "avoid": avoid}, question, value, *steps)


@generator
def stars_and_bars(r: random.Random, level: int) -> Draft:
    """Equal objects into boxes, empty boxes allowed or not."""
    n, k, empty = r.randint(4, 5 + 3 * level), r.randint(2, 2 + level), r.random() < 0.5
    n = max(n, k)
    value = comb(n + k - 1, k - 1) if empty else comb(n - 1, k - 1)
    rule = Both("可以有空盒" if empty else "每盒至少一个", "boxes may be empty" if empty else "no box is empty")
    question = Both(
        f"把 {n} 个相同的球放入 {k} 个不同的盒子，{rule.zh}，有多少种放法？",
        f"In how many ways can {n} equal balls go into {k} different boxes if {rule.en}?",
    )
    step = f"C({n + k - 1},{k - 1}) = {value}" if empty else f"C({n - 1},{k - 1}) = {value}"
    return draft({"n": n, "k": k, "empty": empty}, question, value, step)


@generator
def pigeonhole(r: random.Random, level: int) -> Draft:
    """How many draws force k of one colour."""
    counts = [r.randint(2, 4 + 3 * level) for _ in range(2 + level // 2 + 1)]
    k = r.randint(2, min(3 + level, max(counts)))
    value = sum(min(c, k - 1) for c in counts) + 1
    question = Both(
        f"袋中各色球的个数为 {', '.join(map(str, counts))}。至少摸出多少个，才能保证有 {k} 个同色？",
        f"A bag holds {', '.join(map(str, counts))} balls of different colours. How many must be drawn to be sure of {k} of one colour?",
    )
    step = " + ".join(str(min(c, k - 1)) for c in counts) + f" + 1 = {value}"
    return draft({"counts": counts, "k": k}, question, value, step)


@generator
def handshakes(r: random.Random, level: int, what: str = "handshakes") -> Draft:
    """Pairs: handshakes, diagonals of a polygon."""
    n = r.randint(4, 8 + 10 * level)
    if what == "handshakes":
        value = n * (n - 1) // 2
        question = Both(
            f"{n} 人两两握手一次，共握手多少次？", f"{n} people shake hands once with one another. How many handshakes?"
        )
        return draft({"what": what, "n": n}, question, value, f"{n} × {n - 1} ÷ 2 = {value}")
    if what != "diagonals":
        raise ValueError(what)
    value = n * (n - 3) // 2
    question = Both(f"凸 {n} 边形有多少条对角线？", f"How many diagonals has a convex polygon of {n} sides?")
    return draft({"what": what, "n": n}, question, value, f"{n} × {n - 3} ÷ 2 = {value}")


@generator
def partition_numbers(r: random.Random, level: int, what: str = "coins") -> Draft:
    """Ways to pay a sum with coins (order does not matter), or to climb stairs (order matters)."""
    coins = (
        sorted(r.sample([1, 2, 3, 5, 10], 2 if level < 3 else 3)) if what == "coins" else [1, 2, 3][: 2 + (level > 3)]
    )
    n = r.randint(5, 8 + 4 * level) if what == "coins" else r.randint(4, 5 + 2 * level)
    ways = [1] + [0] * n
    steps = []
    if what == "coins":
        for c in coins:
            for i in range(c, n + 1):
                ways[i] += ways[i - c]
            steps.append(Both(f"用到面值 {c} 为止：{ways[n]} 种", f"With coins up to {c}: {ways[n]} ways"))
        text = ", ".join(map(str, coins))
        question = Both(
            f"用面值 {text} 的硬币（数量不限）凑成 {n}，不计顺序，有多少种凑法？",
            f"In how many ways can {n} be paid with coins of {text} (any number of each, order does not matter)?",
        )
    elif what == "stairs":
        for i in range(1, n + 1):
            ways[i] = sum(ways[i - c] for c in coins if i >= c)
            steps.append(Both(f"{i} 级：{ways[i]}", f"{i} steps: {ways[i]}"))
        text = ", ".join(map(str, coins))
        question = Both(
            f"上 {n} 级台阶，每次走 {text} 级中的一种，有多少种走法？",
            f"A staircase has {n} steps; each stride takes {text} of them. In how many ways can it be climbed?",
        )
    else:
        raise ValueError(what)
    return draft({"what": what, "coins": coins, "n": n}, question, ways[n], *steps)


@generator
def subsets(r: random.Random, level: int) -> Draft:
    """Subsets of a set: all, or of given size range."""
    n = r.randint(3, 5 + level)
    k = r.randint(1, n - 1)
    if level < 3:
        question = Both(f"含 {n} 个元素的集合有多少个子集？", f"How many subsets has a set of {n} elements?")
        return draft({"n": n, "k": None}, question, 2**n, f"2^{n} = {2**n}")
    value = sum(comb(n, i) for i in range(k + 1))
    question = Both(
        f"含 {n} 个元素的集合有多少个元素不超过 {k} 个的子集？",
        f"How many subsets with at most {k} elements has a set of {n} elements?",
    )
    step = " + ".join(f"C({n},{i})" for i in range(k + 1)) + f" = {value}"
    return draft({"n": n, "k": k}, question, value, step)
