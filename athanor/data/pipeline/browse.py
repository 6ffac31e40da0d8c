"""Looking into a finished build: any document's way through the steps, samples, statistics, differences."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.build import CorpusDir
from athanor.data.pipeline.build import MANIFEST, WORK
from athanor.data.pipeline.jobs import Context
from athanor.data.pipeline.layout import Part, read_table
from athanor.data.pipeline.segment import load_alive, load_docs, positions
from athanor.data.steps.base import text_key
from athanor.data.types import SPLITS
from athanor.errors import AthanorError
from athanor.files import read_json
from athanor.recipe.schema import Recipe


def corpus_dir(path: Path) -> Path:
    """The corpus of a data directory (``OUT`` or ``OUT/corpus``)."""
    return path / "corpus" if (path / "corpus" / "report.json").is_file() else path


@dataclass
class Visit:
    """One step on one document's way. ``measures``: those that a person can read (``Step.readable``)."""

    step: str
    measures: dict[str, Any]
    reason: str | None = None
    edited: bool = False


@dataclass
class Journey:
    """A document's way: where it came from, what each step measured and decided, what is left."""

    id: str
    source: str
    text: str
    visits: list[Visit] = field(default_factory=list)
    final: str | None = None


class Build:
    """A build with its work folder."""

    def __init__(self, path: Path) -> None:
        self.path = corpus_dir(path)
        if not (self.path / MANIFEST).is_file():
            raise AthanorError(
                "no build with curation steps here", where=str(path), fix="athanor data build RECIPE with data.steps"
            )
        manifest = read_json(self.path / MANIFEST)
        recipe = Recipe.model_validate(manifest["recipe"])
        root = self.path / WORK
        self._context = Context(recipe.model_dump_json(), str(root), manifest["inputs"], manifest["version"])
        self.layout, self.chain = self._context.layout, self._context.chain
        last = self.chain.keys.state(self.chain.segments[-1])
        folder = root / "states" / last
        found = [path.relative_to(folder) for path in folder.rglob("*.json")] if folder.is_dir() else []
        self.parts = sorted(Part(path.parent.as_posix(), path.stem) for path in found)
        if not self.parts:
            raise AthanorError("the build's work folder is gone", where=str(root), fix="build again")

    def drops(self) -> Iterator[tuple[Part, int, str, str]]:
        """(part, row, step, reason) of everything that was dropped."""
        for part in self.parts:
            for segment in self.chain.segments:
                table = read_table(self.layout.state(self.chain.keys.state(segment), part, ".drops.parquet"))
                for row, step, reason in zip(*(table.column(n).to_pylist() for n in table.column_names), strict=True):
                    yield part, row, step, reason

    def sample(
        self, step: str | None, reason: str | None, n: int, seed: int, source: str | None = None
    ) -> list[dict[str, Any]]:
        """``n`` dropped documents, drawn by hash; ``step``, ``reason`` (a beginning), ``source`` narrow the choice."""
        _known("step", step, [one.name for one in self.chain.steps])
        _known("source", source, list(self._context.loaded.data.sources))
        wanted = (
            (part, row, at, why)
            for part, row, at, why in self.drops()
            if step in (None, at) and source in (None, part.source) and why.startswith(reason or "")
        )
        drawn = heapq.nsmallest(n, wanted, key=lambda d: _draw(f"{seed}\t{d[0].path}\t{d[1]}"))
        found = []
        for part, row, at, why in drawn:
            docs = load_docs(self.layout, part)
            text = docs.table.column("text")[row].as_py()
            found.append({"id": docs.column("id")[row], "source": part.source, "step": at, "reason": why, "text": text})
        return found

    def journey(self, name: str) -> Journey:
        """The way of a document, by its id in the source or its id (content hash) in the corpus."""
        part, row = self._find(name)
        docs = load_docs(self.layout, part)
        way = Journey(docs.column("id")[row], part.source, docs.texts[row])
        text = way.text
        for number, segment in enumerate(self.chain.segments):
            key = self.chain.keys.state(segment)
            table = read_table(self.layout.state(key, part, ".drops.parquet"))
            mine = table.filter(pc.equal(table.column("row"), row)).to_pylist()
            steps = [at for at in (segment.first, *segment.steps) if at is not None]
            for at in steps:
                visit = Visit(self.chain.steps[at].name, self._measures(at, part, row))
                way.visits.append(visit)
                if mine and mine[0]["step"] == visit.step:
                    visit.reason = mine[0]["reason"]
                    return way
            alive = load_alive(self.layout, self.chain, number, part)
            now = alive.docs.texts[int(positions(alive.rows, np.array([row], dtype=np.int32))[0])]
            for visit, at in zip(way.visits[len(way.visits) - len(steps) :], steps, strict=True):
                visit.edited = now != text and self.chain.steps[at].edits
            text = now
        way.final = text
        return way

    def _find(self, name: str) -> tuple[Part, int]:
        for part in self.parts:
            ids = read_table(self.layout.documents(part), ["id"]).column("id")
            at = pc.index(ids, name).as_py()
            if at >= 0:
                return part, int(at)
        last = self.chain.keys.state(self.chain.segments[-1])
        for part in self.parts:
            state = read_table(self.layout.state(last, part), ["row", "key"])
            at = pc.index(state.column("key"), name.split("~")[0]).as_py()
            if at >= 0:
                return part, int(state.column("row")[at].as_py())
        raise AthanorError(f"no document {name!r}", where=str(self.path), fix="an id of a source, or of the corpus")

    def _measures(self, number: int, part: Part, row: int) -> dict[str, Any]:
        step = self.chain.steps[number]
        found: dict[str, Any] = {}
        if step.fields:
            found |= _row(read_table(self.layout.measures(self.chain.keys.measures[number], part)), row)
        if step.resolved:
            folder = self.layout.resolved(self.chain.keys.resolved(self.chain.steps, number))
            found |= _row(read_table(folder / f"{part.path}.parquet"), row)
        return step.readable(found)


