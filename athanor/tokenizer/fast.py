"""Encoding by the C++ kernel: the ids of ``tokenizers``, several times as fast, for the vocabularies trained here.

Which vocabularies: byte-level BPE without normaliser whose pre-tokeniser is ``athanor.tokenizer.pattern``. Everything
else (an imported vocabulary with its own pattern) is encoded by ``tokenizers``.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from athanor.tokenizer.kernel import Bytes, Handle, Int32s, Int64s, joined, kernel, pointer
from athanor.tokenizer.pattern import POLICIES, Digits, flags, pattern

_THREAD_BYTES = 200_000  # less is not worth a thread
_PLAIN = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_CHARACTERS = byte_characters()
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def digits_policy(state: dict[str, Any]) -> Digits | None:
    """Which of our patterns a ``tokenizer.json`` splits by, or None."""
    before = state.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [])
    if before.get("type") != "Sequence" or [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return None
    split, level = parts
    if split.get("behavior") != "Isolated" or split.get("invert") or level.get("add_prefix_space"):
        return None
    regex = split.get("pattern", {}).get("Regex")
    return next((d for d in POLICIES if regex == pattern(d) and not level.get("use_regex")), None)


class FastEncoder:
    """The encoder of one vocabulary. Safe in several threads: each has a cache of its own."""

    def __init__(
        self, library: ctypes.CDLL, digits: Digits, byte_ids: Int32s, merges: Int32s, made: Int32s, cache_bytes: int
    ) -> None:
        self._library, self._flags = library, flags()
        self._model = Handle(
            library,
            "model",
            *(pointer(self._flags), ctypes.c_int64(POLICIES[digits])),
            *(pointer(byte_ids), pointer(merges), pointer(made), ctypes.c_int64(len(made))),
        )
        self._cache_bytes = cache_bytes
        self._idle: list[Handle] = []
        self._lock = threading.Lock()

    @classmethod
    def of(cls, backend: Backend, cache_bytes: int = 48 << 20) -> FastEncoder | None:
        """The encoder of this vocabulary, or None where the kernel cannot give the same ids or cannot be built."""
        state = json.loads(backend.to_str())
        model, digits = state["model"], digits_policy(state)
        plain = model.get("type") == "BPE" and all(model.get(name, value) == value for name, value in _PLAIN.items())
        outside = [state.get(name) for name in ("normalizer", "post_processor", "truncation", "padding")]
        if not plain or digits is None or any(outside) or not all(t["special"] for t in state["added_tokens"]):
            return None
        vocabulary = model["vocab"]
        if not all(character in vocabulary for character in BYTE_CHARACTERS) or (library := kernel()) is None:
            return None
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        merges = np.array([[vocabulary[a], vocabulary[b]] for a, b in pairs], dtype=np.int32).reshape(-1, 2)
        made = np.array([vocabulary[a + b] for a, b in pairs], dtype=np.int32)
        byte_ids = np.array([vocabulary[c] for c in BYTE_CHARACTERS], dtype=np.int32)
        return cls(library, digits, byte_ids, merges, made, cache_bytes)

    def _borrow(self) -> Handle:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Handle(self._library, "encoder", self._model.at, ctypes.c_int64(self._cache_bytes))

    def _give_back(self, encoder: Handle) -> None:
        with self._lock:
            self._idle.append(encoder)

    def encode(self, texts: Sequence[bytes]) -> tuple[Int32s, Int64s]:
        """(ids, ends) of texts (valid UTF-8): the ids of text i are ids[ends[i - 1]:ends[i]]. Frees the GIL."""
        data, offsets = joined(texts)
        ids = np.empty(len(data), dtype=np.int32)
        ends = np.zeros(len(texts), dtype=np.int64)
        encoder = self._borrow()
        n = self._library.athanor_encode(
            encoder.at, pointer(data), pointer(offsets), ctypes.c_int64(len(texts)), pointer(ids), pointer(ends)
        )
        self._give_back(encoder)
        return ids[:n].copy() if n * 2 < len(ids) else ids[:n], ends

    def encode_many(self, texts: Sequence[bytes], threads: int) -> list[Int32s]:
        """Ids of each text, on up to ``threads`` threads that share the texts by their bytes."""
        sizes = np.cumsum([len(text) for text in texts]) if texts else np.zeros(1, dtype=np.int64)
        threads = min(threads, 1 + int(sizes[-1]) // _THREAD_BYTES)
        cuts = np.searchsorted(sizes, np.linspace(0, sizes[-1], threads + 1)[1:-1], side="left")
        parts = [part for part in np.split(np.arange(len(texts)), cuts) if len(part)]
        chunks = [texts[part[0] : part[-1] + 1] for part in parts]
        if len(chunks) < 2:
            return [ids for chunk in chunks for ids in _cut(*self.encode(chunk))]
        with ThreadPoolExecutor(threads) as pool:
            return [ids for result in pool.map(self.encode, chunks) for ids in _cut(*result)]

    def merge(self, piece: bytes) -> list[int]:
        """Ids of bytes by the merges alone, without the pre-tokeniser: what becomes of any bytes in one piece."""
        data, ids = np.frombuffer(piece, dtype=np.uint8), np.empty(len(piece), dtype=np.int32)
        encoder = self._borrow()
        n = self._library.athanor_merge(encoder.at, pointer(data), ctypes.c_int64(len(piece)), pointer(ids))
        self._give_back(encoder)
        return [int(i) for i in ids[:n]]


def _cut(ids: Int32s, ends: Int64s) -> list[Int32s]:
    cuts = [0, *ends.tolist()]
    return [ids[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


def pieces(text: str, digits: Digits = "single") -> list[str]:
    """How the pattern cuts a text, by the kernel (by ``tokenizers`` where there is none)."""
    library = kernel()
    if library is None:
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(pattern(digits)), "isolated")
        return [piece for piece, _ in split.pre_tokenize_str(text)]
    data: Bytes = np.frombuffer(text.encode(), dtype=np.uint8)
    ends = np.empty(len(data), dtype=np.int64)
    n = library.athanor_pieces(
        pointer(flags()), ctypes.c_int64(POLICIES[digits]), pointer(data), ctypes.c_int64(len(data)), pointer(ends)
    )
    cuts = [0, *(int(end) for end in ends[:n])]
    whole = data.tobytes()
    return [whole[a:b].decode() for a, b in zip(cuts, cuts[1:], strict=False)]
