"""Steps tried on a few documents in memory, before anything is built."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from athanor.data.pipeline.browse import Journey, Visit
from athanor.data.pipeline.ingest import row_of
from athanor.data.readers import expand, read_file
from athanor.data.steps.base import SCHEMA, Docs, Step, Verdict, run_step
from athanor.data.steps.registry import make_all
from athanor.data.types import Document
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe


def try_files(path: Path, recipe: Recipe | None, n: int) -> list[Journey]:
    """The first ``n`` documents of files, and what the recipe's steps say of each (among these ``n`` alone)."""
    files, _ = expand([path])
    found = (item for file in files for item in read_file(file, tolerant=True))
    documents = list(islice((item for item in found if isinstance(item, Document)), n))
    if not documents:
        raise AthanorError("no document in it", where=str(path), fix="athanor data extract tells why")
    journeys = [Journey(document.id, path.name, document.text) for document in documents]
    rows = [row_of(document, path.name)[0] for document in documents]
    docs = Docs(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    alive = np.arange(len(docs))
    with tempfile.TemporaryDirectory() as work:
        measures: dict[str, pa.Array] = {}
        for step in make_all(recipe.data.steps if recipe else []):
            after, verdict, columns = run_step(step, docs, Path(work), measures)
            keep = np.array([reason is None for reason in verdict.reasons], dtype=bool)
            _note(step, docs, after, verdict, columns, [journeys[at] for at in alive])
            measures |= {f"{step.name}.{name}": values for name, values in columns.items()}
            measures = {name: values.filter(pa.array(keep)) for name, values in measures.items()}
            docs, alive = after.take(keep), alive[keep]
    for at, text in zip(alive, docs.texts, strict=True):
        journeys[at].final = text
    return journeys


def _note(
    step: Step, before: Docs, after: Docs, verdict: Verdict, columns: Mapping[str, pa.Array], journeys: list[Journey]
) -> None:
    """Add the visit of one step to the journeys of the documents it saw."""
    for at, journey in enumerate(journeys):
        measures = step.readable({name: values[at].as_py() for name, values in columns.items()})
        changed = before.texts[at] != after.texts[at]
        journey.visits.append(Visit(step.name, measures, verdict.reasons[at], changed))
