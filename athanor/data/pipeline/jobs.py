"""What a worker process does: one job of reading, of a segment, or of writing, named by values that travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from athanor.data.pipeline import ingest, output, segment
from athanor.data.pipeline.ingest import Unit
from athanor.data.pipeline.layout import Layout, Part
from athanor.data.pipeline.segment import Chain
from athanor.recipe.schema import Recipe


@dataclass(frozen=True)
class Context:
    """All that a job needs beside itself; small, so that it can travel with each."""

    recipe: str
    root: str
    inputs: str = ""
    version: str = ""

    @property
    def layout(self) -> Layout:
        return Layout(Path(self.root))

    @property
    def loaded(self) -> Recipe:
        return _recipe(self.recipe)

    @property
    def chain(self) -> Chain:
        """The chain of steps: one for each process, so that models are loaded once."""
        return _chain(self.recipe, self.inputs, self.version)

    def of(self, inputs: str) -> Context:
        """The same, over the input that ``inputs`` is the digest of."""
        return replace(self, inputs=inputs)


@lru_cache(maxsize=2)
def _recipe(text: str) -> Recipe:
    return Recipe.model_validate_json(text)


@lru_cache(maxsize=2)
def _chain(recipe: str, inputs: str, version: str) -> Chain:
    from athanor.data.steps.registry import make_all

    return Chain(make_all(_recipe(recipe).data.steps), inputs, version)


def forget() -> None:
    """Make chains anew: what their steps have loaded (evaluation sets, models) may have changed since."""
    _chain.cache_clear()


@dataclass(frozen=True)
class ReadJob:
    """Read one unit."""

    unit: Unit

    def name(self) -> str:
        return f"reading {self.unit.source}: {', '.join(file.name for file in self.unit.files[:3]) or 'generated'}"

    def done(self, context: Context) -> bool:
        return ingest.is_read(context.layout, self.unit)

    def run(self, context: Context) -> None:
        ingest.read_unit(context.layout, context.loaded, self.unit)


@dataclass(frozen=True)
class WorkJob:
    """Work one segment on one part."""

    number: int
    part: Part

    def name(self) -> str:
        return f"segment {self.number} of {self.part.path}"

    def done(self, context: Context) -> bool:
        return segment.is_worked(context.layout, context.chain, self.number, self.part)

    def run(self, context: Context) -> None:
        segment.work(context.layout, context.chain, self.number, self.part)


@dataclass(frozen=True)
class SortJob:
    """Write what is left of one part, sorted by key, finished documents."""

    part: Part

    def name(self) -> str:
        return f"sorting {self.part.path}"

    def done(self, context: Context) -> bool:
        return output.sorted_path(context.layout, context.chain, self.part).is_file()

    def run(self, context: Context) -> None:
        output.sort_part(context.layout, context.chain, self.part)


@dataclass(frozen=True)
class WriteJob:
    """Write one key range of one source."""

    source: str
    parts: tuple[Part, ...]
    number: int
    of: int

    def name(self) -> str:
        return f"writing {self.source}, {self.number + 1} of {self.of}"

    def done(self, context: Context) -> bool:
        return output.frame_path(context.layout, context.chain, self.parts, self.number, self.of, ".json").is_file()

    def run(self, context: Context) -> None:
        holdout = context.loaded.data.sources[self.source].holdout
        output.write_range(context.layout, context.chain, self.parts, self.number, self.of, holdout)


Job = ReadJob | WorkJob | SortJob | WriteJob


def perform(context: Context, job: Job) -> None:
    """Do one job unless it is done: what every engine calls, in whatever process."""
    if not job.done(context):
        job.run(context)


def open_jobs(context: Context, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not done yet."""
    return [job for job in jobs if not job.done(context)]
