"""C++ kernels of the project: compiled on first use for the processor at hand, kept in the user's cache.

A kernel is a speed-up, never a need: where there is no compiler, or ``ATHANOR_NATIVE=0`` is set, ``load`` returns None
and the caller goes its slower way.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def cache_dir() -> Path:
    """Where compiled kernels and derived tables are kept: ``$XDG_CACHE_HOME/athanor`` (default ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athanor"


def load(
    name: str, sources: Sequence[Path], flags: Sequence[str], link: Sequence[str] = (), version: str = ""
) -> ctypes.CDLL | None:
    """The library of ``sources`` (those that are headers are read by the others, beside them), or None.

    ``version``: what else the result depends on, for example the version of a library that is linked.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)
    if os.environ.get("ATHANOR_NATIVE") == "0" or compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_built(name, sources, [*flags], [*link], version, compiler)))
    except (OSError, subprocess.CalledProcessError):
        return None


def _built(name: str, sources: Sequence[Path], flags: list[str], link: list[str], version: str, compiler: str) -> Path:
    texts = [source.read_text(encoding="utf-8") for source in sources]
    key = "\n".join([*texts, version, compiler, *flags, processor()])
    library = cache_dir() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # several processes may build at once: each under a name of its own, the last one stays
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / library.name
            units = [str(source) for source in sources if source.suffix != ".h"]
            subprocess.run([compiler, *flags, *units, "-o", str(made), *link], check=True, capture_output=True)
            os.replace(made, library)
    return library


def processor() -> str:
    """The model and features that the operating system tells, for a cache on a disk that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines[:40] if line.startswith(("model name", "flags")))
