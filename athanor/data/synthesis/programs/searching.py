"""Searching, greedy choice, intervals, bits."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import ints, program


@program(
    "线性查找：返回 target 第一次出现的下标，没有则返回 -1",
    "Linear search: return the first index of target, or -1.",
    lambda r, n: (ints(r, n), r.randint(0, 20)),
    order="n",
    grow=lambda n: ([0] * n, 1),
)
def linear_search(items: list[int], target: int) -> int:
    for i, x in enumerate(items):
        if x == target:
            return i
    return -1


@program(
    "二分查找：在升序列表中返回 target 的下标，没有则返回 -1",
    "Binary search: return the index of target in an ascending list without repeats, or -1.",
    lambda r, n: (lambda xs: (xs, r.choice(xs + [r.randint(0, 60)])))(sorted(r.sample(range(60), n))),
    order="log n",
    grow=lambda n: (list(range(n)), n),
)
def binary_search(items: list[int], target: int) -> int:
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1


@program(
    "返回升序列表中第一个不小于 target 的元素的下标",
    "Return the index of the first element of an ascending list that is not below target.",
    lambda r, n: (sorted(ints(r, n)), r.randint(0, 22)),
    order="log n",
    grow=lambda n: (list(range(n)), n),
)
def lower_bound(items: list[int], target: int) -> int:
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle
    return low


@program(
    "合并有重叠的区间，按起点排序返回",
    "Merge overlapping intervals, sorted by their start.",
    lambda r, n: ([(lambda a: [a, a + r.randint(1, 6)])(r.randint(0, 4 * n)) for _ in range(n // 2 + 1)],),
)
def merge_intervals(spans: list[list[int]]) -> list[list[int]]:
    result: list[list[int]] = []
    for a, b in sorted(spans):
        if result and a <= result[-1][1]:
            result[-1][1] = max(result[-1][1], b)
        else:
            result.append([a, b])
    return result


@program(
    "贪心：返回最多能参加的互不重叠的活动数（活动为 (开始, 结束)，首尾相接不算重叠）",
    "Greedy: return how many activities (start, end) fit without overlap (touching is allowed).",
    lambda r, n: ([(lambda a: (a, a + r.randint(1, 5)))(r.randint(0, 3 * n)) for _ in range(n // 2 + 2)],),
)
def activities(spans: list[tuple[int, int]]) -> int:
    count, free = 0, 0
    for start, end in sorted(spans, key=lambda s: s[1]):
        if start >= free:
            count += 1
            free = end
    return count


@program(
    "贪心：用面值 25、10、5、1 的硬币凑成 n 的最少枚数",
    "Greedy: return the fewest coins of 25, 10, 5 and 1 that make n.",
    lambda r, n: (r.randint(1, 15 * n),),
)
def greedy_coins(n: int) -> int:
    count = 0
    for coin in (25, 10, 5, 1):
        count += n // coin
        n %= coin
    return count


@program(
    "列表中除一个数外其余都出现两次，用异或返回这个数",
    "All numbers occur twice but one: return it with exclusive or.",
    lambda r, n: (lambda xs: (r.sample(xs * 2 + [r.randint(50, 99)], 2 * len(xs) + 1),))(
        r.sample(range(40), n // 2 + 1)
    ),
)
def single_number(items: list[int]) -> int:
    result = 0
    for x in items:
        result ^= x
    return result


@program(
    "返回多数元素（出现超过一半的数），用摩尔投票法；保证存在",
    "Return the majority element by Boyer–Moore voting (it exists).",
    lambda r, n: (lambda m: (r.sample([m] * (n + 1) + ints(r, n, 0, 9), 2 * n + 1),))(r.randint(0, 9)),
    order="n",
    grow=lambda n: ([1] * n,),
)
def majority(items: list[int]) -> int:
    best, count = 0, 0
    for x in items:
        if count == 0:
            best = x
        count += 1 if x == best else -1
    return best


@program(
    "返回一次买卖的最大利润（先买后卖，不赚则为 0）",
    "Return the largest profit of one purchase and one later sale (0 if none).",
    lambda r, n: (ints(r, n, 1, 30),),
    order="n",
    grow=lambda n: (list(range(n)),),
)
def best_profit(prices: list[int]) -> int:
    low, best = prices[0], 0
    for p in prices:
        low = min(low, p)
        best = max(best, p - low)
    return best


@program(
    "返回峰值（比左右邻居都大的元素）的个数",
    "Return how many elements are larger than both neighbours.",
    lambda r, n: (ints(r, n + 2),),
)
def peaks(items: list[int]) -> int:
    count = 0
    for i in range(1, len(items) - 1):
        if items[i - 1] < items[i] > items[i + 1]:
            count += 1
    return count
