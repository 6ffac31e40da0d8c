"""Figures of a vocabulary, counted by hand."""

from __future__ import annotations

import pytest

from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.tokenizer.classes import CLASSES, class_of, classes
from athanor.tokenizer.counts import count_pieces
from athanor.tokenizer.frequency import frequencies, tokens_by_domain
from athanor.tokenizer.measure import comparison, fit, harmonic_mean
from athanor.tokenizer.page import page, table


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat, the cat ran", "小明有三个苹果，小红有三个苹果"] * 3, 290)


def test_fit_counts_what_it_says(tokenizer: Tokenizer) -> None:
    texts = ["the cat 12", "苹果 𝒳"]
    ids = [tokenizer.backend.encode(text).ids for text in texts]
    figures = fit(tokenizer, texts)
    n = sum(map(len, ids))
    assert figures.n_bytes == 10 + 11 and figures.n_tokens == n
    assert figures.bytes_per_token == pytest.approx(21 / n)
    assert figures.tokens_per_word == pytest.approx(n / 6)  # the, cat, 12, 苹, 果, 𝒳
    assert figures.tokens_per_char == pytest.approx(n / 14)
    assert figures.used_share == pytest.approx(len({i for some in ids for i in some}) / 290)
    single = sum(
        len(tokenizer.token_bytes[i]) == 1 and tokenizer.token_bytes[i] >= b"\x80" for some in ids for i in some
    )
    assert single >= 4 and figures.byte_share == pytest.approx(single / n)  # 𝒳 was never seen


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((" the", "English"), ("caf\u00e9", "Latin"), ("苹果", "Chinese"), ("，", "signs"), ("。\n", "signs")),
        *(("ひらがな", "Japanese"), ("食べる", "Japanese"), ("ｶﾅ", "Japanese"), ("한국", "Korean"), ("سلام", "Arabic")),
        *((" привет", "Cyrillic"), ("שלום", "other script"), ("∑", "mathematics"), ("α", "mathematics")),
        *(("𝒳", "mathematics"), ("12", "digits"), ("\n\n", "white space"), ("();", "signs"), ("〇", "Chinese")),
        *((" = ", "signs"), ("_x", "English"), ("々", "Chinese"), ("e\u0301", "English")),
    ],
)
def test_class_of_a_token(text: str, kind: str) -> None:
    assert class_of(text.encode()) == kind


def test_classes_add_up(tokenizer: Tokenizer) -> None:
    found = classes(tokenizer)
    assert sum(found.values()) == 290 and set(found) <= set(CLASSES)
    assert found["special"] == 6 and found["digits"] == 10 and found["part of a character"] >= 128
    assert class_of(b"\xe4\xb8") == "part of a character"


def test_frequencies_and_tokens_by_domain() -> None:
    docs = [("en", "the cat the dog"), ("en", "the end"), ("zh", "苹果，苹果 the")]
    pieces = count_pieces(docs)
    found = frequencies(pieces)
    assert found["en"]["pieces"] == 6 and found["en"]["distinct"] == 5  # "the", " cat", " the", " dog", " end"
    assert found["en"]["top"]["the"] == 2 and found["en"]["once_share"] == pytest.approx(4 / 5)
    assert found["zh"]["own_share"] == pytest.approx(2 / 3) and found["zh"]["top"] == {"苹果": 2, "，": 1, " the": 1}
    tokenizer = train_tokenizer([text for _, text in docs] * 4, 280)
    owned = tokens_by_domain(tokenizer, pieces)
    assert sum(owned.values()) == 280 - 6 and owned["unused"] > 200
    apple = tokenizer.encode("苹果")
    assert owned["zh"] >= len(set(apple)) and owned["en"] >= 2


def test_comparison_with_a_baseline(tokenizer: Tokenizer) -> None:
    other = train_tokenizer(["nothing alike, nothing alike at all"] * 3, 270)
    groups = {"domain": {"en": ["the cat ran"], "zh": ["苹果"]}, "language": {"en": ["the cat ran"]}}
    result = comparison({"ours": tokenizer, "theirs": other}, groups, "theirs")
    ours, theirs = (result["tokenizers"][name] for name in ("ours", "theirs"))
    assert theirs["domain_relative"] == {"en": 1.0, "zh": 1.0} and theirs["domain_harmonic_mean_relative"] == 1.0
    assert ours["domain_relative"]["zh"] > 1 and ours["domain_relative"]["en"] > 1
    both = [ours["domain"][d]["bytes_per_token"] for d in ("en", "zh")]
    assert ours["domain_harmonic_mean"] == pytest.approx(2 / (1 / both[0] + 1 / both[1])) == harmonic_mean(both)
    text, html = table(result), page(result)
    assert "vs theirs" in text and f"{ours['domain_relative']['zh']:.3f}" in text
    assert html.count("<svg") == 1 and "每词元字节数" in html and html.startswith("<!doctype html>")
