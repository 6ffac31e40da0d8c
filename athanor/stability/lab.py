"""The stability laboratory: a grid of very deep, narrow models, trained, counted, drawn.

``OUT/lab.json`` (settings), ``OUT/runs/{cell}.json`` (one file a finished run, written atomically), then
``results.json``, ``table.md``, ``stability-*.png`` and ``report.html``. Run again, it trains only what is missing.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from athanor.errors import AthanorError
from athanor.files import write_json
from athanor.stability.cell import write_cell
from athanor.stability.corpus import ByteCorpus, load_corpus
from athanor.stability.page import write_outputs
from athanor.stability.settings import DEFAULT_ARCHS, DEFAULT_LRS, Cell, LabSettings, grid
from athanor.stability.summary import RunResult
from athanor.train.run_dir import recipe_differences

#: What a worker process is given once: settings, key, the text's files (None: the standard library), progress queue.
_worker: dict[str, Any] = {}


def run_lab(
    out: str | Path,
    *,
    archs: Sequence[str] = DEFAULT_ARCHS,
    lrs: Sequence[float] = DEFAULT_LRS,
    seeds: int = 3,
    jobs: int = 2,
    settings: LabSettings | None = None,
    text: Sequence[Path] | None = None,
    progress: bool = True,
) -> Path:
    """Run (or finish) the laboratory in ``out`` and return the path of its page.

    ``jobs`` runs at a time, each on one thread in a process of its own (0: one after the other in this process);
    ``text``: files to read instead of the standard library. Results do not depend on ``jobs``. Raises AthanorError for
    settings that differ from those of the runs already in ``out``, or when a run fails (finished runs stay).
    """
    settings, out = settings or LabSettings(), Path(out)
    cells = grid(list(archs), list(lrs), seeds)
    for cell in cells:  # an impossible shape is refused before anything is trained
        settings.model_config_for_label(cell.arch)
        settings.train_recipe(cell.lr)
    corpus = load_corpus(text, min_bytes=settings.seq_len + 1)
    key = settings.key(corpus.digest)
    _claim(out, settings, corpus)
    missing = [cell for cell in cells if not _finished(out, key, cell)]
    with _progress_bar(len(cells), len(missing), settings.steps, progress) as bar:
        if jobs < 1:
            _run_here(missing, out, key, settings, corpus, bar)
        elif missing:
            _run_in_processes(missing, out, key, settings, text, min(jobs, len(missing)), bar)
    return write_outputs(out, settings, corpus, load_results(out, key))


def load_results(out: Path, key: str) -> list[RunResult]:
    """All finished runs of ``key`` in ``out`` (those of earlier, larger grids too), one seed of everything first."""
    found = [result for path in sorted((out / "runs").glob("*.json")) if (result := _read(path, key)) is not None]
    order = {label: i for i, label in enumerate(DEFAULT_ARCHS)}
    return sorted(
        found,
        key=lambda r: (r["cell"]["seed"], r["cell"]["lr"], order.get(r["cell"]["arch"], 99), r["cell"]["arch"]),
    )


def _path(out: Path, cell: Cell) -> Path:
    return out / "runs" / f"{cell.name}.json"


def _read(path: Path, key: str) -> RunResult | None:
    """A result of ``key``; None where there is none or another laboratory's; AthanorError for a damaged file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return result if result["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AthanorError(
            f"is not a result of the laboratory ({error})", where=str(path), fix="remove it; the run is then repeated"
        ) from error


def _finished(out: Path, key: str, cell: Cell) -> bool:
    return _read(_path(out, cell), key) is not None


