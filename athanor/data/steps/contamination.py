"""The index of evaluation sets that documents are looked up in: sorted n-gram hashes behind a bitmap.

The tables, over tokens with numbers folded (``shingles``): ``exact`` and ``exact_han``, every n-gram of every text;
``whole``, questions shorter than that; ``fuzzy`` and ``fuzzy_han``, up to ``SKETCH`` short n-grams of each text, those
of the smallest hashes (a bottom-k sketch, Cohen & Kaplan 2007): the share of them that a passage holds estimates how
much of the text it contains. Left out: n-grams of more than ``max_items`` items of one set (templates), and those of
few different or very short tokens (number rows, formulas of single letters).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.data.steps.base import Docs
from athanor.data.steps.benchmarks import read_parts, set_files
from athanor.data.steps.shingles import U64, VERSION, Tokens, ngram_hashes, tokens_of
from athanor.native import cache_dir
from athanor.recipe.steps.dedup import DecontaminateOptions

I64 = npt.NDArray[np.int64]
#: Sampled n-grams of a text for fuzzy matching, and the fewest that say anything.
SKETCH, MIN_SKETCH = 32, 12
#: Tokens of the shortest question that is looked for as a whole.
SHORTEST, SHORTEST_HAN = 8, 10
#: Length of n-grams of the fuzzy tables where Han prevails, for one word's worth of two characters.
_FUZZY_HAN = 8
_FORMAT = 1
_MIN_DISTINCT, _MIN_BYTES = 7, 36
_TABLES = ("exact", "exact_han", "whole", "fuzzy", "fuzzy_han")


@dataclass(frozen=True)
class Table:
    """n-grams of ``n`` tokens. hashes sorted; parts[i] the text that hash i is of; extra[i] what else is known (whole:
    the text's length). ``bits``: a bitmap of the hashes' upper bits."""

    n: int
    hashes: U64
    parts: npt.NDArray[np.uint32]
    extra: U64
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, n: int, hashes: U64, parts: I64, extra: U64 | None = None) -> Table:
        """Sorted, each pair of hash and text once."""
        given = np.zeros(len(hashes), dtype=np.uint64) if extra is None else extra
        order = np.lexsort((given, parts, hashes))
        hashes, owner, given = hashes[order], parts[order].astype(np.uint32), given[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1]) | (given[1:] != given[:-1])
        width = max(16, (16 * len(hashes)).bit_length())
        flags = np.zeros(1 << width, dtype=bool)
        flags[hashes >> np.uint64(64 - width)] = True
        return cls(n, hashes[new], owner[new], given[new], np.packbits(flags, bitorder="little"))

    def find(self, windows: U64) -> tuple[I64, I64]:
        """(window, entry) of every n-gram that the table has."""
        if not len(self.hashes) or not len(windows):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = windows >> np.uint64(64 - (len(self.bits).bit_length() - 1 + 3))
        maybe = np.flatnonzero((self.bits[at >> np.uint64(3)] >> (at & np.uint64(7)).astype(np.uint8)) & np.uint8(1))
        first = np.searchsorted(self.hashes, windows[maybe])
        inside = first < len(self.hashes)
        hit = np.zeros(len(maybe), dtype=bool)
        hit[inside] = self.hashes[first[inside]] == windows[maybe[inside]]
        maybe, first = maybe[hit], first[hit]
        counts = np.searchsorted(self.hashes, windows[maybe], side="right") - first
        window = np.repeat(maybe, counts)
        entry = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return window, entry


@dataclass(frozen=True)
class ContaminationIndex:
    """Tables and what their texts are: ``sets`` names; item_set [n_items], part_item [n_parts], part_tokens [n_parts],
    sketch_size [n_parts]; ``unprotected``: items of each set with nothing long enough to look for."""

    tables: dict[str, Table]
    sets: list[str]
    item_set: I64
    item_row: I64
    part_item: I64
    part_tokens: I64
    sketch_size: I64
    unprotected: list[int]
    texts: Path | Sequence[str]  # the beginning of each text, or the file that holds them

    @cached_property
    def examples(self) -> Sequence[str]:
        """The beginning of each text; read when asked for: only the report wants them."""
        if isinstance(self.texts, Path):
            return list(json.loads(self.texts.read_text("utf-8")))
        return self.texts

    @classmethod
    def load(cls, options: DecontaminateOptions, key: str) -> ContaminationIndex:
        """From the cache, built there first if need be; several processes that ask at once wait for one of them."""
        folder = cache_folder(options) / f"decontaminate-{key}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / "index.json").exists():
            with _locked(folder.with_suffix(".lock")):
                if not (folder / "index.json").exists():
                    _write(build(options), folder)
        return _read(folder)


def cache_folder(options: DecontaminateOptions) -> Path:
    """Where indexes lie."""
    return Path(options.cache).expanduser() if options.cache is not None else cache_dir()


def fingerprint(options: DecontaminateOptions) -> str:
    """Of the sets' contents and of every option that tables depend on."""
    import xxhash

    digest = xxhash.xxh3_128()
    o = options
    told = [_FORMAT, VERSION, o.ngram, o.ngram_han, o.fuzzy_ngram, o.max_items, sorted(o.ignore_fields)]
    digest.update(json.dumps(told).encode())
    for name, file in set_files(o.sets):
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0" + xxhash.xxh3_128_digest(file.read_bytes()))
    return digest.hexdigest()


def build(options: DecontaminateOptions) -> ContaminationIndex:
    """Read every set and make the tables."""
    o = options
    files = set_files(o.sets)
    parts = list(read_parts(files, o.ignore_fields))
    sets = [name for name, _ in files]
    number = {name: i for i, name in enumerate(sets)}
    items: dict[tuple[int, int], int] = {}
    part_item = np.array([items.setdefault((number[p.set_name], p.item), len(items)) for p in parts], dtype=np.int64)
    keys = np.array(list(items), dtype=np.int64).reshape(-1, 2)
    tokens = tokens_of(Docs.of([p.text for p in parts], id=[""] * len(parts)), numbers=True)
    maker = _Maker(tokens, part_item, keys[:, 0], o)
    asks = np.array([p.asks for p in parts], dtype=bool)
    tables = {
        "exact": maker.every(o.ngram, 0, o.ngram // 2),
        "exact_han": maker.every(o.ngram_han, o.ngram // 2 + 1, o.ngram_han),
        "whole": maker.whole(asks),
        "fuzzy": maker.sampled(o.fuzzy_ngram, 0, o.fuzzy_ngram // 2),
        "fuzzy_han": maker.sampled(_FUZZY_HAN, _FUZZY_HAN // 2 + 1, _FUZZY_HAN),
    }
    sketch = sum(np.bincount(tables[name].parts, minlength=len(parts)) for name in ("fuzzy", "fuzzy_han"))
    seen = np.zeros(len(keys), dtype=bool)
    for table in tables.values():
        seen[part_item[table.parts]] = True
    unprotected = np.bincount(keys[~seen, 0], minlength=len(sets)).tolist()
    return ContaminationIndex(
        tables, sets, keys[:, 0], keys[:, 1], part_item, tokens.counts, np.asarray(sketch), unprotected,
        [" ".join(p.text.split())[:160] for p in parts],
    )  # fmt: skip


class _Maker:
    """Makes tables from the texts' tokens."""

    def __init__(self, tokens: Tokens, part_item: I64, item_set: I64, options: DecontaminateOptions) -> None:
        self.tokens, self.part_item, self.item_set, self.options = tokens, part_item, item_set, options
        self.part_of = np.repeat(np.arange(len(part_item)), tokens.counts)
        self.han = np.concatenate([[0], np.cumsum(tokens.hash & np.uint64(1))]).astype(np.int64)
        self.bytes = np.concatenate([[0], np.cumsum(tokens.end - tokens.start)]).astype(np.int64)

    def every(self, n: int, min_han: int, max_han: int) -> Table:
        """All n-grams that have this many tokens of one character."""
        hashes, at = self._windows(n, min_han, max_han, _MIN_DISTINCT, _MIN_BYTES)
        return Table.of(n, hashes, self.part_of[at])

    def sampled(self, n: int, min_han: int, max_han: int) -> Table:
        """The ``SKETCH`` smallest hashes of each text."""
        hashes, at = self._windows(n, min_han, max_han, n - 1, 3 * n)
        whole = Table.of(n, hashes, self.part_of[at])
        order = np.lexsort((whole.hashes, whole.parts))
        owner = whole.parts[order]
        # shorter texts (options of a choice, answers) are found whole or not at all
        counts, first = self.tokens.counts, self.tokens.offsets[:-1]
        mostly_han = 2 * (self.han[self.tokens.offsets[1:]] - self.han[first]) > counts
        long_enough = counts >= np.where(mostly_han, self.options.ngram_han, self.options.ngram)
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        enough = np.bincount(owner, minlength=len(self.part_item))[owner] >= MIN_SKETCH
        enough &= long_enough[owner]
        kept = order[(rank < SKETCH) & enough]
        return Table.of(n, whole.hashes[kept], whole.parts[kept].astype(np.int64))

    def whole(self, asks: npt.NDArray[np.bool_]) -> Table:
        """Questions too short for an n-gram: hash of their first ``SHORTEST`` tokens; extra: length << 58 | 58 bits of
        the whole question's hash."""
        counts, first = self.tokens.counts, self.tokens.offsets[:-1]
        han = self.han[self.tokens.offsets[1:]] - self.han[first]
        mostly = 2 * han > counts
        low = np.where(mostly, SHORTEST_HAN, SHORTEST)
        high = np.where(mostly, self.options.ngram_han, self.options.ngram)
        parts = np.flatnonzero(asks & (counts >= low) & (counts < high))
        hashes, at = ngram_hashes(self.tokens, SHORTEST)
        prefix = hashes[np.searchsorted(at, first[parts])]
        extra = np.zeros(len(parts), dtype=np.uint64)
        for n in np.unique(counts[parts]):
            here = np.flatnonzero(counts[parts] == n)
            hashes, at = ngram_hashes(self.tokens, int(n))
            full = hashes[np.searchsorted(at, first[parts[here]])]
            extra[here] = whole_key(int(n), full)
        good = ~self._template(extra, parts) & (self._distinct(first[parts], SHORTEST) >= SHORTEST - 2)
        return Table.of(SHORTEST, prefix[good], parts[good], extra[good])

    def _windows(self, n: int, min_han: int, max_han: int, distinct: int, n_bytes: int) -> tuple[U64, I64]:
        hashes, at = ngram_hashes(self.tokens, n)
        han = self.han[at + n] - self.han[at]
        size = self.bytes[at + n] - self.bytes[at]
        good = np.flatnonzero((han >= min_han) & (han <= max_han) & (size >= n_bytes))
        good = good[self._distinct(at[good], n) >= distinct]
        hashes, at = hashes[good], at[good]
        fine = ~self._template(hashes, self.part_of[at])
        return hashes[fine], at[fine]

    def _distinct(self, at: I64, n: int) -> I64:
        """Different tokens of each window."""
        out = np.zeros(len(at), dtype=np.int64)
        for begin in range(0, len(at), 1 << 18):
            here = at[begin : begin + (1 << 18)]
            window = np.sort(self.tokens.hash[here[:, None] + np.arange(n)], axis=1)
            out[begin : begin + len(here)] = 1 + (window[:, 1:] != window[:, :-1]).sum(axis=1)
        return out

    def _template(self, hashes: U64, parts: I64) -> npt.NDArray[np.bool_]:
        """n-grams that more than ``max_items`` items of one set have."""
        item = self.part_item[parts]
        order = np.lexsort((item, hashes))
        ordered, items = hashes[order], item[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (ordered[1:] != ordered[:-1]) | (items[1:] != items[:-1])
        once, owner = ordered[new], self.item_set[items[new]]
        begins = np.ones(len(once), dtype=bool)  # items are numbered set by set: a set's items of one hash are adjacent
        begins[1:] = (once[1:] != once[:-1]) | (owner[1:] != owner[:-1])
        starts = np.flatnonzero(begins)
        counts = np.diff(np.append(starts, len(once)))
        return np.isin(hashes, once[starts[counts > self.options.max_items]])


def whole_key(n: int, hashes: U64) -> U64:
    """Length and hash of a short question in one word."""
    return np.uint64(n) << np.uint64(58) | hashes >> np.uint64(6)


def _write(index: ContaminationIndex, folder: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, table in index.tables.items():
            for field in ("hashes", "parts", "extra", "bits"):
                np.save(scratch / f"{name}-{field}.npy", getattr(table, field))
        for field in ("item_set", "item_row", "part_item", "part_tokens", "sketch_size"):
            np.save(scratch / f"{field}.npy", getattr(index, field))
        (scratch / "examples.json").write_text(json.dumps(list(index.examples)), "utf-8")
        told: dict[str, Any] = {name: getattr(index, name) for name in ("sets", "unprotected")}
        told["lengths"] = {name: table.n for name, table in index.tables.items()}
        (scratch / "index.json").write_text(json.dumps(told, ensure_ascii=True), "utf-8")
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(folder: Path) -> ContaminationIndex:
    def array(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    told = json.loads((folder / "index.json").read_text("utf-8"))
    fields: Sequence[str] = ("hashes", "parts", "extra", "bits")
    tables = {n: Table(told["lengths"][n], *(array(f"{n}-{field}") for field in fields)) for n in _TABLES}
    numbers = {n: array(n) for n in ("item_set", "item_row", "part_item", "part_tokens", "sketch_size")}
    return ContaminationIndex(
        tables=tables, sets=told["sets"], unprotected=told["unprotected"], texts=folder / "examples.json", **numbers
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    import fcntl

    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
