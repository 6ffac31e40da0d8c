"""Dynamic programming."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import ints, program, word


@program(
    "用递推返回第 n 个斐波那契数（f(0)=0，f(1)=1）",
    "Return the n-th Fibonacci number by iteration (f(0)=0, f(1)=1).",
    lambda r, n: (r.randint(1, 3 * n),),
    order="n",
    grow=lambda n: (n,),
)
def fib_table(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@program(
    "爬 n 级楼梯，每次 1 到 {k} 级，返回走法数",
    "Return in how many ways n stairs can be climbed with strides of 1 to {k}.",
    lambda r, n: (r.randint(1, n),),
    k=(2, 3),
)
def climb(n: int, *, k: int) -> int:
    ways = [1] + [0] * n
    for i in range(1, n + 1):
        for stride in range(1, k + 1):
            if i >= stride:
                ways[i] += ways[i - stride]
    return ways[n]


@program(
    "返回用 coins 中面值（数量不限）凑成 amount 的最少枚数，不能则返回 -1",
    "Return the fewest coins (any number of each) that make amount, or -1.",
    lambda r, n: (sorted(r.sample([1, 2, 3, 4, 5, 7, 10], 2 + n // 6)), r.randint(3, 2 * n)),
)
def fewest_coins(coins: list[int], amount: int) -> int:
    best = [0] + [-1] * amount
    for a in range(1, amount + 1):
        options = [best[a - c] for c in coins if c <= a and best[a - c] >= 0]
        if options:
            best[a] = min(options) + 1
    return best[amount]


@program(
    "返回最长递增子序列（严格）的长度",
    "Return the length of the longest strictly increasing subsequence.",
    lambda r, n: (ints(r, n),),
    order="n^2",
    grow=lambda n: (list(range(n)),),
)
def longest_increasing(items: list[int]) -> int:
    best: list[int] = []
    for i in range(len(items)):
        length = 1
        for j in range(i):
            if items[j] < items[i] and best[j] + 1 > length:
                length = best[j] + 1
        best.append(length)
    return max(best)


@program(
    "返回两个字符串最长公共子序列的长度",
    "Return the length of the longest common subsequence of two strings.",
    lambda r, n: (word(r, n // 2 + 2, "abcd"), word(r, n // 2 + 2, "abcd")),
    order="n^2",
    grow=lambda n: ("a" * n, "b" * n),
)
def common_subsequence(a: str, b: str) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a)):
        for j in range(len(b)):
            if a[i] == b[j]:
                table[i + 1][j + 1] = table[i][j] + 1
            else:
                table[i + 1][j + 1] = max(table[i][j + 1], table[i + 1][j])
    return table[len(a)][len(b)]


@program(
    "返回两个字符串的编辑距离（插入、删除、替换）",
    "Return the edit distance of two strings (insert, delete, replace).",
    lambda r, n: (word(r, n // 3 + 2, "abc"), word(r, n // 3 + 2, "abc")),
)
def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


@program(
    "0/1 背包：容量为 capacity，物品为 (重量, 价值)，返回最大总价值",
    "0/1 knapsack: items are (weight, value); return the largest value that fits into capacity.",
    lambda r, n: (r.randint(5, n + 6), [(r.randint(1, 6), r.randint(1, 12)) for _ in range(n // 2 + 1)]),
)
def knapsack(capacity: int, goods: list[tuple[int, int]]) -> int:
    best = [0] * (capacity + 1)
    for weight, value in goods:
        for room in range(capacity, weight - 1, -1):
            best[room] = max(best[room], best[room - weight] + value)
    return best[capacity]


@program(
    "返回和最大的非空连续子列表的和（Kadane）",
    "Return the largest sum of a non-empty run of neighbours (Kadane).",
    lambda r, n: (ints(r, n, -9, 9),),
    order="n",
    grow=lambda n: ([(-1) ** i for i in range(n)],),
)
def max_run(items: list[int]) -> int:
    best = current = items[0]
    for x in items[1:]:
        current = max(x, current + x)
        best = max(best, current)
    return best


@program(
    "从左上走到右下，每步向右或向下，返回路径上数字之和的最小值",
    "Return the smallest sum of a path from the top left to the bottom right, moving right or down.",
    lambda r, n: ([ints(r, 2 + n // 4, 1, 9) for _ in range(2 + n // 5)],),
)
def min_path(grid: list[list[int]]) -> int:
    best: list[list[int]] = []
    for i, row in enumerate(grid):
        line: list[int] = []
        for j, x in enumerate(row):
            before = [line[j - 1]] if j else []
            if i:
                before.append(best[i - 1][j])
            line.append(x + min(before, default=0))
        best.append(line)
    return best[-1][-1]


@program(
    "不能选相邻的数，返回可取得的最大和",
    "Return the largest sum of numbers no two of which are neighbours.",
    lambda r, n: (ints(r, n),),
    order="n",
    grow=lambda n: ([1] * n,),
)
def no_neighbours(items: list[int]) -> int:
    take, skip = 0, 0
    for x in items:
        take, skip = skip + x, max(skip, take)
    return max(take, skip)


@program(
    "返回能否从 items 中选出若干数使和为 target",
    "Return whether some of the numbers sum to target.",
    lambda r, n: (ints(r, n // 2 + 2, 1, 15), r.randint(5, 40)),
)
def subset_sum(items: list[int], target: int) -> bool:
    sums = {0}
    for x in items:
        sums |= {s + x for s in sums}
    return target in sums


@program(
    "用记忆化递归返回第 n 个卡特兰数",
    "Return the n-th Catalan number by memoised recursion.",
    lambda r, n: (r.randint(1, n),),
)
def catalan(n: int) -> int:
    from functools import cache

    @cache
    def c(k: int) -> int:
        return 1 if k == 0 else sum(c(i) * c(k - 1 - i) for i in range(k))

    return c(n)


@program(
    "返回最长回文子串的长度",
    "Return the length of the longest palindromic substring.",
    lambda r, n: (word(r, n + 2, "aab"),),
)
def longest_palindrome(text: str) -> int:
    best = 0
    for centre in range(2 * len(text) - 1):
        i = centre // 2
        j = i + centre % 2
        while i >= 0 and j < len(text) and text[i] == text[j]:
            i -= 1
            j += 1
        best = max(best, j - i - 1)
    return best
