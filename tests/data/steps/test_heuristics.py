"""Gopher's and FineWeb's rules: each rule by a document that breaks it, and decisions equal to datatrove's."""

from __future__ import annotations

import random
from typing import Any

import pytest

from athanor.data.steps.base import Docs, as_arrays, run_in_memory
from athanor.data.steps.heuristics import FineWeb, Gopher
from athanor.data.steps.repetition import Repetition
from athanor.recipe.steps.clean import FineWebOptions, GopherOptions, RepetitionOptions

SENTENCE = "The old harbour of the town was rebuilt with care and it is said to have been there for ages. "
GOOD = (
    SENTENCE + "Nobody knows who drew the first plans, but ships that came from the south found shelter in it.\n"
) * 4


def reason(step: Any, text: str, **columns: Any) -> str | None:
    outcome = run_in_memory([step], Docs.of([text], **{"language": "en", **columns}))
    return outcome.dropped[0][2] if outcome.dropped else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, None),
        (SENTENCE, "too few words: 20"),
        ("a " * 100 + SENTENCE, "words too short: "),
        ("incomprehensibilities " * 100 + SENTENCE, "words too long: "),
        (GOOD + "# " * 30, "too many hash signs: "),
        (GOOD + "... " * 30, "too many ellipses: "),
        ("\n".join("- " + SENTENCE for _ in range(9)), "too many bullet points: 1 of lines"),
        ("\n".join(SENTENCE + "and so on…" for _ in range(9)), "too many lines end in an ellipsis: 1 of lines"),
        (GOOD + "1984 2001 " * 60, "too few words with letters: "),
        (
            "Der alte Hafen der Stadt wurde vor langer Zeit mit Sorgfalt wieder aufgebaut. " * 6,
            "too few stop words: 0 ",
        ),
    ],
)
def test_each_gopher_rule(text: str, expected: str | None):
    found = reason(Gopher(GopherOptions()), text)
    assert found is None if expected is None else (found or "").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n".join(f"{i}. {SENTENCE.strip()}" for i in range(9)), None),
        ("\n".join([SENTENCE.strip() + ","] * 3 + [GOOD]), "repeated lines: "),
        ("\n".join(f"{i} {SENTENCE.strip()[:-1]}" for i in range(9)), "too few lines end a sentence: 0 of lines"),
        ("\n".join(f"short line {i}." for i in range(9)), "too many short lines: 1 of lines"),
        ("\n".join(f"{'x' * 40}{i} is." for i in range(9)), "a list, not text: "),
    ],
)
def test_each_fineweb_rule(text: str, expected: str | None):
    found = reason(FineWeb(FineWebOptions()), text)
    assert found is None if expected is None else (found or "").startswith(expected)


@pytest.mark.parametrize("step", [Gopher(GopherOptions()), FineWeb(FineWebOptions())])
def test_other_domains_and_languages_are_not_judged(step: Any):
    docs = Docs.of(["bad", "坏的", "坏的"], domain=["code", "general", "general"], language=["en", "zh", "und"])
    outcome = run_in_memory([step], docs)
    assert len(outcome.kept) == 3
    assert all(values.null_count == 3 for values in outcome.measures.values())


def test_a_rule_that_is_off_drops_nothing():
    off = {name: None for name in GopherOptions.model_fields if name.startswith(("min", "max"))}
    assert reason(Gopher(GopherOptions(**off)), "x") is None
    assert Gopher(GopherOptions(**off)).compute_key() == Gopher(GopherOptions()).compute_key()


def documents(n: int) -> list[str]:
    """Texts of all kinds around the thresholds."""
    rng = random.Random(3)
    words = [
        "the",
        "of",
        "and",
        "harbour",
        "a",
        "plan",
        "42",
        "--",
        "#",
        "...",
        "ship's",
        "…",
        "naïve",
        "in",
        "to",
        "be",
        "x",
    ]
    texts = []
    for _ in range(n):
        pool = rng.sample(words, rng.randint(3, len(words)))
        size = rng.choice([20, 60, 200])
        text = "".join(
            rng.choice(pool) + rng.choice([" "] * 12 + ["\n", "\n\n", ". ", "...\n", ".\n- "]) for _ in range(size)
        )
        texts.append(text if rng.random() < 0.7 else text + "\n\n" + text[: rng.randint(1, len(text))])
    return texts


def test_decisions_are_those_of_datatrove():
    data = pytest.importorskip("datatrove.data")
    from datatrove.pipeline.filters import (
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    texts = documents(400)
    docs = Docs.of(texts, language="en")
    pairs: list[tuple[Any, Any]] = [
        (Gopher(GopherOptions()), GopherQualityFilter()),
        (Repetition(RepetitionOptions()), GopherRepetitionFilter()),
        (FineWeb(FineWebOptions()), FineWebQualityFilter()),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
            patch.setattr(module, "split_into_words", lambda text, language=None: text.split())
        for step, peer in pairs:
            reasons = step.apply(docs, as_arrays(step.annotate(docs), step.fields)).reasons
            ours = [reason is None for reason in reasons]
            theirs = [peer.filter(data.Document(text=text, id="0")) is True for text in texts]
            assert ours == theirs
            assert 0.02 < sum(ours) / len(ours) < 0.98  # both verdicts occur
