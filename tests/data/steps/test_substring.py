"""Repeated passages against brute force over token lists, cuts at safe places, independence of order and batch."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.data.steps import repeats, shingles
from athanor.data.steps.base import Docs, Outcome, run_in_memory
from athanor.data.steps.substring import SubstringDedup
from athanor.recipe.steps.dedup import SubstringDedupOptions


def words(seed: int, n: int, vocabulary: int = 5000) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(vocabulary)}" for _ in range(n)]


def sentences(seed: int, n: int = 8) -> str:
    """n sentences of twelve words."""
    drawn = words(seed, 12 * n)
    return " ".join(" ".join(drawn[12 * i : 12 * i + 12]).capitalize() + "." for i in range(n))


def run(texts: list[str], work: Path, ids: list[str] | None = None, **options: Any) -> tuple[SubstringDedup, Outcome]:
    step = SubstringDedup(SubstringDedupOptions(**options))
    return step, run_in_memory([step], Docs.of(texts, id=ids or [f"d{i}" for i in range(len(texts))]), work)


def brute_force(docs: list[list[str]], n: int) -> list[set[int]]:
    """Tokens of each document inside a window of n that an earlier document or place has."""
    seen: set[tuple[str, ...]] = set()
    out: list[set[int]] = []
    for tokens in docs:
        covered: set[int] = set()
        for i in range(len(tokens) - n + 1):
            window = tuple(tokens[i : i + n])
            if window in seen:
                covered |= set(range(i, i + n))
            seen.add(window)
        out.append(covered)
    return out


@pytest.mark.parametrize("seed", range(4))
def test_spans_against_brute_force(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pool = [words(1000 * seed + i, rng.randrange(15, 160)) for i in range(12)]
    docs = []
    for i in range(30):
        parts = [rng.choice(pool) if rng.random() < 0.4 else words(50_000 + 100 * seed + i, 40) for _ in range(4)]
        docs.append([word for part in parts for word in part])
    docs.sort(key=lambda d: len(" ".join(d)), reverse=True)  # the order of preference: longest first
    docs = [d for i, d in enumerate(docs) if not i or len(" ".join(d)) != len(" ".join(docs[i - 1]))]
    _, outcome = run([" ".join(d) for d in docs], tmp_path, min_tokens=30, min_left_chars=0, min_left_share=0)
    cuts = outcome.measures["substring_dedup.cuts"].to_pylist()
    found = [{t for a, b in zip(c[::2], c[1::2], strict=True) for t in range(a, b)} for c in cuts]
    assert found == brute_force(docs, 30)
    assert any(found)


def test_anchors_of_equal_passages_are_equal_whatever_stands_around() -> None:
    passage = " ".join(words(1, 50))
    texts = [f"{' '.join(words(10 + i, 37 + i))} {passage} {' '.join(words(90 + i, 61))}" for i in range(20)]
    tokens = shingles.tokens_of(Docs.of(texts))
    hashes, at = repeats.anchors(tokens, 50)
    doc = np.searchsorted(tokens.offsets, at, side="right") - 1
    common = set.intersection(*({int(h) for h in hashes[doc == i]} for i in range(20)))
    assert common
    assert len(hashes) < 0.15 * len(tokens.hash)


def test_a_passage_stays_in_the_first_choice_and_is_cut_elsewhere(tmp_path: Path) -> None:
    shared = sentences(1, 6)
    texts = [
        f"{sentences(2, 20)} {shared} {sentences(3)}",
        f"{sentences(4)} {shared} {sentences(5)}",
        f"{shared.upper()}\n\n{sentences(6)}",
        shared,
        sentences(7),
    ]
    expected = {texts[0], f"{sentences(4)} {sentences(5)}", sentences(6), texts[4]}
    for seed in range(4):
        order = random.Random(seed).sample(range(5), 5)
        step, outcome = run([texts[i] for i in order], tmp_path, [f"d{i}" for i in order])
        assert {" ".join(t.split()) for t in outcome.kept.texts} == expected
        assert [(i, r.split(":")[0]) for i, _, r in outcome.dropped] == [
            ("d3", "little left without repeated passages")
        ]
    assert step.report(None)["passages"] == 3  # type: ignore[arg-type]


def test_chinese_passages_are_cut_at_sentences(tmp_path: Path) -> None:
    rng = random.Random(3)

    def sentence() -> str:
        return "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(18)) + "。"

    shared = "".join(sentence() for _ in range(5))
    one, two, three, four = ("".join(sentence() for _ in range(20)) for _ in range(4))
    _, outcome = run([one + shared + two + two[:40], three[:-10] + "，同样，" + shared[4:] + four], tmp_path)
    begin = shared.index("。") + 1
    assert outcome.kept.texts[1] == three[:-10] + "，同样，" + shared[4:begin] + four
    assert "�" not in outcome.kept.texts[1]


def test_repeats_in_one_document_are_cut_too(tmp_path: Path) -> None:
    shared = sentences(1, 6)
    _, outcome = run([f"{shared} {sentences(2)} {shared} {sentences(3)}", "ha " * 400 + sentences(9)], tmp_path)
    assert outcome.kept.texts[0] == f"{shared} {sentences(2)} {sentences(3)}"
    assert outcome.kept.texts[1].count("ha ") == 1


def test_texts_that_go_round_in_circles_are_no_trouble(tmp_path: Path) -> None:
    texts = ["one two three " * 30_000 + sentences(i, 40) for i in range(3)]
    started = time.process_time()
    _, outcome = run(texts, tmp_path, min_left_share=0)
    assert time.process_time() - started < 10  # quadratic: hours
    assert all(len(text) < 4000 for text in outcome.kept.texts)


def test_shorter_repeats_stay(tmp_path: Path) -> None:
    shared = " ".join(words(1, 49))
    texts = [f"{' '.join(words(2 + i, 60))} {shared} {' '.join(words(20 + i, 60))}" for i in range(3)]
    _, outcome = run(texts, tmp_path)
    assert outcome.kept.texts == texts
    texts = [text.replace(shared, shared + " tail") for text in texts]
    _, outcome = run(texts, tmp_path, boundary="word")
    assert sum(shared in text for text in outcome.kept.texts) == 1


def test_code_blocks_and_formulas_are_not_halved(tmp_path: Path) -> None:
    block = "```\n" + "\n".join(f"call_{i}(a_{i}, b_{i})" for i in range(30)) + "\n```"
    texts = [
        f"{sentences(1, 30)}\n\n{block}\n",
        f"{sentences(2)}\n\n{block.replace('call_29', 'other')}\n{sentences(3)}",
    ]
    _, outcome = run(texts, tmp_path, boundary="word")
    for text in outcome.kept.texts:
        assert text.count("```") in (0, 2)
        inner = re.search(r"```\n(.*)```", text, re.S)
        assert inner is None or len(inner[1].split("\n")) == 31


def test_measures_do_not_depend_on_the_batch() -> None:
    texts = [sentences(1, 30), "", sentences(2, 3), sentences(1, 30)[200:], "短"]
    step = SubstringDedup(SubstringDedupOptions())
    whole = step.annotate(Docs.of(texts))
    as_list = {name: (v.to_pylist() if hasattr(v, "to_pylist") else list(v)) for name, v in whole.items()}
    for i, text in enumerate(texts):
        alone = step.annotate(Docs.of([text]))
        for name, values in alone.items():
            assert (values.to_pylist() if hasattr(values, "to_pylist") else list(values))[0] == as_list[name][i]


@pytest.mark.parametrize("n_tokens", [25, 30, 48, 49, 50])
def test_a_batch_shorter_than_a_window_is_measured(n_tokens: int) -> None:
    # A changed threshold lets one short document through, and only that one is measured.
    step = SubstringDedup(SubstringDedupOptions(min_tokens=50))
    columns = step.annotate(Docs.of([" ".join(f"w{i}" for i in range(n_tokens))]))
    assert {len(column) for column in columns.values()} == {1}


def test_empty_input(tmp_path: Path) -> None:
    assert len(run([], tmp_path)[1].kept) == 0
    assert len(run(["", "a", "   "], tmp_path)[1].kept) == 3
