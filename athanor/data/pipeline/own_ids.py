"""Ids that rows brought along: counted where they come again. They name nothing here, as rows of many files share them,
but a source that says of itself that its ids are unique is found out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from athanor.data.pipeline.layout import Layout, Part, read_table, write_table

_EXAMPLES = 5


def _path(layout: Layout, part: Part) -> Path:
    return layout.documents(part).with_suffix(".ids.parquet")


def write(layout: Layout, part: Part, ids: Sequence[Any]) -> None:
    """Keep the ids of one part's documents (None: a document without); a part without any has no such file."""
    import xxhash

    given = [str(own) for own in ids if own is not None]
    if given:
        digests = [xxhash.xxh3_64_intdigest(own.encode()) for own in given]
        table = pa.table({"digest": pa.array(digests, type=pa.uint64()), "id": pa.array(given, type=pa.string())})
        write_table(_path(layout, part), table)


def repeated(layout: Layout, parts: Sequence[Part]) -> dict[str, Any]:
    """``documents`` that had an id, how many of those a document before them had (``repeated``), and ``examples``."""
    having = [part for part in sorted(parts) if _path(layout, part).is_file()]
    digests = [_digests(layout, part) for part in having]
    found, counts = np.unique(np.concatenate(digests) if digests else np.zeros(0, np.uint64), return_counts=True)
    twice = found[counts > 1]
    examples: set[str] = set()
    for part, own in zip(having, digests, strict=True):
        if len(examples) >= _EXAMPLES or not twice.size:
            break
        hits = np.flatnonzero(np.isin(own, twice))[: 100 * _EXAMPLES]
        examples |= set(read_table(_path(layout, part), ["id"]).column("id").take(pa.array(hits)).to_pylist())
    return {
        "documents": int(counts.sum()),
        "repeated": int((counts - 1).sum()),
        "examples": sorted(examples)[:_EXAMPLES],
    }


def _digests(layout: Layout, part: Part) -> np.ndarray:
    column: np.ndarray = read_table(_path(layout, part), ["digest"]).column("digest").to_numpy()
    return column
