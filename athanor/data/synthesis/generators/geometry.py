"""Plane and solid geometry, trigonometry: lengths, areas, volumes (circles as multiples of π)."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import random
from fractions import Fraction

from athanor.data.synthesis.generators.base import decimal, generator, nonzero, show, span
from athanor.data.synthesis.types import Both, Draft, draft

#: Right triangles with whole sides.
TRIPLES = [(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41), (12, 35, 37), (11, 60, 61)]


@generator
def area(r: random.Random, level: int, shape: str = "rectangle", what: str = "area") -> Draft:
    """Area (or perimeter) of a rectangle, triangle, parallelogram, trapezoid, rhombus."""
    a, b, h = (span(r, level, 9, 15, 30, 60, 120) + 1 for _ in range(3))
    facts = {"shape": shape, "what": what, "a": a, "b": b, "h": h}
    if shape == "rectangle":
        told = Both(f"长方形的长为 {a}，宽为 {b}", f"A rectangle measures {a} by {b}")
        value, step = (Fraction(a * b), f"{a} × {b} = {a * b}")
        if what == "perimeter":
            value, step = Fraction(2 * (a + b)), f"2 × ({a} + {b}) = {2 * (a + b)}"
    elif shape == "triangle":
        told = Both(f"三角形的底为 {a}，高为 {h}", f"A triangle has base {a} and height {h}")
        value = Fraction(a * h, 2)
        step = f"{a} × {h} ÷ 2 = {show(value)}"
    elif shape == "parallelogram":
        told = Both(f"平行四边形的底为 {a}，高为 {h}", f"A parallelogram has base {a} and height {h}")
        value, step = Fraction(a * h), f"{a} × {h} = {a * h}"
    elif shape == "trapezoid":
        told = Both(
            f"梯形的上底为 {a}，下底为 {b}，高为 {h}", f"A trapezoid has parallel sides {a} and {b} and height {h}"
        )
        value = Fraction((a + b) * h, 2)
        step = f"({a} + {b}) × {h} ÷ 2 = {show(value)}"
    else:
        told = {"rhombus": Both(f"菱形的两条对角线为 {a} 和 {b}", f"A rhombus has diagonals {a} and {b}")}[shape]
        value = Fraction(a * b, 2)
        step = f"{a} × {b} ÷ 2 = {show(value)}"
    name = Both("周长", "perimeter") if what == "perimeter" else Both("面积", "area")
    question = Both(f"{told.zh}，求{name.zh}。", f"{told.en}. Find its {name.en}.")
    return draft(facts, question, show(value), step)


@generator
def circle(r: random.Random, level: int, what: str = "area") -> Draft:
    """Circumference, area, arc, sector, ring; the answer is the factor of π."""
    radius = span(r, level, 9, 15, 30, 60, 120) + 1
    facts = {"what": what, "radius": radius}
    name = Both("", "")
    if what in ("arc", "sector"):
        angle = facts["angle"] = r.choice([30, 45, 60, 90, 120, 135, 150, 240, 270])
        share = Fraction(angle, 360)
        value = share * (2 * radius if what == "arc" else radius * radius)
        name = Both("弧长", "arc length") if what == "arc" else Both("扇形面积", "area of the sector")
        told = Both(
            f"圆的半径为 {radius}，圆心角为 {angle}°", f"A circle has radius {radius}; the central angle is {angle}°"
        )
        step = f"{angle}/360 × {'2×' + str(radius) if what == 'arc' else str(radius) + '^2'} = {show(value)}"
    elif what == "ring":
        inner = facts["inner"] = r.randint(1, radius - 1)
        value = Fraction(radius**2 - inner**2)
        name = Both("圆环面积", "area of the ring")
        told = Both(
            f"圆环的外半径为 {radius}，内半径为 {inner}", f"A ring has outer radius {radius} and inner radius {inner}"
        )
        step = f"{radius}^2 - {inner}^2 = {value}"
    else:
        value = Fraction({"area": radius * radius, "circumference": 2 * radius}[what])
        name = Both("面积", "area") if what == "area" else Both("周长", "circumference")
        told = Both(f"圆的半径为 {radius}", f"A circle has radius {radius}")
        step = f"{radius}^2 = {value}" if what == "area" else f"2 × {radius} = {value}"
    question = Both(
        f"{told.zh}。{name.zh}是 π 的多少倍？", f"{told.en}. By which number must π be multiplied to get the {name.en}?"
    )
    return draft(facts, question, show(value), step)


@generator
def pythagoras(r: random.Random, level: int, what: str = "hypotenuse") -> Draft:
    """A side of a right triangle; the diagonal of a box."""
    a, b, c = r.choice(TRIPLES[: 2 + level])
    k = r.randint(1, 2 + 2 * level)
    a, b, c = a * k, b * k, c * k
    facts = {"what": what, "sides": [a, b, c]}
    if what == "hypotenuse":
        question = Both(
            f"直角三角形的两条直角边为 {a} 和 {b}，求斜边。",
            f"The legs of a right triangle are {a} and {b}. Find the hypotenuse.",
        )
        return draft(facts, question, c, f"{a}^2 + {b}^2 = {c * c}", f"√{c * c} = {c}")
    if what == "leg":
        question = Both(
            f"直角三角形的斜边为 {c}，一条直角边为 {a}，求另一条直角边。",
            f"A right triangle has hypotenuse {c} and one leg {a}. Find the other leg.",
        )
        return draft(facts, question, b, f"{c}^2 - {a}^2 = {b * b}", f"√{b * b} = {b}")
    if what != "box":
        raise ValueError(what)
    x, y, z = (r.randint(1, 5 + 3 * level) for _ in range(3))
    value = x * x + y * y + z * z
    question = Both(
        f"长方体的棱长为 {x}、{y}、{z}，求体对角线长度的平方。",
        f"A box measures {x}, {y}, {z}. Find the square of its space diagonal.",
    )
    return draft({"what": what, "box": [x, y, z]}, question, value, f"{x}^2 + {y}^2 + {z}^2 = {value}")


@generator
def angles(r: random.Random, level: int, what: str = "triangle") -> Draft:
    """Angle sums: triangle, isosceles, polygon, parallel lines, supplementary."""
    a = r.randint(20, 80)
    b = r.randint(20, 150 - a)
    if what == "triangle":
        question = Both(
            f"三角形的两个内角为 {a}° 和 {b}°，第三个角是多少度？",
            f"Two angles of a triangle are {a}° and {b}°. Find the third in degrees.",
        )
        return draft({"what": what, "a": a, "b": b}, question, 180 - a - b, f"180 - {a} - {b} = {180 - a - b}")
    if what == "isosceles":
        top = 2 * r.randint(10, 80)
        question = Both(
            f"等腰三角形的顶角为 {top}°，底角是多少度？",
            f"An isosceles triangle has apex angle {top}°. Find a base angle in degrees.",
        )
        return draft({"what": what, "top": top}, question, (180 - top) // 2, f"(180 - {top}) ÷ 2 = {(180 - top) // 2}")
    if what == "polygon":
        n = r.randint(4, 6 + 4 * level)
        value = 180 * (n - 2)
        question = Both(
            f"{n} 边形的内角和是多少度？", f"What do the interior angles of a polygon of {n} sides sum to, in degrees?"
        )
        return draft({"what": what, "n": n}, question, value, f"({n} - 2) × 180 = {value}")
    if what == "parallel":
        inner = r.random() < 0.5
        value = 180 - a if inner else a
        rule = Both("同旁内角" if inner else "内错角", "co-interior" if inner else "alternate interior")
        question = Both(
            f"两平行线被第三条直线所截，一个角为 {a}°，它的{rule.zh}是多少度？",
            f"A line crosses two parallel lines. One angle is {a}°; how large is its {rule.en} angle in degrees?",
        )
        return draft(
            {"what": what, "a": a, "inner": inner}, question, value, f"180 - {a} = {value}" if inner else f"= {a}"
        )
    if what != "complement":
        raise ValueError(what)
    whole = r.choice([90, 180])
    name = Both("余角" if whole == 90 else "补角", "complement" if whole == 90 else "supplement")
    question = Both(f"{a}° 的角的{name.zh}是多少度？", f"What is the {name.en} of an angle of {a}°, in degrees?")
    return draft({"what": what, "a": a, "whole": whole}, question, whole - a, f"{whole} - {a} = {whole - a}")


@generator
def similar(r: random.Random, level: int, what: str = "side") -> Draft:
    """Similar figures: a side, or an area from the ratio of sides."""
    a, b = r.randint(2, 6 + level), r.randint(2, 6 + level)
    k = r.randint(2, 4 + level)
    if what == "side":
        side = a * k
        value = Fraction(b * side, a)
        question = Both(
            f"两个相似三角形的相似比为 {a}:{b}，前者一边长 {side}，后者的对应边长是多少？",
            f"Two triangles are similar with sides as {a}:{b}. A side of the first is {side}; how long is it in the second?",
        )
        return draft(
            {"what": what, "a": a, "b": b, "side": side}, question, show(value), f"{side} × {b}/{a} = {show(value)}"
        )
    if what != "area":
        raise ValueError(what)
    first = a * a * k
    value = Fraction(first * b * b, a * a)
    question = Both(
        f"两个相似多边形的相似比为 {a}:{b}，前者面积为 {first}，后者面积是多少？",
        f"Two polygons are similar with sides as {a}:{b}. The area of the first is {first}; find that of the second.",
    )
    return draft(
        {"what": what, "a": a, "b": b, "area": first}, question, show(value), f"{first} × {b}^2/{a}^2 = {show(value)}"
    )


@generator
def solid(r: random.Random, level: int, shape: str = "cuboid", what: str = "volume") -> Draft:
    """Volume or surface of cuboid, cube, prism; the factor of π for cylinder, cone and sphere."""
    a, b, c = (span(r, level, 6, 10, 15, 30, 60) + 1 for _ in range(3))
    facts = {"shape": shape, "what": what, "a": a, "b": b, "c": c}
    pi = shape in ("cylinder", "cone", "sphere")
    told = {
        "cuboid": Both(f"长方体的棱长为 {a}、{b}、{c}", f"A cuboid measures {a}, {b}, {c}"),
        "cube": Both(f"正方体的棱长为 {a}", f"A cube has edge {a}"),
        "cylinder": Both(f"圆柱的底面半径为 {a}，高为 {b}", f"A cylinder has radius {a} and height {b}"),
        "cone": Both(f"圆锥的底面半径为 {a}，高为 {b}", f"A cone has radius {a} and height {b}"),
        "sphere": Both(f"球的半径为 {a}", f"A sphere has radius {a}"),
    }[shape]
    formulas = {
        ("cuboid", "volume"): (Fraction(a * b * c), f"{a} × {b} × {c}"),
        ("cuboid", "surface"): (Fraction(2 * (a * b + b * c + a * c)), f"2 × ({a}×{b} + {b}×{c} + {a}×{c})"),
        ("cube", "volume"): (Fraction(a**3), f"{a}^3"),
        ("cube", "surface"): (Fraction(6 * a * a), f"6 × {a}^2"),
        ("cylinder", "volume"): (Fraction(a * a * b), f"{a}^2 × {b}"),
        ("cylinder", "surface"): (Fraction(2 * a * (a + b)), f"2 × {a} × ({a} + {b})"),
        ("cone", "volume"): (Fraction(a * a * b, 3), f"{a}^2 × {b} / 3"),
        ("sphere", "volume"): (Fraction(4 * a**3, 3), f"4/3 × {a}^3"),
        ("sphere", "surface"): (Fraction(4 * a * a), f"4 × {a}^2"),
    }
    value, text = formulas[shape, what]
    name = Both("体积", "volume") if what == "volume" else Both("表面积", "surface area")
    ask = (
        Both(f"{name.zh}是 π 的多少倍？", f"By which number must π be multiplied to get its {name.en}?")
        if pi
        else Both(f"求{name.zh}。", f"Find its {name.en}.")
    )
    return draft(facts, Both(f"{told.zh}，{ask.zh}", f"{told.en}. {ask.en}"), show(value), f"{text} = {show(value)}")


#: sin² of special angles in degrees, and the sign is read off the quadrant.
_SIN = {0: "0", 30: "1/2", 45: "√2/2", 60: "√3/2", 90: "1"}


@generator
def special_angle(r: random.Random, level: int) -> Draft | None:
    """sin, cos, tan of multiples of 30° and 45°, exactly."""
    angle = r.choice([30, 45, 60, 90, 0]) + 90 * r.randrange(1 if level < 2 else 4) + 360 * r.randrange(0, level)
    name = r.choice(["sin", "cos", "tan"])
    a = angle % 360
    reference = a if a <= 90 else 180 - a if a <= 180 else a - 180 if a <= 270 else 360 - a
    sin, cos = _SIN[reference], _SIN[90 - reference]
    signs = {"sin": a < 180, "cos": a <= 90 or a >= 270, "tan": (a % 180) <= 90}
    if name == "tan":
        if reference == 90:
            return None
        value = {0: "0", 30: "√3/3", 45: "1", 60: "√3"}[reference]
    else:
        value = sin if name == "sin" else cos
    if value != "0" and not signs[name]:
        value = "-" + value
    question = Both(f"求 {name} {angle}° 的精确值。", f"Find the exact value of {name} {angle}°.")
    steps = (Both(f"参考角 {reference}°", f"reference angle {reference}°"), f"{name} {angle}° = {value}")
    return draft({"name": name, "angle": angle}, question, value, *steps, kind="expression")


@generator
def trig_ratio(r: random.Random, level: int, what: str = "ratio") -> Draft:
    """A ratio in a right triangle; cos from sin; the law of cosines."""
    a, b, c = r.choice(TRIPLES[: 2 + level])
    if what == "ratio":
        k = r.randint(1, 2 + level)
        name = r.choice(["sin", "cos", "tan"])
        value = {"sin": Fraction(a, c), "cos": Fraction(b, c), "tan": Fraction(a, b)}[name]
        question = Both(
            f"直角三角形 ABC 中 ∠C = 90°，BC = {a * k}，AC = {b * k}，求 {name} A。",
            f"In triangle ABC with ∠C = 90°, BC = {a * k} and AC = {b * k}. Find {name} A.",
        )
        return draft(
            {"what": what, "name": name, "a": a * k, "b": b * k},
            question,
            show(value),
            f"AB = {c * k}",
            f"{name} A = {show(value)}",
        )
    if what == "identity":
        obtuse = r.random() < 0.5
        value = Fraction(-b if obtuse else b, c)
        where = Both("钝角" if obtuse else "锐角", "obtuse" if obtuse else "acute")
        question = Both(
            f"{where.zh} θ 满足 sin θ = {a}/{c}，求 cos θ。", f"θ is {where.en} with sin θ = {a}/{c}. Find cos θ."
        )
        return draft(
            {"what": what, "sin": f"{a}/{c}", "obtuse": obtuse},
            question,
            show(value),
            f"1 - ({a}/{c})^2 = ({b}/{c})^2",
            f"cos θ = {show(value)}",
        )
    if what != "cosine_law":
        raise ValueError(what)
    x, y = r.randint(2, 6 + 3 * level), r.randint(2, 6 + 3 * level)
    angle, twice = r.choice([(60, 1), (120, -1), (90, 0)])
    square = x * x + y * y - twice * x * y
    question = Both(
        f"三角形两边为 {x} 和 {y}，夹角 {angle}°，求第三边的平方。",
        f"Two sides of a triangle are {x} and {y}, the angle between them {angle}°. Find the square of the third side.",
    )
    return draft(
        {"what": what, "x": x, "y": y, "angle": angle},
        question,
        square,
        f"{x}^2 + {y}^2 - 2×{x}×{y}×cos {angle}° = {square}",
    )


@generator
def heron(r: random.Random, level: int) -> Draft:
    """Area from three sides: two right triangles glued along a leg."""
    p, q = r.choice(TRIPLES[: 2 + level]), r.choice(TRIPLES[: 2 + level])
    # scale both so that the shared leg has the same length
    i, j = r.randrange(2), r.randrange(2)
    h = p[i] * q[j]
    a, b = p[2] * q[j], q[2] * p[i]
    base = p[1 - i] * q[j] + q[1 - j] * p[i]
    s = Fraction(a + b + base, 2)
    value = Fraction(base * h, 2)
    question = Both(
        f"三角形三边为 {a}、{b}、{base}，求面积。", f"A triangle has sides {a}, {b}, {base}. Find its area."
    )
    steps = (f"s = {show(s)}", f"√({show(s)}×{show(s - a)}×{show(s - b)}×{show(s - base)}) = {show(value)}")
    return draft({"sides": [a, b, base]}, question, show(value), *steps)


@generator
def inscribed(r: random.Random, level: int, what: str = "inradius") -> Draft:
    """Incircle of a right triangle, square in a circle, regular polygons."""
    if what == "inradius":
        a, b, c = (x * r.randint(1, 1) for x in r.choice(TRIPLES[: 2 + level]))
        k = r.randint(1, 2 * level)
        a, b, c = a * k, b * k, c * k
        value = Fraction(a + b - c, 2)
        question = Both(
            f"直角三角形三边为 {a}、{b}、{c}，求内切圆半径。",
            f"A right triangle has sides {a}, {b}, {c}. Find the radius of its incircle.",
        )
        return draft(
            {"what": what, "sides": [a, b, c]}, question, show(value), f"({a} + {b} - {c}) ÷ 2 = {show(value)}"
        )
    if what != "square":
        raise ValueError(what)
    radius = nonzero(r, 8 + 4 * level)
    radius = abs(radius)
    square = 2 * radius * radius
    question = Both(
        f"半径为 {radius} 的圆的内接正方形面积是多少？",
        f"Find the area of a square inscribed in a circle of radius {radius}.",
    )
    return draft({"what": what, "radius": radius}, question, square, f"(2×{radius})^2 ÷ 2 = {square}")


@generator
def slope_grade(r: random.Random, level: int) -> Draft:
    """Shadows: a height from proportion."""
    stick, shadow = Fraction(r.randint(10, 20), 10), Fraction(r.randint(5, 30), 10)
    times = r.randint(3, 6 + 4 * level)
    long = shadow * times
    value = stick * times
    question = Both(
        f"同一时刻，{decimal(stick)} 米高的竹竿影长 {decimal(shadow)} 米，一棵树影长 {decimal(long)} 米，树高多少米？",
        f"A stick {decimal(stick)} m tall casts a shadow of {decimal(shadow)} m while a tree's shadow is {decimal(long)} m. How tall is the tree in metres?",
    )
    step = f"{decimal(stick)} × {decimal(long)} ÷ {decimal(shadow)} = {decimal(value)}"
    return draft({"stick": str(stick), "shadow": str(shadow), "long": str(long)}, question, decimal(value), step)
