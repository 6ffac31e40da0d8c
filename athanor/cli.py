"""The ``athanor`` command: parse, call the stage, print. Bad input is told in red, without a traceback, and exits 2."""

from __future__ import annotations

import errno
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from athanor import __version__
from athanor.commands import calibrate, dryrun, lab, launch, models, plan, recipe, stages
from athanor.errors import AthanorError
from athanor.inference import commands as talk

#: Exit statuses: 2 for bad input (as for a mistyped option), 130 for Ctrl-C (128 + SIGINT).
BAD_INPUT, INTERRUPTED = 2, 130


class _Guarded(TyperGroup):
    """The top-level group: turns the errors a person can mend into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AthanorError as error:
            if ctx.params.get("debug"):
                raise
            _tell(str(error))
        except OSError as error:
            # A path that cannot be written or a full disk; a broken pipe (`| head`) is typer's to handle.
            if error.errno == errno.EPIPE or error.strerror is None or ctx.params.get("debug"):
                raise
            _tell(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        except KeyboardInterrupt as stop:
            if ctx.params.get("debug"):
                raise
            # A training run that was stopped says what it saved and which signal it was (athanor.train.stop.Stopped).
            typer.echo(str(stop) or "\nstopped", err=True)
            raise typer.Exit(getattr(stop, "exit_code", INTERRUPTED)) from None
        raise typer.Exit(BAD_INPUT)


def _tell(message: str) -> None:
    """Print an error to stderr, red where the terminal has colours."""
    colour = None if os.environ.get("NO_COLOR") else typer.colors.RED
    typer.secho(f"error: {message}", fg=colour, err=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"athanor {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Guarded,
    help="From raw documents to an aligned, evaluated, served language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", envvar="ATHANOR_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.add_typer(recipe.app, name="recipe")
stages.register(app)
launch.register(app)
talk.register(app)
models.register(app)
dryrun.register(app)
calibrate.register(app)
app.add_typer(plan.app, name="plan")
app.add_typer(lab.app, name="lab")


def main() -> None:
    """Entry point of the installed command."""
    # OpenMP threads that wait for one another spin for milliseconds by default: on a machine with other work that cost
    # up to 14 times the time. A short spin, then sleep; what the person set wins. Read when torch is loaded, later on.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    app()
