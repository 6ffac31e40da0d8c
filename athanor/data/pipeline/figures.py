"""What steps found, as the report shows it: tables of records, single figures, and drawn histograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from athanor.report.svg import Axes, Series, Text, line_chart, number

#: Chinese names of the columns that most builds have; other names stand as they are.
_ZH = {
    "items": "条目",
    "items hit": "命中条目",
    "items unprotected": "过短而未查",
    "documents": "文档",
    "examples": "示例",
    "group": "组",
    "axis": "维度",
    "kept documents with terms": "保留文档中含词表词者",
    "terms in kept documents": "保留文档中的词表词数",
}


@dataclass
class Table:
    """Rows below ``head``; ``title`` is the way to them in the figures. Long lists stand in ``notes``, by row."""

    title: str
    head: list[Text]
    rows: list[list[str]]
    notes: list[tuple[str, list[str]]] = field(default_factory=list)


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """One table for each group of records (a benchmark a row, a type a row …), one for a step's single figures."""
    return [table for step, value in figures.items() for table in _tables(step, value)]


def _tables(trail: str, value: Any) -> Iterator[Table]:
    records = _records(value)
    if records:
        yield _of_records(trail, records)
        return
    if not isinstance(value, Mapping):
        return
    single = {name: found for name, found in value.items() if _is_plain(found) or _is_plain_list(found)}
    if single:
        yield Table(trail, [("", ""), ("", "")], [[_words(name), _cell(found)] for name, found in single.items()])
    for name, found in value.items():
        if not is_histogram(found):
            yield from _tables(f"{trail}: {_words(name)}", found)


def _records(value: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Records of the same keys, by name or in a list; empty if ``value`` is something else."""
    if isinstance(value, list):
        rows = [("", row) for row in value]
    elif isinstance(value, Mapping):
        rows = [(str(name), row) for name, row in value.items()]
    else:
        return []
    if not all(isinstance(row, Mapping) and row and not is_histogram(row) for _, row in rows):
        return []
    keys = [list(row) for _, row in rows]
    flat = all(_is_plain(cell) or _is_plain_list(cell) for _, row in rows for cell in row.values())
    return rows if flat and all(names == keys[0] for names in keys) else []


def _of_records(trail: str, records: list[tuple[str, Mapping[str, Any]]]) -> Table:
    first = records[0][1]
    plain = [name for name in first if all(_is_plain(row[name]) for _, row in records)]
    named = any(name for name, _ in records)
    words = [_words(name) for name in plain]
    head: list[Text] = [("", "")] * named + [(word, _ZH.get(word, word)) for word in words]
    rows = [[name] * named + [_cell(row[key]) for key in plain] for name, row in records]
    lists = [name for name in first if name not in plain]
    notes = [(name, [str(item) for key in lists for item in row[key]]) for name, row in records]
    return Table(trail, head, rows, [(name, items) for name, items in notes if items])


def histograms(figures: Mapping[str, Any], trail: str = "") -> list[tuple[str, str]]:
    """Every ``{"range": […], "bins": n, "documents": {domain: counts}}`` among the steps' figures, drawn."""
    found: list[tuple[str, str]] = []
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            continue
        path = f"{trail} {name}".strip()
        if is_histogram(value):
            low, high = value["range"]
            width = (high - low) / value["bins"]
            axes = Axes((path, path), (name, name), ("documents", "文档"), zero_y=True, height=220)
            lines = [
                Series((domain, domain), [(low + (i + 0.5) * width, n) for i, n in enumerate(counts)], color)
                for color, (domain, counts) in enumerate(value["documents"].items())
            ]
            found.append((path, line_chart(axes, lines)))
        else:
            found += histograms(value, path)
    return found


def is_histogram(value: Any) -> bool:
    """Whether a figure is one that ``histograms`` draws."""
    return isinstance(value, Mapping) and {"range", "bins", "documents"} <= value.keys()


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_plain(item) for item in value)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "–"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)
