"""Tasks → jsonl files and a report; a source of ``kind: synthesis`` in a recipe."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.data.synthesis.engine import Coverage, synthesise
from athanor.data.synthesis.points import load_taxonomy
from athanor.data.synthesis.telling import document, row
from athanor.data.synthesis.types import Form, Task, split_of
from athanor.errors import AthanorError
from athanor.files import atomic_path, sha256_file, write_json
from athanor.recipe.loading import validated
from athanor.recipe.source import Source
from athanor.recipe.synthesis import SynthesisOptions

if TYPE_CHECKING:
    from athanor.data.types import Document


def options_of(values: Mapping[str, Any], where: str) -> SynthesisOptions:
    """Typed options from plain values; ``AthanorError`` names what is wrong."""
    return validated(SynthesisOptions, Source(dict(values), {(): where}))


def tasks_of(options: SynthesisOptions, n: int, seed: int, workers: int, coverage: Coverage) -> Iterator[Task]:
    """Computed tasks, or, with an endpoint or a model directory, posed or solved ones."""
    if options.endpoint is None:
        return synthesise(options, n, seed, workers=workers, coverage=coverage)
    from athanor.data.synthesis.asking import open_model
    from athanor.data.synthesis.language_model import Poser, solved

    model = open_model(options.endpoint)
    coverage.usage = model.usage
    if options.endpoint.mode == "solve":
        return solved(model, options, n, seed, coverage, workers)
    return Poser(model, options, seed, coverage).tasks(n)


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOBase]:
    """A text file that appears under its name when the block ends well; ``.zst`` packs it."""
    with atomic_path(path) as tmp, open(tmp, "wb") as raw, ExitStack() as stack:
        packed: Any = raw
        if path.suffix == ".zst":
            import zstandard

            packed = stack.enter_context(zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False))
        text = stack.enter_context(io.TextIOWrapper(packed, encoding="utf-8", newline="\n"))
        yield text
        text.flush()


def heldout_path(out: Path) -> Path:
    """``x.jsonl.zst`` → ``x.heldout.jsonl.zst``."""
    first, dot, rest = out.name.partition(".")
    return out.with_name(f"{first}.heldout{dot}{rest}")


def write_tasks(
    options: SynthesisOptions,
    n: int,
    seed: int,
    out: Path,
    form: Form,
    *,
    workers: int = 1,
    on_task: Callable[[Task], None] = lambda task: None,
) -> Coverage:
    """Write ``n`` tasks to ``out`` (held-out questions to ``x.heldout.jsonl``), and ``x.report.json`` beside them.

    Files appear whole or not at all. ``AthanorError`` when there is not one task; fewer than ``n`` is in the report.
    """
    taxonomy, coverage, started = load_taxonomy(options.taxonomy), Coverage(), time.perf_counter()
    with ExitStack() as stack:
        files = {"train": stack.enter_context(_text(out))}
        if options.holdout:
            files["heldout"] = stack.enter_context(_text(heldout_path(out)))
        for task in tasks_of(options, n, seed, workers, coverage):
            split = split_of(task.key, options.holdout)
            files[split].write(row(task, form, taxonomy, seed) + "\n")
            on_task(task)
        if not coverage.made:
            raise AthanorError(f"not one task was kept: {reasons(coverage)}", where=str(out), fix="see the reasons")
    report = {"asked": n, "seed": seed, "form": form, "options": options.model_dump(), **coverage.as_json()}
    write_json(report_path(out), report | {"wall_s": round(time.perf_counter() - started, 3)})
    return coverage


def report_path(out: Path) -> Path:
    """``x.jsonl.zst`` → ``x.report.json``."""
    return out.with_name(out.name.partition(".")[0] + ".report.json")


def reasons(coverage: Coverage, most: int = 8) -> str:
    """The most frequent reasons for rejection."""
    return ", ".join(f"{reason} {n:,}" for reason, n in coverage.rejected.most_common(most)) or "nothing was rejected"


def source_documents(n: int, seed: int, options: Mapping[str, Any], where: str) -> Iterator[Document]:
    """The documents of a recipe's source. ``AthanorError`` when there are not ``n`` different ones."""
    typed, coverage = options_of(options, where), Coverage()
    taxonomy = load_taxonomy(typed.taxonomy)
    for task in tasks_of(typed, n, seed, 1, coverage):
        yield document(task, taxonomy, seed)
    if coverage.made < n:
        fix = f"fewer documents, or more points and difficulties ({reasons(coverage)})"
        raise AthanorError(f"only {coverage.made:,} different questions, {n:,} asked", where=where, fix=fix)


def source_inputs(options: Mapping[str, Any], where: str) -> list[str]:
    """What a source reads beside its options: the contents of its taxonomy files."""
    typed = options_of(options, where)
    load_taxonomy(typed.taxonomy)
    return [sha256_file(path) for path in typed.taxonomy]
