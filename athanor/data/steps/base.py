"""The contract of a curation step, and the columns it works on.

A step is worked in up to three phases, so that what is dear is kept and what is cheap can change:

1. ``annotate``  documents → measures (columns beside the documents). A pure function of each document alone: the same
   row comes out whatever else is in the batch. The pipeline stores it under ``compute_key``; thresholds are no part
   of it, so changing one recomputes nothing.
2. ``resolve``  only where documents must be compared with one another (deduplication): all rows of the measures →
   further columns. It runs once, in one process, on columns read one at a time from disk.
3. ``apply``  measures → verdict: which documents are dropped and why, which get a new text.

Results must not depend on the order of documents nor on how they were cut into batches: ties are broken by ``key``
(a hash of the content), never by position.
"""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Columns by name, one row a document: numpy arrays or pyarrow arrays, all of the batch's length.
Columns = Mapping[str, Any]

#: Columns that every batch has. ``meta`` is a JSON object as text; ``url`` may be null.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("domain", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("meta", pa.string()),
    ]
)


@dataclass(frozen=True)
class Docs:
    """A batch of documents in columns (``SCHEMA``), texts as one UTF-8 buffer with offsets."""

    table: pa.RecordBatch

    @classmethod
    def of(cls, texts: Sequence[str], **columns: Any) -> Docs:
        """From texts, other columns given as a list (or one value for all); ids default to the content's key."""
        defaults: dict[str, Any] = {"domain": "general", "language": "und", "source": "memory", "meta": "{}"}
        n = len(texts)
        values: dict[str, Any] = {"text": list(texts), "id": columns.get("id") or [text_key(text) for text in texts]}
        for name in SCHEMA.names:
            if name not in values:
                given = columns.get(name, defaults.get(name))
                values[name] = list(given) if isinstance(given, list | tuple) else [given] * n
        arrays = [pa.array(values[f.name], type=f.type) for f in SCHEMA]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> list[Any]:
        """A column as Python values."""
        return list(self.table.column(name).to_pylist())

    @cached_property
    def texts(self) -> list[str]:
        """The texts as Python strings."""
        return self.column("text")

    @cached_property
    def utf8(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """(data, offsets): the text of document i is the UTF-8 in data[offsets[i]:offsets[i+1]]. No copy."""
        column = self.table.column("text")
        _, offsets, data = column.buffers()
        at = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
        if data is None:
            return np.zeros(0, dtype=np.uint8), at
        return np.frombuffer(data, dtype=np.uint8)[at[0] : at[-1]], at - at[0]

    @cached_property
    def n_bytes(self) -> npt.NDArray[np.int64]:
        """UTF-8 bytes of each text."""
        return np.diff(self.utf8[1])

    @cached_property
    def keys(self) -> list[str]:
        """Content hash of each text (32 hexadecimal digits): what ties are broken by."""
        return [text_key(text) for text in self.texts]

    def take(self, keep: npt.NDArray[np.bool_]) -> Docs:
        """The documents where ``keep`` is true, in the same order."""
        return Docs(self.table.filter(pa.array(keep)))

    def with_texts(self, texts: Sequence[str | None]) -> Docs:
        """The same documents with new texts; None leaves one as it is."""
        merged = [old if new is None else new for old, new in zip(self.texts, texts, strict=True)]
        at = self.table.schema.get_field_index("text")
        return Docs(self.table.set_column(at, SCHEMA.field("text"), pa.array(merged, type=pa.large_string())))


def text_key(text: str) -> str:
    """128 bits of SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Verdict:
    """What ``apply`` says of each document of the batch.

    reasons  None: it stays; else why it is dropped: a short fixed phrase, then after a colon the figures
             (``"too many symbols: 0.31 of words"``). Reports count by what stands before the colon.
    texts    new texts where a step edits (None: unchanged), or None when no document changes.
    columns  values other columns of the documents take (``language``, ``domain``), one row each, or empty.
    """

    reasons: Sequence[str | None]
    texts: Sequence[str | None] | None = None
    columns: Columns = field(default_factory=dict)


class Survey:
    """All rows of what has been measured so far, on disk, for ``resolve``. Read the columns you need, one at a time.

    Rows are the documents still alive, in a fixed but meaningless order. Always there: ``key`` (string, content hash),
    ``source``, ``n_bytes``; then the step's own measures by their names, and those of earlier steps as ``step.name``.
    """

    def __init__(self, read: Callable[[str], pa.ChunkedArray], n_rows: int, names: Sequence[str], work: Path) -> None:
        self._read, self.n_rows, self.names, self.work = read, n_rows, tuple(names), work

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, ``n_rows`` long."""
        return self._read(name)

    def numpy(self, name: str) -> npt.NDArray[Any]:
        """One column of numbers as a numpy array."""
        return np.asarray(self._read(name).to_numpy())


class Step(ABC):
    """One step of curation. Subclasses take their options (``athanor.recipe.steps``) and override the phases they need.

    ``fields``  measures that ``annotate`` returns: name → arrow type.
    ``resolved``  columns that ``resolve`` adds, likewise; a step that names any must override ``resolve``.
    ``edits``  whether ``apply`` may return texts (or columns that later steps read).
    ``exports``  measures that the finished document carries in its ``meta`` (``quality``, ``difficulty``, ``weight``).
    ``internal``  measures that only the step itself can read, besides hashes and bytes (``readable``).
    """

    name: ClassVar[str]
    fields: ClassVar[dict[str, pa.DataType]] = {}
    resolved: ClassVar[dict[str, pa.DataType]] = {}
    edits: ClassVar[bool] = False
    exports: ClassVar[tuple[str, ...]] = ()
    internal: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any) -> None:
        self.options = options

    def compute_key(self) -> Any:
        """What ``annotate`` depends on, as a JSON value: options that change measures, versions of models; not
        thresholds."""
        return []

    def prepare(self) -> None:  # noqa: B027 - most steps have nothing to load
        """Load what is dear to load (models, indexes), once in each worker process before its first batch."""

    def annotate(self, docs: Docs) -> Columns:
        """Measures of each document (``fields``). Never raises for odd text."""
        return {}

    def resolve(self, survey: Survey) -> Columns:
        """``resolved`` columns for all rows of the survey, from its columns."""
        raise NotImplementedError(f"{self.name} compares no documents")

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """The verdict, from the measures (``fields`` and ``resolved``, as pyarrow arrays) and if need be the texts."""
        return Verdict([None] * len(docs))

    def readable(self, measures: Mapping[str, Any]) -> dict[str, Any]:
        """Those measures of one document that say something to a person: no keys that documents are compared by (64-bit
        hashes, bytes), nothing ``internal``."""
        kinds = self.fields | self.resolved
        return {
            name: value
            for name, value in measures.items()
            if name not in self.internal and not _is_key(kinds.get(name, pa.null()))
        }

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Figures for the build report beyond counts (clusters, agreement …), JSON values."""
        return {}


def _is_key(kind: pa.DataType) -> bool:
    """Whether a column of that type holds hashes or packed bytes."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    packed = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(pa.types.is_uint64(kind) or packed)


