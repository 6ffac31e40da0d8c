"""Memory-mapped token shards: what the tokenizer left, in the form the loader reads.

A directory holds, for each shard, ``shard-00000.tokens`` (little-endian uint16 while the vocabulary fits, else
uint32), ``shard-00000.docs`` (int64 offsets: document i is tokens[docs[i]:docs[i+1]]) and, for conversations,
``shard-00000.mask`` (uint8: 1 where the token is learned), and last of all ``index.json`` with counts, sizes and
checksums. Without an index the directory is unfinished and nothing reads it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.errors import AthanorError
from athanor.files import digest, write_json

Int64s = npt.NDArray[np.int64]
INDEX = "index.json"
FORMAT = 1
_REBUILD = "delete the directory and tokenize again"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of little-endian uint16 and uint32 that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Writes documents into shards of about ``shard_tokens`` tokens. A context manager: ``close`` writes the index.

    ``origin`` is kept in the index (what the shards were made from), for whoever decides whether they are still good.
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
        self._tokens: list[npt.NDArray[Any]] = []
        self._masks: list[npt.NDArray[np.uint8]] = []
        self._lens: list[int] = []
        self._pending = 0

    def add(self, ids: Sequence[int] | npt.NDArray[Any], mask: Sequence[int] | npt.NDArray[Any] | None = None) -> None:
        """Store one document; the end token is appended if it is not there (unmasked: it is not learned).

        ``AthanorError`` for an empty document, an id outside the vocabulary, or a mask of another length.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        number = sum(s["documents"] for s in self._shards) + len(self._lens)
        if not tokens.size or tokens.min() < 0 or tokens.max() >= self._head["vocab_size"]:
            wrong = "is empty" if not tokens.size else f"has an id outside 0…{self._head['vocab_size'] - 1}"
            raise AthanorError(f"document {number} {wrong}", where=str(self.path), fix="tokenize with this vocabulary")
        if (mask is not None) != self._with_mask or (mask is not None and len(mask) != tokens.size):
            raise AthanorError(f"document {number}: mask and tokens do not match", where=str(self.path))
        closed = tokens[-1] == self._eos_id
        self._tokens.append((tokens if closed else np.append(tokens, self._eos_id)).astype(self._dtype))
        if mask is not None:
            learned = np.asarray(mask, dtype=np.uint8)
            self._masks.append(learned if closed else np.append(learned, np.uint8(0)))
        self._lens.append(len(self._tokens[-1]))
        self._pending += self._lens[-1]
        if self._pending >= self._shard_tokens:
            self._flush()

    def _flush(self) -> None:
        stem = f"shard-{len(self._shards):05d}"
        docs = np.concatenate([[0], np.cumsum(self._lens, dtype=np.int64)]).astype("<i8")
        files = {"tokens": np.concatenate(self._tokens), "docs": docs}
        if self._with_mask:
            files["mask"] = np.concatenate(self._masks)
        entry: dict[str, Any] = {"name": stem, "documents": len(self._lens), "tokens": self._pending, "files": {}}
        for kind, values in files.items():
            content = values.tobytes()
            with open(self.path / f"{stem}.{kind}", "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            entry["files"][kind] = {"bytes": len(content), "crc32": zlib.crc32(content)}
        self._shards.append(entry)
        self._tokens, self._masks, self._lens, self._pending = [], [], [], 0

    def close(self) -> None:
        """Write what is pending, then the index. From here on the directory is whole."""
        if self._lens:
            self._flush()
        counts = {key: sum(s[key] for s in self._shards) for key in ("documents", "tokens")}
        index = {**self._head, **counts, "shards": self._shards}
        write_json(self.path / INDEX, {**index, "checksum": digest(index)})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:  # after an error there is no index, and the directory stays unfinished
            self.close()


class ShardSet:
    """A finished directory of shards, memory-mapped. Documents are numbered through all shards."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self.path, self.index = path, index
        self.tokenizer_fingerprint: str = index["tokenizer_fingerprint"]
        self.vocab_size: int = index["vocab_size"]
        self.eos_id: int = index["eos_id"]
        self.with_mask: bool = index["with_mask"]
        self.n_docs: int = index["documents"]
        self.n_tokens: int = index["tokens"]
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        self._tokens: list[npt.NDArray[Any]] = []
        self._masks: list[npt.NDArray[np.uint8]] = []
        lens, starts, shard_of = [], [], []
        for number, shard in enumerate(index["shards"]):
            docs = self._map(shard, "docs", np.dtype("<i8"))
            self._tokens.append(self._map(shard, "tokens", dtype))
            if self.with_mask:
                self._masks.append(self._map(shard, "mask", np.dtype(np.uint8)))
            lens.append(np.diff(docs))
            starts.append(docs[:-1])
            shard_of.append(np.full(len(docs) - 1, number, dtype=np.int32))
        none = np.zeros(0, dtype=np.int64)
        #: tokens of each document, its end token included
        self.doc_lens: Int64s = np.concatenate([none, *lens])
        self._starts: Int64s = np.concatenate([none, *starts])
        self._shard_of = np.concatenate([none, *shard_of])

    @classmethod
    def open(cls, path: str | Path, verify: bool = True, tokenizer_fingerprint: str | None = None) -> ShardSet:
        """Map a directory. Sizes are always compared with the index; ``verify`` also reads all and compares checksums.

        ``AthanorError`` names the file that is missing, truncated or corrupted, or the tokenizer that is another one.
        """
        path = Path(path)
        index = _read_index(path)
        for shard in index["shards"]:
            for kind, expected in shard["files"].items():
                _check_file(path / f"{shard['name']}.{kind}", expected, verify)
        shards = cls(path, index)
        if tokenizer_fingerprint is not None:
            shards.require_tokenizer(tokenizer_fingerprint)
        return shards

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
        return self._tokens[int(self._shard_of[number])][start : start + int(self.doc_lens[number])]

    def doc_mask(self, number: int) -> npt.NDArray[np.uint8] | None:
        """1 where a token of the document is learned; None where the shards have no mask."""
        if not self.with_mask:
            return None
        start = int(self._starts[number])
        return self._masks[int(self._shard_of[number])][start : start + int(self.doc_lens[number])]

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
        for shard in np.unique(shard_of):
            ours = shard_of == shard
            to = ranges(ends[ours] - lens[ours], lens[ours])
            source = ranges(first[ours], lens[ours])
            inputs[to] = self._tokens[shard].take(source)
            source += 1
            targets[to] = self._tokens[shard].take(source)
            if self.with_mask:
                learned[to] = self._masks[shard].take(source) != 0
        return inputs, targets, learned

    def _map(self, shard: dict[str, Any], kind: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        # A plain view: slicing a np.memmap object costs ten times as much.
        return np.asarray(np.memmap(self.path / f"{shard['name']}.{kind}", dtype=dtype, mode="r"))


def ranges(starts: Int64s, lens: Int64s) -> Int64s:
    """Indices starts[0], starts[0]+1, … (lens[0] of them), then those of starts[1], and so on."""
    total = int(lens.sum())
    shift = starts - (np.cumsum(lens) - lens)
    return np.repeat(shift, lens) + np.arange(total, dtype=np.int64)


def _read_index(path: Path) -> dict[str, Any]:
    file = path / INDEX
    if not file.is_file():
        what = "the shards here are unfinished (no index)" if path.is_dir() else "no shards here"
        raise AthanorError(what, where=str(path), fix="tokenize the corpus first")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise AthanorError(
                f"shard format {index['format']}, this version reads {FORMAT}", where=str(file), fix=_REBUILD
            )
        if index.pop("checksum") != digest(index):
            raise ValueError("its checksum differs")
    except (ValueError, KeyError, TypeError) as error:
        raise AthanorError(f"corrupted index: {error}", where=str(file), fix=_REBUILD) from None
    return index


def _check_file(file: Path, expected: dict[str, int], verify: bool) -> None:
    if not file.is_file():
        raise AthanorError("shard file is missing", where=str(file), fix=_REBUILD)
    size = file.stat().st_size
    if size != expected["bytes"]:
        kind = "truncated" if size < expected["bytes"] else "too long"
        raise AthanorError(
            f"shard file is {kind}: {size} bytes, the index says {expected['bytes']}", where=str(file), fix=_REBUILD
        )
    if verify and _crc32(file) != expected["crc32"]:
        raise AthanorError(
            "shard file is corrupted: its checksum differs from the index", where=str(file), fix=_REBUILD
        )


def _crc32(file: Path, block_bytes: int = 1 << 22) -> int:
    value = 0
    with open(file, "rb") as handle:
        while block := handle.read(block_bytes):
            value = zlib.crc32(block, value)
    return value
