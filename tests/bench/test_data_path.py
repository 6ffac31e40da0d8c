"""The benchmarks of the whole data system run at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import data_ablation, data_path


def test_the_whole_path_keeps_what_it_should_and_is_timed(tmp_path: Path) -> None:
    texts = data_path.documents(60_000, None)
    folder = tmp_path / "in"
    folder.mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "docs.jsonl").write_text(rows, encoding="utf-8")
    kept = data_path.athanor(folder, tmp_path / "out")
    assert 0 < kept < len(texts)  # planted near copies and noise are gone


@pytest.mark.parametrize(("raw", "built", "expected"), [([5, 4, 3, 2], [5, 3], 1.5), ([5, 4], [3, 2], None)])
def test_how_many_times_the_tokens(raw: list[float], built: list[float], expected: float | None) -> None:
    assert data_ablation.times_more(raw, built) == expected


@pytest.mark.slow
def test_the_ablation_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["data_ablation.py", "--quick", "--out", str(out)])
    assert data_ablation.main() == 0
    assert json.loads(out.read_text(encoding="utf-8"))["rows"][0]["built"] > 0
