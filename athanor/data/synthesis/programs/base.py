"""Program families: ordinary functions whose source is the task and whose running is the answer.

A family is registered with what it does (Chinese, English), how its inputs are drawn, and, where its growth is asked,
its order and an input of size n. Keyword-only arguments are the family's parameters: a task fixes them as constants.
"""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

import ast
import builtins
import copy
import inspect
import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from athanor.data.synthesis.types import Both

_MODULES = (
    "numbers",
    "lists",
    "strings",
    "mappings",
    "recursion",
    "sorting",
    "searching",
    "graphs",
    "dynamic",
    "classes",
    "language",
)

#: What locals may be called instead, so that the same program does not always look the same.
_SYNONYMS: dict[str, list[str]] = {
    "items": ["items", "values", "data", "xs", "nums"],
    "text": ["text", "s", "line", "source"],
    "total": ["total", "acc", "amount"],
    "result": ["result", "out", "found", "answer"],
    "count": ["count", "hits", "tally"],
    "best": ["best", "top", "record"],
    "n": ["n", "m", "number"],
}


@dataclass(frozen=True)
class Program:
    """One family. ``inputs(r, size)`` draws arguments; ``grow(n)`` makes arguments of size n for ``order``."""

    name: str
    function: Callable[..., Any]
    about: Both
    inputs: Callable[[random.Random, int], tuple[Any, ...]]
    parameters: Mapping[str, Sequence[Any]]
    order: str | None = None
    grow: Callable[[int], tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Instance:
    """A family with its parameters fixed and its names chosen: ``tree`` holds one function definition."""

    program: Program
    tree: ast.FunctionDef
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Python text."""
        return ast.unparse(self.tree)

    @property
    def about(self) -> Both:
        """What it does, with its constants."""
        zh, en = self.program.about
        return Both(zh.format(**self.constants), en.format(**self.constants))

    @property
    def signature(self) -> str:
        """The ``def`` line."""
        returns = f" -> {ast.unparse(self.tree.returns)}" if self.tree.returns is not None else ""
        return f"def {self.tree.name}({ast.unparse(self.tree.args)}){returns}:"


REGISTER: dict[str, Program] = {}


def program(
    zh: str,
    en: str,
    inputs: Callable[[random.Random, int], tuple[Any, ...]],
    *,
    order: str | None = None,
    grow: Callable[[int], tuple[Any, ...]] | None = None,
    **parameters: Sequence[Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a family; ``parameters`` are the values its keyword-only arguments may take."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        REGISTER[name] = Program(name, function, Both(zh, en), inputs, parameters, order, grow)
        return function

    return add


@cache
def programs() -> dict[str, Program]:
    """All families by name, loaded once."""
    for module in _MODULES:
        import_module(f"athanor.data.synthesis.programs.{module}")
    return dict(REGISTER)


@cache
def _definition(name: str) -> ast.FunctionDef:
    """The family's own definition, without its decorator."""
    function = programs()[name].function
    module = ast.parse(inspect.getsource(inspect.getmodule(function) or function))
    node = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name)
    node.decorator_list = []
    return node


def instance(name: str, r: random.Random, *, plain: bool = False) -> Instance:
    """Fix the parameters and (unless ``plain``) choose names; the body's docstring, if any, is dropped."""
    family = programs()[name]
    node = copy.deepcopy(_definition(name))
    constants = {key: r.choice(list(values)) for key, values in family.parameters.items()}
    node.args.kwonlyargs, node.args.kw_defaults = [], []
    node = _Fix(constants, {} if plain else _names(node, r)).visit(node)
    if ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    _Bare().visit(node)
    if not _stands_alone(node) or (not plain and r.random() < 0.4):
        node.returns = None
        for arg in node.args.args:
            arg.annotation = None
    return Instance(family, ast.fix_missing_locations(node), constants)


def _names(node: ast.FunctionDef, r: random.Random) -> dict[str, str]:
    """New names for locals with synonyms; none where an inner scope could be confused."""
    inner = (ast.FunctionDef, ast.Lambda, ast.ClassDef)
    if any(isinstance(n, inner) for n in ast.walk(node) if n is not node):
        return {}
    taken = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {a.arg for a in node.args.args}
    out: dict[str, str] = {}
    for name in sorted(taken & _SYNONYMS.keys()):
        new = r.choice(_SYNONYMS[name])
        if new not in taken:
            out[name] = new
            taken.add(new)
    return out


class _Fix(ast.NodeTransformer):
    def __init__(self, constants: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.constants, self.names = constants, names

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802 (the name ast asks for)
        if node.id in self.constants:
            return ast.parse(repr(self.constants[node.id]), mode="eval").body
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.names.get(node.arg, node.arg)
        return self.generic_visit(node)


class _Bare(ast.NodeTransformer):
    """Inside, a task has no annotations: they may name what a reader would have to import."""

    def __init__(self) -> None:
        self.outer = True

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        if not self.outer:
            node.returns = None
            for arg in [*node.args.args, node.args.vararg, node.args.kwarg]:
                if arg is not None:
                    arg.annotation = None
        self.outer = False
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:  # noqa: N802
        if node.value is None:
            return node  # a field of a dataclass
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)


def _stands_alone(node: ast.FunctionDef) -> bool:
    """Whether the signature names nothing but built-ins."""
    marks = [node.returns, *(a.annotation for a in node.args.args)]
    names = {n.id for mark in marks if mark is not None for n in ast.walk(mark) if isinstance(n, ast.Name)}
    return all(hasattr(builtins, name) for name in names)


# --- drawing inputs --------------------------------------------------------------------------------------------------


def ints(r: random.Random, n: int, low: int = 0, high: int = 20) -> list[int]:
    """``n`` whole numbers."""
    return [r.randint(low, high) for _ in range(n)]


def word(r: random.Random, n: int, letters: str = string.ascii_lowercase) -> str:
    """``n`` letters."""
    return "".join(r.choice(letters) for _ in range(n))


WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "green",
    "light",
    "table",
    "music",
    "paper",
    "garden",
    "winter",
    "summer",
    "bread",
    "glass",
    "tiger",
    "ocean",
    "maple",
    "silver",
    "window",
    "rabbit",
]


def sentence(r: random.Random, n: int) -> str:
    """``n`` words."""
    return " ".join(r.choice(WORDS) for _ in range(n))


def list_of(n: int) -> tuple[list[int]]:
    """A fixed unordered list of size n, for measuring growth."""
    return ([(i * 7919) % (n + 1) for i in range(n)],)
