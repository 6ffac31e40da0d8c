"""``athanor plan``: what a run will take, before a device is rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from athanor.commands.common import OverridesArg
from athanor.errors import AthanorError

if TYPE_CHECKING:
    from athanor.plan.best import Answer
    from athanor.plan.cost import Problem
    from athanor.plan.estimate import Estimate
    from athanor.plan.subject import Subject


class _RecipeFirst(TyperGroup):
    """``athanor plan RECIPE`` is ``athanor plan best RECIPE``: a first word that is no command is a recipe."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["best", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_RecipeFirst,
    no_args_is_help=True,
)


@app.callback(invoke_without_command=True)
def _from_run(
    ctx: typer.Context,
    from_run: Annotated[
        Path | None,
        typer.Option("--from-run", metavar="RUN", help="Correct the run's cluster by its measured step times."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="CLUSTER", help="With --from-run: the cluster to correct.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --from-run: where the corrected cluster goes.")
    ] = None,
) -> None:
    """Memory, time and MFU of a run, before a device is rented. `athanor plan RECIPE --cluster NAME` finds the best
    plans; `--from-run RUN` corrects a cluster by what a run measured."""
    if from_run is None:
        if base is not None or out is not None or ctx.invoked_subcommand is None:
            raise AthanorError("no recipe and no command", where="athanor plan", fix="athanor plan --help")
        return
    if ctx.invoked_subcommand is not None:
        raise AthanorError("--from-run stands alone", where="athanor plan", fix="athanor plan --from-run RUN")
    from athanor.commands.calibrate import correct

    correct(from_run, base, out)


SubjectArg = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="Recipe file, preset, or Hugging Face model directory.", show_default=False),
]
ClusterOpt = Annotated[
    str,
    typer.Option("--cluster", "-c", metavar="NAME|FILE", help="Shipped cluster or a YAML file.", show_default=False),
]
WorldOpt = Annotated[int | None, typer.Option("--world", min=1, help="Devices to use; without it, all of the cluster.")]
StageOpt = Annotated[
    str | None, typer.Option("--stage", metavar="NAME", help="Training stage; without it, that with most tokens.")
]
DocOpt = Annotated[
    list[int] | None,
    typer.Option(
        "--doc-len", min=1, help="Tokens of a document (several: equally many of each); without it, whole rows."
    ),
]
FixOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--fix", metavar="AXIS=VALUE", help="Search only these, e.g. tp=8, pp=4,8, recompute=none.", show_default=False
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _posed(
    recipe: str,
    overrides: list[str] | None,
    cluster: str,
    world: int | None,
    stage: str | None,
    doc_len: list[int] | None,
) -> tuple[Subject, Problem, int]:
    """What is asked: the subject, its problem on the cluster, and how many devices."""
    from athanor.plan.cluster import load_cluster
    from athanor.plan.subject import load_subject

    machine = load_cluster(cluster)
    subject = load_subject(recipe, overrides or (), stage=stage, doc_lens=doc_len or ())
    if world is not None and world > machine.devices:
        machine = machine.resized(world)
    return subject, subject.problem(machine), world or machine.devices


def _chosen(subject: Subject, problem: Problem, world: int) -> Estimate:
    """The recipe's own layout, or else the best one."""
    from athanor.plan.best import find
    from athanor.plan.whatif import demanded

    if subject.plan is not None:
        return demanded(problem, subject.plan, subject.micro_batch_rows)
    return find(problem, world, top=1).best[0]


def _print(as_json: bool, value: Any, text: str) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)


@app.command()
def best(
    recipe: SubjectArg,
    cluster: ClusterOpt,
    overrides: OverridesArg = None,
    world: WorldOpt = None,
    top: Annotated[int, typer.Option("--top", help="How many plans.")] = 5,
    objective: Annotated[
        str, typer.Option("--objective", help="time, cost (device-hours a token), or memory (most left, 10 % slower).")
    ] = "time",
    fix: FixOpt = None,
    stage: StageOpt = None,
    doc_len: DocOpt = None,
    as_json: JsonOpt = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write the best plan's step as a Perfetto trace.")
    ] = None,
) -> None:
    """Find the best plans. The word `best` may be left out."""
    from athanor.plan.best import find
    from athanor.plan.enumerate import Axes
    from athanor.plan.of_stage import asked_shapes
    from athanor.plan.text import answer_text, cost_text, demanded_text
    from athanor.plan.trace import write_trace
    from athanor.plan.whatif import demanded, run_cost

    subject, problem, size = _posed(recipe, overrides, cluster, world, stage, doc_len)
    own = demanded(problem, subject.plan, subject.micro_batch_rows) if subject.plan else None
    answer = find(problem, size, top=top, objective=objective, axes=Axes.parse(fix or ()))  # type: ignore[arg-type]
    cost = run_cost(answer.best[0], subject.tokens) if subject.tokens else None
    value: dict[str, Any] = {"recipe": subject.name, "stage": subject.stage, **answer.summary()}
    lines = [f"{subject.name}, stage {subject.stage}", answer_text(answer)]
    first = answer.best[0]
    shapes = asked_shapes(answer.problem, first.plan, first.rows, first.micro_batches)
    missed = shapes.lines(len(shapes.shapes))
    value["products"] = {"measured": shapes.hits, "interpolated": shapes.total, "shapes": missed}
    lines += ["", f"products: {shapes.hits} of measured shapes, {shapes.total} interpolated by size"]
    lines += [f"  {line}" for line in missed[:8]] + (["  …"] if len(missed) > 8 else [])
    if own is not None:
        value["demanded"] = own.summary()
        lines += ["", demanded_text(own)]
    if cost is not None and subject.tokens:
        value["cost"] = cost.summary()
        lines += ["", cost_text(subject.tokens, cost)]
    if trace is not None:
        write_trace(answer.best[0].timeline, trace)
        lines.append(f"wrote {trace}")
    if html is not None:
        _write_html(html, subject, answer, own)
        lines.append(f"wrote {html}")
    _print(as_json, value, "\n".join(lines))


