"""``athanor calibrate``: measure this machine, write the cluster file that the planner reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from athanor.errors import AthanorError


def register(app: typer.Typer) -> None:
    """Add ``calibrate`` to the command line."""
    app.command("calibrate")(calibrate)


def calibrate(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Cluster file to write; always kept in the user's cache too."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and repeats.")] = False,
    recipe: Annotated[
        Path | None, typer.Option("--for", metavar="RECIPE", help="Measure exactly the shapes that this recipe needs.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.", show_default=False)
    ] = None,
    cpu_clock: Annotated[
        bool, typer.Option("--cpu-clock", help="On a busy CPU: processor time instead of the wall clock.")
    ] = False,
    from_run: Annotated[
        Path | None, typer.Option("--from-run", metavar="RUN", help="Measure nothing: correct by a run's step times.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="CLUSTER", help="With --from-run: the cluster to correct.")
    ] = None,
) -> None:
    """Measure this machine: products by shape, attention, memory, optimizer and, over ranks, collectives by size.

    Over several processes: `athanor launch --nproc N -- calibrate`; they measure together, as they would train. The
    result is what `parallel: auto` and a run's predictions go by from then on.
    """
    if from_run is not None:
        correct(from_run, base, out)
        return
    if base is not None:
        raise AthanorError("--base without --from-run", where="athanor calibrate", fix="--from-run RUN --base CLUSTER")
    if overrides and recipe is None:
        raise AthanorError(f"{overrides[0]!r} changes no recipe", where="athanor calibrate", fix="--for RECIPE")
    import torch

    from athanor.calibrate.files import write_cluster
    from athanor.calibrate.measure import Calibrator, Options
    from athanor.commands.common import load_recipe
    from athanor.parallel.launch import join, leave
    from athanor.plan.auto import cached_path
    from athanor.ranks import is_main, world_size
    from athanor.train.progress import say

    loaded = None if recipe is None else load_recipe(recipe, overrides)
    if loaded is not None and loaded.model is None:
        raise AthanorError("the recipe has no model", where=str(recipe), fix="give a preset or a shape under `model:`")
    join()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    tell = say if is_main() else (lambda text: None)
    made = Calibrator(device, Options(quick, loaded, cpu_clock), tell).run()
    if is_main():
        kept = write_cluster(made.cluster, cached_path(world_size()))
        typer.echo(summary(made.cluster))
        typer.echo(f"written: {write_cluster(made.cluster, out) if out is not None else kept}")
    leave()


def correct(run: Path, base: str | None, out: Path | None) -> None:
    """Write ``base`` (the run's own cluster) as the run's step times correct it, and tell both for every stage."""
    from athanor.calibrate.files import write_cluster
    from athanor.calibrate.from_run import recalibrate
    from athanor.plan.cluster import load_cluster

    made = recalibrate(run, None if base is None else load_cluster(base))
    for stage in made.stages:
        typer.echo(
            f"{stage.stage}: measured {stage.measured_s:.4g} s a step, predicted {stage.predicted_s:.4g} s "
            f"({stage.error:+.1%}); {stage.data_s:.2g} s of it wait for data"
        )
    target = out or run / "cluster.yaml"
    typer.echo(f"all times by {made.factor:.4g}; written: {write_cluster(made.cluster, target)}")


def summary(cluster: object) -> str:
    """The few figures that a person wants to see."""
    from athanor.plan.cluster import Cluster

    assert isinstance(cluster, Cluster)
    device, node = cluster.device, cluster.node
    peaks = ", ".join(f"{dtype} {peak / 1e9:,.0f} GFLOP/s" for dtype, peak in device.peak_flops_per_s.items())
    bound = device.memory_bound
    lines = [
        f"{device.name}: {peaks}; {len(device.matmul.points)} exact shapes; launch {device.launch_s * 1e6:.1f} us",
        f"memory {device.memory_bytes_per_s / 1e9:.1f} GB/s: loops {bound.elementwise:.0%}, norm {bound.norm:.0%},"
        f" softmax {bound.softmax:.0%}, optimizer {bound.optimizer:.0%} of it; not fused {bound.unfused_passes:.2g} ×",
        f"attention: forward {device.attention.forward:.0%}, backward {device.attention.backward:.0%} of the peak, "
        f"half of that at {device.attention.half_length:.0f} keys",
    ]
    if cluster.devices > 1:
        lines.append(
            f"{cluster.devices} ranks: {node.bytes_per_s / 1e9:.2f} GB/s, {node.latency_s * 1e6:.0f} us a step; "
            f"compute loses {node.contention:.0%} of a collective beside it"
        )
    if cluster.network is not None:
        lines.append(
            f"between machines: {cluster.network.bytes_per_s / 1e9:.2f} GB/s, {cluster.network.latency_s * 1e6:.0f} us"
        )
    return "\n".join(lines)
