"""Memory-mapped token shards: what the tokenizer left, in the form the loader reads.

A directory holds, for each shard, ``shard-00000.tokens`` (little-endian uint16 while the vocabulary fits, else
uint32), ``shard-00000.docs`` (int64 offsets: document i is tokens[docs[i]:docs[i+1]]) and, for conversations,
``shard-00000.mask`` (uint8: 1 where the token is learned), and last of all ``index.json`` with counts, sizes and
checksums. Without an index the directory is unfinished and nothing reads it.

What is known of documents stands beside them, one value each, only in shards where something is known:
``.weight`` and ``.difficulty`` (float32; a document without one has weight 1 and difficulty NaN) and ``.label`` (uint16
into the shard's list of (domain, language); no file where all documents have the same).
"""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from athanor.data.shard_files import FORMAT, INDEX, check_file, checked_index, read_index
from athanor.errors import AthanorError
from athanor.files import digest, write_json

if TYPE_CHECKING:
    from athanor.data.remote import Folder

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
#: (domain, language) of a document
Label = tuple[str, str]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of little-endian uint16 and uint32 that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


#: What may be known of a document, and what one has of which it is not known.
MEASURES: dict[str, float] = {"weight": 1.0, "difficulty": float("nan")}


@dataclass(slots=True)
class Block:
    """Consecutive documents in columns: ``tokens`` end to end, each closed by the end token, and one value a document
    of the rest. ``mask`` is None where the shards have none; of ``measures`` (``MEASURES``) what is known;
    ``label_of`` is a place in ``labels``, which has ("", "") for documents that do not tell."""

    tokens: npt.NDArray[Any]
    lens: Int64s
    mask: npt.NDArray[np.uint8] | None
    measures: Mapping[str, Float32s]
    labels: Sequence[Label]
    label_of: Int64s

    def part(self, first: int, end: int) -> Block:
        """Documents first … end - 1."""
        at = int(self.lens[:first].sum())
        stop = at + int(self.lens[first:end].sum())
        return Block(
            self.tokens[at:stop],
            self.lens[first:end],
            None if self.mask is None else self.mask[at:stop],
            {name: values[first:end] for name, values in self.measures.items()},
            self.labels,
            self.label_of[first:end],
        )


#: So many documents that came one by one are kept apart before they become a block.
_LOOSE_DOCUMENTS = 4096


@dataclass(slots=True)
class _Loose:
    """Documents that came one by one, in lists."""

    tokens: list[npt.NDArray[Any]] = field(default_factory=list)
    masks: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    lens: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})
    labels: dict[Label, int] = field(default_factory=dict)
    label_of: list[int] = field(default_factory=list)

    def add(
        self,
        tokens: npt.NDArray[Any],
        mask: npt.NDArray[np.uint8] | None,
        label: Label | None,
        measures: Mapping[str, float | None],
    ) -> None:
        self.tokens.append(tokens)
        self.lens.append(len(tokens))
        if mask is not None:
            self.masks.append(mask)
        for name, default in MEASURES.items():
            value = measures.get(name)
            self.measures[name].append(default if value is None else value)
        self.label_of.append(self.labels.setdefault(label or ("", ""), len(self.labels)))

    def block(self) -> Block:
        return Block(
            np.concatenate(self.tokens),
            np.array(self.lens, dtype=np.int64),
            np.concatenate(self.masks) if self.masks else None,
            {name: np.array(values, dtype=np.float32) for name, values in self.measures.items()},
            list(self.labels),
            np.array(self.label_of, dtype=np.int64),
        )