def as_arrays(columns: Columns, fields: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """Columns in the types that ``fields`` names; ``ValueError`` when one is missing or unknown."""
    if set(columns) != set(fields):
        raise ValueError(f"columns {sorted(columns)} are not {sorted(fields)}")
    return {name: pa.array(columns[name], type=kind) for name, kind in fields.items()}


@dataclass(frozen=True)
class Outcome:
    """What steps did to a batch in memory: the documents kept, (id, step, reason) of the others, all measures."""

    kept: Docs
    dropped: list[tuple[str, str, str]]
    measures: dict[str, pa.Array]


def run_step(
    step: Step, docs: Docs, work: Path, measures: Mapping[str, pa.Array] | None = None
) -> tuple[Docs, Verdict, dict[str, pa.Array]]:
    """All phases of one step on one batch: (documents with new texts, dropped ones still among them; verdict;
    measures). ``measures``: those of earlier steps by ``step.name``, for comparisons that read them."""
    step.prepare()
    columns: dict[str, pa.Array] = as_arrays(step.annotate(docs), step.fields)
    if step.resolved:
        base = {"key": pa.array(docs.keys), "n_bytes": pa.array(docs.n_bytes)}
        known = {**base, "source": docs.table.column("source"), **(measures or {}), **columns}
        survey = Survey(_in_memory(known), len(docs), list(known), work)
        columns |= as_arrays(step.resolve(survey), step.resolved)
    verdict = step.apply(docs, columns)
    return updated(docs, verdict), verdict, columns


def run_in_memory(steps: Iterable[Step], docs: Docs, work: Path | None = None) -> Outcome:
    """All phases of ``steps`` on one batch: for tests and small inputs. The pipeline gives the same."""
    measures: dict[str, pa.Array] = {}
    dropped: list[tuple[str, str, str]] = []
    for step in steps:
        after, verdict, columns = run_step(step, docs, work or Path("."), measures)
        keep = np.array([reason is None for reason in verdict.reasons], dtype=bool)
        ids = docs.column("id")
        dropped += [(ids[i], step.name, reason) for i, reason in enumerate(verdict.reasons) if reason is not None]
        measures |= {f"{step.name}.{name}": values for name, values in columns.items()}
        measures = {name: values.filter(pa.array(keep)) for name, values in measures.items()}
        docs = after.take(keep)
    return Outcome(docs, dropped, measures)


def _in_memory(columns: Mapping[str, pa.Array]) -> Callable[[str], pa.ChunkedArray]:
    return lambda name: pa.chunked_array([columns[name]])


def updated(docs: Docs, verdict: Verdict) -> Docs:
    """The documents with the verdict's new texts and columns."""
    if verdict.texts is not None:
        docs = docs.with_texts(verdict.texts)
    table = docs.table
    for name, values in verdict.columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, SCHEMA.field(name), pa.array(values, type=SCHEMA.field(name).type))
    return Docs(table) if verdict.columns else docs
