"""The scores of the extraction benchmark: what counts as the same cell, formula and word."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import data_docling, docling_score
from tests.data.extract.made import docx


def test_tables_are_grids_whatever_their_markup() -> None:
    pipes = "| a | **b** | b |\n| - | - | - |\n| 1 | 2\\|3 | \\_x |\n\n| title |\n| - |\n| alone |"
    markup = '<table>\n<tr><th>a</th><th colspan="2">b</th></tr>\n<tr><td>1</td><td>2|3</td><td>_x</td></tr>\n</table>'
    (first,), (second,) = docling_score.tables(pipes), docling_score.tables(markup)
    assert first == second == [["a", "b", "b"], ["1", "2|3", "x"]]
    tall = '<table><tr><td rowspan="2">a</td><td>1</td></tr><tr><td>2</td></tr></table>'
    assert docling_score.tables(tall) == [[["a", "1"], ["a", "2"]]]


def test_cells_and_their_neighbours() -> None:
    wanted = docling_score.tables("| a | b |\n| - | - |\n| 1 | 2 |")
    swapped = docling_score.tables("| a | b |\n| - | - |\n| 2 | 1 |")
    cells, pairs = (docling_score.cells(swapped, flag) for flag in (False, True))
    assert docling_score.f1(cells, docling_score.cells(wanted, False)) == 1.0
    assert docling_score.f1(pairs, docling_score.cells(wanted, True)) == 0.5


@pytest.mark.parametrize(
    ("ours", "reference", "found"),
    [
        (r"$\left(x\right)^2$", "$(x)^{2}$", 1),
        (r"$$a \le b$$", r"$a\leq b$", 1),
        (r"$\mathrm{softmax}(z)$", r"$\text{softmax}(z)$", 1),
        ("$x+1$", "$y-2$", 0),
        ("no formula", "$x$", 0),
        ("$x$", "$x$ and $x$", 1),  # each formula is used once
    ],
)
def test_formulas_found(ours: str, reference: str, found: int) -> None:
    assert docling_score.formula_recall(ours, reference)[0] == found


def test_the_benchmark_runs_on_a_small_set(tmp_path: Path) -> None:
    (tmp_path / "docx" / "groundtruth").mkdir(parents=True)
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    math = "<w:p><m:oMath><m:r><m:t>E=1</m:t></m:r></m:oMath></w:p>"
    body = f"<w:tbl><w:tr>{cell.format('a')}{cell.format('b')}</w:tr></w:tbl>{math}"
    (tmp_path / "docx" / "x.docx").write_bytes(docx(body))
    (tmp_path / "docx" / "groundtruth" / "x.docx.md").write_text("| a | b |\n| - | - |\n\n$$E=1$$\n")
    result = data_docling.run(tmp_path)
    ours = result["docx"]["athanor"]
    assert ours["cell_f1"] == ours["formula_recall"] == 1.0 and ours["documents"] == 1 and not ours["failures"]
    rows = {row["bar"]: row for row in data_docling.bars(result)}
    assert rows["docx formula_recall"]["met"] and rows["docx formula_recall"]["peer_value"] == 0.0
