"""Real text that every machine has: the sources and the documentation of the Python that runs this.

``code`` is the library's modules, one document each; ``prose`` is English: the documentation strings of one module
(one document), and each topic of ``help()``. Both name a module by the same id, so a split by id hash keeps a
module's code and its prose on the same side.
"""

from __future__ import annotations

import ast
import gc
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from athanor.data.readers import decode
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError

Part = Literal["code", "prose"]

#: Folders that are not the library itself: installed packages, tests (their text repeats itself and has odd encodings),
#: bundled wheels.
_SKIP_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "_bundled"})
_TOPICS = "pydoc_data/topics.py"
#: Prose shorter than this says no more than a title.
_MIN_PROSE_CHARS = 80


def stdlib_documents(part: Part, root: str | Path | None = None) -> Iterator[Document | Dropped]:
    """Documents of ``root`` (default: this Python's library) in the order of their paths.

    Generated tables (character maps, symbol and build tables) and tests are left out by name; a file that is not
    UTF-8 or does not parse, or a module without documentation, is ``Dropped``. ``AthanorError`` when the library has
    no sources.
    """
    if part not in ("code", "prose"):
        raise AthanorError(
            f"unknown part {part!r}", where="stdlib source", fix="options: {part: code} or {part: prose}"
        )
    folder = Path(root or sysconfig.get_path("stdlib"))
    found = False
    for name in _modules(folder):
        found = True
        read = decode(name, (folder / name).read_bytes())
        if isinstance(read, Dropped):
            yield read
        elif part == "code":
            if name != _TOPICS:
                yield Document(name, read[1], "code", "python")
        elif name == _TOPICS:
            yield from _topics(read[1])
        else:
            yield _prose(name, read[1])
    if not found:
        raise AthanorError(
            "this Python has no library sources", where=str(folder), fix="use a full Python, or kind: files with paths"
        )


def python_version() -> str:
    """Which library the documents come from."""
    return ".".join(map(str, sys.version_info[:3]))


def _modules(folder: Path) -> Iterator[str]:
    for here, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(s for s in subfolders if s not in _SKIP_FOLDERS and not s.startswith((".", "config-")))
        for file in sorted(files):
            name = (Path(here) / file).relative_to(folder).as_posix()
            if file.endswith(".py") and not _is_table(name):
                yield name


def _is_table(name: str) -> bool:
    """Character maps, unicode and syntax tables, and the build's own settings (they hold this machine's paths)."""
    folder, _, file = name.rpartition("/")
    if folder == "encodings":
        return file not in (
            "__init__.py",
            "aliases.py",
            "idna.py",
            "punycode.py",
            "utf_8_sig.py",
            "utf_16.py",
            "utf_32.py",
        )
    return (
        file.startswith("_sysconfigdata") or "pgen2/" in name or file in ("stringprep.py", "entities.py", "symbol.py")
    )


def _prose(name: str, source: str) -> Document | Dropped:
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree is a million young objects and no cycle: the collector doubles the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources hold invalid escapes
            tree = ast.parse(source)
        parts = [ast.get_docstring(node, clean=True) for node in _documented(tree)]
    except (SyntaxError, ValueError) as error:
        return Dropped(name, f"does not parse: {error}")
    finally:
        if collecting:
            gc.enable()
    text = "\n\n".join(part.strip() for part in parts if part and part.strip())
    if len(text) < _MIN_PROSE_CHARS:
        return Dropped(name, "no documentation strings")
    return Document(name, text + "\n", "prose", "en")


def _documented(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The node and all modules, classes and functions below, in the order of the source. Expressions hold none."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        inner = getattr(node, block, None)
        if isinstance(inner, list):
            for statement in inner:
                yield from _documented(statement)


def _topics(source: str) -> Iterator[Document | Dropped]:
    """The ``help()`` topics: a literal dict of name → reStructuredText."""
    for node in ast.parse(source).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            for topic, text in sorted(ast.literal_eval(value).items()):
                if text.strip():
                    yield Document(f"{_TOPICS}#{topic}", text.strip() + "\n", "prose", "en")
                else:
                    yield Dropped(f"{_TOPICS}#{topic}", "empty")
