"""Facts of real code, read off its syntax trees: signatures, documentation, exceptions, results, who calls whom.

Nothing is imported or run. A call counts where its target is certain: a plain name that the module defines at its top
level (and that nothing local shadows), or ``self.name`` / ``cls.name`` / ``super`` free methods of the same class.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from athanor.errors import AthanorError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

#: A function longer than this is no exercise.
MAX_LINES = 45
MAX_MODULE_BYTES = 200_000

#: Folders of the library that hold no ordinary code.
_SKIP = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "encodings"}
_SKIP |= {"turtledemo", "pydoc_data", "ensurepip"}


@dataclass(frozen=True)
class Parameter:
    """``kind`` is positional, keyword, ``*`` or ``**``; ``default`` and ``annotation`` are source text."""

    name: str
    kind: str
    default: str | None = None
    annotation: str | None = None


@dataclass(frozen=True)
class Function:
    """A function or method of a module; ``name`` is qualified (``Class.method``)."""

    name: str
    source: str
    doc: str | None
    parameters: tuple[Parameter, ...]
    returns: str | None
    raises: tuple[str, ...]
    calls: tuple[str, ...]
    is_async: bool
    is_generator: bool
    recursive: bool
    loop_depth: int
    branches: int
    returns_value: bool

    @property
    def required(self) -> list[str]:
        """Parameters without a default that a caller must give (``self`` and ``cls`` left out)."""
        return [
            p.name
            for p in self.parameters
            if p.default is None and not p.kind.startswith("*") and p.name not in ("self", "cls")
        ]


@dataclass
class Module:
    """One file: its functions by qualified name, in the order of the source."""

    name: str
    functions: dict[str, Function] = field(default_factory=dict)

    def callers(self, name: str) -> list[str]:
        """Which functions of the module call ``name`` directly (itself left out)."""
        return [f.name for f in self.functions.values() if name in f.calls and f.name != name]

    def path(self, start: str, end: str) -> list[str] | None:
        """A shortest chain of calls, ties by the order of the source; None when there is none."""
        before: dict[str, str] = {start: ""}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            if here == end and here != start:
                chain = [here]
                while before[chain[-1]]:
                    chain.append(before[chain[-1]])
                return chain[::-1]
            for other in self.functions[here].calls:
                if other not in before:
                    before[other] = here
                    queue.append(other)
        return None

    def reachable(self, start: str) -> list[str]:
        """Every function that a call of ``start`` may reach, in the order of the source (itself left out)."""
        seen, stack = {start}, [start]
        while stack:
            for other in self.functions[stack.pop()].calls:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return [name for name in self.functions if name in seen and name != start]


def parse_module(name: str, text: str) -> Module | None:
    """The module's facts; None when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    module = Module(name)
    tops = {n.name for n in tree.body if isinstance(n, FunctionNode)}
    rebound = {n.id for s in tree.body if not isinstance(s, FunctionNode | ast.ClassDef) for n in ast.walk(s)
               if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}  # fmt: skip
    defined: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, FunctionNode):
            defined[node.name] = defined.get(node.name, 0) + 1
    certain = {n for n in tops if defined[n] == 1 and n not in rebound}
    for node in tree.body:
        if isinstance(node, FunctionNode) and node.name in certain:
            module.functions[node.name] = _function(node, node.name, text, certain, "", set())
        elif isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, FunctionNode)]
            names = {n.name for n in methods}
            for method in methods:
                if sum(n.name == method.name for n in methods) == 1:
                    qualified = f"{node.name}.{method.name}"
                    module.functions[qualified] = _function(method, qualified, text, certain, node.name, names)
    for name_, f in list(module.functions.items()):
        kept = tuple(c for c in f.calls if c in module.functions)
        module.functions[name_] = replace(f, calls=kept)
    return module


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's own body: inner functions, lambdas and classes are others' code."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef | ast.Lambda):
            continue
        yield child
        yield from _own_nodes(child)


