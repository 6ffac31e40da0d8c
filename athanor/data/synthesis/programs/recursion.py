"""Recursion, backtracking, divide and conquer."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import ints, program, word


@program(
    "递归返回第 n 个斐波那契数（f(0)=0，f(1)=1）",
    "Return the n-th Fibonacci number by recursion (f(0)=0, f(1)=1).",
    lambda r, n: (r.randint(1, min(n, 10)),),
    order="2^n",
    grow=lambda n: (n,),
)
def fib(n: int) -> int:
    if n < 2:
        return n
    return fib(n - 1) + fib(n - 2)


@program("递归返回列表元素之和", "Return the sum of a list by recursion.", lambda r, n: (ints(r, n),))
def recursive_sum(items: list[int]) -> int:
    if not items:
        return 0
    return items[0] + recursive_sum(items[1:])


@program(
    "汉诺塔：返回把 n 个盘子从 a 移到 c 的步骤列表",
    "Towers of Hanoi: return the moves of n discs from a to c.",
    lambda r, n: (r.randint(1, min(4, n // 2)), "A", "B", "C"),
)
def hanoi(n: int, a: str, b: str, c: str) -> list[str]:
    if n == 0:
        return []
    return hanoi(n - 1, a, c, b) + [a + c] + hanoi(n - 1, b, a, c)


@program(
    "返回任意嵌套列表的最大深度（空列表深度为 1）",
    "Return the depth of a nested list (an empty list has depth 1).",
    lambda r, n: (_nested(r, 1 + n // 4),),
)
def depth(items: list) -> int:  # type: ignore[type-arg]
    best = 0
    for x in items:
        if isinstance(x, list):
            best = max(best, depth(x))
    return best + 1


@program(
    "返回任意嵌套列表中所有整数之和",
    "Return the sum of all whole numbers in a nested list.",
    lambda r, n: (_nested(r, 1 + n // 4),),
)
def nested_sum(items: list) -> int:  # type: ignore[type-arg]
    total = 0
    for x in items:
        if isinstance(x, list):
            total += nested_sum(x)
        else:
            total += x
    return total


def _nested(r, depth):  # type: ignore[no-untyped-def]
    return [
        _nested(r, depth - 1) if depth > 1 and r.random() < 0.5 else r.randint(1, 9) for _ in range(r.randint(1, 3))
    ]


@program(
    "返回列表的全部子集（按二进制选取的回溯顺序：先不选再选）",
    "Return all subsets by backtracking (leave an element out first, then take it).",
    lambda r, n: (r.sample(range(1, 9), min(3, 1 + n // 4)),),
)
def all_subsets(items: list[int]) -> list[list[int]]:
    if not items:
        return [[]]
    rest = all_subsets(items[1:])
    return rest + [[items[0], *s] for s in rest]


@program(
    "返回字符串所有不同排列，按字典序",
    "Return all different permutations of a string in alphabetical order.",
    lambda r, n: (word(r, min(4, 2 + n // 5), "abc"),),
)
def permutations(text: str) -> list[str]:
    if len(text) <= 1:
        return [text]
    result = set()
    for i in range(len(text)):
        for rest in permutations(text[:i] + text[i + 1 :]):
            result.add(text[i] + rest)
    return sorted(result)


@program(
    "返回 n 皇后问题的解的个数",
    "Return how many solutions the n queens puzzle has.",
    lambda r, n: (r.randint(1, min(6, n)),),
)
def queens(n: int) -> int:
    def place(row: int, columns: list[int]) -> int:
        if row == n:
            return 1
        found = 0
        for c in range(n):
            if all(c != k and abs(c - k) != row - i for i, k in enumerate(columns)):
                found += place(row + 1, [*columns, c])
        return found

    return place(0, [])


@program(
    "阿克曼式双递归 f(m, n)：m=0 时为 n+1；n=0 时为 f(m-1,1)；否则 f(m-1, f(m, n-1))",
    "Ackermann's function f(m, n): n+1 if m=0; f(m-1, 1) if n=0; else f(m-1, f(m, n-1)).",
    lambda r, n: (r.randint(0, 2), r.randint(0, 1 + n // 4)),
)
def ackermann(m: int, n: int) -> int:
    if m == 0:
        return n + 1
    if n == 0:
        return ackermann(m - 1, 1)
    return ackermann(m - 1, ackermann(m, n - 1))


@program(
    "用分治法返回列表的最大值", "Return the largest value of a list by divide and conquer.", lambda r, n: (ints(r, n),)
)
def divide_max(items: list[int]) -> int:
    if len(items) == 1:
        return items[0]
    middle = len(items) // 2
    return max(divide_max(items[:middle]), divide_max(items[middle:]))


@program(
    "返回由 n 对括号组成的合法括号串（字典序）",
    "Return all balanced strings of n pairs of parentheses in order.",
    lambda r, n: (r.randint(1, min(3, n // 3)),),
)
def parentheses(n: int) -> list[str]:
    def build(text: str, opened: int, closed: int) -> list[str]:
        if closed == n:
            return [text]
        found = []
        if opened < n:
            found += build(text + "(", opened + 1, closed)
        if closed < opened:
            found += build(text + ")", opened, closed + 1)
        return found

    return build("", 0, 0)
