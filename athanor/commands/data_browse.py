"""Commands that look at documents and corpora: inspect, stats, sample, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athanor.commands.common import load_recipe

if TYPE_CHECKING:
    from athanor.data.pipeline.browse import Journey

CorpusArg = Annotated[Path, typer.Argument(metavar="OUT", help="What `athanor data build` left.", show_default=False)]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CountOpt = Annotated[int, typer.Option("-n", help="How many.", min=1)]
_EXCERPT = 400
#: Of a measure that is a list, how many are shown.
_FIGURES = 6


def register(app: typer.Typer) -> None:
    """Add the commands to ``athanor data``."""
    for command in (inspect, stats, sample, diff):
        app.command(command.__name__)(command)


def _table(title: str, head: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    shown = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    for number, name in enumerate(head):
        if rows and isinstance(
            rows[0][number], int | float
        ):  # a figure is never cut: in a narrow terminal names are folded
            widest = max(len(row[number]) for row in shown)
            table.add_column(name, justify="right", min_width=widest, overflow="fold")
        else:
            table.add_column(name, overflow="fold")
    for row in shown:
        table.add_row(*row)
    Console(highlight=False).print(table, markup=False)


def _cut(text: str, limit: int = _EXCERPT) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"


def inspect(
    path: Annotated[Path, typer.Argument(help="A build, or files to read.", show_default=False)],
    id: Annotated[str | None, typer.Option("--id", help="Of a build: the document whose way is shown.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Of files: the steps to try on them.")] = None,
    n: CountOpt = 3,
    json: JsonOpt = False,
) -> None:
    """One document's way through the steps of a build (--id), or what the steps of a recipe say of some files."""
    from athanor.data.pipeline import browse, trial

    if id is not None:
        journeys = [browse.Build(path).journey(id)]
    elif (browse.corpus_dir(path) / "report.json").is_file():
        build = browse.Build(path)
        journeys = [build.journey(d["id"]) for d in browse.sample_corpus(path, n, 0, None)]
        journeys += [build.journey(d["id"]) for d in build.sample(None, None, n, 0)]
    else:
        journeys = trial.try_files(path, load_recipe(recipe, None) if recipe else None, n)
    if json:
        typer.echo(browse.as_json(journeys))
        return
    for journey in journeys:
        _print_journey(journey)


def _print_journey(journey: Journey) -> None:
    typer.secho(f"{journey.source}: {journey.id}", bold=True)
    typer.echo(_cut(journey.text))
    for visit in journey.visits:
        figures = ", ".join(f"{name}={_figure(value)}" for name, value in visit.measures.items() if _says(value))
        verdict = f"dropped: {visit.reason}" if visit.reason else "edited" if visit.edited else "kept"
        typer.secho(f"  {visit.step}: {verdict}", fg=typer.colors.RED if visit.reason else None, nl=not figures)
        if figures:
            typer.echo(f"  [{_cut(figures, 300)}]")
    if journey.final is not None and journey.final != journey.text:
        typer.echo(f"  → {_cut(journey.final)}")
    typer.echo("")


def _says(value: Any) -> bool:
    """Whether a measure was taken at all: none, an empty list and nan say nothing."""
    return value is not None and value != [] and value == value


def _figure(value: Any) -> str:
    if isinstance(value, list):
        more = f", … {len(value)} in all" if len(value) > _FIGURES else ""
        return f"[{', '.join(map(_figure, value[:_FIGURES]))}{more}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def stats(out: CorpusArg, json: JsonOpt = False) -> None:
    """Documents and bytes of a finished corpus by source, domain and language, and what each step dropped."""
    from athanor.data.pipeline import browse
    from athanor.files import read_json

    rows = browse.describe(out)
    report = read_json(browse.corpus_dir(out) / "report.json")
    tally = report.get("tally", {})
    if json:
        typer.echo(browse.as_json({"corpus": rows, "reasons": tally.get("reasons", {}), "sources": report["sources"]}))
        return
    if rows:
        _table("corpus", list(rows[0]), [list(row.values()) for row in rows])
    dropped = [
        [step, reason, *counts]
        for step, reasons in tally.get("reasons", {}).items()
        for reason, counts in reasons.items()
    ]
    if dropped:
        _table("dropped", ["step", "reason", "documents", "bytes"], dropped)
    unread = [
        [name, reason, n if isinstance(n, int) else n["documents"]]
        for name, source in report["sources"].items()
        for reason, n in source.get("read", source)["dropped"].items()
    ]
    if unread:
        _table("not read", ["source", "reason", "documents"], unread)


def sample(
    out: CorpusArg,
    step: Annotated[str | None, typer.Option("--step", help="Documents that this step dropped.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="… for a reason that begins so.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Documents that any step dropped.")] = False,
    source: Annotated[str | None, typer.Option("--source", help="Documents of this source.")] = None,
    n: CountOpt = 5,
    seed: Annotated[int, typer.Option("--seed", help="Another draw.")] = 0,
    json: JsonOpt = False,
) -> None:
    """Documents drawn from a corpus: kept ones, or with --dropped, --step, --reason those that did not go on."""
    from athanor.data.pipeline import browse

    if dropped or step or reason:
        found = browse.Build(out).sample(step, reason, n, seed, source)
    else:
        found = browse.sample_corpus(out, n, seed, source)
    if json:
        typer.echo(browse.as_json(found))
        return
    for item in found:
        why = f" [{item['step']}: {item['reason']}]" if "step" in item else ""
        typer.secho(f"{item['source']}: {item['id']}{why}", bold=True)
        typer.echo(_cut(item["text"]) + "\n")
    if not found:
        typer.echo("no such documents", err=True)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A build.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    json: JsonOpt = False,
) -> None:
    """Two corpora side by side: which documents both have, which were edited differently, which only one has."""
    from athanor.data.pipeline import browse

    found = browse.diff(a, b)
    if json:
        typer.echo(browse.as_json(found))
        return
    kinds = ("same", "edited", "only_a", "only_b")
    rows = [[name, *(value for kind in kinds for value in getattr(d, kind))] for name, d in found.items()]
    head = [
        "source",
        *(f"{kind} {unit}" for kind in ("same", "edited", "only A", "only B") for unit in ("docs", "bytes")),
    ]
    _table("A and B", head, rows)
    for name, difference in found.items():
        for kind in kinds[1:]:
            if difference.examples.get(kind):
                typer.echo(f"{name}, {kind.replace('_', ' ')}: {', '.join(difference.examples[kind])}")
