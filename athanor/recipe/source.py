"""Recipe text → plain values that remember where they were written.

YAML is read by its 1.2 core rules, so ``3e-4`` is a number and ``no`` is a word (YAML 1.1, PyYAML's default, says the
opposite of both). Duplicate keys, non-finite numbers and recursive aliases are refused.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from athanor.errors import AthanorError

#: Way from the root of a recipe to a value: keys of mappings and indexes of lists.
KeyPath = tuple[str | int, ...]


@dataclass(slots=True)
class Source:
    """A parsed recipe and the place (``file:line`` or ``command line …``) of every value in it."""

    value: Any
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where ``path`` was written, or where its nearest written parent was."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return "recipe"

    def put(self, path: KeyPath, other: Source) -> None:
        """Set ``path`` (whose parent exists) to ``other``; what stood there is gone, with its places."""
        parent: Any = self.value
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = other.value
        self.places = {p: where for p, where in self.places.items() if p[: len(path)] != path}
        self.places.update({path + p: where for p, where in other.places.items()})


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of the YAML 1.2 core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 16) if text.lower().startswith("0x") else int(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = node.value.replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either YAML 1.1 or 1.2 would take for something else, so every reader reads it back."""


_Dumper.yaml_implicit_resolvers = {
    first: [*_Dumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*_Dumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def to_yaml(value: Any) -> str:
    """Plain values as YAML text that ``parse_text`` (and any YAML 1.1 or 1.2 reader) reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Reader:
    """Walks a composed YAML document once, building values and places."""

    def __init__(self, name: str, numbered: bool) -> None:
        self.name, self.numbered = name, numbered
        self.places: dict[KeyPath, str] = {}
        self.constructor = _Loader("")
        self.open: list[int] = []

    def at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.numbered else self.name

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places.setdefault(path, self.at(node))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            raise AthanorError(f"a recipe has no tags ({node.tag})", where=self.at(node), fix="write plain YAML")
        if id(node) in self.open:
            raise AthanorError("an alias (*name) contains itself", where=self.at(node), fix="write the value out")
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self.mapping(node, path)
        finally:
            self.open.pop()

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise AthanorError("a key must be a plain word", where=self.at(key_node))
            key = str(key_node.value)
            if key in out:
                raise AthanorError(
                    f"key {key!r} is given twice (first at {self.places[(*path, key)]})",
                    where=self.at(key_node),
                    fix="keep one of the two",
                )
            self.places[(*path, key)] = self.at(key_node)
            out[key] = self.build(value_node, (*path, key))
        return out

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            value = self.constructor.construct_object(node)  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, ValueError) as error:
            raise AthanorError(f"cannot read the value {node.value!r}: {error}", where=self.at(node)) from error
        if isinstance(value, float) and not math.isfinite(value):
            key = ".".join(map(str, path)) or "the value"
            raise AthanorError(f"{key} is {node.value}, not a finite number", where=self.at(node))
        return value


def parse_text(text: str, name: str, *, numbered: bool = True) -> Source:
    """Parse YAML ``text``; ``name`` stands in messages, with a line number when ``numbered``.

    Returns a Source whose value is None for an empty document. Raises AthanorError naming the line for bad YAML.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None and numbered else name
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise AthanorError(f"not valid YAML: {problem}", where=where, fix="see the line above it, too") from error
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise AthanorError(f"not YAML text: {first}", where=name, fix="give a recipe in YAML") from error
    if node is None:
        return Source(None, {(): name})
    reader = _Reader(name, numbered)
    value = reader.build(node, ())
    return Source(value, reader.places)


def read_source(path: Path) -> Source:
    """Parse one recipe file. Raises AthanorError for a missing, unreadable, non-UTF-8, empty or non-mapping file."""
    name = str(path)
    if path.is_dir():
        inside = path / "recipe.yaml"
        fix = f"did you mean {inside}?" if inside.is_file() else "give a recipe file"
        raise AthanorError("this is a folder, not a recipe file", where=name, fix=fix)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise AthanorError("no such recipe file", where=name, fix=_nearby(path)) from error
    except UnicodeDecodeError as error:
        raise AthanorError(
            f"not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {error.start}",
            where=name,
            fix="save the recipe as UTF-8",
        ) from error
    except OSError as error:
        raise AthanorError(f"cannot read it: {error.strerror}", where=name) from error
    source = parse_text(text.removeprefix("\ufeff"), name)
    if source.value is None:
        raise AthanorError(
            "the recipe is empty", where=name, fix="start from one in recipes/, e.g. `base: tiny.yaml` beside it"
        )
    if not isinstance(source.value, dict):
        raise AthanorError(
            f"a recipe is a mapping of sections (model, data, train, …), not {describe(source.value)}", where=name
        )
    return source


def _nearby(path: Path) -> str | None:
    """What recipes the folder of a missing file does hold."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    found = sorted(p.name for p in path.parent.glob("[!.]*") if p.suffix in (".yaml", ".yml"))
    close = difflib.get_close_matches(path.name, found, n=1)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return f"recipes in {path.parent}: {', '.join(found)}" if found else f"{path.parent} holds no .yaml file"


def describe(value: Any) -> str:
    """A value for an error message: its kind and, shortened, what it is."""
    if value is None:
        return "nothing (null)"
    kinds = {bool: "true/false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    shown = repr(value) if not isinstance(value, bool) else str(value).lower()
    return f"{kind}: {shown if len(shown) <= 60 else shown[:57] + '…'}"
