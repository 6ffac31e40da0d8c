"""Comparisons over all documents: the survey that a step reads column by column, and what it leaves for each part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from athanor.data.pipeline.layout import Layout, Part, read_table, write_table
from athanor.data.pipeline.segment import Chain, positions, whole
from athanor.data.steps.base import Step, Survey, as_arrays
from athanor.files import read_json, write_json

_DONE = "done.json"
_BASE = ("key", "n_bytes")


def survey_after(
    layout: Layout, chain: Chain, number: int, parts: Sequence[Part], work: Path, own_step: int | None = None
) -> Survey:
    """All documents alive after segment ``number``, with every measure taken so far.

    The step whose measures go by their bare names is the one that compares next, or ``own_step``.
    """
    segment = chain.segments[number]
    key = chain.keys.state(segment)
    measured = _measured(chain, number)
    own_step = segment.last if own_step is None else own_step
    names = {f"{chain.steps[step].name}.{name}": (step, name) for step in measured for name in kinds(chain.steps[step])}
    if own_step is not None:
        own = chain.steps[own_step]
        names |= {name: (own_step, name) for name in (kinds(own) if own_step in measured else own.fields)}

    def read(name: str) -> pa.ChunkedArray:
        if name in names:
            step, field = names[name]
            kind = kinds(chain.steps[step])[field]
            chunks = [measure(layout, chain, step, field, key, part) for part in parts]
            return pa.chunked_array([chunk.cast(kind) for chunk in chunks], type=kind)
        if name == "source":
            return pa.chunked_array(
                [pa.array([part.source] * _n_rows(layout, key, part), type=pa.string()) for part in parts],
                type=pa.string(),
            )
        if name not in (*_BASE, "language", "domain"):
            raise KeyError(f"the survey has no column {name!r}; it has: {', '.join([*_BASE, 'source', *names])}")
        tables = [read_table(layout.state(key, part), [name]) for part in parts]
        return pa.chunked_array([c for t in tables for c in t.column(name).chunks], type=tables[0].schema.field(0).type)

    n_rows = sum(_n_rows(layout, key, part) for part in parts)
    return Survey(read, n_rows, [*_BASE, "source", "language", "domain", *names], work)


def _measured(chain: Chain, number: int) -> list[int]:
    """Steps that have measured every document alive after segment ``number``."""
    last = chain.segments[number].last
    return list(range(len(chain.steps) if last is None else last))


def _n_rows(layout: Layout, key: str, part: Part) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(layout.state(key, part)).num_rows)


def kinds(step: Step) -> dict[str, pa.DataType]:
    """Types of all that a step says of a document."""
    return {**step.fields, **step.resolved}


def measure(layout: Layout, chain: Chain, step: int, field: str, key: str, part: Part) -> pa.Array:
    """One measure of the documents alive in state ``key`` of a part, or one column of a comparison that is done."""
    rows = read_table(layout.state(key, part), ["row"]).column("row").to_numpy()
    if field in chain.steps[step].fields:
        path = layout.measures(chain.keys.measures[step], part)
    else:
        path = layout.resolved(chain.keys.resolved(chain.steps, step)) / f"{part.path}.parquet"
    stored = read_table(path, ["row", field])
    at = positions(stored.column("row").to_numpy(), rows)
    return whole(stored.column(field).take(pa.array(at)), kinds(chain.steps[step])[field])


def compare(
    layout: Layout, chain: Chain, number: int, parts: Sequence[Part], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run the comparison that follows segment ``number``; returns its report (stored: a second call only reads it)."""
    last = chain.segments[number].last
    if last is None:
        raise ValueError(f"segment {number} ends without a comparison")
    step = chain.steps[last]
    folder = layout.resolved(chain.keys.resolved(chain.steps, last))
    if (folder / _DONE).is_file():
        return dict(read_json(folder / _DONE))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{step.name}: comparing all documents")
    started = time.process_time()
    survey = survey_after(layout, chain, number, parts, folder)
    columns = as_arrays(step.resolve(survey), step.resolved)
    key = chain.keys.state(chain.segments[number])
    at = 0
    for part in parts:
        rows = read_table(layout.state(key, part), ["row"]).column("row")
        sliced = {name: values.slice(at, len(rows)) for name, values in columns.items()}
        write_table(folder / f"{part.path}.parquet", pa.table({"row": rows, **sliced}))
        at += len(rows)
    if at != survey.n_rows or any(len(values) != at for values in columns.values()):
        raise RuntimeError(f"{step.name}: resolve gave rows of another number than the survey's {survey.n_rows}")
    found = {"step": step.name, "cpu_s": time.process_time() - started, "figures": dict(step.report(survey))}
    write_json(folder / _DONE, found)
    return found


def final_figures(layout: Layout, chain: Chain, parts: Sequence[Part], work: Path) -> dict[str, Any]:
    """What steps that compare nothing say of all documents that remain (histograms, agreement)."""
    figures = {}
    for number, step in enumerate(chain.steps):
        if not step.resolved:
            survey = survey_after(layout, chain, len(chain.segments) - 1, parts, work, own_step=number)
            if given := dict(step.report(survey)):
                figures[step.name] = given
    return figures
