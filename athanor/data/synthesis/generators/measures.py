"""Units, clocks, calendars."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import datetime
import random
from fractions import Fraction

from athanor.data.synthesis.generators.base import decimal, generator, span
from athanor.data.synthesis.types import Both, Draft, draft

#: quantity → units as (Chinese, English, size in the smallest).
UNITS: dict[str, list[tuple[str, str, Fraction]]] = {
    "length": [
        ("毫米", "mm", Fraction(1)),
        ("厘米", "cm", Fraction(10)),
        ("米", "m", Fraction(1000)),
        ("千米", "km", Fraction(10**6)),
    ],
    "mass": [("克", "g", Fraction(1)), ("千克", "kg", Fraction(1000)), ("吨", "t", Fraction(10**6))],
    "time": [
        ("秒", "seconds", Fraction(1)),
        ("分钟", "minutes", Fraction(60)),
        ("小时", "hours", Fraction(3600)),
        ("天", "days", Fraction(86400)),
    ],
    "area": [
        ("平方厘米", "cm²", Fraction(1)),
        ("平方米", "m²", Fraction(10**4)),
        ("公顷", "ha", Fraction(10**8)),
        ("平方千米", "km²", Fraction(10**10)),
    ],
    "volume": [("毫升", "ml", Fraction(1)), ("升", "l", Fraction(1000)), ("立方米", "m³", Fraction(10**6))],
    "data": [
        ("字节", "bytes", Fraction(1)),
        ("KiB", "KiB", Fraction(1024)),
        ("MiB", "MiB", Fraction(1024**2)),
        ("GiB", "GiB", Fraction(1024**3)),
    ],
}


@generator
def unit(r: random.Random, level: int, quantity: str = "length") -> Draft:
    """Convert within a quantity, to a whole number or a finite decimal."""
    units = UNITS[quantity]
    i = r.randrange(len(units) - 1)
    small, large = units[i], units[min(i + 1 + (level > 3), len(units) - 1)]
    ratio = large[2] / small[2]
    n = Fraction(span(r, level, 9, 30, 90, 300, 900), 1 if level < 3 else 4)
    down = level < 2 or quantity in ("time", "data") or r.random() < 0.5
    given, a, b, value = (n, large, small, n * ratio) if down else (n, small, large, n / ratio)
    question = Both(f"{decimal(given)} {a[0]}等于多少{b[0]}？", f"How many {b[1]} are {decimal(given)} {a[1]}?")
    step = f"{decimal(given)} {'×' if down else '÷'} {ratio} = {decimal(value)}"
    facts = {"quantity": quantity, "n": str(given), "from": a[1], "to": b[1]}
    return draft(facts, question, decimal(value), step)


@generator
def temperature(r: random.Random, level: int) -> Draft:
    """Celsius ↔ Fahrenheit."""
    c = 5 * r.randint(-4 * level, 8 * level + 4)
    f = c * 9 // 5 + 32
    if level % 2:
        question = Both(f"{c} 摄氏度是多少华氏度？", f"What is {c} °C in °F?")
        return draft({"c": c}, question, f, f"{c} × 9/5 + 32 = {f}")
    question = Both(f"{f} 华氏度是多少摄氏度？", f"What is {f} °F in °C?")
    return draft({"f": f}, question, c, f"({f} - 32) × 5/9 = {c}")


@generator
def speed_unit(r: random.Random, level: int) -> Draft:
    """km/h ↔ m/s."""
    ms = Fraction(r.randint(1, 10 * level + 5) * 5, 2)
    kmh = ms * Fraction(18, 5)
    if level % 2:
        question = Both(f"{decimal(kmh)} 千米/时等于多少米/秒？", f"What is {decimal(kmh)} km/h in m/s?")
        return draft({"kmh": str(kmh)}, question, decimal(ms), f"{decimal(kmh)} ÷ 3.6 = {decimal(ms)}")
    question = Both(f"{decimal(ms)} 米/秒等于多少千米/时？", f"What is {decimal(ms)} m/s in km/h?")
    return draft({"ms": str(ms)}, question, decimal(kmh), f"{decimal(ms)} × 3.6 = {decimal(kmh)}")


@generator
def clock(r: random.Random, level: int, what: str = "add") -> Draft:
    """Clock times: later, difference, the angle of the hands."""
    minute = r.randrange(24 * 60)
    start = f"{minute // 60:02d}:{minute % 60:02d}"
    if what == "angle":
        minute = r.randrange(12 * 60) if level > 2 else 5 * r.randrange(144)
        h, m = divmod(minute, 60)
        raw = abs(Fraction(60 * h + m, 2) - 6 * m)
        value = min(raw, 360 - raw)
        question = Both(
            f"钟面上 {h:02d}:{m:02d} 时，时针与分针的夹角（不超过 180°）是多少度？",
            f"How large is the angle (at most 180°) of the hands of a clock at {h:02d}:{m:02d}, in degrees?",
        )
        return draft(
            {"what": what, "h": h, "m": m}, question, decimal(value), f"|30×{h} + {m}/2 - 6×{m}| = {decimal(raw)}"
        )
    span_min = r.randint(10, 120 * level)
    end = (minute + span_min) % 1440
    stop = f"{end // 60:02d}:{end % 60:02d}"
    facts = {"what": what, "start": start, "minutes": span_min}
    if what == "add":
        question = Both(
            f"从 {start} 起过 {span_min} 分钟是几点几分（24 小时制，写成 HH:MM）？",
            f"What time is it {span_min} minutes after {start} (24-hour clock, HH:MM)?",
        )
        return draft(
            facts,
            question,
            stop,
            f"{span_min} = {span_min // 60}×60 + {span_min % 60}",
            f"{start} + {span_min // 60}:{span_min % 60:02d} = {stop}",
            kind="text",
        )
    if what != "difference":
        raise ValueError(what)
    question = Both(
        f"从 {start} 到其后第一个 {stop} 相隔多少分钟？", f"How many minutes pass from {start} to the next {stop}?"
    )
    return draft(facts, question, span_min % 1440 or 1440, f"({stop}) - ({start}) = {span_min % 1440 or 1440} min")


_WEEKDAYS = Both("一二三四五六日", "Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


@generator
def calendar(r: random.Random, level: int, what: str = "difference") -> Draft:
    """Days between dates, the date n days later, weekdays, leap years."""
    year = r.randint(1950, 2050)
    start = datetime.date(year, 1, 1) + datetime.timedelta(r.randrange(365))
    n = r.randint(5, (40, 90, 300, 700, 3_000)[level - 1])
    end = start + datetime.timedelta(n)
    facts = {"what": what, "start": start.isoformat(), "n": n}
    if what == "difference":
        question = Both(f"从 {start} 到 {end} 相隔多少天？", f"How many days lie between {start} and {end}?")
        steps = (f"{start.toordinal()}, {end.toordinal()}", f"{end.toordinal()} - {start.toordinal()} = {n}")
        note = Both("用从公元元年 1 月 1 日起的天数计算：", "Count the days since 1 January of the year 1:")
        return draft(facts, question, n, note, *steps)
    if what == "later":
        question = Both(
            f"{start} 之后 {n} 天是哪一天（写成 YYYY-MM-DD）？", f"Which date is {n} days after {start} (YYYY-MM-DD)?"
        )
        last = datetime.date(start.year, 12, 31)
        step = Both(f"该年还剩 {(last - start).days} 天。", f"{(last - start).days} days are left in that year.")
        return draft(facts, question, end.isoformat(), step, kind="text")
    if what == "weekday":
        a, b = start.weekday(), end.weekday()
        zh, en = _WEEKDAYS.zh, _WEEKDAYS.en.split()
        question = Both(
            f"{start} 是星期{zh[a]}，{n} 天后是星期几？", f"{start} is a {en[a]}. Which weekday is {n} days later?"
        )
        weeks = f"{n} = {n // 7}×7 + {n % 7}"
        return Draft(facts, question, Both(f"星期{zh[b]}", en[b]), (Both(weeks, weeks),), "text")
    if what != "leap":
        raise ValueError(what)
    low = r.randint(1600, 2300)
    high = low + r.randint(8, 20 + 20 * level)
    leaps = [y for y in range(low, high + 1) if y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)]
    question = Both(
        f"公元 {low} 年到 {high} 年（含两端）有多少个闰年？",
        f"How many leap years are there from {low} to {high} inclusive?",
    )
    step = Both(
        f"能被 4 整除且不被 100 整除，或能被 400 整除：{', '.join(map(str, leaps)) or '无'}",
        f"Divisible by 4 and not by 100, or by 400: {', '.join(map(str, leaps)) or 'none'}",
    )
    return draft({"what": what, "low": low, "high": high}, question, len(leaps), step)
