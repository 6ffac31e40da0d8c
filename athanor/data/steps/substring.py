"""Passages that come again, in other documents or in the same, cut where they come again (Lee et al. 2022, §4.1, with
their 50 tokens; here tokens are those of ``shingles``: case, punctuation and white space do not count).

Measures, dealt to ``PARTITIONS`` columns each so that ``resolve`` reads a fraction of them at a time: anchors by the
upper bits of their hash, and 16 bits of every token's hash by the document's tie, to extend anchors with. The streams
of documents that share an anchor are spilled to the work folder and read through a memory map.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps import clusters, passages, repeats
from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.shingles import VERSION, tokens_of
from athanor.recipe.steps.dedup import SubstringDedupOptions

I64 = npt.NDArray[np.int64]
PARTITIONS = 8
_BITS = np.uint64(61)  # the upper three bits of a hash tell its partition
_NAMES = tuple(range(PARTITIONS))


class SubstringDedup(Step):
    """Cuts repeated passages. Verdict reason: ``little left without repeated passages``."""

    name = "substring_dedup"
    edits = True
    internal = tuple(f"place_{i}" for i in range(PARTITIONS))
    resolved: ClassVar[dict[str, pa.DataType]] = {
        "cuts": pa.large_list(pa.uint32())  # first token, end, first token, end … of what is cut
    }

    def __init__(self, options: SubstringDedupOptions) -> None:
        super().__init__(options)
        self._figures: dict[str, Any] = {}
        fields: dict[str, pa.DataType] = {"tie": pa.uint64()}
        if options.keep == "earliest":
            fields["date"] = pa.int64()
        for i in _NAMES:
            fields |= {f"anchor_{i}": pa.large_list(pa.uint64()), f"place_{i}": pa.large_list(pa.uint32())}
            fields[f"stream_{i}"] = pa.large_binary()
        self.fields = fields  # type: ignore[misc]

    def compute_key(self) -> Any:
        return [VERSION, self.options.min_tokens, self.options.keep == "earliest", PARTITIONS]

    def annotate(self, docs: Docs) -> Columns:
        tokens = tokens_of(docs)
        tie = clusters.origin_ties(docs)
        columns: dict[str, Any] = {"tie": tie}
        if self.options.keep == "earliest":
            columns["date"] = clusters.dates(docs)
        hashes, at = repeats.anchors(tokens, self.options.min_tokens)
        doc = np.searchsorted(tokens.offsets, at, side="right") - 1
        short = (tokens.hash >> np.uint64(16)).astype("<u2")
        enough = tokens.counts >= self.options.min_tokens  # shorter documents hold no passage
        for i in _NAMES:
            here = np.flatnonzero(hashes >> _BITS == np.uint64(i))
            offsets = pa.array(np.searchsorted(doc[here], np.arange(len(docs) + 1)).astype(np.int64))
            places = (at[here] - tokens.offsets[doc[here]]).astype(np.uint32)
            columns[f"anchor_{i}"] = pa.LargeListArray.from_arrays(offsets, pa.array(hashes[here]))
            columns[f"place_{i}"] = pa.LargeListArray.from_arrays(offsets, pa.array(places))
            mine = enough & (tie % np.uint64(PARTITIONS) == np.uint64(i))
            columns[f"stream_{i}"] = [
                short[a:b].tobytes() if wanted else b""
                for a, b, wanted in zip(tokens.offsets[:-1], tokens.offsets[1:], mine, strict=True)
            ]
        return columns

    def resolve(self, survey: Survey) -> Columns:
        o = self.options
        order = clusters.Preference.of(survey, o.keep, o.quality).order
        rank = np.empty(survey.n_rows, dtype=np.int64)
        rank[order] = np.arange(survey.n_rows)
        pairs = repeats.Pairs.joined([self._pairs(survey, rank, i) for i in _NAMES])
        spill = survey.work / "streams.u16"
        stream, begins, lengths = self._streams(survey, rank, pairs, spill)
        found = repeats.repeated_spans(pairs, stream, begins, lengths, o.min_tokens)
        del stream
        spill.unlink(missing_ok=True)
        doc, begin, end = repeats.merged_spans(*found)
        row = order[doc].astype(np.int64)
        sorted_ = np.argsort(row, kind="stable")
        row, begin, end = row[sorted_], begin[sorted_], end[sorted_]
        offsets = np.searchsorted(row, np.arange(survey.n_rows + 1)).astype(np.int64)
        flat = np.stack([begin, end], axis=1).ravel().astype(np.uint32)
        self._figures = {
            "passages": len(row),
            "documents_with_repeats": len(np.unique(row)),
            "tokens_repeated": int((end - begin).sum()),
            "longest_passage_tokens": int((end - begin).max(initial=0)),
        }
        return {"cuts": pa.LargeListArray.from_arrays(pa.array(2 * offsets), pa.array(flat))}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        reasons: list[str | None] = [None] * len(docs)
        texts: list[str | None] = [None] * len(docs)
        touched = np.flatnonzero(np.asarray(pc.list_value_length(columns["cuts"])))
        for i in touched.tolist():
            text = docs.texts[i]
            tokens = tokens_of(Docs.of([text]))
            spans = np.array(columns["cuts"][i].as_py(), dtype=np.int64).reshape(-1, 2)
            places = [(int(tokens.start[a]), int(tokens.end[b - 1])) for a, b in spans]
            left = passages.cut(text, places, outward=False, sentences=self.options.boundary == "sentence").strip()
            if len(left) < max(self.options.min_left_chars, self.options.min_left_share * len(text)):
                reasons[i] = f"little left without repeated passages: {len(left)} of {len(text)} characters"
            elif left != text:
                texts[i] = left
        return Verdict(reasons, texts)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Passages found, documents that hold them, tokens in them."""
        return self._figures

    def _pairs(self, survey: Survey, rank: I64, number: int) -> repeats.Pairs:
        hashes, row = _flat(survey, f"anchor_{number}")
        places, _ = _flat(survey, f"place_{number}")
        order = np.argsort(hashes, kind="stable")
        repeated = np.zeros(len(hashes), dtype=bool)
        equal = hashes[order[1:]] == hashes[order[:-1]]
        repeated[order[1:]] |= equal
        repeated[order[:-1]] |= equal
        return repeats.Pairs.of(hashes[repeated], rank[row[repeated]], places[repeated].astype(np.int64))

    def _streams(self, survey: Survey, rank: I64, pairs: repeats.Pairs, spill: Path) -> tuple[repeats.U16, I64, I64]:
        """(token streams of the documents in pairs, begin and length of each by rank)."""
        wanted = np.zeros(survey.n_rows, dtype=bool)
        wanted[pairs.doc], wanted[pairs.earlier] = True, True
        begins, lengths = np.zeros(survey.n_rows, dtype=np.int64), np.zeros(survey.n_rows, dtype=np.int64)
        tie = survey.numpy("tie") % np.uint64(PARTITIONS)
        at = 0
        spill.parent.mkdir(parents=True, exist_ok=True)
        with spill.open("wb") as file:
            for number in _NAMES:
                mine = wanted[rank] & (tie == np.uint64(number))
                row = 0
                for chunk in survey.column(f"stream_{number}").chunks:
                    for i in np.flatnonzero(mine[row : row + len(chunk)]).tolist():
                        raw = chunk[i].as_buffer()
                        place = rank[row + i]
                        begins[place], lengths[place] = at, raw.size // 2
                        file.write(raw)
                        at += raw.size // 2
                    row += len(chunk)
            file.write(bytes(2 * repeats.MAX_BLOCK))
        return np.memmap(spill, dtype="<u2", mode="r"), begins, lengths


def _flat(survey: Survey, name: str) -> tuple[npt.NDArray[Any], I64]:
    """(values of a list column, row of each)."""
    chunks = survey.column(name).chunks
    values = np.concatenate([np.asarray(c.flatten()) for c in chunks] or [np.zeros(0, np.uint64)])
    lengths = [np.asarray(pc.list_value_length(c)) for c in chunks]
    return values, np.repeat(np.arange(survey.n_rows), np.concatenate(lengths or [np.zeros(0, np.int64)]))
