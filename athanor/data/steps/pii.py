"""Personal data and secrets → typed placeholders.

Measured are the places and types; what is replaced, and by what, is decided when verdicts are made. Texts that hold
nothing of interest are recognised by a few numpy passes over the batch (``pii_gates``) and never looked at one by one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.pii_find import TYPES, May, find, indexed_marks, replaced
from athanor.data.steps.pii_gates import gates
from athanor.recipe.steps.pii import PiiOptions

#: Grows when a finder changes what it finds.
VERSION = 1


class Pii(Step):
    """``places``: start, end, type (index into ``TYPES``) of each item, one after another; and a count a type."""

    name = "pii"
    fields = {"places": pa.list_(pa.int32())} | {kind.lower(): pa.int32() for kind in TYPES}
    edits = True

    def __init__(self, options: PiiOptions) -> None:
        super().__init__(options)
        self._wanted = frozenset(options.types or TYPES)

    def compute_key(self) -> Any:
        """The finders' version; no option changes what is found."""
        return [VERSION]

    def annotate(self, docs: Docs) -> Columns:
        """Places of all types in every document."""
        flags = gates(docs)
        counts = np.zeros((len(docs), len(TYPES)), dtype=np.int32)
        places: list[list[int]] = []
        rows = zip(flags.at, flags.number, flags.token, flags.dotted, flags.colons, flags.wide, strict=True)
        for i, (text, row) in enumerate(zip(docs.texts, rows, strict=True)):
            found = find(text, May(*map(bool, row)))
            places.append([part for start, end, kind in found for part in (start, end, TYPES.index(kind))])
            for _, _, kind in found:
                counts[i, TYPES.index(kind)] += 1
        return {"places": places} | {kind.lower(): counts[:, k] for k, kind in enumerate(TYPES)}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Placeholders for the wanted types; documents that hold too many items are dropped."""
        reasons: list[str | None] = []
        texts: list[str | None] = []
        limit = self.options.max_items_per_kb
        n_bytes = docs.n_bytes
        for i, flat in enumerate(columns["places"].to_pylist()):
            items = [(flat[k], flat[k + 1], TYPES[flat[k + 2]]) for k in range(0, len(flat), 3)]
            wanted = [item for item in items if item[2] in self._wanted]
            density = 1000 * len(wanted) / max(int(n_bytes[i]), 1)
            over = limit is not None and len(wanted) >= 3 and density > limit
            reasons.append(f"personal data: {density:.2f} items a kB" if over else None)
            texts.append(replaced(docs.texts[i], wanted, self._marker()) if wanted and not over else None)
        return Verdict(reasons, texts)

    def _marker(self) -> Callable[[str, str], str]:
        """A new one for each document."""
        if self.options.placeholder == "indexed":
            seen: dict[tuple[str, str], int] = {}
            return lambda kind, value: indexed_marks(kind, value, seen)
        if self.options.placeholder == "hashed":
            key = self.options.salt.encode()
            return lambda kind, value: f"<{kind}_{hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:8]}>"
        return lambda kind, value: f"<{kind}>"

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Items and documents by type."""
        table: dict[str, dict[str, int]] = {}
        for kind in TYPES:
            values = survey.numpy(kind.lower())
            table[kind] = {"items": int(values.sum()), "documents": int((values > 0).sum())}
        return {"items_by_type": table}
