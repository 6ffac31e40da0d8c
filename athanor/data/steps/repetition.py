"""Gopher's repetition rules (Rae et al., arXiv 2112.11446, table A1), by words or, in languages without spaces, by
characters.

Shares are of the document's characters. A repeated n-gram counts from its second time on, each character once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.rules import Rules, on_subset, outside, share
from athanor.data.steps.words import char_counts, repetition, spaceless
from athanor.recipe.steps.clean import RepetitionOptions


class Repetition(Step):
    """Drops documents that repeat lines, paragraphs or n-grams."""

    name: ClassVar[str] = "repetition"

    options: RepetitionOptions

    def __init__(self, options: RepetitionOptions) -> None:
        super().__init__(options)
        self._grams = {
            "words": (sorted(options.top_words), sorted(options.dup_words)),
            "chars": (sorted(options.top_chars), sorted(options.dup_chars)),
        }
        self._shares = ("dup_lines", "dup_paragraphs", "dup_line_chars", "dup_paragraph_chars")

    @property
    def fields(self) -> dict[str, pa.DataType]:  # type: ignore[override]
        """Shares by rule; those of n-grams are named ``top_words_2``, ``dup_chars_13``, null for the other unit."""
        grams = [
            f"{kind}_{unit}_{n}"
            for unit, sizes in self._grams.items()
            for kind, ns in zip(("top", "dup"), sizes, strict=True)
            for n in ns
        ]
        return {name: pa.float64() for name in (*self._shares, *grams)}

    def compute_key(self) -> Any:
        """Which documents are measured, and the sizes of n-grams."""
        return [1, list(self.options.skip_domains), list(self.options.skip_sources or ()), self._grams]

    def annotate(self, docs: Docs) -> Columns:
        """All shares; null in skipped domains and sources."""
        chosen = outside(docs, self.options.skip_domains) & outside(docs, self.options.skip_sources or (), "source")
        return on_subset(docs, chosen, self._measure, self.fields)

    def _measure(self, docs: Docs) -> Columns:
        by_char = spaceless(docs)
        found: dict[str, Any] = {}
        for unit, chosen in (("words", ~by_char), ("chars", by_char)):
            top, dup = self._grams[unit]
            grams = [f"{kind}_{unit}_{n}" for kind, ns in (("top", top), ("dup", dup)) for n in ns]
            measure = partial(self._unit, unit=unit)
            fields = {name: pa.float64() for name in (*self._shares, *grams)}
            measured = on_subset(docs, chosen, measure, fields)
            for name in self._shares:
                new = measured.pop(name)
                found[name] = new if name not in found else pc.coalesce(found[name], new)
            found |= measured
        return found

    def _unit(self, docs: Docs, unit: str) -> Columns:
        top, dup = self._grams[unit]
        counts = repetition(docs, np.full(len(docs), unit == "chars"), top, dup)
        chars = char_counts(docs)["chars"]
        return {
            "dup_lines": share(counts["dup_lines"], counts["n_lines"]),
            "dup_paragraphs": share(counts["dup_paragraphs"], counts["n_paragraphs"]),
            "dup_line_chars": share(counts["dup_chars_of_lines"], chars),
            "dup_paragraph_chars": share(counts["dup_chars_of_paragraphs"], chars),
            **{f"top_{unit}_{n}": share(counts[f"top_{n}"], counts["ngram_chars"]) for n in top},
            **{f"dup_{unit}_{n}": share(counts[f"dup_{n}"], counts["ngram_chars"]) for n in dup},
        }

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Paragraphs, lines, frequent n-grams, repeated n-grams."""
        options, rules = self.options, Rules(columns)
        rules.above("dup_paragraphs", options.max_dup_paragraphs, "repeated paragraphs", "of paragraphs")
        rules.above("dup_paragraph_chars", options.max_dup_paragraph_chars, "repeated paragraphs", "of characters")
        rules.above("dup_lines", options.max_dup_lines, "repeated lines", "of lines")
        rules.above("dup_line_chars", options.max_dup_line_chars, "repeated lines", "of characters")
        for unit, top, dup in (
            ("words", options.top_words, options.dup_words),
            ("chars", options.top_chars, options.dup_chars),
        ):
            what = "words" if unit == "words" else "characters"
            for n in sorted(top):
                rules.above(f"top_{unit}_{n}", top[n], f"one sequence of {n} {what} over and over", "of characters")
            for n in sorted(dup):
                rules.above(f"dup_{unit}_{n}", dup[n], f"repeated sequences of {n} {what}", "of characters")
        return Verdict(rules.reasons(len(docs)))
