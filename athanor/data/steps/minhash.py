"""Near duplicates by MinHash-LSH, with clusters, a keep-best rule and comparison with earlier builds.

Stored beside a document: one 64-bit key a band and eight bits a hash (by default 28 · 8 + 112 = 336 bytes). ``resolve``
reads a column of four words at a time, so its memory is some dozens of bytes a document, whatever the documents' size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.steps import clusters, signatures
from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.index import Index, write_index
from athanor.data.steps.shingles import U64, VERSION, tokens_of
from athanor.recipe.steps.dedup import MinhashOptions

I64 = npt.NDArray[np.int64]
#: Words of 64 bits in a column: few enough to hold one for all documents, many enough to open files seldom.
_PACK = 4


class MinhashDedup(Step):
    """Drops near duplicates. Verdict reasons: ``near duplicate`` and ``near duplicate of an earlier build``."""

    name = "minhash"
    internal = ("earlier",)
    resolved: ClassVar[dict[str, pa.DataType]] = {
        "kept": pa.uint64(),  # 64 bits of the key of the document kept instead; null for one that stays
        "earlier": pa.int16(),  # which of ``against`` has a duplicate, -1: none
        "cluster_size": pa.int32(),  # documents of the cluster, 1 for one that is alone
    }

    def __init__(self, options: MinhashOptions) -> None:
        super().__init__(options)
        self.n_bands = options.bands * options.groupings
        lanes = signatures.LANES
        self._figures: dict[str, Any] = {}
        # without a threshold nobody reads signatures
        self.n_words = -(-options.bands * options.rows // lanes) if options.min_jaccard > 0 else 0
        dated = {"date": pa.int64()} if options.keep == "earliest" else {}
        packed = {name: pa.binary(8 * n) for what in ("bands", "signature") for name, n in self._columns(what)}
        self.fields = {"tie": pa.uint64(), **dated, **packed}  # type: ignore[misc]

    @property
    def settings(self) -> dict[str, Any]:
        """What keys depend on: indexes of other settings cannot be compared with."""
        o = self.options
        names = ("ngram", "bands", "rows", "groupings", "seed")
        return {"tokens": VERSION, "signatures": self.n_words, **{name: getattr(o, name) for name in names}}

    def compute_key(self) -> Any:
        return [self.settings, self.options.keep == "earliest"]

    def annotate(self, docs: Docs) -> Columns:
        o = self.options
        minima = signatures.minima(tokens_of(docs), o.ngram, o.bands * o.rows, o.seed)
        keys = signatures.band_keys(minima, o.bands, o.rows, o.groupings)
        columns: dict[str, Any] = {"tie": clusters.origin_ties(docs)}
        if o.keep == "earliest":
            columns["date"] = clusters.dates(docs)
        columns |= self._packed("bands", keys)
        if self.n_words:
            columns |= self._packed("signature", signatures.packed_signature(minima))
        return columns

    def resolve(self, survey: Survey) -> Columns:
        o = self.options
        order = clusters.Preference.of(survey, o.keep, o.quality).order
        earlier = self._earlier(survey, order)
        edges = self._edges(survey, order)
        found = clusters.connected(edges, earlier >= 0)
        kept = np.full(survey.n_rows, -1, dtype=np.int64)
        size = np.ones(survey.n_rows, dtype=np.int32)
        rows = order[found.nodes]
        size[rows] = found.size
        lost = found.best != found.nodes
        kept[rows[lost]] = order[found.best[lost]]
        by_row = np.full(survey.n_rows, -1, dtype=np.int16)
        by_row[order] = earlier
        self._figures = {
            **clusters.figures(found),
            "dropped": int(((kept >= 0) & (by_row < 0)).sum()),
            "dropped_for_earlier_builds": int((earlier >= 0).sum()),
        }
        if o.index:
            stays = (kept < 0) & (by_row < 0)
            arrays = self._index(survey, stays)
            write_index(survey.work / "index", type(self).name, self.settings, int(stays.sum()), arrays)
        return {"kept": clusters.keepers(survey, kept), "earlier": by_row, "cluster_size": size}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        reasons: list[str | None] = []
        for kept, earlier in zip(columns["kept"].to_pylist(), columns["earlier"].to_pylist(), strict=True):
            if earlier >= 0:
                reasons.append(f"near duplicate of an earlier build: {self.options.against[earlier]}")
            else:
                reasons.append(None if kept is None else f"near duplicate: {kept:016x} is kept")
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Clusters by size, documents dropped in them and for earlier builds, as the last ``resolve`` found them."""
        return self._figures

    def _edges(self, survey: Survey, order: npt.NDArray[np.uint32]) -> U64:
        edges = np.zeros(0, dtype=np.uint64)
        for _, keys in self._words("bands", survey):
            edges = np.unique(np.concatenate([edges, clusters.bucket_edges(keys[order])]))
        if not self.n_words or not len(edges):
            return edges
        words = (column[order] for _, column in self._words("signature", survey))
        return clusters.verified(edges, words, self.options.min_jaccard)

    def _earlier(self, survey: Survey, order: npt.NDArray[np.uint32]) -> npt.NDArray[np.int16]:
        """For each row in order of preference: the first of ``against`` that holds a duplicate, or -1."""
        earlier = np.full(survey.n_rows, -1, dtype=np.int16)
        for number, path in enumerate(self.options.against):
            index = Index.open(path, type(self).name, self.settings)
            pairs = np.zeros(0, dtype=np.uint64)
            for i, keys in self._words("bands", survey):
                query, place = index.matches(f"{i:03d}", keys[order])
                theirs = np.asarray(index.array(f"rows-{i:03d}")[place]).astype(np.uint64)
                pairs = np.unique(np.concatenate([pairs, query.astype(np.uint64) << np.uint64(32) | theirs]))
            mine, theirs = (pairs >> np.uint64(32)).astype(np.int64), pairs & np.uint64(2**32 - 1)
            if self.n_words and len(pairs):
                n_agreeing = np.zeros(len(pairs), dtype=np.int64)
                for i, words in self._words("signature", survey):
                    there = np.asarray(index.array(f"signature-{i:03d}")[theirs])
                    n_agreeing += signatures.agreements(words[order[mine]], there)
                similar = signatures.estimated_jaccard(n_agreeing, signatures.LANES * self.n_words)
                mine = mine[similar >= self.options.min_jaccard]
            hit = np.unique(mine)
            earlier[hit[earlier[hit] < 0]] = number
        return earlier

    def _index(self, survey: Survey, stays: npt.NDArray[np.bool_]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for i, column in self._words("bands", survey):
            keys = column[stays]
            order = np.argsort(keys, kind="stable")
            order = order[keys[order] != signatures.NO_KEY]
            yield f"keys-{i:03d}", keys[order]
            yield f"rows-{i:03d}", order.astype(np.uint32)
        for i, column in self._words("signature", survey):
            yield f"signature-{i:03d}", column[stays]

    def _columns(self, what: str) -> list[tuple[str, int]]:
        """(name, words) of the columns that hold the keys of all bands, or the signature: ``_PACK`` words each."""
        n = self.n_bands if what == "bands" else self.n_words
        return [(f"{what}_{i // _PACK}", min(_PACK, n - i)) for i in range(0, n, _PACK)]

    def _packed(self, what: str, words: U64) -> dict[str, pa.Array]:
        """Columns of words [n_words, n_docs]."""
        out: dict[str, pa.Array] = {}
        for g, (name, n) in enumerate(self._columns(what)):
            block = np.ascontiguousarray(words[g * _PACK : g * _PACK + n].T)
            buffers = [None, pa.py_buffer(block)]
            out[name] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8 * n), len(block), buffers)
        return out

    def _words(self, what: str, survey: Survey) -> Iterator[tuple[int, U64]]:
        """(number, word of every row) of all bands or of the signature; one column in memory at a time."""
        for g, (name, n) in enumerate(self._columns(what)):
            block = np.empty((survey.n_rows, n), dtype=np.uint64)
            at = 0
            for chunk in survey.column(name).chunks:
                raw = np.frombuffer(chunk.buffers()[1] or b"", dtype=np.uint64)
                block[at : at + len(chunk)] = raw[chunk.offset * n : (chunk.offset + len(chunk)) * n].reshape(-1, n)
                at += len(chunk)
            for j in range(n):
                yield g * _PACK + j, np.ascontiguousarray(block[:, j])
