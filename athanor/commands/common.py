"""What the commands share: argument types and printing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.errors import AthanorError

if TYPE_CHECKING:
    from athanor.recipe import Recipe

RecipeArg = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted changes, e.g. train.steps=100.", show_default=False),
]
ModelOpt = Annotated[
    Path, typer.Option("--model", "-m", metavar="DIR", help="Model directory to start from.", show_default=False)
]
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Model directory.", show_default=False)]
#: A URL after ``Path`` made one slash of its two; one letter before the colon is a drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_out(path: Path | None) -> Path | None:
    """A path to write to: ``file://…`` as the path it is. AthanorError for other URLs, of which a folder named ``s3:``
    would become: what is half written is renamed when it is whole, and stores cannot rename."""
    found = _URL.match(str(path))
    if path is None or not found or path.parts[0] != f"{found[1]}:":
        return path
    if found[1].lower() == "file":
        return Path(str(path)[len("file:") :])
    raise AthanorError(
        "results are written to a local folder, not to a URL",
        where=f"--out {str(path).replace(':/', '://', 1)}",
        fix="write to a folder and copy it there; sources and finished shards are read from URLs",
    )


OutOpt = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Run directory; run again to resume.",
        show_default=False,
        callback=local_out,
    ),
]


def load_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe with its overrides; AthanorError for anything wrong."""
    from athanor.recipe import load

    return load(path, overrides or ())


def big(number: float) -> str:
    """``133881311232`` → ``133.9 B``; four figures or fewer stay as they are."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.4g} {letter}"
    return f"{number:g}"