def _write_html(out: Path, subject: Subject, answer: Answer, own: Estimate | None) -> None:
    from athanor.plan.html import Page, write_page
    from athanor.plan.switches import switch_table
    from athanor.plan.whatif import run_cost, scale

    first, problem = own or answer.best[0], answer.problem
    lines = switch_table(problem, first.plan, first.rows, first.micro_batches)
    worlds = sorted({max(1, answer.world >> k) for k in (3, 2, 1, 0)} | {2 * answer.world})
    curves = {kind: scale(problem, worlds, kind)[0] for kind in ("strong", "weak")}  # type: ignore[arg-type]
    cost = run_cost(answer.best[0], subject.tokens) if subject.tokens else None
    write_page(Page(subject.name, answer, own, lines, curves, cost, subject.tokens), out)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Recipe, preset or model directory.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    cluster: ClusterOpt,
    overrides: OverridesArg = None,
    world: WorldOpt = None,
    other_cluster: Annotated[
        str | None, typer.Option("--cluster-b", metavar="NAME|FILE", help="Cluster of B, if it is another.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Two plans side by side: the layouts that the recipes demand, or else the best ones."""
    from athanor.plan.text import compare_text

    plans = []
    for word, machine in ((a, cluster), (b, other_cluster or cluster)):
        subject, problem, size = _posed(word, overrides, machine, world, None, None)
        plans.append(_chosen(subject, problem, size))
    _print(as_json, {"a": plans[0].summary(), "b": plans[1].summary()}, compare_text((a, b), *plans))


@app.command()
def scale(
    recipe: SubjectArg,
    cluster: ClusterOpt,
    overrides: OverridesArg = None,
    smallest: Annotated[
        int | None, typer.Option("--from", min=1, help="Fewest devices; doubled from there on.")
    ] = None,
    most: Annotated[int, typer.Option("--to", min=1, help="Most devices.")] = 100_000,
    fix: FixOpt = None,
    stage: StageOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Strong and weak scaling: the best plan on every number of devices."""
    from athanor.plan.enumerate import Axes
    from athanor.plan.text import scale_text
    from athanor.plan.whatif import scale as curve
    from athanor.plan.whatif import worlds_up_to

    subject, problem, size = _posed(recipe, overrides, cluster, None, stage, None)
    if smallest is not None and smallest > most:
        raise AthanorError(f"from {smallest} to {most} devices", where="--from", fix="--from ≤ --to")
    worlds = worlds_up_to(problem.cluster, smallest or max(1, size >> 4), most)
    value: dict[str, Any] = {"recipe": subject.name, "stage": subject.stage}
    texts = []
    for kind in ("strong", "weak"):
        points, left = curve(problem, worlds, kind, axes=Axes.parse(fix or ()))  # type: ignore[arg-type]
        value[kind] = {"points": [p.summary() for p in points], "left_out": left}
        texts.append(scale_text(kind, points, left))
    _print(as_json, value, "\n\n".join(texts))


@app.command()
def switches(
    recipe: SubjectArg,
    cluster: ClusterOpt,
    overrides: OverridesArg = None,
    world: WorldOpt = None,
    stage: StageOpt = None,
    doc_len: DocOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """What each part of an implementation is worth: one line a switch, for the recipe's layout or the best one."""
    import dataclasses

    from athanor.plan.switches import switch_table
    from athanor.plan.text import switches_text
    from athanor.plan.whatif import layout_words

    subject, problem, size = _posed(recipe, overrides, cluster, world, stage, doc_len)
    plan = _chosen(subject, problem, size)
    lines = switch_table(problem, plan.plan, plan.rows, plan.micro_batches)
    text = switches_text(subject.name, lines, plan.memory_bytes)
    _print(as_json, [dataclasses.asdict(line) for line in lines], f"{layout_words(plan.plan, plan.rows)}\n\n{text}")


@app.command()
def cost(
    recipe: SubjectArg,
    cluster: ClusterOpt,
    overrides: OverridesArg = None,
    world: WorldOpt = None,
    stage: StageOpt = None,
    tokens: Annotated[float | None, typer.Option("--tokens", help="Budget; without it, the recipe's.")] = None,
    mtbf: Annotated[
        float | None, typer.Option("--mtbf-hours", help="Mean time between failures of one device, hours.")
    ] = None,
    checkpoint_s: Annotated[float | None, typer.Option("--checkpoint-s", help="Seconds training stands still.")] = None,
    restart_s: Annotated[
        float | None, typer.Option("--restart-s", help="Seconds from a failure to the next step.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Days, money and energy of a token budget, with failures, and how often to save (Young, Daly)."""
    from athanor.plan.text import cost_text
    from athanor.plan.whatif import layout_words, run_cost

    subject, problem, size = _posed(recipe, overrides, cluster, world, stage, None)
    budget = tokens if tokens is not None else subject.tokens
    if budget is None:
        raise AthanorError("the recipe has no token budget", where=recipe, fix="--tokens 1e12, or train.tokens")
    plan = _chosen(subject, problem, size)
    found = run_cost(
        plan, budget, mtbf_s=mtbf * 3600 if mtbf is not None else None, checkpoint_s=checkpoint_s, restart_s=restart_s
    )
    _print(as_json, found.summary(), f"{layout_words(plan.plan, plan.rows)}\n{cost_text(budget, found)}")


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
