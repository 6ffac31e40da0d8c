"""Too short or too long a document."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Columns, Docs, Step, Verdict


class Length(Step):
    """Drops what is shorter or longer than the bounds, in characters (not bytes: Chinese and English alike)."""

    name = "length"
    fields: ClassVar[dict[str, pa.DataType]] = {"n_chars": pa.int64()}

    def annotate(self, docs: Docs) -> Columns:
        return {"n_chars": pc.utf8_length(docs.table.column("text"))}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        return Verdict([self._reason(n) for n in columns["n_chars"].to_pylist()])

    def _reason(self, n_chars: int) -> str | None:
        if n_chars < self.options.min_chars:
            return f"too short: {n_chars} characters"
        if self.options.max_chars is not None and n_chars > self.options.max_chars:
            return f"too long: {n_chars} characters"
        return None
