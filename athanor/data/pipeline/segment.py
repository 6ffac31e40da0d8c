"""One pass over one part: the work that a process does between two comparisons of all documents."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.pipeline.layout import Keys, Layout, Part, Segment, read_table, segments, write_table
from athanor.data.pipeline.tally import Tally
from athanor.data.steps.base import SCHEMA, Docs, Step, as_arrays, updated
from athanor.files import write_json

#: Columns that a step may change, kept in the state beside the texts.
_LABELS = ("domain", "language")


@dataclass(frozen=True)
class Chain:
    """The steps of a build, how they are cut, and the names of all they leave."""

    steps: tuple[Step, ...]
    inputs: str
    version: str

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.steps, self.inputs, self.version)

    @cached_property
    def segments(self) -> list[Segment]:
        return segments(self.steps)


@dataclass
class Alive:
    """Documents of a part that are still in: their rows in the part, and the documents as they are now."""

    rows: npt.NDArray[np.int32]
    docs: Docs


def load_docs(layout: Layout, part: Part) -> Docs:
    """A part's documents as they were read."""
    table = read_table(layout.documents(part)).cast(SCHEMA).combine_chunks()
    batches = table.to_batches()
    return Docs(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=SCHEMA))


def load_alive(layout: Layout, chain: Chain, number: int, part: Part) -> Alive:
    """The documents that segment ``number`` left (−1: all of the part)."""
    docs = load_docs(layout, part)
    if number < 0:
        return Alive(np.arange(len(docs), dtype=np.int32), docs)
    state = read_table(layout.state(chain.keys.state(chain.segments[number]), part))
    rows = state.column("row").to_numpy().astype(np.int32)
    taken = Docs(docs.table.take(pa.array(rows)))
    texts = state.column("text").to_pylist()
    if any(text is not None for text in texts):
        taken = taken.with_texts(texts)
    table = taken.table
    for name in _LABELS:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, SCHEMA.field(name), state.column(name).combine_chunks())
    return Alive(rows, Docs(table))


def is_worked(layout: Layout, chain: Chain, number: int, part: Part) -> bool:
    """Whether segment ``number`` is done for a part."""
    return layout.state(chain.keys.state(chain.segments[number]), part, ".json").is_file()


def work(layout: Layout, chain: Chain, number: int, part: Part) -> Tally:
    """Work segment ``number`` on one part and store its state, drops and tally."""
    segment = chain.segments[number]
    alive = load_alive(layout, chain, number - 1, part)
    run = _Run(layout, chain, part, alive)
    if segment.first is not None:
        run.judge(segment.first)
    for step in segment.steps:
        run.judge(step)
    if segment.last is not None:
        run.measure(segment.last)
    run.store(number)
    return run.tally


