"""Documents that hold items of evaluation sets: n-grams in a row (Brown et al. 2020, appendix C: 13 words) and passages
that contain most of an item though words or numbers were changed.

Measures: the passages found, five lists of equal length a document: ``part`` (a text of an item), ``matches`` (its
n-grams found there), ``share`` (of its sampled short n-grams found there), ``begin`` and ``end`` (bytes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps import contamination, passages
from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.contamination import ContaminationIndex
from athanor.data.steps.shingles import Tokens, ngram_hashes, tokens_of
from athanor.recipe.steps.dedup import DecontaminateOptions

I64 = npt.NDArray[np.int64]
#: Shares below this are not stored: no threshold goes lower.
MIN_SHARE = 0.3
_EXAMPLES = 3
_GAP = 50  # tokens between matches of one passage, or half the item's


class Decontaminate(Step):
    """Drops (or cuts) what overlaps with evaluation sets. Verdict reasons: ``contaminated`` with set and item,
    ``little left without passages of evaluation sets``."""

    name = "decontaminate"
    internal = ("part",)
    fields: ClassVar[dict[str, pa.DataType]] = {
        "part": pa.large_list(pa.uint32()),
        "matches": pa.large_list(pa.uint32()),
        "share": pa.large_list(pa.float32()),
        "begin": pa.large_list(pa.uint32()),
        "end": pa.large_list(pa.uint32()),
    }
    resolved: ClassVar[dict[str, pa.DataType]] = {"contaminated": pa.bool_()}

    def __init__(self, options: DecontaminateOptions) -> None:
        super().__init__(options)
        self.edits = options.action == "cut"  # type: ignore[misc]
        self._key: str | None = None
        self._index: ContaminationIndex | None = None
        self._figures: dict[str, Any] = {}

    def compute_key(self) -> Any:
        if self._key is None:
            self._key = contamination.fingerprint(self.options)
        return [self._key, MIN_SHARE]

    def prepare(self) -> None:
        """Open the index (from the cache, by memory map: processes share its pages)."""
        _ = self.index

    @property
    def index(self) -> ContaminationIndex:
        """The index of the sets."""
        if self._index is None:
            self._index = ContaminationIndex.load(self.options, self.compute_key()[0])
        return self._index

    def annotate(self, docs: Docs) -> Columns:
        tokens = tokens_of(docs, numbers=True)
        found = _Found(self.index, tokens)
        for name in ("exact", "exact_han"):
            found.ngrams(name, exact=True)
        found.wholes()
        for name in ("fuzzy", "fuzzy_han"):
            found.ngrams(name, exact=False)
        return found.columns()

    def resolve(self, survey: Survey) -> Columns:
        counted, offsets, part = self._counted(survey)
        row = np.repeat(np.arange(survey.n_rows), np.diff(offsets))[counted]
        contaminated = np.zeros(survey.n_rows, dtype=bool)
        contaminated[row] = True
        self._figures = self._sets(part[counted], row) | {"documents": int(contaminated.sum())}
        return {"contaminated": contaminated}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        reasons: list[str | None] = [None] * len(docs)
        texts: list[str | None] = [None] * len(docs)
        for i in np.flatnonzero(np.asarray(columns["contaminated"])):
            rows = {name: columns[name][int(i)].as_py() for name in self.fields}
            counts = self._counts(*(np.array(rows[name]) for name in ("part", "matches", "share")))
            ours = np.flatnonzero(counts).tolist()
            if self.options.action == "cut":
                spans = [(rows["begin"][k], rows["end"][k]) for k in ours]
                texts[i] = passages.cut(docs.texts[i], spans, outward=True)
                left = len(texts[i].strip())  # type: ignore[union-attr]
                if left < self.options.min_left_chars:
                    texts[i] = None
                    reasons[i] = f"little left without passages of evaluation sets: {left} characters"
            else:
                best = max(ours, key=lambda k: (rows["matches"][k], rows["share"][k], -rows["part"][k]))
                item = int(self.index.part_item[rows["part"][best]])
                name, number = self.index.sets[self.index.item_set[item]], self.index.item_row[item]
                told = f"{rows['matches'][best]} n-grams, share {rows['share'][best]:.2f}"
                reasons[i] = f"contaminated: {name} item {number} ({told})"
        return Verdict(reasons, texts if self.edits else None)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """For each set: items, items hit, items too short to look for, documents, examples."""
        return self._figures

    def _counts(self, part: Any, matches: Any, share: Any) -> npt.NDArray[np.bool_]:
        """Which passages are contamination by the thresholds."""
        o = self.options
        n_grams = np.maximum(self.index.part_tokens[part.astype(np.int64)] - o.ngram + 1, 1)
        exact = (matches >= o.min_matches) & (matches >= o.min_coverage * n_grams)
        return np.asarray(exact | (share >= o.fuzzy))

    def _counted(self, survey: Survey) -> tuple[npt.NDArray[np.bool_], I64, npt.NDArray[np.uint32]]:
        """(whether each passage counts, offsets of the documents, part of each passage)."""
        flat: dict[str, npt.NDArray[Any]] = {}
        lengths = np.zeros(0, dtype=np.int64)
        for name in ("part", "matches", "share"):
            chunks = survey.column(name).chunks
            flat[name] = np.concatenate([np.asarray(c.flatten()) for c in chunks] or [np.zeros(0)])
            if name == "part":
                lengths = np.concatenate([np.asarray(pc.list_value_length(c)) for c in chunks] or [lengths])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        counted = self._counts(flat["part"], flat["matches"], flat["share"])
        return counted, offsets, flat["part"].astype(np.uint32)

    def _sets(self, part: npt.NDArray[np.uint32], row: I64) -> dict[str, Any]:
        index = self.index
        item = index.part_item[part]
        owner = index.item_set[item]
        n_items = np.bincount(index.item_set, minlength=len(index.sets))
        told = {}
        hits = np.bincount(owner, minlength=len(index.sets))
        for number in np.argsort(-hits, kind="stable").tolist():  # sets that were hit first: there may be hundreds
            name = index.sets[number]
            here = owner == number
            told[name] = {
                "items": int(n_items[number]),
                "items_hit": len(np.unique(item[here])),
                "items_unprotected": index.unprotected[number],
                "documents": len(np.unique(row[here])),
                "examples": [index.examples[p] for p in np.unique(part[here])[:_EXAMPLES]],
            }
        return {"sets": told}


class _Found:
    """Matches of a batch: (document, part, token begin, token end, kind), gathered and made into passages."""

    def __init__(self, index: ContaminationIndex, tokens: Tokens) -> None:
        self.index, self.tokens = index, tokens
        self.n_docs = len(tokens.offsets) - 1
        self.rows: list[tuple[I64, I64, I64, I64, I64]] = []

    def ngrams(self, name: str, *, exact: bool) -> None:
        """Look up every n-gram. ``gram`` is the table's entry for sampled n-grams, -1 for exact ones."""
        table = self.index.tables[name]
        if not len(table.hashes):
            return
        hashes, at = ngram_hashes(self.tokens, table.n)
        window, entry = table.find(hashes)
        begin = at[window]
        # entries of both fuzzy tables are told apart by the table's length
        gram = np.full(len(entry), -1) if exact else entry * 64 + table.n
        self._add(table.parts[entry].astype(np.int64), begin, begin + table.n, gram)

    def wholes(self) -> None:
        """Short questions: where the first tokens match, compare the whole length."""
        table = self.index.tables["whole"]
        hashes, at = ngram_hashes(self.tokens, table.n)
        window, entry = table.find(hashes)
        length = (table.extra[entry] >> np.uint64(58)).astype(np.int64)
        for n in np.unique(length):
            here = np.flatnonzero(length == n)
            full, starts = ngram_hashes(self.tokens, int(n))
            place = np.searchsorted(starts, at[window[here]])
            inside = place < len(starts)
            here, place = here[inside], place[inside]
            same = starts[place] == at[window[here]]
            same &= contamination.whole_key(int(n), full[place]) == table.extra[entry[here]]
            begin = at[window[here[same]]]
            self._add(table.parts[entry[here[same]]].astype(np.int64), begin, begin + n, np.full(len(begin), -1))

    def _add(self, part: I64, begin: I64, end: I64, gram: I64) -> None:
        doc = np.searchsorted(self.tokens.offsets, begin, side="right") - 1
        self.rows.append((doc, part, begin, end, gram))

    def columns(self) -> dict[str, Any]:
        doc, part, begin, end, gram = (np.concatenate(column) for column in zip(*self.rows, strict=True))
        order = np.lexsort((begin, part, doc))
        doc, part, begin, end, gram = (x[order] for x in (doc, part, begin, end, gram))
        new = np.ones(len(doc), dtype=bool)
        gap = np.maximum(_GAP, self.index.part_tokens[part] // 2)
        new[1:] = (doc[1:] != doc[:-1]) | (part[1:] != part[:-1]) | (begin[1:] - end[:-1] > gap[1:])
        starts = np.flatnonzero(new)
        run = np.cumsum(new) - 1
        n_runs = len(starts)
        exact = gram < 0
        matches = np.bincount(run[exact], minlength=n_runs)
        pairs = np.unique(np.stack([run[~exact], gram[~exact]]), axis=1)[0]
        share = np.bincount(pairs, minlength=n_runs) / np.maximum(self.index.sketch_size[part[starts]], 1)
        kept = np.flatnonzero((matches > 0) | (share >= MIN_SHARE))
        last = np.maximum.reduceat(end, starts) if n_runs else end
        offsets = np.searchsorted(doc[starts][kept], np.arange(self.n_docs + 1))
        values: dict[str, tuple[npt.NDArray[Any], pa.DataType]] = {
            "part": (part[starts], pa.uint32()),
            "matches": (matches, pa.uint32()),
            "share": (share, pa.float32()),
            "begin": (self.tokens.start[begin[starts]], pa.uint32()),
            "end": (self.tokens.end[last - 1], pa.uint32()),
        }
        return {
            name: pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), pa.array(array[kept], type=kind))
            for name, (array, kind) in values.items()
        }
