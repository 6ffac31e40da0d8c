"""Tables as Markdown or HTML: read back with independent parsers, every cell is found again."""

from __future__ import annotations

import random
import zipfile
from io import BytesIO

import lxml.html
import pytest
from markdown_it import MarkdownIt

from athanor.data.extract.limits import ZipBudget, read_zip_member
from athanor.data.extract.tables import Cell, render_table
from athanor.data.extract.types import Unreadable


def cells_of(markup: str) -> list[list[str]]:
    """Cells of the first table of an HTML text."""
    table = next(lxml.html.fromstring(f"<div>{markup}</div>").iter("table"))
    return [[cell.text_content() for cell in row.iter("td", "th")] for row in table.iter("tr")]


def through_markdown(text: str) -> list[list[str]]:
    """Cells as a CommonMark parser with pipe tables sees them."""
    return cells_of(MarkdownIt().enable("table").render(text))


def test_plain_cells_are_a_pipe_table() -> None:
    rows = [[Cell("a", header=True), Cell("b", header=True)], [Cell("1"), Cell("2")]]
    assert render_table(rows) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_first_row_of_data_is_no_header_when_headers_are_marked() -> None:
    rows = [[Cell("x"), Cell("1")], [Cell("y", header=True), Cell("2")]]
    assert through_markdown(render_table(rows)) == [["", ""], ["x", "1"], ["y", "2"]]


def test_pipes_survive_and_no_cell_is_lost() -> None:
    draw = random.Random(7)
    for _ in range(50):
        rows = [
            [Cell("".join(draw.choices("ab|中 ", k=6)).strip() or "x") for _ in range(draw.randint(1, 5))]
            for _ in range(draw.randint(1, 6))
        ]
        width = max(map(len, rows))
        seen = through_markdown(render_table(rows))
        assert seen == [[*(" ".join(c.text.split()) for c in row), *[""] * (width - len(row))] for row in rows]


def test_escaped_pipe_is_not_escaped_twice() -> None:
    assert render_table([[Cell(r"a\|b"), Cell(r"c\\|d")]]).splitlines()[0] == r"| a\|b | c\\\|d |"


def test_spans_and_lines_become_an_html_table() -> None:
    rows = [[Cell("both <&", colspan=2, header=True)], [Cell("left", rowspan=2), Cell("one\ntwo")], [Cell("last")]]
    text = render_table(rows)
    table = lxml.html.fromstring(text)
    assert table.find(".//th").get("colspan") == "2" and table.find(".//td").get("rowspan") == "2"
    assert [c.text_content() for c in table.iter("th", "td")] == ["both <&", "left", "onetwo", "last"]
    assert "one<br>two" in text and "\n\n" not in text


def test_nothing_gives_nothing() -> None:
    assert render_table([]) == render_table([[]]) == ""


def packed(**members: bytes) -> zipfile.ZipFile:
    """A zip in memory."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return zipfile.ZipFile(buffer)


def test_zip_members_are_read_within_limits() -> None:
    archive = packed(small=b"abc" * 1000, bomb=bytes(40 * 2**20))
    assert read_zip_member(archive, "small") == b"abc" * 1000
    with pytest.raises(Unreadable, match="^too large after unpacking"):
        read_zip_member(archive, "small", max_bytes=2999)
    with pytest.raises(Unreadable, match="^compression ratio too high"):
        read_zip_member(archive, "bomb")
    with pytest.raises(Unreadable, match="^missing part"):
        read_zip_member(archive, "none")


def test_all_members_together_are_limited() -> None:
    archive = packed(one=bytes(1000), two=bytes(1000))
    enough, short = ZipBudget(archive, 2000), ZipBudget(archive, 1999)
    assert enough.read("one") + enough.read("two") == bytes(2000)
    assert short.read("one") == bytes(1000)
    with pytest.raises(Unreadable, match="^too large"):
        short.read("two")


def test_size_claimed_too_small_is_broken_and_not_believed() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(256)) * 64)
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x01\x02") + 24  # the uncompressed size of the central directory
    data[at : at + 4] = (5).to_bytes(4, "little")
    with pytest.raises(Unreadable, match="^broken archive"):
        read_zip_member(zipfile.ZipFile(BytesIO(data)), "a")
