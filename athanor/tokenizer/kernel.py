"""The C++ half of this room (encode.cpp, train.cpp), called through ctypes; None where it cannot be built."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor import native

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_HERE = Path(__file__).parent
_SOURCES = [_HERE / "encode.cpp", _HERE / "train.cpp"]
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", f"-I{_HERE}"]
_POINTERS = (
    "athanor_counter_new",
    "athanor_model_new",
    "athanor_encoder_new",
)


@cache
def kernel() -> ctypes.CDLL | None:
    """The library, built on first use (some seconds)."""
    library = native.load("tokenizer", _SOURCES, _FLAGS, version=(_HERE / "scan.cpp").read_text(encoding="utf-8"))
    if library is None:
        return None
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("athanor_encode", "athanor_merge", "athanor_pieces", "athanor_train"):
        getattr(library, name).restype = ctypes.c_int64
    return library


def pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    """Where a contiguous array begins."""
    return ctypes.c_void_p(array.ctypes.data)


def joined(texts: Sequence[bytes]) -> tuple[Bytes, Int64s]:
    """(data, offsets): texts end to end; text i is data[offsets[i]:offsets[i + 1]]."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), dtype=np.uint8), offsets


class Handle:
    """A C++ object that is freed with this one. It belongs to one process and is never pickled."""

    def __init__(self, library: ctypes.CDLL, kind: str, *arguments: Any) -> None:
        self.at = ctypes.c_void_p(getattr(library, f"athanor_{kind}_new")(*arguments))
        self._free = getattr(library, f"athanor_{kind}_free")

    def __del__(self) -> None:
        if at := getattr(self, "at", None):
            self._free(at)
