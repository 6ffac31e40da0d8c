"""The benchmark of vocabularies runs, its baseline is the library's own BPE, and it judges what it measured."""

from __future__ import annotations

import json

import pytest

from athanor.tokenizer import kernel, train_tokenizer
from athanor.tokenizer.counts import count_pieces
from athanor.tokenizer.methods import Settings
from bench import data_tokenizer

pytestmark = pytest.mark.skipif(kernel.kernel() is None, reason="no C++ compiler")


def test_all_tables_and_bars() -> None:
    texts = {domain: some[:150] for domain, some in data_tokenizer.generated_texts(1).items()}
    result = data_tokenizer.measure(texts, (700,), ["English 90 %"], 1)
    assert {row["method"] for row in result["vocabularies"]} == set(data_tokenizer.METHODS)
    assert all(row["equal"] and row.get("tiktoken_equal", True) for row in result["speed"])
    exact = [bar for bar in result["bars"] if "tokens" in bar["bar"] or "unreachable" in bar["bar"]]
    assert len(exact) == 6 and all(bar["met"] for bar in exact)
    union = result["vocabularies"][0]
    assert union["mean_ratio"] > 1 and union["dominant_loss"] == pytest.approx(1 - union["ratios"]["english"])
    data_tokenizer.report(result)
    json.dumps(result)


def test_the_baseline_is_plain_bpe() -> None:
    texts = ["the cat sat on the mat, 1 + 2 = 3\n", "the dog\n  \n ran"] * 9
    pieces = count_pieces([("english", text) for text in texts])
    ours = data_tokenizer.baseline(pieces, Settings(285, "natural"), {"english": 1})
    assert ours.fingerprint == train_tokenizer(texts, 285).fingerprint
