"""Dictionaries, sets, tuples, and tables queried as in SQL."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import WORDS, ints, program, sentence, word


def _rows(r, n):  # type: ignore[no-untyped-def]
    names, teams = ["Ann", "Bo", "Cy", "Di", "Ed", "Fay", "Gus", "Hal"], ["red", "blue", "green"]
    return (
        [{"name": r.choice(names), "team": r.choice(teams), "points": r.randint(1, 30)} for _ in range(n // 2 + 2)],
    )


@program(
    "返回每个字符出现次数的字典",
    "Return a dictionary of how often each character occurs.",
    lambda r, n: (word(r, n, "abcd"),),
    order="n",
    grow=lambda n: ("ab" * (n // 2),),
)
def char_counts(text: str) -> dict[str, int]:
    count: dict[str, int] = {}
    for c in text:
        count[c] = count.get(c, 0) + 1
    return count


@program(
    "返回出现次数最多的单词（次数相同取字典序最小）",
    "Return the most frequent word (the alphabetically first of several).",
    lambda r, n: (sentence(r, n) + " " + WORDS[0],),
)
def top_word(text: str) -> str:
    count: dict[str, int] = {}
    for w in text.split():
        count[w] = count.get(w, 0) + 1
    return min(count, key=lambda w: (-count[w], w))


@program(
    "把字典的键和值互换",
    "Swap keys and values of a dictionary.",
    lambda r, n: ({word(r, 2): i for i in range(n // 2 + 1)},),
)
def invert(table: dict[str, int]) -> dict[int, str]:
    return {value: key for key, value in table.items()}


@program("按首字母把单词分组", "Group words by their first letter.", lambda r, n: (sentence(r, n).split(),))
def group_by_first(words: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for w in words:
        groups.setdefault(w[0], []).append(w)
    return groups


@program(
    "合并两个字典，同一个键的值相加",
    "Merge two dictionaries, adding the values of equal keys.",
    lambda r, n: (
        {c: r.randint(1, 9) for c in word(r, n // 2, "abcd")},
        {c: r.randint(1, 9) for c in word(r, n // 2, "abcd")},
    ),
)
def merge_counts(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    out = dict(a)
    for key, value in b.items():
        out[key] = out.get(key, 0) + value
    return out


@program(
    "用字典一遍扫描，返回和为 target 的两个下标 [i, j]（i < j），没有则返回空列表",
    "Return indices [i, j], i < j, of two numbers with sum target using a dictionary, or an empty list.",
    lambda r, n: (ints(r, n), r.randint(5, 35)),
    order="n",
    grow=lambda n: ([0] * n, -1),
)
def two_sum(items: list[int], target: int) -> list[int]:
    place: dict[int, int] = {}
    for i, x in enumerate(items):
        if target - x in place:
            return [place[target - x], i]
        place[x] = i
    return []


@program(
    "返回两个列表共有的元素（升序，不重复）",
    "Return the elements common to two lists, ascending, without repeats.",
    lambda r, n: (ints(r, n, 0, 12), ints(r, n, 0, 12)),
)
def common(a: list[int], b: list[int]) -> list[int]:
    return sorted(set(a) & set(b))


@program(
    "SELECT name FROM rows WHERE points > {k} ORDER BY points DESC, name：返回姓名列表",
    "SELECT name FROM rows WHERE points > {k} ORDER BY points DESC, name: return the names.",
    _rows,
    k=(5, 10, 15),
)
def select_where(rows: list[dict], *, k: int) -> list[str]:  # type: ignore[type-arg]
    kept = [row for row in rows if row["points"] > k]
    kept.sort(key=lambda row: (-row["points"], row["name"]))
    return [row["name"] for row in kept]


@program(
    "SELECT team, SUM(points) FROM rows GROUP BY team ORDER BY team：返回 (team, 和) 的列表",
    "SELECT team, SUM(points) FROM rows GROUP BY team ORDER BY team: return (team, sum) pairs.",
    _rows,
)
def group_sum(rows: list[dict]) -> list[tuple[str, int]]:  # type: ignore[type-arg]
    sums: dict[str, int] = {}
    for row in rows:
        sums[row["team"]] = sums.get(row["team"], 0) + row["points"]
    return sorted(sums.items())


@program(
    "SELECT team, COUNT(*) FROM rows GROUP BY team HAVING COUNT(*) >= {k} ORDER BY team：返回 (team, 行数) 的列表",
    "SELECT team, COUNT(*) FROM rows GROUP BY team HAVING COUNT(*) >= {k} ORDER BY team.",
    _rows,
    k=(1, 2, 3),
)
def having(rows: list[dict], *, k: int) -> list[tuple[str, int]]:  # type: ignore[type-arg]
    from collections import Counter

    counts = Counter(row["team"] for row in rows)
    return sorted((team, n) for team, n in counts.items() if n >= k)


@program(
    "内连接：返回 people（姓名→城市编号）与 cities（编号→城市名）连接后的 (姓名, 城市名) 列表，按姓名排序",
    "Inner join: people (name → city id) with cities (id → name); return (name, city) pairs sorted by name.",
    lambda r, n: (
        {name: r.randint(1, 4) for name in r.sample(["Ann", "Bo", "Cy", "Di", "Ed", "Fay"], min(6, 2 + n // 3))},
        {i: c for i, c in enumerate(["Rome", "Oslo", "Lima"], 1)},
    ),
)
def inner_join(people: dict[str, int], cities: dict[int, str]) -> list[tuple[str, str]]:
    return sorted((name, cities[key]) for name, key in people.items() if key in cities)


@program(
    "返回元组列表按第二项降序、第一项升序排序的结果",
    "Sort pairs by their second item descending, then the first ascending.",
    lambda r, n: ([(word(r, 2, "abc"), r.randint(1, 5)) for _ in range(n // 2 + 2)],),
)
def sort_pairs(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(pairs, key=lambda p: (-p[1], p[0]))


@program(
    "解析以 {s} 分隔的 key=value 字符串，值转为整数",
    "Parse key=value items separated by {s}, values as whole numbers.",
    lambda r, n: ("SEP".join(f"{c}={r.randint(1, 99)}" for c in r.sample("abcdefgh", 2 + n // 4)),),
    s=("SEP",),
)
def parse_pairs(text: str, *, s: str) -> dict[str, int]:
    out = {}
    for item in text.split(s):
        key, _, value = item.partition("=")
        out[key] = int(value)
    return out


@program(
    "把记录列表转成 JSON 文本（键排序），再读回并返回 points 之和与文本长度",
    "Write rows as JSON (sorted keys), read them back; return the sum of points and the length of the text.",
    _rows,
)
def json_round_trip(rows: list[dict]) -> tuple[int, int]:  # type: ignore[type-arg]
    import json

    text = json.dumps(rows, sort_keys=True)
    return sum(row["points"] for row in json.loads(text)), len(text)
