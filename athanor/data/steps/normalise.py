"""Encoding repair and format normalisation that changes nothing it need not change.

Compatibility normalisation (NFKC) and typographic "fixes" are never applied: ②, ﬁ, full-width punctuation, curly quotes
and formulas come out as they went in. Most documents need nothing, and what tells so is a handful of searches at the
speed of memory; only where one of them hits is a repair tried.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.code import is_code, looks_like_code
from athanor.data.steps.mojibake import repaired
from athanor.data.steps.rules import Rules
from athanor.data.steps.words import char_counts
from athanor.recipe.steps.clean import NormaliseOptions

#: Invisible in any text, code too: controls, byte-order marks, bidirectional embeddings, overrides and isolates (which
#: make code read otherwise than it runs, CVE-2021-42574).
_HIDDEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ufffe\uffff]")
#: Invisible in prose: zero-width space, word joiner, invisible operators, soft hyphen, object replacement, C1 controls.
_INVISIBLE = re.compile("[\u200b\u2060-\u2064\u00ad\ufffc\x80-\x9f]")
#: Joiners and direction marks that some scripts and emoji need; where neither neighbour is one of these they are noise.
_JOINERS = re.compile("[\u200c-\u200f]")
_NEEDS_JOINER = re.compile(
    "[\u0590-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]"
)
#: Tag characters spell invisible text; only flags (a black flag, then tags) use them.
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007f]+)|[\U000e0000-\U000e007f]+")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos|nbsp|[lr][sd]quo|[mn]dash|hellip);")
_FENCED = re.compile(r"^( {0,3}(?:```+|~~~+))[^\n]*\n.*?(?:^\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
#: What no one meant: U+FFFD, and its bytes read as GBK.
_LOST = re.compile("\ufffd|锟斤拷|锟斤|斤拷")
_MAX_ROUNDS = 8


def scalar_text(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, as U+FFFD; pairs of them as the character they stand for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def normalised(text: str, options: NormaliseOptions, *, code: bool = False, usual: bool = False) -> tuple[str, int]:
    """The text in its normal form, and how many characters a repair of the encoding replaced. Idempotent.

    ``code``: only line ends and hidden characters are touched. ``usual``: the text has no character of the class
    "unusual" (athanor.data.steps.chars), so that only blanks and entities are looked at.
    """
    text, n_repaired = (text if usual else scalar_text(text)), 0
    blanks = _Blanks(options)
    for _ in range(_MAX_ROUNDS):  # one repair can uncover another; each takes something away, so this ends
        new, n = (text, 0) if usual else _characters(text, options, code)
        n_repaired += n
        if code:
            return new, 0
        if options.entities and "&" in new:
            decoded = _ENTITY.sub(lambda match: html.unescape(match[0]), new)
            usual, new = usual and decoded == new, decoded
        new = blanks(new)
        if new == text:
            break
        text = new
    return text, n_repaired


def _characters(text: str, options: NormaliseOptions, code: bool) -> tuple[str, int]:
    n_repaired = 0
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _HIDDEN.search(text):
        text = _HIDDEN.sub("", text)
    if code:
        return text, 0
    if not text.isascii():
        if options.repair:
            text, n_repaired = repaired(text)
        text = _visible(text)
        if options.spaces and _SPACES.search(text):
            text = _SPACES.sub(" ", text)
        if options.nfc and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if "\x0b" in text or "\x0c" in text:
        text = text.replace("\x0c", "\n").replace("\x0b", "\n")
    return text, n_repaired


def _visible(text: str) -> str:
    """Without characters that show nothing, line and paragraph separators as newlines."""
    if "\u2028" in text or "\u2029" in text:
        text = text.replace("\u2028", "\n").replace("\u2029", "\n\n")
    if _INVISIBLE.search(text):
        text = _INVISIBLE.sub(_shown, text)
    if _JOINERS.search(text):
        text = _JOINERS.sub(_joined, text)
    if _TAGS.search(text):
        text = _TAGS.sub(lambda match: match[1] or "", text)
    return text


def _shown(match: re.Match[str]) -> str:
    """C1 controls are Windows-1252 that was taken for Latin-1 (so HTML 5 reads them too); the rest shows nothing."""
    char = match[0]
    return char.encode("latin-1").decode("cp1252", "ignore") if char <= "\x9f" else ""


def _joined(match: re.Match[str]) -> str:
    text, at = match.string, match.start()
    around = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return match[0] if _NEEDS_JOINER.search(around) else ""


class _Blanks:
    """Trailing blanks and runs of blank lines; code alone, fenced or as the whole text. For one document."""

    def __init__(self, options: NormaliseOptions) -> None:
        self._trailing, self._most = options.trailing_blanks, options.max_blank_lines
        self._code: bool | None = None

    def __call__(self, text: str) -> str:
        trailing = self._trailing and (" \n" in text or "\t\n" in text or text.endswith((" ", "\t")))
        gaps = self._most is not None and "\n" * (self._most + 2) in text
        if not (trailing or gaps) or self._is_code(text):
            return text
        if trailing:
            text = _outside_fences(text, _without_trailing)
        if self._most is not None and "\n" * (self._most + 2) in text:
            gap, most = _long_gap(self._most), "\n" * (self._most + 1)
            text = _outside_fences(text, lambda part: gap.sub(most, part))
        return text

    def _is_code(self, text: str) -> bool:
        if self._code is None:
            self._code = looks_like_code(text)
        return self._code


def _without_trailing(text: str) -> str:
    """Lines without blanks at their ends, but for the two of a line break in Markdown: text before them, and a line
    with text behind."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.endswith((" ", "\t")):
            bare = line.rstrip(" \t")
            follows = i + 1 < len(lines) and lines[i + 1].strip(" \t")
            breaks = bare and follows and len(line) - len(bare) >= 2 and "\t" not in line[len(bare) :]
            lines[i] = bare + ("  " if breaks else "")
    return "\n".join(lines)


