"""A contender in a process of its own, as its user would run it: its own heap, allocator settings and compiled code.

In one shared process the freed blocks of all lie between each other, and glibc gives pages back and forth: a step then
takes up to 1.7 times as long (docs/lab-notes.md). Here the parent only says whose turn it is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from bench.common import Shape, timed
from bench.contenders import OURS, build, held_out_loss
from bench.workloads import Work

CPU = torch.device("cpu")


class Hosted:
    """Speaks to one contender's process. Raises ImportError if the contender's library is not installed."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype, compiled: bool, threads: int) -> None:
        self.name, self.dtype, self.compiled, self.ours = name, dtype, compiled, name in OURS
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool in an unknown state
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, shape, dtype, compiled, threads), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def __enter__(self) -> Hosted:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.kill()

    def load(self, works: Sequence[Work]) -> None:
        """Give it the batches that ``step`` names by their place."""
        self._ask("load", list(works))

    def step(self, at: int, lr: float) -> float:
        """Seconds of one whole training step on batch ``at``."""
        return float(self._ask("step", at, lr))

    def held_out_loss(self, work: Work) -> float:
        """Mean cross-entropy on ``work``, by the same code for everyone."""
        return float(self._ask("held_out_loss", work))

    def reset(self) -> None:
        """Back to the first weights."""
        self._ask("reset")

    def _ask(self, method: str, *args: Any) -> Any:
        self._pipe.send((method, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended (out of memory?)") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Host:
    """What runs in the process."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype, compiled: bool) -> None:
        self.contender = build(name, shape, dtype, compiled, CPU)
        self.works: list[Work] = []

    def load(self, works: list[Work]) -> None:
        self.works = works

    def step(self, at: int, lr: float) -> float:
        return timed(lambda: float(self.contender.step(self.works[at % len(self.works)], lr)), CPU)

    def held_out_loss(self, work: Work) -> float:
        return held_out_loss(self.contender, work)

    def reset(self) -> None:
        self.contender.reset()


def _serve(pipe: Connection, name: str, shape: Shape, dtype: torch.dtype, compiled: bool, threads: int) -> None:
    """Answer calls until the parent hangs up; an error is an answer too."""
    torch.set_num_threads(threads)
    try:
        host = _Host(name, shape, dtype, compiled)
    except Exception as error:
        pipe.send(error if isinstance(error, ImportError) else RuntimeError(f"{name}: {error!r}"))
        return
    pipe.send(None)
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(host, method)(*args))
        except Exception as error:
            pipe.send(RuntimeError(f"{name}, {method}: {error!r}"))
