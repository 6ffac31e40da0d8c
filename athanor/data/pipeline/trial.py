"""Steps tried on a few documents in memory, before anything is built."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from athanor.data.pipeline.browse import Journey, Visit
from athanor.data.readers import expand, read_file
from athanor.data.steps.base import Docs, Step, run_step
from athanor.data.steps.registry import make_all
from athanor.data.types import Document
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe


def try_files(path: Path, recipe: Recipe | None, n: int) -> list[Journey]:
    """The first ``n`` documents of files, and what the recipe's steps say of each (among these ``n`` alone)."""
    files, _ = expand([path])
    found = (item for file in files for item in read_file(file))
    documents = list(islice((item for item in found if isinstance(item, Document)), n))
    if not documents:
        raise AthanorError("no document in it", where=str(path), fix="athanor data extract tells why")
    journeys = [Journey(document.id, path.name, document.text) for document in documents]
    docs = Docs.of(
        [document.text for document in documents],
        id=[document.id for document in documents],
        domain=[document.domain for document in documents],
        language=[document.language for document in documents],
    )
    alive = np.arange(len(docs))
    with tempfile.TemporaryDirectory() as work:
        for step in make_all(recipe.data.steps if recipe else []):
            docs, alive = _visit(step, docs, alive, journeys, Path(work))
    for at, text in zip(alive, docs.texts, strict=True):
        journeys[at].final = text
    return journeys


def _visit(step: Step, docs: Docs, alive: np.ndarray, journeys: list[Journey], work: Path) -> tuple[Docs, np.ndarray]:
    after, verdict, columns = run_step(step, docs, work)
    keep = np.array([reason is None for reason in verdict.reasons], dtype=bool)
    changed = [old != new for old, new in zip(docs.texts, after.texts, strict=True)]
    for at, number in enumerate(alive):
        measures = {name: values[at].as_py() for name, values in columns.items()}
        journeys[number].visits.append(Visit(step.name, measures, verdict.reasons[at], changed[at]))
    return after.take(keep), alive[keep]