@cache
def _long_gap(most: int) -> re.Pattern[str]:
    return re.compile(f"\n{{{most + 2},}}")


def _outside_fences(text: str, edit: Callable[[str], str]) -> str:
    if "```" not in text and "~~~" not in text:
        return edit(text)
    parts, at = [], 0
    for fence in _FENCED.finditer(text):
        parts += [edit(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, edit(text[at:])])


class Normalise(Step):
    """Encoding repair and format normalisation; drops what is garbled beyond repair."""

    name: ClassVar[str] = "normalise"
    edits: ClassVar[bool] = True
    fields: ClassVar[dict[str, pa.DataType]] = {
        "text": pa.large_string(),  # null: unchanged
        "repaired_chars": pa.int64(),
        "removed_chars": pa.int64(),
        "garbled_chars": pa.int64(),
        "private_chars": pa.int64(),
        "chars": pa.int64(),
    }

    options: NormaliseOptions

    def compute_key(self) -> Any:
        """All options but the threshold."""
        return [2, unicodedata.unidata_version, self.options.model_dump(mode="json", exclude={"max_garbled_share"})]

    def annotate(self, docs: Docs) -> Columns:
        """The new text where it differs, and what was found."""
        code = is_code(docs, self.options.code_domains)
        counts = char_counts(docs)
        found: dict[str, list[Any]] = {"text": [], "repaired_chars": [], "removed_chars": [], "garbled_chars": []}
        found |= {"private_chars": [], "chars": []}
        for old, as_code, unusual in zip(docs.texts, code.tolist(), counts["unusual"].tolist(), strict=True):
            new, n_repaired = normalised(old, self.options, code=as_code, usual=not unusual)
            found["text"].append(None if new == old else new)
            found["repaired_chars"].append(n_repaired)
            found["removed_chars"].append(max(0, len(old) - len(new)))
            found["garbled_chars"].append(sum(map(len, _LOST.findall(new))) if unusual else 0)
            found["private_chars"].append(len(_PRIVATE.findall(new)) if unusual else 0)
            found["chars"].append(len(new))
        return found

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops what is empty or garbled."""
        rules = Rules(columns)
        chars = rules.figures("chars")
        garbled = (rules.figures("garbled_chars") + rules.figures("private_chars")) / np.maximum(chars, 1)
        rules.flagged(chars == 0, lambda i: "empty after normalisation")
        limit = self.options.max_garbled_share
        if limit is not None:
            rules.flagged(garbled > limit, lambda i: f"garbled text: {garbled[i]:.2%} of characters")
        return Verdict(rules.reasons(len(docs)), texts=pa.array(columns["text"]).to_pylist())


_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")
