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
MAX_PACKAGE_FILES = 60

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
    """A function or method of a module; ``name`` is qualified (``Class.method``).

    ``calls`` are functions of the module, ``outside`` calls of what it imports, as written (``f`` or ``module.f``).
    """

    name: str
    source: str
    doc: str | None
    parameters: tuple[Parameter, ...]
    returns: str | None
    raises: tuple[str, ...]
    calls: tuple[str, ...]
    outside: tuple[str, ...]
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
    """One file: its functions by qualified name, in the order of the source; ``imports`` are local names → what they
    stand for, dotted. A whole package is one, too: then functions are named ``module.function``."""

    name: str
    functions: dict[str, Function] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)

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
    module = Module(name, imports=_imports(tree, name))
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
            module.functions[node.name] = _function(node, node.name, text, _Scope(certain, set(module.imports)))
        elif isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, FunctionNode)]
            scope = _Scope(certain, set(module.imports), node.name, {n.name for n in methods})
            for method in methods:
                if sum(n.name == method.name for n in methods) == 1:
                    qualified = f"{node.name}.{method.name}"
                    module.functions[qualified] = _function(method, qualified, text, scope)
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


@dataclass(frozen=True)
class _Scope:
    """What a name may mean in a function: functions of the module, imported names, methods of the class it is in."""

    tops: set[str]
    imported: set[str]
    cls: str = ""
    methods: set[str] = field(default_factory=set)


def _calls(own: list[ast.AST], local: set[str], first: str, scope: _Scope) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(calls inside the module, calls of imported names), each once, in the order of the tree."""
    inside: dict[str, None] = {}
    outside: dict[str, None] = {}
    for n in own:
        if not isinstance(n, ast.Call):
            continue
        written = ast.unparse(n.func)
        head, _, rest = written.partition(".")
        if not all(part.isidentifier() for part in written.split(".")):
            continue
        if head == first and first in ("self", "cls") and rest in scope.methods:
            inside[f"{scope.cls}.{rest}"] = None
        elif head not in local and not rest and head in scope.tops:
            inside[head] = None
        elif head not in local and head in scope.imported and head not in scope.tops:
            outside[written] = None
    return tuple(inside), tuple(outside)


def _function(node: FunctionNode, name: str, text: str, scope: _Scope) -> Function:
    own = [
        n
        for statement in node.body
        if not isinstance(statement, FunctionNode | ast.ClassDef)
        for n in (statement, *_own_nodes(statement))
    ]
    local = {n.id for n in own if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    local |= {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    local |= {n.name for n in node.body if isinstance(n, FunctionNode | ast.ClassDef)}
    local |= {a.asname or a.name for n in own if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    first = node.args.args[0].arg if node.args.args and scope.cls else ""
    calls, outside = _calls(own, local, first, scope)
    return Function(
        name=name,
        source=_source(node, text),
        doc=ast.get_docstring(node),
        parameters=_parameters(node.args),
        returns=ast.unparse(node.returns) if node.returns else None,
        raises=_raises(own),
        calls=calls,
        outside=outside,
        is_async=isinstance(node, ast.AsyncFunctionDef),
        is_generator=any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own),
        recursive=name in calls,
        loop_depth=_loop_depth(node.body),
        branches=sum(isinstance(n, ast.If | ast.IfExp) for n in own),
        returns_value=any(isinstance(n, ast.Return) and n.value is not None and not _is_none(n.value) for n in own),
    )


def _imports(tree: ast.Module, name: str) -> dict[str, str]:
    """Local name → dotted name, of the imports at the top level; relative ones are resolved against ``name``."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for a in node.names:
                if a.asname or "." not in a.name:
                    found[a.asname or a.name] = a.name
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")
            parent = base[: len(base) - node.level] if node.level else []
            start = ".".join([*parent, *([node.module] if node.module else [])])
            found.update({a.asname or a.name: f"{start}.{a.name}" for a in node.names if a.name != "*"})
    return found


def merge(name: str, modules: list[Module]) -> Module:
    """A package as one graph: functions are named ``module.function``, calls over imports are resolved."""
    short = {m.name: m.name.removeprefix(name + ".") for m in modules}
    whole = Module(name)
    known = {f"{m.name}.{f}": f"{short[m.name]}.{f}" for m in modules for f in m.functions}
    for m in modules:
        for f in m.functions.values():
            calls = [f"{short[m.name]}.{c}" for c in f.calls]
            for written in f.outside:
                head, dot, rest = written.partition(".")
                target = known.get(m.imports[head] + dot + rest)
                if target is not None and target not in calls:
                    calls.append(target)
            label = f"{short[m.name]}.{f.name}"
            whole.functions[label] = replace(f, name=label, calls=tuple(calls), recursive=label in calls)
    return whole


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
            # A package's own folder: its modules import one another by the package's name.
            inside = folder.is_file() or (folder / "__init__.py").is_file()
            base = folder.parent if inside else folder
            for path in paths:
                parts = path.relative_to(base).parts
                if _ordinary(parts) and path.stat().st_size <= MAX_MODULE_BYTES:
                    found.append((".".join([*parts[:-1], path.stem]), path))
        if not found:
            raise AthanorError("no Python files", where=", ".join(roots), fix="a folder with .py files")
        return cls(tuple(found))

    def package(self, i: int) -> Module | None:
        """The package that file ``i`` belongs to, merged; None for a module of its own."""
        top, dot, _ = self.files[i][0].rpartition(".")
        mine = tuple((name, path) for name, path in self.files if name.rpartition(".")[0] == top)
        return _package(top, mine) if dot and len(mine) <= MAX_PACKAGE_FILES else None

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


@lru_cache(maxsize=64)
def _package(name: str, files: tuple[tuple[str, Path], ...]) -> Module | None:
    modules = [m for file in files if (m := _read(*file)) is not None]
    return merge(name, modules) if len(modules) > 1 else None


@lru_cache(maxsize=8)
def codebase(roots: tuple[str, ...] = ()) -> Codebase:
    """One codebase a process and set of roots."""
    return Codebase.open(roots)
