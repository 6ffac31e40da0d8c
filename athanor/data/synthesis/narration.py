"""What a function does, statement by statement, in Chinese and English: read off its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from athanor.data.synthesis.types import Both

_MAX_CHARS = 90
_INDENT = "  "

_AUGMENTED: dict[type, Both] = {
    ast.Add: Both("给 {t} 加上 {v}", "add {v} to {t}"),
    ast.Sub: Both("从 {t} 减去 {v}", "subtract {v} from {t}"),
    ast.Mult: Both("把 {t} 乘以 {v}", "multiply {t} by {v}"),
    ast.FloorDiv: Both("把 {t} 整除以 {v}", "divide {t} by {v}, rounding down"),
    ast.Div: Both("把 {t} 除以 {v}", "divide {t} by {v}"),
    ast.Mod: Both("把 {t} 换成除以 {v} 的余数", "replace {t} by its remainder modulo {v}"),
}


def narrate(function: ast.FunctionDef | ast.AsyncFunctionDef, most: int = 40) -> list[Both]:
    """One line a statement, indented like the source; at most ``most`` lines (then one says how many are left out)."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    lines = list(_block(body, 0))
    if len(lines) > most:
        rest = len(lines) - most
        lines = [*lines[:most], Both(f"（其余 {rest} 步从略）", f"({rest} more steps)")]
    return lines


def _code(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return f"`{text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + '…'}`"


def _block(body: Sequence[ast.stmt], depth: int) -> Iterator[Both]:
    for statement in body:
        yield from _statement(statement, depth)


def _line(depth: int, zh: str, en: str) -> Both:
    return Both(_INDENT * depth + zh, _INDENT * depth + en)


def _statement(node: ast.stmt, depth: int) -> Iterator[Both]:
    match node:
        case (
            ast.If() | ast.For() | ast.AsyncFor() | ast.While() | ast.Try() | ast.With() | ast.AsyncWith() | ast.Match()
        ):
            yield from _compound(node, depth)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            head = f"`{node.name}({ast.unparse(node.args)})`"
            yield _line(depth, f"定义内部函数 {head}：", f"define an inner function {head}:")
            yield from _block(node.body, depth + 1)
        case ast.ClassDef():
            bases = ", ".join(ast.unparse(b) for b in node.bases)
            of = Both(f"（继承 {bases}）" if bases else "", f" (a kind of {bases})" if bases else "")
            yield _line(depth, f"定义类 `{node.name}`{of.zh}：", f"define a class `{node.name}`{of.en}:")
            yield from _block(node.body, depth + 1)
        case _:
            simple = _simple(node)
            yield _line(depth, simple.zh, simple.en)


def _simple(node: ast.stmt) -> Both:
    match node:
        case ast.Assign(targets=targets, value=value):
            names = "、".join(_code(t) for t in targets), " and ".join(_code(t) for t in targets)
            return Both(f"把 {names[0]} 设为 {_code(value)}", f"set {names[1]} to {_code(value)}")
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return Both(f"把 {_code(target)} 设为 {_code(value)}", f"set {_code(target)} to {_code(value)}")
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _AUGMENTED:
            words = {"t": _code(target), "v": _code(value)}
            return Both(*(text.format(**words) for text in _AUGMENTED[type(op)]))
        case ast.Return(value=None):
            return Both("返回", "return")
        case ast.Return(value=ast.expr() as value):
            return Both(f"返回 {_code(value)}", f"return {_code(value)}")
        case ast.Raise(exc=ast.expr() as error):
            return Both(f"抛出 {_code(error)}", f"raise {_code(error)}")
        case ast.Expr(value=ast.Yield(value=ast.expr() as value)):
            return Both(f"产出 {_code(value)}", f"yield {_code(value)}")
        case ast.Expr(value=ast.Call() as call):
            return Both(f"调用 {_code(call)}", f"call {_code(call)}")
        case ast.Assert(test=test):
            return Both(f"断言 {_code(test)} 成立", f"assert that {_code(test)} holds")
        case ast.Break():
            return Both("跳出循环", "leave the loop")
        case ast.Continue():
            return Both("进入下一轮循环", "go on with the next round")
        case ast.Import() | ast.ImportFrom():
            return Both(f"导入：{_code(node)}", f"import: {_code(node)}")
        case ast.Pass():
            return Both("什么也不做", "do nothing")
        case _:
            return Both(f"执行 {_code(node)}", f"run {_code(node)}")


def _compound(node: ast.stmt, depth: int) -> Iterator[Both]:
    match node:
        case ast.If(test=test, body=body, orelse=orelse):
            yield _line(depth, f"如果 {_code(test)}：", f"if {_code(test)}:")
            yield from _block(body, depth + 1)
            if orelse:
                yield _line(depth, "否则：", "otherwise:")
                yield from _block(orelse, depth + 1)
        case (
            ast.For(target=target, iter=source, body=body, orelse=orelse)
            | ast.AsyncFor(target=target, iter=source, body=body, orelse=orelse)
        ):
            yield _line(
                depth, f"依次取 {_code(source)} 中的 {_code(target)}：", f"for each {_code(target)} of {_code(source)}:"
            )
            yield from _block(body, depth + 1)
            yield from _after_loop(orelse, depth)
        case ast.While(test=test, body=body, orelse=orelse):
            yield _line(depth, f"只要 {_code(test)}，就重复：", f"as long as {_code(test)}, repeat:")
            yield from _block(body, depth + 1)
            yield from _after_loop(orelse, depth)
        case ast.Try():
            yield from _try(node, depth)
        case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
            text = ", ".join(_code(i) for i in items)
            yield _line(depth, f"在 {text} 的范围内：", f"within {text}:")
            yield from _block(body, depth + 1)
        case ast.Match(subject=subject, cases=cases):
            yield _line(depth, f"看 {_code(subject)} 的形状：", f"look at the shape of {_code(subject)}:")
            for case in cases:
                guard = f" if {ast.unparse(case.guard)}" if case.guard else ""
                text = f"`{ast.unparse(case.pattern)}{guard}`"
                yield _line(depth + 1, f"若为 {text}：", f"when it is {text}:")
                yield from _block(case.body, depth + 2)


def _after_loop(orelse: Sequence[ast.stmt], depth: int) -> Iterator[Both]:
    if orelse:
        yield _line(depth, "循环没有被跳出时：", "when the loop was not left:")
        yield from _block(orelse, depth + 1)


def _try(node: ast.Try, depth: int) -> Iterator[Both]:
    yield _line(depth, "尝试：", "try:")
    yield from _block(node.body, depth + 1)
    for handler in node.handlers:
        kind = _code(handler.type) if handler.type else "`BaseException`"
        yield _line(depth, f"遇到 {kind} 时：", f"on {kind}:")
        yield from _block(handler.body, depth + 1)
    if node.orelse:
        yield _line(depth, "没有异常时：", "when nothing was raised:")
        yield from _block(node.orelse, depth + 1)
    if node.finalbody:
        yield _line(depth, "最后总是：", "in the end, always:")
        yield from _block(node.finalbody, depth + 1)
