"""Recipe files → typed recipes, and errors that name the file, the line, the key and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from athanor.errors import AthanorError
from athanor.recipe.overrides import apply_override, expand_preset, integral_floats_to_int, nearest, read_with_base
from athanor.recipe.presets import PRESETS
from athanor.recipe.schema import Recipe
from athanor.recipe.source import KeyPath, Source, describe, parse_text, to_yaml

Settings = TypeVar("Settings", bound=BaseModel)

#: What a field wants, by pydantic's error type, where pydantic's own words speak of Python and not of YAML.
_WANTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text (quote it if it looks like a number)",
    "list_type": "a list: [a, b] or lines of `- a`",
    "tuple_type": "a list: [a, b]",
    "dict_type": "a mapping: lines of `key: value`",
    "model_type": "a mapping: lines of `key: value`",
    "model_attributes_type": "a mapping: lines of `key: value`",
}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: lay it on its ``base:``, apply ``key.sub=value`` overrides, expand ``model.preset``, validate.

    Raises AthanorError (all problems at once, each with its file and line or "command line") for anything wrong.
    """
    return _finish(read_with_base(Path(path)), overrides)


def load_text(text: str, overrides: Sequence[str] = (), name: str = "recipe") -> Recipe:
    """The same for recipe text (no ``base:``); ``name`` stands in messages."""
    source = parse_text(text, name)
    if not isinstance(source.value, dict):
        raise AthanorError(f"a recipe is a mapping of sections, not {describe(source.value)}", where=name)
    return _finish(source, overrides)


def _finish(source: Source, overrides: Sequence[str]) -> Recipe:
    problems = _apply(source, overrides)
    try:
        expand_preset(source)
    except AthanorError as error:
        problems.append(error)
    return _validate(Recipe, source, problems)


def settings(kind: type[Settings], overrides: Sequence[str]) -> Settings:
    """Any typed settings from their defaults and ``key.sub=value`` overrides, with the same errors as a recipe."""
    source = Source({}, {(): "command line"})
    problems = _apply(source, overrides)
    return _validate(kind, source, problems)


def validated(kind: type[Settings], source: Source) -> Settings:
    """Typed settings from a file that was read, with the same errors as a recipe."""
    return _validate(kind, source, [])


def _apply(source: Source, overrides: Sequence[str]) -> list[AthanorError]:
    """Apply every override; what is wrong with those that cannot be applied."""
    problems = []
    for text in overrides:
        try:
            apply_override(source, text)
        except AthanorError as error:
            problems.append(error)
    return problems


def _validate(kind: type[Settings], source: Source, problems: list[AthanorError]) -> Settings:
    tree = integral_floats_to_int(source.value)
    try:
        # JSON mode, strict: integers pass for numbers and lists for tuples, but "512" and true do not pass for 512.
        valid = kind.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise _joined(problems + _explain(kind, error, source)) from error
    if problems:
        raise _joined(problems)
    return valid


