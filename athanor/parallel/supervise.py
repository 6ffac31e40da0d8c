"""Start the ranks of one machine, watch them, and say which one failed first and how.

``athanor launch`` sits here. The ranks are ordinary ``athanor`` processes that find their place in the environment, by
the same names as under ``torchrun``. Nothing here imports torch, so that watching costs no memory.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

#: Seconds between a rank's SIGTERM and its SIGKILL, after the grace period.
_LAST_CHANCE_S = 5.0
_TAIL_LINES, _TAIL_BYTES = 20, 16_384
#: The Ctrl-C that kills: the first lets ranks save, the second stops them without saving, if they still listen.
_ENOUGH = 3


@dataclass(frozen=True)
class Node:
    """What runs on this machine: ``nproc`` ranks, those from ``node_rank · nproc`` on of ``nnodes · nproc``.

    ``rendezvous``: (host, port) where rank 0 listens; None on a single machine: a free port. ``timeout_s``: how long a
    collective or the start waits for a rank; ``grace_s``: how long ranks may go on after one has failed.
    """

    nproc: int
    nnodes: int = 1
    node_rank: int = 0
    rendezvous: tuple[str, int] | None = None
    timeout_s: float = 600.0
    grace_s: float = 15.0

    @property
    def ranks(self) -> range:
        """Global numbers of the ranks of this machine."""
        return range(self.node_rank * self.nproc, (self.node_rank + 1) * self.nproc)


@dataclass(frozen=True)
class Ended:
    """How a launch ended. ``status``: exit status for the shell; ``message``: what the person has not been told yet."""

    status: int
    message: str | None = None


def start_processes(
    command: Sequence[str], node: Node, logs: Path, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run ``command`` once for every rank of ``node`` and wait for all.

    Rank 0 keeps this process's stdout and stderr; the others write to ``logs/rank-N.log``. When a rank fails the others
    have ``grace_s`` to end by themselves, then they are ended. SIGINT and SIGTERM go on to every rank, once each.
    Status: 0; 2 where the rank that failed first ended with 2 (bad input), else 1; 128 + n after signal n.
    """
    return _Watch(command, node, logs, os.environ if environment is None else environment).run()


