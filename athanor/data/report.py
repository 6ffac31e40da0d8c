"""Where the documents of a source went: counted, with examples of what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError

_EXAMPLES = 20


@dataclass(slots=True)
class SourceCount:
    """One source of ``report.json``. Bytes are of UTF-8 text; a file that could not be read has none.

    ``dropped`` counts by the reason's first words (before the colon); ``examples`` holds the first ids with full
    reasons.
    """

    documents_in: int = 0
    bytes_in: int = 0
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)
    out: dict[str, dict[str, int]] = field(
        default_factory=lambda: {split: {"documents": 0, "bytes": 0} for split in ("train", "valid")}
    )
    notes: list[str] = field(default_factory=list)

    def take(self, document: Document) -> int:
        """Count a document that was read; returns its bytes."""
        n_bytes = len(document.text.encode())
        self.documents_in += 1
        self.bytes_in += n_bytes
        return n_bytes

    def drop(self, item: Dropped, n_bytes: int = 0) -> None:
        """Count what does not go on. ``n_bytes``: of its text; 0 when it was never read (and so not taken either)."""
        if not n_bytes:
            self.documents_in += 1
        entry = self.dropped.setdefault(item.reason.split(":")[0], {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += n_bytes
        if len(self.examples) < _EXAMPLES:
            self.examples.append({"id": item.id, "reason": item.reason})

    def put(self, split: str, n_bytes: int) -> None:
        """Count a document that was written."""
        self.out[split]["documents"] += 1
        self.out[split]["bytes"] += n_bytes

    def summary(self) -> str:
        """One line for a person."""
        kept = ", ".join(
            f"{split} {_number(at['documents'])} documents, {at['bytes'] / 1e6:.2f} MB"
            for split, at in self.out.items()
        )
        dropped = ", ".join(f"{reason} {_number(at['documents'])}" for reason, at in self.dropped.items())
        return "; ".join([kept, *([f"dropped: {dropped}"] if dropped else []), *self.notes])


def empty_error(name: str, read: Sequence[Any], count: SourceCount) -> AthanorError:
    """Nothing of a source remains: what was read, and why each of it was dropped."""
    why = "".join(f"\n    {example['id']}: {example['reason']}" for example in count.examples)
    more = count.documents_in - len(count.examples)
    if more > 0:
        why += f"\n    … and {more} more"
    fix = "give UTF-8 text: txt, md, source code, jsonl, jsonl.zst or parquet"
    if set(count.dropped) == {"duplicate"}:
        fix = "the source only repeats another: take it out"
    return AthanorError(
        f"empty corpus: read {', '.join(map(str, read))}, kept nothing{why or ' (no file in it)'}",
        where=f"data.sources.{name}",
        fix=fix,
    )


def _number(n: int) -> str:
    return f"{n:,}"
