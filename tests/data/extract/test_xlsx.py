"""Workbooks written by openpyxl: the tables that a person sees on each sheet."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from typing import Any

import openpyxl
import pytest

from athanor.data.extract.types import Unreadable
from athanor.data.extract.xlsx import extract_xlsx
from tests.data.extract.made import bomb


def book(fill: Callable[[Any], None]) -> bytes:
    made = openpyxl.Workbook()
    fill(made)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def rows(sheet: Any, top: int, left: int, values: list[list[Any]]) -> None:
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            sheet.cell(top + r, left + c).value = value


def test_values_as_the_sheet_shows_them() -> None:
    def fill(made: Any) -> None:
        made.active.title = "数据"
        rows(made.active, 3, 2, [["name", "n", "day", "ok"], ["甲", 3.0, datetime.date(2024, 5, 1), True]])
        rows(made.active, 5, 2, [["b|c", 0.1 + 0.2, datetime.datetime(2024, 5, 1, 12, 30), False]])

    found = extract_xlsx(book(fill))
    assert found.text == (
        "## 数据\n\n| name | n | day | ok |\n| --- | --- | --- | --- |\n"
        "| 甲 | 3 | 2024-05-01 | TRUE |\n| b\\|c | 0.3 | 2024-05-01 12:30:00 | FALSE |\n"
    )
    assert found.meta == {"format": "xlsx", "sheets": 1, "tables": 1}


def test_blocks_apart_are_tables_apart_and_forms_stay_whole() -> None:
    def fill(made: Any) -> None:
        rows(made.active, 1, 1, [["a", "b"], [1, 2]])
        rows(made.active, 1, 4, [["c", "d"], [3, 4]])
        rows(made.active, 5, 1, [["width", None, 10], ["height", None, 20]])
        rows(made.active, 9, 1, [["a note"]])

    found = extract_xlsx(book(fill)).text
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c | d |\n| --- | --- |\n| 3 | 4 |" in found
    assert "| width | 10 |\n| --- | --- |\n| height | 20 |\n\na note\n" in found


def test_merged_cells_and_a_title_over_the_table() -> None:
    def fill(made: Any) -> None:
        sheet = made.active
        rows(sheet, 1, 1, [["All of it", None, None], ["x", "both", None], [None, 1, 2]])
        for merged in ("A1:C1", "B2:C2", "A2:A3"):
            sheet.merge_cells(merged)

    found = extract_xlsx(book(fill)).text
    assert found.startswith("## Sheet\n\nAll of it\n\n<table>")
    assert '<tr><td rowspan="2">x</td><td colspan="2">both</td></tr>\n<tr><td>1</td><td>2</td></tr>' in found


def test_hidden_sheets_and_empty_cells_far_away_are_left_out() -> None:
    def fill(made: Any) -> None:
        rows(made.active, 1, 1, [["a", "b"], [1, 2]])
        made.active["ZZ9000"].font = openpyxl.styles.Font(bold=True)
        hidden = made.create_sheet("secret")
        hidden["A1"] = "no"
        hidden.sheet_state = "hidden"

    found = extract_xlsx(book(fill))
    assert "no" not in found.text.split() and found.meta["sheets"] == 1 and found.text.count("\n") == 5


def test_a_stray_cell_far_away_costs_nothing() -> None:
    def fill(made: Any) -> None:
        rows(made.active, 1, 1, [["name", "n", "total"], ["甲", 1, None], ["乙", 2, 3]])
        made.active.merge_cells("C2:C3")
        made.active["C2"] = "both"
        rows(made.active, 1_048_575, 16_383, [["far", "away"], ["x", 2]])
        rows(made.create_sheet("Other"), 1, 1, [["a", "b"], [1, 2]])

    found = extract_xlsx(book(fill))
    assert '<td rowspan="2">both</td>' in found.text and "| far | away |\n| --- | --- |\n| x | 2 |" in found.text
    assert "## Other\n\n| a | b |" in found.text and found.meta["tables"] == 3


def test_durations_are_in_hours() -> None:
    def fill(made: Any) -> None:
        rows(
            made.active,
            1,
            1,
            [["time", datetime.timedelta(hours=30, minutes=5)], ["more", datetime.timedelta(seconds=61)]],
        )

    assert "30:05:00" in (found := extract_xlsx(book(fill)).text) and "0:01:01" in found


def diagonal(made: Any) -> None:
    for i in range(1, 4_001):
        made.active.cell(i, i).value = 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (book(diagonal), "sheet too large"),
        (book(lambda made: None), "empty"),
        (book(lambda made: made.active.append([1, 2]))[:-200], "broken xlsx"),
        (b"PK\x03\x04", "broken xlsx"),
        (bomb("xl/worksheets/sheet1.xml"), "compression ratio"),
    ],
)
def test_broken_workbooks_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_xlsx(raw)
    assert caught.value.reason.startswith(reason)
