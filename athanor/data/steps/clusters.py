"""Clusters of duplicates from columns of keys, worked a column at a time.

Rows are renumbered by preference first (``Preference``): row 0 is the one that would be kept before all others. So the
best of a cluster is its smallest number, and nothing depends on the order in which documents came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Docs, Survey
from athanor.data.steps.shingles import U64
from athanor.data.steps.signatures import NO_KEY, agreements, estimated_jaccard
from athanor.errors import AthanorError

I64 = npt.NDArray[np.int64]
_SHIFT = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_ID_BITS = np.uint64(2**24 - 1)
#: Pairs compared at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Preference:
    """Which row is kept before which: ``order[i]`` is the row at place i, 0 the first choice."""

    order: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, survey: Survey, keep: str, quality: str | None) -> Preference:
        """By the rule, then the longest, then the content's hash, then ``tie`` (a hash of the document's origin)."""
        if survey.n_rows >= 2**32:
            raise AthanorError(
                f"{survey.n_rows} documents in one comparison",
                fix="at most 2^32 - 1: build in increments, later ones with `against`",
            )
        keys: list[npt.NDArray[Any]] = [survey.numpy("tie"), key_words(survey), -survey.numpy("n_bytes")]
        if keep == "earliest":
            keys.append(survey.numpy("date"))
        elif keep == "quality":
            keys.append(-survey.numpy(quality_measure(survey.names, quality)))
        return cls(np.lexsort(keys).astype(np.uint32))


def quality_measure(names: Iterable[str], wanted: str | None) -> str:
    """The measure that ``keep: quality`` reads; ``AthanorError`` where an earlier step leaves none."""
    known = list(names)
    if wanted is not None and wanted in known:
        return wanted
    scores = sorted(name for name in known if name.startswith("quality."))
    if wanted is not None or not scores:
        raise AthanorError(
            f"no measure {wanted or 'quality.*'} to keep the best by",
            where="keep: quality",
            fix="put the quality step before this one, or keep: longest",
        )
    return next((n for n in ("quality.quality", "quality.score") if n in scores), scores[0])


def key_words(survey: Survey) -> U64:
    """The first 64 bits of each content hash."""
    out = [_first_words(chunk) for chunk in survey.column("key").chunks if len(chunk)]
    return np.concatenate(out) if out else np.zeros(0, dtype=np.uint64)


def _first_words(keys: pa.Array) -> U64:
    """From the array's own buffer: Python strings would take ten times the room."""
    n_digits = np.asarray(pc.binary_length(keys))
    if not (n_digits == 32).all():
        raise ValueError("a content hash has 32 hexadecimal digits")
    width = np.int64 if pa.types.is_large_string(keys.type) else np.int32
    _, offsets, data = keys.buffers()
    begin = int(np.frombuffer(offsets, dtype=width)[keys.offset])
    digits = np.frombuffer(data, dtype=np.uint8)[begin : begin + 32 * len(keys)].reshape(-1, 32)
    out = np.zeros(len(keys), dtype=np.uint64)
    for i in range(16):
        digit = digits[:, i].astype(np.uint64)
        out = out << np.uint64(4) | np.where(digit >= ord("a"), digit - np.uint64(87), digit - np.uint64(48))
    return out


def origin_ties(docs: Docs) -> U64:
    """What tells apart documents of the same text: a hash of source, URL and meta in the upper 40 bits, one of the id
    (which may be no more than a place in a file) in the lower 24."""
    upper = _row_hashes(docs, ("source", "url", "meta"))
    lower = _row_hashes(docs, ("id",))
    return upper & ~_ID_BITS | lower & _ID_BITS


def _row_hashes(docs: Docs, names: tuple[str, ...]) -> U64:
    import xxhash

    rows = ("\x1f".join(value or "" for value in row) for row in zip(*map(docs.column, names), strict=True))
    digests = (xxhash.xxh3_64_intdigest(row.encode("utf-8", "surrogatepass")) for row in rows)
    return np.fromiter(digests, dtype=np.uint64, count=len(docs))


def dates(docs: Docs) -> I64:
    """Days since 1970 of each document's ``date`` (or published, created, timestamp, year …) in meta; the largest
    integer where there is none."""
    import json

    out = np.full(len(docs), np.iinfo(np.int64).max)
    for i, text in enumerate(docs.column("meta")):
        try:
            meta = json.loads(text or "{}")
        except ValueError:
            continue
        if isinstance(meta, Mapping):
            found = (_day(meta[name]) for name in _DATE_NAMES if meta.get(name) is not None)
            out[i] = next((day for day in found if day is not None), out[i])
    return out


