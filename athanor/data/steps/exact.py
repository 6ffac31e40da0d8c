"""Exact duplicates: whole documents, URLs and paragraphs, by 64-bit and 128-bit hashes (XXH3).

Nothing is kept in Python dictionaries: ``resolve`` sorts columns of hashes, one at a time. Paragraph hashes are dealt
to passes by their upper bits, so that each sorts a bounded number of them. A paragraph that comes twice in one document
is cut there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps import clusters
from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.index import Index, write_index
from athanor.data.steps.shingles import U64
from athanor.data.steps.signatures import NO_KEY
from athanor.data.steps.urls import canonical_url
from athanor.recipe.steps.dedup import ExactDedupOptions

I64 = npt.NDArray[np.int64]
_PASS_ROWS = 1 << 24
_KINDS = ("document", "url")


class ExactDedup(Step):
    """Drops documents of equal text or URL, cuts paragraphs that another document has.

    Verdict reasons: ``same text``, ``same URL``, ``same text as in an earlier build``, ``same URL as in an earlier
    build``, ``little left without repeated paragraphs``.
    """

    name = "exact_dedup"
    internal = ("why", "earlier")

    def __init__(self, options: ExactDedupOptions) -> None:
        super().__init__(options)
        self._figures: dict[str, Any] = {}
        self.edits = "paragraph" in options.by  # type: ignore[misc]
        fields: dict[str, pa.DataType] = {"tie": pa.uint64()}
        resolved: dict[str, pa.DataType] = {"kept": pa.uint64(), "why": pa.int8(), "earlier": pa.int16()}
        if options.keep == "earliest":
            fields["date"] = pa.int64()
        if "document" in options.by:
            fields |= {"document": pa.uint64(), "check": pa.uint64()}
        if "url" in options.by:
            fields["address"] = pa.uint64()
        if "paragraph" in options.by:
            fields["paragraphs"] = pa.large_list(pa.uint64())
            resolved["cuts"] = pa.large_list(pa.uint32())  # places of the document's paragraphs that are cut
        self.fields, self.resolved = fields, resolved  # type: ignore[misc]

    @property
    def settings(self) -> dict[str, Any]:
        """What keys depend on."""
        o = self.options
        paragraph = {"min_paragraph_chars": o.min_paragraph_chars} if "paragraph" in o.by else {}
        return {"by": sorted(o.by), "text": o.text, "version": 1, **paragraph}

    def compute_key(self) -> Any:
        return [self.settings, self.options.keep == "earliest"]

    def annotate(self, docs: Docs) -> Columns:
        import xxhash

        o = self.options
        columns: dict[str, Any] = {"tie": clusters.origin_ties(docs)}
        if o.keep == "earliest":
            columns["date"] = clusters.dates(docs)
        if "document" in o.by:
            digests = [xxhash.xxh3_128_intdigest(self._form(text)) for text in docs.texts]
            columns["document"] = np.array([max(d >> 64, 1) for d in digests], dtype=np.uint64)
            columns["check"] = np.array([d & (2**64 - 1) for d in digests], dtype=np.uint64)
        if "url" in o.by:
            forms = [canonical_url(url) if url else None for url in docs.column("url")]
            values = [0 if f is None else max(xxhash.xxh3_64_intdigest(_utf8(f)), 1) for f in forms]
            columns["address"] = np.array(values, dtype=np.uint64)
        if "paragraph" in o.by:
            columns["paragraphs"] = [
                [max(xxhash.xxh3_64_intdigest(self._form(text[a:b])), 1) for a, b in self._paragraphs(text)]
                for text in docs.texts
            ]
        return columns

    def resolve(self, survey: Survey) -> Columns:
        o = self.options
        order = clusters.Preference.of(survey, o.keep, o.quality).order
        indexes = [Index.open(path, type(self).name, self.settings) for path in o.against]
        n = survey.n_rows
        kept, why = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int8)
        earlier = np.full(n, -1, dtype=np.int16)
        for number, kind in enumerate(_KINDS):  # in order of preference, then put back to the survey's rows
            if kind in o.by:
                self._same(survey, order, indexes, number, kept, why, earlier)
        self._figures = {
            **{f"same_{kind}": int((why == number).sum()) for number, kind in enumerate(_KINDS) if kind in o.by},
            "dropped_for_earlier_builds": int((earlier >= 0).sum()),
        }
        out: dict[str, Any] = {"kept": clusters.keepers(survey, kept), "why": why, "earlier": earlier}
        stays = why < 0
        own = np.zeros(0, dtype=np.uint64)
        if "paragraph" in o.by:
            cuts, own = self._repeated(survey, order, indexes, stays)
            out["cuts"] = cuts
            self._figures["paragraphs_cut"] = len(cuts.flatten())
        if o.index:
            write_index(
                survey.work / "index", type(self).name, self.settings, int(stays.sum()), self._index(survey, stays, own)
            )
        return out

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        reasons: list[str | None] = []
        rows = zip(*(columns[name].to_pylist() for name in ("kept", "why", "earlier")), strict=True)
        for kept, why, earlier in rows:
            what = ("same text", "same URL")[why] if why >= 0 else None
            if earlier >= 0:
                reasons.append(f"{what} as in an earlier build: {self.options.against[earlier]}")
            else:
                reasons.append(f"{what}: {kept:016x} is kept" if what else None)
        if "cuts" not in columns:
            return Verdict(reasons)
        texts: list[str | None] = [None] * len(docs)
        counts = np.asarray(pc.list_value_length(columns["cuts"]))
        for i in np.flatnonzero(counts):
            if reasons[i] is None:
                texts[i], reasons[i] = self._cut(docs.texts[i], columns["cuts"][int(i)].as_py())
        return Verdict(reasons, texts)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Documents dropped by kind, paragraphs cut."""
        return self._figures

    def _form(self, text: str) -> bytes:
        return _utf8(" ".join(text.casefold().split()) if self.options.text == "folded" else text)

    def _paragraphs(self, text: str) -> Iterator[tuple[int, int]]:
        """(begin, end) of each line of at least ``min_paragraph_chars`` without the white space around it."""
        at = 0
        for line in text.split("\n"):
            body = line.strip()
            if len(body) >= self.options.min_paragraph_chars:
                begin = at + len(line) - len(line.lstrip())
                yield begin, begin + len(body)
            at += len(line) + 1

    def _cut(self, text: str, places: list[int]) -> tuple[str | None, str | None]:
        """(new text, None), or (None, reason) where too little is left."""
        spans = list(self._paragraphs(text))
        out, at = [], 0
        for begin, end in (spans[place] for place in places):
            out.append(text[at:begin].rstrip(" \t"))
            at = end
        out.append(text[at:])
        # a cut paragraph leaves its line empty: no more than one empty line stays of several
        lines: list[str] = []
        for line in "".join(out).split("\n"):
            if line.strip() or (lines and lines[-1].strip()):
                lines.append(line)
        left = "\n".join(lines).strip("\n")
        n_left = len(left.strip())
        if n_left < self.options.min_left_chars:
            return None, f"little left without repeated paragraphs: {n_left} characters"
        return left, None

    def _same(
        self,
        survey: Survey,
        order: npt.NDArray[np.uint32],
        indexes: list[Index],
        number: int,
        kept: I64,
        why: npt.NDArray[np.int8],
        earlier: npt.NDArray[np.int16],
    ) -> None:
        """Mark the rows whose key of kind ``number`` an earlier build or a better row has; rows already lost stay so
        and own nothing."""
        name = ("document", "address")[number]
        keys = survey.numpy(name)[order]
        keys[why[order] >= 0] = NO_KEY
        check = survey.numpy("check")[order] if number == 0 else None
        for i, index in enumerate(indexes):
            query, place = index.matches(_KINDS[number], keys)
            if check is not None:
                same = np.asarray(index.array("check-document")[place]) == check[query]
                query = query[same]
            query = query[keys[query] != NO_KEY]
            rows = order[query]
            why[rows], earlier[rows] = number, i
            keys[query] = NO_KEY
        best, member = _first_of_each(keys)
        if check is not None:
            same = check[best] == check[member]
            best, member = best[same], member[same]
        why[order[member]] = number
        kept[order[member]] = order[best]

    def _repeated(
        self, survey: Survey, order: npt.NDArray[np.uint32], indexes: list[Index], stays: npt.NDArray[np.bool_]
    ) -> tuple[pa.Array, U64]:
        """(places of the paragraphs each document loses, hashes of those that documents keep for the index)."""
        column = survey.column("paragraphs")
        hashes = np.concatenate([np.asarray(c.flatten()) for c in column.chunks] or [np.zeros(0, np.uint64)])
        lengths = np.concatenate(
            [np.asarray(pc.list_value_length(c)) for c in column.chunks] or [np.zeros(0, np.int64)]
        )
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        place_of = np.empty(survey.n_rows, dtype=np.uint32)
        place_of[order] = np.arange(survey.n_rows, dtype=np.uint32)
        lost = np.zeros(len(hashes), dtype=bool)
        alive = np.repeat(stays, lengths)
        bits = max(0, (len(hashes) // _PASS_ROWS).bit_length())
        for number in range(1 << bits):
            dealt = hashes >> np.uint64(64 - bits) == np.uint64(number) if bits else True
            here = np.flatnonzero(alive & dealt)
            doc = np.searchsorted(offsets, here, side="right") - 1
            ranked = here[np.argsort(place_of[doc], kind="stable")]  # by preference, then by place in the document
            _, member = _first_of_each(hashes[ranked])
            lost[ranked[member]] = True
            for index in indexes:
                query, _ = index.matches("paragraph", hashes[here])
                lost[here[query]] = True
        places = np.flatnonzero(lost)
        doc = np.searchsorted(offsets, places, side="right") - 1
        cut_offsets = np.concatenate([[0], np.cumsum(np.bincount(doc, minlength=survey.n_rows))]).astype(np.int64)
        within = places - offsets[doc]
        cuts = pa.LargeListArray.from_arrays(pa.array(cut_offsets), pa.array(within.astype(np.uint32)))
        return cuts, np.unique(hashes[alive & ~lost])

    def _index(
        self, survey: Survey, stays: npt.NDArray[np.bool_], paragraphs: U64
    ) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        if "document" in self.options.by:
            keys = survey.numpy("document")[stays]
            order = np.argsort(keys, kind="stable")
            yield "keys-document", keys[order]
            yield "check-document", survey.numpy("check")[stays][order]
        if "url" in self.options.by:
            keys = np.sort(survey.numpy("address")[stays])
            yield "keys-url", keys[keys != NO_KEY]
        if "paragraph" in self.options.by:
            yield "keys-paragraph", paragraphs


def _first_of_each(keys: U64) -> tuple[I64, I64]:
    """(first, later): for each row whose key came before, the first row that has it. ``NO_KEY`` equals nothing."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeats = np.zeros(len(keys), dtype=bool)
    repeats[1:] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_KEY)
    places, starts = np.flatnonzero(repeats), np.flatnonzero(~repeats)
    return order[starts[np.searchsorted(starts, places, side="right") - 1]], order[places]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
