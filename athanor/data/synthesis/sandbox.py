"""Run code that a model wrote: in a process of its own that can be killed, with limits, without network or files.

The child (``sandbox_child``) starts in Python's isolated mode in an empty temporary folder with an empty environment,
lowers its own limits (CPU time, memory, file size, open files, processes), leaves the network name space where the
kernel allows it, and refuses sockets, subprocesses, foreign function calls and writes outside its folder through an
audit hook. That is a seat belt, not a jail: hostile code belongs in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CHILD = Path(__file__).with_name("sandbox_child.py")
_OUTPUT_CHARS = 20_000


@dataclass(frozen=True)
class Limits:
    """What a run may use."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 * 1024**2
    file_bytes: int = 1024**2


@dataclass(frozen=True)
class Verdict:
    """``reason`` is "" when all was well, else one of: wrong, error, timeout, killed, no verdict."""

    ok: bool
    reason: str
    detail: str = ""
    output: str = ""


def run(program: str, tests: Sequence[str] = (), limits: Limits | None = None) -> Verdict:
    """Execute ``program``, then each test in the same name space; the process group is killed at the wall time."""
    limits = limits or Limits()
    secret = secrets.token_hex(16)
    job = {
        "program": program,
        "tests": list(tests),
        "secret": secret,
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "output_chars": _OUTPUT_CHARS,
    }
    with tempfile.TemporaryDirectory(prefix="athanor-sandbox-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            answer, _ = process.communicate(json.dumps(job).encode("utf-8", "surrogatepass"), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return Verdict(False, "timeout", f"more than {limits.wall_s:g} s")
        finally:
            _kill(process)
    return _read(answer, secret, process.returncode)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: what the program may have started, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(answer: bytes, secret: str, status: int | None) -> Verdict:
    try:
        said = json.loads(answer.decode("utf-8").splitlines()[-1])
        genuine = said["secret"] == secret
    except (ValueError, IndexError, KeyError, TypeError):
        genuine = False
    if not genuine:
        if status is not None and status < 0:
            reason = "timeout" if -status == signal.SIGXCPU else "killed"
            return Verdict(False, reason, signal.Signals(-status).name)
        return Verdict(False, "no verdict", f"exit status {status}")
    if said["ok"]:
        return Verdict(True, "", output=said["output"])
    error = str(said["error"])
    wrong = said["failed"] is not None and error.startswith("AssertionError")
    return Verdict(False, "wrong" if wrong else "error", error, said["output"])
