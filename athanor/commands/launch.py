"""``athanor launch``: the same command on several processes of this machine, or of several machines."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from athanor.errors import AthanorError

#: Commands whose ``--out`` is a file.
_WRITE_A_FILE = ("recipe", "report", "calibrate")


def register(app: typer.Typer) -> None:
    """Add ``launch`` to the command line. What follows the first word belongs to the launched command."""
    app.command("launch", context_settings={"allow_interspersed_args": False})(launch)


def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="What every process runs: pretrain recipe.yaml --out DIR …", show_default=False
        ),
    ],
    nproc: Annotated[int, typer.Option("--nproc", "-n", min=1, help="Processes on this machine.")] = 1,
    nnodes: Annotated[int, typer.Option("--nnodes", min=1, help="Machines; start the command on each.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Which machine this is, from 0.")] = 0,
    rdzv: Annotated[
        str | None, typer.Option("--rdzv", metavar="HOST:PORT", help="Where machine 0 can be reached by the others.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="S", help="Seconds a collective waits for a rank.")
    ] = 600.0,
    grace: Annotated[
        float, typer.Option("--grace", min=0, metavar="S", help="Seconds others may go on after a rank failed.")
    ] = 15.0,
) -> None:
    """Run a command on several processes, laid out by `parallel:` of its recipe. Ctrl-C goes to all, once.

    Rank 0 writes here; the others to rank-N.log in OUT/logs, shown when one fails.
    """
    from athanor.parallel.supervise import Node, start_processes

    if command[0] == "launch":
        raise AthanorError("launch cannot launch itself", where="athanor launch", fix="e.g. --nproc 2 -- pretrain …")
    node = Node(nproc, nnodes, node_rank, _rendezvous(rdzv), timeout, grace)
    if node_rank >= nnodes:
        raise AthanorError(
            f"--node-rank {node_rank} of {nnodes} machines", where="athanor launch", fix=f"0 to {nnodes - 1}"
        )
    if nnodes > 1 and rdzv is None:
        raise AthanorError(
            f"{nnodes} machines need a place to meet",
            where="athanor launch",
            fix="--rdzv HOST:PORT, the same on all, HOST the address of machine 0",
        )
    logs = _logs(command)
    ended = start_processes([sys.executable, "-m", "athanor", *command], node, logs)
    if ended.message is not None:
        colour = None if os.environ.get("NO_COLOR") else typer.colors.RED
        typer.secho(f"error: {ended.message}", fg=colour, err=True)
    if ended.status:
        raise typer.Exit(ended.status)
    if logs.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(logs, ignore_errors=True)  # nobody will look for them


def _rendezvous(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise AthanorError(f"{text!r} is no HOST:PORT", where="--rdzv", fix="e.g. --rdzv 10.0.0.1:29500")
    return host.strip("[]"), int(port)


def _logs(command: Sequence[str]) -> Path:
    """Where the output of ranks goes: the run's folder (the command's ``--out``), else a temporary one."""
    for i, word in enumerate(command if command[0] not in _WRITE_A_FILE else ()):
        if word in ("--out", "-o") and i + 1 < len(command):
            return Path(command[i + 1]) / "logs"
        if word.startswith("--out="):
            return Path(word.removeprefix("--out=")) / "logs"
    return Path(tempfile.gettempdir()) / f"athanor-launch-{os.getpid()}"
