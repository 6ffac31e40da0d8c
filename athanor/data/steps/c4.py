"""C4's rules (Raffel et al., arXiv 1910.10683, section 2.2), for spaced and spaceless languages.

What each line breaks is measured once and stored as bits, one byte a line; which of these rules hold is read when the
verdict is made, so that switching one on or off measures nothing anew.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.lines import Lines
from athanor.data.steps.rules import Rules, on_subset, outside
from athanor.data.steps.words import char_counts, spaceless, word_counts
from athanor.recipe.steps.clean import C4Options

#: What a line breaks; ``STRUCTURE``: it is Markdown of a kind the rules were not made for.
SHORT, LONG_WORD, NO_END, JAVASCRIPT, POLICY, STRUCTURE = (1 << i for i in range(6))

_END = r"[.!?\"'。！？”’」』]\s*$"
_LABEL = r"[:：]\W*$"
_ELLIPSIS_END = r"(?:\.\.\.|…)\s*$"
_POLICY = (
    "terms of use|privacy policy|cookie policy|uses? (?:of )?cookies|all rights reserved"
    "|使用条款|服务条款|隐私政策|隐私声明|隐私权政策|使用\\s*cookies?|版权所有|免责声明"
)
#: C4's "line with the word Javascript" means the plea to switch it on; the language is spoken of in good texts.
_JAVASCRIPT = (
    "(?:enable|requires?|turn on|activate|without|disabled?|supports?)\\W+(?:\\w+\\W+){0,3}javascript"
    "|javascript\\W+(?:\\w+\\W+){0,4}(?:enabled|disabled|required|browser|turned off)"
    "|(?:启用|开启|打开|禁用|支持|关闭)[^。]{0,12}javascript|javascript[^。]{0,8}(?:禁用|关闭|未启用)"
)
_FENCE, _DISPLAY = r"^\s*(?:```|~~~)", r"^\s*\$\$"
_STRUCTURE = r"^\s*$|^\s*[-=*_]{3,}\s*$|^\s*(?:#{1,6}\s|[-*+•]\s|\d+[.)、]|\||>|\$|<|!\[|\\)|^(?: {4}|\t)\s*\S"
_SENTENCE = r"[.!?]+[\"'”’)\]]*(?:\s|$)|[。！？]+"
#: Numbers only behind punctuation or Chinese: behind a letter they may index something.
_CITATION = re.compile(
    r"(?<=[.,;!?)\]。，；！？）”\"\u4e00-\u9fff])\[\d{1,3}\](?![(:])|\[(?:edit|citation needed|编辑|来源请求)\](?!\()"
)


class C4(Step):
    """Takes out lines and drops documents by C4's rules."""

    name: ClassVar[str] = "c4"
    edits: ClassVar[bool] = True
    fields: ClassVar[dict[str, pa.DataType]] = {
        "lines": pa.list_(pa.uint8()),  # bits of each line between newlines
        "sentences": pa.list_(pa.uint16()),  # of each line
        "lorem_ipsum": pa.int64(),
        "curly_brackets": pa.int64(),
    }

    options: C4Options

    def compute_key(self) -> Any:
        """Which documents are measured, and the limits of a line."""
        options = self.options
        limits = [options.min_words_per_line, options.min_chars_per_line, options.max_word_chars]
        return [1, list(options.skip_domains), *limits]

    def annotate(self, docs: Docs) -> Columns:
        """What each line breaks; null in skipped domains."""
        return on_subset(docs, outside(docs, self.options.skip_domains), self._measure, self.fields)

    def _measure(self, docs: Docs) -> Columns:
        lines, text = Lines.of(docs), docs.table.column("text")
        return {
            "lines": lines.lists(self._bits(lines, spaceless(docs))),
            "sentences": lines.lists(np.minimum(lines.count(_SENTENCE), 65535).astype(np.uint16)),
            "lorem_ipsum": pc.count_substring(text, "lorem ipsum", ignore_case=True).cast(pa.int64()),
            "curly_brackets": pc.count_substring(text, "{").cast(pa.int64()),
        }

    def _bits(self, lines: Lines, by_char: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        options, words, chars = self.options, word_counts(lines.docs, ()), char_counts(lines.docs)
        dense = lines.of_documents(by_char)
        content = chars["letter"] + chars["digit"]
        unended = ~lines.matching(_END) | lines.matching(_ELLIPSIS_END)
        label = lines.matching(_LABEL)
        brief = (content < options.min_chars_per_line) & unended & ~label
        short = np.where(dense, brief, words["words"] < options.min_words_per_line)
        bits = np.zeros(len(short), dtype=np.uint8)
        structure = lines.inside(lines.matching(_FENCE)) | lines.inside(lines.matching(_DISPLAY))
        for bit, broken in (
            (SHORT, short),
            # where words are not separated, a long line is no long word
            (LONG_WORD, (words["longest_word"] > (options.max_word_chars or 1 << 62)) & ~dense),
            (NO_END, unended),
            (JAVASCRIPT, lines.matching(_JAVASCRIPT, ignore_case=True)),
            (POLICY, lines.matching(_POLICY, ignore_case=True)),
            (STRUCTURE, structure | lines.matching(_STRUCTURE)),
        ):
            bits[broken] |= bit
        return bits

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Rules on the document, then on its lines, then on what is left."""
        options, rules = self.options, Rules(columns)
        rules.above("lorem_ipsum", 0 if options.lorem_ipsum else None, "lorem ipsum", "times")
        rules.above("curly_brackets", 0 if options.curly_bracket else None, "curly brackets")
        keep, offsets, sentences = self._kept(columns)
        if options.min_sentences is not None:
            few = sentences < options.min_sentences
            rules.flagged(few, lambda i: f"too few sentences: {sentences[i]:.0f}")
        reasons = rules.reasons(len(docs))
        starts, stops = offsets[:-1].tolist(), offsets[1:].tolist()
        texts = [
            self._edited(text, keep[start:stop]) if reason is None and stop > start else None
            for text, start, stop, reason in zip(docs.texts, starts, stops, reasons, strict=True)
        ]
        return Verdict(reasons, texts=texts)

    def _kept(self, columns: Columns) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(which lines stay, where each document's begin among them, sentences in them: NaN if not measured)."""
        bits, sentences = pa.array(columns["lines"]), pa.array(columns["sentences"])
        keep = self._keeps(bits.flatten().to_numpy())
        lengths = pc.list_value_length(bits).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        total = np.concatenate([[0], np.cumsum(sentences.flatten().to_numpy() * keep, dtype=np.int64)])
        left = (total[offsets[1:]] - total[offsets[:-1]]).astype(np.float64)
        left[bits.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return keep, offsets, left

    def _keeps(self, bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        options = self.options
        rules = SHORT | LONG_WORD
        rules |= NO_END if options.terminal_punctuation else 0
        rules |= JAVASCRIPT if options.javascript else 0
        rules |= POLICY if options.policy else 0
        keep = (bits & rules) == 0
        if options.keep_structure:
            keep |= ((bits & STRUCTURE) != 0) & ((bits & (JAVASCRIPT | POLICY) & rules) == 0)
        return np.asarray(keep, dtype=bool)

    def _edited(self, text: str, keep: npt.NDArray[np.bool_]) -> str | None:
        """The lines that stay, without citation marks; None where nothing changes."""
        new = text
        if not keep.all():
            lines = text.split("\n")
            new = "\n".join(lines[i] for i in np.flatnonzero(keep).tolist()).strip("\n")
        if self.options.citations and "[" in new:
            new = _CITATION.sub("", new)
        return None if new == text else new
