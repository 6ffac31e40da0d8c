"""Tables as text: a Markdown pipe table where that can say everything, a compact HTML table where it cannot."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text (inline Markdown and ``$…$`` formulas allowed) and how many columns and rows it covers."""

    text: str
    colspan: int = 1
    rowspan: int = 1
    header: bool = False


def render_table(rows: list[list[Cell]]) -> str:
    """A table of ``rows`` (top to bottom, cells left to right) as Markdown; ``""`` where there is no cell at all.

    Pipe table when every cell covers one column and one row and holds one line; shorter rows are filled up with empty
    cells. Without a header row on top the header line stays empty, since the first row is data then. Anything else
    (spans, several lines in a cell) becomes ``<table><tr><td colspan=…>…``. No cell is ever lost.
    """
    rows = [row for row in rows if row]
    if not rows:
        return ""
    spans = any(cell.colspan > 1 or cell.rowspan > 1 for row in rows for cell in row)
    lines = any("\n" in cell.text.strip() for row in rows for cell in row)
    return _as_html(rows) if spans or lines else _as_pipes(rows)


def _as_pipes(rows: list[list[Cell]]) -> str:
    width = max(len(row) for row in rows)
    lines = [_pipe_line([cell.text for cell in row], width) for row in rows]
    # A first row of data must not be promoted to column names, except where nothing says which rows are headers:
    # most tables on the web and in office files mark none, and their first row is the header in practice.
    marked = any(cell.header for row in rows for cell in row)
    if marked and not any(cell.header for cell in rows[0]):
        lines.insert(0, _pipe_line([], width))
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines)


def _pipe_line(texts: list[str], width: int) -> str:
    padded = [*texts, *[""] * (width - len(texts))]
    return "| " + " | ".join(_escaped(text) for text in padded) + " |"


def _escaped(text: str) -> str:
    r"""One line, with every bare ``|`` written ``\|`` (a pipe that is escaped already stays as it is)."""
    text = " ".join(text.split())
    if "|" not in text:
        return text
    out, slashes = [], 0
    for char in text:
        if char == "|" and slashes % 2 == 0:
            out.append("\\")
        slashes = slashes + 1 if char == "\\" else 0
        out.append(char)
    return "".join(out)


def _as_html(rows: list[list[Cell]]) -> str:
    return "<table>\n" + "\n".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows) + "\n</table>"


def _html_cell(cell: Cell) -> str:
    tag = "th" if cell.header else "td"
    spans = "".join(
        f' {name}="{value}"' for name, value in (("colspan", cell.colspan), ("rowspan", cell.rowspan)) if value > 1
    )
    text = "<br>".join(html.escape(line.strip(), quote=False) for line in cell.text.strip().splitlines())
    return f"<{tag}{spans}>{text}</{tag}>"
