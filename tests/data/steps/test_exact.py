"""Exact duplicates: documents, URLs, paragraphs, against plain dictionaries; indexes of earlier builds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from athanor.data.steps import exact
from athanor.data.steps.base import Docs, Outcome, run_in_memory
from athanor.data.steps.exact import ExactDedup
from athanor.data.steps.urls import canonical_url
from athanor.errors import AthanorError
from athanor.recipe.steps.dedup import ExactDedupOptions


def run(texts: list[str], work: Path, urls: list[str | None] | None = None, **options: Any) -> Outcome:
    names = [f"d{i}" for i in range(len(texts))]
    docs = Docs.of(texts, id=options.pop("id", names), url=urls or [None] * len(texts))
    return run_in_memory([ExactDedup(ExactDedupOptions(**options))], docs, work)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://www.Example.com/a/b/", "http://example.com/a/b"),
        ("http://example.com:80/a?utm_source=x&b=2&a=1#part", "https://example.com/a?a=1&b=2"),
        ("https://example.com/index.html", "example.com"),
        ("https://m.example.com/%E4%BD%A0?fbclid=9", "https://example.com/你"),
        ("https://example.com//x;jsessionid=AB12?spm=1.2", "https://example.com/x"),
    ],
)
def test_urls_of_the_same_page(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other) is not None


def test_urls_of_other_pages_and_no_urls() -> None:
    pages = ["a.com/x", "a.com/X", "a.com/x?id=1", "a.com/x?id=2", "b.a.com/x", "a.com:8080/x", "a.com/#!/x", "a.com"]
    assert len({canonical_url(page) for page in pages}) == len(pages)
    assert [canonical_url(text) for text in ("", "   ", "http://", "http://[bad", "not a url")] == [None] * 5


def test_documents_against_a_dictionary(tmp_path: Path) -> None:
    rng = random.Random(1)
    base = [f"Text number {i} with words" for i in range(30)]
    forms = (str, str.upper, lambda t: t.replace(" ", "\n  "), lambda t: f" {t}\n")
    texts = [rng.choice(forms)(rng.choice(base)) for _ in range(200)]
    for how, form in (("raw", lambda t: t), ("folded", lambda t: " ".join(t.casefold().split()))):
        outcome = run(texts, tmp_path, by=("document",), text=how)
        assert sorted(form(t) for t in outcome.kept.texts) == sorted({form(t) for t in texts})
        assert len(outcome.dropped) == 200 - len(outcome.kept)
        by_form: dict[str, list[str]] = {}
        for text in texts:
            by_form.setdefault(form(text), []).append(text)
        for text in outcome.kept.texts:  # the longest of the group stays
            assert len(text) == max(map(len, by_form[form(text)]))


def test_the_result_does_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = ["same text"] * 4 + ["SAME text", "own text"]
    urls = ["a.com", "b.com", "a.com/", None, None, "b.com"]
    kept = set()
    for seed in range(6):
        order = random.Random(seed).sample(range(6), 6)
        outcome = run([texts[i] for i in order], tmp_path, [urls[i] for i in order], id=[f"i{i}" for i in order])
        kept.add(tuple(sorted(outcome.kept.column("id"))))
    assert len(kept) == 1


def test_same_url_keeps_the_longest(tmp_path: Path) -> None:
    texts = ["first version", "a later and longer version", "other page", "no page", "no page either"]
    urls = ["http://a.com/p?utm_medium=z", "https://www.a.com/p", "https://a.com/q", None, ""]
    outcome = run(texts, tmp_path, urls)
    assert outcome.kept.texts == texts[1:]
    assert outcome.dropped[0][2].startswith("same URL: ")


def long(word: str) -> str:
    return " ".join(f"{word}{i}" for i in range(30))


def test_repeated_paragraphs_are_cut_where_they_come_again(tmp_path: Path) -> None:
    footer, quote = long("footer"), "一段很长的话，" * 20
    texts = [
        f"{long('first')}\n\n{footer}\n\n{long('more')}\n\n{long('and') * 4}",
        f"{footer.upper()}\n\n{long('second')}\n\n{quote}\n\nshort line\n\nshort line",
        f"{quote}\n{footer}\nlittle",
    ]
    outcome = run(texts, tmp_path, by=("paragraph",))
    assert outcome.kept.texts == [texts[0], f"{long('second')}\n\n{quote}\n\nshort line\n\nshort line"]
    assert [reason.split(":")[0] for _, _, reason in outcome.dropped] == ["little left without repeated paragraphs"]


def test_paragraph_passes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    pool = [long(f"p{i}x") for i in range(40)]
    texts = ["\n\n".join(rng.sample(pool, 6)) for _ in range(30)]
    whole = run(texts, tmp_path, by=("paragraph",), min_left_chars=0)
    monkeypatch.setattr(exact, "_PASS_ROWS", 20)
    assert run(texts, tmp_path, by=("paragraph",), min_left_chars=0).kept.texts == whole.kept.texts
    left = [p for text in whole.kept.texts for p in text.split("\n\n") if p]
    assert sorted(left) == sorted({p for text in texts for p in text.split("\n\n")})  # each once


def test_later_builds_compare_with_an_index(tmp_path: Path) -> None:
    by = ("document", "url", "paragraph")
    run(["one text", "two text", long("shared") + "\n" + long("x")], tmp_path / "a", ["a.com", "b.com", None], by=by)
    texts = ["ONE  text", "new text", "third", long("shared") + "\n" + long("another")]
    outcome = run(texts, tmp_path / "b", [None, "http://www.b.com", None, None], by=by, against=[str(tmp_path / "a")])
    assert outcome.kept.texts == ["third", long("another")]
    assert [r.split(":")[0] for _, _, r in outcome.dropped] == [
        f"same {x} as in an earlier build" for x in ("text", "URL")
    ]
    with pytest.raises(AthanorError, match="other settings"):
        run(["x"], tmp_path / "c", against=[str(tmp_path / "a")])


def test_empty_input(tmp_path: Path) -> None:
    for by in (("document",), ("url",), ("paragraph",)):
        assert len(run([], tmp_path, by=by).kept) == 0
    assert len(run(["", ""], tmp_path).kept) == 1
