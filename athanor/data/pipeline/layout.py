"""Where the pipeline keeps what, and what makes it stale.

    WORK/parts/<source>/<unit>-<n>.parquet    documents as they were read, untouched (``steps.base.SCHEMA``)
    WORK/parts/<source>/<unit>.json           what a unit of reading gave; written last, so it says the unit is whole
    WORK/measures/<step>-<key>/<part>.parquet measures of a step, a row for each document it has seen
    WORK/resolved/<step>-<key>/               columns of a comparison over all documents, and what it keeps (indexes)
    WORK/states/<key>/<part>.parquet          documents alive after a segment: row, key, bytes, texts that changed
    WORK/states/<key>/<part>.drops.parquet    what was dropped in it: row, step, reason
    WORK/states/<key>/<part>.json             its tally; written last

A *unit* is what one worker reads: one file, or small ones together. A *part* is a batch of documents. Both follow from
the input alone, never from the number of workers. Names carry a digest of all that their content depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from athanor.data.steps.base import Step
from athanor.files import atomic_path, digest

#: Hexadecimal digits of a digest in a name.
SHORT = 12


@dataclass(frozen=True, order=True)
class Part:
    """A batch of documents on disk."""

    source: str
    name: str

    @property
    def path(self) -> str:
        """Relative path without ending, the same below ``parts``, ``measures`` and ``states``."""
        return f"{self.source}/{self.name}"


@dataclass(frozen=True)
class Layout:
    """Paths below one work folder."""

    root: Path

    def documents(self, part: Part) -> Path:
        return self.root / "parts" / f"{part.path}.parquet"

    def unit(self, source: str, unit: str) -> Path:
        return self.root / "parts" / source / f"{unit}.json"

    def measures(self, key: str, part: Part) -> Path:
        return self.root / "measures" / key / f"{part.path}.parquet"

    def resolved(self, key: str) -> Path:
        return self.root / "resolved" / key

    def state(self, key: str, part: Part, ending: str = ".parquet") -> Path:
        return self.root / "states" / key / f"{part.path}{ending}"


def write_table(path: Path, table: pa.Table | pa.RecordBatch) -> None:
    """Write a parquet file, whole or not at all."""
    whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    with atomic_path(path) as tmp:
        pq.write_table(whole, tmp, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a parquet file in this thread (the processes already use all cores)."""
    return pq.read_table(path, columns=columns, use_threads=False)


def options_of(step: Step) -> Any:
    """A step's options as a JSON value."""
    return step.options.model_dump(mode="json")


@dataclass(frozen=True)
class Segment:
    """Steps that are worked in one pass over a part: first ``first.apply`` of a step whose comparison is done, then
    ``steps`` whole, then ``last.annotate`` of the next step that compares documents."""

    first: int | None
    steps: tuple[int, ...]
    last: int | None


def segments(steps: Sequence[Step]) -> list[Segment]:
    """Cut a chain of steps where documents have to be compared with all others."""
    found: list[Segment] = []
    first: int | None = None
    inside: list[int] = []
    for number, step in enumerate(steps):
        if step.resolved:
            found.append(Segment(first, tuple(inside), number))
            first, inside = number, []
        else:
            inside.append(number)
    found.append(Segment(first, tuple(inside), None))
    return found


class Keys:
    """Digests of what each stored thing depends on, for one chain of steps over one input.

    A measure depends on its step's ``compute_key`` and on the texts it saw: on the editing steps before it, but not on
    thresholds of filters. Where an editing step compares documents, its texts depend on all that came before.
    """

    def __init__(self, steps: Sequence[Step], inputs: str, version: str) -> None:
        self.measures: list[str] = []
        self.upto: list[str] = []  # all options of the steps 0…i, and for comparisons the whole input
        texts = digest(["texts", version])
        everything = digest(["steps", version])
        for step in steps:
            own = digest([step.name, step.compute_key(), texts])
            self.measures.append(f"{step.name}-{own[:SHORT]}")
            more = [inputs] if step.resolved else []
            everything = digest([everything, step.name, options_of(step), own, *more])
            self.upto.append(everything)
            if step.edits:
                texts = digest([texts, everything if step.resolved else [step.name, options_of(step), own]])
        self.base = digest(["base", version])

    def resolved(self, steps: Sequence[Step], number: int) -> str:
        """Name of what step ``number``'s comparison leaves."""
        return f"{steps[number].name}-{self.upto[number][:SHORT]}"

    def state(self, segment: Segment) -> str:
        """Name of the documents alive after a segment (and of the measures that its last step has taken of them)."""
        done = segment.steps[-1] if segment.steps else segment.first
        upto = self.base if done is None else self.upto[done]
        last = "" if segment.last is None else self.measures[segment.last]
        return digest([upto, last])[:SHORT]
