"""Who does the jobs: processes of this machine, or datatrove's executors.

Both call ``jobs.perform`` on the same jobs, and a job's result is a file whose name and content depend on the input
alone. So the engine, the number of workers and the order in which they end decide nothing but the time.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED as FIRST
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

from athanor.data.pipeline.jobs import Context, Job, open_jobs, perform
from athanor.errors import AthanorError
from athanor.files import is_disk_full, read_json

#: Told after each job: how many of how many are done.
Tick = Callable[[int, int], None]
#: Jobs that could not be done: name → why.
Failures = dict[str, str]
_ATTEMPTS = 2


def run_jobs(context: Context, jobs: Sequence[Job], *, engine: str, workers: int, tick: Tick) -> Failures:
    """Do all jobs that are not done. One that fails, or kills its worker twice, is named; the others go on.

    ``AthanorError`` for what would fail every job: a full disk, an impossible option.
    """
    todo = open_jobs(context, jobs)
    tick(len(jobs) - len(todo), len(jobs))
    if not todo:
        return {}
    workers = min(workers or os.cpu_count() or 1, len(todo))
    if engine == "datatrove":
        return _datatrove(context, todo, workers, tick, len(jobs))
    if workers == 1:
        return _here(context, todo, tick, len(jobs))
    return _pool(context, todo, workers, tick, len(jobs))


def _here(context: Context, todo: Sequence[Job], tick: Tick, total: int) -> Failures:
    failures: Failures = {}
    for number, job in enumerate(todo, 1):
        try:
            perform(context, job)
        except Exception as error:
            failures[job.name()] = explain(error, job)
        tick(total - len(todo) + number, total)
    return failures


def explain(error: BaseException, job: Job) -> str:
    """Why a job failed, in a line; what no job could survive is raised instead."""
    if isinstance(error, AthanorError):
        raise error
    if is_disk_full(error):
        where = str(getattr(error, "filename", None) or "")
        raise disk_full(job.name(), where) from None
    return f"{type(error).__name__}: {error}"


def disk_full(what: str, where: str) -> AthanorError:
    """The error of a full disk, met while doing ``what``."""
    fix = "free some space and run again: what is done stays done"
    return AthanorError(f"the disk is full while {what}", where=where, fix=fix)


@contextmanager
def _new_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers die with this process, and at once when the block is left by an error or Ctrl-C."""
    # A fork server starts clean processes quickly and without the threads of this one, which plain fork would copy
    # half-dead.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["athanor.data.pipeline.jobs"])
    with _deaf_to_interrupts():
        forkserver.ensure_running()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        # Every file appears whole or not at all, so a worker may be killed anywhere.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes begun inside ignore Ctrl-C, which a terminal sends to all: it is for this process to act on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker() -> None:
    """A parent that was killed must not leave workers waiting for ever."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pool(context: Context, todo: Sequence[Job], workers: int, tick: Tick, total: int) -> Failures:
    """Jobs on a pool. When a worker is killed, nobody knows by which job: those under way are tried again alone."""
    failures: Failures = {}
    waiting, suspects = list(todo), list[Job]()
    done = total - len(todo)
    while waiting:
        running: dict[Future[None], Job] = {}
        broken = False
        with _new_pool(workers) as pool:
            while (waiting or running) and not broken:
                while waiting and len(running) < 2 * workers and not broken:
                    try:
                        running[pool.submit(perform, context, waiting[0])] = waiting[0]
                        waiting.pop(0)
                    except BrokenProcessPool:  # between two waits: those under way tell below
                        broken = True
                for future in wait(running, return_when=FIRST).done:
                    job = running.pop(future)
                    try:
                        future.result()
                    except BrokenProcessPool:
                        broken = True
                        suspects.append(job)
                        continue
                    except Exception as error:
                        failures[job.name()] = explain(error, job)
                    done += 1
                    tick(done, total)
            suspects += running.values()
    again = open_jobs(context, suspects)
    if len(again) < len(suspects):  # done, though their workers did not live to say so
        done += len(suspects) - len(again)
        tick(done, total)
    for job in again:
        why = _alone(context, job)
        if why is not None:
            failures[job.name()] = why
        done += 1
        tick(done, total)
    return failures


def _alone(context: Context, job: Job) -> str | None:
    """One job in a process of its own, twice if need be; None when it is done."""
    for _ in range(_ATTEMPTS):
        with _new_pool(1) as pool:
            try:
                pool.submit(perform, context, job).result()
                return None
            except BrokenProcessPool:
                continue
            except Exception as error:
                return explain(error, job)
    return f"its worker was killed {_ATTEMPTS} times (out of memory?)"


def _datatrove(context: Context, todo: Sequence[Job], workers: int, tick: Tick, total: int) -> Failures:
    """Jobs as tasks of datatrove's executor: one a task, so that its completion marks and ours mean the same."""
    try:
        from datatrove.executor.local import LocalPipelineExecutor
    except ImportError:
        raise AthanorError(
            "datatrove is not installed", where="data.engine", fix="pip install 'athanor[datatrove]'"
        ) from None
    from athanor.data.pipeline.trove import FATAL, Errand, quiet

    quiet()
    logs = Path(context.root) / "datatrove"
    shutil.rmtree(logs / "failed", ignore_errors=True)
    executor = LocalPipelineExecutor(
        [Errand(context, list(todo))],
        tasks=len(todo),
        workers=workers,
        logging_dir=str(logs),
        skip_completed=False,
    )
    from multiprocess import forkserver as troves_server  # type: ignore[import-untyped]

    with _deaf_to_interrupts():
        troves_server.ensure_running()
    executor.run()
    failures: Failures = {}
    for job in open_jobs(context, todo):
        note = logs / "failed" / f"{todo.index(job):05d}.txt"
        failures[job.name()] = note.read_text(encoding="utf-8") if note.is_file() else "its task did not end"
    if (logs / "failed" / FATAL).is_file():
        raise AthanorError(**read_json(logs / "failed" / FATAL))
    tick(total - len(failures), total)
    return failures
