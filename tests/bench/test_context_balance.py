"""The balance benchmark counts what it says, with and without a folder of documents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from athanor.train.flops import attended_pairs
from bench import context_balance
from bench.context_balance import main, measure, sample_rows


def test_a_cell_is_counted_by_hand() -> None:
    """Two documents of 4 tokens over 2 ranks. Whole row: rank 0 has chunks 0 and 3, rank 1 the middle ones."""
    whole = measure([[4, 4]], 2, "sequence")
    pairs = (1 + 2 + 3 + 4, 3 + 4 + 1 + 2)
    assert whole["max_over_mean"] == max(pairs) / 10 == 1
    whole = measure([[2, 6]], 2, "sequence")  # rank 0: places 0, 1 | 4, 5; rank 1: 0, 1, 2, 3
    assert whole["max_over_mean"] == pytest.approx((1 + 2 + 5 + 6) / 12)
    ours = measure([[4, 8]], 2, "document")
    assert ours["max_over_mean"] == 1 and ours["padding_share"] == 0
    assert measure([[3, 4]], 2, "document")["padding_share"] == 1 / 8
    total = attended_pairs([2, 6], "causal")
    assert whole["excess_pairs_a_row"] == pytest.approx((whole["max_over_mean"] - 1) * total / 2)


def test_rows_are_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = sample_rows(np.array([700, 30, 20, 9, 400, 120, 55]), 256, 3, rng)
    assert len(rows) == 3 and all(sum(row) == 256 and min(row) > 0 for row in rows)


def test_runs_on_a_folder_and_without_one(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    with (folder / "notes.jsonl").open("w", encoding="utf-8") as file:
        for i in range(60):
            file.write(json.dumps({"text": "word " * (20 + 7 * i)}) + "\n")
    shape = ["--contexts", "256", "512", "--cp", "2", "4", "--rows", "3", "--tokens", "1500"]
    out, figure = tmp_path / "out.json", tmp_path / "figure.svg"
    words = [*shape, "--corpus", str(folder), "--own-table", "1000", "--out", str(out), "--figure", str(figure)]
    result = main(words)
    assert json.loads(out.read_text("utf-8")) == result
    assert "<svg" in figure.read_text("utf-8")
    assert {cell["documents"] for cell in result["cells"]} == {"log-normal", "all files", "notes"}
    assert len(result["cells"]) == 3 * 2 * 2 and "--corpus" in result["command"] and result["date"]
    for cell in result["cells"]:
        assert 1 <= cell["document"]["max_over_mean"] <= cell["document"]["worst_row"]
        assert cell["document"]["padding_share"] == 0
        assert cell["document"]["max_over_mean"] <= context_balance.BAR
    alone = main([*shape, "--corpus", str(tmp_path / "absent"), "--out", str(out)])
    assert {cell["documents"] for cell in alone["cells"]} == {"log-normal"}
