"""Explanations of real functions and questions about how they call one another, from the facts of ``codebase``."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence

from athanor.data.synthesis.codebase import MAX_LINES, Function, Module, codebase
from athanor.data.synthesis.generators.base import generator, listing
from athanor.data.synthesis.generators.programs import code_block
from athanor.data.synthesis.narration import narrate
from athanor.data.synthesis.types import Both, Draft, both

_STATIC = "syntax tree"
_TRIES = 60


def _pick(
    r: random.Random, roots: Sequence[str], wanted: Callable[[Module, Function], bool], package: bool = False
) -> tuple[Module, Function] | None:
    """A random function that is wanted, of at most ``_TRIES`` random modules (or whole packages)."""
    code = codebase(tuple(roots))
    for _ in range(_TRIES):
        i = r.randrange(len(code.files))
        module = code.package(i) if package else code.module(i)
        if module is None:
            continue
        fits = [f for f in module.functions.values() if 3 <= f.source.count("\n") < MAX_LINES and wanted(module, f)]
        if fits:
            return module, r.choice(fits)
    return None


def _facts(module: Module, f: Function, ask: str) -> dict[str, str]:
    return {"module": module.name, "function": f.name, "source": f.source, "ask": ask}


def _none(names: Sequence[str]) -> Both:
    return Both(listing(names) or "无", listing(names) or "none")


@generator
def explain_function(r: random.Random, level: int, roots: Sequence[str] = ()) -> Draft | None:
    """Explain a function: signature, purpose by its documentation, parameters, result, exceptions, calls, structure."""
    found = _pick(r, roots, lambda _, f: f.doc is not None and len(f.parameters) >= 1 and f.source.isascii())
    if found is None:
        return None
    module, f = found
    steps = explanation(module, f)
    question = Both(
        f"解释模块 {module.name} 中的函数 {f.name}：用途、参数、返回值、可能抛出的异常、结构。\n{code_block(f.source)}",
        f"Explain the function {f.name} of the module {module.name}: purpose, parameters, result, exceptions, structure.\n{code_block(f.source)}",
    )
    answer = Both(f"{f.name} 有 {len(f.parameters)} 个参数", f"{f.name} takes {len(f.parameters)} parameters")
    return Draft(_facts(module, f, "explain"), question, answer, tuple(steps), "text", "explain", verified_by=_STATIC)


def explanation(module: Module, f: Function) -> list[Both]:
    """What the syntax tree says about a function, in sentences."""
    kind = Both("异步" if f.is_async else "", "asynchronous " if f.is_async else "")
    what = Both("生成器函数" if f.is_generator else "函数", "generator function" if f.is_generator else "function")
    if "." in f.name:
        what = Both("方法", "method")
    summary = (f.doc or "").strip().split("\n\n")[0].replace("\n", " ")
    lines = [
        Both(
            f"{f.name} 是模块 {module.name} 中的一个{kind.zh}{what.zh}。",
            f"{f.name} is a {kind.en}{what.en} of the module {module.name}.",
        )
    ]
    if summary:
        lines.append(Both(f"文档说明：{summary}", f"Its documentation says: {summary}"))
    lines += [
        _parameter(p.name, p.kind, p.default, p.annotation) for p in f.parameters if p.name not in ("self", "cls")
    ]
    if f.is_generator:
        lines.append(Both("它逐个产出（yield）值。", "It yields values one by one."))
    elif f.returns_value:
        note = f"（标注为 {f.returns}）" if f.returns else ""
        lines.append(
            Both(f"它返回一个值{note}。", f"It returns a value{f' (annotated {f.returns})' if f.returns else ''}.")
        )
    else:
        lines.append(Both("它不显式返回值，结果为 None。", "It returns no value explicitly: the result is None."))
    raised, called = _none(f.raises), _none(f.calls)
    lines.append(Both(f"它直接抛出的异常：{raised.zh}。", f"Exceptions that it raises itself: {raised.en}."))
    lines.append(Both(f"它调用的本模块函数：{called.zh}。", f"Functions of the module that it calls: {called.en}."))
    lines.append(_structure(f))
    tree = ast.parse(f.source).body[0]
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    lines += [Both("逐句来看：", "Statement by statement:"), *narrate(tree)]
    return lines


def _parameter(name: str, kind: str, default: str | None, annotation: str | None) -> Both:
    mark = {"*": "*", "**": "**"}.get(kind, "")
    how = {
        "positional": Both("位置参数", "positional"),
        "keyword": Both("仅关键字参数", "keyword-only"),
        "*": Both("收集其余位置参数", "collects further positional arguments"),
        "**": Both("收集其余关键字参数", "collects further keyword arguments"),
    }[kind]
    typed = Both(f"，类型 {annotation}", f", of type {annotation}") if annotation else Both("", "")
    value = Both(f"，默认值 {default}", f", default {default}") if default is not None else Both("", "")
    if default is None and not mark:
        value = Both("，必须给出", ", required")
    return Both(
        f"参数 {mark}{name}：{how.zh}{typed.zh}{value.zh}。", f"Parameter {mark}{name}: {how.en}{typed.en}{value.en}."
    )


def _structure(f: Function) -> Both:
    zh = [f"循环最深嵌套 {f.loop_depth} 层" if f.loop_depth else "没有循环", f"{f.branches} 处条件判断"]
    en = [f"loops nest {f.loop_depth} deep" if f.loop_depth else "it has no loop", f"{f.branches} conditions"]
    if f.recursive:
        zh.append("直接递归")
        en.append("it calls itself")
    return Both(f"结构：{'，'.join(zh)}。", f"Structure: {', '.join(en)}.")


@generator
def required_arguments(r: random.Random, level: int, roots: Sequence[str] = ()) -> Draft | None:
    """Which arguments must a caller give?"""
    found = _pick(r, roots, lambda _, f: len(f.parameters) >= 2 + level // 3 and any(p.default for p in f.parameters))
    if found is None:
        return None
    module, f = found
    steps = tuple(
        _parameter(p.name, p.kind, p.default, p.annotation) for p in f.parameters if p.name not in ("self", "cls")
    )
    question = Both(
        f"调用下面的函数时哪些参数必须给出（self、cls 不算，没有则答“无”）？\n{code_block(f.source)}",
        f"Which arguments must a caller of this function give (self and cls do not count; “none” if there are none)?\n{code_block(f.source)}",
    )
    return Draft(_facts(module, f, "required"), question, _none(f.required), steps, "set", verified_by=_STATIC)


@generator
def raised_exceptions(r: random.Random, level: int, roots: Sequence[str] = ()) -> Draft | None:
    """Which exceptions do a function's own ``raise`` statements name?"""
    found = _pick(r, roots, lambda _, f: len(f.raises) >= 1 + level // 4)
    if found is None:
        return None
    module, f = found
    lines = [line.strip() for line in f.source.splitlines() if line.strip().startswith("raise ")]
    steps = tuple(both(f"`{line}`") for line in lines)
    question = Both(
        f"下面函数自己的 raise 语句会抛出哪些异常类？\n{code_block(f.source)}",
        f"Which exception classes do the raise statements of this function name?\n{code_block(f.source)}",
    )
    return Draft(_facts(module, f, "raises"), question, both(listing(f.raises)), steps, "set", verified_by=_STATIC)


@generator
def callees(r: random.Random, level: int, roots: Sequence[str] = ()) -> Draft | None:
    """Which functions of its own module does a function call?"""
    found = _pick(r, roots, lambda _, f: len(f.calls) >= 1 + level // 2)
    if found is None:
        return None
    module, f = found
    rules = Both(
        f"模块 {module.name} 定义了：{listing(_shortened(module, f.calls, r))}。",
        f"The module {module.name} defines: {listing(_shortened(module, f.calls, r))}.",
    )
    question = Both(
        f"{rules.zh}其中哪些被下面的 {f.name} 直接调用？\n{code_block(f.source)}",
        f"{rules.en} Which of them does {f.name} call directly?\n{code_block(f.source)}",
    )
    return Draft(_facts(module, f, "callees"), question, both(listing(f.calls)), (), "set", verified_by=_STATIC)


def _shortened(module: Module, needed: Sequence[str], r: random.Random, most: int = 12) -> list[str]:
    others = [name for name in module.functions if name not in needed]
    kept = {*needed, *r.sample(others, min(len(others), max(0, most - len(needed))))}
    return [name for name in module.functions if name in kept]


def _where(module: Module, package: bool) -> Both:
    kind = Both("包", "the package") if package else Both("模块", "the module")
    return Both(f"{kind.zh} {module.name} ", f"{kind.en} {module.name}")


def relations(module: Module, names: Sequence[str]) -> Both:
    """Who calls whom among ``names``, one line a caller."""
    lines = []
    for name in names:
        inside = [c for c in module.functions[name].calls if c in names]
        if inside:
            lines.append((f"{name} 调用 {listing(inside)}", f"{name} calls {listing(inside)}"))
    return Both("；\n".join(z for z, _ in lines), ";\n".join(e for _, e in lines))


def _neighbourhood(module: Module, start: str) -> list[str]:
    near = {start, *module.reachable(start), *module.callers(start)}
    return [name for name in module.functions if name in near]


@generator
def callers(r: random.Random, level: int, roots: Sequence[str] = (), package: bool = False) -> Draft | None:
    """Which functions call X? The sources of callers and others are shown."""
    found = _pick(r, roots, lambda m, f: 1 <= len(m.callers(f.name)) <= 2 + level, package)
    if found is None:
        return None
    module, f = found
    where = _where(module, package)
    right = module.callers(f.name)
    others = [
        g for g in module.functions.values() if g.name not in right and g.name != f.name and g.source.count("\n") < 20
    ]
    shown = [*right, *(g.name for g in r.sample(others, min(len(others), 2)))]
    shown = [name for name in module.functions if name in shown]
    text = "\n\n".join(f"# {name}\n{module.functions[name].source}" for name in shown)
    if len(text) > 6_000:
        return None
    question = Both(
        f"下面是{where.zh}的部分函数。其中哪些直接调用 {f.name}？\n{code_block(text)}",
        f"These are functions of {where.en}. Which of them call {f.name} directly?\n{code_block(text)}",
    )
    steps = tuple(Both(f"{name} 中有对 {f.name} 的调用。", f"{name} has a call of {f.name}.") for name in right)
    return Draft(
        _facts(module, f, "callers") | {"shown": listing(shown)},
        question,
        both(listing(right)),
        steps,
        "set",
        verified_by=_STATIC,
    )


@generator
def call_path(r: random.Random, level: int, roots: Sequence[str] = (), package: bool = False) -> Draft | None:
    """A shortest chain of calls between two functions, from the list of who calls whom."""
    found = _pick(r, roots, lambda m, f: len(m.reachable(f.name)) >= 1 + level, package)
    if found is None:
        return None
    module, f = found
    where = _where(module, package)
    ends = [(e, p) for e in module.reachable(f.name) if (p := module.path(f.name, e)) and len(p) >= 2 + (level > 2)]
    if not ends:
        return None
    end, path = r.choice(ends)
    names = _neighbourhood(module, f.name)
    if len(names) > 10 + 4 * level:
        return None
    told = relations(module, names)
    length = len(path) - 1
    question = Both(
        f"{where.zh}中的直接调用关系：\n{told.zh}。\n从 {f.name} 到 {end} 的最短调用链含多少次调用？",
        f"Direct calls in {where.en}:\n{told.en}.\nHow many calls has the shortest chain from {f.name} to {end}?",
    )
    chain = " → ".join(path)
    step = Both(f"一条最短的调用链：{chain}", f"One shortest chain: {chain}")
    facts = _facts(module, f, "path") | {"end": end}
    return Draft(facts, question, both(length), (step,), "number", verified_by=_STATIC)


@generator
def call_relations(r: random.Random, level: int, roots: Sequence[str] = (), package: bool = False) -> Draft | None:
    """Describe the call relations round a function: callers, callees, all that it reaches."""
    found = _pick(r, roots, lambda m, f: len(f.calls) >= 1 and len(m.callers(f.name)) >= 1, package)
    if found is None:
        return None
    module, f = found
    where = _where(module, package)
    names = _neighbourhood(module, f.name)
    if len(names) > 10 + 5 * level:
        return None
    reach = module.reachable(f.name)
    up, down, far = _none(module.callers(f.name)), _none(f.calls), _none(reach)
    steps = (
        Both(f"直接调用 {f.name} 的有：{up.zh}。", f"{f.name} is called directly by: {up.en}."),
        Both(f"{f.name} 直接调用：{down.zh}。", f"{f.name} calls directly: {down.en}."),
        Both(f"经由调用链可到达：{far.zh}。", f"Through chains of calls it reaches: {far.en}."),
    )
    told = relations(module, names)
    question = Both(
        f"{where.zh}中的直接调用关系：\n{told.zh}。\n描述 {f.name} 的调用关系，并说出经由调用链能到达多少个函数（不含自己）。",
        f"Direct calls in {where.en}:\n{told.en}.\nDescribe the call relations of {f.name} and say how many functions it reaches through chains of calls (itself not counted).",
    )
    return Draft(
        _facts(module, f, "relations"), question, both(len(reach)), steps, "number", "explain", verified_by=_STATIC
    )


@generator
def loop_nesting(r: random.Random, level: int, roots: Sequence[str] = ()) -> Draft | None:
    """How deep do loops and comprehensions nest?"""
    found = _pick(r, roots, lambda _, f: f.loop_depth >= 1 + (level > 2))
    if found is None:
        return None
    module, f = found
    question = Both(
        f"下面函数中循环（for、while 及推导式，内部函数不计）最深嵌套几层？\n{code_block(f.source)}",
        f"How deep do loops nest in this function (for, while and comprehensions; inner functions do not count)?\n{code_block(f.source)}",
    )
    return Draft(
        _facts(module, f, "loops"), question, both(f.loop_depth), (_structure(f),), "number", verified_by=_STATIC
    )
