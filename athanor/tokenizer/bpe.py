"""Learning merges from counted pieces: the C++ trainer, or the same in Python where it cannot be built."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from athanor.tokenizer.counts import PieceCounts
from athanor.tokenizer.fast import BYTE_CHARACTERS
from athanor.tokenizer.kernel import Int32s, Int64s, joined, kernel, pointer
from athanor.tokenizer.pattern import POLICIES, flags

#: Called now and then with how many merges have been learned.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rules:
    """How merges are chosen.

    parity         False: the pair with the largest score. True: the pair that is most frequent in the domain which is
                   compressed worst so far (parity-aware BPE, arXiv 2508.04796), with bytes as the unit of length, and
                   of the last ``window`` merges no domain has more than twice its even share.
    min_frequency  a pair that occurs less often (counted, not weighted) becomes no token.
    alone          leave out tokens that the pre-tokeniser would cut when they stand alone (for example " = " behind
                   which it wants a digit), or that hold parts of two characters: every token is then text that
                   is reachable from itself, or some bytes of one character.
    first_specials how many ids come before those of the bytes.
    """

    max_merges: int
    min_frequency: int = 2
    parity: bool = False
    alone: bool = True
    first_specials: int = 0
    window: int = 100


@dataclass(frozen=True, slots=True)
class Learned:
    """Merges in order, int32 ids [n, 2], and what each was chosen for, int64 [n]: the score of its pair then, which is
    how many tokens fewer the (scored) text has with it."""

    merges: Int32s
    gains: Int64s
    first_specials: int

    def __len__(self) -> int:
        return len(self.merges)

    def tokens(self) -> list[bytes]:
        """The bytes of each merge's whole, in order."""
        part = {int(i): bytes([byte]) for byte, i in enumerate(byte_ids(self.first_specials))}
        out: list[bytes] = []
        for number, (a, b) in enumerate(self.merges.tolist()):
            out.append(part[a] + part[b])
            part[self.first_specials + 256 + number] = out[-1]
        return out


def byte_ids(first: int) -> Int32s:
    """Id of each byte's token, int32 [256]: as ``tokenizers`` gives them, in the order of their characters."""
    order = sorted(range(256), key=BYTE_CHARACTERS.__getitem__)
    ids = np.empty(256, dtype=np.int32)
    ids[order] = np.arange(first, first + 256, dtype=np.int32)
    return ids


def learn(
    pieces: PieceCounts,
    rules: Rules,
    scores: Int64s | None = None,
    candidates: Collection[bytes] = (),
    progress: Progress | None = None,
) -> Learned:
    """Merges in the order they are learned, at most ``max_merges`` (fewer when no pair is left).

    The whole of merge i has the id ``first_specials`` + 256 + i. ``scores``: int64 [pieces], what ranks pairs (default:
    the counts' sum); ties go to the smaller ids. ``candidates``: first only tokens among these, then, when none of
    them is left to make, any.
    """
    raw = pieces.counts.sum(axis=1)
    columns = pieces.counts if rules.parity else np.stack([raw if scores is None else scores, raw], axis=1)
    columns = np.ascontiguousarray(columns, dtype=np.int64)
    if kernel() is None:
        from athanor.tokenizer.bpe_python import learn_slowly

        return learn_slowly(pieces, rules, columns, frozenset(candidates))
    return _learn_natively(pieces, rules, columns, candidates, progress)


def _learn_natively(
    pieces: PieceCounts, rules: Rules, columns: Int64s, candidates: Collection[bytes], progress: Progress | None
) -> Learned:
    library = kernel()
    assert library is not None
    first = rules.first_specials + 256
    options = np.array(
        [
            *(columns.shape[1], not rules.parity, rules.max_merges, rules.min_frequency, first),
            *(rules.alone, POLICIES[pieces.digits], rules.window),
        ],
        dtype=np.int64,
    )
    allowed, allowed_offsets = joined(sorted(candidates))
    allowed_ends = np.ascontiguousarray(allowed_offsets[1:])
    merges = np.empty((max(rules.max_merges, 0), 2), dtype=np.int32)
    gains = np.empty(len(merges), dtype=np.int64)
    ids = byte_ids(rules.first_specials)
    failed: list[BaseException] = []

    def tell(n: int) -> int:
        try:
            if progress is not None:
                progress(n)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C too; it may not pass through C++
            failed.append(error)
            return 0
        return 1

    n = library.athanor_train(
        *(pointer(options), pointer(flags()), pointer(pieces.data), pointer(pieces.ends)),
        *(ctypes.c_int64(len(pieces)), pointer(columns), pointer(ids)),
        *(pointer(allowed), pointer(allowed_ends), ctypes.c_int64(len(allowed_ends)), pointer(merges), pointer(gains)),
        ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(tell),
    )
    if failed:
        raise failed[0]
    return Learned(merges[:n].copy(), gains[:n].copy(), rules.first_specials)