def dump(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that ``load`` reads back to an equal recipe."""
    return to_yaml(recipe.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe file for editors: the typed recipe plus ``base`` and ``model.preset``."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] = {
        "base": {
            "type": "string",
            "description": "a recipe file that this one is laid on (path relative to this file)",
        },
        **schema["properties"],
    }
    model = schema["$defs"]["ModelConfig"]
    model["anyOf"] = [{"required": ["preset"]}, {"required": model.pop("required")}]
    model["properties"] = {
        "preset": {"enum": list(PRESETS), "description": "start from this named shape; other keys change it"},
        **model["properties"],
    }
    return schema


# --- explaining validation errors ------------------------------------------------------------------------------------


def _joined(problems: list[AthanorError]) -> AthanorError:
    """One AthanorError that lists every problem, in the order of the lines."""
    if len(problems) == 1:
        return problems[0]

    def line(problem: AthanorError) -> tuple[str, int]:
        file, _, number = (problem.where or "").rpartition(":")
        return (file, int(number)) if number.isdecimal() else (problem.where or "", 0)

    listed = "\n".join(str(problem) for problem in sorted(problems, key=line))
    return AthanorError(f"{len(problems)} problems:\n{listed}")


def _explain(root: type[BaseModel], error: ValidationError, source: Source) -> list[AthanorError]:
    """Every problem that pydantic found, told in the words of a recipe."""
    grouped: dict[tuple[KeyPath, str], list[Any]] = {}
    for item in error.errors():
        kind = item["type"] if item["type"] in ("extra_forbidden", "missing", "value_error") else "value"
        path = _written(tuple(item["loc"]), source.value, needs_last=kind == "missing")
        grouped.setdefault((path, kind), []).append(item)
    return [
        _problem(root, path, kind, items, source)
        for (path, kind), items in grouped.items()
        if not (kind == "value" and _goes_deeper(path, grouped))
    ]


def _written(loc: KeyPath, value: Any, needs_last: bool) -> KeyPath:
    """``loc`` without what is not in the recipe: pydantic adds the branches of a union to it. ``needs_last``: its end
    is a key that is missing there."""
    path: KeyPath = ()
    for part in loc[:-1] if needs_last else loc:
        if _has_key(value, part) or _has_index(value, part):
            value = value[part]
            path = (*path, part)
    return (*path, loc[-1]) if needs_last else path


def _goes_deeper(path: KeyPath, found: Iterable[tuple[KeyPath, str]]) -> bool:
    """Whether a problem is known below ``path``: then one branch of a union came further, and the others say nothing
    (a mapping with one bad key was not meant as the word ``auto``)."""
    return any(len(other) > len(path) and other[: len(path)] == path for other, _ in found)


def _has_key(value: Any, part: str | int) -> bool:
    return isinstance(value, dict) and part in value


def _has_index(value: Any, part: str | int) -> bool:
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _problem(root: type[BaseModel], path: KeyPath, kind: str, items: list[Any], source: Source) -> AthanorError:
    key = ".".join(map(str, path))
    if kind == "extra_forbidden":
        return _unknown_key(root, path, source)
    if kind == "missing":
        section = ".".join(map(str, path[:-1])) or "the recipe"
        if isinstance(path[-1], int):
            return AthanorError(
                f"{section} has too few items", where=source.place(path[:-1]), fix=f"add item {path[-1]}"
            )
        fix = f"add `{path[-1]}:`"
        if section == "model":
            fix += ", or start from a named shape with `preset: NAME`"
        return AthanorError(f"{section} needs {path[-1]!r}", where=source.place(path[:-1]), fix=fix)
    if kind == "value_error":
        what = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in items)
        return AthanorError(f"{key}: {what}" if key else what, where=source.place(path))
    if items[0]["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_tag(key, path, items[0], source)
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in items))
    value = items[0]["input"] if len(items) == 1 else _value_at(path, source.value)
    return AthanorError(f"{key} is {describe(value)}", where=source.place(path), fix=f"it should be {wanted}")


def _unknown_tag(key: str, path: KeyPath, item: Any, source: Source) -> AthanorError:
    """A step (or another union) whose kind is not known, or not told."""
    context, tag = item["ctx"], str(item["ctx"]["discriminator"]).strip("'")
    if "expected_tags" not in context:
        return AthanorError(f"{key} does not say its {tag!r}", where=source.place(path), fix=f"add `{tag}:`")
    known = [word.strip("' ") for word in str(context["expected_tags"]).split(",")]
    close = nearest(str(context["tag"]), known)
    fix = f"did you mean {close!r}?" if close else f"one of {', '.join(known)}"
    return AthanorError(f"unknown {tag} {context['tag']!r} in {key}", where=source.place(path), fix=fix)


def _wanted(item: Any) -> str:
    """What would be right, in the words of a recipe."""
    context = item.get("ctx", {})
    bounds = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}
    if item["type"] in bounds:
        limit = next(context[k] for k in ("gt", "ge", "lt", "le") if k in context)
        return f"{bounds[item['type']]} {limit}"
    if item["type"] == "literal_error":
        close = nearest(str(item["input"]), [w.strip("' ") for w in _choices(context)])
        return f"one of {context['expected']}" + (f"; did you mean {close!r}?" if close else "")
    fallback = str(item["msg"]).removeprefix("Input should be ")
    return _WANTED.get(item["type"], fallback)


def _choices(context: dict[str, Any]) -> list[str]:
    return str(context["expected"]).replace(" or ", ", ").split(",")


def _value_at(path: KeyPath, value: Any) -> Any:
    for part in path:
        value = value[part]
    return value


def _unknown_key(root: type[BaseModel], path: KeyPath, source: Source) -> AthanorError:
    section = ".".join(map(str, path[:-1]))
    known = list(_keys_at(root, path[:-1], source.value))
    if root is Recipe and path[:-1] in ((), ("model",)):
        known.append("preset" if path[:-1] else "base")
    close = nearest(str(path[-1]), known)
    inside = f"in {section}" if section else "at the top"
    elsewhere = _elsewhere(root, str(path[-1])) if close is None else None
    if close is not None:
        fix = f"did you mean {close!r}?"
    elif elsewhere is not None:
        fix = f"did you mean {elsewhere!r}? Keys {inside}: {', '.join(known)}"
    else:
        fix = f"keys {inside}: {', '.join(known)}"
    return AthanorError(f"unknown key {str(path[-1])!r} {inside}", where=source.place(path), fix=fix)


def _keys_at(root: type[BaseModel], path: KeyPath, value: Any) -> Iterable[str]:
    """Field names of the model that stands at ``path`` below ``root``; ``value`` is the recipe, which says by its tag
    which model of a union (``step: minhash``) is meant."""
    here: Any = root
    for part in path:
        value = value[part] if _has_key(value, str(part)) or _has_index(value, part) else None
        if isinstance(here, type) and issubclass(here, BaseModel):
            if str(part) not in here.model_fields:
                return ()
            here = _inner(here.model_fields[str(part)].annotation)
        else:  # dict[str, Model] or list[Model]
            here = _tagged(get_args(here)[-1], value)
    return here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else ()


def _tagged(annotation: Any, value: Any) -> Any:
    """The model of a union told apart by a tag that ``value`` names; other annotations as they are."""
    union, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    tag = next((mark.discriminator for mark in marks if isinstance(getattr(mark, "discriminator", None), str)), None)
    if tag is None or not isinstance(value, dict):
        return union
    return next((kind for kind in get_args(union) if kind.model_fields[tag].default == value.get(tag)), union)


def _inner(annotation: Any) -> Any:
    """``X`` of ``X | None``; other annotations as they are."""
    if get_origin(annotation) in (Union, UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _elsewhere(root: type[BaseModel], key: str) -> str | None:
    """The dotted place of ``key`` in another section, when it is a key there (`lr` → `train.schedule.lr`)."""

    def walk(model: type[BaseModel], prefix: str) -> str | None:
        if key in model.model_fields:
            return prefix + key
        for name, info in model.model_fields.items():
            inner = _inner(info.annotation)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found = walk(inner, f"{prefix}{name}.")
                if found:
                    return found
        return None

    return walk(root, "")
