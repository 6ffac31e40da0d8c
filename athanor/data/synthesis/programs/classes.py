"""Classes and data structures made by hand."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from typing import Any

from athanor.data.synthesis.programs.base import ints, program


@program(
    "定义计数器类，从 {k} 开始，依次执行 moves（每次加上该数），返回每步之后的值",
    "Define a counter class that begins at {k}; add every move, return the value after each.",
    lambda r, n: (ints(r, n // 2 + 1, -5, 9),),
    k=(0, 1, 10),
)
def counter_class(moves: list[int], *, k: int) -> list[int]:
    class Counter:
        def __init__(self, start: int) -> None:
            self.value = start

        def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    counter = Counter(k)
    return [counter.add(move) for move in moves]


@program(
    "定义基类 Shape 和子类 Square、Rectangle，返回各图形面积之和",
    "Define Shape with subclasses Square and Rectangle; return the sum of their areas.",
    lambda r, n: (ints(r, n // 3 + 1, 1, 9), [(r.randint(1, 9), r.randint(1, 9)) for _ in range(n // 3 + 1)]),
)
def shapes(sides: list[int], sizes: list[tuple[int, int]]) -> int:
    class Shape:
        def area(self) -> int:
            return 0

    class Rectangle(Shape):
        def __init__(self, a: int, b: int) -> None:
            self.a, self.b = a, b

        def area(self) -> int:
            return self.a * self.b

    class Square(Rectangle):
        def __init__(self, a: int) -> None:
            super().__init__(a, a)

    every: list[Shape] = [Square(a) for a in sides] + [Rectangle(a, b) for a, b in sizes]
    return sum(shape.area() for shape in every)


@program(
    "菱形继承中，返回 D().who() 的结果与方法解析顺序中的类名",
    "Diamond inheritance: return the result of D().who() and the class names of the resolution order.",
    lambda r, n: (r.sample("WXYZ", 3),),
)
def diamond(names: list[str]) -> tuple[str, list[str]]:
    class A:
        def who(self) -> str:
            return names[0]

    class B(A):
        def who(self) -> str:
            return names[1] + super().who()

    class C(A):
        def who(self) -> str:
            return names[2] + super().who()

    class D(B, C):
        pass

    return D().who(), [cls.__name__ for cls in D.__mro__]


@program(
    "用两个栈实现队列，按 operations 执行（数字入队，None 出队），返回出队序列",
    "Make a queue of two stacks; numbers are put in, None takes out; return what comes out.",
    lambda r, n: ([x for _ in range(n // 2 + 1) for x in (r.randint(1, 20), r.choice([None, r.randint(1, 20)]))],),
)
def two_stack_queue(operations: list[int | None]) -> list[int]:
    inbox: list[int] = []
    outbox: list[int] = []
    result = []
    for operation in operations:
        if operation is not None:
            inbox.append(operation)
            continue
        if not outbox:
            while inbox:
                outbox.append(inbox.pop())
        if outbox:
            result.append(outbox.pop())
    return result


@program(
    "定义单链表，依次在头部插入 items，再反转，返回各结点的值",
    "Build a linked list by inserting items at its head, reverse it, return its values.",
    lambda r, n: (ints(r, n // 2 + 2),),
)
def linked_list(items: list[int]) -> list[int]:
    class Node:
        def __init__(self, value: int, after: Node | None) -> None:
            self.value, self.after = value, after

    head: Any = None
    for x in items:
        head = Node(x, head)
    back: Any = None
    while head:
        head.after, back, head = back, head, head.after
    result = []
    while back:
        result.append(back.value)
        back = back.after
    return result


@program(
    "定义支持 + 和 == 的向量类，返回 items 中各向量之和的分量",
    "Define a vector class with + and ==; return the components of the sum of items.",
    lambda r, n: ([(r.randint(-9, 9), r.randint(-9, 9)) for _ in range(n // 3 + 2)],),
)
def vector_class(items: list[tuple[int, int]]) -> tuple[int, int]:
    class Vector:
        def __init__(self, x: int, y: int) -> None:
            self.x, self.y = x, y

        def __add__(self, other: Vector) -> Vector:
            return Vector(self.x + other.x, self.y + other.y)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)

    total = Vector(0, 0)
    for x, y in items:
        total = total + Vector(x, y)
    return (total.x, total.y)


@program(
    "用 dataclass 表示商品（名称、价格、数量），返回总价最高的商品名",
    "Represent goods as a dataclass (name, price, amount); return the name with the largest total.",
    lambda r, n: (
        [
            (name, r.randint(1, 20), r.randint(1, 9))
            for name in r.sample(["pen", "cup", "hat", "bag", "map", "key"], min(6, 2 + n // 5))
        ],
    ),
)
def dataclass_goods(rows: list[tuple[str, int, int]]) -> str:
    from dataclasses import dataclass

    @dataclass
    class Good:
        name: str
        price: int
        amount: int

        @property
        def total(self) -> int:
            return self.price * self.amount

    goods = [Good(*row) for row in rows]
    return max(goods, key=lambda g: g.total).name


@program(
    "容量为 {k} 的 LRU 缓存：依次访问 keys，返回命中次数",
    "An LRU cache of {k} entries: access the keys in turn, return the number of hits.",
    lambda r, n: (ints(r, n + 2, 1, 5),),
    k=(2, 3),
)
def lru(keys: list[int], *, k: int) -> int:
    from collections import OrderedDict

    cache: OrderedDict[int, bool] = OrderedDict()
    hits = 0
    for key in keys:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
        else:
            cache[key] = True
            if len(cache) > k:
                cache.popitem(last=False)
    return hits


@program(
    "把单词插入前缀树，返回以 prefix 开头的单词数",
    "Insert words into a trie, return how many begin with prefix.",
    lambda r, n: (
        ["".join(r.choice("ab") for _ in range(r.randint(1, 4))) for _ in range(n // 2 + 2)],
        r.choice(["a", "b", "ab"]),
    ),
)
def trie_count(words: list[str], prefix: str) -> int:
    root: dict[str, Any] = {"": 0}
    for w in words:
        node = root
        for c in w:
            node = node.setdefault(c, {"": 0})
            node[""] += 1
    node = root
    for c in prefix:
        if c not in node:
            return 0
        node = node[c]
    return int(node[""])
