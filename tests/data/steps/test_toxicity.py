"""Toxicity lists and scorers: whole words, Chinese anywhere, density and thresholds."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from athanor.data.build import build_corpus
from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.toxicity import Toxicity, compiled, read_terms
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe
from athanor.recipe.steps.pii import ToxicityOptions

#: The form of a list, with harmless words in the place of others.
EN = "# comment\n\nbanana\nblue cheese\nBan\n"
ZH = "香蕉\n蓝纹奶酪\n"


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "en.txt").write_text(EN, encoding="utf-8")
    (tmp_path / "zh.txt").write_text(ZH, encoding="utf-8")
    return {"en": str(tmp_path / "en.txt"), "zh": str(tmp_path / "zh.txt")}


def _terms(step: Toxicity, *texts: str, language: str) -> list[int]:
    return list(step.annotate(Docs.of(list(texts), language=language))["terms"])


def test_words_are_whole_and_chinese_is_not(lists: dict[str, str]) -> None:
    step = Toxicity(ToxicityOptions(lists=lists))
    texts = ("BANANA and blue\ncheese", "bananas, urban, band", "a ban. (banana)", "bluecheese", "ban_d é-ban")
    assert _terms(step, *texts, language="en") == [2, 0, 2, 0, 2]
    assert _terms(step, "他吃香蕉和蓝纹奶酪", "香 蕉", language="zh") == [2, 0]
    assert _terms(step, "banana", language="zh") == [0]  # a list is for its language


def test_pattern_finds_what_plain_search_finds() -> None:
    rng = random.Random(3)
    terms = sorted({"".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(30)} | {"a b", "ab c"})
    pattern = compiled(terms)
    for _ in range(300):
        text = "".join(rng.choices("abc  ", k=30))
        found = [m.group() for m in pattern.finditer(text)]
        plain = [re.sub(r"\s+", " ", f) for f in found]
        assert all(f in terms for f in plain)
        # Every whole word that is a term is covered by some match.
        for word in re.finditer(r"\S+", text):
            if word.group() in terms:
                assert any(m.start() <= word.start() < m.end() for m in pattern.finditer(text))


def test_long_lists_and_terms_compile(tmp_path: Path) -> None:
    rng = random.Random(1)
    terms = ["".join(rng.choices("abcdefgh", k=9)) for _ in range(5000)] + ["x" * 2000]
    pattern = compiled(terms)
    assert len(pattern.findall(f"{terms[17]} y {terms[4000]} {'x' * 2000}")) == 3


def test_density_and_count_decide(lists: dict[str, str]) -> None:
    step = Toxicity(ToxicityOptions(lists=lists, max_terms_per_1000_words=100, min_terms=2))
    dense, single, thin = "banana ban it is", "banana", "banana ban " + "word " * 100
    outcome = run_in_memory([step], Docs.of([dense, single, thin], language="en"))
    assert outcome.kept.texts == [single, thin]
    assert outcome.dropped[0][2] == "listed terms: 2 in 4 words"


def scorer(texts: list[str]) -> Sequence[float]:
    """Share of exclamation marks."""
    return [text.count("!") / max(len(text), 1) for text in texts]


def short_scorer(texts: list[str]) -> Sequence[float]:
    """One score too few."""
    return [0.0] * (len(texts) - 1)


def test_scorers_are_functions_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    step = Toxicity(ToxicityOptions(scorer="test_toxicity:scorer", max_score=0.4))
    outcome = run_in_memory([step], Docs.of(["!!!!", "calm!", "calm"]))
    assert outcome.kept.texts == ["calm!", "calm"] and outcome.dropped[0][2].startswith("toxicity score:")
    with pytest.raises(AthanorError, match="scores for 3 texts"):
        Toxicity(ToxicityOptions(scorer="test_toxicity:short_scorer")).annotate(Docs.of(["a", "b", "c"]))


def test_without_a_scorer_nothing_is_scored(lists: dict[str, str]) -> None:
    assert np.isnan(Toxicity(ToxicityOptions(lists=lists)).annotate(Docs.of(["x"]))["score"]).all()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "nothing to go by"),
        ({"lists": {"en": "/no/such/file"}}, "cannot be read"),
        ({"scorer": "no_such_module:f"}, "no such scorer"),
        ({"scorer": "json:nothing"}, "no such scorer"),
        ({"scorer": "json"}, "no such scorer"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], what: str) -> None:
    with pytest.raises(AthanorError, match=what):
        Toxicity(ToxicityOptions.model_validate(options)).prepare()


def test_lists_are_read_without_comments_and_change_the_key(lists: dict[str, str]) -> None:
    assert read_terms(lists["en"]) == ["banana", "blue cheese", "Ban"]
    before = Toxicity(ToxicityOptions(lists=lists)).compute_key()
    assert before == Toxicity(ToxicityOptions(lists=lists, max_terms_per_1000_words=1.0)).compute_key()
    Path(lists["en"]).write_text("other\n")
    assert before != Toxicity(ToxicityOptions(lists=lists)).compute_key()


def test_a_list_that_is_not_there_is_named_as_what_it_is(tmp_path: Path):
    step = Toxicity(ToxicityOptions(lists={"en": str(tmp_path / "no.txt")}))
    with pytest.raises(AthanorError, match=r"no\.txt: cannot be read") as wrong:
        step.compute_key()
    assert "labels" not in str(wrong.value)


def test_a_build_counts_samples_and_names_what_matched_in_both_languages(lists: dict[str, str], tmp_path: Path) -> None:
    rows = [
        {"text": "The weather was fine and they walked by the river. " * 4, "language": "en"},
        {"text": "They had one banana. " + "It was a long walk over the hill. " * 20, "language": "en"},
        {"text": "Banana, banana and blue  cheese.", "language": "en"},
        {"text": "香蕉和蓝纹奶酪都放在桌上，还有香蕉。", "language": "zh"},
        {"text": "今天天气很好，我们去公园散步。", "language": "zh"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "sources": {"web": {"paths": [str(tmp_path / "rows.jsonl")]}},
        "steps": [{"step": "toxicity", "lists": lists, "min_terms": 2}],
        "workers": 1,
    }
    corpus = build_corpus(Recipe.model_validate({"data": data}), tmp_path / "out")
    assert corpus.report["tally"]["reasons"]["toxicity"]["listed terms"][0] == 2
    assert corpus.report["figures"]["toxicity"] == {"kept_documents_with_terms": 1, "terms_in_kept_documents": 1}
    assert {document.language for document in corpus.documents("web", "train")} == {"en", "zh"}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Banana, banana and blue" in page and "香蕉和蓝纹奶酪" in page and "kept documents with terms" in page
