"""Reading, once: the files of every source → parts of documents as they are.

A unit is read by one worker. Its name is a digest of what it reads (files with sizes and times, options of the
source), so an unchanged unit is never read again and a changed file makes a new one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from athanor.data.pipeline import own_ids
from athanor.data.pipeline.layout import SHORT, Layout, Part, write_table
from athanor.data.pipeline.tally import phrase
from athanor.data.readers import InputFile, expand, read_file, stamp
from athanor.data.stdlib_corpus import python_version
from athanor.data.steps.base import SCHEMA
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError, MissingLibrary
from athanor.files import digest, read_json, write_json
from athanor.recipe.schema import DataRecipe, Recipe, SourceRecipe

#: Examples of what could not be read that a unit and a source keep, of each reason.
EXAMPLES = 5
#: Of what reading makes of a file: raised when documents come out otherwise, so that nothing read before is used.
_READING = 2


@dataclass(frozen=True)
class Unit:
    """Files of one source that one worker reads (none: the source is generated)."""

    source: str
    files: tuple[InputFile, ...]
    name: str
    n_bytes: int


@dataclass
class UnitReport:
    """What reading a unit gave. Bytes are UTF-8 bytes of text; ``dropped`` counts by the reason's first words."""

    parts: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    documents: int = 0
    n_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0

    def drop(self, item: Dropped) -> None:
        """Count what gave no document."""
        self.dropped[phrase(item.reason)] = self.dropped.get(phrase(item.reason), 0) + 1
        if self.dropped[phrase(item.reason)] <= EXAMPLES:
            self.examples.append({"id": clean(item.id), "reason": clean(item.reason)})


def clean(text: str) -> str:
    """Text that can be written as UTF-8: a lone surrogate is replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def find_units(recipe: Recipe) -> tuple[list[Unit], dict[str, list[Dropped]]]:
    """The units of every source in a fixed order, and by source what its folders hold that is not read."""
    if not recipe.data.sources:
        raise AthanorError("empty corpus: the recipe names no source", where="data.sources", fix="add one: kind, paths")
    units: list[Unit] = []
    ignored: dict[str, list[Dropped]] = {}
    for name, source in recipe.data.sources.items():
        if source.kind != "files":
            units.append(Unit(name, (), digest(_identity(recipe, source, _generated_from(name, source)))[:SHORT], 0))
            continue
        if not source.paths:
            where = f"data.sources.{name}.paths"
            raise AthanorError("the source has no paths", where=where, fix="files, folders, globs")
        files, ignored[name] = expand(source.paths)
        sized = [(file, *stamp(file)) for file in files]
        groups = _grouped(sized, recipe.data.part_bytes)
        for group in groups:
            stats = [[file.name, size, changed] for file, size, changed in group]
            key = digest(_identity(recipe, source, stats))[:SHORT]
            units.append(Unit(name, tuple(file for file, _, _ in group), key, sum(size for _, size, _ in group)))
    return units, ignored


def _identity(recipe: Recipe, source: SourceRecipe, stats: list[Any]) -> list[Any]:
    """All that decides what a unit reads."""
    limits = [recipe.data.max_document_bytes, recipe.data.part_bytes]
    seed = None if source.kind == "files" else recipe.seed
    options = source.model_dump(exclude={"paths", "holdout"})
    return [_READING, options, limits, seed, stats]


def _generated_from(name: str, source: SourceRecipe) -> list[Any]:
    """What a generated source reads beside its options: the Python whose library it is, its taxonomy files."""
    if source.kind == "arithmetic":
        return []
    found: list[Any] = [python_version()]
    if source.kind == "synthesis":
        from athanor.data.synthesis.writing import source_inputs

        found += source_inputs(source.options, f"data.sources.{name}.options")
    return found


_Sized = tuple[InputFile, int, float | str]


def _grouped(files: Sequence[_Sized], part_bytes: int) -> Iterator[list[_Sized]]:
    """Small files together up to ``part_bytes``, in order: a cut depends on the files before it in its folder only."""

    def folder(item: _Sized) -> str:
        return str(Path(item[0].name).parent)

    for _, inside in groupby(files, folder):
        group: list[_Sized] = []
        total = 0
        for item in inside:
            if group and total + item[1] > part_bytes:
                yield group
                group, total = [], 0
            group.append(item)
            total += item[1]
        if group:
            yield group


def is_read(layout: Layout, unit: Unit) -> bool:
    """Whether a unit has been read whole."""
    return layout.unit(unit.source, unit.name).is_file()


def unit_report(layout: Layout, unit: Unit) -> UnitReport:
    """What reading a finished unit gave."""
    return UnitReport(**read_json(layout.unit(unit.source, unit.name)))


def read_unit(layout: Layout, recipe: Recipe, unit: Unit) -> UnitReport:
    """Read one unit into parts; the report is written last."""
    started = time.process_time()
    report = UnitReport()
    writer = _PartWriter(layout, unit, recipe.data.part_bytes, report)
    for item in _items(recipe, unit):
        if isinstance(item, Dropped):
            report.drop(item)
        else:
            writer.add(item)
    writer.flush()
    report.cpu_s = time.process_time() - started
    write_json(layout.unit(unit.source, unit.name), vars(report))
    return report


def _items(recipe: Recipe, unit: Unit) -> Iterator[Document | Dropped]:
    source, data = recipe.data.sources[unit.source], recipe.data
    if source.kind != "files":
        from athanor.data.build import read_source

        yield from read_source(recipe, unit.source)
        return
    for file in unit.files:
        yield from _file_items(file, source, data)


def _file_items(file: InputFile, source: SourceRecipe, data: DataRecipe) -> Iterator[Document | Dropped]:
    """Documents of one file. One that cannot be read to its end costs that file's rest and nothing else."""
    try:
        yield from read_file(
            file,
            text_key=source.text_key,
            domain=source.domain,
            language=source.language,
            max_document_bytes=data.max_document_bytes,
            tolerant=True,
        )
    except MissingLibrary:
        raise
    except (AthanorError, OSError, ValueError) as error:
        what = error.what if isinstance(error, AthanorError) else f"{type(error).__name__}: {error}"
        yield Dropped(file.name, f"damaged: {what}")


