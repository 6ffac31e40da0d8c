"""``athanor plan``: what a run will take, before a device is rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Memory, time and MFU of a run, before a device is rented.", no_args_is_help=True)


@app.command()
def validate(
    csv: Annotated[Path, typer.Argument(metavar="RUNS_CSV", help="Published runs.", show_default=False)],
    leave_one_out: Annotated[
        bool,
        typer.Option("--leave-one-out", help="Also predict each source by constants fitted without it (a minute)."),
    ] = False,
    all_rows: Annotated[bool, typer.Option("--all", help="Every row, not one for each run and quantity.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predicted against published for every usable row of a CSV of runs."""
    from athanor.plan.runs import read_runs
    from athanor.plan.tables import validation_json, validation_text
    from athanor.plan.validate import validate as predict

    runs = read_runs(csv)
    found = predict(runs)
    held = []
    if leave_one_out:
        from athanor.plan.fit import leave_one_out as hold_out

        held = hold_out(runs)
    if as_json:
        typer.echo(json.dumps(validation_json(found, held), indent=2, ensure_ascii=False))
    else:
        typer.echo(validation_text(found, held, all_rows=all_rows))
