"""Spreadsheets (xlsx, xlsm, xls) → Markdown: each visible sheet a heading, each block of filled cells a table.

Values are the cached ones, as the sheet shows them: formulas are not computed. Reading is done by calamine (MIT).
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from athanor.data.extract.limits import ZipBudget
from athanor.data.extract.tables import Cell, render_table
from athanor.data.extract.types import Extracted, Unreadable

#: calamine keeps a sheet as one rectangle, so two cells far apart would cost everything between them.
MAX_CELLS = 10_000_000
_VALUE_CELL = re.compile(rb'<(?:\w+:)?c [^>]*?\br="([A-Z]{1,3})(\d{1,7})"[^>]*[^/]>')
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

#: (first row, first column, last row, last column), both ends included.
Box = tuple[int, int, int, int]
Grid = list[list[str]]


def extract_xlsx(raw: bytes) -> Extracted:
    """One workbook. ``Unreadable`` where it is broken, encrypted, a bomb, or has no filled cell."""
    import python_calamine

    if not raw.startswith(_OLE):
        raw = _checked_package(raw)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(raw))
        sheets = [item.name for item in book.sheets_metadata if _is_shown(item)]
        parts, n_tables = [], 0
        for name in sheets:
            sheet = book.get_sheet_by_name(name)
            merged = [(*first, *last) for first, last in sheet.merged_cell_ranges or ()]
            found = list(_sheet_parts(sheet.to_python(skip_empty_area=True), sheet.start or (0, 0), merged))
            n_tables += sum(is_table for _, is_table in found)
            if found:
                parts += [f"## {name}", *(text for text, _ in found)]
    except python_calamine.PasswordError:
        raise Unreadable("encrypted: the workbook has a password") from None
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise Unreadable(f"broken xlsx: {error}") from None
    if not parts:
        raise Unreadable("empty: no filled cell in the workbook")
    return Extracted("\n\n".join(parts) + "\n", {"format": "xlsx", "sheets": len(sheets), "tables": n_tables})


def _is_shown(item: Any) -> bool:
    return str(item.visible).endswith("Visible") and str(item.typ).endswith("WorkSheet")


def _checked_package(raw: bytes) -> bytes:
    """The workbook, its sheets of cells far apart drawn together.

    ``Unreadable`` for zip bombs and for sheets that stay too large, before the library unpacks anything.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Unreadable(f"broken xlsx: {error}") from None
    budget = ZipBudget(archive)
    changed: dict[str, bytes] = {}
    for name in archive.namelist():
        if not name.endswith((".xml", ".bin", ".rels")):
            continue
        part = budget.read(name)
        if "worksheets/" in name and _extent(part) > MAX_CELLS:
            changed[name] = _drawn_together(part)
            if (n_cells := _extent(changed[name])) > MAX_CELLS:
                raise Unreadable(f"sheet too large: {name} spans {n_cells} cells")
    return _repacked(archive, budget, changed) if changed else raw