class _Run:
    def __init__(self, layout: Layout, chain: Chain, part: Part, alive: Alive) -> None:
        self._layout, self._chain, self._part, self.alive = layout, chain, part, alive
        self._drops: list[tuple[int, str, str]] = []
        self.tally = Tally()

    def measure(self, number: int) -> tuple[dict[str, pa.Array], float]:
        """Measures of step ``number`` for the documents alive: from the store, computed where they are missing."""
        step = self._chain.steps[number]
        rows, docs = self.alive.rows, self.alive.docs
        if not step.fields:
            return {}, 0.0
        path = self._layout.measures(self._chain.keys.measures[number], self._part)
        stored = read_table(path) if path.is_file() else None
        known = stored.column("row").to_numpy() if stored is not None else np.zeros(0, dtype=np.int32)
        missing = ~np.isin(rows, known)
        started = time.process_time()
        if missing.any() or stored is None:
            fresh = self._annotate(step, docs.take(missing), rows[missing])
            stored = fresh if stored is None else pa.concat_tables([stored, fresh])
            write_table(path, stored)
        cpu_s = time.process_time() - started
        at = positions(stored.column("row").to_numpy(), rows)
        taken = stored.take(pa.array(at))
        return {name: whole(taken.column(name), kind) for name, kind in step.fields.items()}, cpu_s

    @staticmethod
    def _annotate(step: Step, docs: Docs, rows: npt.NDArray[np.int32]) -> pa.Table:
        prepared(step)
        if len(docs):
            columns = as_arrays(step.annotate(docs), step.fields)
        else:
            columns = {name: pa.array([], type=kind) for name, kind in step.fields.items()}
        return pa.table({"row": pa.array(rows, type=pa.int32()), **columns})

    def judge(self, number: int) -> None:
        """One step whole (its comparison, if any, is done): verdicts, new texts, tally."""
        step = self._chain.steps[number]
        columns, cpu_s = self.measure(number)
        if step.resolved:
            columns |= self._resolved(number)
        started = time.process_time()
        before = self.alive.docs
        verdict = step.apply(before, columns)
        after = updated(before, verdict)
        cpu_s += time.process_time() - started
        self.tally.step(step.name, before, after, verdict.reasons, cpu_s)
        keep = np.array([reason is None for reason in verdict.reasons], dtype=bool)
        self._drops += [
            (int(self.alive.rows[at]), step.name, str(verdict.reasons[at])) for at in np.flatnonzero(~keep).tolist()
        ]
        self.alive = Alive(self.alive.rows[keep], after.take(keep) if not keep.all() else after)

    def _resolved(self, number: int) -> dict[str, pa.Array]:
        step = self._chain.steps[number]
        folder = self._layout.resolved(self._chain.keys.resolved(self._chain.steps, number))
        table = read_table(folder / f"{self._part.path}.parquet")
        if not np.array_equal(table.column("row").to_numpy(), self.alive.rows):
            raise RuntimeError(f"{folder}: rows of {self._part.path} are not the documents alive")
        return {name: whole(table.column(name), kind) for name, kind in step.resolved.items()}

    def _changed(self, number: int) -> list[str | None]:
        """The texts that differ from those that were read, None for the others."""
        rows, docs = self.alive.rows, self.alive.docs
        judged = [at for one in self._chain.segments[: number + 1] for at in (one.first, *one.steps) if at is not None]
        if not any(self._chain.steps[at].edits for at in judged):
            return [None] * len(rows)
        original = load_docs(self._layout, self._part).table.take(pa.array(rows)).column("text").to_pylist()
        return [None if old == new else new for old, new in zip(original, docs.texts, strict=True)]

    def store(self, number: int) -> None:
        key = self._chain.keys.state(self._chain.segments[number])
        rows, docs = self.alive.rows, self.alive.docs
        texts = self._changed(number)
        columns = {
            "row": pa.array(rows, type=pa.int32()),
            "key": pa.array(docs.keys, type=pa.string()),
            "n_bytes": pa.array(docs.n_bytes, type=pa.int64()),
            "text": pa.array(texts, type=pa.large_string()),
            **{name: docs.table.column(name) for name in _LABELS},
        }
        write_table(self._layout.state(key, self._part), pa.table(columns))
        drops = list(zip(*self._drops, strict=True)) or [(), (), ()]
        kinds = (pa.int32(), pa.string(), pa.string())
        table = pa.table(
            {
                name: pa.array(values, type=kind)
                for name, values, kind in zip(("row", "step", "reason"), drops, kinds, strict=True)
            }
        )
        write_table(self._layout.state(key, self._part, ".drops.parquet"), table)
        write_json(self._layout.state(key, self._part, ".json"), self.tally.to_json())


def positions(stored: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Where each wanted row stands in ``stored`` (any order, all present)."""
    order = np.argsort(stored, kind="stable")
    return order[np.searchsorted(stored[order], wanted)]


def whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column in one piece."""
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], type=kind)
    return found.cast(kind)


def prepared(step: Step) -> None:
    """Load what a step needs, once for each step object (a worker process keeps its chain)."""
    if not getattr(step, "_is_prepared", False):
        step.prepare()
        step._is_prepared = True  # type: ignore[attr-defined]