_DATE_NAMES = ("date", "published", "publish_date", "created", "created_at", "timestamp", "crawl_date", "year")


def _day(value: Any) -> int | None:
    """Days since 1970 of a date as text (ISO 8601; a year or a month will do) or a Unix time in seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 10_000:
        return int(value // 86_400)
    text = str(value)[:10].replace("/", "-")
    missing = {4: "-01-01", 7: "-01", 10: ""}.get(len(text))
    try:
        return None if missing is None else int(np.datetime64(text + missing, "D").astype(np.int64))
    except ValueError:
        return None


def bucket_edges(keys: U64) -> U64:
    """Edges between rows of equal keys, as first << 32 | second with first < second: each row with the best of its
    bucket and with the one before it. ``keys`` is in order of preference; ``NO_KEY`` meets nothing."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.zeros(len(keys), dtype=bool)
    same[1:] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_KEY)
    places = np.flatnonzero(same)
    if not len(places):
        return np.zeros(0, dtype=np.uint64)
    starts = np.flatnonzero(~same)
    best = order[starts[np.searchsorted(starts, places, side="right") - 1]].astype(np.uint64)
    member, before = order[places].astype(np.uint64), order[places - 1].astype(np.uint64)
    return np.unique(np.concatenate([best << _SHIFT | member, before << _SHIFT | member]))


def verified(edges: U64, columns: Iterable[U64], min_jaccard: float) -> U64:
    """The edges whose packed signatures estimate at least ``min_jaccard``; ``columns``: each signature word of all
    rows, in order of preference."""
    n_agreeing = np.zeros(len(edges), dtype=np.uint16)
    n_columns = 0
    for words in columns:
        n_columns += 1
        for at in range(0, len(edges), _CHUNK):
            part = slice(at, at + _CHUNK)
            n_agreeing[part] += agreements(words[edges[part] >> _SHIFT], words[edges[part] & _LOW])
    return edges[estimated_jaccard(n_agreeing, 8 * n_columns) >= min_jaccard]


@dataclass(frozen=True)
class Clusters:
    """nodes  rows that have a duplicate, ascending; best  the smallest row of each one's cluster; size  its size."""

    nodes: I64
    best: I64
    size: I64


def connected(edges: U64, gone: npt.NDArray[np.bool_] | None = None) -> Clusters:
    """Connected components of the edges. ``gone``: rows that cannot be kept (they duplicate an earlier build's): the
    best of a cluster is its smallest row that is not, and itself for a row of a cluster that has none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (edges >> _SHIFT).astype(np.int64), (edges & _LOW).astype(np.int64)
    nodes = np.unique(np.concatenate([left, right]))
    if not len(nodes):
        return Clusters(nodes, nodes, nodes)
    graph = coo_array(
        (np.ones(len(edges), dtype=np.int8), (np.searchsorted(nodes, left), np.searchsorted(nodes, right))),
        shape=(len(nodes), len(nodes)),
    )
    n, label = connected_components(graph, directed=False)
    best = np.full(n, np.iinfo(np.int64).max)
    able = np.ones(len(nodes), dtype=bool) if gone is None else ~gone[nodes]
    np.minimum.at(best, label[able], nodes[able])
    chosen = np.where(able, best[label], nodes)
    return Clusters(nodes, chosen, np.bincount(label, minlength=n)[label])


def keepers(survey: Survey, keeper: I64) -> pa.Array:
    """The first 64 bits of the content hash of the row that each row lost to, null for -1; ``keeper`` in the survey's
    rows."""
    return pa.array(key_words(survey)[np.maximum(keeper, 0)] if len(keeper) else keeper, pa.uint64(), mask=keeper < 0)


def figures(found: Clusters) -> dict[str, Any]:
    """For the report: how many clusters, the largest, how many of 2, 3, 4–7, 8–15 … documents."""
    _, first = np.unique(found.best, return_index=True)
    sizes, counts = np.unique(found.size[first], return_counts=True)
    table: dict[str, int] = {}
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        low = 1 << (size.bit_length() - 1)
        name = str(size) if size < 4 else f"{low}–{2 * low - 1}"
        table[name] = table.get(name, 0) + count
    return {"clusters": int(counts.sum()), "largest": int(sizes.max(initial=1)), "clusters_by_size": table}
