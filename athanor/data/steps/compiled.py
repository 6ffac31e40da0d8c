"""A C++ source of this package as a shared library: built on first use, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def shared_library(source: Path, flags: Sequence[str], depends: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The library of one source, one file a source, compiler, flags and ``depends`` (what else its code depends on).

    None where there is no C++ compiler (``$CXX``, g++, clang++), where it fails, or with ``ATHANOR_NATIVE=0``: callers
    have plain code that gives the same results.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)
    if os.environ.get("ATHANOR_NATIVE") == "0" or compiler is None:
        return None
    system = (platform.system(), platform.machine(), *platform.libc_ver())
    key = "\n".join([source.read_text(), compiler, *flags, *system, *depends])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athanor"
    library = folder / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # several processes may build at once: each under a name of its own, the last one stays
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / library.name
                command = [compiler, *flags, "-shared", "-fPIC", str(source), "-o", str(made)]
                subprocess.run(command, check=True, capture_output=True)
                os.replace(made, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError):
        return None
