"""Lists: loops, comprehensions, slices, two pointers, windows, stacks, queues, matrices."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import ints, list_of, program


@program(
    "返回列表中大于 {k} 的数之和",
    "Return the sum of the numbers above {k}.",
    lambda r, n: (ints(r, n),),
    order="n",
    grow=list_of,
    k=(3, 5, 8, 10),
)
def sum_above(items: list[int], *, k: int) -> int:
    total = 0
    for x in items:
        if x > k:
            total += x
    return total


@program(
    "返回非空列表中最大值的下标（有多个时取第一个）",
    "Return the index of the largest value (the first of several) of a non-empty list.",
    lambda r, n: (ints(r, n),),
    order="n",
    grow=list_of,
)
def argmax(items: list[int]) -> int:
    best = 0
    for i in range(1, len(items)):
        if items[i] > items[best]:
            best = i
    return best


@program(
    "去掉重复元素，保留第一次出现的顺序",
    "Drop repeated elements, keeping the order of first appearance.",
    lambda r, n: (ints(r, n, 0, n),),
)
def unique(items: list[int]) -> list[int]:
    seen = set()
    result = []
    for x in items:
        if x not in seen:
            seen.add(x)
            result.append(x)
    return result


@program(
    "用列表推导式返回偶数元素的 {k} 次方",
    "Return the power {k} of every even element, with a comprehension.",
    lambda r, n: (ints(r, n, 0, 12),),
    k=(2, 3),
)
def even_powers(items: list[int], *, k: int) -> list[int]:
    return [x**k for x in items if x % 2 == 0]


@program(
    "从第 {a} 个下标开始每隔 {b} 个取一个元素，再倒序",
    "Take every {b}-th element from index {a} on, then reverse.",
    lambda r, n: (ints(r, n + 2),),
    a=(0, 1, 2),
    b=(2, 3),
)
def slice_reverse(items: list[int], *, a: int, b: int) -> list[int]:
    return items[a::b][::-1]


@program(
    "把列表向右循环移动 {k} 位", "Rotate a list to the right by {k} places.", lambda r, n: (ints(r, n),), k=(1, 2, 3)
)
def rotate(items: list[int], *, k: int) -> list[int]:
    if not items:
        return []
    shift = k % len(items)
    return items[-shift:] + items[:-shift] if shift else list(items)


@program("返回前缀和列表", "Return the list of running totals.", lambda r, n: (ints(r, n),), order="n", grow=list_of)
def prefix_sums(items: list[int]) -> list[int]:
    total = 0
    result = []
    for x in items:
        total += x
        result.append(total)
    return result


@program(
    "返回长度为 {k} 的连续子列表的最大和；元素不足 {k} 个时返回 None",
    "Return the largest sum of {k} neighbouring elements; None if there are fewer.",
    lambda r, n: (ints(r, n),),
    k=(2, 3, 4),
)
def window_max(items: list[int], *, k: int) -> int | None:
    if len(items) < k:
        return None
    total = sum(items[:k])
    best = total
    for i in range(k, len(items)):
        total += items[i] - items[i - k]
        best = max(best, total)
    return best


@program(
    "在升序列表中用双指针判断是否有两个数之和为 target",
    "Return whether two numbers of an ascending list sum to target, with two pointers.",
    lambda r, n: (sorted(ints(r, n)), r.randint(5, 35)),
)
def pair_sum(items: list[int], target: int) -> bool:
    i, j = 0, len(items) - 1
    while i < j:
        s = items[i] + items[j]
        if s == target:
            return True
        if s < target:
            i += 1
        else:
            j -= 1
    return False


@program(
    "合并两个升序列表",
    "Merge two ascending lists.",
    lambda r, n: (sorted(ints(r, n // 2 + 1)), sorted(ints(r, n // 2))),
)
def merge_sorted(a: list[int], b: list[int]) -> list[int]:
    i = j = 0
    result = []
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]


@program(
    "把所有 0 移到末尾，其他元素顺序不变",
    "Move all zeros to the end, keeping the order of the others.",
    lambda r, n: (ints(r, n, 0, 3),),
)
def zeros_last(items: list[int]) -> list[int]:
    kept = [x for x in items if x != 0]
    return kept + [0] * (len(items) - len(kept))


@program(
    "返回矩阵的转置",
    "Return the transpose of a matrix.",
    lambda r, n: ([ints(r, n // 2 + 1, 0, 9) for _ in range(2 + n // 5)],),
)
def transpose(rows: list[list[int]]) -> list[list[int]]:
    return [[row[j] for row in rows] for j in range(len(rows[0]))]


@program(
    "返回方阵主对角线与副对角线元素之和（中心只算一次）",
    "Return the sum of both diagonals of a square matrix (the centre counts once).",
    lambda r, n: ((lambda k: [ints(r, k, 0, 9) for _ in range(k)])(2 + n // 4),),
)
def diagonal_sum(rows: list[list[int]]) -> int:
    n = len(rows)
    total = 0
    for i in range(n):
        total += rows[i][i]
        if i != n - 1 - i:
            total += rows[i][n - 1 - i]
    return total


@program(
    "按顺时针螺旋顺序返回矩阵的元素",
    "Return the elements of a matrix in clockwise spiral order.",
    lambda r, n: ([ints(r, 2 + n // 4, 0, 9) for _ in range(2 + n // 5)],),
)
def spiral(rows: list[list[int]]) -> list[int]:
    result = []
    rows = [list(row) for row in rows]
    while rows:
        result += rows.pop(0)
        rows = [list(row) for row in zip(*rows, strict=True)][::-1]
    return result


@program(
    "返回两个矩阵的乘积",
    "Return the product of two matrices.",
    lambda r, n: ([ints(r, 2, 0, 5) for _ in range(2)], [ints(r, 2 + n // 8, 0, 5) for _ in range(2)]),
    order="n^3",
    grow=lambda n: ([[1] * n for _ in range(n)], [[1] * n for _ in range(n)]),
)
def matrix_product(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    out = []
    for row in a:
        line = []
        for j in range(len(b[0])):
            total = 0
            for k in range(len(b)):
                total += row[k] * b[k][j]
            line.append(total)
        out.append(line)
    return out


@program(
    "用栈计算后缀表达式（记号列表）的值",
    "Evaluate a postfix expression (a list of tokens) with a stack.",
    lambda r, n: (_postfix(r, n // 3 + 1),),
)
def postfix(tokens: list[str]) -> int:
    stack: list[int] = []
    for token in tokens:
        if token in "+-*":
            b = stack.pop()
            a = stack.pop()
            if token == "+":
                stack.append(a + b)
            elif token == "-":
                stack.append(a - b)
            else:
                stack.append(a * b)
        else:
            stack.append(int(token))
    return stack[0]


def _postfix(r, n):  # type: ignore[no-untyped-def]
    tokens = [str(r.randint(1, 9))]
    for _ in range(n):
        tokens += [str(r.randint(1, 9)), r.choice("+-*")]
    return tokens


@program(
    "返回每个元素右边第一个比它大的数（没有则为 -1）",
    "For every element return the next larger one to its right, or -1.",
    lambda r, n: (ints(r, n),),
    order="n",
    grow=list_of,
)
def next_greater(items: list[int]) -> list[int]:
    result = [-1] * len(items)
    stack: list[int] = []
    for i, x in enumerate(items):
        while stack and items[stack[-1]] < x:
            result[stack.pop()] = x
        stack.append(i)
    return result


@program(
    "约瑟夫问题：n 人围圈，每数到 {k} 的人出列，用队列返回出列顺序（编号从 1 起）",
    "Josephus: n people in a circle, every {k}-th leaves; return the order of leaving with a queue (numbered from 1).",
    lambda r, n: (r.randint(3, n + 2),),
    k=(2, 3),
)
def josephus(n: int, *, k: int) -> list[int]:
    from collections import deque

    queue = deque(range(1, n + 1))
    result = []
    while queue:
        queue.rotate(1 - k)
        result.append(queue.popleft())
    return result


@program(
    "返回使 items[i] + items[j] == {k} 的下标对 (i, j)（i < j）的个数",
    "Return how many index pairs i < j have items[i] + items[j] == {k}.",
    lambda r, n: (ints(r, n, 0, 12),),
    order="n^2",
    grow=list_of,
    k=(8, 10, 12),
)
def count_pairs(items: list[int], *, k: int) -> int:
    count = 0
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            if items[i] + items[j] == k:
                count += 1
    return count


@program(
    "把列表切成长度为 {k} 的块（最后一块可能较短）",
    "Cut a list into chunks of {k} (the last may be shorter).",
    lambda r, n: (ints(r, n),),
    k=(2, 3, 4),
)
def chunks(items: list[int], *, k: int) -> list[list[int]]:
    return [items[i : i + k] for i in range(0, len(items), k)]


@program(
    "把嵌套一层的列表展平，并丢弃空列表",
    "Flatten a list of lists by one level.",
    lambda r, n: ([ints(r, r.randint(0, 3)) for _ in range(n // 2 + 1)],),
)
def flatten(rows: list[list[int]]) -> list[int]:
    result = []
    for row in rows:
        result.extend(row)
    return result
