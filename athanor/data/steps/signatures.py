"""MinHash signatures of batches (Broder 1997), folded into keys for locality-sensitive hashing (Leskovec, Rajaraman &
Ullman, "Mining of Massive Datasets", §3.4).

Hash k of a shingle x is a_k·x + b_k mod 2^64 with odd a_k: a permutation of 64-bit integers. The share of hashes whose
minimum agrees between two documents estimates their Jaccard similarity J; ``rows`` of them together make a band's key,
and two documents meet in at least one of ``bands`` with probability 1 - (1 - J^rows)^bands.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from athanor.data.steps.dedup_native import dedup_kernel, pointer
from athanor.data.steps.shingles import U64, Tokens, mixed, shingle_hashes

#: Lanes of the kernel: hashes are padded to a multiple.
LANES = 8
#: A document without tokens has this key in every band; it is compared with nothing.
NO_KEY = np.uint64(0)
_BLOCK_SHINGLES = 1 << 15
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_parameters(n_hashes: int, seed: int) -> tuple[U64, U64]:
    """(a, b) of each hash, from a SplitMix64 sequence: the same on every machine and version of numpy."""
    n = -(-n_hashes // LANES) * LANES
    with np.errstate(over="ignore"):
        state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.arange(1, 2 * n + 1, dtype=np.uint64) * _GOLDEN
    drawn = mixed(state)
    return drawn[:n] | np.uint64(1), drawn[n:].copy()


def minima(tokens: Tokens, ngram: int, n_hashes: int, seed: int) -> U64:
    """[n_docs, n_hashes padded to a multiple of LANES]: each hash's minimum; all ones for a document without tokens."""
    a, b = hash_parameters(n_hashes, seed)
    kernel, n_docs = dedup_kernel(), len(tokens.offsets) - 1
    if kernel is None:
        return _minima_numpy(*shingle_hashes(tokens, ngram), a, b)
    out = np.empty((n_docs, len(a)), dtype=np.uint64)
    hashes, offsets = np.ascontiguousarray(tokens.hash), np.ascontiguousarray(tokens.offsets)
    kernel.athanor_minhash(
        *(pointer(hashes), pointer(offsets), ctypes.c_int64(n_docs), ctypes.c_int64(ngram)),
        *(pointer(a), pointer(b), ctypes.c_int64(len(a)), pointer(out)),
    )
    return out


def band_keys(minimum: U64, bands: int, rows: int, groupings: int) -> U64:
    """[groupings·bands, n_docs]: the keys of each band, never ``NO_KEY`` for a document with tokens.

    The second grouping deals the same hashes to bands anew (hash k of band i goes to band (k·bands + i) // rows): twice
    the chances to meet for the price of the keys alone. Candidates then want verification (``estimated_jaccard``).
    """
    n_docs = len(minimum)
    used = minimum[:, : bands * rows]
    dealt = [used.reshape(n_docs, bands, rows)]
    if groupings == 2:
        dealt.append(dealt[0].transpose(0, 2, 1).reshape(n_docs, bands, rows))
    keys = np.empty((groupings * bands, n_docs), dtype=np.uint64)
    for g, grouped in enumerate(dealt):
        key = np.zeros((n_docs, bands), dtype=np.uint64)
        for row in range(rows):
            key = mixed(key + _GOLDEN ^ grouped[:, :, row])
        keys[g * bands : (g + 1) * bands] = np.maximum(key, 1).T
    keys[:, minimum[:, 0] == np.uint64(2**64 - 1)] = NO_KEY
    return keys


def packed_signature(minimum: U64) -> U64:
    """[n_hashes/8, n_docs]: eight bits of each minimum (b-bit minwise hashing, Li & König 2010), eight to a word."""
    return np.ascontiguousarray((mixed(minimum) & np.uint64(255)).astype(np.uint8).view(np.uint64).T)


def agreements(left: U64, right: U64) -> npt.NDArray[np.uint8]:
    """How many of the eight bytes of each pair of words agree."""
    return np.asarray(((left ^ right).view(np.uint8).reshape(-1, LANES) == 0).sum(axis=1, dtype=np.uint8))


def estimated_jaccard(n_agreeing: npt.NDArray[np.integer], n_hashes: int) -> npt.NDArray[np.float64]:
    """J from how many 8-bit minima agree: by chance 1 in 256 does (Li & König 2010, §2)."""
    chance = 1 / 256
    return np.asarray((n_agreeing / n_hashes - chance) / (1 - chance))


def _minima_numpy(shingles: U64, offsets: npt.NDArray[np.int64], a: U64, b: U64) -> U64:
    n_docs = len(offsets) - 1
    out = np.full((n_docs, len(a)), np.uint64(2**64 - 1))
    first = 0
    while first < n_docs:  # blocks of documents whose shingles stay in the cache
        last = max(int(np.searchsorted(offsets, offsets[first] + _BLOCK_SHINGLES, side="right")) - 1, first + 1)
        here = shingles[offsets[first] : offsets[last]]
        filled = first + np.flatnonzero(np.diff(offsets[first : last + 1]))
        if len(filled):
            begins = offsets[filled] - offsets[first]
            for k in range(len(a)):
                out[filled, k] = np.minimum.reduceat(here * a[k] + b[k], begins)
        first = last
    return out
