"""Mixtures that are not given source by source: published presets, shares of domains, files of re-weighted runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from athanor.data.shards import Label, ShardSet
from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.recipe.mixing import MixtureFrom
from athanor.recipe.schema import SourceRecipe

#: Pangu Ultra (arXiv 2504.07866, data recipe of its three phases): shares of tokens, per cent.
PRESETS: dict[str, dict[str, float]] = {
    "pangu-ultra/general": {
        "english": 54, "chinese": 13, "multilingual": 8, "instruction": 2, "mathematics": 6, "code": 17
    },
    "pangu-ultra/reasoning": {
        "english": 14, "chinese": 6, "multilingual": 4, "instruction": 11, "mathematics": 28, "code": 37
    },
    "pangu-ultra/annealing": {
        "english": 21, "chinese": 20, "multilingual": 3, "instruction": 20, "mathematics": 18, "code": 18
    },
}  # fmt: skip

#: Other names of the domains that the presets speak of.
ALIASES = {
    "math": "mathematics",
    "maths": "mathematics",
    "programming": "code",
    "instructions": "instruction",
    "conversation": "instruction",
    "chat": "instruction",
}
_OWN = {"mathematics", "code", "instruction"}
_BY_LANGUAGE = {"en": "english", "zh": "chinese"}


def preset_domain(label: Label) -> str:
    """The preset's domain of a document: mathematics, code and instruction by its domain, all others by language."""
    domain = ALIASES.get(label[0].lower(), label[0].lower())
    if domain in _OWN or domain in _BY_LANGUAGE.values():
        return domain
    return _BY_LANGUAGE.get(re.split(r"[-_]", label[1].lower())[0], "multilingual")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a stage reads: ``sources`` (some cut into ``source/domain``) and their shares. ``notes``: for a person."""

    sources: dict[str, ShardSet]
    shares: dict[str, float]
    notes: list[str] = field(default_factory=list)


def resolve(
    mixture: Mapping[str, float] | MixtureFrom, shards: Mapping[str, ShardSet], recipes: Mapping[str, SourceRecipe]
) -> Resolved:
    """The sources and shares that a stage's ``mixture`` means for this corpus.

    A domain's share is spread over all documents of that domain by their tokens. Where a domain (or a source of a
    file) has no documents here, its share goes to the others in proportion, and a note says so.
    """
    if not isinstance(mixture, MixtureFrom):
        return Resolved(dict(shards), dict(mixture))
    if mixture.preset is not None:
        if mixture.preset not in PRESETS:
            fix = f"one of: {', '.join(PRESETS)}"
            raise AthanorError(f"no mixture is called {mixture.preset!r}", where="mixture.preset", fix=fix)
        return _by_domain(PRESETS[mixture.preset], preset_domain, shards, recipes)
    if mixture.domains is not None:
        return _by_domain(mixture.domains, lambda label: label[0], shards, recipes)
    assert mixture.file is not None
    return _by_component(read_mixture(mixture.file), shards, recipes)


def _by_domain(
    wanted: Mapping[str, float],
    domain_of: Callable[[Label], str],
    shards: Mapping[str, ShardSet],
    recipes: Mapping[str, SourceRecipe],
) -> Resolved:
    parts: dict[str, dict[str, ShardSet]] = {}
    for name, source in shards.items():
        for domain, part in split_by_domain(source, recipes.get(name), domain_of).items():
            parts.setdefault(domain, {})[name] = part
    sources: dict[str, ShardSet] = {}
    shares: dict[str, float] = {}
    several = {name for name in shards if sum(name in by_source for by_source in parts.values()) > 1}
    for domain, by_source in parts.items():
        tokens = sum(part.n_tokens for part in by_source.values())
        for name, part in by_source.items():
            component = f"{name}/{domain}" if name in several else name
            sources[component] = part
            shares[component] = wanted.get(domain, 0.0) * part.n_tokens / tokens
    notes = _absent(wanted, set(parts), "domain")
    left_out = [domain for domain in parts if not wanted.get(domain)]
    if left_out:
        notes.append(f"the mixture does not name {', '.join(left_out)}: their documents are not read")
    if not any(shares.values()):
        known = ", ".join(parts) or "none"
        raise AthanorError("no domain of the mixture is in the corpus", where="mixture", fix=f"domains here: {known}")
    return Resolved(sources, shares, notes)


def _absent(wanted: Mapping[str, float], here: set[str], what: str) -> list[str]:
    missing = {name: share for name, share in wanted.items() if share and name not in here}
    total = sum(wanted.values())
    if not missing:
        return []
    named = ", ".join(f"{name} ({100 * share / total:.3g} %)" for name, share in missing.items())
    return [f"no documents of {what} {named}: that share goes to the others in proportion"]


def split_by_domain(
    shards: ShardSet, recipe: SourceRecipe | None, domain_of: Callable[[Label], str]
) -> dict[str, ShardSet]:
    """The documents of a source by domain. Shards that do not tell have the domain and language of the recipe."""
    known = (recipe.domain, recipe.language) if recipe is not None else ("general", "und")
    domains = [domain_of(known if label == ("", "") else label) for label in shards.labels]
    if len(set(domains)) == 1:
        return {domains[0]: shards}
    names = list(dict.fromkeys(domains))
    of_label = np.array([names.index(domain) for domain in domains])
    of_doc = of_label[shards.label_of]
    return {name: shards.subset(np.flatnonzero(of_doc == number)) for number, name in enumerate(names)}


def _by_component(
    wanted: Mapping[str, float], shards: Mapping[str, ShardSet], recipes: Mapping[str, SourceRecipe]
) -> Resolved:
    sources: dict[str, ShardSet] = {}
    for component in wanted:
        name, _, domain = component.partition("/")
        if component in shards:
            sources[component] = shards[component]
        elif domain and name in shards:
            for how in (preset_domain, lambda label: label[0]):
                parts = split_by_domain(shards[name], recipes.get(name), how)
                if domain in parts:
                    sources[component] = parts[domain]
                    break
    if not sources:
        raise AthanorError(
            "no source of the mixture is here", where="mixture.file", fix=f"sources: {', '.join(shards)}"
        )
    shares = {name: float(wanted[name]) for name in sources}
    return Resolved(sources, shares, _absent(wanted, set(sources), "source"))


def write_mixture(path: str | Path, shares: Mapping[str, float], **about: Any) -> None:
    """Shares of tokens by source, as YAML that ``mixture: {file: …}`` reads; ``about``: where they come from."""
    total = sum(shares.values())
    value = {"mixture": {name: round(share / total, 6) for name, share in shares.items()}, **about}
    write_atomic(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_mixture(path: str | Path) -> dict[str, float]:
    """The shares of such a file; ``AthanorError`` where it is none."""
    where = str(path)
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AthanorError("no such file", where=where, fix="mixture.yaml of a run with `reweight`") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AthanorError(f"cannot be read as YAML: {error}", where=where) from None
    shares = value.get("mixture") if isinstance(value, dict) else None
    if not isinstance(shares, dict) or not shares:
        raise AthanorError("not a mixture", where=where, fix="`mixture:` with a share for each source")
    for name, share in shares.items():
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < float("inf"):
            raise AthanorError(f"the share of {name} is {share!r}", where=where, fix="a number ≥ 0")
    return {str(name): float(share) for name, share in shares.items()}
