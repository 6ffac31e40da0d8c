"""Irrelevant content: pages that are messages, menus, notices or advertising instead of text.

A line is boilerplate if it is nothing but menu items, or short and holds a formula of notices (``phrases``). Documents
made of such lines are dropped; from the others the lines are taken out. A short page that opens with an error message,
a login wall or a placeholder is dropped for that.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps import phrases
from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.lines import Lines
from athanor.data.steps.rules import Rules, on_subset, outside, share
from athanor.data.steps.words import char_counts
from athanor.recipe.steps.clean import IrrelevantOptions

#: Messages of a page stand at its head.
_HEAD_CHARS = 300


class Irrelevant(Step):
    """Drops pages that are no text, takes boilerplate lines out of the others."""

    name: ClassVar[str] = "irrelevant"
    edits: ClassVar[bool] = True
    fields: ClassVar[dict[str, pa.DataType]] = {
        "chars": pa.int64(),
        "boilerplate_at": pa.list_(pa.int32()),  # numbers of the lines between newlines, from 0
        "boilerplate_lines": pa.float64(),  # share of lines with text
        "boilerplate_chars": pa.float64(),  # share of characters
        "page": pa.string(),  # what its message makes it
        "adverts": pa.float64(),  # phrases in 1,000 characters
        "lorem_ipsum": pa.int64(),
    }

    options: IrrelevantOptions

    def compute_key(self) -> Any:
        """Which documents are measured, and the phrases."""
        return [
            1,
            list(self.options.skip_domains),
            list(phrases.LINES),
            phrases.PAGES,
            phrases.ADVERTS,
        ]

    def annotate(self, docs: Docs) -> Columns:
        """Boilerplate lines, messages and advertising; null in skipped domains."""
        return on_subset(docs, outside(docs, self.options.skip_domains), _measure, self.fields)

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Kinds of pages first, then shares; lines are taken out of what stays."""
        options, rules = self.options, Rules(columns)
        if options.max_page_chars is not None:
            pages = pa.array(columns["page"]).to_pylist()
            brief = rules.figures("chars") <= options.max_page_chars
            told = brief & np.array([page is not None for page in pages], dtype=bool)
            rules.flagged(told, lambda i: str(pages[i]))
        rules.above("lorem_ipsum", options.max_lorem_ipsum, "lorem ipsum", "times")
        if options.max_lines is not None:
            lines = rules.figures("boilerplate_lines")
            several = (
                pc.list_value_length(pa.array(columns["boilerplate_at"])).fill_null(0).to_numpy(zero_copy_only=False)
            )
            menu = (lines > options.max_lines) & (several >= options.min_boilerplate_lines)
            rules.flagged(menu, lambda i: f"mostly boilerplate: {lines[i]:.4g} of lines")
        rules.above("boilerplate_chars", options.max_chars, "mostly boilerplate", "of characters")
        rules.above("adverts", options.max_adverts_per_1000_chars, "advertising", "phrases in 1,000 characters")
        reasons = rules.reasons(len(docs))
        if not options.remove_lines:
            return Verdict(reasons)
        rows = pa.array(columns["boilerplate_at"]).to_pylist()
        texts = [
            _without(text, gone) if gone and reason is None else None
            for text, gone, reason in zip(docs.texts, rows, reasons, strict=True)
        ]
        return Verdict(reasons, texts=texts)


def _measure(docs: Docs) -> Columns:
    lines, text = Lines.of(docs), docs.table.column("text")
    chars = char_counts(lines.docs)
    length = chars["chars"] - chars["space"]
    boilerplate = _boilerplate(lines, length)
    total = lines.sums(length)
    adverts = pc.count_substring_regex(text, phrases.ADVERTS, ignore_case=True).to_numpy(zero_copy_only=False)
    return {
        "chars": total,
        "boilerplate_at": lines.positions(boilerplate),
        "boilerplate_lines": share(lines.sums(boilerplate), lines.sums(length > 0)),
        "boilerplate_chars": share(lines.sums(np.where(boilerplate, length, 0)), total),
        "page": _pages(text),
        "adverts": 1000.0 * share(adverts, np.maximum(total, 200)),
        "lorem_ipsum": pc.count_substring(text, "lorem ipsum", ignore_case=True).cast(pa.int64()),
    }


def _boilerplate(lines: Lines, length: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which lines are menus or notices; the patterns are tried on short lines alone."""
    brief = (length > 0) & (length <= phrases.MAX_LINE_CHARS)
    some = Lines(lines.docs.take(brief), np.array([0, int(brief.sum())], dtype=np.int64))
    found = np.zeros(len(length), dtype=bool)
    found[brief] = np.any([some.matching(pattern, ignore_case=True) for pattern in phrases.LINES], axis=0)
    return found


def _pages(text: pa.Array) -> list[str | None]:
    head = pc.utf8_slice_codeunits(text, 0, _HEAD_CHARS)
    found: list[str | None] = [None] * len(text)
    for kind, pattern in phrases.PAGES.items():
        hits = pc.match_substring_regex(head, pattern, ignore_case=True).to_numpy(zero_copy_only=False)
        for i in np.flatnonzero(hits).tolist():
            found[i] = found[i] or kind
    return found


def _without(text: str, rows: list[int]) -> str:
    lines, gone = text.split("\n"), set(rows)
    return "\n".join(line for i, line in enumerate(lines) if i not in gone).strip("\n")
