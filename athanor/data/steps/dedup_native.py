"""The C++ kernel of deduplication (dedup_kernel.cpp): built on first use, kept in the user's cache.

Where there is no C++ compiler, or ``ATHANOR_NATIVE=0`` is set, ``dedup_kernel`` is None and numpy gives the same
values. Nothing here imports torch: worker processes of the data build stay small.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

from athanor import native

SOURCE = Path(__file__).with_name("dedup_kernel.cpp")
#: 112 products of 64-bit integers a shingle: the machine's own vectors make them several times faster.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC")


@cache
def dedup_kernel() -> ctypes.CDLL | None:
    """The kernel of this machine, built if the cache does not have it."""
    flags = FLAGS if platform.machine() in ("x86_64", "AMD64") else [f for f in FLAGS if "512" not in f]
    library = native.load("dedup", [SOURCE], flags)
    if library is None:
        return None
    library.athanor_tokens.restype = ctypes.c_int64
    library.athanor_minhash.restype = None
    return library


def pointer(array: Any) -> ctypes.c_void_p:
    """The address of a contiguous numpy array."""
    return ctypes.c_void_p(array.ctypes.data)
