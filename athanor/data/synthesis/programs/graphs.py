"""Graphs and trees."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import program


def _graph(r, n, directed=False):  # type: ignore[no-untyped-def]
    size = 3 + n // 4
    edges = {(i, r.randrange(i)) for i in range(1, size) if r.random() < 0.8}
    edges |= {tuple(r.sample(range(size), 2)) for _ in range(size // 2)}
    table: dict[int, list[int]] = {i: [] for i in range(size)}
    for a, b in sorted(edges):
        table[b].append(a)
        if not directed and b not in table[a]:
            table[a].append(b)
    return {k: sorted(set(v)) for k, v in table.items()}


def _tree(r, n):  # type: ignore[no-untyped-def]
    if n == 0:
        return None
    left = r.randint(0, n - 1)
    return [r.randint(1, 20), _tree(r, left), _tree(r, n - 1 - left)]


@program(
    "从 start 出发广度优先遍历邻接表，返回访问顺序",
    "Breadth-first search of an adjacency list from start: return the order of visits.",
    lambda r, n: (_graph(r, n), 0),
)
def bfs(graph: dict[int, list[int]], start: int) -> list[int]:
    from collections import deque

    seen, queue, result = {start}, deque([start]), []
    while queue:
        node = queue.popleft()
        result.append(node)
        for other in graph[node]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return result


@program(
    "从 start 出发递归深度优先遍历，返回访问顺序",
    "Recursive depth-first search from start: return the order of visits.",
    lambda r, n: (_graph(r, n), 0),
)
def dfs(graph: dict[int, list[int]], start: int) -> list[int]:
    seen: list[int] = []

    def visit(node: int) -> None:
        seen.append(node)
        for other in graph[node]:
            if other not in seen:
                visit(other)

    visit(start)
    return seen


@program(
    "返回从 a 到 b 的最短路边数，不可达返回 -1",
    "Return the number of edges on a shortest path from a to b, or -1.",
    lambda r, n: (_graph(r, n), 0, 2 + n // 4),
)
def hops(graph: dict[int, list[int]], a: int, b: int) -> int:
    from collections import deque

    distance, queue = {a: 0}, deque([a])
    while queue:
        node = queue.popleft()
        if node == b:
            return distance[node]
        for other in graph[node]:
            if other not in distance:
                distance[other] = distance[node] + 1
                queue.append(other)
    return -1


@program(
    "返回无向图连通分量的个数",
    "Return how many connected components an undirected graph has.",
    lambda r, n: (_graph(r, n),),
)
def components(graph: dict[int, list[int]]) -> int:
    seen: set[int] = set()
    count = 0
    for start in graph:
        if start in seen:
            continue
        count += 1
        stack = [start]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(graph[node])
    return count


@program(
    "拓扑排序（每次取编号最小的可用结点），边 (a, b) 表示 a 在 b 前；有环则返回空列表",
    "Topological order, always taking the smallest free node; edge (a, b) puts a before b; empty if there is a cycle.",
    lambda r, n: (3 + n // 4, sorted({tuple(sorted(r.sample(range(3 + n // 4), 2))) for _ in range(2 + n // 4)})),
)
def topological(n: int, edges: list[tuple[int, int]]) -> list[int]:
    waiting = [0] * n
    for _, b in edges:
        waiting[b] += 1
    free = [i for i in range(n) if waiting[i] == 0]
    result = []
    while free:
        node = min(free)
        free.remove(node)
        result.append(node)
        for a, b in edges:
            if a == node:
                waiting[b] -= 1
                if waiting[b] == 0:
                    free.append(b)
    return result if len(result) == n else []


@program(
    "Dijkstra：返回从 0 到各点的最短距离（不可达为 None）",
    "Dijkstra: return the shortest distances from node 0 (None if unreachable).",
    lambda r, n: (
        {
            i: [(j, r.randint(1, 9)) for j in range(3 + n // 5) if j != i and r.random() < 0.5]
            for i in range(3 + n // 5)
        },
    ),
)
def dijkstra(graph: dict[int, list[tuple[int, int]]]) -> list[int | None]:
    import heapq

    distance: dict[int, int] = {}
    heap = [(0, 0)]
    while heap:
        d, node = heapq.heappop(heap)
        if node in distance:
            continue
        distance[node] = d
        for other, w in graph[node]:
            if other not in distance:
                heapq.heappush(heap, (d + w, other))
    return [distance.get(i) for i in range(len(graph))]


@program(
    "并查集：依次合并 edges 中的点对，返回剩余的集合数",
    "Union–find: join the pairs of edges, return how many sets remain.",
    lambda r, n: (3 + n // 3, [tuple(r.sample(range(3 + n // 3), 2)) for _ in range(1 + n // 3)]),
)
def union_find(n: int, edges: list[tuple[int, int]]) -> int:
    parent = list(range(n))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    count = n
    for a, b in edges:
        a, b = root(a), root(b)
        if a != b:
            parent[a] = b
            count -= 1
    return count


@program(
    "Kruskal：返回最小生成森林的总权重，边为 (权重, a, b)",
    "Kruskal: return the weight of a minimum spanning forest; edges are (weight, a, b).",
    lambda r, n: (3 + n // 4, [(r.randint(1, 9), *r.sample(range(3 + n // 4), 2)) for _ in range(3 + n // 3)]),
)
def kruskal(n: int, edges: list[tuple[int, int, int]]) -> int:
    group = list(range(n))
    total = 0
    for w, a, b in sorted(edges):
        if group[a] != group[b]:
            old, new = group[b], group[a]
            group = [new if g == old else g for g in group]
            total += w
    return total


@program(
    "返回网格（# 为墙）中从左上到右下的最短步数（上下左右），不可达返回 -1",
    "Return the fewest steps from the top left to the bottom right of a grid (# is a wall), or -1.",
    lambda r, n: (
        [
            "".join(
                "." if (i, j) in ((0, 0), (1 + n // 5, 2 + n // 5)) or r.random() < 0.75 else "#"
                for j in range(3 + n // 5)
            )
            for i in range(2 + n // 5)
        ],
    ),
)
def maze(grid: list[str]) -> int:
    from collections import deque

    height, width = len(grid), len(grid[0])
    queue, seen = deque([(0, 0, 0)]), {(0, 0)}
    while queue:
        i, j, steps = queue.popleft()
        if (i, j) == (height - 1, width - 1):
            return steps
        for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= a < height and 0 <= b < width and grid[a][b] == "." and (a, b) not in seen:
                seen.add((a, b))
                queue.append((a, b, steps + 1))
    return -1


@program(
    "返回二叉树（[值, 左, 右]，空为 None）的高度",
    "Return the height of a binary tree ([value, left, right] or None).",
    lambda r, n: (_tree(r, n // 2 + 1),),
)
def tree_height(tree: list | None) -> int:  # type: ignore[type-arg]
    if tree is None:
        return 0
    return 1 + max(tree_height(tree[1]), tree_height(tree[2]))


@program(
    "返回二叉树（[值, 左, 右]，空为 None）的中序遍历",
    "Return the in-order traversal of a binary tree ([value, left, right] or None).",
    lambda r, n: (_tree(r, n // 2 + 1),),
)
def in_order(tree: list | None) -> list[int]:  # type: ignore[type-arg]
    if tree is None:
        return []
    return in_order(tree[1]) + [tree[0]] + in_order(tree[2])


@program(
    "依次把数插入二叉搜索树，返回先序遍历",
    "Insert numbers into a binary search tree, return its pre-order traversal.",
    lambda r, n: (r.sample(range(1, 60), n // 2 + 2),),
)
def bst_preorder(items: list[int]) -> list[int]:
    def insert(tree: list | None, x: int) -> list:  # type: ignore[type-arg]
        if tree is None:
            return [x, None, None]
        side = 1 if x < tree[0] else 2
        tree[side] = insert(tree[side], x)
        return tree

    def walk(tree: list | None) -> list[int]:  # type: ignore[type-arg]
        return [] if tree is None else [tree[0], *walk(tree[1]), *walk(tree[2])]

    root = None
    for x in items:
        root = insert(root, x)
    return walk(root)


@program(
    "Floyd–Warshall：返回所有点对最短距离矩阵（无边处 {big} 表示无穷）",
    "Floyd–Warshall: return the matrix of all shortest distances ({big} stands for no edge).",
    lambda r, n: (
        (lambda k: [[0 if i == j else r.choice([r.randint(1, 9), 99]) for j in range(k)] for i in range(k)])(
            3 + n // 8
        ),
    ),
    order="n^3",
    grow=lambda n: ([[1] * n for _ in range(n)],),
    big=(99,),
)
def floyd_warshall(table: list[list[int]], *, big: int) -> list[list[int]]:
    n = len(table)
    best = [list(row) for row in table]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                through = best[i][k] + best[k][j]
                if through < best[i][j]:
                    best[i][j] = min(through, big)
    return best
