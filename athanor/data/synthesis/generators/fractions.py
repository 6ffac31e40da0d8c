"""Fractions, percentages, ratios, money."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction
from math import gcd, lcm

from athanor.data.synthesis.generators.base import decimal, generator, nonzero, show, span
from athanor.data.synthesis.types import Both, Draft, draft


def _proper(r: random.Random, level: int) -> Fraction:
    bottom = span(r, level, 6, 9, 12, 20, 40) + 1
    return Fraction(r.randint(1, bottom - 1), bottom)


@generator
def fraction_op(r: random.Random, level: int, op: str = "add") -> Draft:
    """Two fractions under +, −, × or ÷."""
    a, b = _proper(r, level), _proper(r, level)
    if op == "subtract" and a < b:
        a, b = b, a
    value = {"add": a + b, "subtract": a - b, "multiply": a * b, "divide": a / b}[op]
    sign = {"add": "+", "subtract": "-", "multiply": "×", "divide": "÷"}[op]
    if op in ("add", "subtract"):
        m = lcm(a.denominator, b.denominator)
        top = f"({a * m} {sign} {b * m})/{m}"
        steps = [f"{show(a)} = {a * m}/{m}, {show(b)} = {b * m}/{m}", f"{top} = {show(value)}"]
    else:
        c = 1 / b if op == "divide" else b
        raw = f"({a.numerator} × {c.numerator})/({a.denominator} × {c.denominator})"
        steps = [f"{show(a)} ÷ {show(b)} = {show(a)} × {show(c)}"] if op == "divide" else []
        steps.append(f"{raw} = {a.numerator * c.numerator}/{a.denominator * c.denominator} = {show(value)}")
    text = f"{show(a)} {sign} {show(b)}"
    question = Both(f"计算 {text}，结果化为最简。", f"Compute {text} in lowest terms.")
    return draft({"a": str(a), "b": str(b), "op": op}, question, show(value), *steps)


@generator
def simplify_fraction(r: random.Random, level: int) -> Draft:
    """Lowest terms by the greatest common divisor."""
    f, k = _proper(r, level), span(r, level, 5, 9, 12, 30, 90) + 1
    top, bottom = f.numerator * k, f.denominator * k
    question = Both(f"把 {top}/{bottom} 化为最简分数。", f"Reduce {top}/{bottom} to lowest terms.")
    common = gcd(top, bottom)
    step = f"gcd({top}, {bottom}) = {common}"
    return draft({"top": top, "bottom": bottom}, question, show(f), step, f"{top}/{bottom} = {show(f)}")


@generator
def mixed_number(r: random.Random, level: int) -> Draft:
    """A mixed number as one fraction."""
    whole, f = span(r, level, 5, 9, 12, 20, 40), _proper(r, level)
    value = whole + f
    text = Both(f"{whole} 又 {show(f)}", f"{whole} and {show(f)}")
    question = Both(f"把带分数 {text.zh} 化为假分数。", f"Write the mixed number {text.en} as an improper fraction.")
    step = f"({whole} × {f.denominator} + {f.numerator})/{f.denominator} = {show(value)}"
    return draft({"whole": whole, "part": str(f)}, question, show(value), step)


@generator
def fraction_of(r: random.Random, level: int) -> Draft:
    """A fraction of a quantity that comes out whole."""
    f, k = _proper(r, level), span(r, level, 9, 20, 40, 90, 200)
    n = f.denominator * k
    question = Both(f"{n} 的 {show(f)} 是多少？", f"What is {show(f)} of {n}?")
    steps = (f"{n} ÷ {f.denominator} = {k}", f"{k} × {f.numerator} = {k * f.numerator}")
    return draft({"n": n, "f": str(f)}, question, k * f.numerator, *steps)


@generator
def decimal_fraction(r: random.Random, level: int, back: bool = False) -> Draft:
    """A fraction as a finite decimal, or ``back``; periodic decimals from level 4 (back)."""
    if back and level >= 4:
        period = r.randint(1, 98)
        digits = f"{period:02d}"
        value = Fraction(period, 99)
        text = Both(f"0.{digits}{digits}…（循环节 {digits}）", f"0.{digits}{digits}… (period {digits})")
        question = Both(f"把循环小数 {text.zh} 化为分数。", f"Write the repeating decimal {text.en} as a fraction.")
        step = f"100x - x = {period}, x = {period}/99 = {show(value)}"
        return draft({"period": digits}, question, show(value), step)
    bottom = r.choice([2, 4, 5, 8, 10, 20, 25, 40, 50, 125][: 4 + level])
    value = Fraction(r.randint(1, bottom * level), bottom)
    text_ = decimal(value)
    if back:
        question = Both(f"把 {text_} 化为最简分数。", f"Write {text_} as a fraction in lowest terms.")
        places = len(text_.partition(".")[2])
        step = f"{text_} = {value * 10**places}/{10**places} = {show(value)}"
        return draft({"value": str(value), "back": True}, question, show(value), step)
    question = Both(f"把 {show(value)} 化为小数。", f"Write {show(value)} as a decimal.")
    step = f"{value.numerator} ÷ {value.denominator} = {text_}"
    return draft({"value": str(value)}, question, text_, step)


@generator
def percent(r: random.Random, level: int, what: str = "of") -> Draft:
    """Percentages: of a number, the share that one number is of another, change, and the number before a change."""
    p = r.choice([5, 10, 20, 25, 30, 40, 50, 60, 75, 80][: 4 + level]) if level < 3 else r.randint(1, 95)
    base = 100 * span(r, level, 6, 12, 30, 60, 120) if level > 2 else 20 * r.randint(2, 10 * level)
    part = Fraction(base * p, 100)
    facts = {"p": p, "base": base, "what": what}
    if what == "of":
        question = Both(f"{base} 的 {p}% 是多少？", f"What is {p}% of {base}?")
        return draft(facts, question, decimal(part), f"{base} × {p}/100 = {decimal(part)}")
    if what == "share":
        question = Both(
            f"{decimal(part)} 是 {base} 的百分之几？（只写数字）",
            f"What percentage of {base} is {decimal(part)}? (number only)",
        )
        return draft(facts, question, p, f"{decimal(part)} ÷ {base} × 100 = {p}")
    up = r.random() < 0.5
    now = base + part if up else base - part
    facts["up"] = up
    verb = Both("增加" if up else "减少", "rises" if up else "falls")
    if what == "change":
        question = Both(
            f"一个量原来是 {base}，{verb.zh}了 {p}%，现在是多少？",
            f"A quantity of {base} {verb.en} by {p}%. What is it now?",
        )
        sign = "+" if up else "-"
        return draft(
            facts,
            question,
            decimal(now),
            f"{base} × {p}% = {decimal(part)}",
            f"{base} {sign} {decimal(part)} = {decimal(now)}",
        )
    if what != "reverse":
        raise ValueError(what)
    question = Both(
        f"一个量{verb.zh} {p}% 之后是 {decimal(now)}，原来是多少？",
        f"After a quantity {verb.en} by {p}% it is {decimal(now)}. What was it before?",
    )
    rate = Fraction(100 + p if up else 100 - p, 100)
    return draft(facts, question, base, f"{decimal(now)} ÷ {decimal(rate)} = {base}")


@generator
def ratio(r: random.Random, level: int, what: str = "simplify") -> Draft:
    """Ratios: lowest terms, and a quantity shared in a ratio (the largest share is asked)."""
    parts = [r.randint(1, 5 + 2 * level) for _ in range(2 + (level > 2))]
    common = gcd(*parts)
    parts = [p // common for p in parts]
    k = span(r, level, 9, 20, 40, 90, 200) + 1
    text = ":".join(map(str, parts))
    if what == "simplify":
        raw = ":".join(str(p * k) for p in parts)
        question = Both(f"化简比 {raw}，按“a, b, …”列出各项。", f"Simplify the ratio {raw}; list its terms “a, b, …”.")
        answer = ", ".join(map(str, parts))
        return draft({"terms": [p * k for p in parts]}, question, answer, f"gcd = {k}", f"{raw} = {text}", kind="list")
    if what != "share":
        raise ValueError(what)
    total, top = sum(parts) * k, max(parts)
    question = Both(
        f"把 {total} 按 {text} 分配，最大的一份是多少？",
        f"{total} is shared in the ratio {text}. How much is the largest share?",
    )
    steps = (
        f"{' + '.join(map(str, parts))} = {sum(parts)}",
        f"{total} ÷ {sum(parts)} = {k}",
        f"{k} × {top} = {k * top}",
    )
    return draft({"total": total, "parts": parts}, question, k * top, *steps)


@generator
def proportion(r: random.Random, level: int, inverse: bool = False) -> Draft:
    """Direct or inverse proportion: the fourth quantity."""
    a, c = span(r, level, 9, 12, 20, 40, 90) + 1, span(r, level, 9, 12, 20, 40, 90) + 1
    b = span(r, level, 9, 12, 20, 40, 90) + 1
    value = Fraction(a * b, c) if inverse else Fraction(b * c, a)
    facts = {"a": a, "b": b, "c": c, "inverse": inverse}
    if inverse:
        question = Both(
            f"y 与 x 成反比例，x = {a} 时 y = {b}。x = {c} 时 y 是多少？",
            f"y is inversely proportional to x, and y = {b} when x = {a}. What is y when x = {c}?",
        )
        return draft(facts, question, show(value), f"k = {a} × {b} = {a * b}", f"y = {a * b}/{c} = {show(value)}")
    question = Both(
        f"y 与 x 成正比例，x = {a} 时 y = {b}。x = {c} 时 y 是多少？",
        f"y is proportional to x, and y = {b} when x = {a}. What is y when x = {c}?",
    )
    k = Fraction(b, a)
    return draft(facts, question, show(value), f"k = {b}/{a} = {show(k)}", f"y = {show(k)} × {c} = {show(value)}")


@generator
def map_scale(r: random.Random, level: int) -> Draft:
    """A map's scale: centimetres → kilometres."""
    scale, cm = r.choice([10_000, 25_000, 50_000, 100_000, 200_000, 500_000]), r.randint(2, 8 * level + 4)
    km = Fraction(scale * cm, 100_000)
    question = Both(
        f"比例尺为 1:{scale} 的地图上，两地相距 {cm} 厘米，实际相距多少千米？",
        f"On a map of scale 1:{scale} two places are {cm} cm apart. How many km apart are they?",
    )
    return draft(
        {"scale": scale, "cm": cm},
        question,
        decimal(km),
        f"{cm} × {scale} = {cm * scale} cm",
        f"{cm * scale} ÷ 100000 = {decimal(km)} km",
    )


