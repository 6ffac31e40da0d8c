"""Features of the language: arguments, scopes, generators, decorators, exceptions, modules of the library."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from typing import Any

from athanor.data.synthesis.programs.base import ints, program, word


@program(
    "默认参数为可变对象的陷阱：连续调用三次 add，返回各次结果的长度",
    "The trap of a mutable default: call add several times, return the lengths of its results.",
    lambda r, n: (ints(r, n // 2 + 1),),
)
def mutable_default(items: list[int]) -> list[int]:
    def add(x: int, bag: list[int] = []) -> list[int]:  # noqa: B006 (the trap is the point)
        bag.append(x)
        return bag

    return [len(add(x)) for x in items]


@program(
    "列表别名与拷贝：修改之后返回 [原列表, 别名, 拷贝]",
    "Alias and copy of a list: return [original, alias, copy] after a change.",
    lambda r, n: (ints(r, n // 2 + 1), r.randint(1, 9)),
)
def aliasing(items: list[int], x: int) -> list[list[int]]:
    alias = items
    copy = items[:]
    alias.append(x)
    copy[0] = x
    return [items, alias, copy]


@program(
    "闭包：返回由 make(k) 得到的函数在各 items 上的结果，k = {k}",
    "Closures: return what the function made by make(k) gives on items, k = {k}.",
    lambda r, n: (ints(r, n // 2 + 1),),
    k=(2, 3, 5),
)
def closure(items: list[int], *, k: int) -> list[int]:
    def make(factor: int) -> Any:
        calls = 0

        def apply(x: int) -> int:
            nonlocal calls
            calls += 1
            return x * factor + calls

        return apply

    f = make(k)
    return [f(x) for x in items]


@program(
    "循环变量的延迟绑定：返回三个 lambda 的调用结果",
    "Late binding of a loop variable: return the results of the lambdas.",
    lambda r, n: (r.randint(2, n), r.randint(1, 9)),
)
def late_binding(n: int, x: int) -> list[list[int]]:
    late = [lambda y: y + i for i in range(n)]  # noqa: B023 (the trap is the point)
    early = [lambda y, i=i: y + i for i in range(n)]
    return [[f(x) for f in late], [f(x) for f in early]]


@program(
    "装饰器：把返回值乘以 {k} 的装饰器应用于求和函数",
    "Decorators: a decorator that multiplies the result by {k}, applied to a sum.",
    lambda r, n: (ints(r, n // 2 + 1),),
    k=(2, 3, 10),
)
def decorator(items: list[int], *, k: int) -> int:
    def scaled(function: Any) -> Any:
        def inner(*args: Any) -> Any:
            return function(*args) * k

        return inner

    @scaled
    def add(*args: int) -> int:
        return sum(args)

    return int(add(*items))


@program(
    "生成器：返回生成器产生的前 {k} 个值",
    "Generators: return the first {k} values that a generator yields.",
    lambda r, n: (r.randint(1, 9), r.randint(2, 4)),
    k=(4, 5, 6),
)
def generator_values(start: int, step: int, *, k: int) -> list[int]:
    from itertools import islice

    def numbers() -> Any:
        value = start
        while True:
            yield value
            value = value * step - 1

    return list(islice(numbers(), k))


@program(
    "异常处理：把每个字符串转为整数并求 {k} 除以它，出错时记下异常名",
    "Exceptions: divide {k} by every text as a number; note the exception's name where it fails.",
    lambda r, n: ([r.choice([str(r.randint(1, 9)), "0", "x", ""]) for _ in range(n // 2 + 2)],),
    k=(12, 60, 100),
)
def exceptions(items: list[str], *, k: int) -> list[Any]:
    result: list[Any] = []
    for item in items:
        try:
            result.append(k // int(item))
        except ZeroDivisionError:
            result.append("ZeroDivisionError")
        except ValueError:
            result.append("ValueError")
        finally:
            result.append("|")
    return result


@program(
    "*args 与 **kwargs：返回位置参数之和与关键字参数名的排序列表",
    "*args and **kwargs: return the sum of positional arguments and the sorted keyword names.",
    lambda r, n: (ints(r, n // 2 + 1), {c: r.randint(1, 9) for c in r.sample("abcdef", 2)}),
)
def star_args(items: list[int], named: dict[str, int]) -> tuple[int, list[str]]:
    def f(*args: int, **kwargs: int) -> tuple[int, list[str]]:
        return sum(args) + sum(kwargs.values()), sorted(kwargs)

    return f(*items, **named)


@program(
    "map、filter、reduce：返回大于 {k} 的数加一之后的乘积",
    "map, filter, reduce: return the product of (x + 1) over the numbers x above {k}.",
    lambda r, n: (ints(r, n // 2 + 2, 0, 9),),
    k=(2, 3, 4),
)
def map_filter(items: list[int], *, k: int) -> int:
    from functools import reduce

    kept = filter(lambda x: x > k, items)
    return reduce(lambda a, b: a * b, map(lambda x: x + 1, kept), 1)  # noqa: C417


@program(
    "zip 与 enumerate：返回 (序号 × 对应元素之积) 之和",
    "zip and enumerate: return the sum of index times the product of the pair.",
    lambda r, n: (ints(r, n // 2 + 1, 0, 9), ints(r, n // 2 + 2, 0, 9)),
)
def zip_sum(a: list[int], b: list[int]) -> int:
    return sum(i * x * y for i, (x, y) in enumerate(zip(a, b, strict=False), 1))


@program(
    "解包赋值：返回 (首元素, 中间元素列表, 末元素)",
    "Unpacking: return (first, the middle ones, last).",
    lambda r, n: (ints(r, n // 2 + 2),),
)
def unpacking(items: list[int]) -> tuple[int, list[int], int]:
    first, *middle, last = items
    return first, middle, last


@program(
    "上下文管理器：返回进入、执行、退出的事件顺序",
    "Context managers: return the order of entering, working and leaving.",
    lambda r, n: (word(r, 2), r.random() < 0.5),
)
def context_manager(name: str, fail: bool) -> list[str]:
    events: list[str] = []

    class Guard:
        def __enter__(self) -> None:
            events.append("enter " + name)

        def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
            events.append("exit " + ("none" if kind is None else kind.__name__))
            return True

    with Guard():
        events.append("work")
        if fail:
            raise KeyError(name)
        events.append("done")
    events.append("after")
    return events


@program(
    "集合与字典推导式：返回 {{字符: 出现次数}}，只保留出现 {k} 次及以上的字符",
    "Set and dict comprehensions: return {{character: count}} of the characters that occur at least {k} times.",
    lambda r, n: (word(r, n + 2, "abcd"),),
    k=(2, 3),
)
def comprehension(text: str, *, k: int) -> dict[str, int]:
    return {c: text.count(c) for c in sorted(set(text)) if text.count(c) >= k}


@program(
    "浮点与取整：返回 (x // y, x % y, round(x / y, {k}), int(x / y))",
    "Division and rounding: return (x // y, x % y, round(x / y, {k}), int(x / y)).",
    lambda r, n: (r.choice([-1, 1]) * r.randint(1, 10 * n), r.choice([-1, 1]) * r.randint(2, 9)),
    k=(1, 2),
)
def division(x: int, y: int, *, k: int) -> tuple[int, int, float, int]:
    return x // y, x % y, round(x / y, k), int(x / y)


@program(
    "短路求值：返回 a or b、a and b、not a 以及哪些函数被调用",
    "Short circuits: return (a or b, a and b) and which calls were made.",
    lambda r, n: (r.choice([0, 1, "", "x"]), r.choice([0, 2, "", "y"])),
)
def short_circuit(a: Any, b: Any) -> tuple[Any, Any, list[str]]:
    calls: list[str] = []

    def get(name: str, value: Any) -> Any:
        calls.append(name)
        return value

    return get("a", a) or get("b", b), get("a", a) and get("b", b), calls


@program(
    "变量作用域：返回函数修改之后全局风格变量与局部变量的值",
    "Scopes: return the outer and the inner value after the calls.",
    lambda r, n: (r.randint(1, 9), r.randint(1, 9)),
)
def scopes(x: int, y: int) -> list[int]:
    def shadow() -> int:
        x = y
        return x

    def change() -> None:
        nonlocal y
        y += x

    inner = shadow()
    change()
    return [x, y, inner]


@program(
    "日期：返回从 start（ISO 格式）起 {k} 天后的日期与星期（0 为星期一）",
    "Dates: return the date {k} days after start (ISO format) and its weekday (0 is Monday).",
    lambda r, n: (f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}",),
    k=(10, 30, 45, 100),
)
def date_shift(start: str, *, k: int) -> tuple[str, int]:
    from datetime import date, timedelta

    day = date.fromisoformat(start) + timedelta(days=k)
    return day.isoformat(), day.weekday()


@program(
    "itertools：返回从 items 中取 {k} 个的组合之和的列表",
    "itertools: return the sums of all combinations of {k} items.",
    lambda r, n: (ints(r, min(5, n // 2 + 1), 1, 9),),
    k=(2, 3),
)
def combinations_sum(items: list[int], *, k: int) -> list[int]:
    from itertools import combinations

    return [sum(c) for c in combinations(items, k)]


@program(
    "collections.Counter：返回出现最多的 {k} 个字符及次数（次数相同按字典序）",
    "Return the {k} most frequent characters with their counts (ties in alphabetical order).",
    lambda r, n: (word(r, n + 2, "abcde"),),
    k=(1, 2, 3),
)
def most_common(text: str, *, k: int) -> list[tuple[str, int]]:
    from collections import Counter

    return sorted(Counter(text).items(), key=lambda p: (-p[1], p[0]))[:k]


@program(
    "match 语句：把命令元组解释成坐标移动，返回终点",
    "The match statement: interpret command tuples as moves, return where they end.",
    lambda r, n: (
        [r.choice([("up", r.randint(1, 5)), ("right", r.randint(1, 5)), ("home",)]) for _ in range(n // 2 + 1)],
    ),
)
def match_commands(commands: list[tuple[Any, ...]]) -> tuple[int, int]:
    x = y = 0
    for command in commands:
        match command:
            case ("up", k):
                y += k
            case ("right", k):
                x += k
            case ("home",):
                x = y = 0
    return x, y


@program(
    "位掩码：用整数表示集合，依次翻转 items 中的位，返回剩下的位（升序）",
    "Bit masks: flip the bits of items in an integer, return the bits that are left (ascending).",
    lambda r, n: (ints(r, n, 0, 7),),
)
def bit_set(items: list[int]) -> list[int]:
    mask = 0
    for x in items:
        mask ^= 1 << x
    return [i for i in range(8) if mask >> i & 1]


@program(
    "assert 与自定义异常：余额不足时抛出异常，返回每次取款之后的余额或 'refused'",
    "Custom exceptions: return the balance after every withdrawal, or 'refused'.",
    lambda r, n: (r.randint(20, 60), ints(r, n // 2 + 1, 1, 30)),
)
def custom_exception(balance: int, amounts: list[int]) -> list[Any]:
    class NotEnough(Exception):  # noqa: N818
        pass

    def withdraw(have: int, amount: int) -> int:
        if amount > have:
            raise NotEnough(amount)
        return have - amount

    result: list[Any] = []
    for amount in amounts:
        try:
            balance = withdraw(balance, amount)
            result.append(balance)
        except NotEnough:
            result.append("refused")
    return result


@program(
    "类型转换：对每个值返回 (int(x), bool(x), str(x)) 中的布尔值",
    "Truth values: return bool(x) of every value.",
    lambda r, n: ([r.choice([0, 1, "", "0", [], [0], None, 0.0, {}]) for _ in range(n // 2 + 2)],),
)
def truthiness(values: list[Any]) -> list[bool]:
    return [bool(x) for x in values]


@program(
    "字符串切片：返回 (text[:{k}], text[-{k}:], text[::-1], text[1:-1:2])",
    "String slices: return (text[:{k}], text[-{k}:], text[::-1], text[1:-1:2]).",
    lambda r, n: (word(r, n + 3),),
    k=(1, 2, 3),
)
def string_slices(text: str, *, k: int) -> tuple[str, str, str, str]:
    return text[:k], text[-k:], text[::-1], text[1:-1:2]
