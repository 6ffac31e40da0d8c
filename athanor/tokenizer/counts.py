"""What a vocabulary is learned from: pieces of text (what the pattern cuts), counted for each domain."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from athanor.tokenizer.kernel import Bytes, Handle, Int64s, joined, kernel, pointer
from athanor.tokenizer.pattern import POLICIES, Digits, flags

#: Pieces longer than this (encoded data, lines of signs) teach a vocabulary nothing and would be dear to learn from.
LONGEST_PIECE = 1000
_BATCH_BYTES = 4_000_000


@dataclass(frozen=True)
class PieceCounts:
    """Distinct pieces and how often each domain has them.

    data     uint8, the pieces end to end; piece i ends at ends[i] (int64 [pieces])
    counts   int64 [pieces, domains]
    n_bytes  int64 [domains], bytes of text counted (pieces longer than ``LONGEST_PIECE`` included)
    """

    domains: tuple[str, ...]
    data: Bytes
    ends: Int64s
    counts: Int64s
    n_bytes: Int64s
    digits: Digits

    def __len__(self) -> int:
        return len(self.ends)

    def pieces(self) -> list[bytes]:
        """The pieces' bytes."""
        whole, cuts = self.data.tobytes(), [0, *self.ends.tolist()]
        return [whole[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]

    def only(self, domain: int) -> PieceCounts:
        """The pieces of one domain."""
        keep = np.flatnonzero(self.counts[:, domain])
        lengths = np.diff(self.ends, prepend=0)
        member = np.repeat(self.counts[:, domain] > 0, lengths)
        return PieceCounts(
            (self.domains[domain],),
            self.data[member],
            np.cumsum(lengths[keep]),
            np.ascontiguousarray(self.counts[keep, domain : domain + 1]),
            self.n_bytes[domain : domain + 1],
            self.digits,
        )


def count_pieces(
    documents: Iterable[tuple[str, str]], digits: Digits = "single", domains: Sequence[str] = ()
) -> PieceCounts:
    """Count (domain, text) documents. Neither their order nor how they are read in changes what is learned.

    ``domains``: names in the order wanted; others are added behind. Memory grows with the distinct pieces, not with the
    text.
    """
    counter = _NativeCounter(digits) if kernel() is not None else _SlowCounter(digits)
    names, n_bytes = list(domains), [0] * len(domains)
    for domain, texts in _batches(documents):
        if domain not in names:
            names.append(domain)
            n_bytes.append(0)
        at = names.index(domain)
        encoded = [text.encode("utf-8", "replace") for text in texts]  # a lone surrogate is no text
        n_bytes[at] += sum(map(len, encoded))
        counter.add(at, encoded)
    data, ends, counts = counter.export(len(names))
    return PieceCounts(tuple(names), data, ends, counts, np.array(n_bytes, dtype=np.int64), digits)


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    held: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for domain, text in documents:
        held.setdefault(domain, []).append(text)
        sizes[domain] = sizes.get(domain, 0) + len(text)
        if sizes[domain] >= _BATCH_BYTES:
            yield domain, held.pop(domain)
            sizes[domain] = 0
    yield from held.items()


class _NativeCounter:
    """One C++ table for each domain, put together at the end."""

    def __init__(self, digits: Digits) -> None:
        self._tables: dict[int, Handle] = {}
        self._flags, self._digits = flags(), POLICIES[digits]

    def add(self, domain: int, texts: list[bytes]) -> None:
        library = kernel()
        assert library is not None
        if domain not in self._tables:
            sizes = map(ctypes.c_int64, (self._digits, 1, LONGEST_PIECE))
            self._tables[domain] = Handle(library, "counter", pointer(self._flags), *sizes)
        data, offsets = joined(texts)
        library.athanor_counter_add(
            self._tables[domain].at, pointer(data), pointer(offsets), *map(ctypes.c_int64, (len(texts), 0))
        )

    def export(self, n_domains: int) -> tuple[Bytes, Int64s, Int64s]:
        library = kernel()
        assert library is not None
        found: list[tuple[int, list[bytes], Int64s]] = []
        for domain, table in self._tables.items():
            n, size = ctypes.c_int64(), ctypes.c_int64()
            library.athanor_counter_size(table.at, ctypes.byref(n), ctypes.byref(size))
            data = np.empty(size.value, dtype=np.uint8)
            ends, counts = np.empty(n.value, dtype=np.int64), np.empty(n.value, dtype=np.int64)
            library.athanor_counter_export(table.at, pointer(data), pointer(ends), pointer(counts))
            whole, cuts = data.tobytes(), [0, *ends.tolist()]
            found.append((domain, [whole[a:b] for a, b in zip(cuts, cuts[1:], strict=False)], counts))
        return _together(found, n_domains)


class _SlowCounter:
    """The same by ``tokenizers``' own pre-tokeniser, where there is no compiler."""

    def __init__(self, digits: Digits) -> None:
        self._digits = digits
        self._tables: dict[int, dict[bytes, int]] = {}

    def add(self, domain: int, texts: list[bytes]) -> None:
        from athanor.tokenizer.fast import pieces

        table = self._tables.setdefault(domain, {})
        for text in texts:
            for piece in map(str.encode, pieces(text.decode(), self._digits)):
                if len(piece) <= LONGEST_PIECE:
                    table[piece] = table.get(piece, 0) + 1

    def export(self, n_domains: int) -> tuple[Bytes, Int64s, Int64s]:
        found = [
            (domain, list(table), np.fromiter(table.values(), dtype=np.int64, count=len(table)))
            for domain, table in self._tables.items()
        ]
        return _together(found, n_domains)


def _together(found: list[tuple[int, list[bytes], Int64s]], n_domains: int) -> tuple[Bytes, Int64s, Int64s]:
    """One table of all domains, pieces sorted by their bytes: the same whatever order the text came in."""
    number = {piece: i for i, piece in enumerate(sorted(set().union(*(pieces for _, pieces, _ in found))))}
    counts = np.zeros((len(number), n_domains), dtype=np.int64)
    for domain, pieces, values in found:
        counts[np.fromiter(map(number.__getitem__, pieces), dtype=np.int64, count=len(pieces)), domain] = values
    data, offsets = joined(list(number))
    return data, np.ascontiguousarray(offsets[1:]), counts
