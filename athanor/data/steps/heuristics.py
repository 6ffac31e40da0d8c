"""Rules of Gopher (quality) and FineWeb, for languages that separate words by spaces.

Words are what white space separates, lines what ``str.splitlines`` gives (Gopher) or what stands between newlines
(FineWeb): with the same words, datatrove's filters decide the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.rules import Rules, on_subset, outside, share
from athanor.data.steps.words import char_counts, line_counts, spaceless, word_counts
from athanor.recipe.steps.clean import FineWebOptions, GopherOptions


class Gopher(Step):
    """Quality rules of MassiveWeb (Rae et al., arXiv 2112.11446, appendix A1.1)."""

    name: ClassVar[str] = "gopher"
    fields: ClassVar[dict[str, pa.DataType]] = {
        "words": pa.int64(),  # but those of punctuation alone
        "mean_word_chars": pa.float64(),
        "hashes_per_word": pa.float64(),
        "ellipses_per_word": pa.float64(),
        "bullet_lines": pa.float64(),  # share
        "ellipsis_lines": pa.float64(),
        "alpha_words": pa.float64(),
        "stop_words": pa.int64(),
    }

    options: GopherOptions

    def compute_key(self) -> Any:
        """Which documents are measured, and the stop words."""
        return [1, list(self.options.skip_domains), list(self.options.stop_words)]

    def annotate(self, docs: Docs) -> Columns:
        """Figures of all rules; null in skipped domains and languages without spaces."""
        chosen = outside(docs, self.options.skip_domains) & ~spaceless(docs)
        return on_subset(docs, chosen, self._measure, self.fields)

    def _measure(self, docs: Docs) -> Columns:
        words, lines = word_counts(docs, self.options.stop_words), line_counts(docs)
        return {
            "words": words["content_words"],
            "mean_word_chars": share(words["content_chars"], words["content_words"]),
            "hashes_per_word": share(words["hashes"], words["words"]),
            "ellipses_per_word": share(words["ellipses"], words["words"]),
            "bullet_lines": share(lines["bullet_lines"], lines["lines"]),
            "ellipsis_lines": share(lines["ellipsis_lines"], lines["lines"]),
            "alpha_words": share(words["alpha_words"], words["words"]),
            "stop_words": words["stop_words"],
        }

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """The rules in Gopher's order."""
        options, rules = self.options, Rules(columns)
        rules.below("words", options.min_words, "too few words")
        rules.above("words", options.max_words, "too many words")
        rules.below("mean_word_chars", options.min_mean_word_chars, "words too short", "characters on average")
        rules.above("mean_word_chars", options.max_mean_word_chars, "words too long", "characters on average")
        rules.above("hashes_per_word", options.max_symbols_per_word, "too many hash signs", "a word")
        rules.above("ellipses_per_word", options.max_symbols_per_word, "too many ellipses", "a word")
        rules.above("bullet_lines", options.max_bullet_lines, "too many bullet points", "of lines")
        rules.above("ellipsis_lines", options.max_ellipsis_lines, "too many lines end in an ellipsis", "of lines")
        rules.below("alpha_words", options.min_alpha_words, "too few words with letters", "of words")
        rules.below("stop_words", options.min_stop_words, "too few stop words", "different ones")
        return Verdict(rules.reasons(len(docs)))


class FineWeb(Step):
    """Rules on the shape of lines (Penedo et al., arXiv 2406.17557, section 3.6; the thresholds are datatrove's)."""

    name: ClassVar[str] = "fineweb"
    fields: ClassVar[dict[str, pa.DataType]] = {
        "terminal_lines": pa.float64(),  # share of lines with text that end a sentence
        "short_lines": pa.float64(),
        "dup_line_chars": pa.float64(),
        "newlines_per_word": pa.float64(),
    }

    options: FineWebOptions

    def compute_key(self) -> Any:
        """Which documents are measured, and what a short line is."""
        return [1, list(self.options.skip_domains), self.options.short_line_chars]

    def annotate(self, docs: Docs) -> Columns:
        """Figures of all rules; null in skipped domains and languages without spaces."""
        chosen = outside(docs, self.options.skip_domains) & ~spaceless(docs)
        return on_subset(docs, chosen, self._measure, self.fields)

    def _measure(self, docs: Docs) -> Columns:
        chars, words = char_counts(docs)["chars"], word_counts(docs, ())
        lines = line_counts(docs, self.options.short_line_chars)
        return {
            "terminal_lines": share(lines["terminal_lines"], lines["filled_lines"]),
            "short_lines": share(lines["short_lines"], lines["filled_lines"]),
            "dup_line_chars": share(lines["duplicate_filled_chars"], chars - words["newlines"]),
            "newlines_per_word": share(words["newlines"], np.maximum(words["words"], 1)),
        }

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """The rules in FineWeb's order."""
        options, rules = self.options, Rules(columns)
        rules.below("terminal_lines", options.min_terminal_lines, "too few lines end a sentence", "of lines")
        rules.above("short_lines", options.max_short_lines, "too many short lines", "of lines")
        rules.above("dup_line_chars", options.max_dup_line_chars, "repeated lines", "of characters")
        rules.above("newlines_per_word", options.max_newlines_per_word, "a list, not text", "newlines a word")
        return Verdict(rules.reasons(len(docs)))
