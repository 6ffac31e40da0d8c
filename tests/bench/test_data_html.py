"""The benchmark of HTML: its metrics by hand, and a quick run without the annotated pages."""

from pathlib import Path

from bench import html_formulas
from bench.data_html import gram_f1, run, token_f1


def test_metrics_by_hand():
    assert token_f1("a b c", "a b d e") == 2 * 2 / (3 + 4)
    assert token_f1("", "a") == 0.0
    # Four-grams: 2 of ours, 3 of the reference, 1 common: of 4 in all, 1 right, 1 too many, 2 missed.
    assert gram_f1([("a b c d x", "w a b c d e")]) == 2 * 1 / (2 * 1 + 1 + 2)
    assert gram_f1([("a b c d", "a b c d")]) == 1.0


def test_quick_run_without_the_pages(tmp_path: Path):
    result = run(tmp_path, 1, quick=True)
    assert result["articles"] == result["tables"] == {}
    assert all(row["athanor"] == 1.0 for row in result["formulas"].values())
    assert {"script math/tex", "raw $$…$$"} <= set(result["formulas"])


def test_lost_and_escaped_formulas_count_as_lost():
    assert html_formulas.kept("raw $$…$$", r"so $$a\_1$$", ["a_1"]) == 0.0
    assert html_formulas.kept("data-tex", r"so $\frac{a}{b}$", [r"\frac ab", "c_1"]) == 0.5
