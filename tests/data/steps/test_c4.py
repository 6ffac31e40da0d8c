"""C4's rules: lines taken out, documents dropped, structure kept, rules switched without measuring."""

from __future__ import annotations

from typing import Any

import pytest

from athanor.data.steps.base import Docs, as_arrays, run_in_memory
from athanor.data.steps.c4 import C4
from athanor.recipe.steps.clean import C4Options

ENGLISH = [f"This is sentence number {i} of a good text about harbours." for i in range(6)]
CHINESE = [f"这是第{i}句话，讲的是港口的历史。" for i in range(6)]


def edited(lines: list[str], language: str = "en", **options: Any) -> list[str] | str:
    outcome = run_in_memory([C4(C4Options(**options))], Docs.of(["\n".join(lines)], language=language))
    return outcome.dropped[0][2] if outcome.dropped else outcome.kept.texts[0].split("\n")


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("Read more", {}),
        ("Please enable Javascript in your browser to see this page.", {}),
        ("We use cookies to make this site better for you.", {}),
        ("By going on you accept our privacy policy and terms.", {}),
        ("a word " + "x" * 1001 + " too long.", {}),
        ("A heading without a full stop", {"terminal_punctuation": True}),
        ("It goes on and on and on...", {"terminal_punctuation": True}),
        ("# A heading of words", {"terminal_punctuation": True, "keep_structure": False}),
    ],
)
def test_lines_are_taken_out(line: str, options: dict[str, Any]):
    lines = [*ENGLISH[:3], line, *ENGLISH[3:]]
    assert edited(lines, **options) == ENGLISH
    assert "\n".join(
        edited(lines, min_words_per_line=0, max_word_chars=None, javascript=False, policy=False)
    ) == "\n".join(lines)


@pytest.mark.parametrize(
    "line", ["更多", "请启用您浏览器的JavaScript功能。", "版权所有 某某公司", "阅读本站的隐私政策。"]
)
def test_chinese_lines_are_taken_out(line: str):
    assert edited([*CHINESE[:3], line, *CHINESE[3:]], "zh") == CHINESE


def test_structure_and_good_lines_stay():
    english = [
        *ENGLISH,
        "",
        "# One",
        "- two",
        "| a | b |",
        "|---|---|",
        "$$",
        "x",
        "$$",
        "```js",
        "x = {}",
        "y",
        "```",
        "    z",
    ]
    english += ["JavaScript is a language of the web."]
    assert edited(english) == english
    chinese = [*CHINESE, "“好！”", "注意：", "## 标题", "1. 一"]
    assert edited(chinese, "zh") == chinese


def test_documents_are_dropped():
    assert edited(ENGLISH[:4]) == "too few sentences: 4"
    assert edited(CHINESE[:4], "zh") == "too few sentences: 4"
    assert edited([*ENGLISH, "Lorem Ipsum dolor sit amet."]) == "lorem ipsum: 1 times"
    assert edited([*ENGLISH, "function () { return; }"], curly_bracket=True) == "curly brackets: 1"
    assert isinstance(edited([*ENGLISH, "Let $x_{1}$ be given."]), list)


def test_citations_go_and_indices_stay():
    marked = "It was built in 1900.[12] It fell[edit] later; see [3] and [1](x.md)."
    lines = [*ENGLISH, marked, "Take a[0] of it."]
    bare = "It was built in 1900. It fell later; see [3] and [1](x.md)."
    assert edited(lines) == [*ENGLISH, bare, "Take a[0] of it."]
    assert edited(lines, citations=False) == lines
    assert edited([*CHINESE, "港口很大[2]，船很多。"], "zh") == [*CHINESE, "港口很大，船很多。"]


def test_rules_are_switched_without_measuring():
    docs = Docs.of(["\n".join([*ENGLISH, "A line without an end"])], language="en")
    loose, strict = C4(C4Options()), C4(C4Options(terminal_punctuation=True, min_sentences=None))
    assert loose.compute_key() == strict.compute_key()
    columns = as_arrays(loose.annotate(docs), loose.fields)
    assert loose.apply(docs, columns).texts == [None]
    assert strict.apply(docs, columns).texts == ["\n".join(ENGLISH)]


def test_skipped_domains_stay_untouched():
    docs = Docs.of(["x", "", "x\ny"], domain=["code", "code", "math"])
    outcome = run_in_memory([C4(C4Options())], docs)
    assert outcome.kept.texts == docs.texts
