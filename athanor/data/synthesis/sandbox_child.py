"""The child of ``sandbox``: run by path with ``python -I``, it limits itself and then executes foreign code.

Standard library only, and nothing of Athanor. It reads one JSON object from standard input and writes one JSON line to
the descriptor that the program's own output cannot reach by name.
"""

import builtins
import contextlib
import io
import json
import os
import resource
import sys

#: Audit events (by their beginnings) that no exercise needs.
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.putenv",
    "os.setxattr",
    "shutil.",
    "ctypes.",
    "pty.",
    "fcntl.",
    "signal.pthread_kill",
    "resource.setrlimit",
    "webbrowser.",
    "ftplib.",
    "smtplib.",
    "urllib.",
    "http.client.",
    "sys.addaudithook",
    "gc.get_objects",
    "gc.get_referrers",
)


def _limit(wanted: dict) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (wanted["cpu_s"], wanted["cpu_s"] + 1))
    for name, value in (
        ("RLIMIT_AS", wanted["memory_bytes"]),
        ("RLIMIT_FSIZE", wanted["file_bytes"]),
        ("RLIMIT_NOFILE", 32),
        ("RLIMIT_CORE", 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
    # No new processes or threads beyond what runs now; it counts all of the user's, so root is not bound by it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _no_network() -> None:
    """Leave the network's name space where the kernel lets us; the audit hook stands in either case."""
    flags = 0x10000000 | 0x40000000  # CLONE_NEWUSER | CLONE_NEWNET
    with contextlib.suppress(Exception):
        if hasattr(os, "unshare"):
            os.unshare(flags)
        else:
            import ctypes

            ctypes.CDLL(None, use_errno=True).unshare(flags)


def _guard(folder: str) -> None:
    def hook(event: str, args: tuple) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError("the sandbox does not allow " + event)
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            if writes and not (isinstance(path, str) and os.path.realpath(path).startswith(folder + os.sep)):
                raise PermissionError("the sandbox does not allow writing " + str(path))
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate") and not (
            os.path.realpath(str(args[0])).startswith(folder + os.sep)
        ):
            raise PermissionError("the sandbox does not allow " + event)

    sys.addaudithook(hook)


def main() -> None:
    job = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    folder = os.path.realpath(os.getcwd())
    _no_network()
    _limit(job)
    _guard(folder)
    out = io.StringIO()
    verdict = {"secret": job["secret"], "ok": True, "failed": None, "error": None}
    space = {"__name__": "__main__", "__builtins__": builtins}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            exec(compile(job["program"], "<answer>", "exec", dont_inherit=True), space)
            for number, test in enumerate(job["tests"]):
                verdict["failed"] = number
                exec(compile(test, "<test>", "exec", dont_inherit=True), space)
            verdict["failed"] = None
        except BaseException as error:  # SystemExit and KeyboardInterrupt are failures, too
            verdict["ok"] = False
            verdict["error"] = type(error).__name__ + ": " + str(error)[:200]
    verdict["output"] = out.getvalue()[: job["output_chars"]]
    answers.write(json.dumps(verdict) + "\n")
    answers.flush()
    os._exit(0)


main()
