"""Repeated passages from sampled n-grams: winnowing (Schleimer, Wilkerson & Aiken 2003) and exact extension.

Of every ``n_tokens - ANCHOR + 1`` consecutive hashes of ``ANCHOR``-grams the smallest is an anchor. Two passages of at
least ``n_tokens`` equal tokens therefore share an anchor, whatever stands around them; from each shared anchor the
passage is extended, token by token, to both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.data.steps.shingles import U64, Tokens, ngram_hashes

I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]
#: Tokens compared in one go, doubled from the first to the second while two passages agree.
_BLOCK, MAX_BLOCK = 32, 4096
_CELLS = 1 << 22  # tokens compared at once


def anchor_tokens(n_tokens: int) -> int:
    """Length of the n-grams that anchors are chosen from: half the shortest passage, so that few are chosen."""
    return n_tokens // 2


def anchors(tokens: Tokens, n_tokens: int) -> tuple[U64, I64]:
    """(hash, index of its first token) of the anchors of a batch, in order."""
    n = anchor_tokens(n_tokens)
    window = n_tokens - n + 1
    hashes, at = ngram_hashes(tokens, n)
    if not len(hashes):
        return hashes, at
    doc = np.searchsorted(tokens.offsets, at, side="right") - 1
    smallest = _sliding(hashes, window, np.minimum, np.uint64(2**64 - 1))
    whole = np.zeros(len(hashes), dtype=bool)  # windows that lie in one document
    n_windows = max(0, len(hashes) - window + 1)  # none where the whole batch is shorter than one
    whole[:n_windows] = doc[window - 1 :] == doc[:n_windows]
    smallest[~whole] = 0
    # an n-gram is chosen where some window that holds it has it for its smallest
    reversed_ = _sliding(smallest[::-1], window, np.maximum, np.uint64(0))
    chosen = (reversed_[::-1] == hashes) & (hashes > 0)
    # of one token over and over the first two will do: the second repeats the first, to the end
    chosen[2:] &= (hashes[2:] != hashes[:-2]) | (hashes[2:] != hashes[1:-1]) | (doc[2:] != doc[:-2])
    return hashes[chosen], at[chosen]


def _sliding(values: U64, window: int, smaller: Any, neutral: np.uint64) -> U64:
    """The minimum (maximum) of values[i:i+window] for every i; past the end stands ``neutral``."""
    out = np.append(values, np.full(window, neutral))
    size = 1
    while 2 * size <= window:
        out[:-size] = smaller(out[:-size], out[size:])
        size *= 2
    rest = window - size
    return np.asarray(smaller(out[: len(values)], out[rest : rest + len(values)]))


@dataclass(frozen=True)
class Pairs:
    """Equal anchors in pairs: at token ``place`` of document ``doc`` and, before it in the order of preference, at
    ``earlier_place`` of ``earlier``. Documents by their number in that order."""

    doc: I64
    place: I64
    earlier: I64
    earlier_place: I64

    @classmethod
    def of(cls, hashes: U64, doc: I64, place: I64) -> Pairs:
        """Each anchor with the one before it of its hash, and a document's first also with the first of all.

        Not every pair: what agrees further only with one in the middle is cut shorter. And a document that goes round
        in circles pairs with itself alone, or its alignments with another would be as many as its rounds.
        """
        order = np.lexsort((place, doc, hashes))
        ordered = hashes[order]
        same = np.zeros(len(order), dtype=bool)
        same[1:] = ordered[1:] == ordered[:-1]
        places, starts = np.flatnonzero(same), np.flatnonzero(~same)
        first = order[starts[np.searchsorted(starts, places, side="right") - 1]]
        member, before = order[places], order[places - 1]
        apart = (before != first) & (doc[before] != doc[member])
        member, other = np.concatenate([member, member[apart]]), np.concatenate([before, first[apart]])
        return cls(doc[member], place[member], doc[other], place[other])

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """All of them, sorted so that anchors of one alignment of two documents follow each other."""
        fields = [
            np.concatenate([getattr(p, name) for p in parts] or [np.zeros(0, np.int64)])
            for name in ("doc", "place", "earlier", "earlier_place")
        ]
        doc, place, earlier, earlier_place = fields
        order = np.lexsort((place, place - earlier_place, earlier, doc))
        return cls(doc[order], place[order], earlier[order], earlier_place[order])

    def __len__(self) -> int:
        return len(self.doc)


def repeated_spans(pairs: Pairs, stream: U16, begins: I64, lengths: I64, n_tokens: int) -> tuple[I64, I64, I64]:
    """(document, first token, end) of every passage of at least ``n_tokens`` that comes earlier.

    ``stream``: 16 bits of each token's hash, document d at begins[d]:begins[d]+lengths[d], with at least ``MAX_BLOCK``
    more behind the last. An alignment's anchors are worked from the left, those inside a passage already found skipped.
    """
    diagonal = pairs.place - pairs.earlier_place
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = (
        (pairs.doc[1:] != pairs.doc[:-1]) | (pairs.earlier[1:] != pairs.earlier[:-1]) | (diagonal[1:] != diagonal[:-1])
    )
    group = np.cumsum(new) - 1
    reached = np.zeros(int(new.sum()), dtype=np.int64)  # how far each alignment's passages go
    todo = np.arange(len(pairs))
    found: list[tuple[I64, I64, I64]] = []
    while len(todo):
        lead = np.ones(len(todo), dtype=bool)
        lead[1:] = group[todo[1:]] != group[todo[:-1]]
        now = todo[lead]
        here, there = begins[pairs.doc[now]] + pairs.place[now], begins[pairs.earlier[now]] + pairs.earlier_place[now]
        room = np.minimum(
            lengths[pairs.doc[now]] - pairs.place[now], lengths[pairs.earlier[now]] - pairs.earlier_place[now]
        )
        end = pairs.place[now] + _agreeing(stream, here, there, room, 1)
        back = np.minimum(pairs.place[now], pairs.earlier_place[now])
        begin = pairs.place[now] - _agreeing(stream, here, there, back, -1)
        good = end - begin >= n_tokens
        found.append((pairs.doc[now][good], begin[good], end[good]))
        reached[group[now]] = np.maximum(end, pairs.place[now] + 1)
        todo = todo[~lead]
        todo = todo[pairs.place[todo] >= reached[group[todo]]]
    if not found:
        return tuple(np.zeros(0, np.int64) for _ in range(3))  # type: ignore[return-value]
    doc, begin, end = (np.concatenate(column) for column in zip(*found, strict=True))
    return doc, begin, end


def _agreeing(stream: U16, left: I64, right: I64, room: I64, step: int) -> I64:
    """How many tokens agree from left and right on (step 1) or before them (step -1), at most ``room``."""
    length = np.zeros(len(left), dtype=np.int64)
    live = np.flatnonzero(room > 0)
    block = _BLOCK
    while len(live):
        offsets = np.arange(block) if step > 0 else -1 - np.arange(block)
        going: list[I64] = []
        for at in range(0, len(live), max(1, _CELLS // block)):
            part = live[at : at + max(1, _CELLS // block)]
            shift = step * length[part]
            a = np.maximum((left[part] + shift)[:, None] + offsets, 0)
            b = np.maximum((right[part] + shift)[:, None] + offsets, 0)
            differs = stream[a] != stream[b]
            n_same = np.where(differs.any(axis=1), differs.argmax(axis=1), block)
            length[part] = np.minimum(length[part] + n_same, room[part])
            going.append(part[(n_same == block) & (length[part] < room[part])])
        live = np.concatenate(going)
        block = min(2 * block, MAX_BLOCK)
    return length


def merged_spans(doc: I64, begin: I64, end: I64) -> tuple[I64, I64, I64]:
    """The union of spans, document by document, in order."""
    if not len(doc):
        return doc, begin, end
    order = np.lexsort((begin, doc))
    doc, begin, end = doc[order], begin[order], end[order]
    # one number line: each document's tokens behind those of the one before
    base = doc * (int(end.max()) + 1)
    far = np.maximum.accumulate(base + end)
    new = np.ones(len(doc), dtype=bool)
    new[1:] = (base + begin)[1:] > far[:-1]
    starts = np.flatnonzero(new)
    last = np.append(starts[1:], len(doc)) - 1
    return doc[starts], begin[starts], far[last] - base[starts]
