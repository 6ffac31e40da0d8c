"""Facts of real code: against a planted package whose facts are known, and against the imported library itself."""

# ruff: noqa: E501 (planted sources)

import ast
import importlib
import inspect
import random
import re

import pytest

from athanor.data.synthesis.codebase import Codebase, parse_module
from athanor.data.synthesis.generators.base import generators
from athanor.data.synthesis.generators.real_code import explanation
from athanor.data.synthesis.narration import narrate
from athanor.data.synthesis.points import load_taxonomy

PLANTED = '''
"""A module."""

def leaf(x):
    """Return x."""
    return x

def middle(a, b=1, *rest, key, other=2, **more):
    """Add up."""
    if a:
        raise ValueError("no")
    for i in range(b):
        for j in rest:
            leaf(j)
    return [leaf(x) for x in rest]

async def top(n: int) -> int:
    raise errors.Timeout from None

def shadowed(leaf):
    return leaf(1)

def hidden():
    def leaf(x):
        return x
    return leaf(2)

def outer():
    def inner():
        return middle(0, key=1)
    return inner

def twice(): pass
def twice(): leaf(1)

def gen():
    yield leaf(1)
    try:
        pass
    except KeyError as error:
        raise error

class C:
    def m(self):
        self.k()
        other.k()
        return middle(1, key=2)
    def k(self):
        return self.k() or leaf(3)
'''


def test_a_planted_module():
    module = parse_module("planted", PLANTED)
    f = module.functions
    assert list(f) == ["leaf", "middle", "top", "shadowed", "hidden", "outer", "gen", "C.m", "C.k"]
    assert {name: x.calls for name, x in f.items() if x.calls} == {
        "middle": ("leaf",), "gen": ("leaf",), "C.m": ("C.k", "middle"), "C.k": ("C.k", "leaf"),
    }  # fmt: skip
    assert module.callers("leaf") == ["middle", "gen", "C.k"]
    assert module.path("C.m", "leaf") == ["C.m", "C.k", "leaf"]
    assert module.path("leaf", "C.m") is None
    assert module.reachable("C.m") == ["leaf", "middle", "C.k"]
    assert f["middle"].required == ["a", "key"]
    assert [(p.name, p.kind, p.default) for p in f["middle"].parameters] == [
        ("a", "positional", None), ("b", "positional", "1"), ("rest", "*", None), ("key", "keyword", None),
        ("other", "keyword", "2"), ("more", "**", None),
    ]  # fmt: skip
    assert f["middle"].raises == ("ValueError",) and f["top"].raises == ("errors.Timeout",) and f["gen"].raises == ()
    assert f["middle"].loop_depth == 2 and f["middle"].returns_value and not f["top"].returns_value
    assert f["top"].is_async and f["gen"].is_generator and f["C.k"].recursive and not f["C.m"].recursive


@pytest.mark.parametrize("name", ["textwrap", "bisect", "shlex", "fnmatch", "statistics", "heapq", "csv", "argparse"])
def test_signatures_are_those_that_python_sees(name):
    library = importlib.import_module(name)
    module = parse_module(name, inspect.getsource(library))
    compared = 0
    for f in module.functions.values():
        target = library
        for part in f.name.split("."):
            target = inspect.getattr_static(target, part, None)
        if not inspect.isfunction(target) or target.__module__ != name:
            continue
        parameters = inspect.signature(target).parameters.values()
        assert [p.name for p in f.parameters] == [p.name for p in parameters], f.name
        free = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        assert f.required == [n for n in free if n not in ("self", "cls")], f.name
        assert (f.doc or None) == (inspect.cleandoc(target.__doc__) if target.__doc__ else None)
        assert f.is_generator == (inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)), f.name
        compared += 1
    assert compared >= 2 or name in ("bisect", "heapq")


def test_calls_are_those_of_the_byte_code():
    """Every call of a module's own function that the tree tells is a global that the compiled function loads."""
    checked = 0
    for name in ("textwrap", "shlex", "fnmatch", "statistics", "tokenize", "ast", "inspect"):
        library = importlib.import_module(name)
        module = parse_module(name, inspect.getsource(library))
        for f in module.functions.values():
            target = getattr(library, f.name, None)
            if not inspect.isfunction(target) or target.__module__ != name or hasattr(target, "__wrapped__"):
                continue
            for called in f.calls:
                if "." not in called:
                    assert called in target.__code__.co_names or _inner(target.__code__, called), (name, f.name, called)
                    checked += 1
    assert checked > 40


def _inner(code, name):
    """A comprehension of its own code object (before Python 3.12)."""
    return any(hasattr(c, "co_names") and (name in c.co_names or _inner(c, name)) for c in code.co_consts)


