r"""``tabular`` and its kin → cells: ``\multicolumn``, ``\multirow``, rules, tables inside cells."""

from __future__ import annotations

import re
from collections.abc import Callable

from athanor.data.extract.latex_scan import argument, optional
from athanor.data.extract.tables import Cell

_RULES = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|cmidrule|cline|addlinespace|specialrule|hhline|arrayrulecolor|rowcolor|cellcolor|"
    r"noalign|endhead|endfirsthead|endfoot|endlastfoot|morecmidrules|Xhline|thickhline|rowcolors|columncolor|tabularnewline(?=\s*\Z))"
    r"\*?(?![A-Za-z])(?:\s*(?:\([a-z{}\d.\s]*\)|\[[^\]]*\]|\{[^{}]*\}))*"
)
_TOKEN = re.compile(r"\\begin\s*\{|\\end\s*\{|\\\\\s*\*?(?:\[[^\]\n]*\])?|\\tabularnewline(?![A-Za-z])|\\.|[{}&]", re.S)


_PARTS = re.compile(r"\\(endfirsthead|endhead|endfoot|endlastfoot)(?![A-Za-z])")


def once_headed(body: str) -> str:
    r"""A ``longtable`` with the head of its first page alone, and without the foot of every page but the last."""
    marks = list(_PARTS.finditer(body))
    if not marks:
        return body
    parts: dict[str, str] = {}
    start = 0
    for mark in marks:
        parts[mark[1]] = body[start : mark.start()]
        start = mark.end()
    return parts.get("endfirsthead", parts.get("endhead", "")) + body[start:] + parts.get("endlastfoot", "")


def split_table(body: str) -> list[list[str]]:
    r"""Rows of cell sources, cut at ``\\`` and ``&`` outside braces and inner environments."""
    rows: list[list[str]] = [[]]
    braces = inner = start = 0
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token == "{":
            braces += 1
        elif token == "}":
            braces = max(0, braces - 1)
        elif token.startswith("\\begin"):
            inner, braces = inner + 1, braces + 1
        elif token.startswith("\\end"):
            inner, braces = max(0, inner - 1), braces + 1
        elif not braces and not inner and (token == "&" or token.startswith(("\\\\", "\\tabularnewline"))):
            rows[-1].append(body[start : match.start()])
            start = match.end()
            if token != "&":
                rows.append([])
    rows[-1].append(body[start:])
    cleaned = [[_RULES.sub(" ", cell).strip() for cell in row] for row in rows]
    return [row for row in cleaned if any(row)]


def table_rows(body: str, convert: Callable[[str], str]) -> list[list[Cell]]:
    """Cells of a table; ``convert`` reads a cell's source. A cell that a ``multirow`` above covers is left out."""
    rows: list[list[Cell]] = []
    covered: dict[int, int] = {}
    for sources in split_table(body):
        row: list[Cell] = []
        column = 0
        below: dict[int, int] = {}
        for source in sources:
            text, colspan, rowspan = _cell(source)
            if not text and covered.get(column, 0) > 0:
                column += colspan
                continue
            value = " ".join(convert(text).split())
            row.append(Cell(value, colspan, rowspan))
            for c in range(column, column + colspan):
                below[c] = rowspan
            column += colspan
        covered = {c: n - 1 for c, n in {**covered, **below}.items()}
        rows.append(row)
    return _fitted(rows)


def _fitted(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Row spans cut at the end of the table."""
    out = []
    for i, row in enumerate(rows):
        out.append([Cell(c.text, c.colspan, min(c.rowspan, len(rows) - i)) for c in row])
    return out


def _cell(source: str) -> tuple[str, int, int]:
    r"""(source, columns, rows) of a cell, ``\multicolumn`` and ``\multirow`` taken apart."""
    colspan = rowspan = 1
    for _ in range(3):
        source = source.strip()
        if source.startswith("\\multicolumn"):
            found = _arguments(source, len("\\multicolumn"), 3)
            if found is None:
                break
            colspan = _count(found[0][0])
            source = found[0][2] + source[found[1] :]
        elif source.startswith("\\multirow"):
            position = len("\\multirow")
            while (skipped := optional(source, position)) is not None:
                position = skipped[1]
            found = _multirow(source, position)
            if found is None:
                break
            rowspan = _count(found[0][0])
            source = found[0][2] + source[found[1] :]
        else:
            break
    return source, colspan, rowspan


def _multirow(source: str, position: int) -> tuple[list[str], int] | None:
    r"""Arguments of ``\multirow``, whose width may stand without braces (``*``) and be followed by an option."""
    rows = argument(source, position)
    if rows is None:
        return None
    star = re.compile(r"\s*(?:\[[^\]]*\])?\s*(\*)").match(source, rows[1])
    width = (star[1], star.end()) if star else argument(source, rows[1])
    if width is None:
        return None
    skipped = optional(source, width[1])
    text = argument(source, skipped[1] if skipped else width[1])
    return ([rows[0], width[0], text[0]], text[1]) if text else None


def _arguments(source: str, position: int, count: int) -> tuple[list[str], int] | None:
    values = []
    for _ in range(count):
        found = argument(source, position)
        if found is None:
            return None
        values.append(found[0])
        position = found[1]
    return values, position


def _count(text: str) -> int:
    digits = text.strip().lstrip("-")
    return max(1, min(int(digits), 1000)) if digits.isdigit() else 1
