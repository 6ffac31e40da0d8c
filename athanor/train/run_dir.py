"""A run's folder: the resolved recipe, metrics, events, checkpoints, the finished model, and a marker when done."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from athanor import files
from athanor.errors import AthanorError
from athanor.ranks import is_main

_FLUSH_EVERY_S = 1.0
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def jsonable(value: Any) -> Any:
    """``value`` with non-finite floats as None (JSON has no NaN) and mappings as dicts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


class LineLog:
    """Appends JSON lines. Lines are buffered for about a second and written whole, in one append.

    A line that a crash cut short is removed when the file is opened again, so the file is always whole lines.
    """

    def __init__(self, path: Path, flush_every_s: float = _FLUSH_EVERY_S) -> None:
        self.path, self.flush_every_s = path, flush_every_s
        self._pending: list[str] = []
        self._flushed_at = time.monotonic()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        end = size = os.fstat(self._fd).st_size
        while end and os.pread(self._fd, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self._fd, end)

    def write(self, record: Mapping[str, Any]) -> bool:
        """Queue one record; returns whether this call also flushed."""
        self._pending.append(_encode(jsonable(record)))
        if time.monotonic() - self._flushed_at < self.flush_every_s:
            return False
        self.flush()
        return True

    def flush(self, sync: bool = False) -> int:
        """Write what is queued (``sync``: down to the disk) and return the file's size in bytes."""
        if self._pending:
            data = memoryview(("\n".join(self._pending) + "\n").encode("utf-8"))
            self._pending.clear()
            while data:
                data = data[os.write(self._fd, data) :]
        if sync:
            os.fsync(self._fd)
        self._flushed_at = time.monotonic()
        return os.fstat(self._fd).st_size

    def truncate(self, size_bytes: int) -> bool:
        """Forget queued lines and everything after ``size_bytes``; False if the file was already shorter than that."""
        self._pending.clear()
        whole = os.fstat(self._fd).st_size >= size_bytes
        if whole:
            os.ftruncate(self._fd, size_bytes)
        self._drop_torn_line()
        return whole

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._fd >= 0:
            self.flush()
            os.close(self._fd)
            self._fd = -1


class _NoLog(LineLog):
    """The log of a process that does not write: the first one of its group does."""

    def __init__(self) -> None:
        pass

    def write(self, record: Mapping[str, Any]) -> bool:
        return False

    def flush(self, sync: bool = False) -> int:
        return 0

    def truncate(self, size_bytes: int) -> bool:
        return True

    def close(self) -> None:
        pass


class RunDir:
    """``recipe.yaml``, ``metrics.jsonl``, ``events.jsonl``, ``checkpoints/``, ``model/``, ``report.html``, ``DONE``.

    In a launched group only the first process writes logs, events and markers, and holds the lock (``follower`` False).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise AthanorError("is a file, not a run directory", where=str(path), fix="choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self.recipe_path = self.path / "recipe.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.events_path = self.path / "events.jsonl"
        self.checkpoints_dir = self.path / "checkpoints"
        self.model_dir = self.path / "model"
        self.report_path = self.path / "report.html"
        self.done_path = self.path / "DONE"
        self.follower = not is_main()
        self._metrics: LineLog | None = _NoLog() if self.follower else None
        self._lock_fd: int | None = None

    @classmethod
    def open(
        cls, path: str | Path, recipe: BaseModel | Mapping[str, Any], sections: Sequence[str] | None = None
    ) -> RunDir:
        """Create the run directory of ``recipe``, or open it again.

        ``recipe.yaml`` is written before anything else. If it is already there and differs from ``recipe`` (in the
        top-level ``sections`` given, or anywhere), an ``AthanorError`` names the keys that differ.
        """
        run = cls(path)
        wanted = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else dict(recipe)
        if run.recipe_path.exists():
            run._refuse_other_recipe(wanted, sections, type(recipe) if isinstance(recipe, BaseModel) else None)
        elif any(run.path.iterdir()) and (run.metrics_path.exists() or run.checkpoints_dir.exists()):
            raise AthanorError(
                "holds a run but no recipe.yaml, so it cannot be told which recipe made it",
                where=str(run.path),
                fix="choose another --out, or remove this directory",
            )
        else:
            files.write_atomic(run.recipe_path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
        return run

    def _refuse_other_recipe(
        self, wanted: Mapping[str, Any], sections: Sequence[str] | None, schema: type[BaseModel] | None
    ) -> None:
        try:
            found = yaml.safe_load(self.recipe_path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AthanorError(f"recipe cannot be read: {error}", where=str(self.recipe_path)) from None
        if not isinstance(found, dict):
            raise AthanorError("is not a recipe", where=str(self.recipe_path), fix="choose another --out")
        if schema is not None:  # keys that a later version added take their defaults
            with suppress(ValidationError):
                found = schema.model_validate(found).model_dump(mode="json")
        if sections is not None:
            found = {key: found.get(key) for key in sections}
            wanted = {key: wanted.get(key) for key in sections}
        changes = recipe_differences(found, wanted)
        if changes:
            shown = "; ".join(changes[:8]) + (f"; and {len(changes) - 8} more" if len(changes) > 8 else "")
            raise AthanorError(
                f"this run directory belongs to another recipe. Differing keys (there → now): {shown}",
                where=str(self.path),
                fix="use the recipe that made it (recipe.yaml in that directory), or another --out",
            )

    @property
    def metrics(self) -> LineLog:
        """The metrics log, opened on first use."""
        if self._metrics is None:
            self._metrics = LineLog(self.metrics_path)
        return self._metrics

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event at once; safe from any thread."""
        if self.follower:
            return
        line = _encode(jsonable({"time": time.time(), "kind": kind, **fields}))
        fd = os.open(self.events_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, (line + "\n").encode("utf-8"))
        finally:
            os.close(fd)

    @property
    def is_done(self) -> bool:
        """Whether the run has finished and its model is there."""
        return self.done_path.exists()

    def mark_done(self, **info: Any) -> None:
        """Write the ``DONE`` marker, last of all."""
        if self.follower:
            return
        files.write_json(self.done_path, jsonable({"time": time.time(), **info}))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second writer; the lock goes with the process, however it ends."""
        if self._lock_fd is not None or self.follower:
            yield
            return
        fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AthanorError(
                "another process is training in this run directory",
                where=str(self.path),
                fix="wait for it or stop it, or choose another --out",
            ) from None
        self._lock_fd = fd
        try:
            yield
        finally:
            self._lock_fd = None
            os.close(fd)
            self.close()

    def close(self) -> None:
        """Flush and close the metrics log."""
        if self._metrics is not None and not self.follower:
            self._metrics.close()
            self._metrics = None


def recipe_differences(there: Any, now: Any, key: str = "") -> list[str]:
    """Dotted keys whose values differ, each as ``key: there → now``. A missing key counts as null."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        names = [*there, *(name for name in now if name not in there)]
        parts = [recipe_differences(there.get(n), now.get(n), f"{key}.{n}" if key else str(n)) for n in names]
        return [change for part in parts for change in part]
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        parts = [recipe_differences(a, b, f"{key}[{i}]") for i, (a, b) in enumerate(zip(there, now, strict=True))]
        return [change for part in parts for change in part]
    return [] if there == now else [f"{key}: {_short(there)} → {_short(now)}"]


def _short(value: Any) -> str:
    text = _encode(value)
    return text if len(text) <= 60 else text[:57] + "…"
