"""Gopher's repetition rules, by words and by characters."""

from __future__ import annotations

import random

import pytest

from athanor.data.steps.base import Docs, as_arrays, run_in_memory
from athanor.data.steps.repetition import Repetition
from athanor.recipe.steps.clean import RepetitionOptions


def prose(seed: int, n_words: int, letters: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices(letters, k=rng.randint(3, 8))) for _ in range(n_words))


def han(seed: int, n: int) -> str:
    rng = random.Random(seed)
    return "".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(n))


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (prose(0, 300), "en", None),
        (prose(0, 100) + "\n\n" + "\n\n".join([prose(1, 20)] * 4), "en", "repeated paragraphs: 0.6 of paragraphs"),
        ("\n\n".join([prose(i, 5) for i in range(8)] + [prose(9, 60)] * 2), "en", "repeated paragraphs: "),
        (prose(0, 100) + "\n" + "\n".join([prose(1, 4)] * 4), "en", "repeated lines: 0.6 of lines"),
        (" ".join([prose(0, 100), *["so it is"] * 40]), "en", "one sequence of 2 words over and over: "),
        (" ".join(prose(i % 2, 40) for i in range(3)), "en", "repeated sequences of 5 words: "),
        (han(0, 600), "zh", None),
        (han(0, 600), "und", None),
        (han(0, 300) + "立即购买" * 40, "zh", "one sequence of 3 characters over and over: "),
        (han(0, 200) + "。" + han(0, 200) + "，" + han(1, 50), "zh", "repeated sequences of 8 characters: "),
        ("\n".join([han(0, 40)] * 3 + [han(1, 40)]), "zh", "repeated lines: "),
        ("——……" * 100 + han(0, 200), "zh", None),  # rulers are no sequences of letters
    ],
)
def test_each_rule(text: str, language: str, expected: str | None):
    outcome = run_in_memory([Repetition(RepetitionOptions())], Docs.of([text], language=language))
    found = outcome.dropped[0][2] if outcome.dropped else None
    assert found is None if expected is None else (found or "").startswith(expected)


def test_measures_by_unit():
    docs = Docs.of(
        [prose(0, 50), han(0, 50), "x = 1"], language=["en", "zh", "en"], domain=["general", "general", "code"]
    )
    step = Repetition(RepetitionOptions(top_words={2: 0.2}, dup_words={5: 0.1}, top_chars={3: 0.1}, dup_chars={8: 0.4}))
    columns = as_arrays(step.annotate(docs), step.fields)
    nulls = {name: values.is_null().to_pylist() for name, values in columns.items()}
    assert nulls["dup_lines"] == [False, False, True]
    assert nulls["top_words_2"] == nulls["dup_words_5"] == [False, True, True]
    assert nulls["top_chars_3"] == nulls["dup_chars_8"] == [True, False, True]


def test_sizes_are_measured_and_limits_are_not():
    one, other = RepetitionOptions(top_words={2: 0.2}), RepetitionOptions(top_words={2: 0.9}, max_dup_lines=None)
    assert Repetition(one).compute_key() == Repetition(other).compute_key()
    assert Repetition(one).compute_key() != Repetition(RepetitionOptions(top_words={3: 0.2})).compute_key()


def test_a_skipped_source_passes_and_what_is_measured_depends_on_it():
    texts = [" ".join([prose(0, 100), *["so it is"] * 40])] * 2
    options = RepetitionOptions(skip_sources=("tasks",))
    docs = Docs.of(texts, language="en", source=["web", "tasks"], id=["a", "b"])
    assert [dropped[0] for dropped in run_in_memory([Repetition(options)], docs).dropped] == [docs.column("id")[0]]
    assert Repetition(options).compute_key() != Repetition(RepetitionOptions()).compute_key()
