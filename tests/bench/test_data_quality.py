"""The benches of PII and quality run on toy sizes, with rows for every type and axis."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from athanor.data.steps.pii_find import TYPES
from athanor.data.steps.quality_examples import AXES
from bench import data_pii, data_quality


def test_pii_bench_scores_every_type() -> None:
    pytest.importorskip("datatrove")
    result = data_pii.measure(160, seed=6, rounds=1, n_bytes=20_000)
    assert {row["type"] for row in result["rows"]} == {*TYPES, "all"}
    assert {line["bar"] for line in data_pii.bars(result)} >= {"precision, en", "recall, zh", "MB/s, clean prose"}


def test_a_missed_and_a_false_span_count() -> None:
    made = [("x" * 50, False, [(0, 5, "EMAIL"), (10, 15, "IP")])]
    rows = {row["type"]: row for row in data_pii.score(made, [[(0, 5, "EMAIL"), (30, 35, "IP")]])}
    assert rows["all"]["recall"] == 0.5 and rows["all"]["precision"] == 0.5
    assert rows["IP"]["recall"] == 0.0 and rows["EMAIL"]["precision"] == 1.0


def test_quality_bench_runs_without_the_shared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = data_quality.generated_model(tmp_path, 120)
    monkeypatch.setattr(data_quality, "generated_model", lambda cache: model)
    monkeypatch.setattr(data_quality, "speed", lambda limit, rounds, cache: {})
    monkeypatch.setattr(data_quality, "DATA", tmp_path / "absent")
    result = data_quality.measure(4, 1)
    assert {row["axis"] for row in result["generated"]} == set(AXES) and result["real"] == []
    assert len(data_quality.bars(result)) == len(AXES)


@pytest.mark.parametrize("damage", [damage for damage, _, _ in data_quality.DAMAGES])
def test_damages_change_texts(damage: data_quality.Damage) -> None:
    text = "def some_name():  # a remark\n    return other_name\nThe quick brown fox, it jumps over lazy dogs.\n" * 4
    assert damage(random.Random(1), text, 1.0) != text
