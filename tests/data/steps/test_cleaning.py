"""What every cleaning step keeps: rows that do not depend on the batch, types, odd texts, limits outside the key."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

import athanor.data.steps as package
from athanor.data.steps import words
from athanor.data.steps.base import Docs, Step, as_arrays
from athanor.recipe.steps import clean

OPTIONS = [
    value
    for value in vars(clean).values()
    if isinstance(value, type) and issubclass(value, clean.Strict) and "step" in value.model_fields
]
ENGLISH = "The harbour of the town was built with care, and it is said that ships have been there for ages. " * 5
CHINESE = "春天到了，河边的柳树发出了新芽，孩子们在草地上放风筝。\n" * 9
PYTHON = "# SPDX-License-Identifier: MIT\nimport os\n\n\ndef f(x):\n    y = x + 1\n    return y\n" * 4
ODD = [
    "",
    "\n",
    " ",
    "\x00\x01",
    "\ufffd" * 9,
    "a" * 5000,
    "\n" * 5000,
    "=" * 300 + " " * 5000,
    "你" * 3000,
    "\u2028\x85\x1c",
]
TEXTS = [ENGLISH, CHINESE, PYTHON, "Home\nLog in\n" + ENGLISH, "登录\n注册\n" + CHINESE, *ODD]


def steps() -> dict[str, Step]:
    """Every step with options in ``clean``, by name."""
    found: dict[str, Step] = {}
    wanted = {options.model_fields["step"].default: options for options in OPTIONS}
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Step) and getattr(value, "name", None) in wanted:
                found[value.name] = value(wanted[value.name]())
    assert set(found) == set(wanted)
    return found


STEPS = steps()


def measured(step: Step, docs: Docs) -> dict[str, list[Any]]:
    return {name: values.to_pylist() for name, values in as_arrays(step.annotate(docs), step.fields).items()}


def documents() -> Docs:
    domains = ["general", "general", "code", *["general"] * (len(TEXTS) - 3)]
    return Docs.of(TEXTS, domain=domains, language=["und"] * len(TEXTS), id=[str(i) for i in range(len(TEXTS))])


@pytest.mark.parametrize("name", sorted(STEPS))
def test_rows_do_not_depend_on_the_batch(name: str):
    step, docs = STEPS[name], documents()
    together = measured(step, docs)
    for i in range(len(docs)):
        alone = measured(step, Docs(docs.table.slice(i, 1)))  # a slice: its buffers begin elsewhere
        assert {key: values[0] for key, values in alone.items()} == {key: v[i] for key, v in together.items()}
    assert all(values == [] for values in measured(step, Docs(docs.table.slice(0, 0))).values())


@pytest.mark.parametrize("name", sorted(STEPS))
def test_verdicts_are_of_the_batchs_length_and_repeatable(name: str):
    step, docs = STEPS[name], documents()
    columns = as_arrays(step.annotate(docs), step.fields)
    first, second = step.apply(docs, columns), step.apply(docs, columns)
    assert list(first.reasons) == list(second.reasons) and len(first.reasons) == len(docs)
    assert all(reason is None or reason for reason in first.reasons)
    if first.texts is not None:
        assert step.edits and len(first.texts) == len(docs)
        for old, new, reason in zip(docs.texts, first.texts, first.reasons, strict=True):
            assert new is None or reason is not None or new != old
    assert not first.columns or step.edits


@pytest.mark.parametrize("name", sorted(STEPS))
def test_plain_python_gives_the_same_measures(name: str, monkeypatch: pytest.MonkeyPatch):
    step, docs = STEPS[name], documents()
    compiled = measured(step, docs)
    monkeypatch.setattr(words, "text_counts", lambda: None)
    assert measured(step, docs) == compiled


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.model_fields["step"].default)
def test_limits_are_no_part_of_what_is_measured(options: type[clean.Strict]):
    """A rule that is off (every option that may be null) measures the same as one that is on."""
    step = STEPS[options.model_fields["step"].default]
    off = {key: None for key, field in options.model_fields.items() if field.default is not None and _nullable(field)}
    off = {key: value for key, value in off.items() if key not in ("max_blank_lines", "max_word_chars")}
    assert type(step)(options(**off)).compute_key() == step.compute_key()


def _nullable(field: Any) -> bool:
    return type(None) in getattr(field.annotation, "__args__", ())