def _repacked(archive: zipfile.ZipFile, budget: ZipBudget, changed: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name in archive.namelist():
            if name in changed or name.endswith((".xml", ".bin", ".rels")):
                packed.writestr(name, changed.get(name) or budget.read(name))
    return out.getvalue()


def _drawn_together(part: bytes) -> bytes:
    """A sheet with each run of empty rows and of empty columns as one: a stray cell far away costs nothing then."""
    found = [(int(match[2]), _column(match[1])) for match in _VALUE_CELL.finditer(part)]
    rows, columns = (_closer(sorted({place[axis] for place in found})) for axis in (0, 1))

    def moved(letters: bytes, row: bytes) -> bytes | None:
        new_row, new_column = rows.get(int(row)), columns.get(_column(letters))
        return None if new_row is None or new_column is None else _letters(new_column) + b"%d" % new_row

    def cell(match: re.Match[bytes]) -> bytes:
        place = moved(match[2], match[3])
        return b"" if place is None else match[1] + place + match[4]

    def row(match: re.Match[bytes]) -> bytes:
        number = rows.get(int(match[2]))
        return match[0] if number is None else match[1] + b"%d" % number + match[3]

    def merged(match: re.Match[bytes]) -> bytes:
        ends = moved(match[2], match[3]), moved(match[4], match[5])
        return match[1] + ends[0] + b":" + ends[1] + b'"' if ends[0] and ends[1] else b""

    part = re.sub(rb"<(?:\w+:)?dimension [^>]*/>", b"", part)
    part = re.sub(rb"<(?:\w+:)?c [^>]*?/>", b"", part)
    part = re.sub(rb'(<(?:\w+:)?c [^>]*?\br=")([A-Z]{1,3})(\d{1,7})(")', cell, part)
    part = re.sub(rb'(<(?:\w+:)?row [^>]*?\br=")(\d{1,7})(")', row, part)
    return re.sub(rb'(<(?:\w+:)?mergeCell [^>]*?\bref=")([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"', merged, part)


def _closer(used: list[int]) -> dict[int, int]:
    """Used rows or columns → their new numbers, with one empty one where there were several."""
    out: dict[int, int] = {}
    for before, number in zip([0, *used], used, strict=False):
        out[number] = out.get(before, 0) + min(number - before, 2)
    return out


def _letters(number: int) -> bytes:
    out = b""
    while number:
        number, letter = divmod(number - 1, 26)
        out = bytes([65 + letter]) + out
    return out


def _extent(part: bytes) -> int:
    """Cells in the rectangle around all cells that hold something."""
    top = bottom = 0
    columns: set[bytes] = set()
    for match in _VALUE_CELL.finditer(part):
        row = int(match[2])
        top, bottom = min(top or row, row), max(bottom, row)
        columns.add(match[1])
    if not columns:
        return 0
    numbers = [_column(letters) for letters in columns]
    return (bottom - top + 1) * (max(numbers) - min(numbers) + 1)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _sheet_parts(values: list[list[Any]], start: tuple[int, int], merged: list[Box]) -> Iterator[tuple[str, bool]]:
    """(Markdown, whether it is a table) of each block of one sheet, from top left to bottom right."""
    grid = [[_shown(value) for value in row] for row in values]
    if not grid:
        return
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    covered = [[bool(text) for text in row] for row in grid]
    height, width = len(grid), len(grid[0])
    for top, left, bottom, right in merged:
        top, left, bottom, right = top - start[0], left - start[1], bottom - start[0], right - start[1]
        if not (0 <= top < height and 0 <= left < width and grid[top][left]):
            continue
        bottom, right = min(bottom, height - 1), min(right, width - 1)
        spans[top, left] = (bottom - top + 1, right - left + 1)
        for row in covered[top : bottom + 1]:
            row[left : right + 1] = [True] * (right - left + 1)
    for box in _blocks(covered, (0, 0, height - 1, width - 1)):
        yield from _block_parts(grid, covered, spans, box)


def _blocks(filled: list[list[bool]], box: Box) -> Iterator[Box]:
    """Cut at empty rows, then at empty columns, until nothing more comes apart.

    Columns come apart only into tables of two columns and more: in a form, a label and its value often stand with an
    empty column between them.
    """
    top, left, bottom, right = box
    rows = _runs([any(row[left : right + 1]) for row in filled[top : bottom + 1]])
    if len(rows) == 1:
        first, last = top + rows[0][0], top + rows[0][1]
        band = [row[left : right + 1] for row in filled[first : last + 1]]
        columns = _runs([any(column) for column in zip(*band, strict=True)])
        cut = [(first, left + begin, last, left + end) for begin, end in columns]
        if len(cut) == 1 or any(begin == end for begin, end in columns):
            yield first, left + columns[0][0], last, left + columns[-1][1]
            return
    else:
        cut = [(top + begin, left, top + end, right) for begin, end in rows]
    for part in cut:
        yield from _blocks(filled, part)


def _runs(flags: list[bool]) -> list[tuple[int, int]]:
    """(first, last) of each run of true values."""
    found: list[tuple[int, int]] = []
    for i, flag in enumerate(flags):
        if flag and found and found[-1][1] == i - 1:
            found[-1] = (found[-1][0], i)
        elif flag:
            found.append((i, i))
    return found


def _block_parts(
    grid: Grid, covered: list[list[bool]], spans: dict[tuple[int, int], tuple[int, int]], box: Box
) -> Iterator[tuple[str, bool]]:
    """A block's titles (rows of one cell over the whole width) as text, and the rest as a table."""
    top, left, bottom, right = box
    width = right - left + 1
    if width == 1:
        yield "\n".join(row[left] for row in grid[top : bottom + 1] if row[left]), False
        return
    while top <= bottom and spans.get((top, left), (1, 1)) == (1, width):
        yield grid[top][left], False
        top += 1
    used = [c for c in range(left, right + 1) if any(row[c] for row in covered[top : bottom + 1])]
    rows: list[list[Cell]] = []
    for r in range(top, bottom + 1):
        row = []
        for c in used:
            rowspan, colspan = spans.get((r, c), (1, 1))
            # A covered cell without a text of its own belongs to the merged cell that began before it.
            if grid[r][c] or not covered[r][c]:
                row.append(Cell(grid[r][c], colspan, rowspan))
        rows.append(row)
    if any(cell.text for row in rows for cell in row):
        yield render_table(rows), True


def _shown(value: Any) -> str:
    """A value as the sheet shows it: 3.0 is 3, a date at midnight is a date, a duration is in hours."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return "" if value is None else str(value)