def _known(what: str, name: str | None, names: list[str]) -> None:
    if name is not None and name not in names:
        raise AthanorError(f"no {what} {name!r}", where=f"--{what}", fix=f"one of: {', '.join(names)}")


def _row(table: pa.Table, row: int) -> dict[str, Any]:
    rows = table.filter(pc.equal(table.column("row"), row)).drop_columns(["row"]).to_pylist()
    return rows[0] if rows else {}


def _draw(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def sample_corpus(path: Path, n: int, seed: int, source: str | None) -> list[dict[str, Any]]:
    """``n`` documents of the finished corpus, drawn by hash."""
    corpus = CorpusDir.open(corpus_dir(path))
    _known("source", source, corpus.sources)
    found = (
        {"id": document.id, "source": name, "split": split, "text": document.text, "meta": document.meta}
        for name in corpus.sources
        if source in (None, name)
        for split in SPLITS
        if corpus.count(name, split)
        for document in corpus.documents(name, split)
    )
    return heapq.nsmallest(n, found, key=lambda d: _draw(f"{seed}\t{d['source']}\t{d['id']}"))


@dataclass
class Difference:
    """Two corpora compared, source by source: documents and bytes."""

    same: list[int] = field(default_factory=lambda: [0, 0])
    edited: list[int] = field(default_factory=lambda: [0, 0])
    only_a: list[int] = field(default_factory=lambda: [0, 0])
    only_b: list[int] = field(default_factory=lambda: [0, 0])
    #: kind → ids of some
    examples: dict[str, list[str]] = field(default_factory=dict)


def diff(a: Path, b: Path, examples: int = 3) -> dict[str, Difference]:
    """By source: documents that are the same in both, that were edited differently, that only one has.

    The same document is one of the same place in its source (``origin``); of those that have none on the other side,
    one of the same text (its file was renamed, its rows came in another order).
    """
    one, two = (CorpusDir.open(corpus_dir(path)) for path in (a, b))
    found = {}
    for source in dict.fromkeys([*one.sources, *two.sources]):
        found[source] = _diff_source(_texts(one, source), _texts(two, source), examples)
    return found


def _texts(corpus: CorpusDir, source: str) -> dict[str, tuple[str, int]]:
    """name → (content key, bytes) of every document of a source."""
    found = {}
    for split in SPLITS:
        if source in corpus.sources and corpus.count(source, split):
            for document in corpus.documents(source, split):
                name = str(document.meta.get("origin", document.id))
                found[name] = (text_key(document.text), len(document.text.encode()))
    return found


def _diff_source(one: dict[str, tuple[str, int]], two: dict[str, tuple[str, int]], examples: int) -> Difference:
    result = Difference()
    two = _renamed(one, two)
    for name in sorted({*one, *two}):
        in_a, in_b = one.get(name), two.get(name)
        kind = "only_b" if in_a is None else "only_a" if in_b is None else "same" if in_a[0] == in_b[0] else "edited"
        counts = getattr(result, kind)
        counts[0] += 1
        counts[1] += (in_b or in_a or ("", 0))[1]
        shown = result.examples.setdefault(kind, [])
        if len(shown) < examples:
            shown.append(name)
    return result


def _renamed(one: dict[str, tuple[str, int]], two: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """``two`` with the names of ``one`` for documents of the same text whose own name ``one`` does not know."""
    free: dict[str, list[str]] = {}
    for name in sorted(one.keys() - two.keys(), reverse=True):
        free.setdefault(one[name][0], []).append(name)
    renamed = {}
    for name, value in sorted(two.items()):
        names = free.get(value[0]) if name not in one else None
        renamed[names.pop() if names else name] = value
    return renamed


def describe(path: Path) -> list[dict[str, Any]]:
    """Statistics of a finished corpus by source, split, domain and language: documents and bytes."""
    corpus = CorpusDir.open(corpus_dir(path))
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for source in corpus.sources:
        for split in SPLITS:
            if not corpus.count(source, split):
                continue
            for document in corpus.documents(source, split):
                sizes = groups.setdefault((source, split, document.domain, document.language), [])
                sizes.append(len(document.text.encode()))
    rows = []
    for (source, side, domain, language), sizes in groups.items():
        sizes.sort()
        rows.append(
            {
                "source": source,
                "split": side,
                "domain": domain,
                "language": language,
                "documents": len(sizes),
                "bytes": sum(sizes),
                "median_bytes": sizes[len(sizes) // 2],
                "largest_bytes": sizes[-1],
            }
        )
    return rows


def as_json(value: Any) -> str:
    """JSON of plain values and dataclasses; what is not a number (a scorer that was not asked) is null."""
    plain = json.loads(json.dumps(value, default=vars), parse_constant=lambda name: None)
    return json.dumps(plain, ensure_ascii=False, indent=2)