@generator
def money(r: random.Random, level: int, what: str = "discount") -> Draft:
    """Discount, simple and compound interest, profit rate."""
    price, p = 100 * span(r, level, 9, 20, 40, 90, 300), r.choice([5, 10, 15, 20, 25, 30, 40])
    facts = {"what": what, "price": price, "p": p}
    if what == "discount":
        value = Fraction(price * (100 - p), 100)
        question = Both(
            f"一件商品标价 {price} 元，降价 {p}% 出售，售价是多少元？",
            f"An item priced at {price} dollars is sold {p}% off. What does it cost?",
        )
        return draft(facts, question, decimal(value), f"{price} × (1 - {p}/100) = {decimal(value)}")
    years = facts["years"] = r.randint(2, 2 + level)
    if what == "simple":
        value = Fraction(price * p * years, 100)
        question = Both(
            f"本金 {price} 元，年利率 {p}%，单利，{years} 年的利息是多少元？",
            f"What simple interest do {price} dollars earn at {p}% a year in {years} years?",
        )
        return draft(facts, question, decimal(value), f"{price} × {p}/100 × {years} = {decimal(value)}")
    if what == "compound":
        steps, value = [], Fraction(price)
        for year in range(1, years + 1):
            after = value * (100 + p) / 100
            steps.append(
                Both(
                    f"第 {year} 年末：{decimal(value)} × {decimal(Fraction(100 + p, 100))} = {decimal(after)}",
                    f"After year {year}: {decimal(value)} × {decimal(Fraction(100 + p, 100))} = {decimal(after)}",
                )
            )
            value = after
        question = Both(
            f"本金 {price} 元，年利率 {p}%，按年复利，{years} 年后本息共多少元？",
            f"{price} dollars grow at {p}% a year, compounded yearly. How much are they after {years} years?",
        )
        return draft(facts, question, decimal(value), *steps)
    if what != "profit":
        raise ValueError(what)
    sold = price + nonzero(r, 9) * price // 20
    rate = Fraction((sold - price) * 100, price)
    facts = {"what": what, "cost": price, "sold": sold}
    question = Both(
        f"进价 {price} 元的商品以 {sold} 元卖出，利润率是百分之几？（亏损为负，只写数字）",
        f"Goods bought for {price} dollars are sold for {sold}. What is the profit in per cent of the cost? "
        "(a loss is negative; number only)",
    )
    return draft(
        facts,
        question,
        show(rate),
        f"{sold} - {price} = {sold - price}",
        f"{sold - price} ÷ {price} × 100 = {show(rate)}",
    )