class ShardWriter:
    """Writes documents into shards of about ``shard_tokens`` tokens. A context manager: ``close`` writes the index.

    ``origin`` is kept in the index (what the shards were made from), for whoever decides whether they are still good.
    The files are a function of the documents and their order alone, however they were grouped into calls.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer_fingerprint: str,
        vocab_size: int,
        with_mask: bool = False,
        *,
        eos_id: int = 0,
        shard_tokens: int = 1 << 27,
        origin: str = "",
    ) -> None:
        self.path = Path(path)
        if (self.path / INDEX).exists():
            raise AthanorError(
                "finished shards are already here", where=str(path), fix="another directory, or delete it"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob("shard-*"):  # of a run that was stopped before its index
            left.unlink()
        self._dtype = token_dtype(vocab_size)
        self._with_mask, self._eos_id, self._shard_tokens = with_mask, eos_id, shard_tokens
        self._head: dict[str, Any] = {
            "format": FORMAT,
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "vocab_size": vocab_size,
            "eos_id": eos_id,
            "with_mask": with_mask,
            "dtype": self._dtype.name,
            "origin": origin,
        }
        self._shards: list[dict[str, Any]] = []
        self._blocks: list[Block] = []
        self._loose = _Loose()
        self._pending = 0

    def add(
        self,
        ids: Sequence[int] | npt.NDArray[Any],
        mask: Sequence[int] | npt.NDArray[Any] | None = None,
        *,
        label: Label | None = None,
        **measures: float | None,
    ) -> None:
        """Store one document; the end token is appended if it is not there (unmasked: it is not learned).

        ``label``: its domain and language; ``measures``: its ``weight`` and ``difficulty``, None where not known.
        ``AthanorError`` for an empty document, an id outside the vocabulary, or a mask of another length.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        wrong = None
        if not tokens.size:
            wrong = "is empty"
        elif tokens.min() < 0 or tokens.max() >= self._head["vocab_size"]:
            wrong = f"has an id outside 0…{self._head['vocab_size'] - 1}"
        elif (mask is not None) != self._with_mask or (mask is not None and len(mask) != tokens.size):
            wrong = "has a mask that does not match its tokens"
        if wrong is not None:
            known = sum(s["documents"] for s in self._shards) + sum(len(block.lens) for block in self._blocks)
            fix = "tokenize with this vocabulary"
            raise AthanorError(f"document {known + len(self._loose.lens)} {wrong}", where=str(self.path), fix=fix)
        closed = tokens[-1] == self._eos_id
        learned = None if mask is None else np.asarray(mask, dtype=np.uint8)
        if not closed:
            tokens = np.append(tokens, self._eos_id)
            learned = None if learned is None else np.append(learned, np.uint8(0))
        self._loose.add(tokens.astype(self._dtype), learned, label, measures)
        self._pending += len(tokens)
        if self._pending >= self._shard_tokens:
            self._flush()
        elif len(self._loose.lens) >= _LOOSE_DOCUMENTS:
            self._seal()

    def extend(self, block: Block) -> None:
        """Store whole documents that another writer of this vocabulary has checked and closed."""
        self._seal()
        ends = np.cumsum(block.lens)
        first = 0
        while first < len(block.lens):
            before = int(ends[first - 1]) if first else 0
            room = self._shard_tokens - self._pending
            end = min(int(np.searchsorted(ends, before + room)) + 1, len(ends))
            self._take(block.part(first, end) if (first, end) != (0, len(ends)) else block)
            first = end

    def _seal(self) -> None:
        """Documents that came one by one become a block, which takes less room."""
        if self._loose.lens:
            self._blocks.append(self._loose.block())
            self._loose = _Loose()

    def _take(self, block: Block) -> None:
        self._blocks.append(block)
        self._pending += len(block.tokens)
        if self._pending >= self._shard_tokens:
            self._flush()

    def _flush(self) -> None:
        self._seal()
        stem = f"shard-{len(self._shards):05d}"
        blocks = self._blocks
        lens = np.concatenate([block.lens for block in blocks])
        files: dict[str, npt.NDArray[Any]] = {
            "tokens": np.concatenate([block.tokens for block in blocks]).astype(self._dtype, copy=False),
            "docs": np.concatenate([[0], np.cumsum(lens, dtype=np.int64)]).astype("<i8"),
        }
        if self._with_mask:
            files["mask"] = np.concatenate([block.mask for block in blocks if block.mask is not None])
        files |= _measures(blocks)
        entry: dict[str, Any] = {"name": stem, "documents": len(lens), "tokens": self._pending, "files": {}}
        labels, label_of = _labels(blocks)
        if labels:
            entry["labels"] = [list(label) for label in labels]
        if len(labels) > 1:
            files["label"] = label_of
        for kind, values in files.items():
            content = values.tobytes()
            with open(self.path / f"{stem}.{kind}", "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            entry["files"][kind] = {"bytes": len(content), "crc32": zlib.crc32(content)}
        self._shards.append(entry)
        self._blocks, self._pending = [], 0

    def close(self) -> None:
        """Write what is pending, then the index. From here on the directory is whole."""
        if self._pending:
            self._flush()
        counts = {key: sum(s[key] for s in self._shards) for key in ("documents", "tokens")}
        index = {**self._head, **counts, "shards": self._shards}
        write_json(self.path / INDEX, {**index, "checksum": digest(index)})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:  # after an error there is no index, and the directory stays unfinished
            self.close()


def _measures(blocks: Sequence[Block]) -> dict[str, npt.NDArray[Any]]:
    """Each measure that any document of a shard has."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, default in MEASURES.items():
        if any(name in block.measures for block in blocks):
            columns = [block.measures.get(name, np.full(len(block.lens), default, np.float32)) for block in blocks]
            values = np.concatenate(columns).astype("<f4")
            if not np.array_equal(values, np.full(len(values), default, "<f4"), equal_nan=True):
                found[name] = values
    return found


def _labels(blocks: Sequence[Block]) -> tuple[list[Label], npt.NDArray[Any]]:
    """(the labels of a shard in order of first use, the number of each document's); ("", "") where there is none."""
    numbers: dict[Label, int] = {}
    columns = []
    for block in blocks:
        used, first = np.unique(block.label_of, return_index=True)
        ours = np.zeros(len(block.labels), dtype="<u2")
        for at in used[np.argsort(first)]:
            ours[at] = numbers.setdefault(tuple(block.labels[at]), len(numbers))  # type: ignore[arg-type]
        columns.append(ours[block.label_of])
    known = list(numbers) if set(numbers) != {("", "")} else []
    return known, np.concatenate(columns)


class ShardSet:
    """A finished directory of shards, memory-mapped. Documents are numbered through all shards."""

    def __init__(self, path: Path | str, index: dict[str, Any], folder: Folder | None = None) -> None:
        """``folder``: where the files come from when they are behind a URL."""
        self.path, self.index, self._folder = path, index, folder
        self.tokenizer_fingerprint: str = index["tokenizer_fingerprint"]
        self.vocab_size: int = index["vocab_size"]
        self.eos_id: int = index["eos_id"]
        self.with_mask: bool = index["with_mask"]
        self.n_docs: int = index["documents"]
        self.n_tokens: int = index["tokens"]
        self._dtypes = {"tokens": np.dtype(index["dtype"]).newbyteorder("<"), "mask": np.dtype(np.uint8)}
        self._maps: dict[tuple[str, int], npt.NDArray[Any]] = {}  # tokens and masks, mapped when they are first read
        lens, starts, shard_of, label_of = [], [], [], []
        columns: dict[str, list[Float32s]] = {name: [] for name in MEASURES}
        labels: dict[Label, int] = {}
        self.index_shards: list[dict[str, Any]] = index["shards"]
        for number, shard in enumerate(index["shards"]):
            docs = self._map(shard, "docs", np.dtype("<i8"))
            lens.append(np.diff(docs))
            starts.append(docs[:-1])
            shard_of.append(np.full(len(docs) - 1, number, dtype=np.int32))
            for name, default in MEASURES.items():
                known = self._map(shard, name, np.dtype("<f4")) if name in shard["files"] else None
                columns[name].append(np.full(len(docs) - 1, default, np.float32) if known is None else known)
            here = [labels.setdefault((d, g), len(labels)) for d, g in shard.get("labels") or [("", "")]]
            of = self._map(shard, "label", np.dtype("<u2")) if "label" in shard["files"] else np.zeros(1, dtype=int)
            label_of.append(np.broadcast_to(np.array(here, dtype=np.uint16)[of], len(docs) - 1))
        none = np.zeros(0, dtype=np.int64)
        #: tokens of each document, its end token included
        self.doc_lens: Int64s = np.concatenate([none, *lens])
        self._starts: Int64s = np.concatenate([none, *starts])
        self._shard_of = np.concatenate([none, *shard_of])
        #: weight and difficulty of each document, where any document has one
        self.measures: dict[str, Float32s] = {
            name: np.concatenate(columns[name])
            for name in MEASURES
            if any(name in shard["files"] for shard in index["shards"])
        }
        #: (domain, language) by number, and the number of each document; ("", "") in shards that do not tell
        self.labels: list[Label] = list(labels)
        self.label_of = np.concatenate([none.astype(np.uint16), *label_of])
        #: of each document its number in the directory
        self.numbers: Int64s = np.arange(self.n_docs, dtype=np.int64)

    @classmethod
    def open(cls, path: str | Path, verify: bool = True, tokenizer_fingerprint: str | None = None) -> ShardSet:
        """Map a directory. Sizes are always compared with the index; ``verify`` also reads all and compares checksums.
        Of a URL each file is fetched when it is first needed, and always compared (``athanor.data.remote``).

        ``AthanorError`` names the file that is missing, truncated or corrupted, or the tokenizer that is another one.
        """
        if "://" in str(path):
            shards = cls._open_url(str(path))
        else:
            index = read_index(Path(path))
            for shard in index["shards"]:
                for kind, expected in shard["files"].items():
                    check_file(Path(path) / f"{shard['name']}.{kind}", expected, verify)
            shards = cls(Path(path), index)
        if tokenizer_fingerprint is not None:
            shards.require_tokenizer(tokenizer_fingerprint)
        return shards

    @classmethod
    def _open_url(cls, url: str) -> ShardSet:
        from athanor.data.remote import Folder

        folder = Folder(url)
        try:
            text = folder.read(INDEX).decode("utf-8", "replace")
        except FileNotFoundError:
            raise AthanorError("no shards here", where=url, fix="copy a finished directory of shards there") from None
        return cls(url, checked_index(text, f"{url}/{INDEX}"), folder)

    def _column(self, kind: str, shard: int) -> npt.NDArray[Any]:
        """Tokens or mask of a shard."""
        found = self._maps.get((kind, shard))
        if found is None:
            found = self._maps[kind, shard] = self._map(self.index_shards[shard], kind, self._dtypes[kind])
        return found

    def subset(self, docs: Int64s) -> ShardSet:
        """The documents ``docs`` alone, in that order, over the same memory."""
        part = copy.copy(self)
        part.doc_lens, part._starts, part._shard_of = self.doc_lens[docs], self._starts[docs], self._shard_of[docs]
        part.measures = {name: values[docs] for name, values in self.measures.items()}
        part.label_of, part.numbers = self.label_of[docs], self.numbers[docs]
        part.n_docs, part.n_tokens = len(docs), int(part.doc_lens.sum())
        chosen = zlib.crc32(np.ascontiguousarray(part.numbers).tobytes())
        part.index = {**self.index, "shards": [self.index["shards"], part.n_docs, chosen]}
        return part

    def block(self) -> Block:
        """All documents in columns; of one shard they are its memory map, of several a copy."""
        n_shards = len(self.index_shards)

        def whole(kind: str) -> npt.NDArray[Any]:
            parts = [self._column(kind, shard) for shard in range(n_shards)]
            return parts[0] if n_shards == 1 else np.concatenate(parts)

        mask = whole("mask") if self.with_mask else None
        return Block(whole("tokens"), self.doc_lens, mask, self.measures, self.labels, self.label_of.astype(np.int64))

    def require_tokenizer(self, fingerprint: str) -> None:
        """``AthanorError`` unless the shards were made with the tokenizer of this fingerprint."""
        if fingerprint != self.tokenizer_fingerprint:
            raise AthanorError(
                f"tokenizer of another vocabulary: the shards were made with {self.tokenizer_fingerprint[:12]}…, "
                f"the tokenizer given is {fingerprint[:12]}…",
                where=str(self.path),
                fix="tokenize the corpus with this tokenizer, or use the one the shards were made with",
            )

    def doc(self, number: int) -> npt.NDArray[Any]:
        """Token ids of one document, its end token included."""
        start = int(self._starts[number])
        return self._column("tokens", int(self._shard_of[number]))[start : start + int(self.doc_lens[number])]

    def doc_mask(self, number: int) -> npt.NDArray[np.uint8] | None:
        """1 where a token of the document is learned; None where the shards have no mask."""
        if not self.with_mask:
            return None
        start = int(self._starts[number])
        return self._column("mask", int(self._shard_of[number]))[start : start + int(self.doc_lens[number])]

    def gather(self, docs: Int64s, starts: Int64s, lens: Int64s) -> tuple[Int64s, Int64s, npt.NDArray[np.bool_]]:
        """Pieces docs[i][starts[i] : starts[i]+lens[i]], end to end: (inputs, the token after each, is it learned).

        A piece must end before its document's last token, so that every position has a token after it.
        """
        total = int(lens.sum())
        inputs = np.empty(total, dtype=np.int64)
        targets = np.empty(total, dtype=np.int64)
        learned = np.ones(total, dtype=np.bool_)
        ends = np.cumsum(lens)
        shard_of = self._shard_of[docs]
        first = self._starts[docs] + starts
        for shard in np.unique(shard_of).tolist():
            ours = shard_of == shard
            tokens = self._column("tokens", shard)
            to = ranges(ends[ours] - lens[ours], lens[ours])
            source = ranges(first[ours], lens[ours])
            inputs[to] = tokens.take(source)
            source += 1
            targets[to] = tokens.take(source)
            if self.with_mask:
                learned[to] = self._column("mask", shard).take(source) != 0
        return inputs, targets, learned

    def _map(self, shard: dict[str, Any], kind: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        name = f"{shard['name']}.{kind}"
        file = Path(self.path) / name if self._folder is None else self._folder.fetch(name, shard["files"][kind])
        # A plain view: slicing a np.memmap object costs ten times as much.
        return np.asarray(np.memmap(file, dtype=dtype, mode="r"))


def ranges(starts: Int64s, lens: Int64s) -> Int64s:
    """Indices starts[0], starts[0]+1, … (lens[0] of them), then those of starts[1], and so on."""
    total = int(lens.sum())
    shift = starts - (np.cumsum(lens) - lens)
    return np.repeat(shift, lens) + np.arange(total, dtype=np.int64)
