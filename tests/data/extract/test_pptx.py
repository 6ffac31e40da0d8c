"""Presentations written by python-pptx: titles, order by place, lists, tables, charts, notes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from athanor.data.extract.pptx import extract_pptx
from athanor.data.extract.types import Unreadable
from tests.data.extract.made import bomb


def saved(made: Any) -> bytes:
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def box(shapes: Any, text: str, left: float, top: float) -> None:
    shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(0.5)).text_frame.text = text


def test_title_first_then_by_place() -> None:
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[5])
    box(slide.shapes, "third", 1, 5)
    box(slide.shapes, "second", 5, 3)
    box(slide.shapes, "first", 1, 3)
    slide.shapes.title.text = "题目"
    assert extract_pptx(saved(made)).text == "# 题目\n\nfirst\n\nsecond\n\nthird\n"


def test_groups_lie_where_they_are_moved_to() -> None:
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[6])
    box(slide.shapes, "below", 1, 3)
    group = slide.shapes.add_group_shape()
    box(group.shapes, "inside", 1, 6)
    group.top = Inches(1)  # moves what is in it
    assert extract_pptx(saved(made)).text == "inside\n\nbelow\n"


def test_lists_tables_and_notes() -> None:
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "T"
    body = slide.placeholders[1].text_frame
    body.text = "one"
    deeper = body.add_paragraph()
    deeper.text, deeper.level = "deeper", 1
    grid = slide.shapes.add_table(2, 2, Inches(1), Inches(6), Inches(4), Inches(1)).table
    grid.cell(0, 0).text, grid.cell(1, 0).text, grid.cell(1, 1).text = "head", "a", "b"
    grid.cell(0, 0).merge(grid.cell(0, 1))
    slide.notes_slide.notes_text_frame.text = "say this"
    found = extract_pptx(saved(made))
    assert found.text == (
        '# T\n\n- one\n    - deeper\n\n<table>\n<tr><td colspan="2">head</td></tr>\n'
        "<tr><td>a</td><td>b</td></tr>\n</table>\n\nNotes: say this\n"
    )
    assert found.meta["pages"] == 1 and found.meta["tables"] == 1


def test_raised_and_lowered_characters() -> None:
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[6])
    paragraph = slide.shapes.add_textbox(0, 0, 1000, 1000).text_frame.paragraphs[0]
    for text, baseline in (("10", 0), ("6", 30000), (" H", 0), ("2", -25000), ("O", 0)):
        run = paragraph.add_run()
        run.text = text
        run.font._element.set("baseline", str(baseline))
    out = io.BytesIO()
    made.save(out)
    assert extract_pptx(out.getvalue()).text == "10⁶ H₂O\n"


def test_charts_are_the_numbers_behind_them() -> None:
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[6])
    data = CategoryChartData()
    data.categories = ["2019", "2020"]
    data.add_series("ducks", (120, 130.5))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(1), Inches(4), Inches(3), data)
    assert "|  | ducks |\n| --- | --- |\n| 2019 | 120 |\n| 2020 | 130.5 |" in extract_pptx(saved(made)).text


def test_hidden_slides_are_not_shown() -> None:
    made = Presentation()
    for text in ("seen", "hidden"):
        slide = made.slides.add_slide(made.slide_layouts[6])
        box(slide.shapes, text, 1, 1)
    slide._element.set("show", "0")
    assert extract_pptx(saved(made)).text == "seen\n"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (saved(Presentation()), "empty"),
        (saved(Presentation())[:-100], "broken pptx"),
        (bomb("ppt/presentation.xml"), "compression ratio"),
    ],
)
def test_broken_presentations_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_pptx(raw)
    assert caught.value.reason.startswith(reason)
