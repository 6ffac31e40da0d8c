"""The benchmark of cleaning steps runs, agrees with datatrove, and judges what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import data_filters


def test_generated_documents_are_the_same_every_time():
    for make in (data_filters.zipf_english, data_filters.zipf_chinese):
        assert make(20_000, 1) == make(20_000, 1) != make(20_000, 2)
        assert 20_000 <= sum(len(text.encode()) for text in make(20_000, 1)) < 60_000


def test_all_tables_and_bars():
    sets = {"english": data_filters.zipf_english(30_000, 0), "chinese": data_filters.zipf_chinese(30_000, 0)}
    result = data_filters.measure(sets, rounds=1)
    assert set(result["steps"]["english"]) == {step.name for step in data_filters.all_steps()} | {"whole chain"}
    row = result["gopher"]["english"]
    if "missing" not in row:
        assert row["agreement"] == 1.0 and 0 < row["dropped"] < 1
    bars = data_filters.judge(result)
    assert {"language", "whole chain"} <= {bar["bar"] for bar in bars}
    data_filters.report({**result, "bars": bars})
    json.dumps(result)


def test_the_slowest_set_is_judged():
    rows = {"a": {"whole chain": 9.0}, "b": {"whole chain": 4.0}}
    result = {"gopher": {"a": {"missing": "datatrove"}}, "language": {}, "steps": rows}
    assert data_filters.judge(result) == [{"bar": "whole chain", "target": 5.0, "value": 4.0, "met": False}]


def test_texts_of_a_folder(tmp_path: Path):
    assert data_filters.corpus(tmp_path / "none", 100) == {}
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": "ab " * n}) + "\n" for n in (10, 10_000, 5)))
    found = data_filters.corpus(tmp_path, 10_000)
    assert [len(text) for text in found["texts"]] == [30, 20_000, 10_000]


@pytest.mark.parametrize("name", ["normalise", "code"])
def test_work_is_annotation_and_verdict(name: str):
    step = next(step for step in data_filters.all_steps() if step.name == name)
    from athanor.data.steps.base import Docs

    assert data_filters.work(step, Docs.of(["text", ""])) == [
        None,
        "empty after normalisation" if name == "normalise" else None,
    ]
