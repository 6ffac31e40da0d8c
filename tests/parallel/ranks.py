"""Run a function on several ranks over gloo, cheaply: ranks are forked from a server that has imported torch."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import tempfile
import traceback
import weakref
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

#: What a run imports on its way takes seconds: here it is imported once, before the forks.
PRELOAD = [
    "pytest",
    "torch._dynamo",
    "torch._inductor.config",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "torch.onnx",
    "athanor.parallel.engine",
    "athanor.dryrun.tracker",
    "athanor.train.trainer",
    "bench.hand_written",
    "bench.hosted",
    "tests.train.tiny",
    __name__,
]


def run_ranks(
    world: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120.0, keep: bool = False
) -> list[Any]:
    """``function(*args)`` on every rank of a gloo world; the results in rank order (tensors as they are on the CPU).

    ``function`` must be at the top of a module. A rank's exception is raised here with its rank and traceback; ranks
    that do not answer in time are killed and named. ``keep``: the processes and their group stay for some more calls
    with ``keep``; only for functions that leave nothing behind in their process.
    """
    ranks = _kept.pop(world, None) if keep else None
    ranks = ranks or _Ranks(world)
    try:
        results = ranks.run(function, args, timeout_s)
        if keep and ranks.runs < _RUNS:
            _kept[world] = ranks
        return results
    finally:
        if _kept.get(world) is not ranks:
            ranks.end()


#: Calls that processes serve before new ones take their place: each call leaves groups with sockets and threads behind.
#: (They cannot be destroyed: DTensor remembers a mesh that equals the next call's, and would ask for its groups.)
_RUNS = 8


class _Ranks:
    """Processes in one group that wait for functions to run."""

    def __init__(self, world: int) -> None:
        self.runs = 0
        self.folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(theirs, f"{self.folder.name}/store", rank, world))
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        _all.add(self)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> list[Any]:
        self.runs += 1
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        return _results(self.pipes, timeout_s)

    def end(self) -> None:
        """At once: a rank that failed must not leave the others waiting."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        self.folder.cleanup()


_kept: dict[int, _Ranks] = {}
_all: weakref.WeakSet[_Ranks] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for ranks in _all:
        ranks.end()


def _results(pipes: list[Connection], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in results], timeout_s)
        if not ready:
            silent = [rank for rank in range(len(pipes)) if rank not in results]
            raise TimeoutError(f"ranks {silent} did not answer within {timeout_s:g} s")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                ok, value = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except (EOFError, ConnectionResetError):
                raise RuntimeError(f"rank {rank} ended without an answer") from None
            if not ok:
                raise RuntimeError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


class _SameInstances(type):
    """``isinstance(group, dist.ProcessGroupGloo)`` inside torch means the groups themselves."""

    def __instancecheck__(cls, group: object) -> bool:
        return isinstance(group, _GLOO)


class _OnOneDevice(metaclass=_SameInstances):
    """Groups of gloo that share the process's one device.

    Each would open its own, with a thread that looks about a hundred times a second: at thirty groups in each of thirty
    processes that was half of the time of both cores.
    """

    device: Any = None

    def __new__(cls, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        cls.device = cls.device or _GLOO.create_default_device()
        options = _GLOO._Options()
        options._devices, options._timeout = [cls.device], timeout
        return _GLOO(store, rank, size, options)


_GLOO: Any = dist.ProcessGroupGloo


def _rank(pipe: Connection, store: str, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    distributed_c10d.ProcessGroupGloo = _OnOneDevice  # type: ignore[assignment,misc]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)
        try:
            if not dist.is_initialized():
                files, timeout = dist.FileStore(store, world), timedelta(seconds=60)
                dist.init_process_group("gloo", store=files, rank=rank, world_size=world, timeout=timeout)
            answer = True, function(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))  # by value: torch would share memory of a dying process
