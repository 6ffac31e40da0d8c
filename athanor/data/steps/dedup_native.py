"""The C++ kernel of deduplication (dedup_kernel.cpp): built on first use, kept in the user's cache.

Where there is no C++ compiler, or ``ATHANOR_NATIVE=0`` is set, ``dedup_kernel`` is None and numpy gives the same
values. Nothing here imports torch: worker processes of the data build stay small.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("dedup_kernel.cpp")
#: 112 products of 64-bit integers a shingle: the machine's own vectors make them several times faster.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC")


@cache
def dedup_kernel() -> ctypes.CDLL | None:
    """The kernel of this machine, built if the cache does not have it."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("g++")
    if os.environ.get("ATHANOR_NATIVE") == "0" or compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.CalledProcessError):
        return None
    library.athanor_tokens.restype = ctypes.c_int64
    library.athanor_minhash.restype = None
    return library


def pointer(array: Any) -> ctypes.c_void_p:
    """The address of a contiguous numpy array."""
    return ctypes.c_void_p(array.ctypes.data)


def _built(compiler: str) -> Path:
    """The shared library: one file for a source and a processor (the compiler's "native")."""
    flags = [*FLAGS] if platform.machine() in ("x86_64", "AMD64") else [f for f in FLAGS if "512" not in f]
    key = "\n".join([SOURCE.read_text(), compiler, *flags, _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athanor"
    library = folder / f"dedup-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # several processes may build at once: each under a name of its own, the last one stays
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            subprocess.run([compiler, *flags, str(SOURCE), "-o", str(made)], check=True, capture_output=True)
            os.replace(made, library)
    return library


def _processor() -> str:
    """Model and features, for a cache on a disk that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines[:40] if line.startswith(("model name", "flags", "Features")))
