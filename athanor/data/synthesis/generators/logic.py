"""Sets, propositions, puzzles solved by trying all cases."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import itertools
import random

from athanor.data.synthesis.generators.base import generator, listing
from athanor.data.synthesis.types import Both, Draft, draft


@generator
def set_op(r: random.Random, level: int, op: str = "union") -> Draft:
    """Union, intersection, difference, symmetric difference (the elements in ascending order)."""
    n = 4 + 2 * level
    a = sorted(r.sample(range(1, 2 * n), r.randint(3, 3 + level)))
    b = sorted(r.sample(range(1, 2 * n), r.randint(3, 3 + level)))
    out, sign = {
        "union": (set(a) | set(b), "∪"),
        "intersection": (set(a) & set(b), "∩"),
        "difference": (set(a) - set(b), "\\"),
        "symmetric": (set(a) ^ set(b), "△"),
    }[op]
    ask = Both(f"求 A {sign} B，从小到大列出元素（空集写 ∅）。", f"List A {sign} B in ascending order (∅ if empty).")
    question = Both(
        f"A = {{{listing(a)}}}，B = {{{listing(b)}}}。{ask.zh}", f"A = {{{listing(a)}}}, B = {{{listing(b)}}}. {ask.en}"
    )
    both_ = Both(
        f"公共元素：{listing(sorted(set(a) & set(b))) or '无'}",
        f"In both: {listing(sorted(set(a) & set(b))) or 'none'}",
    )
    return draft({"op": op, "a": a, "b": b}, question, listing(sorted(out)) or "∅", both_, kind="set")


@generator
def venn(r: random.Random, level: int) -> Draft:
    """Inclusion and exclusion for two (three from level 4) clubs."""
    if level < 4:
        only_a, only_b, inner, none = (r.randint(1, 8 * level) for _ in range(4))
        a, b, n = only_a + inner, only_b + inner, only_a + only_b + inner + none
        question = Both(
            f"{n} 名学生中，{a} 人参加甲社团，{b} 人参加乙社团，{inner} 人两个都参加。两个都不参加的有多少人？",
            f"Of {n} students {a} are in club A, {b} in club B and {inner} in both. How many are in neither?",
        )
        return draft(
            {"n": n, "a": a, "b": b, "ab": inner},
            question,
            none,
            f"{a} + {b} - {inner} = {a + b - inner}",
            f"{n} - {a + b - inner} = {none}",
        )
    parts = [r.randint(1, 4 * level) for _ in range(7)]  # only a, b, c, ab, ac, bc, abc
    a, b, c = (
        parts[0] + parts[3] + parts[4] + parts[6],
        parts[1] + parts[3] + parts[5] + parts[6],
        parts[2] + parts[4] + parts[5] + parts[6],
    )
    ab, ac, bc, abc = parts[3] + parts[6], parts[4] + parts[6], parts[5] + parts[6], parts[6]
    value = a + b + c - ab - ac - bc + abc
    question = Both(
        f"甲、乙、丙三个社团各有 {a}、{b}、{c} 人，同时在甲乙、甲丙、乙丙的各有 {ab}、{ac}、{bc} 人，三个都参加的 {abc} 人。至少参加一个的有多少人？",
        f"Clubs A, B, C have {a}, {b}, {c} members; {ab}, {ac}, {bc} are in A and B, A and C, B and C; {abc} in all three. How many people are in at least one?",
    )
    return draft(
        {"sizes": [a, b, c, ab, ac, bc, abc]},
        question,
        value,
        f"{a} + {b} + {c} - {ab} - {ac} - {bc} + {abc} = {value}",
    )


_SIGNS = {"and": "∧", "or": "∨", "imp": "→", "iff": "↔"}


def truth(op: str, a: bool, b: bool) -> bool:
    """The truth table of a connective."""
    return {"and": a and b, "or": a or b, "imp": not a or b, "iff": a == b}[op]


def _formula(r: random.Random, names: str, depth: int) -> tuple[str, object]:
    if depth == 0:
        name = r.choice(names)
        return (f"¬{name}", ("not", name)) if r.random() < 0.35 else (name, name)
    op = r.choice(list(_SIGNS))
    left, right = _formula(r, names, depth - 1), _formula(r, names, r.randint(0, depth - 1))
    return f"({left[0]} {_SIGNS[op]} {right[0]})", (op, left[1], right[1])


def evaluate(tree: object, values: dict[str, bool]) -> bool:
    """The value of a formula tree under an assignment."""
    if isinstance(tree, str):
        return values[tree]
    assert isinstance(tree, tuple)
    if tree[0] == "not":
        return not values[tree[1]]
    return truth(tree[0], evaluate(tree[1], values), evaluate(tree[2], values))


@generator
def proposition(r: random.Random, level: int, what: str = "value") -> Draft:
    """The value of a formula, or how many assignments make it true."""
    names = "PQ" if level < 3 else "PQR"
    text, tree = _formula(r, names, 1 + level // 2 + (what == "count"))
    text = text.removeprefix("(").removesuffix(")") if text.startswith("(") else text
    if what == "value":
        values = {n: r.random() < 0.5 for n in names}
        value = evaluate(tree, values)
        zh = "，".join(f"{n} 为{'真' if v else '假'}" for n, v in values.items())
        en = ", ".join(f"{n} is {'true' if v else 'false'}" for n, v in values.items())
        question = Both(f"{zh}。命题 {text} 的真值是什么（真/假）？", f"{en}. Is {text} true or false?")
        facts = {"what": what, "formula": text, "values": values}
        return Draft(facts, question, Both("真" if value else "假", "true" if value else "false"), (), "text")
    if what != "count":
        raise ValueError(what)
    rows = [dict(zip(names, bits, strict=True)) for bits in itertools.product([True, False], repeat=len(names))]
    good = [row for row in rows if evaluate(tree, row)]
    shown = "; ".join("".join("T" if row[n] else "F" for n in names) for row in good) or "-"
    question = Both(
        f"在 {', '.join(names)} 的 {len(rows)} 种真值指派中，使 {text} 为真的有多少种？",
        f"How many of the {len(rows)} assignments of {', '.join(names)} make {text} true?",
    )
    step = Both(f"成真指派（按 {names} 的顺序）：{shown}", f"True under (in the order {names}): {shown}")
    return draft({"what": what, "formula": text}, question, len(good), step)


_PEOPLE = Both("甲乙丙丁", "ABCD")


@generator
def knights(r: random.Random, level: int) -> Draft | None:
    """Knights tell the truth, knaves lie: a puzzle with exactly one solution, found by trying all cases."""
    n = 2 if level < 2 else 3 if level < 5 else 4
    says = []
    for i in range(n):
        j = r.choice([k for k in range(n) if k != i])
        kind = r.choice(["knave", "same", "count"] if level > 1 else ["knave", "same"])
        says.append((kind, j, r.randint(1, n - 1)))

    def holds(i: int, case: tuple[bool, ...]) -> bool:
        kind, j, k = says[i]
        return not case[j] if kind == "knave" else case[i] == case[j] if kind == "same" else sum(case) == k

    cases = [c for c in itertools.product([True, False], repeat=n) if all(holds(i, c) == c[i] for i in range(n))]
    if len(cases) != 1:
        return None
    zh, en = _PEOPLE

    def told(i: int) -> Both:
        kind, j, k = says[i]
        if kind == "knave":
            return Both(f"{zh[i]}说：“{zh[j]}是说谎者。”", f"{en[i]} says: “{en[j]} is a knave.”")
        if kind == "same":
            return Both(f"{zh[i]}说：“我和{zh[j]}是同一类人。”", f"{en[i]} says: “{en[j]} and I are of the same kind.”")
        return Both(f"{zh[i]}说：“我们当中恰有 {k} 个骑士。”", f"{en[i]} says: “Exactly {k} of us are knights.”")

    lines = [told(i) for i in range(n)]
    case = cases[0]
    answer = Both(
        "、".join(zh[i] for i in range(n) if case[i]) or "无", ", ".join(en[i] for i in range(n) if case[i]) or "none"
    )
    question = Both(
        f"骑士总说真话，说谎者总说假话。{''.join(x.zh for x in lines)}谁是骑士？（没有则答“无”）",
        f"Knights always tell the truth, knaves always lie. {' '.join(x.en for x in lines)} Who are the knights? (“none” if nobody)",
    )
    step = Both(
        f"逐一检验 {2**n} 种情形，只有一种与所有陈述一致。",
        f"Of the {2**n} cases only one agrees with every statement.",
    )
    return Draft({"n": n, "says": [list(s) for s in says]}, question, answer, (step,), "set")


@generator
def sudoku_cell(r: random.Random, level: int) -> Draft | None:
    """A 4×4 Latin square with blocks: one missing cell that row, column and block decide together."""
    base = [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]
    names = r.sample(range(1, 5), 4)
    grid = [[names[v - 1] for v in row] for row in base]
    if r.random() < 0.5:
        grid = [list(col) for col in zip(*grid, strict=True)]
    i, j = r.randrange(4), r.randrange(4)
    answer = grid[i][j]
    shown = [[str(v) for v in row] for row in grid]
    others = [(a, b) for a in range(4) for b in range(4) if (a, b) != (i, j)]
    for a, b in r.sample(others, 2 + level):
        shown[a][b] = "."
    shown[i][j] = "?"
    seen = (
        {shown[i][b] for b in range(4)}
        | {shown[a][j] for a in range(4)}
        | {shown[a][b] for a in range(i // 2 * 2, i // 2 * 2 + 2) for b in range(j // 2 * 2, j // 2 * 2 + 2)}
    )
    left = [v for v in "1234" if v not in seen]
    if left != [str(answer)]:
        return None
    text = "\n".join(" ".join(row) for row in shown)
    question = Both(
        f"4×4 数独（每行、每列、每个 2×2 宫含 1–4 各一次），“?”处是几？\n{text}",
        f"In this 4×4 sudoku every row, column and 2×2 block holds 1–4 once. Which digit is “?”\n{text}",
    )
    step = Both(
        f"同行、同列、同宫已有：{', '.join(sorted(v for v in seen if v in '1234'))}",
        f"Row, column and block already hold: {', '.join(sorted(v for v in seen if v in '1234'))}",
    )
    return draft({"grid": shown}, question, answer, step)
