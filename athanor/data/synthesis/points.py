"""The taxonomy: knowledge points in YAML files, and the instruction templates.

A file names a subject, its topics and their points; a second file (a person's own) may add topics and points to a
subject, make a new one, or replace a point by giving its id again. Everything wrong is told with file and line.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from athanor.data.synthesis.custom import OwnTask
from athanor.data.synthesis.generators.base import check_options
from athanor.data.synthesis.programs.base import programs
from athanor.data.synthesis.types import LANGUAGES, Both
from athanor.errors import AthanorError
from athanor.model.config import Strict
from athanor.recipe.loading import validated
from athanor.recipe.source import Source, read_source

BUILT_IN = Path(__file__).with_name("taxonomy")

#: What ``programs: […]`` of a code point stands for.
PROGRAM_GENERATORS = ("predict_output", "write_function", "fix_bug", "complete_line")


class PointSpec(Strict):
    """One point as it is written."""

    zh: str = Field(min_length=1)
    en: str = Field(min_length=1)
    difficulty: tuple[int, int] = (1, 5)
    prerequisites: list[str] = Field(default_factory=list)
    generators: list[str | dict[str, dict[str, Any]]] = Field(default_factory=list)
    programs: list[str] = Field(default_factory=list)
    tasks: list[OwnTask] = Field(default_factory=list)
    needs: Literal["language_model"] | None = None

    @field_validator("difficulty")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 5:
            raise ValueError(f"difficulty is [{value[0]}, {value[1]}]; it should be [low, high] within 1–5")
        return value


class TopicSpec(Strict):
    """One topic as it is written."""

    zh: str = Field(min_length=1)
    en: str = Field(min_length=1)
    points: dict[str, PointSpec] = Field(default_factory=dict)


class TemplateSpec(Strict):
    """Instruction templates by kind and language."""

    zh: list[str] = Field(default_factory=list)
    en: list[str] = Field(default_factory=list)


class TaxonomyFile(Strict):
    """What a YAML file may hold: a subject with topics, and templates."""

    subject: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    zh: str | None = None
    en: str | None = None
    topics: dict[str, TopicSpec] = Field(default_factory=dict)
    templates: dict[str, TemplateSpec] = Field(default_factory=dict)
    answer: TemplateSpec = TemplateSpec()
    layouts: TemplateSpec = TemplateSpec()


@dataclass(frozen=True)
class Served:
    """A generator that serves a point, with its options; ``own`` numbers a declarative task of the file instead."""

    name: str
    options: dict[str, Any]
    own: OwnTask | None = None


@dataclass(frozen=True)
class Point:
    """A leaf: ``id`` is ``subject.topic.point``; ``served`` is empty where a language model is needed."""

    id: str
    subject: str
    topic: str
    names: Both
    difficulty: tuple[int, int]
    prerequisites: tuple[str, ...]
    served: tuple[Served, ...]
    where: str

    @property
    def levels(self) -> range:
        """The difficulties that it has."""
        return range(self.difficulty[0], self.difficulty[1] + 1)


@dataclass
class Taxonomy:
    """Points by id in the order of their files; names of subjects and topics; templates."""

    points: dict[str, Point] = field(default_factory=dict)
    subjects: dict[str, Both] = field(default_factory=dict)
    topics: dict[str, Both] = field(default_factory=dict)
    templates: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=lambda: {x: [] for x in LANGUAGES})
    layouts: dict[str, list[str]] = field(default_factory=lambda: {x: [] for x in LANGUAGES})

    def select(self, subjects: Sequence[str] = (), patterns: Sequence[str] = ()) -> list[Point]:
        """Points of the subjects (all if none named) whose id fits one of the patterns (``math.algebra.*``).

        ``AthanorError`` for an unknown subject and for a pattern that fits nothing.
        """
        for subject in subjects:
            if subject not in self.subjects:
                raise AthanorError(
                    f"unknown subject {subject!r}", where="subject", fix=f"one of {', '.join(self.subjects)}"
                )
        for pattern in patterns:
            if not fnmatch.filter(self.points, pattern):
                raise AthanorError(
                    f"no knowledge point fits {pattern!r}", where="points", fix="athanor data synthesise --list"
                )
        return [
            p
            for p in self.points.values()
            if (not subjects or p.subject in subjects)
            and (not patterns or any(fnmatch.fnmatchcase(p.id, pattern) for pattern in patterns))
        ]


def load_taxonomy(paths: Iterable[str | Path] = ()) -> Taxonomy:
    """The built-in taxonomy with the files of ``paths`` laid on it. ``AthanorError`` names file and line."""
    return _load(tuple(str(p) for p in paths))


@cache
def _load(paths: tuple[str, ...]) -> Taxonomy:
    taxonomy = _copy(_load(())) if paths else Taxonomy()
    problems: list[AthanorError] = []
    for path in map(Path, paths) if paths else sorted(BUILT_IN.glob("*.yaml")):
        if not path.is_file():
            raise AthanorError("no such taxonomy file", where=str(path), fix="a YAML file with subject and topics")
        source = read_source(path)
        _add(taxonomy, validated(TaxonomyFile, source), source, path, problems)
    for point in taxonomy.points.values():
        for needed in point.prerequisites:
            if needed not in taxonomy.points:
                problems.append(
                    AthanorError(f"unknown prerequisite {needed!r}", where=point.where, fix="subject.topic.point")
                )
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise AthanorError("\n".join(map(str, problems)))
    return taxonomy


def _copy(old: Taxonomy) -> Taxonomy:
    """Its own dictionaries and lists; points are values and shared."""
    templates = {kind: {x: list(texts) for x, texts in by.items()} for kind, by in old.templates.items()}
    answers, layouts = ({x: list(texts) for x, texts in by.items()} for by in (old.answers, old.layouts))
    return Taxonomy(dict(old.points), dict(old.subjects), dict(old.topics), templates, answers, layouts)


def _add(taxonomy: Taxonomy, file: TaxonomyFile, source: Source, path: Path, problems: list[AthanorError]) -> None:
    if file.topics and file.subject is None:
        raise AthanorError("topics without a subject", where=source.place(("topics",)), fix="add `subject: math`")
    # The built-in files are drawn from in the tests; a person's own are when they are read.
    subject, built_in = file.subject, path.parent == BUILT_IN
    if subject is not None:
        old = taxonomy.subjects.get(subject, Both(subject, subject))
        taxonomy.subjects[subject] = Both(file.zh or old.zh, file.en or old.en)
    for topic, spec in file.topics.items():
        taxonomy.topics[f"{subject}.{topic}"] = Both(spec.zh, spec.en)
        for name, point in spec.points.items():
            where = source.place(("topics", topic, "points", name))
            try:
                id_ = f"{subject}.{topic}.{name}"
                taxonomy.points[id_] = _point(id_, point, where, draw=not built_in)
            except AthanorError as error:
                problems.append(error)
    for kind, texts in file.templates.items():
        for language in LANGUAGES:
            place = ("templates", kind, language)
            _templates(
                taxonomy.templates.setdefault(kind, {}).setdefault(language, []),
                getattr(texts, language),
                source,
                place,
                ("question",),
                problems,
            )
    for key, store, needed in (
        ("answer", taxonomy.answers, ("answer",)),
        ("layouts", taxonomy.layouts, ("question", "solution")),
    ):
        for language in LANGUAGES:
            _templates(
                store[language], getattr(getattr(file, key), language), source, (key, language), needed, problems
            )


def _templates(
    store: list[str],
    texts: list[str],
    source: Source,
    place: tuple[str, ...],
    needed: tuple[str, ...],
    problems: list[AthanorError],
) -> None:
    """Take templates in whose fields can be filled."""
    for i, text in enumerate(texts):
        where = source.place((*place, i))
        try:
            fields = {name: "x" for name in (*needed, "point")}
            filled = text.format(**fields)
        except (KeyError, IndexError, ValueError) as error:
            problems.append(
                AthanorError(
                    f"template has an unknown field or a stray brace: {error}",
                    where=where,
                    fix=f"fields: {', '.join('{' + n + '}' for n in needed)}",
                )
            )
            continue
        if any("{" + name + "}" not in text for name in needed) or not filled:
            problems.append(
                AthanorError(
                    f"template lacks {', '.join('{' + n + '}' for n in needed)}",
                    where=where,
                    fix="write the field where the text goes",
                )
            )
        else:
            store.append(text)


def _point(id_: str, spec: PointSpec, where: str, draw: bool) -> Point:
    served: list[Served] = []
    for entry in spec.generators:
        for name, options in ({entry: {}} if isinstance(entry, str) else entry).items():
            check_options(name, options, where, draw=draw)
            served.append(Served(name, options))
    for program in spec.programs:
        if program not in programs():
            raise AthanorError(
                f"unknown program {program!r}", where=where, fix=f"one of {', '.join(sorted(programs()))}"
            )
    if spec.programs:
        served += [Served(name, {"program": list(spec.programs)}) for name in PROGRAM_GENERATORS]
    for i, task in enumerate(spec.tasks):
        try:
            task.check()
        except ValueError as error:
            raise AthanorError(f"tasks[{i}]: {error}", where=where) from None
        served.append(Served("own", {}, task))
    if not served and spec.needs is None:
        raise AthanorError(
            "nothing serves this point", where=where, fix="generators, programs, tasks, or `needs: language_model`"
        )
    subject, topic, _ = id_.split(".", 2)
    names = Both(spec.zh, spec.en)
    return Point(id_, subject, topic, names, spec.difficulty, tuple(spec.prerequisites), tuple(served), where)
