"""Steps' figures as tables of the report."""

from __future__ import annotations

from typing import Any

from athanor.data.pipeline.figures import histograms, tables

BENCHMARK = {"items": 1319, "items_hit": 2, "documents": 3, "examples": ["a question", "another"]}
HISTOGRAM = {"range": [0, 1], "bins": 2, "documents": {"general": [3, 4]}}


def test_contamination_is_a_table_with_a_row_for_each_benchmark() -> None:
    clean = {"items": 5, "items_hit": 0, "documents": 0, "examples": []}
    (table,) = tables({"decontaminate": {"sets": {"gsm8k": BENCHMARK, "ceval": clean}}})
    assert table.title == "decontaminate: sets"
    assert [name for name, _ in table.head] == ["", "items", "items hit", "documents"]
    assert table.rows == [["gsm8k", "1,319", "2", "3"], ["ceval", "5", "0", "0"]]
    assert table.notes == [("gsm8k", ["a question", "another"])]


def test_single_figures_lists_of_records_and_nested_ones() -> None:
    figures = {
        "minhash": {"clusters": 2, "by_size": {"2": 1, "5": 1}},
        "quality": {"histograms": {"fluency": HISTOGRAM}, "model": {"agreement": [{"axis": "fluency", "auc": 0.91}]}},
    }
    found = {table.title: table for table in tables(figures)}
    assert found["minhash"].rows == [["clusters", "2"]]
    assert found["minhash: by size"].rows == [["2", "1"], ["5", "1"]]
    agreement = found["quality: model: agreement"]
    assert [name for name, _ in agreement.head] == ["axis", "auc"]
    assert agreement.rows == [["fluency", "0.91"]]
    assert [name for name, _ in histograms(figures)] == ["quality histograms fluency"]
    assert not any("histogram" in title for title in found)


def test_every_plain_figure_is_shown_somewhere() -> None:
    figures: dict[str, Any] = {
        "a": {"none": None, "yes": True, "text": "word", "share": 0.25, "list": ["left", 7], "deep": {"er": {"n": 31}}},
        "b": {"uneven": {"p": {"n": 52}, "q": {"m": 63}}, "empty": {}},
    }
    shown = " ".join(cell for table in tables(figures) for row in table.rows for cell in row)
    shown += " ".join(item for table in tables(figures) for _, items in table.notes for item in items)
    for cell in ("–", "True", "word", "0.25", "left, 7", "31", "52", "63"):
        assert cell in shown
