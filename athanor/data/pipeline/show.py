"""Progress of a build: one bar for each stage on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0


class Bars:
    """A context in which ``stage`` shows how many jobs are done."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
            self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)

    def __enter__(self) -> Bars:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Yields a function of (jobs done, jobs in all)."""
        started = shown = time.monotonic()
        task = self._progress.add_task(title, total=None) if self._progress else None
        first: int | None = None
        last = (0, 0)

        def tick(done: int, total: int) -> None:
            nonlocal shown, first, last
            first = done if first is None else first
            last = (done, total)
            if self._progress and task is not None:
                self._progress.update(task, completed=done, total=total)
            elif done < total and time.monotonic() - shown >= _LINE_EVERY_S:
                shown = time.monotonic()
                self._say(f"{title}: {done} of {total}")

        yield tick
        if not self._progress and first is not None and first < last[1]:
            self._say(f"{title}: {last[0]} of {last[1]} in {time.monotonic() - started:.1f} s")