def _function(node: FunctionNode, name: str, text: str, tops: set[str], cls: str, methods: set[str]) -> Function:
    own = [n for statement in node.body if not isinstance(statement, FunctionNode | ast.ClassDef)
           for n in (statement, *_own_nodes(statement))]  # fmt: skip
    local = {n.id for n in own if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    local |= {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    local |= {n.name for n in node.body if isinstance(n, FunctionNode | ast.ClassDef)}
    local |= {a.asname or a.name for n in own if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    calls: dict[str, None] = {}
    first = node.args.args[0].arg if node.args.args and cls else ""
    for n in own:
        if not isinstance(n, ast.Call):
            continue
        f = n.func
        if isinstance(f, ast.Name) and f.id in tops and f.id not in local:
            calls[f.id] = None
        elif (isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and first in ("self", "cls")
              and f.value.id == first and f.attr in methods):  # fmt: skip
            calls[f"{cls}.{f.attr}"] = None
    return Function(
        name=name,
        source=_source(node, text),
        doc=ast.get_docstring(node),
        parameters=_parameters(node.args),
        returns=ast.unparse(node.returns) if node.returns else None,
        raises=_raises(own),
        calls=tuple(calls),
        is_async=isinstance(node, ast.AsyncFunctionDef),
        is_generator=any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own),
        recursive=name in calls,
        loop_depth=_loop_depth(node.body),
        branches=sum(isinstance(n, ast.If | ast.IfExp) for n in own),
        returns_value=any(isinstance(n, ast.Return) and n.value is not None and not _is_none(n.value) for n in own),
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _source(node: FunctionNode, text: str) -> str:
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    cut = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    return "\n".join(line[cut:] if not line[:cut].strip() else line for line in lines)


def _parameters(args: ast.arguments) -> tuple[Parameter, ...]:
    out: list[Parameter] = []

    def add(arg: ast.arg, kind: str, default: ast.expr | None) -> None:
        note = ast.unparse(arg.annotation) if arg.annotation else None
        out.append(Parameter(arg.arg, kind, ast.unparse(default) if default is not None else None, note))

    plain = [*args.posonlyargs, *args.args]
    pad: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults))
    for arg, default in zip(plain, [*pad, *args.defaults], strict=True):
        add(arg, "positional", default)
    if args.vararg:
        add(args.vararg, "*", None)
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        add(arg, "keyword", default)
    if args.kwarg:
        add(args.kwarg, "**", None)
    return tuple(out)


def _raises(own: list[ast.AST]) -> tuple[str, ...]:
    """Names of exceptions that ``raise`` statements name; a bare re-raise and a variable name none."""
    found: dict[str, None] = {}
    for n in own:
        if isinstance(n, ast.Raise) and n.exc is not None:
            target = n.exc.func if isinstance(n.exc, ast.Call) else n.exc
            name = ast.unparse(target)
            last = name.rpartition(".")[2]
            if last[:1].isupper() and all(c.isalnum() or c in "._" for c in name):
                found[name] = None
    return tuple(found)


def _loop_depth(body: list[ast.stmt]) -> int:
    """How deep ``for`` and ``while`` statements and comprehensions nest; inner functions are others' code."""

    def depth(node: ast.AST) -> int:
        if isinstance(node, FunctionNode | ast.ClassDef | ast.Lambda):
            return 0
        inner = max((depth(c) for c in ast.iter_child_nodes(node)), default=0)
        if isinstance(node, ast.For | ast.AsyncFor | ast.While):
            return inner + 1
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return inner + len(node.generators)
        return inner

    return max((depth(s) for s in body), default=0)


@dataclass(frozen=True)
class Codebase:
    """Python files under some roots, in the order of their names; each is parsed when it is first wanted."""

    files: tuple[tuple[str, Path], ...]

    @classmethod
    def open(cls, roots: tuple[str, ...] = ()) -> Codebase:
        """The files of the given folders (default: this Python's library). ``AthanorError`` when there are none."""
        found: list[tuple[str, Path]] = []
        for root in roots or (sysconfig.get_path("stdlib"),):
            folder = Path(root)
            if not folder.exists():
                raise AthanorError("no such file or folder", where=str(root), fix="a folder with Python files")
            paths = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
            base = folder.parent if folder.is_file() else folder
            for path in paths:
                parts = path.relative_to(base).parts
                if _ordinary(parts) and path.stat().st_size <= MAX_MODULE_BYTES:
                    found.append((".".join([*parts[:-1], path.stem]), path))
        if not found:
            raise AthanorError("no Python files", where=", ".join(roots), fix="a folder with .py files")
        return cls(tuple(found))

    def module(self, i: int) -> Module | None:
        """The facts of file ``i``; None when it is not UTF-8 or does not parse."""
        return _read(*self.files[i])


def _ordinary(parts: tuple[str, ...]) -> bool:
    """Whether a path names neither a skipped folder nor what is hidden or made by the build."""
    return not _SKIP.intersection(parts) and not any(p.startswith((".", "_sysconfig", "config-")) for p in parts)


@lru_cache(maxsize=256)
def _read(name: str, path: Path) -> Module | None:
    try:
        return parse_module(name, path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, OSError):
        return None


@lru_cache(maxsize=8)
def codebase(roots: tuple[str, ...] = ()) -> Codebase:
    """One codebase a process and set of roots."""
    return Codebase.open(roots)
