"""The deduplication benchmark runs and judges itself (a smoke test: no speed is asserted)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench import data_dedup


def test_quick_run_writes_tables_and_bars(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    parts = ["exact", "substring", "decontaminate"]
    assert data_dedup.main(["--quick", "--only", *parts, "--out", str(out), "--shared", str(tmp_path)]) == 0
    result = json.loads(out.read_text("utf-8"))
    assert sorted(result) == sorted(parts)


@pytest.mark.slow
def test_the_sections_with_other_processes_and_peers(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    peers = ["minhash"] if all(map(importlib.util.find_spec, ("datatrove", "spacy", "jieba"))) else []
    data_dedup.main(["--quick", "--only", "memory", *peers, "--out", str(out)])
    result = json.loads(out.read_text("utf-8"))
    assert len(result["memory"]["bars"]) == 3
    assert not peers or len(result["minhash"]["tables"]["MinHash 14×8, 5-grams"]) == 8