def row_of(document: Document, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the values of ``SCHEMA`` that a document is for the steps, its meta)."""
    meta = json.loads(clean(json.dumps(document.meta, ensure_ascii=False, default=str)))
    url = meta.get("url")
    values = {
        "id": clean(document.id),
        "text": document.text,
        "domain": document.domain,
        "language": document.language,
        "source": source,
        "url": url if isinstance(url, str) else None,
        "meta": json.dumps(meta, ensure_ascii=True, sort_keys=True),
    }
    return values, meta


class _PartWriter:
    """Collects documents into parts of about ``part_bytes``."""

    def __init__(self, layout: Layout, unit: Unit, part_bytes: int, report: UnitReport) -> None:
        self._layout, self._unit, self._limit, self._report = layout, unit, part_bytes, report
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self._own_ids: list[Any] = []
        self._size = 0

    def add(self, document: Document) -> None:
        try:
            n_bytes = len(document.text.encode())
        except UnicodeEncodeError:
            self._report.drop(Dropped(document.id, "not UTF-8: a lone surrogate in the text"))
            return
        if self._size and self._size + n_bytes > self._limit:
            self.flush()
        values, meta = row_of(document, self._unit.source)
        kind = str(meta.get("format", "rows"))
        for name, value in values.items():
            self._columns[name].append(value)
        self._own_ids.append(meta.get("id"))
        self._size += n_bytes
        self._report.documents += 1
        self._report.n_bytes += n_bytes
        self._report.formats[kind] = self._report.formats.get(kind, 0) + 1

    def flush(self) -> None:
        if not self._columns["id"]:
            return
        part = Part(self._unit.source, f"{self._unit.name}-{len(self._report.parts):05d}")
        write_table(self._layout.documents(part), pa.table(self._columns, schema=SCHEMA))
        own_ids.write(self._layout, part, self._own_ids)
        self._report.parts.append(part.name)
        self._report.rows.append(len(self._columns["id"]))
        self._columns = {name: [] for name in SCHEMA.names}
        self._own_ids, self._size = [], 0
