"""Charts of Office files as the tables of numbers behind them (DrawingML charts, ECMA-376 part 1, section 21.2)."""

from __future__ import annotations

from typing import Any

from athanor.data.extract.omml import child, local, val
from athanor.data.extract.tables import Cell, render_table

_MAX_POINTS = 2_000


def chart_table(root: Any) -> str:
    """A chart part → its title and a table of categories × series from the cached values; "" where it has none."""
    series = [element for element in root.iter() if local(element) == "ser"]
    labels: list[str] = []
    columns: list[tuple[str, dict[int, str]]] = []
    for element in series:
        categories = _points(child(element, "cat") if child(element, "cat") is not None else child(element, "xVal"))
        values = _points(child(element, "val") if child(element, "val") is not None else child(element, "yVal"))
        if not values or max(values) > _MAX_POINTS:
            continue
        name = " ".join(_points(child(element, "tx")).values())
        columns.append((name, values))
        if len(categories) > len(labels):
            labels = [categories.get(i, "") for i in range(max(categories) + 1)]
    if not columns:
        return ""
    n_rows = max(len(labels), max(max(values) for _, values in columns) + 1)
    rows = [[Cell("", header=True), *(Cell(name, header=True) for name, _ in columns)]]
    for i in range(n_rows):
        label = labels[i] if i < len(labels) else str(i + 1)
        rows.append([Cell(label), *(Cell(values.get(i, "")) for _, values in columns)])
    title = _title(root)
    return (f"{title}\n\n" if title else "") + render_table(rows)


def _points(element: Any) -> dict[int, str]:
    """Index → value of the cached points below an element."""
    found: dict[int, str] = {}
    for point in element.iter() if element is not None else ():
        if local(point) == "pt":
            index = val(point, "idx") or ""
            text = (child(point, "v").text or "") if child(point, "v") is not None else ""
            if index.isdigit():
                found[int(index)] = _number(text.strip())
    return found


def _number(text: str) -> str:
    try:
        return f"{float(text):.12g}" if "." in text or "e" in text.lower() else text
    except ValueError:
        return text


def _title(root: Any) -> str:
    title = child(root, "chart", "title")
    texts = (element.text or "" for element in title.iter() if local(element) == "t") if title is not None else ()
    return " ".join("".join(texts).split())
