"""``athanor lab``: experiments on architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from athanor.commands.common import OutOpt
from athanor.errors import AthanorError

app = typer.Typer(help="Laboratories: experiments that measure a claim on this machine.", no_args_is_help=True)


@app.command()
def stability(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings, e.g. layers=24 width=32 steps=100.", show_default=False
        ),
    ] = None,
    out: OutOpt = Path("runs/stability"),
    archs: Annotated[
        str | None, typer.Option("--archs", help="placement+init, comma-separated: pre+small,dssn+tiny, …")
    ] = None,
    lrs: Annotated[str | None, typer.Option("--lrs", help="Learning rates, comma-separated.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds of each.")] = 3,
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, help="Runs at a time, one thread each (0: in this process).")
    ] = 2,
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="Text file to train on; default: Python's standard library.")
    ] = None,
) -> None:
    """Train very deep, narrow models of several architectures and count their spikes (run again: it resumes)."""
    from athanor.recipe import settings as typed
    from athanor.stability.lab import run_lab
    from athanor.stability.settings import DEFAULT_ARCHS, DEFAULT_LRS, LabSettings

    page = run_lab(
        out,
        archs=archs.split(",") if archs else DEFAULT_ARCHS,
        lrs=[_rate(word) for word in lrs.split(",")] if lrs else DEFAULT_LRS,
        seeds=seeds,
        jobs=jobs,
        settings=typed(LabSettings, settings or ()),
        text=text,
    )
    typer.echo(f"wrote {page}")


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError as error:
        raise AthanorError(f"{word!r} is not a learning rate", where="--lrs", fix="e.g. --lrs 1e-3,3e-3") from error
    if not 0 < rate < float("inf"):
        raise AthanorError(f"a learning rate of {word} trains nothing", where="--lrs", fix="e.g. --lrs 1e-3,3e-3")
    return rate
