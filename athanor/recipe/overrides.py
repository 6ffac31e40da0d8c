"""Putting recipes together: ``base:`` inheritance, ``preset:`` expansion and dotted overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError
from athanor.recipe.presets import PRESETS
from athanor.recipe.source import KeyPath, Source, describe, parse_text, read_source


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to ``word``, or None when nothing is close."""
    choices = list(known)
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if found:
        return found[0]
    # A forgotten or added part (`batch_tokens` for `global_batch_tokens`) is near in words though far in letters.
    parts = set(word.lower().split("_"))
    scored = sorted(
        ((len(parts & set(c.split("_"))) / len(parts | set(c.split("_"))), c) for c in choices), reverse=True
    )
    return scored[0][1] if scored and scored[0][0] >= 0.5 else None


def merge(under: Source, over: Source) -> Source:
    """``over`` laid on ``under``: mappings merge key by key, everything else (lists too) is replaced whole."""
    out = Source(under.value, dict(under.places))
    _merge_into(out, over, ())
    return out


def _merge_into(out: Source, over: Source, path: KeyPath) -> None:
    mine: Any = out.value
    theirs: Any = over.value
    for part in path:
        mine, theirs = mine[part], theirs[part]
    for key, value in theirs.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(mine.get(key), dict):
            out.places[here] = over.places.get(here, out.places.get(here, "recipe"))
            _merge_into(out, over, here)
        else:
            below = {p[len(here) :]: where for p, where in over.places.items() if p[: len(here)] == here}
            out.put(here, Source(value, below))


def read_with_base(path: Path, seen: tuple[Path, ...] = ()) -> Source:
    """A recipe file laid on the recipe its ``base:`` names (a path relative to the file), and so on down."""
    real = path.resolve()
    if real in seen:
        chain = " → ".join(p.name for p in (*seen, real))
        raise AthanorError(f"`base:` goes round in a circle: {chain}", where=str(path), fix="remove one `base:`")
    source = read_source(path)
    if "base" not in source.value:
        return source
    base = source.value.pop("base")
    place = source.places.pop(("base",))
    if not isinstance(base, str) or not base:
        raise AthanorError(f"`base` is {describe(base)}", where=place, fix="give the path of one recipe file")
    try:
        under = read_with_base(path.parent / base, (*seen, real))
    except AthanorError as error:
        if error.where == str(path.parent / base):
            raise AthanorError(f"base {base!r}: {error.what}", where=place, fix=error.fix) from error
        raise
    return merge(under, source)


def apply_override(source: Source, text: str) -> None:
    """Set one dotted key in place: ``train.steps=100``, ``train.stages.0.schedule.lr=1e-4``, ``model.preset=tiny``."""
    where = f"command line ({text})"
    dotted, equals, raw = text.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise AthanorError(
            "an override is written key=value, with dots between keys", where=where, fix="e.g. train.steps=100"
        )
    try:
        value = parse_text(raw, where, numbered=False)
    except AthanorError as error:
        raise AthanorError(error.what, where=where, fix="quote the value: 'name=\"a: b\"'") from error
    path: KeyPath = ()
    here: Any = source.value
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        step = _step(here, part, ".".join(parts[:depth]), where)
        path = (*path, step)
        if last:
            source.put(path, value)
        else:
            if isinstance(here, dict) and here.get(part) is None:
                if parts[depth + 1].isdecimal():
                    raise AthanorError(
                        f"there is no list at {'.'.join(parts[: depth + 1])} to index",
                        where=where,
                        fix=f"give the whole list: {'.'.join(parts[: depth + 1])}=[…]",
                    )
                source.put(path, Source({}, {(): where}))
            here = here[step]


def _step(here: Any, part: str, parent: str, where: str) -> str | int:
    """``part`` as a key of the mapping or an index of the list ``here``."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise AthanorError(f"{parent} is {describe(here)}; it has no key {part!r}", where=where)
    if not part.isdecimal() or int(part) >= len(here):
        upto = f"0 to {len(here) - 1}" if here else "none: the list is empty"
        names = [str(item["name"]) for item in here if isinstance(item, dict) and "name" in item]
        listed = f" ({', '.join(names)})" if names else ""
        raise AthanorError(f"{parent} is a list; {part!r} is not one of its indexes: {upto}{listed}", where=where)
    return int(part)


def expand_preset(source: Source) -> None:
    """Replace ``model: {preset: NAME, …}`` by the named shape with the other keys laid over it.

    An unknown NAME raises AthanorError and leaves no model behind, so that the rest can still be checked.
    """
    model = source.value.get("model")
    if not isinstance(model, dict) or "preset" not in model:
        return
    name = model.pop("preset")
    place = source.places.pop(("model", "preset"))
    if not isinstance(name, str) or name not in PRESETS:
        source.value["model"] = None
        close = nearest(str(name), PRESETS)
        hint = f"did you mean {close}? " if close else ""
        raise AthanorError(f"no model preset {name!r}", where=place, fix=f"{hint}presets: {', '.join(PRESETS)}")
    shape = PRESETS[name].model_dump(mode="json")
    over = Source({"model": model}, {p: w for p, w in source.places.items() if p and p[0] == "model"})
    under = Source({"model": shape}, {("model",): place})
    merged = merge(under, over)
    source.put(("model",), Source(merged.value["model"], {p[1:]: w for p, w in merged.places.items()}))


def integral_floats_to_int(value: Any) -> Any:
    """``7.4e12`` means the integer 7,400,000,000,000; a float field takes integers, an integer field takes no float."""
    if isinstance(value, dict):
        return {key: integral_floats_to_int(item) for key, item in value.items()}
    if isinstance(value, list):
        return [integral_floats_to_int(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