def rank_environment(node: Node, local_rank: int, port: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of one rank: its place, and what keeps ranks on one machine out of each other's way."""
    host = node.rendezvous[0] if node.rendezvous else "127.0.0.1"
    mine = {name: value for name, value in base.items() if not name.startswith(("TORCHELASTIC_", "ATHANOR_STORE_"))}
    quiet = {
        "OMP_NUM_THREADS": str(max(1, cores() // node.nproc)),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait cost up to 14 times on shared cores
        "PYTHONUNBUFFERED": "1",  # the last lines of a rank that is killed are in its log
        "PYTHONFAULTHANDLER": "1",
    }
    place = {
        "RANK": node.ranks[local_rank],
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": node.nnodes * node.nproc,
        "LOCAL_WORLD_SIZE": node.nproc,
        "GROUP_RANK": node.node_rank,
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "ATHANOR_TIMEOUT_S": f"{node.timeout_s:g}",
        "ATHANOR_LAUNCHER_PID": os.getpid(),
    }
    return {**quiet, **mine, **{name: str(value) for name, value in place.items()}}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Watch:
    def __init__(self, command: Sequence[str], node: Node, logs: Path, environment: Mapping[str, str]) -> None:
        self.command, self.node, self.logs, self.environment = list(command), node, logs, environment
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.codes: dict[int, int] = {}  # by rank, in the order in which they ended
        self.first_bad: int | None = None
        self.killed: list[int] = []
        self.signals: list[int] = []

    def run(self) -> Ended:
        previous = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start()
            self._wait()
        finally:
            self._kill(self._running())  # nothing is left unless an error of this program brought us here
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._verdict()

    # --- starting ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        listener = None
        port = self.node.rendezvous[1] if self.node.rendezvous else 0
        if self.node.rendezvous is None:
            # The port is taken here and handed to rank 0 open: no other program can come between.
            listener = socket.create_server(("127.0.0.1", 0), backlog=max(128, self.node.nproc))
            port = listener.getsockname()[1]
        try:
            for local_rank, rank in enumerate(self.node.ranks):
                env = rank_environment(self.node, local_rank, port, self.environment)
                passed: tuple[int, ...] = ()
                if rank == 0 and listener is not None:
                    env["ATHANOR_STORE_FD"], passed = str(listener.fileno()), (listener.fileno(),)
                self._start_one(rank, env, passed)
        finally:
            if listener is not None:
                listener.close()

    def _start_one(self, rank: int, env: dict[str, str], passed: tuple[int, ...]) -> None:
        log: IO[bytes] | None = None
        if rank:
            self.logs.mkdir(parents=True, exist_ok=True)
            log = self._log(rank).open("wb")
        # A process group of its own: Ctrl-C in the terminal reaches only this process, which passes it on once.
        process = subprocess.Popen(
            self.command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            pass_fds=passed,
            process_group=0,
        )
        if log is not None:
            log.close()
        self.processes[rank] = process
        for number in self.signals:  # came while ranks were being started
            process.send_signal(number)
        # A thread each tells the order in which ranks end: the first is the cause, later ones only lost their peer.
        threading.Thread(target=lambda: self.ended.put((rank, process.wait())), daemon=True).start()

    def _log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until every rank has ended; after a failure with patience, then without."""
        deadline: float | None = None
        asked = False
        while running := self._running():
            try:
                patience = None if deadline is None else max(0.0, deadline - time.monotonic())
                rank, code = self.ended.get(timeout=patience)
            except queue.Empty:
                if asked:
                    self._kill(running)
                    deadline = None
                else:
                    self.killed = running
                    self._send(signal.SIGTERM)
                    asked, deadline = True, time.monotonic() + _LAST_CHANCE_S
                continue
            lost_its_peer = self._stopped() and code != 2
            self.codes[rank] = code
            if not self._good(code):
                if self.first_bad is None and not lost_its_peer:
                    self.first_bad = rank
                if deadline is None and not asked:
                    deadline = time.monotonic() + self.node.grace_s

    def _running(self) -> list[int]:
        return [rank for rank in self.processes if rank not in self.codes]

    def _good(self, code: int) -> bool:
        """Whether a rank ended as it should: done, or stopped by a signal that was passed on to it."""
        return code == 0 or any(code in (128 + number, -number) for number in self.signals)

    def _stopped(self) -> bool:
        return any(code != 0 and self._good(code) for code in self.codes.values())

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        self._send(number)
        if self._given_up():
            self._kill(self._running())

    def _given_up(self) -> bool:
        return self.signals.count(signal.SIGINT) >= _ENOUGH

    def _send(self, number: int) -> None:
        for rank in self._running():
            self.processes[rank].send_signal(number)

    def _kill(self, ranks: Sequence[int]) -> None:
        """End ranks and what they started."""
        for rank in ranks:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.processes[rank].pid, signal.SIGKILL)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _verdict(self) -> Ended:
        rank = self.first_bad
        if self._given_up():
            return Ended(128 + signal.SIGINT)
        if rank is None:
            stopped = [code if code > 0 else 128 - code for code in self.codes.values() if code and self._good(code)]
            return Ended(stopped[0] if stopped else 0)
        if self.codes[rank] == 2:
            if self.codes.get(0) == 2:
                return Ended(2)  # rank 0 has said it on the terminal
            return Ended(2, f"rank {rank}: {self._told(rank)}")
        parts = [f"rank {rank} {how_it_ended(self.codes[rank])}"]
        if rank == 0:
            parts.append("  its output is above")
        else:
            parts.append(f"  last lines of {self._log(rank)}:")
            parts += [f"    {line}" for line in self._tail(rank)] or ["    (it wrote nothing)"]
        parts += self._others(rank)
        return Ended(1, "\n".join(parts))

    def _others(self, culprit: int) -> list[str]:
        """What became of the other ranks, briefly."""
        words = []
        for code in dict.fromkeys(self.codes.values()):
            ranks = [r for r in sorted(self.codes) if self.codes[r] == code and r != culprit and r not in self.killed]
            if ranks:
                words.append(f"{_ranks(ranks)} {how_it_ended(code)}")
        if self.killed:
            words.append(f"{_ranks(self.killed)} still ran {self.node.grace_s:g} s later and had to be ended")
        return [f"  then {'; '.join(words)}"] if words else []

    def _tail(self, rank: int) -> list[str]:
        with suppress(OSError), self._log(rank).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        return []

    def _told(self, rank: int) -> str:
        """The error message in a rank's log, as it was printed, or its last lines."""
        lines = self._tail(rank)
        at = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
        return "\n".join(lines[at:]).removeprefix("error: ") or how_it_ended(2)


def how_it_ended(code: int) -> str:
    """``Popen.returncode`` in words."""
    if code == 0:
        return "ended well"
    if code > 0:
        return f"failed with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (is memory short? the kernel ends a process so)" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _ranks(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 1, 2 and 5``; of many the first eight."""
    words = [str(rank) for rank in ranks[:8]]
    if len(ranks) > 8:
        words.append(f"{len(ranks) - 8} more")
    return f"rank {words[0]}" if len(words) == 1 else f"ranks {', '.join(words[:-1])} and {words[-1]}"
