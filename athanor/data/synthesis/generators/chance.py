"""Probability and statistics, exact."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction
from math import comb

from athanor.data.synthesis.generators.base import decimal, generator, listing, nonzero, show
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def balls(r: random.Random, level: int, what: str = "one") -> Draft | None:
    """Balls from a bag: one draw, two draws (with or without putting back), at least one, conditional."""
    red, blue = r.randint(2, 4 + 2 * level), r.randint(2, 4 + 2 * level)
    n = red + blue
    facts = {"what": what, "red": red, "blue": blue}
    bag = Both(f"袋中有 {red} 个红球和 {blue} 个蓝球", f"A bag holds {red} red and {blue} blue balls")
    if what == "one":
        value, ask = (
            Fraction(red, n),
            Both("任取一个，是红球的概率是多少？", "What is the probability that one ball drawn is red?"),
        )
        step = f"{red}/({red} + {blue}) = {show(value)}"
    elif what == "two":
        value = Fraction(red * (red - 1), n * (n - 1))
        ask = Both(
            "不放回地取两个，都是红球的概率是多少？",
            "Two are drawn without putting back. What is the probability that both are red?",
        )
        step = f"{red}/{n} × {red - 1}/{n - 1} = {show(value)}"
    elif what == "replace":
        value = 2 * Fraction(red * blue, n * n)
        ask = Both(
            "有放回地取两个，颜色不同的概率是多少？",
            "Two are drawn, the first put back before the second. What is the probability of two colours?",
        )
        step = f"2 × {red}/{n} × {blue}/{n} = {show(value)}"
    elif what == "at_least":
        k = facts["k"] = r.randint(2, min(2 + level, n))
        none = Fraction(comb(blue, k), comb(n, k))
        value = 1 - none
        ask = Both(
            f"不放回地取 {k} 个，至少有一个红球的概率是多少？",
            f"{k} are drawn without putting back. What is the probability of at least one red?",
        )
        step = f"1 - C({blue},{k})/C({n},{k}) = 1 - {show(none)} = {show(value)}"
    elif what == "conditional":
        value = Fraction(red - 1, n - 1)
        ask = Both(
            "不放回地取两个，已知第一个是红球，第二个也是红球的概率是多少？",
            "Two are drawn without putting back. Given that the first is red, what is the probability that the second is red?",
        )
        step = f"({red} - 1)/({n} - 1) = {show(value)}"
    else:
        raise ValueError(what)
    return draft(facts, Both(f"{bag.zh}。{ask.zh}", f"{bag.en}. {ask.en}"), show(value), step)


@generator
def dice(r: random.Random, level: int) -> Draft:
    """The sum of dice."""
    n = 2 if level < 3 else 3
    total = r.randint(n + 1, 6 * n - 1)
    at_least = level % 2 == 0
    ways = [1]
    for _ in range(n):
        longer = [0] * (len(ways) + 6)
        for i, w in enumerate(ways):
            for face in range(1, 7):
                longer[i + face] += w
        ways = longer
    good = sum(ways[total:]) if at_least else ways[total]
    value = Fraction(good, 6**n)
    rule = Both(f"{'不小于' if at_least else '等于'} {total}", f"{'at least' if at_least else 'exactly'} {total}")
    question = Both(
        f"掷 {n} 个均匀骰子，点数之和{rule.zh}的概率是多少？",
        f"{n} fair dice are thrown. What is the probability that the sum is {rule.en}?",
    )
    return draft({"n": n, "total": total, "at_least": at_least}, question, show(value), f"{good}/6^{n} = {show(value)}")


@generator
def coins(r: random.Random, level: int) -> Draft:
    """Binomial: k successes of n, fair (levels 1–2) or with probability p."""
    n = r.randint(3, 3 + level)
    k = r.randint(0, n)
    p = Fraction(1, 2) if level < 3 else Fraction(r.randint(1, 4), 5)
    value = comb(n, k) * p**k * (1 - p) ** (n - k)
    question = Both(
        f"每次成功的概率为 {show(p)}，独立重复 {n} 次，恰好成功 {k} 次的概率是多少？",
        f"Each of {n} independent trials succeeds with probability {show(p)}. What is the probability of exactly {k} successes?",
    )
    step = f"C({n},{k}) × ({show(p)})^{k} × ({show(1 - p)})^{n - k} = {show(value)}"
    return draft({"n": n, "k": k, "p": str(p)}, question, show(value), step)


@generator
def expectation(r: random.Random, level: int, what: str = "mean") -> Draft:
    """Mean or variance of a small discrete distribution."""
    values = r.sample(range(-5 if level > 2 else 0, 6 + 4 * level), 3)
    weights = [r.randint(1, 4 + level) for _ in values]
    total = sum(weights)
    ps = [Fraction(w, total) for w in weights]
    mean = sum((p * v for p, v in zip(ps, values, strict=True)), Fraction(0))
    table = ", ".join(f"P(X={v}) = {show(p)}" for v, p in zip(values, ps, strict=True))
    steps = ["E(X) = " + " + ".join(f"({v})×{show(p)}" for v, p in zip(values, ps, strict=True)) + f" = {show(mean)}"]
    facts = {"what": what, "values": values, "weights": weights}
    if what == "mean":
        return draft(facts, Both(f"随机变量 X：{table}。求 E(X)。", f"X has {table}. Find E(X)."), show(mean), *steps)
    square = sum((p * v * v for p, v in zip(ps, values, strict=True)), Fraction(0))
    variance = square - mean * mean
    steps += [f"E(X^2) = {show(square)}", f"{show(square)} - ({show(mean)})^2 = {show(variance)}"]
    return draft(
        facts, Both(f"随机变量 X：{table}。求方差 D(X)。", f"X has {table}. Find its variance."), show(variance), *steps
    )


@generator
def bayes(r: random.Random, level: int) -> Draft:
    """Two sources with error rates: total probability (levels ≤ 3) or Bayes."""
    share, p, q = 10 * r.randint(2, 8), r.randint(1, 5 + 3 * level), r.randint(1, 5 + 3 * level)
    a, b = Fraction(share * p, 10_000), Fraction((100 - share) * q, 10_000)
    inverse = level > 2
    value = a / (a + b) if inverse else a + b
    story = Both(
        f"甲厂生产 {share}% 的零件，次品率 {p}%；乙厂生产其余的零件，次品率 {q}%。",
        f"Factory A makes {share}% of the parts, {p}% of them faulty; factory B makes the rest, {q}% of them faulty.",
    )
    ask = (
        Both(
            "任取一个是次品，它来自甲厂的概率是多少？",
            "A part drawn at random is faulty. What is the probability that A made it?",
        )
        if inverse
        else Both("任取一个零件是次品的概率是多少？", "What is the probability that a part drawn at random is faulty?")
    )
    steps = [f"P = {share}%×{p}% + {100 - share}%×{q}% = {show(a + b)}"]
    if inverse:
        steps.append(f"({show(a)})/({show(a + b)}) = {show(value)}")
    facts = {"share": share, "p": p, "q": q, "inverse": inverse}
    return draft(facts, Both(story.zh + ask.zh, f"{story.en} {ask.en}"), show(value), *steps)


@generator
def summary(r: random.Random, level: int, what: str = "mean") -> Draft | None:
    """Mean, median, mode, range, population variance, quartile-free summaries of a list."""
    n = r.randint(4, 5 + level)
    values = [r.randint(1, 20 * level) for _ in range(n)]
    if what == "mode":
        values.append(r.choice(values))
        r.shuffle(values)
    names = {
        "mean": Both("平均数", "mean"),
        "median": Both("中位数", "median"),
        "mode": Both("众数", "mode"),
        "range": Both("极差", "range"),
        "variance": Both("总体方差", "population variance"),
    }
    name, ordered = names[what], sorted(values)
    n, total = len(values), sum(values)
    mean = Fraction(total, n)
    steps: list[str] = [f"{' + '.join(map(str, values))} = {total}", f"{total} ÷ {n} = {show(mean)}"]
    answer = mean
    if what == "median":
        answer = Fraction(ordered[n // 2]) if n % 2 else Fraction(ordered[n // 2 - 1] + ordered[n // 2], 2)
        steps = [listing(ordered)]
    elif what == "mode":
        top = max(values, key=values.count)
        if sum(values.count(v) == values.count(top) for v in set(values)) > 1:
            return None
        answer, steps = Fraction(top), [listing(ordered)]
    elif what == "range":
        answer, steps = (
            Fraction(ordered[-1] - ordered[0]),
            [f"{ordered[-1]} - {ordered[0]} = {ordered[-1] - ordered[0]}"],
        )
    elif what == "variance":
        squares = sum(v * v for v in values)
        answer = Fraction(squares, n) - mean**2
        steps += [f"{squares}/{n} - ({show(mean)})^2 = {show(answer)}"]
    question = Both(f"求数据 {listing(values)} 的{name.zh}。", f"Find the {name.en} of {listing(values)}.")
    return draft({"what": what, "values": values}, question, show(answer), *steps)


@generator
def weighted_mean(r: random.Random, level: int, what: str = "weighted") -> Draft:
    """A weighted mean; a missing value when the mean is known."""
    n = 3 if level < 3 else 4
    values = [r.randint(50, 100) for _ in range(n)]
    if what == "weighted":
        weights = [r.randint(1, 4 + level) for _ in range(n)]
        total = sum(v * w for v, w in zip(values, weights, strict=True))
        value = Fraction(total, sum(weights))
        question = Both(
            f"各项得分 {listing(values)}，权重依次为 {listing(weights)}，加权平均是多少？",
            f"Scores {listing(values)} have weights {listing(weights)}. What is the weighted mean?",
        )
        text = " + ".join(f"{v}×{w}" for v, w in zip(values, weights, strict=True))
        return draft(
            {"what": what, "values": values, "weights": weights},
            question,
            show(value),
            f"({text})/{sum(weights)} = {show(value)}",
        )
    if what != "missing":
        raise ValueError(what)
    mean = r.randint(60, 90)
    other = mean * (n + 1) - sum(values)
    question = Both(
        f"{n + 1} 个数的平均数是 {mean}，其中 {n} 个是 {listing(values)}，另一个是多少？",
        f"The mean of {n + 1} numbers is {mean}; {n} of them are {listing(values)}. What is the other?",
    )
    step = f"{mean}×{n + 1} - {sum(values)} = {other}"
    return draft({"what": what, "values": values, "mean": mean}, question, other, step)


@generator
def z_score(r: random.Random, level: int) -> Draft:
    """Standard score, or the value that has it."""
    mean, deviation, z = r.randint(20, 100), r.randint(2, 6 + 2 * level), Fraction(nonzero(r, 12), 4)
    x = mean + z * deviation
    back = level > 2
    facts = {"mean": mean, "deviation": deviation, "z": str(z), "back": back}
    if back:
        question = Both(
            f"平均数 {mean}，标准差 {deviation}，标准分 {decimal(z)} 对应的数值是多少？",
            f"Mean {mean}, standard deviation {deviation}: which value has standard score {decimal(z)}?",
        )
        return draft(facts, question, decimal(x), f"{mean} + ({decimal(z)})×{deviation} = {decimal(x)}")
    question = Both(
        f"平均数 {mean}，标准差 {deviation}，数值 {decimal(x)} 的标准分是多少？",
        f"Mean {mean}, standard deviation {deviation}: what is the standard score of {decimal(x)}?",
    )
    return draft(facts, question, decimal(z), f"({decimal(x)} - {mean})/{deviation} = {decimal(z)}")


@generator
def regression(r: random.Random, level: int) -> Draft | None:
    """The least-squares slope of a few points."""
    xs = r.sample(range(1, 6 + level), 3 + (level > 2))
    ys = [r.randint(1, 8 + 3 * level) for _ in xs]
    n = len(xs)
    sxy = n * sum(x * y for x, y in zip(xs, ys, strict=True)) - sum(xs) * sum(ys)
    sxx = n * sum(x * x for x in xs) - sum(xs) ** 2
    value = Fraction(sxy, sxx)
    points = ", ".join(f"({x}, {y})" for x, y in zip(xs, ys, strict=True))
    question = Both(
        f"求点 {points} 的最小二乘回归直线的斜率。", f"Find the slope of the least-squares line of {points}."
    )
    steps = (f"nΣxy - ΣxΣy = {sxy}", f"nΣx^2 - (Σx)^2 = {sxx}", f"{sxy}/{sxx} = {show(value)}")
    return draft({"xs": xs, "ys": ys}, question, show(value), *steps)
