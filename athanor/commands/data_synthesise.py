"""``athanor data synthesise``: verified tasks from the taxonomy of knowledge points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athanor.commands.common import local_out
from athanor.errors import AthanorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from athanor.data.synthesis.engine import Coverage
    from athanor.data.synthesis.points import Point, Taxonomy
    from athanor.data.synthesis.types import Task
    from athanor.recipe.synthesis import SynthesisOptions


def register(data_app: typer.Typer) -> None:
    """Add the command to ``athanor data``."""
    data_app.command("synthesise")(synthesise)


def synthesise(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="jsonl to write (.zst packs).", callback=local_out),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many different tasks.")] = 10_000,
    language: Annotated[str, typer.Option(help="Languages: zh,en.")] = "zh,en",
    subject: Annotated[str, typer.Option(help="Subjects, e.g. math,code; default: all.")] = "",
    points: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these points: math.algebra.*")
    ] = None,
    difficulty: Annotated[str, typer.Option(help="1 to 5, e.g. 2-4.")] = "1-5",
    taxonomy: Annotated[list[str] | None, typer.Option(metavar="YAML", help="Your points and templates.")] = None,
    code: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Code to explain; default: the library.")
    ] = None,
    form: Annotated[str, typer.Option(help="conversations (SFT) or documents (pre-training).")] = "conversations",
    holdout: Annotated[float, typer.Option(min=0, max=0.99, help="Share of questions in FILE.heldout.jsonl.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Equal seeds, equal files.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; never changes the result.")] = 1,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint.")] = None,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Model name there.")] = "default",
    model_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Athanor model instead of an endpoint.")] = None,
    mode: Annotated[str, typer.Option(help="pose: new problems; solve: solutions of computed tasks.")] = "pose",
    samples: Annotated[int, typer.Option(min=1, help="Solutions a problem, for the vote.")] = 5,
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Environment variable with the key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Budget.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Budget: prompt and answer tokens.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the taxonomy as a tree and stop.")] = False,
) -> None:
    """Tasks with verified answers: knowledge points × instruction templates × difficulty, in Chinese and English."""
    from athanor.data.synthesis.writing import options_of

    values: dict[str, Any] = {
        "subjects": _words(subject),
        "languages": _words(language),
        "points": points or [],
        "taxonomy": taxonomy or [],
        "difficulty": _range(difficulty),
        "code": code or [],
        "holdout": holdout,
    }
    if endpoint or model_dir:
        values["endpoint"] = {
            "url": endpoint,
            "model": model,
            "model_dir": model_dir,
            "api_key_env": api_key_env,
            "mode": mode,
            "samples": samples,
            "concurrency": concurrency,
            "max_requests": max_requests,
            "max_tokens": max_tokens,
            "cache": str(out.with_name(out.name.partition(".")[0] + ".asked.jsonl")) if out else None,
        }
    options = options_of(values, "command line")
    if list_:
        _show(options)
    elif out is None:
        raise AthanorError("where to?", where="--out", fix="--out tasks.jsonl, or --list to see the knowledge points")
    elif form not in ("documents", "conversations"):
        raise AthanorError(f"unknown form {form!r}", where="--form", fix="documents or conversations")
    else:
        _write(options, n, seed, out, form, workers)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _range(text: str) -> list[int]:
    low, dash, high = text.partition("-")
    if not low.strip().isdigit() or (dash and not high.strip().isdigit()):
        raise AthanorError(f"not a range: {text!r}", where="--difficulty", fix="3, or 2-4")
    return [int(low), int(high or low)]


def _write(options: SynthesisOptions, n: int, seed: int, out: Path, form: Any, workers: int) -> None:
    from athanor.data.synthesis.points import load_taxonomy
    from athanor.data.synthesis.writing import heldout_path, report_path, write_tasks

    with _bar(n) as advance:
        coverage = write_tasks(options, n, seed, out, form, workers=workers, on_task=advance)
    for line in summary(coverage, load_taxonomy(options.taxonomy)):
        typer.echo(line)
    if coverage.made < n:
        typer.echo(f"only {coverage.made:,} of {n:,}: the other points or difficulties are exhausted", err=True)
    files = [str(out), *([str(heldout_path(out))] if options.holdout else []), str(report_path(out))]
    typer.echo(f"wrote {', '.join(files)}")


@contextmanager
def _bar(n: int) -> Iterator[Callable[[Task], None]]:
    """A progress bar on a terminal's stderr; elsewhere silence."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("tasks", total=n)
        yield lambda _: progress.advance(task)


def summary(coverage: Coverage, taxonomy: Taxonomy) -> Iterator[str]:
    """Coverage by topic and difficulty, languages, kinds of verification, what was rejected."""
    topics: dict[str, list[int]] = {}
    points: dict[str, set[str]] = {}
    for (point, level), count in coverage.cells.items():
        topic = point.rpartition(".")[0]
        topics.setdefault(topic, [0] * 5)[level - 1] += count
        points.setdefault(topic, set()).add(point)
    yield f"{'topic':28}{'points':>8}" + "".join(f"{level:>8}" for level in range(1, 6)) + f"{'tasks':>9}"
    for topic in sorted(topics):
        of = sum(p.rpartition(".")[0] == topic for p in taxonomy.points)
        row = topics[topic]
        yield f"{topic:28}{f'{len(points[topic])}/{of}':>8}" + "".join(f"{x:>8,}" for x in row) + f"{sum(row):>9,}"
    yield f"{coverage.made:,} tasks on {len({p for p, _ in coverage.cells})} of {len(taxonomy.points)} points"
    for name in ("languages", "verified_by", "rejected"):
        counted = getattr(coverage, name)
        yield f"{name}: " + (", ".join(f"{key} {value:,}" for key, value in counted.most_common(12)) or "none")
    if coverage.usage is not None:
        yield "asked: " + ", ".join(f"{key} {value}" for key, value in vars(coverage.usage).items())
    if coverage.exhausted:
        yield f"exhausted: {len(coverage.exhausted)} cells (point and difficulty); the report names them"


def _show(options: SynthesisOptions) -> None:
    """The taxonomy as a tree: names, difficulty, what serves each point."""
    from athanor.data.synthesis.points import load_taxonomy

    taxonomy = load_taxonomy(options.taxonomy)
    chosen = taxonomy.select(options.subjects, options.points)
    shown: tuple[str, str] = ("", "")
    for point in chosen:
        if point.subject != shown[0]:
            typer.echo(f"{point.subject}  {_named(taxonomy.subjects[point.subject])}")
        if (point.subject, point.topic) != shown:
            typer.echo(f"  {point.topic}  {_named(taxonomy.topics[f'{point.subject}.{point.topic}'])}")
        shown = (point.subject, point.topic)
        typer.echo(f"    {_leaf(point)}")
    computed = sum(bool(p.served) for p in chosen)
    share = computed / len(chosen) if chosen else 0.0
    typer.echo(
        f"{len(chosen)} points: {computed} computed ({share:.0%}), {len(chosen) - computed} need a language model"
    )


def _named(names: Any) -> str:
    return f"{names.zh} · {names.en}"


def _leaf(point: Point) -> str:
    low, high = point.difficulty
    by = ", ".join(dict.fromkeys(s.name for s in point.served)) or "language model"
    return f"{point.id.rpartition('.')[2]}  {_named(point.names)}  [{low}–{high}]  ← {by}"
