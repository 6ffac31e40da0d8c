"""Word problems: motion, work, mixtures, ages, heads and legs."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction

from athanor.data.synthesis.generators.base import decimal, generator, show
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def motion(r: random.Random, level: int, what: str = "distance") -> Draft | None:
    """Distance, meeting, catching up, average speed, upstream and downstream."""
    v, w, t = 5 * r.randint(2, 6 + 2 * level), 5 * r.randint(2, 6 + 2 * level), r.randint(2, 3 + level)
    facts = {"what": what, "v": v, "w": w, "t": t}
    if what == "distance":
        question = Both(
            f"汽车以每小时 {v} 千米的速度行驶 {t} 小时，行驶多少千米？",
            f"A car drives at {v} km/h for {t} hours. How many km does it go?",
        )
        return draft(facts, question, v * t, f"{v} × {t} = {v * t}")
    if what == "meet":
        gap = (v + w) * t
        question = Both(
            f"两车相距 {gap} 千米，同时相向而行，速度分别为每小时 {v} 和 {w} 千米，几小时后相遇？",
            f"Two cars {gap} km apart drive towards each other at {v} and {w} km/h. After how many hours do they meet?",
        )
        return draft(facts | {"gap": gap}, question, t, f"{v} + {w} = {v + w}", f"{gap} ÷ {v + w} = {t}")
    if what == "catch":
        if v == w:
            return None
        v, w = max(v, w), min(v, w)
        gap = (v - w) * t
        question = Both(
            f"甲在乙后方 {gap} 千米处，同时同向出发，甲每小时 {v} 千米，乙每小时 {w} 千米，几小时后甲追上乙？",
            f"A is {gap} km behind B. Both start in the same direction, A at {v} km/h and B at {w} km/h. After how many hours does A catch up?",
        )
        return draft(
            {"what": what, "v": v, "w": w, "gap": gap}, question, t, f"{v} - {w} = {v - w}", f"{gap} ÷ {v - w} = {t}"
        )
    if what == "average":
        value = Fraction(2 * v * w, v + w)
        question = Both(
            f"去程速度每小时 {v} 千米，原路返回每小时 {w} 千米，全程平均速度是每小时多少千米？",
            f"A trip out is made at {v} km/h and back at {w} km/h. What is the average speed in km/h?",
        )
        return draft(facts, question, show(value), f"2×{v}×{w}/({v} + {w}) = {show(value)}")
    if what != "stream":
        raise ValueError(what)
    down, up = v + r.randint(1, 9) * 2, v
    boat, stream = Fraction(down + up, 2), Fraction(down - up, 2)
    question = Both(
        f"船顺水每小时 {down} 千米，逆水每小时 {up} 千米，求静水船速和水速，按“船速, 水速”回答。",
        f"A boat makes {down} km/h downstream and {up} km/h upstream. Find its speed in still water and that of the stream, as “boat, stream”.",
    )
    steps = (f"({down} + {up}) ÷ 2 = {show(boat)}", f"({down} - {up}) ÷ 2 = {show(stream)}")
    return draft({"what": what, "down": down, "up": up}, question, f"{show(boat)}, {show(stream)}", *steps, kind="list")


@generator
def work(r: random.Random, level: int) -> Draft:
    """Two (three from level 3) workers together; pipes that fill and drain (level 5)."""
    days = [r.randint(3, 8 + 4 * level) for _ in range(2 + (level > 2))]
    rate = sum((Fraction(1, d) for d in days), Fraction(0))
    value = 1 / rate
    question = Both(
        f"一项工作，{len(days)} 人单独完成分别需要 {', '.join(map(str, days))} 天，一起做需要多少天？",
        f"Alone, {len(days)} workers need {', '.join(map(str, days))} days for a job. How many days do they need together?",
    )
    return draft(
        {"days": days},
        question,
        show(value),
        " + ".join(f"1/{d}" for d in days) + f" = {show(rate)}",
        f"1 ÷ {show(rate)} = {show(value)}",
    )


@generator
def mixture(r: random.Random, level: int) -> Draft:
    """Concentration of a mix, or how much water dilutes it (from level 3)."""
    a, p, b, q = 10 * r.randint(2, 10 * level), r.randint(5, 60), 10 * r.randint(2, 10 * level), r.randint(5, 60)
    if level < 3:
        value = Fraction(a * p + b * q, a + b)
        question = Both(
            f"浓度 {p}% 的盐水 {a} 克与浓度 {q}% 的盐水 {b} 克混合，浓度是百分之几？（只写数字）",
            f"{a} g of {p}% brine and {b} g of {q}% brine are mixed. What is the concentration in per cent? (number only)",
        )
        return draft(
            {"a": a, "p": p, "b": b, "q": q}, question, show(value), f"({a}×{p} + {b}×{q})/({a} + {b}) = {show(value)}"
        )
    low = r.randint(1, p - 1)
    value = Fraction(a * p, low) - a
    question = Both(
        f"要把 {a} 克浓度 {p}% 的盐水稀释到 {low}%，需加水多少克？",
        f"How many grams of water dilute {a} g of {p}% brine to {low}%?",
    )
    return draft({"a": a, "p": p, "low": low}, question, show(value), f"{a}×{p}/{low} - {a} = {show(value)}")


@generator
def ages(r: random.Random, level: int) -> Draft:
    """When a parent is k times as old as the child."""
    k, child, years = r.randint(2, 3 + level // 2), r.randint(3, 10 + level), r.randint(1, 4 + level)
    parent = k * (child + years) - years
    question = Both(
        f"孩子今年 {child} 岁，家长今年 {parent} 岁。几年后家长的年龄是孩子的 {k} 倍？",
        f"A child is {child} and a parent {parent} years old. In how many years is the parent {k} times as old as the child?",
    )
    steps = (f"{parent} + x = {k}({child} + x)", f"{k - 1}x = {parent - k * child}", f"x = {years}")
    return draft({"child": child, "parent": parent, "k": k}, question, years, *steps)


@generator
def heads_and_legs(r: random.Random, level: int) -> Draft:
    """Chickens and rabbits in a cage."""
    chickens, rabbits = r.randint(2, 12 * level), r.randint(2, 12 * level)
    heads, legs = chickens + rabbits, 2 * chickens + 4 * rabbits
    question = Both(
        f"鸡兔同笼，共有 {heads} 个头、{legs} 只脚，鸡和兔各有多少只？按“鸡, 兔”回答。",
        f"A cage of chickens and rabbits has {heads} heads and {legs} legs. How many of each? Answer as “chickens, rabbits”.",
    )
    steps = (f"({legs} - 2×{heads}) ÷ 2 = {rabbits}", f"{heads} - {rabbits} = {chickens}")
    return draft({"heads": heads, "legs": legs}, question, f"{chickens}, {rabbits}", *steps, kind="list")


@generator
def planting(r: random.Random, level: int) -> Draft:
    """Fence posts: both ends, or round a closed way."""
    gap, n = r.randint(2, 6 + level), r.randint(4, 20 * level + 5)
    closed = r.random() < 0.5
    length = gap * n
    value = n if closed else n + 1
    where = Both(
        "环形跑道" if closed else "直路（两端都种）",
        "a circular track" if closed else "a straight road, both ends included",
    )
    question = Both(
        f"在长 {length} 米的{where.zh}边每隔 {gap} 米种一棵树，共种多少棵？",
        f"Trees are planted every {gap} m along {where.en}, {length} m long. How many trees?",
    )
    step = f"{length} ÷ {gap} = {n}" + ("" if closed else f", {n} + 1 = {value}")
    return draft({"length": length, "gap": gap, "closed": closed}, question, value, step)


@generator
def shopping(r: random.Random, level: int) -> Draft:
    """Several goods, a payment, the change."""
    goods = [
        (r.randint(1, 4 + level), Fraction(r.randint(4, 40 * level), 4 if level > 1 else 1))
        for _ in range(1 + level // 2 + 1)
    ]
    total = sum((n * p for n, p in goods), Fraction(0))
    paid = (int(total) // 50 + 1) * 50
    zh = "、".join(f"{n} 件单价 {decimal(p)} 元的商品" for n, p in goods)
    en = ", ".join(f"{n} items at {decimal(p)} dollars each" for n, p in goods)
    question = Both(
        f"买了{zh}，付 {paid} 元，应找回多少元？",
        f"Someone buys {en} and pays with {paid} dollars. How much change is due?",
    )
    text = " + ".join(f"{n}×{decimal(p)}" for n, p in goods)
    facts = {"goods": [[n, str(p)] for n, p in goods], "paid": paid}
    return draft(
        facts,
        question,
        decimal(paid - total),
        f"{text} = {decimal(total)}",
        f"{paid} - {decimal(total)} = {decimal(paid - total)}",
    )
