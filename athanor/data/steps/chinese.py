"""The shape of Chinese text: what Gopher, C4 and FineWeb ask of English, by characters and Chinese punctuation.

Length, share of Chinese characters and mean line are ChineseWebText's (Chen et al., arXiv 2311.01149, section 3.2); the
rest are analogues of the English rules, with thresholds set so that clean Chinese prose, technical documents and
classical texts pass (docs/data-cleaning.md has the figures). Repeated sequences are ``repetition``'s, boilerplate is
``irrelevant``'s.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.prose import prose
from athanor.data.steps.rules import Mask, Rules, on_subset, outside, share
from athanor.data.steps.words import char_counts, line_counts
from athanor.recipe.steps.clean import ChineseOptions

#: Ends of sentences and clauses, full-width and (between or behind Chinese) half-width.
_CLAUSE_END = r"[。！？；，、：…!?;,.\n]+"
#: Ends of lines that end a sentence or introduce what follows; closing quotes and marks of emphasis may come behind.
_LINE_END = r"[。！？!?.…；;：:][”’」』）)》\"'*]*[ \t]*(?:\n|\z)"
#: Unknown language counts as Chinese from this share of Han in letters, if kana are next to none.
_MIN_HAN, _MAX_KANA = 0.3, 0.05


class Chinese(Step):
    """Drops Chinese documents that are lists, keywords, numbers or debris instead of text."""

    name: ClassVar[str] = "chinese"
    fields: ClassVar[dict[str, pa.DataType]] = {
        "chars": pa.int64(),  # but white space
        "han": pa.float64(),  # share of them
        "symbols": pa.float64(),
        "digits": pa.float64(),
        "mean_line_chars": pa.float64(),
        "terminal_lines": pa.float64(),
        "short_lines": pa.float64(),
        "bullet_lines": pa.float64(),
        "ellipsis_lines": pa.float64(),
        "mean_clause_chars": pa.float64(),
    }

    options: ChineseOptions

    def compute_key(self) -> Any:
        """Which documents are measured, and what a short line is."""
        return [1, list(self.options.skip_domains), self.options.short_line_chars]

    def annotate(self, docs: Docs) -> Columns:
        """Figures of Chinese documents, null for others."""
        chosen = outside(docs, self.options.skip_domains) & is_chinese(docs)
        return on_subset(docs, chosen, self._measure, self.fields)

    def _measure(self, docs: Docs) -> Columns:
        docs = prose(docs)  # what of a technical document is Chinese is judged by its prose
        counts, lines = char_counts(docs), line_counts(docs, self.options.short_line_chars)
        chars = counts["chars"] - counts["space"]
        clauses, ended = (
            pc.count_substring_regex(docs.table.column("text"), pattern).to_numpy(zero_copy_only=False)
            for pattern in (_CLAUSE_END, _LINE_END)
        )
        return {
            "chars": chars,
            "han": share(counts["han"], chars),
            "symbols": share(counts["symbol"], chars),
            "digits": share(counts["digit"], chars),
            "mean_line_chars": share(chars, lines["filled_lines"]),
            "terminal_lines": share(ended, lines["filled_lines"]),
            "short_lines": share(lines["short_lines"], lines["filled_lines"]),
            "bullet_lines": share(lines["bullet_lines"], lines["filled_lines"]),
            "ellipsis_lines": share(lines["ellipsis_lines"], lines["filled_lines"]),
            "mean_clause_chars": share(chars, np.maximum(clauses, 1)),
        }

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """The rules, each with its own reason."""
        options, rules = self.options, Rules(columns)
        rules.below("chars", options.min_chars, "too few characters")
        rules.above("chars", options.max_chars, "too many characters")
        rules.below("han", options.min_han, "too little Chinese", "of characters")
        rules.below("mean_line_chars", options.min_mean_line_chars, "lines too short", "characters on average")
        rules.below("terminal_lines", options.min_terminal_lines, "too few lines end a sentence", "of lines")
        rules.above("short_lines", options.max_short_lines, "too many short lines", "of lines")
        rules.above("bullet_lines", options.max_bullet_lines, "too many bullet points", "of lines")
        rules.above("ellipsis_lines", options.max_ellipsis_lines, "too many lines end in an ellipsis", "of lines")
        rules.below("symbols", options.min_symbols, "too little punctuation", "of characters")
        rules.above("symbols", options.max_symbols, "too many symbols", "of characters")
        rules.above("digits", options.max_digits, "too many digits", "of characters")
        rules.above("mean_clause_chars", options.max_mean_clause_chars, "clauses too long", "characters on average")
        return Verdict(rules.reasons(len(docs)))


def is_chinese(docs: Docs) -> Mask:
    """Which documents are Chinese: by their language, or where that is unknown by their letters."""
    languages = docs.column("language")
    found = np.array([language in ("zh", "yue", "wuu") for language in languages], dtype=bool)
    unknown = np.array([language in (None, "", "und") for language in languages], dtype=bool)
    if unknown.any():
        counts = char_counts(docs.take(unknown))
        dense = counts["han"] + counts["kana"]
        found[unknown] = (counts["han"] > _MIN_HAN * np.maximum(counts["letter"], 1)) & (
            counts["kana"] <= _MAX_KANA * dense
        )
    return found
