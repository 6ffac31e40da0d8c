"""A step's three phases over parts on disk, as the data build runs them, without the rest of the build."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from athanor.data.steps.base import Docs, Step, Survey, Verdict, as_arrays


@dataclass
class Passed:
    """Verdicts of the documents in order, and the measures' size."""

    reasons: list[str | None] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    measure_bytes: int = 0
    report: Any = None


def run_on_disk(
    step: Step, parts: Callable[[], Iterable[Docs]], work: Path | None = None, *, keep: bool = True
) -> Passed:
    """annotate every part to a parquet file, resolve from the files, apply part by part. ``parts`` is called twice."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        step.prepare()
        files: list[Path] = []
        n_rows = 0
        for docs in parts():
            columns = as_arrays(step.annotate(docs), step.fields)
            columns |= {
                "key": pa.array(docs.keys),
                "source": docs.table.column("source"),
                "n_bytes": pa.array(docs.n_bytes),
            }
            files.append(folder / f"part-{len(files):05d}.parquet")
            pq.write_table(pa.table(columns), files[-1], compression="zstd", compression_level=1)
            n_rows += len(docs)

        def read(name: str) -> pa.ChunkedArray:
            return pa.chunked_array([c for f in files for c in pq.read_table(f, columns=[name]).column(name).chunks])

        survey = Survey(read, n_rows, [*step.fields, "key", "source", "n_bytes"], folder)
        resolved = as_arrays(step.resolve(survey), step.resolved) if step.resolved else {}
        passed = Passed(measure_bytes=sum(f.stat().st_size for f in files), report=step.report(survey))
        at = 0
        for docs, file in zip(parts(), files, strict=True):
            columns = {name: pq.read_table(file, columns=[name]).column(name).combine_chunks() for name in step.fields}
            columns |= {name: values.slice(at, len(docs)) for name, values in resolved.items()}
            at += len(docs)
            _collect(passed, step.apply(docs, columns), keep)
        return passed


def _collect(passed: Passed, verdict: Verdict, keep: bool) -> None:
    if keep:
        passed.reasons += verdict.reasons
        passed.texts += verdict.texts if verdict.texts is not None else [None] * len(verdict.reasons)