def test_the_questions_are_answered_by_the_shown_source():
    """What is asked can be answered from what is shown: each answer again from the question's own code."""
    for seed in range(12):
        d = generators()["raised_exceptions"](random.Random(seed), 2)
        tree = ast.parse(_shown(d))
        named = {
            ast.unparse(n.exc.func if isinstance(n.exc, ast.Call) else n.exc)
            for n in ast.walk(tree)
            if isinstance(n, ast.Raise) and n.exc
        }
        assert set(d.answer.en.split(", ")) <= named
        d = generators()["callers"](random.Random(seed), 3)
        wanted = d.facts["function"].rpartition(".")[2]
        blocks = re.split(r"(?m)^# (?=[\w.]+$)", _shown(d))
        for name in d.answer.en.split(", "):
            assert any(block.startswith(name + "\n") and wanted + "(" in block for block in blocks), (name, wanted)
        d = generators()["call_path"](random.Random(seed), 1)
        pairs = dict(line.strip(" ;.").split(" calls ") for line in d.question.en.splitlines() if " calls " in line)
        here, steps, seen = {d.facts["function"]}, 0, set()
        while d.facts["end"] not in here:
            seen |= here
            here = {c for name in here for c in pairs.get(name, "").split(", ") if c} - seen
            steps += 1
            assert here
        assert steps == int(d.answer.en)


def _shown(draft):
    return draft.question.en.split("```python\n", 1)[1].rsplit("\n```", 1)[0]


PACKAGE = {
    "__init__": "from .a import f\n",
    "a": "from . import b\nfrom .b import g as h, Unknown\nimport os\n\n\ndef f(x):\n    h(x)\n    os.getcwd()\n    return b.k()\n",
    "b": "from shop.c import late\n\n\ndef g(x):\n    return k()\n\n\ndef k():\n    def late():\n        pass\n    return late()\n",
    "c": "import shop.a\nfrom shop import a\n\n\ndef late(a):\n    return a.f(1)\n\n\ndef early():\n    return a.f(1)\n",
}


def test_calls_across_a_package(tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / f"{name}.py").write_text(text)
    for root in (tmp_path, tmp_path / "shop"):
        code = Codebase.open((str(root),))
        package = code.package(1)
        assert {name: f.calls for name, f in package.functions.items() if f.calls} == {
            "a.f": ("b.g", "b.k"),
            "b.g": ("b.k",),
            "c.early": ("a.f",),
        }, "late's parameter hides the module a; k's own late hides the imported one"
        assert package.path("c.early", "b.k") == ["c.early", "a.f", "b.k"]
        assert package.callers("b.k") == ["a.f", "b.g"]
    draft = generators()["call_path"](random.Random(1), 1, roots=[str(tmp_path)], package=True)
    assert "the package shop" in draft.question.en and draft.answer.en in "12"


def test_explanations_name_every_parameter_in_both_languages():
    module = parse_module("planted", PLANTED)
    lines = explanation(module, module.functions["middle"])
    for language in ("zh", "en"):
        text = "\n".join(line.of(language) for line in lines)
        for name in ("a", "b", "*rest", "key", "other", "**more", "ValueError", "leaf"):
            assert name in text


def test_own_code_trees_and_damaged_files(tmp_path):
    (tmp_path / "good.py").write_text(PLANTED)
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes("# é\n".encode("latin-1"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.py").write_text("x = 1")
    code = Codebase.open((str(tmp_path),))
    assert [name for name, _ in code.files] == ["bad", "good", "latin"]
    assert [code.module(i) is None for i in range(3)] == [True, False, True]
    draft = generators()["callees"](random.Random(0), 1, roots=[str(tmp_path)])
    assert draft.facts["module"] == "good"
    assert load_taxonomy().points["code.reading.callers"].served


def test_narration_tells_every_statement_in_its_order_and_depth():
    source = """
def f(items, k=1):
    \"\"\"Doc.\"\"\"
    total = 0
    for x in items:
        if x > k:
            total += x
            continue
        else:
            try:
                total -= g(x)
            except ValueError:
                raise KeyError(x)
    else:
        print(total)
    while total:
        break
    with open(k) as file:
        del total
    return total
"""
    lines = narrate(ast.parse(source).body[0])
    assert [line.en for line in lines] == [
        "set `total` to `0`",
        "for each `x` of `items`:",
        "  if `x > k`:",
        "    add `x` to `total`",
        "    go on with the next round",
        "  otherwise:",
        "    try:",
        "      subtract `g(x)` from `total`",
        "    on `ValueError`:",
        "      raise `KeyError(x)`",
        "when the loop was not left:",
        "  call `print(total)`",
        "as long as `total`, repeat:",
        "  leave the loop",
        "within `open(k) as file`:",
        "  run `del total`",
        "return `total`",
    ]
    assert len(narrate(ast.parse(source).body[0], 3)) == 4
    assert [len(line.zh) - len(line.zh.lstrip()) for line in lines] == [
        len(line.en) - len(line.en.lstrip()) for line in lines
    ]


def test_every_statement_of_the_library_can_be_told():
    """No statement is lost: as many lines as statements, heads of branches and handlers apart."""
    for name in ("shlex", "csv", "argparse"):
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(name)))):
            if isinstance(node, ast.FunctionDef):
                statements = [n for n in ast.walk(node) if isinstance(n, ast.stmt) and n is not node]
                lines = narrate(node, 10_000)
                docs = sum(
                    ast.get_docstring(n) is not None
                    for n in ast.walk(node)
                    if isinstance(n, ast.FunctionDef) and n is node
                )
                assert len(lines) >= len(statements) - docs
                assert all(isinstance(line.zh, str) and line.en for line in lines)
