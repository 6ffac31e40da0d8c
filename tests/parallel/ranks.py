"""Run a function on several ranks over gloo, cheaply: ranks are forked from a server that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

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
    "athanor.train.trainer",
    "tests.train.tiny",
    __name__,
]


def run_ranks(world: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """``function(*args)`` on every rank of a gloo world; the results in rank order (tensors as they are on the CPU).

    ``function`` must be at the top of a module. A rank's exception is raised here with its rank and traceback; ranks
    that do not answer in time are killed and named.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        ranks = []
        for rank in range(world):
            ours, theirs = context.Pipe(duplex=False)
            target = context.Process(target=_rank, args=(theirs, f"{folder}/store", rank, world, function, args))
            target.start()
            theirs.close()
            pipes.append(ours)
            ranks.append(target)
        try:
            return _results(pipes, timeout_s)
        finally:
            for process in ranks:
                process.kill()
                process.join()


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
            except EOFError:
                raise RuntimeError(f"rank {rank} ended without an answer") from None
            if not ok:
                raise RuntimeError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    pipe: Connection, store: str, rank: int, world: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    try:
        timeout = timedelta(seconds=60)
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world, timeout=timeout
        )
        pipe.send_bytes(pickle.dumps((True, function(*args))))  # by value: torch would share memory of a dying process
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
    # No clean-up: the parent ends this process, so that a rank that failed never leaves the others waiting.
