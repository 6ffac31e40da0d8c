"""The prose of a document: what is left without code, tags and addresses."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Docs

_FENCED = r"(?s:```.*?(?:```|\z))"
_NOT_PROSE = _FENCED + r"|`[^`\n]*`|<[^<>\n]*>|https?://[!-~]+|\]\([^()\n]*\)"
_FENCED_RE = re.compile(_FENCED.replace(r"\z", r"\Z"))


def prose(docs: Docs) -> Docs:
    """The texts (and nothing but these) without fenced and inline code, HTML tags and addresses."""
    return _without(docs, _NOT_PROSE)


def unfenced(docs: Docs) -> Docs:
    """The texts (and nothing but these) without fenced code."""
    return _without(docs, _FENCED)


def unfenced_text(text: str) -> str:
    """One text without fenced code."""
    return _FENCED_RE.sub("", text) if "```" in text else text


def _without(docs: Docs, pattern: str) -> Docs:
    text = pc.replace_substring_regex(docs.table.column("text"), pattern, "")
    return Docs(pa.RecordBatch.from_arrays([text], names=["text"]))