def _claim(out: Path, settings: LabSettings, corpus: ByteCorpus) -> None:
    """Write ``lab.json``, or check that this folder belongs to a laboratory of the same settings and text."""
    now = {"settings": settings.identity(), "text": {"sha256": corpus.digest}}
    path = out / "lab.json"
    if not path.exists():
        (out / "runs").mkdir(parents=True, exist_ok=True)
        write_json(path, now)
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AthanorError(f"cannot be read: {error}", where=str(path), fix="choose another --out") from error
    if changes := recipe_differences(there, now):
        raise AthanorError(
            f"this folder holds a laboratory with other settings (there → now): {'; '.join(changes)}",
            where=str(out),
            fix="use the same settings (and the same Python: its library is the text), or another --out",
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """What a person sees: steps on the bar, a line for each finished run (also where there is no terminal)."""

    progress: Progress
    task: TaskID

    def advance(self) -> None:
        """One step more."""
        self.progress.advance(self.task)

    def say(self, path: Path) -> None:
        """One run more: what it gave."""
        run = json.loads(path.read_text(encoding="utf-8"))
        loss = "not finite" if run["heldout_loss"] is None else f"{run['heldout_loss']:.3f}"
        if not self.progress.disable:
            self.progress.console.print(
                f"{path.stem}: held-out loss {loss}, loss spikes {len(run['loss_spikes'])}, gradient spikes "
                f"{len(run['grad_spikes'])}, {run['cpu_s']:.0f} CPU s, {run['wall_s']:.0f} s",
                highlight=False,
                soft_wrap=True,
            )


@contextlib.contextmanager
def _progress_bar(cells: int, missing: int, steps: int, show: bool) -> Iterator[Bar]:
    """A bar over the steps of the missing runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, disable=not show, speed_estimate_period=300) as bar:
        task = bar.add_task(f"{missing} of {cells} runs to do", total=missing * steps)
        yield Bar(bar, task)


def _run_here(cells: list[Cell], out: Path, key: str, settings: LabSettings, corpus: ByteCorpus, bar: Bar) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            write_cell(_path(out, cell), key, cell, settings, corpus, bar.advance)
            bar.say(_path(out, cell))
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables that processes started inside the block inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(settings: LabSettings, key: str, text: Sequence[Path] | None, steps_done: Any) -> None:
    """In a new process: one thread, out of the terminal's Ctrl-C (the parent ends it), the text loaded once."""
    # A process group, not a session: Linux schedules by session, so a session of its own would undo the parent's nice.
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    corpus = load_corpus(text, min_bytes=settings.seq_len + 1)
    _worker.update(settings=settings, key=key, corpus=corpus, steps_done=steps_done)


def _work(cell: Cell, path: Path) -> None:
    """In a worker: one cell."""
    report = _worker["steps_done"].put
    write_cell(path, _worker["key"], cell, _worker["settings"], _worker["corpus"], lambda: report(1))


def _run_in_processes(
    cells: list[Cell],
    out: Path,
    key: str,
    settings: LabSettings,
    text: Sequence[Path] | None,
    jobs: int,
    bar: Bar,
) -> None:
    # Single-threaded workers: OpenMP must know before torch is loaded; the compiler stays in the worker's own thread.
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    steps_done = context.Queue()
    with _environment(**one_thread):
        pool = ProcessPoolExecutor(jobs, context, _start_worker, (settings, key, text, steps_done))
        try:
            futures = {pool.submit(_work, cell, _path(out, cell)): cell for cell in cells}
            _watch(futures, steps_done, bar, out)
        except BaseException:
            _end(pool)
            raise
        pool.shutdown()


def _watch(futures: dict[Future[None], Cell], steps_done: Any, bar: Bar, out: Path) -> None:
    """Move the bar until all futures are done; the first failure ends the laboratory and names its cell."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        with contextlib.suppress(queue.Empty):
            while True:
                steps_done.get_nowait()
                bar.advance()
        for future in done:
            try:
                future.result()
                bar.say(_path(out, futures[future]))
            except BrokenProcessPool as error:
                raise AthanorError(
                    "a run of the laboratory was killed from outside (out of memory?); finished runs are kept",
                    fix="run the command again, with fewer --jobs if memory is short",
                ) from error
            except AthanorError as error:
                raise AthanorError(error.what, where=f"{futures[future].name}: {error.where}", fix=error.fix) from error


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop the workers at once: an unfinished run has written nothing."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(timeout=5)
