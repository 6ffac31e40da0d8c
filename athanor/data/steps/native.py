"""text_counts.cpp as a shared library.

Where there is no C++ compiler, or ``ATHANOR_NATIVE=0`` is set, there is none, and athanor.data.steps.plain gives the
same integers more slowly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor import native
from athanor.data.steps.chars import char_table

SOURCE = Path(__file__).with_name("text_counts.cpp")
#: No -march=native: byte loops gain nothing from it, and the cache may lie on a disk that several machines share.
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC")
_Text = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class TextCounts:
    """The functions of the library on (data, offsets) as ``Docs.utf8`` gives them; int64 [n_docs, n_fields] back."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def char_counts(self, text: _Text, n_fields: int) -> npt.NDArray[np.int64]:
        """Characters, then those of each class."""
        return self._call("athanor_char_counts", text, n_fields, len(char_table().bits))

    def word_counts(self, text: _Text, n_fields: int, stop_words: Sequence[str]) -> npt.NDArray[np.int64]:
        """``words.WORD_FIELDS``."""
        stop = [word.encode() for word in stop_words]
        data = np.frombuffer(b"".join(stop) or b"\0", dtype=np.uint8)
        offsets = np.cumsum([0, *map(len, stop)], dtype=np.int64)
        return self._call("athanor_word_counts", text, n_fields, data, offsets, len(stop))

    def line_counts(self, text: _Text, n_fields: int, short_chars: int) -> npt.NDArray[np.int64]:
        """``words.LINE_FIELDS``."""
        return self._call("athanor_line_counts", text, n_fields, short_chars)

    def repetition(
        self,
        text: _Text,
        n_fields: int,
        by_char: npt.NDArray[np.bool_],
        top: Sequence[int],
        dup: Sequence[int],
        most: int,
    ) -> npt.NDArray[np.int64]:
        """``words.REPEAT_FIELDS``, then top and duplicate n-grams of the sizes given."""
        sizes = [x for ns in (top, dup) for x in (np.asarray(ns, dtype=np.int64), len(ns))]
        return self._call("athanor_repetition", text, n_fields, by_char.astype(np.uint8), *sizes, most)

    def _call(self, name: str, text: _Text, n_fields: int, *more: Any) -> npt.NDArray[np.int64]:
        data, offsets = text
        out = np.zeros((len(offsets) - 1, n_fields), dtype=np.int64)
        table = char_table()
        given = (data, offsets, len(offsets) - 1, table.kinds, table.bits, *more, out)
        held = [np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x for x in given]
        getattr(self._library, name)(*(_argument(x) for x in held))
        return out


def _argument(value: Any) -> ctypes.c_void_p | ctypes.c_int64:
    return ctypes.c_void_p(value.ctypes.data) if isinstance(value, np.ndarray) else ctypes.c_int64(value)


@cache
def text_counts() -> TextCounts | None:
    """The library of this machine, built if the cache does not have it; None where it cannot be had."""
    library = native.load("text-counts", [SOURCE], FLAGS)
    return TextCounts(library) if library is not None else None
