"""The memory benchmark judges growth by its own rows (the builds themselves are minutes long)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import data_memory


def test_growth_is_judged_from_the_first_row_to_the_last() -> None:
    rows = [
        {"megabytes": 1.0, "parent_mb": 100.0, "worker_mb": 50.0, "all_mb": 200.0},
        {"megabytes": 10.0, "parent_mb": 150.0, "worker_mb": 100.0, "all_mb": 210.0},
    ]
    assert [bar["holds"] for bar in data_memory.bars_of(rows)] == [True, False, True]


@pytest.mark.slow
def test_quick_run_writes_its_result(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    out = tmp_path / "result.json"
    assert data_memory.main(["--quick", "--out", str(out)]) == 0
    assert out.is_file()
