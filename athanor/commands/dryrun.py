"""``athanor dryrun``: one rank's training step without its devices, beside what the cost model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from athanor.commands.common import OverridesArg, RecipeArg, load_recipe


def register(app: typer.Typer) -> None:
    """Add ``dryrun`` to the command line."""
    app.command("dryrun")(dryrun)


def dryrun(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    world: Annotated[
        int | None, typer.Option("--world", min=1, help="Ranks of the run; without it, what `parallel:` needs.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Which of them to look at.")] = 0,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Training stage; without it, the first.")
    ] = None,
    doc_len: Annotated[
        int | None, typer.Option("--doc-len", min=1, help="Tokens of a document; without it, a row is one.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory of a device, e.g. 64GiB: must be enough.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME|FILE", help="Cluster whose devices must be enough.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Beside the cost model; disagreement is an error.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Run the real training step of one rank of any world on tensors without values: memory, collectives, FLOPs.

    Nothing is allocated and nobody is asked: 8,192 ranks need no more than one. A layout that does not fit the model,
    the batch or the memory is an error (exit 2).
    """
    from athanor.dryrun import compare as report
    from athanor.dryrun.from_recipe import workload_of
    from athanor.dryrun.planned import planned_peak_bytes
    from athanor.dryrun.run import dry_run
    from athanor.plan.engine_model import predict
    from athanor.plan.workload import NotModelled

    loaded = load_recipe(recipe, overrides)
    capacity = _capacity(memory, cluster)
    work, notes = workload_of(loaded, world, stage, doc_len)
    seen = dry_run(work, loaded.train, rank)
    prediction = None
    if compare:
        try:
            prediction = predict(work, rank)
        except NotModelled as unknown:
            notes.append(f"not compared: {unknown}")
    planned = planned_peak_bytes(work, rank) if compare else None
    if planned is not None:
        peak = seen.trace.peak()[0]
        share = planned / peak - 1
        notes.append(f"planner's peak: {report.gib(planned)}, the dry run's: {report.gib(peak)} ({share:+.1%})")
    if as_json:
        typer.echo(json.dumps(report.as_json(seen, prediction, notes), indent=1))
    else:
        typer.echo(report.as_text(seen, prediction, notes))
    if prediction is not None:
        report.check(report.compare(prediction, seen))
    if capacity is not None:
        report.check_memory(seen, *capacity)
        if not as_json:
            typer.echo(f"fits: {capacity[1]} has {report.gib(capacity[0])}")


def _capacity(memory: str | None, cluster: str | None) -> tuple[int, str] | None:
    """(bytes that a step may use, what has them)."""
    from athanor.errors import AthanorError
    from athanor.plan.cluster import load_cluster
    from athanor.plan.quantities import parse_quantity

    if memory is not None:
        try:
            return int(parse_quantity(memory, "bytes")), "a device"
        except ValueError as error:
            raise AthanorError(str(error), where="--memory", fix="e.g. --memory 64GiB") from None
    if cluster is None:
        return None
    path = Path(cluster)
    device = load_cluster(path if path.exists() else cluster).device
    return int(device.memory_bytes - device.reserved_bytes), device.name
